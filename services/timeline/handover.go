package timeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// What is here concerns a bus that lies apart from the store. An append is acked after
// that bus took its event, or else after the conversation's outbox mark is stored; so for
// every conversation in memory holds: the bus has taken everything up to its last message
// (handed = LastSeq), or its mark is stored (marked).

// handOn gives the round's events to the bus, or sees to it that they will be.
func (s *Sequencer) handOn(ctx context.Context) {
	r := &s.round
	away := s.away.Load()
	// Those that the bus may not bring come first: nobody waits for one that hangs.
	direct, rest := s.queues.part(r.events, away)
	s.direct(direct)
	if !away {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.PublishTimeout)
		err := s.cfg.Bus.Publish(bounded, r.events)
		cancel()
		if err == nil {
			for i := range r.runs {
				if ru := &r.runs[i]; ru.ok && ru.stored > 0 && !ru.c.marked {
					ru.c.handed = ru.c.head.LastSeq
				}
			}
			s.queues.published(direct)
			return
		}
		s.busAway(err)
		s.direct(rest)
	}
	s.setMarks(ctx)
}

func (s *Sequencer) direct(evs []bus.Event) {
	if s.cfg.Direct != nil && len(evs) > 0 {
		s.cfg.Direct(evs)
	}
}

func (s *Sequencer) busAway(err error) {
	s.queues.lost()
	if s.away.CompareAndSwap(false, true) {
		s.log.Warn("the bus is away; appends are marked and handed on when it is back", "err", err)
		if f := s.cfg.Events.BusAway; f != nil {
			f(true)
		}
	}
}

func (s *Sequencer) busBack() {
	if s.away.CompareAndSwap(true, false) {
		s.log.Info("the bus is back")
		if f := s.cfg.Events.BusAway; f != nil {
			f(false)
		}
	}
}

// setMarks stores the outbox marks of the round's conversations that have none. Where
// that fails, the senders are not acked but told to come again.
func (s *Sequencer) setMarks(ctx context.Context) {
	r := &s.round
	var txs []*kv.Tx
	var runs []*run
	for i := range r.runs {
		ru := &r.runs[i]
		if !ru.ok || ru.stored == 0 || ru.c.marked {
			continue
		}
		tx := new(kv.Tx)
		s.mark(tx, ru.c, r.now)
		txs, runs = append(txs, tx), append(runs, ru)
	}
	if len(txs) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.RebuildAfter)
	s.cfg.Store.Commit(bounded, txs...)
	cancel()
	for i, tx := range txs {
		ru := runs[i]
		if tx.Err == nil {
			ru.c.marked = true
			continue
		}
		s.log.Warn("an outbox mark could not be stored", "conversation", ru.c.id, "err", tx.Err)
		e := code.Wrap(code.Undetermined, tx.Err)
		outs := r.outs[ru.start:ru.end]
		for j := range outs {
			if o := &outs[j]; o.err == nil && o.seq > ru.c.handed {
				o.err, o.dup = e, false
			}
		}
		if ru.change != nil {
			ru.change.err = e
		}
		ru.refused = true
		ru.c.drop() // who loads it again hands it on
	}
}

func (s *Sequencer) mark(tx *kv.Tx, c *conversation, now int64) {
	s.due.add(c.id.Slot())
	var key [msgstore.MaxKeyLen]byte
	m := msgstore.OutboxMark{Since: now, FromSeq: c.handed + 1}
	tx.SetFunc(s.cfg.Keys.OutboxMark(key[:0], c.id), m.Append)
}

// catchUp hands on what the bus may not have taken of a conversation that is being loaded
// with the head h in the row raw, and returns the row that holds then. The bus may take
// some of it again: consumers drop what they have.
func (s *Sequencer) catchUp(ctx context.Context, c *conversation, h *msgstore.Head, raw []byte, sweep bool) ([]byte, error) {
	c.handed, c.marked = h.HandedSeq, false
	if h.HandedSeq == h.LastSeq && !sweep {
		return raw, nil
	}
	var key [msgstore.MaxKeyLen]byte
	marked, err := s.cfg.Store.Get(ctx, s.cfg.Keys.OutboxMark(key[:0], c.id))
	if err != nil {
		return nil, fmt.Errorf("read outbox mark of %s: %w", c.id, err)
	}
	c.marked = marked != nil
	if s.away.Load() { // tryBus finds out when it is back
		return raw, s.ensureMark(ctx, c)
	}
	if _, err := s.republish(ctx, c.id, h.HandedSeq+1, h.LastSeq); err != nil {
		if !errors.Is(err, errPublish) {
			return nil, err
		}
		s.busAway(err)
		return raw, s.ensureMark(ctx, c)
	}
	s.busBack()
	c.handed = h.LastSeq
	if !c.marked {
		return raw, nil // the next append notes how far the bus is
	}
	// Without writing the head the mark of an append that was made meanwhile could go.
	h.HandedSeq = h.LastSeq
	h.IDMax++ // no head is ever the same as an earlier one
	tx := new(kv.Tx)
	s.timeline.Append(tx, c.id, raw, h, nil, nil)
	tx.Delete(s.cfg.Keys.OutboxMark(key[:0], c.id))
	s.cfg.Store.Commit(ctx, tx)
	if tx.Err != nil {
		return nil, fmt.Errorf("delete outbox mark of %s: %w", c.id, tx.Err)
	}
	c.marked = false
	return h.Append(nil), nil
}

// removeOrphan removes the outbox mark of a conversation that is being loaded and has no head: since no head is ever
// deleted, no append stands behind the mark, and every sweep would look at it again. Whoever makes the conversation
// meanwhile writes its head. That key is therefore not only required to be empty but written, as a deletion of nothing: a
// store that several nodes share refuses a transaction for what it writes alone.
func (s *Sequencer) removeOrphan(ctx context.Context, c *conversation) error {
	var key [msgstore.MaxKeyLen]byte
	mark := s.cfg.Keys.OutboxMark(key[:0], c.id)
	v, err := s.cfg.Store.Get(ctx, mark)
	if err != nil {
		return fmt.Errorf("read outbox mark of %s: %w", c.id, err)
	}
	if v == nil {
		return nil
	}
	tx := &kv.Tx{Frees: true}
	head := s.cfg.Keys.Head(nil, c.id)
	tx.Require(mark, v)
	tx.Require(head, nil)
	tx.Delete(head)
	tx.Delete(mark)
	s.cfg.Store.Commit(ctx, tx)
	if tx.Err != nil {
		return fmt.Errorf("delete outbox mark of %s, which doesn't exist: %w", c.id, tx.Err)
	}
	s.log.Warn("an outbox mark of a conversation that doesn't exist was removed", "conversation", c.id)
	return nil
}

// ensureMark stores the mark of a conversation that is being loaded, if it has none.
func (s *Sequencer) ensureMark(ctx context.Context, c *conversation) error {
	if c.marked {
		return nil
	}
	tx := new(kv.Tx)
	s.mark(tx, c, s.cfg.Now())
	s.cfg.Store.Commit(ctx, tx)
	if tx.Err != nil {
		return fmt.Errorf("store outbox mark of %s: %w", c.id, tx.Err)
	}
	c.marked = true
	return nil
}

// errPublish: the bus did not take what it was given.
var errPublish = errors.New("timeline: the bus took no events")

// republish gives the stored messages from..to to the bus, and tells whether there were any.
func (s *Sequencer) republish(ctx context.Context, conv id.ConversationID, from, to uint64) (some bool, err error) {
	for from <= to {
		messages, _, last, err := s.timeline.Range(ctx, conv, from, to, 0, eventBytes)
		if err != nil {
			return some, err
		}
		if last < from {
			return some, nil
		}
		if len(messages) > 0 {
			some = true
			v, _, err := packet.NextMessage(messages)
			if err != nil {
				return some, fmt.Errorf("message %d of %s: %w", from, conv, msgstore.ErrCorrupt)
			}
			bounded, cancel := context.WithTimeout(ctx, s.cfg.PublishTimeout)
			err = s.cfg.Bus.Publish(bounded, []bus.Event{{Conversation: conv, Epoch: s.cfg.Epoch, FirstSeq: v.Seq, LastSeq: last, Messages: messages}})
			cancel()
			if err != nil {
				return some, fmt.Errorf("publish %s from %d: %w: %w", conv, from, errPublish, err)
			}
		}
		from = last + 1
	}
	return some, nil
}

// runSweep hands on what stands behind outbox marks, in the slots where there may be some: those
// that became this process's, since an owner before may have left marks, and those in which this process
// set one. A mark that is set elsewhere later is that process's to sweep.
func (s *Sequencer) runSweep(ctx context.Context) {
	pause := sweepPauseMin
	for {
		if s.due.n.Load() > 0 {
			if err := s.sweep(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("outbox marks could not be swept", "err", err)
			}
		}
		if s.due.n.Load() == 0 {
			s.busBack() // nothing waits: the next append finds out whether it is
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if pause = min(2*pause, sweepPauseMax); !s.away.Load() {
			pause = sweepPauseMin
		}
	}
}

// sweep hands on behind the marks that there are. A slot is done with when none was found in it.
// While the bus is away it tries whether it is back.
func (s *Sequencer) sweep(ctx context.Context) error {
	skipped := false
	for slot := range id.Slot(id.SlotCount) {
		if !s.due.remove(slot) { // before the look: a mark that is set meanwhile puts it back
			continue
		}
		marks, err := s.marksOf(ctx, slot)
		if err != nil || len(marks) > 0 {
			s.due.add(slot)
		}
		if err != nil {
			return err
		}
		for rest := marks; len(rest) > 0; {
			if s.away.Load() {
				asked, err := s.tryBus(ctx, rest[0])
				switch {
				case errors.Is(err, kv.ErrUnavailable), ctx.Err() != nil:
					return err
				case err != nil: // its own affair, whatever is wrong with it: the others' can be given to the bus
					s.log.Warn("a conversation can't be handed on", "conversation", rest[0], "err", err)
				case asked && s.away.Load():
					return nil
				}
				if s.away.Load() {
					rest, skipped = rest[1:], true
					continue
				}
			}
			n := min(len(rest), sweepAtOnce)
			s.sweepAll(ctx, rest[:n])
			if s.away.Load() || ctx.Err() != nil {
				return ctx.Err()
			}
			rest = rest[n:]
		}
	}
	if skipped {
		s.busBack() // nothing that waits can be given to it: the next append finds out whether it is
	}
	return nil
}

// tryBus gives the bus that is away the first message behind the mark of conv, if there is one, and notes that it is back if it takes it.
// The conversation goes on meanwhile: a bus that hangs is found out about at nobody's expense.
func (s *Sequencer) tryBus(ctx context.Context, conv id.ConversationID) (asked bool, err error) {
	h, _, err := s.timeline.Head(ctx, conv)
	if err != nil {
		return false, err
	}
	asked, err = s.republish(ctx, conv, h.HandedSeq+1, min(h.HandedSeq+1, h.LastSeq))
	switch {
	case errors.Is(err, errPublish):
		return true, nil
	case asked && err == nil:
		s.busBack()
	}
	return asked, err
}

// marksOf returns some of the conversations of slot that have an outbox mark.
func (s *Sequencer) marksOf(ctx context.Context, slot id.Slot) (marks []id.ConversationID, err error) {
	start := s.cfg.Keys.OutboxMarks(nil, slot)
	end := s.cfg.Keys.OutboxMarks(nil, slot)
	end[len(end)-1]++ // the area's number, which is small
	err = s.cfg.Store.Scan(ctx, kv.Span{Start: start, End: end, Limit: markScanPage}, func(key, _ []byte) (bool, error) {
		conv, err := id.ConversationFromBytes(key[len(start):])
		marks = append(marks, conv)
		return true, err
	})
	if err != nil {
		return nil, fmt.Errorf("scan outbox marks of slot %d: %w", slot, err)
	}
	return marks, nil
}

// HandOn hands on what the bus may lack of convs, which have an outbox mark that nobody else
// seems to sweep. It returns when that was tried, or ctx ends: marks that are left say how it went.
func (s *Sequencer) HandOn(ctx context.Context, convs []id.ConversationID) {
	if !s.apart {
		return
	}
	for rest := convs; len(rest) > 0 && ctx.Err() == nil; {
		n := min(len(rest), sweepAtOnce)
		s.sweepAll(ctx, rest[:n])
		rest = rest[n:]
	}
}

// sweepAll has the conversations loaded anew, which hands them on, and waits for it.
func (s *Sequencer) sweepAll(ctx context.Context, convs []id.ConversationID) {
	var wg sync.WaitGroup
	for _, conv := range convs {
		c := s.lock(conv)
		if c.swept == nil {
			c.swept = make(chan struct{})
		}
		swept, held := c.swept, c.held
		c.held = true
		c.mu.Unlock()
		if !held {
			s.load(c)
		}
		wg.Go(func() {
			select {
			case <-swept:
			case <-ctx.Done():
			}
		})
	}
	wg.Wait()
}
