package gochat

import (
	"context"
	"errors"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Room is a live conversation in which nobody is a member: who is in it hears what is said, as long as they are connected.
type Room struct {
	ID         id.ConversationID
	Name       string
	Title      string
	Count      int           // users who are in it
	Slow       time.Duration // between two messages of one user; 0: none
	FirstSeq   uint64        // of what is kept: History reads it
	LastSeq    uint64
	Moderator  bool      // this user is one
	MutedUntil time.Time // of this user; zero: may write
	Moderators []id.UserID
	CreatedBy  id.UserID
	Created    time.Time
}

// RoomID is the id of the room of that name.
func RoomID(name string) id.ConversationID { return id.Named(id.KindRoom, name) }

// RoomChanged: who is in a room has changed, within the last second or so, or the client is in it again after it was away.
type RoomChanged struct {
	Conversation           id.ConversationID
	Count                  int      // users who are in it
	Joined, Left           []string // some of them
	JoinedCount, LeftCount int
}

// MessagesLeftOut: so many messages of a room didn't come, because there were too many for everybody, or for this
// client, or because it was away. They aren't fetched; History has them for a while.
type MessagesLeftOut struct {
	Conversation id.ConversationID
	Count        uint64
}

// RoomLeft: the client is in a room no longer, because of Err: banned_here, or it is gone. After LeaveRoom it doesn't come.
type RoomLeft struct {
	Conversation id.ConversationID
	Err          error
}

// Announcement: the operator of the installation tells everybody who is connected something. It is told once and nowhere kept.
type Announcement struct {
	ID    string
	Title string
	Text  string
	Ext   []byte
	Time  time.Time
}

func (RoomChanged) event()     {}
func (MessagesLeftOut) event() {}
func (RoomLeft) event()        {}
func (Announcement) event()    {}

const (
	maxOwn   = 256 // of this device's messages of a room are remembered until what is said there has passed them
	maxEarly = 256 // messages wait for the answer to ROOM_JOIN
)

// hall is a room that the client is in, or enters. Guarded by Client.mu.
type hall struct {
	opening bool      // applied isn't known before ROOM_JOIN is answered
	early   []Message // what came before that
	stays   bool      // the client has been in it, and enters again by itself
	link    *link     // the last connection that was in it
	asked   int       // calls of JoinRoom without an answer

	applied     uint64              // what came, or is known not to come
	own         map[uint64]struct{} // messages of this device above applied; the Handler has them
	missed      uint64              // left out, or own ones without an answer, and not told yet
	missedAbove uint64              // all of missed are above it
	dropped     uint64              // the last that came while the Handler was behind
}

func roomOf(w *wire.Room) Room {
	r := Room{
		ID: id.ConversationID(w.ConversationId), Name: w.Name, Title: w.Title, Count: int(w.Count), Slow: time.Duration(w.SlowSeconds) * time.Second,
		FirstSeq: w.FirstSeq, LastSeq: w.LastSeq, Moderator: w.Role == 2, CreatedBy: id.UserID(w.CreatedBy), Created: time.UnixMilli(int64(w.CreatedTime)),
	}
	if w.MutedUntil != 0 {
		r.MutedUntil = time.UnixMilli(int64(w.MutedUntil))
	}
	for _, u := range w.Moderators {
		r.Moderators = append(r.Moderators, id.UserID(u))
	}
	return r
}

// room calls a method whose answer is a Room; held runs with Client.mu held.
func (c *Client) room(ctx context.Context, m packet.Method, req packet.Body, held func(w *wire.Room)) (Room, error) {
	var r Room
	err := c.do(ctx, m, req, func(inner []byte) error {
		var w wire.Room
		if err := answerInto(m, inner, &w); err != nil {
			return err
		}
		if len(w.ConversationId) != len(r.ID) {
			return errors.New("a room without an id")
		}
		if r = roomOf(&w); held != nil {
			held(&w)
		}
		return nil
	})
	return r, err
}

// CreateRoom makes the room of that name, whose moderator the user is, or returns the one that there is. Who may is the installation's to say.
func (c *Client) CreateRoom(ctx context.Context, name, title string, slow time.Duration) (Room, error) {
	return c.room(ctx, packet.MethodRoomCreate, &wire.RoomCreateRequest{Name: name, Title: title, SlowSeconds: uint32(slow / time.Second)}, nil)
}

// JoinRoom enters the room: from now on MessageReceived comes for what is said in it, in the order in which it arrives, and RoomChanged
// for who comes and goes. The client stays in it over lost connections, until LeaveRoom, RoomLeft or Close; what is said while it
// isn't connected doesn't come, and is told as MessagesLeftOut. A room that isn't there is no_such_conversation.
func (c *Client) JoinRoom(ctx context.Context, conv id.ConversationID) (Room, error) {
	c.mu.Lock()
	h := c.halls[conv]
	if h == nil {
		if c.halls == nil {
			c.halls = make(map[id.ConversationID]*hall)
		}
		h = &hall{opening: true, own: make(map[uint64]struct{})}
		c.halls[conv] = h
	}
	h.asked++
	c.mu.Unlock()
	r, err := c.room(ctx, packet.MethodRoomJoin, &wire.ConversationRequest{ConversationId: conv[:]}, func(w *wire.Room) { c.entered(conv, h, w) })
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.asked--; err == nil || h.asked > 0 || h.stays || c.halls[conv] != h {
		return r, err
	}
	delete(c.halls, conv)
	var told *code.Error
	if c.link != nil && !errors.As(err, &told) { // who has waited for long enough may be in it all the same, in a moment
		c.ask(c.link, &call{method: packet.MethodRoomLeave, request: &wire.ConversationRequest{ConversationId: conv[:]}, done: func([]byte, error) {}})
	}
	return r, err
}

// LeaveRoom leaves the room.
func (c *Client) LeaveRoom(ctx context.Context, conv id.ConversationID) error {
	c.mu.Lock()
	if h := c.halls[conv]; h != nil {
		delete(c.halls, conv)
		c.tellMissed(conv, h)
	}
	c.mu.Unlock()
	return c.do(ctx, packet.MethodRoomLeave, &wire.ConversationRequest{ConversationId: conv[:]}, func([]byte) error { return nil })
}

// Room returns how a room stands at the server.
func (c *Client) Room(ctx context.Context, conv id.ConversationID) (Room, error) {
	return c.room(ctx, packet.MethodRoom, &wire.ConversationRequest{ConversationId: conv[:]}, nil)
}

// RoomMembers returns a page of who is in a room, in the order of their ids, how many there are in all, and the cursor of
// the next page; "": this was the last. Limit 0 is the server's.
func (c *Client) RoomMembers(ctx context.Context, conv id.ConversationID, cursor string, limit int) (users []id.UserID, count int, next string, err error) {
	err = c.do(ctx, packet.MethodRoomMembers, &wire.MembersRequest{ConversationId: conv[:], Cursor: cursor, Limit: uint32(limit)}, func(inner []byte) error {
		var w wire.RoomMembersResponse
		if err := answerInto(packet.MethodRoomMembers, inner, &w); err != nil {
			return err
		}
		for _, u := range w.UserIds {
			users = append(users, id.UserID(u))
		}
		count, next = int(w.Count), w.Cursor
		return nil
	})
	return users, count, next, err
}

// SetRoom changes the title and the slow mode of a room that the user moderates; nil: stays.
func (c *Client) SetRoom(ctx context.Context, conv id.ConversationID, title *string, slow *time.Duration) (Room, error) {
	w := &wire.RoomUpdateRequest{ConversationId: conv[:]}
	if title != nil {
		w.Fields, w.Title = w.Fields|1, *title
	}
	if slow != nil {
		w.Fields, w.SlowSeconds = w.Fields|2, uint32(*slow/time.Second)
	}
	return c.room(ctx, packet.MethodRoomUpdate, w, nil)
}

// Moderation is what is done to a user in a room.
type Moderation uint32

// What moderators do. Moderators are made by who made the room.
const (
	Mute            Moderation = 1
	Unmute          Moderation = 2
	Ban             Moderation = 3 // is put out at once
	Unban           Moderation = 4
	MakeModerator   Moderation = 5
	UnmakeModerator Moderation = 6
)

// Moderate does it to a user in a room that this user moderates. length is a mute's or ban's; 0: until it is taken back.
func (c *Client) Moderate(ctx context.Context, conv id.ConversationID, user id.UserID, what Moderation, length time.Duration) (Room, error) {
	return c.room(ctx, packet.MethodRoomModerate, &wire.RoomModerateRequest{
		ConversationId: conv[:], UserId: string(user), Action: uint32(what), Seconds: uint32(length / time.Second),
	}, nil)
}

// rejoin enters the rooms again that the client was in on another connection. The caller holds mu.
func (c *Client) rejoin(l *link) {
	for conv, h := range c.halls {
		if h.stays && h.link != l {
			c.enterAgain(l, conv, h)
		}
	}
}

func (c *Client) enterAgain(l *link, conv id.ConversationID, h *hall) {
	c.ask(l, &call{method: packet.MethodRoomJoin, request: &wire.ConversationRequest{ConversationId: conv[:]}, done: func(inner []byte, err error) {
		var w wire.Room
		if err == nil {
			err = answerInto(packet.MethodRoomJoin, inner, &w)
		}
		var told *code.Error
		switch {
		case c.halls[conv] != h: // nobody wants it any more
		case err == nil:
			c.entered(conv, h, &w)
		case errors.Is(err, errLost): // with the connection: the next one does it
		case errors.As(err, &told) && told.Retryable():
			time.AfterFunc(max(retryAfter(told), time.Second/2), func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				if c.link == l && c.halls[conv] == h && h.link != l {
					c.enterAgain(l, conv, h)
				}
			})
		default:
			c.putOut(conv, h, err)
		}
	}})
}

// entered takes in the answer to ROOM_JOIN, which came over c.link. The caller holds mu.
func (c *Client) entered(conv id.ConversationID, h *hall, w *wire.Room) {
	if c.halls[conv] != h || h.link == c.link { // left, or in it already
		return
	}
	again, early := h.stays, h.early
	h.link, h.stays = c.link, true
	if h.opening {
		h.applied = max(h.applied, w.LastSeq) // what was said before isn't missed: History has it
		h.opening, h.early = false, nil
	} else {
		c.leftOut(conv, h, w.LastSeq)
	}
	h.advance()
	if again {
		c.push(RoomChanged{Conversation: conv, Count: int(w.Count)})
	}
	for _, m := range early {
		if c.passes(conv, h, m.Seq) {
			c.tellLive(m)
		}
	}
}

// putOut: the client is in the room no longer, because of err. The caller holds mu.
func (c *Client) putOut(conv id.ConversationID, h *hall, err error) {
	delete(c.halls, conv)
	if h.stays {
		c.tellMissed(conv, h)
		c.push(RoomLeft{Conversation: conv, Err: err})
	}
}

// forgetRooms: seqs mean nothing any more, it is another epoch. The caller holds mu.
func (c *Client) forgetRooms() {
	for _, h := range c.halls {
		h.opening, h.early, h.applied, h.missed, h.dropped = true, nil, 0, 0, 0
		clear(h.own)
	}
}

// live acts on a DELIVER of a room.
func (c *Client) live(body []byte) error {
	conv, _, messages, err := packet.DecodeDeliver(body)
	if err != nil {
		return err
	}
	h := c.halls[conv]
	for len(messages) > 0 {
		var m packet.MessageView
		if m, messages, err = packet.NextMessage(messages); err != nil {
			return err
		}
		c.claim(conv, &m)
		switch {
		case h == nil:
		case h.opening:
			if len(h.early) < maxEarly {
				if msg, ok := c.liveMessage(conv, &m); ok {
					h.early = append(h.early, msg)
				}
			}
		case c.passes(conv, h, m.Seq):
			if msg, ok := c.liveMessage(conv, &m); ok {
				c.tellLive(msg)
			}
		}
	}
	return nil
}

// passes moves on to a message that came, and reports whether the Handler is to have it now.
func (c *Client) passes(conv id.ConversationID, h *hall, seq uint64) bool {
	if seq <= h.applied {
		return false
	}
	if c.full() { // counted as soon as the Handler has come on
		h.dropped = seq
		return false
	}
	_, had := h.own[seq]
	c.leftOut(conv, h, seq-1)
	h.applied = seq
	delete(h.own, seq)
	h.advance()
	return !had
}

// liveMessage is a message of a room, for the application.
func (c *Client) liveMessage(conv id.ConversationID, m *packet.MessageView) (Message, bool) {
	msg, err := messageOf(m.Raw, conv, c.me, "")
	if err != nil { // checked before
		c.log.Error("a message that can't be read", "conversation", conv.String(), "seq", m.Seq, "error", err)
	}
	return msg, err == nil
}

// tellLive queues a message of a room, of which nothing is kept.
func (c *Client) tellLive(m Message) {
	c.waiting++
	c.events = append(c.events, item{ev: MessageReceived{m}, live: true})
	c.wakeDispatch()
}

// ownLive takes in a message of this device that was stored in a room. The Handler has it at once: it doesn't come again.
func (c *Client) ownLive(conv id.ConversationID, m *packet.MessageView) {
	switch h := c.halls[conv]; {
	case h == nil:
	case m.Seq > h.applied:
		if _, is := h.own[m.Seq]; is {
			return
		}
		if len(h.own) < maxOwn {
			h.own[m.Seq] = struct{}{}
		}
		h.advance()
	case h.missed > 0 && m.Seq > h.missedAbove: // it was taken for one that was left out
		h.missed--
	}
	if msg, ok := c.liveMessage(conv, m); ok {
		c.tellLive(msg)
	}
	c.roomSettled(conv)
}

// advance goes past own messages that follow without a hole.
func (h *hall) advance() {
	if h.opening {
		return
	}
	for {
		if _, is := h.own[h.applied+1]; !is {
			return
		}
		h.applied++
		delete(h.own, h.applied)
	}
}

// leftOut: nothing above h.applied and up to seq will come any more. The caller holds mu.
func (c *Client) leftOut(conv id.ConversationID, h *hall, seq uint64) {
	if seq > h.applied {
		n := seq - h.applied
		for own := range h.own {
			if own > h.applied && own <= seq {
				n--
			}
		}
		if h.missed == 0 {
			h.missedAbove = h.applied
		}
		h.missed += n
		h.applied = seq
	}
	for own := range h.own {
		if own <= h.applied {
			delete(h.own, own)
		}
	}
	c.tellMissed(conv, h)
}

// tellMissed tells of what was left out, but for as many as may be own messages whose answers are still to come. What finds
// no room among the events is told later. The caller holds mu.
func (c *Client) tellMissed(conv id.ConversationID, h *hall) {
	if h.missed == 0 || len(c.events) >= c.cfg.Queue {
		return
	}
	tried := uint64(0)
	if s := c.lanes[lane{conv: conv}]; s != nil {
		for _, o := range s.queue {
			if o.tried {
				tried++
			}
		}
	}
	if h.missed > tried {
		c.push(MessagesLeftOut{Conversation: conv, Count: h.missed - tried})
		h.missed = tried
	}
}

// roomSettled: an own message was answered. The caller holds mu.
func (c *Client) roomSettled(conv id.ConversationID) {
	if h := c.halls[conv]; h != nil {
		c.tellMissed(conv, h)
	}
}

// roomsDue tells what could not be told before. The caller holds mu.
func (c *Client) roomsDue() {
	if c.full() {
		return
	}
	for conv, h := range c.halls {
		if h.dropped > h.applied {
			c.leftOut(conv, h, h.dropped)
		} else {
			c.tellMissed(conv, h)
		}
	}
}

// roomNews acts on a signal about a room.
func (c *Client) roomNews(conv id.ConversationID, data []byte) {
	w, err := packet.DecodeRoomNews(data)
	h := c.halls[conv]
	switch {
	case err != nil:
		c.log.Warn("news of a room that can't be read", "error", err)
	case h == nil:
	case w.Code != 0:
		c.putOut(conv, h, code.New(code.Code(w.Code)))
	case h.opening: // its answer will tell
	default:
		if w.LastSeq > h.applied {
			c.leftOut(conv, h, w.LastSeq)
			h.advance()
		}
		if w.Count > 0 && len(c.events) < c.cfg.Queue {
			c.push(RoomChanged{Conversation: conv, Count: int(w.Count), Joined: w.Joined, Left: w.Left, JoinedCount: int(w.JoinedCount), LeftCount: int(w.LeftCount)})
		}
	}
}

// announced acts on a broadcast.
func (c *Client) announced(data []byte) {
	w, err := packet.DecodeBroadcast(data)
	if err != nil {
		c.log.Warn("a broadcast that can't be read", "error", err)
		return
	}
	c.push(Announcement{ID: w.Id, Title: w.Title, Text: w.Text, Ext: w.Ext, Time: time.UnixMilli(int64(w.Time))})
}
