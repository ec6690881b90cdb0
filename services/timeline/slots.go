package timeline

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Which process a conversation's messages go to is settled elsewhere, by its slot, and is a
// matter of cost: two that append to one conversation at once only conflict. So what is here
// keeps memory and the bus tidy when slots move, and lets a process that ends hand over without conflicts.

// slotSet is a set of slots. It is safe for concurrent use.
type slotSet struct {
	n    atomic.Int64 // elements, so that asking an empty one hashes nothing
	bits [id.SlotCount / 64]atomic.Uint64
}

func (s *slotSet) add(slot id.Slot) {
	if bit := uint64(1) << (slot % 64); s.bits[slot/64].Or(bit)&bit == 0 {
		s.n.Add(1)
	}
}

// remove reports whether slot was there.
func (s *slotSet) remove(slot id.Slot) bool {
	bit := uint64(1) << (slot % 64)
	if s.bits[slot/64].And(^bit)&bit == 0 {
		return false
	}
	s.n.Add(-1)
	return true
}

func (s *slotSet) has(conv id.ConversationID) bool {
	if s.n.Load() == 0 {
		return false
	}
	slot := conv.Slot()
	return s.bits[slot/64].Load()&(1<<(slot%64)) != 0
}

// leave is conversations whose slots this process lets go.
type leave struct {
	convs []*conversation // that are still in memory
	done  chan struct{}   // closed when none is
}

// Own says that slots are this process's now: what is sent there is taken (again), and what an
// owner before left to be handed on to the bus is handed on.
func (s *Sequencer) Own(slots []id.Slot) {
	for _, slot := range slots {
		s.drained.remove(slot)
		s.due.add(slot)
	}
}

// Release says that slots are another process's now. What is cached of their conversations is
// dropped, of each as soon as nobody works on it. What is sent here all the same is appended as
// ever: who owns what is known a little earlier here and a little later there, and the head fences. Outbox
// marks that were set here are swept here on: the next owner may have looked for some before.
func (s *Sequencer) Release(slots []id.Slot) { s.leave(slots) }

// Drain has messages and changes to conversations of slots refused from now on, as wrong_owner, which
// may be tried again elsewhere, and returns when everything that was taken before is done with:
// its senders are answered, and the bus has it, or its outbox mark is stored. The next owner then starts without a
// conflict. Own takes it back. After an error (ctx's) slots are refused, too, and what was taken is being finished.
func (s *Sequencer) Drain(ctx context.Context, slots []id.Slot) error {
	for _, slot := range slots {
		s.drained.add(slot)
	}
	select {
	case <-s.leave(slots).done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain %d slots: %w", len(slots), ctx.Err())
	}
}

// leave has what is in memory of slots dropped.
func (s *Sequencer) leave(slots []id.Slot) *leave {
	var set slotSet
	for _, slot := range slots {
		set.add(slot)
	}
	l := &leave{done: make(chan struct{})}
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for conv, c := range sh.convs {
			if set.has(conv) {
				l.convs = append(l.convs, c)
			}
		}
		sh.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		close(l.done)
		return l
	}
	s.leaves = append(s.leaves, l)
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return l
}

// letGo drops what it can of the conversations that are to go. Those somebody works on come by
// here again: each comes back to this goroutine.
func (s *Sequencer) letGo() {
	s.mu.Lock()
	leaves := s.leaves
	s.leaves = nil
	s.mu.Unlock()
	if len(leaves) == 0 {
		return
	}
	var left []*leave
	for _, l := range leaves {
		kept := l.convs[:0]
		for _, c := range l.convs {
			if !s.dropIdle(c) {
				kept = append(kept, c)
			}
		}
		clear(l.convs[len(kept):])
		if l.convs = kept; len(kept) == 0 {
			close(l.done)
		} else {
			left = append(left, l)
		}
	}
	s.mu.Lock()
	s.leaves = append(s.leaves, left...)
	s.mu.Unlock()
}

// dropIdle forgets what is cached of c, unless somebody works on it. Its lanes stay as long as
// anything may be in flight behind what was refused; then it goes like any that isn't used.
func (s *Sequencer) dropIdle(c *conversation) bool {
	now := s.cfg.Now()
	c.mu.Lock()
	if c.held || c.dead {
		defer c.mu.Unlock()
		return c.dead
	}
	if c.lanesIdle(now) {
		c.mu.Unlock()
		return s.evictOne(c, now, false)
	}
	c.held = true
	c.mu.Unlock()
	c.drop()
	s.settle(c, nil, nil, 0, now, false)
	return true
}

// refuseForeign refuses messages to a slot that is another process's. No lane of this one holds
// back what follows, so their connection does.
func (s *Sequencer) refuseForeign(msgs []packet.Pending) {
	for i := range msgs {
		msgs[i].Unlaned = true
		msgs[i].Reply.Refused(&msgs[i], code.New(code.WrongOwner))
	}
	s.refused(code.WrongOwner, len(msgs))
}
