package timeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/packet"
)

// loadQueue holds the conversations for which the store has to be read. It is bounded by
// the messages and changes that may wait: each conversation in it has one, or is being swept, or had one that
// was refused meanwhile. Those aren't read, and go when a loader comes to them, a read of those before later.
type loadQueue struct {
	mu     sync.Mutex
	some   sync.Cond
	convs  []*conversation
	closed bool
}

func (q *loadQueue) init() { q.some.L = &q.mu }

// put returns false when the queue is closed.
func (q *loadQueue) put(c *conversation) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.convs = append(q.convs, c)
	q.some.Signal()
	return true
}

// take waits for a conversation and returns nil when the queue is closed.
func (q *loadQueue) take() *conversation {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.convs) == 0 {
		if q.closed {
			return nil
		}
		q.some.Wait()
	}
	c := q.convs[0]
	q.convs[0] = nil
	if q.convs = q.convs[1:]; len(q.convs) == 0 {
		q.convs = nil
	}
	return c
}

// close returns what was still in the queue.
func (q *loadQueue) close() []*conversation {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.some.Broadcast()
	rest := q.convs
	q.convs = nil
	return rest
}

// load gives c, which the caller holds, to the loaders.
func (s *Sequencer) load(c *conversation) {
	c.giveBack()
	if s.loads.put(c) {
		return
	}
	c.mu.Lock()
	c.endSweep()
	c.mu.Unlock()
	s.refuseAll(c, code.New(code.Unavailable))
}

func (c *conversation) endSweep() {
	if c.swept != nil {
		close(c.swept)
		c.swept = nil
	}
}

// runLoader reads for one conversation after the other until the queue is closed.
func (s *Sequencer) runLoader(ctx context.Context) {
	for {
		c := s.loads.take()
		if c == nil {
			return
		}
		c.mu.Lock()
		sweep := c.swept != nil
		needed := sweep || len(c.waiting) > 0 || len(c.changes) > 0 || c.current != nil
		c.mu.Unlock()
		if !needed { // it took so long to come to it that all were refused
			s.enqueue(c)
			continue
		}
		if sweep {
			c.drop()
		}
		began := time.Now()
		bounded, cancel := context.WithTimeout(ctx, loadTimeout)
		c.failed = s.read(bounded, c, sweep)
		cancel()
		c.mu.Lock()
		c.endSweep()
		c.mu.Unlock()
		if f := s.cfg.Events.Loaded; f != nil && c.failed == nil {
			f(c.id, time.Since(began))
		}
		s.enqueue(c)
	}
}

// read brings into memory what c lacks.
func (s *Sequencer) read(ctx context.Context, c *conversation, sweep bool) error {
	if !c.loaded {
		if err := s.readHead(ctx, c, sweep); err != nil {
			return err
		}
	}
	if c.stale() {
		if err := s.readRules(ctx, c, c.head.StateVersion); err != nil {
			return err
		}
	}
	if c.changing() && !c.current.planned {
		s.planChange(ctx, c)
	}
	for _, e := range c.mids {
		if err := s.readMessageID(ctx, c, e); err != nil {
			return err
		}
	}
	c.mids = c.mids[:0]
	if len(c.seconds) == 0 {
		return nil
	}
	if len(c.ids.seconds)+len(c.seconds) > maxSeconds {
		c.ids.keep(c.inUse)
	}
	s.ids.misses.Add(int64(len(c.seconds)))
	for _, second := range c.seconds {
		es, err := s.timeline.IDs(ctx, c.id, second)
		if err != nil {
			return err
		}
		var t idTable
		for _, e := range es {
			t.add(idEntry{hash: e.Hash, seq: e.Seq, body: e.Body})
		}
		c.ids.seconds = append(c.ids.seconds, idSecond{second: second, table: t})
	}
	c.seconds = c.seconds[:0]
	return nil
}

func (s *Sequencer) readHead(ctx context.Context, c *conversation, sweep bool) error {
	h, raw, err := s.timeline.Head(ctx, c.id)
	if err != nil {
		return err
	}
	if raw == nil {
		if s.apart && sweep {
			if err := s.removeOrphan(ctx, c); err != nil {
				return err
			}
		}
		c.absent, c.loaded = true, true
		return nil
	}
	if s.apart {
		if raw, err = s.catchUp(ctx, c, &h, raw, sweep); err != nil {
			return err
		}
	}
	// The rules are read after the head: those of a later StateVersion can't lead to a
	// commit on this head.
	if !c.hasRules || c.rulesAt != h.StateVersion {
		if err := s.readRules(ctx, c, h.StateVersion); err != nil {
			return err
		}
	}
	c.head = h
	c.head.PreviewSender, c.head.PreviewText = "", nil
	c.floor = h.LastTime + 1 // another owner may have used all of that millisecond
	c.ids.reset(h.IDMax + 1)
	c.loaded = true
	c.mu.Lock()
	c.raw = raw
	c.mu.Unlock()
	return nil
}

// readRules asks for the rules as of the state version of the head in memory.
func (s *Sequencer) readRules(ctx context.Context, c *conversation, version uint64) error {
	rules, err := s.cfg.Guard.Rules(ctx, c.id)
	var refusal *code.Error
	switch {
	case err == nil:
		c.rules, c.hasRules, c.refusal = rules, true, nil
	case errors.As(err, &refusal) && !refusal.Retryable():
		c.rules, c.hasRules, c.refusal = nil, false, refusal
	default:
		return fmt.Errorf("rules of %s: %w", c.id, err)
	}
	c.rulesAt = version
	return nil
}

// readMessageID completes an entry of a message that was sent again.
func (s *Sequencer) readMessageID(ctx context.Context, c *conversation, e *idEntry) error {
	messages, _, _, err := s.timeline.Range(ctx, c.id, e.seq, e.seq, 1, 0)
	if err != nil {
		return err
	}
	if len(messages) == 0 {
		// Retention took it. Its place is all that can be told of it.
		e.mid = 1
		return nil
	}
	v, _, err := packet.NextMessage(messages)
	if err != nil {
		return fmt.Errorf("message %d of %s: %w", e.seq, c.id, msgstore.ErrCorrupt)
	}
	e.mid = v.ID
	return nil
}

// loadFailed runs in the sequencer goroutine when the store could not be read for c.
func (s *Sequencer) loadFailed(c *conversation) {
	err := c.failed
	c.failed = nil
	s.log.Warn("a conversation could not be loaded", "conversation", c.id, "attempt", c.attempts+1, "err", err)
	c.drop()
	s.again(c, code.Wrap(code.Unavailable, err))
}
