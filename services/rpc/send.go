package rpc

import (
	"context"
	"sync"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/logic"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
	"github.com/gochat-im/gochat/services/link"
)

// A call of SENDs is answered when all of them are decided, which is when one commit is through, as a rule. One
// conversation that takes longer (it is read from a cold store, a hook judges it) must not hold up the others'
// answers, so what isn't decided after a while is left out, under a ticket with which the caller asks for it.

// straggle is how long a call waits for its last lanes once it could be answered.
const straggle = 20 * time.Millisecond

// maxRest is what is waited beyond that for the next round to begin.
const maxRest = 50 * time.Millisecond

// awaiting is how long one request for what was left out waits.
const awaiting = 3 * time.Second

// unasked is after how long without such a request the outcomes are dropped: the caller has gone away.
const unasked = 30 * time.Second

// sends is one call of SENDs.
type sends struct {
	outs    []link.Outcome // of all messages, lane after lane
	lanes   []sendLane
	replies []sendReply

	mu    sync.Mutex
	left  int   // lanes that aren't decided
	fresh []int // lanes decided since the last answer
	wake  chan struct{}
	late  bool // every lane that is decided is worth an answer
	used  time.Time
}

type sendLane struct {
	first, n int // in outs
	left     int
	wrong    *link.Node // that is responsible; nil: this one
}

// sendReply hears the outcome of one message.
type sendReply struct {
	s       *sends
	lane, i int
}

// Acked implements packet.Replier.
func (r *sendReply) Acked(_ *packet.Pending, ack packet.Ack) { r.decided(link.Outcome{Ack: ack}) }

// Refused implements packet.Replier. What holds back the rest of the lane is the edge's: nothing of it is
// sent before these outcomes are known there.
func (r *sendReply) Refused(p *packet.Pending, err *code.Error) {
	r.decided(link.Outcome{Err: err, Unlaned: p.Unlaned})
}

func (r *sendReply) decided(o link.Outcome) {
	s := r.s
	s.mu.Lock()
	s.outs[r.i] = o
	l := &s.lanes[r.lane]
	wake := false
	if l.left--; l.left == 0 {
		wake = s.done(r.lane)
	}
	s.mu.Unlock()
	if wake {
		s.signal()
	}
}

// done notes that a lane is decided and reports whether whoever waits is to be told. mu is held.
func (s *sends) done(lane int) bool {
	s.left--
	s.fresh = append(s.fresh, lane)
	return s.left == 0 || s.late
}

func (s *sends) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// answer takes what is decided and wasn't answered yet.
func (s *sends) answer() (outcomes []byte, left int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := make([]byte, 0, 16*len(s.outs)+16)
	for _, i := range s.fresh {
		l := &s.lanes[i]
		if l.wrong != nil {
			b = link.AppendWrong(b, i, *l.wrong)
		} else {
			b = link.AppendOutcomes(b, i, s.outs[l.first:l.first+l.n])
		}
	}
	s.fresh = s.fresh[:0]
	s.late = true
	s.used = time.Now()
	return b, s.left
}

// tickets are the calls that are answered in parts.
type tickets struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*sends
}

func (t *tickets) add(s *sends) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	if t.open == nil {
		t.open = make(map[uint64]*sends)
	}
	t.open[t.last] = s
	return t.last
}

func (t *tickets) get(n uint64) *sends {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[n]
}

func (t *tickets) drop(n uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, n)
}

// sweep drops those that nobody asks for.
func (t *tickets) sweep(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n, s := range t.open {
		s.mu.Lock()
		if now.Sub(s.used) > unasked {
			delete(t.open, n)
		}
		s.mu.Unlock()
	}
}

var timers = sync.Pool{New: func() any { return time.NewTimer(time.Hour) }}

// wait returns when a signal came, d has passed, or ctx ended.
func (s *sends) wait(ctx context.Context, d time.Duration) {
	t := timers.Get().(*time.Timer)
	t.Reset(d)
	select {
	case <-s.wake:
	case <-t.C:
	case <-ctx.Done():
	}
	t.Stop()
	timers.Put(t)
}

// Send implements the service.
func (h *logicHandler) Send(ctx context.Context, r *logic.SendRequest) (*logic.SendReply, error) {
	lanes, err := link.ParseSends(r.Lanes, trace.Now())
	if err != nil {
		return &logic.SendReply{Failure: h.fails(ctx, "reading SENDs", code.Wrap(code.BadRequest, err))}, nil
	}
	count := 0
	for i := range lanes {
		count += len(lanes[i].Messages)
	}
	s := &sends{
		outs: make([]link.Outcome, count), lanes: make([]sendLane, len(lanes)), replies: make([]sendReply, count),
		left: len(lanes), fresh: make([]int, 0, len(lanes)), wake: make(chan struct{}, 1),
	}
	first := 0
	for i := range lanes {
		msgs := lanes[i].Messages
		for j := range msgs {
			k := first + j
			s.replies[k] = sendReply{s, i, k}
			msgs[j].Reply = &s.replies[k]
		}
		s.lanes[i] = sendLane{first: first, n: len(msgs), left: len(msgs)}
		first += len(msgs)
	}
	rest, pace := h.rounds() // until the one that takes these
	for i := range lanes {
		l := &lanes[i]
		if l.Invalid != nil { // an edge of another version, perhaps
			for j := range l.Messages {
				l.Messages[j].Reply.Refused(&l.Messages[j], l.Invalid)
			}
			continue
		}
		if err := h.owns(l.Insist, l.Conversation().Slot()); err != nil {
			s.mu.Lock()
			s.lanes[i].wrong = &err.Node
			wake := s.done(i)
			s.mu.Unlock()
			if wake {
				s.signal()
			}
			continue
		}
		h.Conversations.Send(l.Messages)
	}
	s.wait(ctx, straggle+min(rest, maxRest))
	reply := &logic.SendReply{}
	var left int
	if reply.Outcomes, left = s.answer(); left > 0 {
		reply.Ticket = h.tickets.add(s)
	}
	rest, _ = h.rounds()
	reply.RestUs, reply.PaceUs = uint32(rest/time.Microsecond), uint32(pace/time.Microsecond)
	return reply, nil
}

// rounds are those of the Sequencer.
func (h *logicHandler) rounds() (rest, pace time.Duration) {
	if h.Rounds == nil {
		return 0, 0
	}
	return h.Rounds()
}

// Await implements the service.
func (h *logicHandler) Await(ctx context.Context, r *logic.AwaitRequest) (*logic.SendReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	s := h.tickets.get(r.Ticket)
	if s == nil {
		return &logic.SendReply{Failure: link.Refused(code.New(code.Undetermined))}, nil
	}
	s.mu.Lock()
	known := len(s.fresh) > 0
	s.mu.Unlock()
	if !known {
		s.wait(ctx, awaiting)
	}
	reply := &logic.SendReply{Ticket: r.Ticket}
	var left int
	if reply.Outcomes, left = s.answer(); left == 0 {
		h.tickets.drop(r.Ticket)
		reply.Ticket = 0
	}
	return reply, nil
}
