package timeline

import (
	"context"
	"errors"
	"fmt"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
)

// commit commits the round's transactions, unless what they are stamped with may not be stored
// any more: false. They are to be built again then.
func (s *Sequencer) commit(ctx context.Context) bool {
	r := &s.round
	// A process that was stopped for a while must not store what it stamped before. What it stamped
	// while the number was its own may be stored later: its times lie below what is reserved, and
	// whoever has the number next begins above that.
	if s.cfg.Now()-r.now > s.cfg.RebuildAfter.Milliseconds() || !s.workerHeld() {
		return false
	}
	if len(r.txs) == 0 {
		return true
	}
	// What the store can't decide in time is undetermined, and made again with new times.
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.RebuildAfter)
	defer cancel()
	if err := s.reserve(bounded); err != nil {
		for _, tx := range r.txs {
			tx.Err = fmt.Errorf("times of messages could not be reserved (%v): %w", err, kv.ErrUnavailable)
		}
		return true
	}
	s.cfg.Store.Commit(bounded, r.txs...)
	return true
}

// reserve sees to it that nobody who has this process's number later uses a time of it again.
func (s *Sequencer) reserve(ctx context.Context) (err error) {
	if latest := s.clock.latest.Load(); s.cfg.Reserve != nil && latest > s.reserved {
		s.reserved, err = s.cfg.Reserve(ctx, latest)
	}
	return err
}

func (s *Sequencer) workerHeld() bool { return s.cfg.WorkerHeld == nil || s.cfg.WorkerHeld() }

// refuseTodo refuses all that is to be sequenced.
func (s *Sequencer) refuseTodo(e *code.Error) {
	for _, c := range s.todo {
		s.recent.touch(c)
		s.refuseAll(c, e)
	}
	clear(s.todo)
	s.todo = s.todo[:0]
	s.after()
}

// decide looks at what became of the run's transaction.
func (s *Sequencer) decide(ru *run, stale bool) {
	c := ru.c
	if ru.tx == nil {
		if s.behind(ru) {
			c.drop()
			s.again(c, code.New(code.Unavailable))
			return
		}
		s.finish(ru)
		return
	}
	err := ru.tx.Err
	if stale {
		c.drop()
		s.load(c)
		return
	}
	switch {
	case err == nil:
		c.mu.Lock()
		c.raw, c.next = c.next, c.raw
		c.mu.Unlock()
		c.head = ru.head
		c.head.PreviewSender, c.head.PreviewText = "", nil
		if ch := ru.change; ch != nil && ch.what != nil && ch.what.Done != nil {
			ch.what.Done(c.head.StateVersion, ch.seq)
		}
		c.marked = c.marked || ru.marks
		if len(ru.tx.Ops()) > 1 {
			c.doubt = false // the head was written
		}
		s.finish(ru)
		if ch := ru.change; ch != nil && ch.what != nil && ch.what.dated() {
			c.drop() // times and ids are read again
		}
	case errors.Is(err, kv.ErrConflict):
		if f := s.cfg.Events.Conflict; f != nil {
			f(c.id)
		}
		c.drop()
		s.again(c, code.Wrap(code.Unavailable, err))
	case errors.Is(err, kv.ErrFull):
		c.drop()
		s.refuseRun(ru, code.Wrap(code.StorageFull, err))
	case errors.Is(err, kv.ErrUnavailable), errors.Is(err, kv.ErrClosed):
		c.drop()
		s.again(c, code.Wrap(code.Unavailable, err))
	case errors.Is(err, kv.ErrTooLarge), errors.Is(err, kv.ErrInvalid):
		s.log.Error("the store does not take an append", "conversation", c.id, "messages", ru.stored, "bytes", ru.tx.Size(), "err", err)
		c.drop()
		if n := ru.end - ru.start; n > 1 {
			c.limit = n / 2
			s.load(c)
			return
		}
		s.refuseRun(ru, code.Wrap(code.ContentTooLarge, err))
	default:
		if f := s.cfg.Events.Undetermined; f != nil {
			f(c.id)
		}
		s.log.Warn("the outcome of an append is unknown", "conversation", c.id, "messages", ru.stored, "err", err)
		c.drop()
		c.doubt = true
		s.again(c, code.Wrap(code.Undetermined, err))
	}
}

// finish makes the run's outcomes final.
func (s *Sequencer) finish(ru *run) {
	c := ru.c
	c.attempts, c.limit = 0, 0
	if c.absent {
		c.drop()
	} else {
		c.ids.turn()
		if c.ids.loadedIDs() > keepEntries {
			c.ids.keep(nil)
		}
	}
	ru.ok = true
}

// refuseRun ends a run whose transaction stored nothing: what is known to be stored is
// acked, all else is refused with e.
func (s *Sequencer) refuseRun(ru *run, e *code.Error) {
	outs := s.round.outs[ru.start:ru.end]
	for i := range outs {
		o := &outs[i]
		if o.gated || o.dup && o.seq <= ru.c.head.LastSeq {
			continue
		}
		o.err, o.dup = e, false
	}
	if ru.change != nil {
		ru.change.err = e
	}
	ru.refused, ru.stored = true, 0
	s.finish(ru)
}
