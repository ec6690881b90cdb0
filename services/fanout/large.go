package fanout

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Audiences are, at the edges, the connections of members of large groups. What happens
// to one conversation's is called in order, by one goroutine at a time but for Join, which may come from others; so an
// edge elsewhere can be told by one ordered stream.
type Audiences interface {
	// Open makes an empty audience for conv, unless there is one.
	Open(conv id.ConversationID)

	// Join brings in the connections that users have now; those that are in it stay. Leave takes
	// them out. Connections that end leave by themselves. Neither keeps users.
	Join(conv id.ConversationID, users []id.UserID)
	Leave(conv id.ConversationID, users []id.UserID)

	// Deliver hands frames, which tell of messages up to last, to all connections in the audience and
	// returns how many there are. Frame i ends at ends[i] and isn't for connection but[i]; 0: for
	// all. With flush it also begins to write them. It keeps nothing of its arguments.
	Deliver(conv id.ConversationID, last uint64, frames []byte, ends []int, but []uint64, flush bool) (connections int)

	Close(conv id.ConversationID)

	// Seats is how many connections are in all audiences, counted once in each.
	Seats() int
}

// large is a group whose messages go to an audience. It is opened by the first message
// to it and kept right by three: the moves of members, at their place among the messages; users who connect;
// connections that end.
type large struct {
	conv id.ConversationID

	// mu makes one step of finding out whether a user who connects is a member, and bringing them in.
	mu     sync.Mutex
	at     uint64 // the audience is right for whoever is a member after this message
	moved  uint64 // the last with which members came or went
	closed bool

	// Of Handler.mu.
	next     uint64 // moves of messages from here on weren't applied
	used     time.Time
	waits    bool      // in Handler.waiting
	queued   []stretch // not delivered yet
	raw      []byte    // their messages
	messages uint64    // how many these are
	last     uint64    // of them
	frames   []byte
	ends     []int
	but      []uint64
}

// stretch is messages of one origin that make one frame.
type stretch struct {
	end    int // in raw
	origin uint64
}

// What is gathered for an audience before it is delivered: so little that it can't fill
// the queue of a client that reads.
const (
	passBytes     = 48 << 10
	passStretches = 16
)

// shortPass is the bytes up to which frames for several audiences are gathered in the
// connections' queues, to be written together.
const shortPass = 2 << 10

// maxAudiences bounds how many are open; the one unused the longest is closed for another.
const maxAudiences = 8192

// move is a message with which members came or went.
type move struct {
	seq          uint64
	joined, left []id.UserID
}

// groups are the large ones, by conversation.
type groups struct {
	mu sync.RWMutex // written with Handler.mu held, too
	m  map[id.ConversationID]*large
}

func (g *groups) get(conv id.ConversationID) *large {
	g.mu.RLock()
	defer g.mu.RUnlock()
	return g.m[conv]
}

// Large reports whether conv is a group that has an audience, here or, as its size says, where its messages are fanned out.
func (h *Handler) Large(conv id.ConversationID) bool {
	if h.audiences.Load() > 0 && h.large.get(conv) != nil {
		return true
	}
	return h.cfg.Groups != nil && h.cfg.Groups.Size(conv) > h.largeGroup()
}

// Connected tells that user has a new connection, which is registered, and of convs that
// may be the user's. It brings the connection into the audiences that it belongs to. Whatever is
// stored later is delivered to it; the caller reads what was stored before afterwards.
func (h *Handler) Connected(ctx context.Context, user id.UserID, convs []id.ConversationID) error {
	if h.audiences.Load() == 0 {
		return nil
	}
	for i := range convs {
		if convs[i].Kind() != id.KindGroup {
			continue
		}
		if l := h.large.get(convs[i]); l != nil {
			if err := h.seat(ctx, l, user); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *Handler) seat(ctx context.Context, l *large, user id.UserID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil // whoever opens it again finds the connection
	}
	in, err := h.cfg.Groups.Stays(ctx, l.conv, user, l.at)
	if err != nil {
		return fmt.Errorf("looking for a member of %s: %w", l.conv, err)
	}
	if in {
		h.cfg.Audiences.Join(l.conv, []id.UserID{user})
	}
	return nil
}

// open makes an audience of users, who are the recipients of ev's first message. It
// returns nil if it is not known who came and went since.
func (h *Handler) open(ctx context.Context, ev *bus.Event, users []id.UserID) (*large, error) {
	_, ok, err := h.cfg.Groups.Moves(ctx, ev.Conversation, ev.FirstSeq, ev.LastSeq, func(uint64, []id.UserID, []id.UserID) {})
	if err != nil || !ok {
		return nil, err
	}
	h.lookUp(ctx) // what was planned for its members comes before
	h.makeRoom(0)
	l := &large{conv: ev.Conversation, next: ev.FirstSeq, at: ev.FirstSeq, used: h.cfg.Now()}
	// Findable first, then filled: who connects meanwhile is met by one of the two.
	h.cfg.Audiences.Open(l.conv)
	h.large.mu.Lock()
	h.large.m[l.conv] = l
	h.large.mu.Unlock()
	h.audiences.Add(1)
	h.opened.Add(1)
	h.cfg.Audiences.Join(l.conv, users)
	return l, nil
}

// close ends l's audience; what is queued for it has been delivered.
func (h *Handler) close(l *large) {
	h.deliver(l, true)
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	h.large.mu.Lock()
	delete(h.large.m, l.conv)
	h.large.mu.Unlock()
	h.audiences.Add(-1)
	h.cfg.Audiences.Close(l.conv)
}

// makeRoom closes the audiences unused the longest, down to least, while there are too many
// or too large ones.
func (h *Handler) makeRoom(least int) {
	for len(h.large.m) > least && (len(h.large.m) >= maxAudiences || h.cfg.Audiences.Seats() >= h.cfg.Seats) {
		var oldest *large
		for _, l := range h.large.m {
			if oldest == nil || l.used.Before(oldest.used) {
				oldest = l
			}
		}
		h.close(oldest)
	}
}

// closeIdle closes audiences that nothing was delivered to for a while.
func (h *Handler) closeIdle() {
	h.mu.Lock()
	defer h.mu.Unlock()
	limit := h.cfg.Now().Add(-h.cfg.Idle)
	for _, l := range h.large.m {
		if l.used.Before(limit) {
			h.close(l)
		}
	}
	h.makeRoom(1)
}

// largeEvent is groupEvent for a group that has an audience.
func (h *Handler) largeEvent(ctx context.Context, l *large, ev *bus.Event) error {
	rest := *ev
	if rest.FirstSeq < l.next { // comes late: the audience has changed since, maybe
		part, ok := h.split(&rest, min(rest.LastSeq, l.next-1))
		if !ok {
			return nil
		}
		if err := h.look(ctx, &part, false); err != nil {
			return err
		}
		if rest.FirstSeq > rest.LastSeq {
			return nil
		}
	}
	h.moves = h.moves[:0]
	size, ok, err := h.cfg.Groups.Moves(ctx, l.conv, l.next, rest.LastSeq, h.collect)
	if err != nil {
		return err
	}
	if !ok { // so many came and went that memory doesn't hold them all
		h.close(l)
		return h.look(ctx, &rest, true)
	}
	l.used = h.cfg.Now()
	for i := range h.moves {
		h.apply(ctx, l, &h.moves[i], &rest)
	}
	clear(h.moves)
	h.toAudience(ctx, l, &rest, rest.LastSeq)
	l.next = max(l.next, ev.LastSeq+1)
	l.mu.Lock()
	l.at = l.next - 1
	l.mu.Unlock()
	if size < (h.largeGroup()+1)/2 {
		h.close(l)
	}
	return nil
}

// apply delivers what of rest comes before or with mv to those whom it is for, and
// changes the audience.
func (h *Handler) apply(ctx context.Context, l *large, mv *move, rest *bus.Event) {
	h.toAudience(ctx, l, rest, mv.seq-1)
	if len(mv.joined) > 0 {
		h.deliver(l, true)
		l.mu.Lock()
		h.cfg.Audiences.Join(l.conv, mv.joined)
		l.at, l.moved = mv.seq, mv.seq
		l.mu.Unlock()
	}
	if len(mv.left) > 0 {
		h.toAudience(ctx, l, rest, mv.seq)
		h.deliver(l, true)
		h.owe.leave(h, l.conv, mv)
		l.mu.Lock()
		h.cfg.Audiences.Leave(l.conv, mv.left)
		l.at, l.moved = mv.seq, mv.seq
		l.mu.Unlock()
	}
}

// toAudience takes the messages up to seq off rest, and queues those not seen before.
func (h *Handler) toAudience(ctx context.Context, l *large, rest *bus.Event, seq uint64) {
	if seq < rest.FirstSeq || rest.FirstSeq > rest.LastSeq {
		return
	}
	if part, ok := h.split(rest, min(seq, rest.LastSeq)); ok && len(part.Messages) > 0 {
		h.pass(ctx, h.seen.get(l.conv), &part, aim{large: l})
	}
}

// split takes the messages up to seq off rest.
func (h *Handler) split(rest *bus.Event, seq uint64) (part bus.Event, ok bool) {
	part = *rest
	if seq >= rest.LastSeq {
		rest.FirstSeq, rest.Messages = rest.LastSeq+1, nil
		return part, true
	}
	n, err := through(rest.Messages, seq)
	if err != nil {
		h.log.Error("fan-out: unreadable message", "conversation", rest.Conversation.String(), "first", rest.FirstSeq, "err", err)
		h.givenUp.Add(1)
		rest.FirstSeq, rest.Messages = rest.LastSeq+1, nil
		return part, false
	}
	part.LastSeq, part.Messages = seq, rest.Messages[:n:n]
	rest.FirstSeq, rest.Messages = seq+1, rest.Messages[n:]
	return part, true
}

// queue keeps messages first..last for l's audience until the batch ends or enough has gathered.
func (h *Handler) queue(l *large, messages []byte, origin, first, last uint64) {
	if !l.waits {
		l.waits = true
		h.waiting = append(h.waiting, l)
	}
	room := h.cfg.MaxFrame - deliverRoom
	l.messages += last - first + 1
	for len(messages) > 0 {
		part := h.fit(l.conv, messages, passBytes)
		if part == nil {
			return
		}
		messages = messages[len(part):]
		n := len(l.queued)
		if n > 0 && (len(l.raw)+len(part) > passBytes || n >= passStretches) {
			h.deliver(l, true)
			n = 0
		}
		l.raw, l.last = append(l.raw, part...), last
		if n > 0 && l.queued[n-1].origin == origin && len(l.raw)-startOf(l.queued, n-1) <= room {
			l.queued[n-1].end = len(l.raw)
		} else {
			l.queued = append(l.queued, stretch{len(l.raw), origin})
		}
	}
}

// startOf is where stretch i of queued begins in what is gathered.
func startOf(queued []stretch, i int) int {
	if i == 0 {
		return 0
	}
	return queued[i-1].end
}

// deliver brings what is queued for l to its audience.
func (h *Handler) deliver(l *large, flush bool) {
	if len(l.queued) == 0 {
		return
	}
	l.frames, l.ends, l.but = l.frames[:0], l.ends[:0], l.but[:0]
	for i := range l.queued {
		s := &l.queued[i]
		l.frames = packet.AppendDeliver(l.frames, l.conv, nil, l.raw[startOf(l.queued, i):s.end])
		l.ends, l.but = append(l.ends, len(l.frames)), append(l.but, s.origin)
	}
	n := h.cfg.Audiences.Deliver(l.conv, l.last, l.frames, l.ends, l.but, flush)
	h.delivered.Add(uint64(n) * uint64(len(l.ends)))
	h.passes.Add(1)
	h.unwritten = h.unwritten || !flush
	h.owe.spent(l.conv, uint64(n)*l.messages)
	l.queued, l.raw, l.messages = l.queued[:0], l.raw[:0], 0
	for _, b := range []*[]byte{&l.raw, &l.frames} {
		if cap(*b) > 4*passBytes {
			*b = nil
		}
	}
}

// deliverAll ends a batch for the audiences.
func (h *Handler) deliverAll() {
	alone := len(h.waiting) == 1
	for i, l := range h.waiting {
		h.deliver(l, alone || len(l.raw) > shortPass)
		h.waiting[i], l.waits = nil, false
	}
	h.waiting = h.waiting[:0]
}
