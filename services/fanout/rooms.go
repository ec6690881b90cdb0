package fanout

import (
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Rooms are the rooms at the edges, which know who is in them. It is safe for concurrent use, and waits
// only while as much is on its way to connections as a room, or all rooms, may hold.
type Rooms interface {
	// Deliver hands whole frames to everybody in the room conv and returns how many connections that are, about. Frame i
	// ends at ends[i] and isn't for connection but[i]; 0: for all. Nothing is kept of the arguments.
	Deliver(conv id.ConversationID, frames []byte, ends []int, but []uint64) (connections int)
}

// venues are the rooms in which something was written lately. All but the counters is guarded by Handler.mu.
type venues struct {
	m       map[id.ConversationID]*venue
	waiting []*venue // have something queued
	frames  []byte
	ends    []int
	but     []uint64

	open    atomic.Int64
	leftOut atomic.Uint64
	copies  atomic.Uint64
}

// venue is one room. Nothing of a room is ever brought again: what comes late, or is over the budget, is left out, and
// the next frame says how much that was.
type venue struct {
	conv  id.ConversationID
	epoch uint64
	seen  uint64 // the last seq that came
	sent  uint64 // the last one that everybody was sent, or told of; 0: none
	used  time.Time
	told  time.Time // when they were last told of what is left out

	left float64 // of the budget
	at   time.Time

	waits  bool
	queued []stretch
	firsts []uint64 // of each stretch its first and last seq
	lasts  []uint64
	raw    []byte
}

const (
	venueIdle = 5 * time.Minute // a room without messages is forgotten after
	maxVenues = 1 << 16
)

func (h *Handler) venue(conv id.ConversationID) *venue {
	r := h.venues.m[conv]
	if r == nil {
		if len(h.venues.m) >= maxVenues { // any one: it is known again with its next message
			for c, old := range h.venues.m {
				if !old.waits {
					delete(h.venues.m, c)
					break
				}
			}
		}
		r = &venue{conv: conv, left: float64(h.thresholds.Load().RoomBudget), at: h.cfg.Now()}
		h.venues.m[conv] = r
		h.venues.open.Store(int64(len(h.venues.m)))
	}
	return r
}

// roomEvent queues what of ev is new.
func (h *Handler) roomEvent(ev *bus.Event) {
	if h.cfg.Rooms == nil {
		h.givenUp.Add(1)
		return
	}
	r := h.venue(ev.Conversation)
	if ev.Epoch != r.epoch {
		h.deliverRoom(r)
		r.epoch, r.seen, r.sent = ev.Epoch, 0, 0
	}
	if ev.LastSeq <= r.seen {
		h.repeats.Add(1)
		return
	}
	messages, first := ev.Messages, ev.FirstSeq
	if first <= r.seen {
		n, err := through(messages, r.seen)
		if err != nil {
			h.unreadable(ev, err)
			return
		}
		messages, first = messages[n:], r.seen+1
	}
	h.events.Add(1)
	if r.seen == 0 && r.sent == 0 {
		r.sent = first - 1
	}
	r.seen, r.used = ev.LastSeq, h.cfg.Now()
	if budget := float64(h.thresholds.Load().RoomBudget); budget <= 0 {
		r.left, r.at = 0, time.Time{} // it begins with a second's worth when there is one
	} else {
		if passed := r.used.Sub(r.at); passed > 0 {
			r.left, r.at = min(budget, r.left+passed.Seconds()*budget), r.used
		}
		if r.left <= 0 {
			h.venues.leftOut.Add(ev.LastSeq - first + 1)
			return
		}
	}
	h.queueRoom(r, messages, ev.Origin, first, ev.LastSeq)
}

func (h *Handler) unreadable(ev *bus.Event, err error) {
	h.log.Error("fan-out: unreadable message", "conversation", ev.Conversation.String(), "first", ev.FirstSeq, "err", err)
	h.givenUp.Add(1)
}

// queueRoom keeps messages first..last for r until the batch ends or enough has gathered.
func (h *Handler) queueRoom(r *venue, messages []byte, origin, first, last uint64) {
	if !r.waits {
		r.waits = true
		h.venues.waiting = append(h.venues.waiting, r)
	}
	for len(messages) > 0 {
		part := h.fit(r.conv, messages, passBytes)
		if part == nil {
			return
		}
		messages = messages[len(part):]
		upTo, ok := h.before(messages, last)
		if !ok {
			return
		}
		n := len(r.queued)
		if n > 0 && (len(r.raw)+len(part) > passBytes || n >= passStretches) {
			h.deliverRoom(r)
			n = 0
		}
		r.raw = append(r.raw, part...)
		if n > 0 && r.queued[n-1].origin == origin && r.lasts[n-1]+1 == first && len(r.raw)-startOf(r.queued, n-1) <= h.cfg.MaxFrame-deliverRoom {
			r.queued[n-1].end, r.lasts[n-1] = len(r.raw), upTo
		} else {
			r.queued = append(r.queued, stretch{len(r.raw), origin})
			r.firsts, r.lasts = append(r.firsts, first), append(r.lasts, upTo)
		}
		first = upTo + 1
	}
}

// deliverRoom brings what is queued for r to those who are in it.
func (h *Handler) deliverRoom(r *venue) {
	if len(r.queued) == 0 {
		return
	}
	a := &h.venues
	a.frames, a.ends, a.but = a.frames[:0], a.ends[:0], a.but[:0]
	from, messages := 0, uint64(0)
	for i, s := range r.queued {
		out := uint64(0)
		if r.firsts[i] > r.sent+1 {
			out = r.firsts[i] - r.sent - 1
		}
		a.frames = packet.AppendRoomDeliver(a.frames, r.conv, out, r.raw[from:s.end])
		a.ends, a.but = append(a.ends, len(a.frames)), append(a.but, s.origin)
		messages += r.lasts[i] - r.firsts[i] + 1
		from, r.sent = s.end, r.lasts[i]
	}
	n := h.cfg.Rooms.Deliver(r.conv, a.frames, a.ends, a.but)
	h.delivered.Add(uint64(n) * uint64(len(a.ends)))
	h.passes.Add(1)
	h.venues.copies.Add(uint64(n) * messages)
	r.left -= float64(n) * float64(messages)
	r.queued, r.firsts, r.lasts, r.raw = r.queued[:0], r.firsts[:0], r.lasts[:0], r.raw[:0]
	for _, b := range []*[]byte{&r.raw, &a.frames} {
		if cap(*b) > 4*passBytes {
			*b = nil
		}
	}
}

// deliverRooms ends a batch for rooms.
func (h *Handler) deliverRooms() {
	for i, r := range h.venues.waiting {
		h.deliverRoom(r)
		h.venues.waiting[i], r.waits = nil, false
	}
	h.venues.waiting = h.venues.waiting[:0]
}

// tellRooms tells of what was left out where no message has followed, and forgets rooms in which nothing happens.
func (h *Handler) tellRooms() {
	if h.cfg.Rooms == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.cfg.Now()
	for conv, r := range h.venues.m {
		switch {
		case r.seen > r.sent && now.Sub(r.told) >= tellEvery:
			h.roomNews(conv, &wire.RoomNews{LastSeq: r.seen, LeftOut: r.seen - r.sent})
			r.sent, r.told = r.seen, now
		case now.Sub(r.used) > venueIdle:
			delete(h.venues.m, conv)
		}
	}
	h.venues.open.Store(int64(len(h.venues.m)))
}

// RoomNews tells everybody who is in the room conv.
func (h *Handler) RoomNews(conv id.ConversationID, news *wire.RoomNews) {
	if h.cfg.Rooms != nil {
		h.roomNews(conv, news)
	}
}

func (h *Handler) roomNews(conv id.ConversationID, news *wire.RoomNews) {
	data, err := news.Marshal(nil)
	if err != nil { // plain data always marshals
		return
	}
	body, err := (&wire.Signal{ConversationId: conv[:], Kind: packet.SignalRoom, Data: data}).Marshal(nil)
	if err != nil {
		return
	}
	f := frame.Append(nil, frame.Signal, 0, 0, body)
	h.cfg.Rooms.Deliver(conv, f, []int{len(f)}, []uint64{0})
	h.signalled.Add(1)
}
