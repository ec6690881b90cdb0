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

// MessagesLeftOut: so many messages of a room didn't come, because there were too many for everybody, or
// for this client. They aren't fetched; History has them for a while.
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

// hall is a room that the client is in. Guarded by Client.mu.
type hall struct {
	applied uint64              // what came, or is known not to come
	own     map[uint64]struct{} // messages of this device above applied
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
// isn't connected doesn't come. A room that isn't there is no_such_conversation.
func (c *Client) JoinRoom(ctx context.Context, conv id.ConversationID) (Room, error) {
	return c.room(ctx, packet.MethodRoomJoin, &wire.ConversationRequest{ConversationId: conv[:]}, func(w *wire.Room) {
		if c.halls == nil {
			c.halls = make(map[id.ConversationID]*hall)
		}
		h := c.halls[conv]
		if h == nil {
			h = &hall{own: make(map[uint64]struct{})}
			c.halls[conv] = h
		}
		h.applied = max(h.applied, w.LastSeq)
	})
}

// LeaveRoom leaves the room.
func (c *Client) LeaveRoom(ctx context.Context, conv id.ConversationID) error {
	c.mu.Lock()
	delete(c.halls, conv)
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

// rejoin enters all rooms again, on a new connection. The caller holds mu.
func (c *Client) rejoin(l *link) {
	for conv := range c.halls {
		c.ask(l, &call{method: packet.MethodRoomJoin, request: &wire.ConversationRequest{ConversationId: conv[:]}, done: func(inner []byte, err error) {
			var w wire.Room
			if err == nil {
				err = answerInto(packet.MethodRoomJoin, inner, &w)
			}
			h := c.halls[conv]
			var told *code.Error
			switch {
			case h == nil:
			case err == nil:
				c.leftOut(conv, h, w.LastSeq+1)
				h.applied = max(h.applied, w.LastSeq)
				c.push(RoomChanged{Conversation: conv, Count: int(w.Count)})
			case errors.Is(err, errLost): // with the connection: the next one does it
			case errors.As(err, &told) && told.Retryable():
				time.AfterFunc(max(told.RetryAfter, told.Code.RetryAfter(), time.Second/2), func() {
					c.mu.Lock()
					defer c.mu.Unlock()
					if c.link == l {
						c.rejoin(l)
					}
				})
			default:
				delete(c.halls, conv)
				c.push(RoomLeft{Conversation: conv, Err: err})
			}
		}})
	}
}

// leftOut tells of messages above h.applied and below seq that didn't come. The caller holds mu.
func (c *Client) leftOut(conv id.ConversationID, h *hall, seq uint64) {
	n := uint64(0)
	if seq > h.applied+1 {
		n = seq - h.applied - 1
	}
	for own := range h.own {
		if own < seq {
			if delete(h.own, own); own > h.applied && n > 0 {
				n--
			}
		}
	}
	if n > 0 && len(c.events) < c.cfg.Queue {
		c.push(MessagesLeftOut{Conversation: conv, Count: n})
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
		if h == nil || m.Seq <= h.applied {
			continue
		}
		if c.full() { // the Handler is behind: counted with what is left out before the next one that comes
			continue
		}
		_, own := h.own[m.Seq]
		c.leftOut(conv, h, m.Seq)
		h.applied = m.Seq
		delete(h.own, m.Seq)
		if !own {
			c.liveMessage(conv, &m)
		}
	}
	return nil
}

// liveMessage queues a message of a room, of which nothing is kept.
func (c *Client) liveMessage(conv id.ConversationID, m *packet.MessageView) {
	msg, err := messageOf(m.Raw, conv, c.me, "")
	if err != nil { // checked before
		c.log.Error("a message that can't be read", "conversation", conv.String(), "seq", m.Seq, "error", err)
		return
	}
	c.waiting++
	c.events = append(c.events, item{ev: MessageReceived{msg}, live: true})
	c.wakeDispatch()
}

// maxOwn is how many of this device's messages of a room are remembered until what is said there has passed them.
const maxOwn = 256

// ownLive takes in a message of this device that was stored in a room.
func (c *Client) ownLive(conv id.ConversationID, m *packet.MessageView) {
	if h := c.halls[conv]; h != nil && m.Seq > h.applied {
		if _, is := h.own[m.Seq]; is {
			return
		}
		if len(h.own) < maxOwn {
			h.own[m.Seq] = struct{}{}
		}
	}
	c.liveMessage(conv, m)
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
		delete(c.halls, conv)
		c.push(RoomLeft{Conversation: conv, Err: code.New(code.Code(w.Code))})
	default:
		if w.LastSeq > h.applied {
			c.leftOut(conv, h, w.LastSeq+1)
			h.applied = w.LastSeq
		}
		if w.Count > 0 {
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
