// Package fanout brings stored messages, and signals, to the connections of the
// people they are for. It is a consumer of the bus: delivering is a hint, the
// timeline is the truth, so what can't be delivered is dropped and pulled later.
package fanout

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Members knows who is in a conversation.
type Members interface {
	// Members returns the current members, each once, cached where that can be; none if there
	// is no such conversation. The slice is shared: read only. Those of a direct conversation
	// are sorted and never change.
	Members(ctx context.Context, conv id.ConversationID) ([]id.UserID, error)
}

// Groups knows who is, and was, in groups.
type Groups interface {
	// Recipients returns whose membership holds the stored messages first..to of conv, the
	// same for all of them; first <= to <= last. The slice is shared: read only.
	Recipients(ctx context.Context, conv id.ConversationID, first, last uint64) (users []id.UserID, to uint64, err error)

	// Moves calls fn for each of the messages first..last with which somebody came or went, in their
	// order, and returns how many members there are now. ok is false, and fn was not called, if
	// that isn't known any more. fn's slices are shared: read only.
	Moves(ctx context.Context, conv id.ConversationID, first, last uint64, fn func(seq uint64, joined, left []id.UserID)) (size int, ok bool, err error)

	// Stays reports whether user is a member after message seq of conv.
	Stays(ctx context.Context, conv id.ConversationID, user id.UserID, seq uint64) (bool, error)

	// Has reports whether user is a member of conv now, and how many members there are; an error if there is no such group.
	Has(ctx context.Context, conv id.ConversationID, user id.UserID) (in bool, size int, err error)

	// Size is how many members conv has, as far as that is in memory; 0: it isn't.
	Size(conv id.ConversationID) int
}

// Sessions knows who is connected.
type Sessions interface {
	// Gather appends the connections of each of users, one after the other, to conns and where each one's end in it to
	// ends, and returns both. The last of a user's is 0 if there may be others, or all that is known
	// is that nothing is: such users are looked for at all edges. It may wait for other nodes, but
	// not for long: it fails by answering 0. A user may be asked for several times.
	Gather(ctx context.Context, users []id.UserID, conns []uint64, ends []int) ([]uint64, []int)
}

// Deliverer hands frames to connections. It is safe for concurrent use.
type Deliverer interface {
	// Deliver takes a whole frame for conn and never blocks; a connection that is gone or
	// can't take it is the Deliverer's business. frame is shared and read only, and belongs to
	// the caller again when Flush returns: whoever keeps it longer copies it.
	Deliver(conn uint64, frame []byte)

	// DeliverLazily is Deliver of what can wait for the next thing that is written to conn, or a second.
	DeliverLazily(conn uint64, frame []byte)

	// DeliverUsers is Deliver for every connection of users, at whatever edge it is, but one.
	DeliverUsers(users []id.UserID, frame []byte, but uint64)

	// Flush begins to write what was delivered since the last one.
	Flush()
}

// Timeline reads stored messages, to fill the gaps that a bus may leave.
type Timeline interface {
	// Range returns messages from..to of conv, ascending, as many as fit in limit messages and
	// maxBytes, and the range that it answers for, which begins at from: what is missing in it
	// was removed by retention. No messages: none of from..to is stored any more.
	Range(ctx context.Context, conv id.ConversationID, from, to uint64, limit, maxBytes int) (messages []byte, first, last uint64, err error)
}

// Config of a Handler. The first four fields must be set; the others take their defaults when zero.
type Config struct {
	Members  Members
	Sessions Sessions
	Deliver  Deliverer
	Timeline Timeline

	Groups Groups // nil: messages of groups go to their current members

	// Audiences is where groups of more than LargeGroup members go, until they have fewer than
	// half as many again: what their messages cost follows who is connected. It needs Groups; nil: all
	// groups are looked up member by member.
	Audiences  Audiences
	LargeGroup int           // 0: 500
	Idle       time.Duration // an audience without messages is closed after this; 0: 5 min
	Seats      int           // connections in all audiences, from which on the least used ones are closed; 0: 2,000,000

	// Budget is the messages a second times connections that one group may be delivered, in bursts of
	// a second's worth; above it members are told by a HINT a second at most, and pull. 0: any number.
	Budget int

	// Shared: other processes' Handlers bring events of the same conversations at other times. So what is missing
	// behind a conversation's last event isn't looked for if that was more than ten seconds ago.
	Shared bool

	// Rooms is where messages of rooms go; nil: nowhere. RoomBudget is the messages a second times connections that one room may be
	// delivered, in bursts of a second's worth; what is above it is left out, and those in the room are told how much it was. 0: any number.
	Rooms      Rooms
	RoomBudget int

	// Pushes is how many pushes may wait for Run to look their users up. 0: none has to wait, as is right
	// where Sessions never does.
	Pushes int

	MaxFrame      int           // bytes of a frame, the length field aside; 0: frame.DefaultMax
	MaxSignal     int           // bytes of a signal's data; 0: 4 KiB
	Conversations int           // conversations whose seqs are remembered; 0: 65,536, at least 16
	GapAfter      time.Duration // age at which a gap is read from the timeline; 0: 5 s

	Logger *slog.Logger     // nil: slog.Default()
	Now    func() time.Time // nil: time.Now
}

// ErrConfig is wrapped by the errors of Validate.
var ErrConfig = errors.New("fanout: bad configuration")

// Validate reports what is missing or out of bounds.
func (c *Config) Validate() error {
	switch {
	case c.Members == nil || c.Sessions == nil || c.Deliver == nil || c.Timeline == nil:
		return fmt.Errorf("%w: Members, Sessions, Deliver and Timeline are needed", ErrConfig)
	case c.Audiences != nil && c.Groups == nil:
		return fmt.Errorf("%w: Audiences need Groups", ErrConfig)
	case c.Budget > 0 && c.Groups == nil:
		return fmt.Errorf("%w: a budget needs Groups", ErrConfig)
	case c.RoomBudget < 0:
		return fmt.Errorf("%w: RoomBudget is below zero", ErrConfig)
	case c.LargeGroup < 0 || c.Idle < 0 || c.Seats < 0 || c.Budget < 0:
		return fmt.Errorf("%w: a limit of large groups is below zero", ErrConfig)
	case c.Pushes < 0:
		return fmt.Errorf("%w: Pushes is below zero", ErrConfig)
	case c.MaxFrame < 0 || c.MaxSignal < 0 || c.GapAfter < 0 || c.Conversations < 0 || c.Conversations > 0 && c.Conversations < 16:
		return fmt.Errorf("%w: a limit is out of bounds", ErrConfig)
	}
	return nil
}

// Stats counts since the start.
type Stats struct {
	Events    uint64 // appends fanned out
	Repeats   uint64 // appends dropped because all of them was seen before
	Delivered uint64 // frames handed to connections
	Gaps      uint64 // holes found in what the bus brought
	Healed    uint64 // of those, filled from the timeline
	GivenUp   uint64 // appends and holes nobody could be told of
	Signals   uint64
	Hinted    uint64 // times that a group's members were told of messages instead of sent them
	Opened    uint64 // audiences opened
	Passes    uint64 // over audiences, each with what had gathered
	Audiences int    // open now
	PushLost  uint64 // pushes dropped because too many waited
	Rooms     int    // something was written in lately
	LeftOut   uint64 // messages of rooms that were left out because of their budgets
	// RoomCopies is messages of rooms times the connections that they were brought to, about.
	RoomCopies uint64
}

// Handler fans events out. Handle is called from one goroutine at a time; the
// others may be called from any.
type Handler struct {
	cfg Config
	log *slog.Logger

	// What Handle works with, and healing when Handle doesn't.
	mu    sync.Mutex
	seen  seen
	slab  []byte // frames of the batch under way
	plan  plan
	retry []missing // appends whose recipients could not be found
	owe   owe

	thresholds atomic.Pointer[Thresholds] // in force; owe.budget follows with the next event

	large     groups
	audiences atomic.Int64 // in large
	moves     []move
	collect   func(seq uint64, joined, left []id.UserID) // appends to moves
	waiting   []*large                                   // have something queued, or had
	venues    venues
	unwritten bool // something was delivered that Flush is to write

	signals sync.Pool // *signaler
	pushes  chan *signaler

	events, repeats, delivered, gaps, healed, givenUp, signalled atomic.Uint64
	hinted, opened, passes, pushesLost                           atomic.Uint64
}

// New returns a Handler.
func New(cfg Config) (*Handler, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MaxFrame == 0 {
		cfg.MaxFrame = frame.DefaultMax
	}
	if cfg.MaxSignal == 0 {
		cfg.MaxSignal = 4 << 10
	}
	if cfg.Conversations == 0 {
		cfg.Conversations = 1 << 16
	}
	if cfg.GapAfter == 0 {
		cfg.GapAfter = 5 * time.Second
	}
	if cfg.LargeGroup == 0 {
		cfg.LargeGroup = defaultLargeGroup
	}
	if cfg.Idle == 0 {
		cfg.Idle = 5 * time.Minute
	}
	if cfg.Seats == 0 {
		cfg.Seats = 2_000_000
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	h := &Handler{cfg: cfg, log: cfg.Logger}
	h.seen.init(cfg.Conversations)
	h.pushes = make(chan *signaler, cfg.Pushes)
	h.owe.init(cfg.Budget)
	h.thresholds.Store(&Thresholds{cfg.LargeGroup, cfg.Budget, cfg.RoomBudget})
	h.venues.m = make(map[id.ConversationID]*venue)
	h.large.m = make(map[id.ConversationID]*large)
	h.collect = func(seq uint64, joined, left []id.UserID) { h.moves = append(h.moves, move{seq, joined, left}) }
	h.signals.New = func() any { return new(signaler) }
	return h, nil
}

// Thresholds are what can be changed of a Config while a Handler runs: its fields of the same names, but 0 is no default here.
type Thresholds struct{ LargeGroup, Budget, RoomBudget int }

// SetThresholds puts t in force with the next events. Audiences of groups that it makes large, or small, are opened and
// closed with their next message.
func (h *Handler) SetThresholds(t Thresholds) error {
	if t.LargeGroup < 2 || t.Budget < 0 || t.RoomBudget < 0 || t.Budget > 0 && h.cfg.Groups == nil {
		return fmt.Errorf("%w: thresholds %+v", ErrConfig, t)
	}
	h.thresholds.Store(&t)
	return nil
}

func (h *Handler) largeGroup() int { return h.thresholds.Load().LargeGroup }

// Stats returns the counters.
func (h *Handler) Stats() Stats {
	return Stats{h.events.Load(), h.repeats.Load(), h.delivered.Load(), h.gaps.Load(),
		h.healed.Load(), h.givenUp.Load(), h.signalled.Load(), h.hinted.Load(), h.opened.Load(), h.passes.Load(), int(h.audiences.Load()), h.pushesLost.Load(), int(h.venues.open.Load()), h.venues.leftOut.Load(), h.venues.copies.Load()}
}

// defaultLargeGroup is how many members a group may have until its messages go to an audience.
const defaultLargeGroup = 500

// aim is whom messages go to: users, wherever they are connected, or a large group's audience.
type aim struct {
	users []id.UserID
	large *large
}

// flushBytes is how much of a batch is gathered at most before it is written: less than
// fills the queue of a connection that everything in it is for.
const flushBytes = 128 << 10

// maxSlab is the most memory for frames that is kept from one batch to the next.
const maxSlab = 1 << 20

// Handle is a bus.Handler. It returns an error only when ctx has ended: an event
// whose recipients can't be found now is tried again by Run, and holds up no other.
func (h *Handler) Handle(ctx context.Context, evs []bus.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.owe.budget = float64(h.thresholds.Load().Budget)
	for i := range evs {
		if err := h.event(ctx, &evs[i]); err != nil {
			if ctx.Err() != nil {
				h.flush(ctx)
				return fmt.Errorf("fanning out: %w", err)
			}
			h.later(&evs[i], err)
		}
		if len(h.slab) > flushBytes || h.plan.full() {
			h.flush(ctx)
		}
	}
	h.flush(ctx)
	return nil
}

// flush ends a batch: the frames of it are ours again.
func (h *Handler) flush(ctx context.Context) {
	h.lookUp(ctx)
	h.deliverAll()
	h.deliverRooms()
	if h.unwritten {
		h.cfg.Deliver.Flush()
		h.unwritten = false
	}
	if cap(h.slab) > maxSlab {
		h.slab = nil
	}
	h.slab = h.slab[:0]
}

// event delivers what of ev was not seen before.
func (h *Handler) event(ctx context.Context, ev *bus.Event) error {
	if ev.FirstSeq == 0 || ev.LastSeq < ev.FirstSeq || len(ev.Messages) == 0 {
		h.log.Error("fan-out: event without messages", "conversation", ev.Conversation.String(), "first", ev.FirstSeq, "last", ev.LastSeq)
		h.givenUp.Add(1)
		return nil
	}
	if h.cfg.Groups != nil && ev.Conversation.Kind() == id.KindGroup {
		return h.groupEvent(ctx, ev)
	}
	if ev.Conversation.Kind() == id.KindRoom {
		h.roomEvent(ev)
		return nil
	}
	m := h.seen.get(ev.Conversation)
	members := m.members
	if members == nil {
		var err error
		if members, err = h.cfg.Members.Members(ctx, ev.Conversation); err != nil {
			return err
		}
		if ev.Conversation.Kind() == id.KindDirect {
			m.members = members
		}
	}
	h.pass(ctx, m, ev, aim{users: members})
	return nil
}

// pass delivers what of ev was not seen before.
func (h *Handler) pass(ctx context.Context, m *mark, ev *bus.Event, to aim) {
	if h.cfg.Shared {
		m.meet(ev, h.cfg.Now().Unix())
	}
	switch m.admit(ev.Epoch, ev.FirstSeq, ev.LastSeq) {
	case repeated:
		h.repeats.Add(1)
		return
	case fresh:
		h.events.Add(1)
		h.send(ctx, ev.Conversation, to, ev.Messages, ev.Origin, ev.FirstSeq, ev.LastSeq)
		return
	}
	// Something arrived out of order, or a part of it again.
	if !h.unseen(ctx, m, ev, to) {
		h.repeats.Add(1)
		return
	}
	h.events.Add(1)
	gap, given := m.record(ev.Epoch, ev.FirstSeq, ev.LastSeq, h.cfg.Now())
	if gap {
		h.gaps.Add(1)
	}
	if given {
		h.givenUp.Add(1)
	}
	if len(m.above) > 0 {
		h.seen.gapped[ev.Conversation] = struct{}{}
	}
}

// unseen delivers the runs of ev's messages that m has not, and reports whether there was one.
func (h *Handler) unseen(ctx context.Context, m *mark, ev *bus.Event, to aim) (some bool) {
	start, end := -1, 0
	var first, last uint64 // of the run
	for rest := ev.Messages; len(rest) > 0; {
		at := len(ev.Messages) - len(rest)
		v, after, err := packet.NextMessage(rest)
		if err != nil {
			h.log.Error("fan-out: unreadable message", "conversation", ev.Conversation.String(), "first", ev.FirstSeq, "err", err)
			break
		}
		rest = after
		if m.has(ev.Epoch, v.Seq) {
			if start >= 0 {
				h.send(ctx, ev.Conversation, to, ev.Messages[start:end], ev.Origin, first, last)
				start = -1
			}
			continue
		}
		if start < 0 {
			start, some, first = at, true, v.Seq
		}
		last = v.Seq
		end = len(ev.Messages) - len(rest)
	}
	if start >= 0 {
		h.send(ctx, ev.Conversation, to, ev.Messages[start:end], ev.Origin, first, last)
	}
	return some
}

// deliverRoom is what a DELIVER has around its messages at most: type and flags, the
// conversation, two users.
const deliverRoom = 2 + 18 + 2*(2+id.MaxUserID)

// send encodes messages first..last once and hands the frame to every session of those
// whom they are for but origin, or tells them of the messages if the budget is used up.
func (h *Handler) send(ctx context.Context, conv id.ConversationID, to aim, messages []byte, origin, first, last uint64) {
	if h.owe.doubtful(conv) {
		h.lookUp(ctx)
	}
	switch {
	case to.large == nil && len(to.users) == 0 || h.over(conv, to, last):
		return
	case to.large != nil:
		h.queue(to.large, messages, origin, first, last)
		return
	}
	users, both := pair(conv, to.users)
	for len(messages) > 0 {
		part := h.fit(conv, messages, h.cfg.MaxFrame)
		if part == nil {
			return
		}
		messages = messages[len(part):]
		upTo, ok := h.before(messages, last)
		if !ok {
			return
		}
		n := len(h.slab)
		if both {
			h.slab = packet.AppendDeliver(h.slab, conv, users[:], part)
		} else {
			h.slab = packet.AppendDeliver(h.slab, conv, nil, part)
		}
		h.each(to.users, n, origin)
		h.debit(conv, upTo-first+1)
		first = upTo + 1
	}
}

// pair returns both users of a direct conversation; somebody who writes to themselves stands twice.
func pair(conv id.ConversationID, members []id.UserID) (users [2]id.UserID, both bool) {
	if conv.Kind() != id.KindDirect || len(members) > 2 {
		return users, false
	}
	return [2]id.UserID{members[0], members[len(members)-1]}, true
}

// fit returns the beginning of messages for one frame: at most limit bytes where a message isn't larger itself. It is nil, and
// counted, if not even one fits a frame.
func (h *Handler) fit(conv id.ConversationID, messages []byte, limit int) []byte {
	room := h.cfg.MaxFrame - deliverRoom
	if len(messages) <= min(room, limit) {
		return messages
	}
	part := cut(messages, min(room, limit))
	if part == nil {
		part = cut(messages, room)
	}
	if part == nil {
		h.log.Error("fan-out: a message that fits no frame", "conversation", conv.String(), "bytes", len(messages))
		h.givenUp.Add(1)
	}
	return part
}

// before returns the seq before rest, what is left of the messages up to last. It is not ok, and counted, if that can't be read.
func (h *Handler) before(rest []byte, last uint64) (seq uint64, ok bool) {
	if len(rest) == 0 {
		return last, true
	}
	v, _, err := packet.NextMessage(rest)
	if err != nil {
		h.givenUp.Add(1)
		return 0, false
	}
	return v.Seq - 1, true
}

// cut returns the beginning of messages that takes at most limit bytes, nil if not even one does.
func cut(messages []byte, limit int) []byte {
	n := 0
	for n < len(messages) {
		_, rest, err := packet.NextMessage(messages[n:])
		if err != nil || len(messages)-len(rest) > limit {
			break
		}
		n = len(messages) - len(rest)
	}
	if n == 0 {
		return nil
	}
	return messages[:n]
}
