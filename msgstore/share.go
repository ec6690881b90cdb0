package msgstore

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// slotBits is a set of slots.
type slotBits [id.SlotCount / 64]uint64

// gained reports whether the sweeper has a slot that it hadn't when it was asked before.
func (s *Sweeper) gained() (gained bool) {
	var now slotBits
	for slot := range id.Slot(id.SlotCount) {
		if s.cfg.Mine(slot) {
			now[slot/64] |= 1 << (slot % 64)
		}
	}
	for i := range now {
		gained = gained || now[i]&^s.share[i] != 0
	}
	s.share = now
	return gained
}

// next is nextConversation for those in the sweeper's slots.
func (s *Sweeper) next(ctx context.Context, from []byte) (c id.ConversationID, next []byte, err error) {
	for {
		c, next, err = nextConversation(ctx, s.cfg.Store, s.cfg.Keys, from)
		if err != nil || next == nil || s.cfg.Mine(c.Slot()) {
			return c, next, err
		}
		slot := c.Slot() + 1
		for slot < id.SlotCount && !s.cfg.Mine(slot) {
			slot++
		}
		if slot >= id.SlotCount {
			return c, nil, nil
		}
		// A conversation under a slot that isn't its own, which is for the audit, must not lead back.
		if from = s.cfg.Keys.areaKey(nil, slot, areaConversation); bytes.Compare(from, next) < 0 {
			from = next
		}
	}
}

// How often some slots are looked through for outbox marks, and how many: all of them in a minute.
const (
	marksEvery = time.Second
	marksSlots = 64
	marksPage  = 256 // marks handed on at once
)

// SweepMarks has those conversations handed on whose outbox marks were set before the Unix
// millisecond before: their owner died, and no other one has had to do with them. It looks at `slots` of its slots;
// handed is how many marks it found, done says that the last slot was reached, and the next call begins at the first.
func (s *Sweeper) SweepMarks(ctx context.Context, before int64, slots int) (handed int, done bool, err error) {
	for slots > 0 {
		slot := s.marksFrom
		if s.cfg.Mine(slot) {
			slots--
			n, err := s.sweepMarksOf(ctx, slot, before)
			handed += n
			if err != nil {
				return handed, false, fmt.Errorf("sweep outbox marks of slot %d: %w", slot, err)
			}
		}
		if s.marksFrom++; s.marksFrom == id.SlotCount {
			s.marksFrom = 0
			return handed, true, nil
		}
	}
	return handed, false, nil
}

func (s *Sweeper) sweepMarksOf(ctx context.Context, slot id.Slot, before int64) (handed int, err error) {
	start := s.cfg.Keys.OutboxMarks(nil, slot)
	for end := prefixEnd(bytes.Clone(start)); ; {
		var convs []id.ConversationID
		var last []byte
		span := kv.Span{Start: start, End: end, Limit: marksPage}
		n := 0
		err := s.cfg.Store.Scan(ctx, span, func(key, value []byte) (bool, error) {
			n++
			last = append(last[:0], key...)
			m, err := ParseOutboxMark(value)
			if err != nil || len(key) != prefixLen+1+16 {
				return true, nil // for the audit
			}
			if m.Since < before {
				convs = append(convs, id.ConversationID(key[prefixLen+1:]))
			}
			return true, nil
		})
		if err != nil {
			return handed, err
		}
		if len(convs) > 0 {
			if err := s.cfg.HandOn(ctx, convs); err != nil {
				return handed, err
			}
			handed += len(convs)
		}
		if n < marksPage {
			return handed, nil
		}
		start = append(last, 0)
	}
}
