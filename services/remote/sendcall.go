package remote

import (
	"context"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/logic"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
	"github.com/gochat-im/gochat/services/link"
)

const (
	sendTime  = 4 * time.Second      // for one call, unless configured: it is answered within some 20 ms of its commit
	awaitTime = 15 * time.Second     // for what is left out of its answer, in all
	ahead     = 4 * time.Millisecond // that a call leaves before the round that it is for: about as long as it takes on a busy machine
	maxRest   = time.Second          // whatever a node says
	maxLate   = 32                   // calls to one node that wait for what was left out; beyond, they keep their place
)

// work is one goroutine of a target: it makes calls, one after the other, as long as lanes are ready.
func (s *sender) work(t *target) {
	call := new(sendCall)
	for {
		s.mu.Lock()
		s.rest(t)
		call.lanes = call.lanes[:0]
		n, bytes := 0, 0
		taken := 0
		for _, ln := range t.ready {
			if n >= s.cfg.Messages || bytes >= s.cfg.Bytes {
				break
			}
			taken++
			for len(ln.waiting) > 0 && (n == 0 || n+len(ln.waiting[0]) <= s.cfg.Messages && bytes < s.cfg.Bytes) {
				size := ln.bytes
				batch := s.take(ln)
				ln.sending = append(ln.sending, batch)
				n += len(batch)
				bytes += size - ln.bytes
			}
			if len(ln.sending) == 0 { // the call is full
				taken--
				break
			}
			call.lanes = append(call.lanes, ln)
		}
		clear(t.ready[:taken])
		if t.ready = t.ready[taken:]; len(t.ready) == 0 {
			t.ready = nil
		}
		if taken == 0 {
			t.calls--
			s.vacate(t)
			s.mu.Unlock()
			return
		}
		if len(t.ready) == 0 {
			t.next = time.Now().Add(t.pace)
		} else {
			s.start(t)
		}
		s.mu.Unlock()
		call = s.call(t, call)
	}
}

// rest waits until what leaves for t wouldn't only wait there, or makes a full call. mu is held, and let go meanwhile.
func (s *sender) rest(t *target) {
	for d := time.Until(t.next); d > 0 && t.n < s.cfg.Messages && t.bytes < s.cfg.Bytes; d = time.Until(t.next) {
		t.resting++
		s.mu.Unlock()
		time.Sleep(d)
		s.mu.Lock()
		t.resting--
	}
}

// sendCall is a call of SENDs under way.
type sendCall struct {
	lanes []*lane // in the order of the request; nil: its outcome is known
	began time.Time
}

// call makes a call and sees to the outcomes. It returns call, or another one if call is still waiting for stragglers.
func (s *sender) call(t *target, call *sendCall) *sendCall {
	buf, _ := s.buffers.Get().(*[]byte)
	if buf == nil {
		buf = new([]byte)
	}
	*buf = s.encode((*buf)[:0], call)
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Timeout)
	p := s.l.cfg.Pool
	c := link.NewCall(ctx, p.cfg.Self, nil)
	call.began = time.Now()
	r, err := invoke(ctx, p, t.addr, c, &logic.SendRequest{Call: c, Lanes: *buf}, p.logic.Send)
	cancel()
	if err == nil || Unsent(err) { // else it may still be being written
		if cap(*buf) <= 1<<20 {
			s.buffers.Put(buf)
		}
	}
	if err != nil {
		s.failed(t, call, err)
		return call
	}
	s.mu.Lock()
	t.pace = min(time.Duration(r.PaceUs)*time.Microsecond, maxRest)
	t.next = time.Now().Add(min(time.Duration(r.RestUs)*time.Microsecond, maxRest) - ahead)
	s.mu.Unlock()
	left := s.outcomes(t, call, r.Outcomes)
	if left == 0 {
		return call
	}
	if r.Ticket == 0 { // there should be none
		s.failed(t, call, code.New(code.Undetermined))
		return call
	}
	s.mu.Lock()
	late := t.late < maxLate
	if late {
		t.late++
	}
	s.mu.Unlock()
	if !late {
		s.await(t, call, r.Ticket)
		return call
	}
	go func() {
		s.await(t, call, r.Ticket)
		s.mu.Lock()
		t.late--
		s.vacate(t)
		s.mu.Unlock()
	}()
	return new(sendCall)
}

// await asks for what a call's answer left out.
func (s *sender) await(t *target, call *sendCall, ticket uint64) {
	ctx, cancel := context.WithDeadline(context.Background(), call.began.Add(awaitTime))
	defer cancel()
	p := s.l.cfg.Pool
	for {
		c := link.NewCall(ctx, p.cfg.Self, nil)
		r, err := invoke(ctx, p, t.addr, c, &logic.AwaitRequest{Call: c, Ticket: ticket}, p.logic.Await)
		if err != nil {
			s.failed(t, call, code.Wrap(code.Undetermined, err)) // the SENDs were taken, whatever became of this
			return
		}
		left := s.outcomes(t, call, r.Outcomes)
		if left == 0 {
			return
		}
		if r.Ticket == 0 || ctx.Err() != nil {
			s.failed(t, call, code.New(code.Undetermined))
			return
		}
	}
}

// encode appends the request of call.
func (s *sender) encode(b []byte, call *sendCall) []byte {
	count := 0
	for _, ln := range call.lanes {
		for _, batch := range ln.sending {
			count += len(batch)
		}
	}
	now := trace.Now()
	b = link.AppendSends(b, len(call.lanes), count)
	for _, ln := range call.lanes {
		n := 0
		for _, batch := range ln.sending {
			n += len(batch)
		}
		b = link.AppendLane(b, ln.key.from, n, ln.insist)
		for _, batch := range ln.sending {
			for i := range batch {
				b = link.AppendSend(b, &batch[i], now)
			}
		}
	}
	s.mu.Lock()
	s.stats.Calls++
	s.stats.Messages += uint64(count)
	s.mu.Unlock()
	return b
}

// outcomes acts on what a reply says and returns how many lanes it says nothing about.
func (s *sender) outcomes(t *target, call *sendCall, b []byte) (left int) {
	r := link.ReadOutcomes(b)
	for {
		i, wrong, right, ok := r.Next()
		if !ok {
			break
		}
		if i >= len(call.lanes) || call.lanes[i] == nil {
			break // no node of ours says that: what is left is undetermined in the end
		}
		ln := call.lanes[i]
		if wrong {
			call.lanes[i] = nil
			s.elsewhere(ln, t, right)
			continue
		}
		if !s.settle(ln, t, &r, i, call) {
			break
		}
	}
	for _, ln := range call.lanes {
		if ln != nil {
			left++
		}
	}
	s.flush()
	return left
}

// settle passes on the outcomes of a lane. What a node refused because it is leaving goes on to the next owner.
func (s *sender) settle(ln *lane, t *target, r *link.Outcomes, i int, call *sendCall) bool {
	var again []packet.Pending
	var behind [][]packet.Pending // what was waiting when something was refused retryably
	shut := false
	for b, batch := range ln.sending {
		for j := range batch {
			p := &batch[j]
			o, ok := r.Outcome()
			if !ok { // of these nothing is known
				ln.sending = ln.sending[b:]
				ln.sending[0] = batch[j:]
				if len(again) > 0 {
					ln.sending = append([][]packet.Pending{again}, ln.sending...)
				}
				s.refuseBehind(behind)
				return false
			}
			switch {
			case o.Err == nil:
				o.Ack.Conversation = ln.key.conv
				p.Reply.Acked(p, o.Ack)
			case o.Err.Code.Scope() != code.ScopeLane:
				p.Reply.Refused(p, o.Err)
			case !shut && o.Unlaned && o.Err.Code == code.WrongOwner && ln.hops < maxHops,
				!shut && len(again) > 0 && o.Err.Code == code.LaneBlocked:
				again = append(again, *p)
			default:
				if !shut {
					shut = true
					s.mu.Lock()
					behind = s.block(ln, p.ClientMsgID)
					s.mu.Unlock()
				}
				refuseOne(p, o.Err)
			}
		}
	}
	s.refuseBehind(behind)
	call.lanes[i] = nil
	if len(again) > 0 {
		s.leaving(ln, t, again)
		return true
	}
	s.end(ln, nil)
	return true
}

// elsewhere has a lane go on to the node that the one asked believes to own it.
func (s *sender) elsewhere(ln *lane, t *target, right link.Node) {
	s.mu.Lock()
	ln.hops++
	hops := ln.hops
	s.mu.Unlock()
	if hops > maxHops {
		s.fail(ln, code.New(code.WrongOwner))
		return
	}
	var again []packet.Pending
	for _, batch := range ln.sending {
		again = append(again, batch...)
	}
	s.mu.Lock()
	ln.wrong = right.Addr
	if right.ID == s.l.cfg.Pool.cfg.Self { // it sends the call back here: it is to serve it all the same
		ln.wrong = t.addr
	}
	// Two views may send a call to and fro: whoever is asked the second time serves it.
	ln.insist = hops > 1 || ln.wrong == t.addr
	s.stats.Moved += uint64(len(again))
	s.mu.Unlock()
	s.end(ln, again)
}

// leaving has messages that a node refused because it is leaving go on to whom the router names by now.
func (s *sender) leaving(ln *lane, t *target, again []packet.Pending) {
	owner := s.owner(ln)
	if owner == nil || owner.RPC == t.addr {
		ln.sending = append(ln.sending[:0], again)
		s.fail(ln, code.New(code.WrongOwner))
		return
	}
	s.mu.Lock()
	ln.hops++
	ln.wrong = ""
	s.stats.Moved += uint64(len(again))
	s.mu.Unlock()
	s.end(ln, again)
}

// failed sees to the lanes of a call that brought no answer.
func (s *sender) failed(t *target, call *sendCall, err error) {
	e := asError(err)
	if !Unsent(err) {
		e = code.Wrap(code.Undetermined, err)
	}
	level := slog.LevelWarn
	if Unsent(err) {
		level = slog.LevelDebug // its breaker says so once
	}
	s.l.cfg.Logger.Log(context.Background(), level, "SENDs to a node brought no answer", "addr", t.addr, "lanes", len(call.lanes), "err", err)
	for i, ln := range call.lanes {
		if ln == nil {
			continue
		}
		call.lanes[i] = nil
		if owner := s.owner(ln); Unsent(err) && owner != nil && owner.RPC != t.addr && ln.hops < maxHops {
			var again []packet.Pending // another one has taken its place
			for _, batch := range ln.sending {
				again = append(again, batch...)
			}
			s.mu.Lock()
			ln.hops++
			ln.wrong = ""
			s.mu.Unlock()
			s.end(ln, again)
			continue
		}
		s.fail(ln, e)
	}
}

// fail refuses what was under way of a lane.
func (s *sender) fail(ln *lane, e *code.Error) {
	s.mu.Lock()
	behind := s.block(ln, ln.sending[0][0].ClientMsgID)
	s.mu.Unlock()
	for _, batch := range ln.sending {
		s.refuse(batch, e)
	}
	s.refuseBehind(behind)
	s.end(ln, nil)
}

// end is the end of a lane's part in a call: again goes first in the next one.
func (s *sender) end(ln *lane, again []packet.Pending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(ln.sending)
	ln.sending = ln.sending[:0]
	if len(again) > 0 {
		heavy := 0
		for i := range again {
			heavy += weight(&again[i])
		}
		ln.waiting = append([][]packet.Pending{again}, ln.waiting...)
		s.count(ln, ln.at, len(again), heavy)
	} else {
		ln.hops, ln.wrong, ln.insist = 0, "", false
	}
	s.proceed(ln)
}
