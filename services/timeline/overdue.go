package timeline

import (
	"context"
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/trace"
)

// A message waits for whoever holds its conversation: for a loader, of which there are few, to have time and for
// the store to answer it (after slots have moved all conversations are cold at once), for the next try after
// a conflict, for a change's plan, for the commit under way of other conversations. None of them looks
// at the clock on behalf of those who wait. That is done here: what isn't in a transaction after WaitAtMost
// is refused, whoever holds its conversation. What is in one hears its outcome.

// looks is how often a message that waits is looked at in WaitAtMost: it waits for as long again at most, divided by this.
const looks = 4

// waits are the conversations in which messages wait or did a moment ago, in the order in which they are to be looked at.
type waits struct {
	mu   sync.Mutex
	list []wait
	some chan struct{} // has one if the list was empty
}

// wait is a conversation's entry; it has one at most.
type wait struct {
	c  *conversation
	at int64 // when it is looked at, of trace.Now
}

// watch sees to it that the messages waiting in c are looked at. c is locked.
func (s *Sequencer) watch(c *conversation) {
	if c.watched || s.cfg.WaitAtMost == 0 {
		return
	}
	c.watched = true
	w := &s.waits
	w.mu.Lock()
	first := len(w.list) == 0
	w.list = append(w.list, wait{c, trace.Now() + int64(s.cfg.WaitAtMost)/looks})
	w.mu.Unlock()
	if first {
		select {
		case w.some <- struct{}{}:
		default:
		}
	}
}

// runWaits refuses what has waited for too long, until ctx ends.
func (s *Sequencer) runWaits(ctx context.Context) {
	var timer <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.waits.some:
		case <-timer:
		}
		timer = nil
		if next := s.lookAtWaits(trace.Now()); next > 0 {
			timer = time.After(next)
		}
	}
}

// lookAtWaits looks, at now of trace.Now, at those whose turn it is, and returns when the next one's is; 0: there is none.
func (s *Sequencer) lookAtWaits(now int64) time.Duration {
	w := &s.waits
	w.mu.Lock()
	n := 0
	for n < len(w.list) && w.list[n].at <= now {
		n++
	}
	due := w.list[:n:n]
	if w.list = w.list[n:]; len(w.list) == 0 {
		w.list = nil
	}
	w.mu.Unlock()
	refused := false
	for i := range due {
		if s.expire(due[i].c, now) {
			refused = true
		}
		due[i].c = nil
	}
	if refused {
		s.after()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.list) == 0 {
		return 0
	}
	return max(time.Duration(w.list[0].at-now), 1)
}

// expire refuses the messages at the front of c's queue that have waited for too long, and reports whether there
// were any. It doesn't hold c: whoever does takes what waits under the lock, and finds it gone.
func (s *Sequencer) expire(c *conversation, now int64) bool {
	c.mu.Lock()
	e := code.New(code.Unavailable)
	if c.unsure {
		e = code.New(code.Undetermined)
	}
	var outs []outcome
	bytes := 0
	for bi := range c.waiting {
		b := &c.waiting[bi]
		i := 0
		for i < len(b.msgs) && now-b.msgs[i].At > int64(s.cfg.WaitAtMost) {
			p := &b.msgs[i]
			outs = append(outs, outcome{p: p, at: b.at + uint64(i), burst: b.burst, err: e})
			bytes += weight(p)
			i++
		}
		if i < len(b.msgs) {
			break
		}
	}
	if len(outs) > 0 {
		c.shutLanes(outs, s.cfg.Now())
		c.waiting = cut(c.waiting, len(outs))
		c.count -= len(outs)
		c.bytes -= bytes
		s.pending.Add(int64(-len(outs)))
		s.pendingBytes.Add(int64(-bytes))
	}
	c.watched = false
	if len(c.waiting) > 0 {
		s.watch(c)
	}
	c.mu.Unlock()
	s.answer(c.id, outs, 0, 0)
	return len(outs) > 0
}
