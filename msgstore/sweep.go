package msgstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// IDWindow is how long client message ids are remembered.
const IDWindow = 7 * 24 * time.Hour

// Bounds of one transaction of a sweep.
const (
	sweepIDRows = 256
	sweepRefs   = 1024
)

// SweeperConfig says what a Sweeper sweeps. Zero values stand for the defaults.
type SweeperConfig struct {
	Store kv.Store
	Keys  Keys

	// Mine reports whether a slot is this sweeper's, as of now; what belongs to the whole store is done by
	// whoever has slot 0. So several sweepers divide a store; two that both believe that a slot is theirs only
	// do some work twice. It must not block. Nil: all are.
	Mine func(slot id.Slot) bool

	// HandOn hands on what the bus, which lies apart, may lack of convs: their outbox marks were set MarkAge ago, so
	// whoever set them is likely to be dead. Nil: there are no marks.
	HandOn  func(ctx context.Context, convs []id.ConversationID) error
	MarkAge time.Duration // 0: one minute

	Now    func() int64 // Unix ms; nil: the machine's clock
	Logger *slog.Logger // nil: slog.Default

	IDInterval    time.Duration // between passes over all conversations; 0: one hour
	BusInterval   time.Duration // between looks at the bus log; 0: 10 s
	BusKeep       int           // references kept whatever was consumed; 0: 1000
	BusMost       uint64        // references kept at most, however far behind a group is: a dead one must not fill the disk. 0: 10,000,000
	BusPartitions uint16        // 0: one

	Retention Retention // of messages, until SetRetention; looked after once an hour, in small portions
}

// Sweeper removes what the format lets go: client message ids past their window, and
// references of the embedded bus that every group of consumers is done with; and messages
// that are older than they are kept; and it merges small segments. Every step
// is one bounded transaction, which is taken even when the store is nearly full, and requires what it
// rests on, so that it does no harm wherever else the same is done. Not for concurrent use; each slot of a store has one sweeper.
type Sweeper struct {
	cfg       SweeperConfig
	timeline  *Timeline
	idsFrom   []byte            // where the pass over the conversations goes on; nil: the beginning
	oldFrom   []byte            // the same of the pass that removes old messages
	oldFailed bool              // that pass had an error
	thorough  bool              // that pass looks for rows of messages that are gone, also where none went
	soon      chan struct{}     // that pass is to begin
	smallFrom []byte            // the same of the pass that merges small segments
	smallConv id.ConversationID // which it left in the middle,
	smallTop  uint64            // at this message
	sidesFrom id.Slot           // where the pass over users' lists goes on
	marksFrom id.Slot           // where the pass over outbox marks goes on
	share     slotBits          // the slots of that pass over old messages
	retention atomic.Pointer[Retention]
	busFrom   map[uint16]uint64 // no reference lies below; seeking there skips what was deleted
}

// NewSweeper returns a sweeper that has done nothing yet.
func NewSweeper(cfg SweeperConfig) *Sweeper {
	if cfg.Now == nil {
		cfg.Now = func() int64 { return time.Now().UnixMilli() }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.IDInterval <= 0 {
		cfg.IDInterval = time.Hour
	}
	if cfg.BusInterval <= 0 {
		cfg.BusInterval = 10 * time.Second
	}
	if cfg.BusKeep <= 0 {
		cfg.BusKeep = 1000
	}
	if cfg.BusMost == 0 {
		cfg.BusMost = 10_000_000
	}
	if cfg.MarkAge <= 0 {
		cfg.MarkAge = time.Minute
	}
	if cfg.Mine == nil {
		cfg.Mine = func(id.Slot) bool { return true }
	}
	cfg.BusPartitions = max(cfg.BusPartitions, 1)
	s := &Sweeper{cfg: cfg, timeline: NewTimeline(cfg.Store, cfg.Keys), thorough: true, soon: make(chan struct{}, 1), busFrom: map[uint16]uint64{}}
	s.retention.Store(&cfg.Retention)
	return s
}

// SetRetention changes for how long messages are kept, from the next portion on. A pass begins at once if it is another than before.
// It may be called from any goroutine.
func (s *Sweeper) SetRetention(r Retention) {
	if old := s.retention.Swap(&r); *old != r {
		s.Soon()
	}
}

// Soon has the pass that removes old messages begin, or go on, at once. It may be called from any goroutine.
func (s *Sweeper) Soon() {
	select {
	case s.soon <- struct{}{}:
	default:
	}
}

// Run sweeps until ctx ends. The pass over the conversations is made in small portions
// with pauses, so that it never competes with clients.
func (s *Sweeper) Run(ctx context.Context) error {
	const portion = 500 // conversations between two pauses
	bus := time.NewTicker(s.cfg.BusInterval)
	defer bus.Stop()
	ids := time.NewTimer(s.cfg.IDInterval)
	defer ids.Stop()
	sides := time.NewTimer(sidesEvery)
	defer sides.Stop()
	old := time.NewTimer(retainFirst)
	defer old.Stop()
	small := time.NewTimer(smallFirst)
	defer small.Stop()
	var marks <-chan time.Time
	if s.cfg.HandOn != nil {
		t := time.NewTicker(marksEvery)
		defer t.Stop()
		marks = t.C
	}
	smallSince, smallBefore := s.cfg.Now()-smallLookBack.Milliseconds(), int64(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-marks:
			handed, _, err := s.SweepMarks(ctx, s.cfg.Now()-s.cfg.MarkAge.Milliseconds(), marksSlots)
			s.failed(ctx, err, "outbox marks")
			if handed > 0 {
				s.cfg.Logger.Info("sweep: outbox marks that nobody looked after", "conversations", handed)
			}
		case <-bus.C:
			if !s.cfg.Mine(0) {
				continue
			}
			for p := range s.cfg.BusPartitions {
				_, err := s.SweepBusLog(ctx, p)
				s.failed(ctx, err, "bus log", "partition", p)
			}
		case <-s.soon:
			old.Reset(0)
		case <-old.C:
			removed, done, err := s.SweepOld(ctx, *s.retention.Load(), portion)
			s.failed(ctx, err, "old messages")
			if removed > 0 {
				s.cfg.Logger.Info("sweep: old messages", "removed", removed)
			}
			goOn(old, retainEvery, done || err != nil)
		case <-small.C:
			if smallBefore == 0 {
				smallBefore = s.cfg.Now() - smallAge.Milliseconds()
			}
			_, done, err := s.SweepSmall(ctx, smallSince, smallBefore, portion)
			s.failed(ctx, err, "small segments")
			if err == nil && done { // else it goes on there
				smallSince, smallBefore = smallBefore, 0
			}
			goOn(small, smallEvery, done || err != nil)
		case <-sides.C:
			changed, done, err := s.SweepSides(ctx, s.cfg.Now()-sidesAge.Milliseconds(), 64)
			s.failed(ctx, err, "users' lists")
			if changed > 0 {
				s.cfg.Logger.Info("sweep: users' lists brought in line with groups", "rows", changed)
			}
			goOn(sides, sidesEvery, done || err != nil)
		case <-ids.C:
			removed, done, err := s.SweepIDs(ctx, s.cfg.Now()-IDWindow.Milliseconds(), portion)
			s.failed(ctx, err, "client message ids")
			if removed > 0 {
				s.cfg.Logger.Debug("sweep: client message ids", "rows", removed)
			}
			goOn(ids, s.cfg.IDInterval, done || err != nil)
		}
	}
}

// failed logs why a part of the sweep ended early, if it did, and not because all ends.
func (s *Sweeper) failed(ctx context.Context, err error, what string, attrs ...any) {
	if err != nil && ctx.Err() == nil {
		s.cfg.Logger.Warn("sweep: "+what, append(attrs, "err", err)...)
	}
}

// goOn sets the timer of a pass for its next portion: soon, or when the next pass is due.
func goOn(t *time.Timer, every time.Duration, ended bool) {
	if !ended {
		every = time.Second
	}
	t.Reset(every)
}

// SweepIDs looks at up to budget conversations and removes their rows of ids made before
// the Unix millisecond before, in whole seconds. Each transaction raises the head's
// IDFloor over what it removes, so that nobody takes a forgotten id for a new one. done
// says that the last conversation was reached; the next call begins at the first.
// A conversation whose head keeps changing meanwhile is left for the next pass.
func (s *Sweeper) SweepIDs(ctx context.Context, before int64, budget int) (removed int, done bool, err error) {
	second := IDSecondOf(before)
	if second <= 0 {
		return 0, true, nil
	}
	for range budget {
		if s.idsFrom == nil {
			s.idsFrom = s.cfg.Keys.All(nil)
		}
		c, next, err := s.next(ctx, s.idsFrom)
		if err != nil {
			return removed, false, fmt.Errorf("sweep ids: %w", err)
		}
		s.idsFrom = next
		if next == nil {
			return removed, true, nil
		}
		n, err := s.sweepConversation(ctx, c, second)
		removed += n
		if err != nil {
			return removed, false, fmt.Errorf("sweep ids of %s: %w", c, err)
		}
	}
	return removed, false, nil
}

// sweepConversation removes the rows of seconds below second, oldest first.
func (s *Sweeper) sweepConversation(ctx context.Context, c id.ConversationID, second int64) (removed int, err error) {
	var tx kv.Tx
	conflicts := 0
	for {
		tx.Reset()
		n, err := s.idStep(ctx, &tx, c, second)
		if err != nil || n == 0 {
			return removed, err
		}
		s.cfg.Store.Commit(ctx, &tx)
		switch {
		case tx.Err == nil:
			removed += n
			if n < sweepIDRows {
				return removed, nil
			}
		case errors.Is(tx.Err, kv.ErrConflict), errors.Is(tx.Err, kv.ErrUndetermined):
			if conflicts++; conflicts == 3 {
				return removed, nil
			}
		default:
			return removed, tx.Err
		}
	}
}

// idStep fills tx with the removal of the oldest rows below second; n is how many.
func (s *Sweeper) idStep(ctx context.Context, tx *kv.Tx, c id.ConversationID, second int64) (n int, err error) {
	// The head comes first: rows of ids change only with it, so it stands for them.
	h, raw, err := s.timeline.Head(ctx, c)
	if err != nil || raw == nil {
		return 0, err // rows without a head are for the audit
	}
	span := kv.Span{
		Start:   s.cfg.Keys.IDSecond(nil, c, second-1),
		End:     prefixEnd(s.cfg.Keys.IDRows(nil, c)),
		Reverse: true,
		Limit:   sweepIDRows,
	}
	err = s.cfg.Store.Scan(ctx, span, func(key, _ []byte) (bool, error) {
		if len(key) != len(span.Start)+8 {
			return false, fmt.Errorf("key of %d bytes among the ids: %w", len(key), ErrCorrupt)
		}
		at := int64(^binary.BigEndian.Uint64(key[len(key)-16:]))
		h.IDFloor = max(h.IDFloor, (at+1)*1000)
		tx.Delete(key)
		n++
		return true, nil
	})
	if err != nil || n == 0 {
		return 0, err
	}
	tx.Frees = true
	s.timeline.Append(tx, c, raw, &h, nil, nil)
	return n, nil
}

// Bounds of the pass that merges small segments.
const (
	smallEvery    = time.Hour // from the end of a pass to the next
	smallFirst    = 10 * time.Minute
	smallAge      = time.Hour          // younger messages are left alone: they are read from memory, and others follow
	smallLookBack = 7 * 24 * time.Hour // after a start
	smallTxs      = 64                 // conversations that are written with one sync
	smallStep     = 10                 // conversations that each further step within one stands for
)

// SweepSmall looks at up to budget conversations, or fewer long ones, and puts their small segments together:
// those of messages that were sent in [since, before), in Unix ms, and some older ones that may
// grow. Reading a page then takes one row or two instead of fifty. merged is how many rows
// fewer there are; done says that the last conversation was reached; the next call begins at the first. What
// somebody else has changed meanwhile is left as it is.
func (s *Sweeper) SweepSmall(ctx context.Context, since, before int64, budget int) (merged int, done bool, err error) {
	var txs []*kv.Tx
	var fewer []int
	size := 0
	commit := func() error {
		s.cfg.Store.Commit(ctx, txs...)
		var failed error
		for i, tx := range txs {
			switch {
			case tx.Err == nil:
				merged += fewer[i]
			case errors.Is(tx.Err, kv.ErrConflict), errors.Is(tx.Err, kv.ErrUndetermined), errors.Is(tx.Err, kv.ErrFull):
			case failed == nil:
				failed = tx.Err
			}
		}
		txs, fewer, size = txs[:0], fewer[:0], 0
		return failed
	}
	for budget > 0 {
		if s.smallFrom == nil {
			s.smallFrom = s.cfg.Keys.All(nil)
		}
		from := s.smallFrom
		c, next, err := s.next(ctx, s.smallFrom)
		if err != nil {
			return merged, false, fmt.Errorf("sweep small segments: %w", err)
		}
		s.smallFrom = next
		if next == nil {
			done = true
			break
		}
		h, _, err := s.timeline.Head(ctx, c)
		if err != nil {
			return merged, false, fmt.Errorf("sweep small segments: %w", err)
		}
		budget--
		if h.LastSeq < h.FirstSeq || h.LastTime < since {
			continue
		}
		var top uint64
		if c == s.smallConv {
			top = min(h.LastSeq, s.smallTop)
		} else if top, err = s.timeline.lastBefore(ctx, c, &h, before); err != nil {
			return merged, false, fmt.Errorf("sweep small segments: %w", err)
		}
		s.smallConv = id.ConversationID{}
		for top > 0 {
			tx := new(kv.Tx)
			var n int
			if n, top, err = s.timeline.merge(ctx, tx, c, top, since, before); err != nil {
				return merged, false, fmt.Errorf("sweep small segments: %w", err)
			}
			if n > 0 {
				txs, fewer, size = append(txs, tx), append(fewer, n), size+tx.Size()
			}
			if len(txs) == smallTxs || size >= mergeBytes {
				if err := commit(); err != nil {
					return merged, false, fmt.Errorf("sweep small segments: %w", err)
				}
			}
			if top == 0 {
				break
			}
			if budget -= smallStep; budget <= 0 { // goes on there
				s.smallFrom, s.smallConv, s.smallTop = from, c, top
				break
			}
		}
	}
	if len(txs) > 0 {
		if err := commit(); err != nil {
			return merged, done, fmt.Errorf("sweep small segments: %w", err)
		}
	}
	return merged, done, nil
}

// SweepBusLog removes the references of a partition that every group with a stored
// position is done with, but keeps the newest BusKeep, and of the others those that are among the newest
// BusMost. Where no group has a position nothing else is removed.
func (s *Sweeper) SweepBusLog(ctx context.Context, partition uint16) (removed int, err error) {
	cut, err := s.busCut(ctx, partition)
	if err != nil {
		return 0, fmt.Errorf("sweep bus log %d: %w", partition, err)
	}
	var tx kv.Tx
	for cut > 0 {
		tx.Reset()
		tx.Frees = true
		prefix := s.cfg.Keys.BusRefs(nil, partition)
		n, from := 0, s.busFrom[partition]
		span := kv.Span{
			Start: binary.BigEndian.AppendUint64(bytes.Clone(prefix), from),
			End:   append(binary.BigEndian.AppendUint64(bytes.Clone(prefix), cut), 0),
			Limit: sweepRefs,
		}
		err := s.cfg.Store.Scan(ctx, span, func(key, _ []byte) (bool, error) {
			tx.Delete(key)
			from = binary.BigEndian.Uint64(key[len(key)-8:]) + 1
			n++
			return true, nil
		})
		if err == nil && n > 0 {
			s.cfg.Store.Commit(ctx, &tx)
			err = tx.Err
		}
		if err != nil {
			return removed, fmt.Errorf("sweep bus log %d: %w", partition, err)
		}
		removed += n
		s.busFrom[partition] = from
		if n < sweepRefs {
			break
		}
	}
	return removed, nil
}

// busCut returns the highest stamp that may be removed; 0: none.
func (s *Sweeper) busCut(ctx context.Context, partition uint16) (uint64, error) {
	lowest := uint64(math.MaxUint64)
	start := s.cfg.Keys.BusPositions(nil)
	err := s.cfg.Store.Scan(ctx, kv.Span{Start: start, End: prefixEnd(bytes.Clone(start))}, func(key, value []byte) (bool, error) {
		if _, p, ok := busGroup(key[len(start):]); !ok || p != partition {
			return true, nil
		}
		stamp, err := ParseBusPosition(value)
		lowest = min(lowest, stamp)
		return true, err
	})
	if err != nil {
		return 0, err
	}
	kept, oldest, newest := 0, uint64(0), uint64(0)
	refs := s.cfg.Keys.BusRefs(nil, partition)
	span := kv.Span{Start: refs, End: prefixEnd(bytes.Clone(refs)), Reverse: true, Limit: s.cfg.BusKeep}
	err = s.cfg.Store.Scan(ctx, span, func(key, _ []byte) (bool, error) {
		kept++
		oldest = binary.BigEndian.Uint64(key[len(key)-8:])
		newest = max(newest, oldest)
		return true, nil
	})
	if err != nil || kept < s.cfg.BusKeep || oldest == 0 {
		return 0, err
	}
	if lowest == math.MaxUint64 {
		lowest = 0
	}
	if newest > s.cfg.BusMost { // stamps are numbers without gaps
		lowest = max(lowest, newest-s.cfg.BusMost)
	}
	return min(lowest, oldest-1), nil
}

// busGroup takes apart what follows the prefix in a position's key.
func busGroup(rest []byte) (group string, partition uint16, ok bool) {
	i := bytes.IndexByte(rest, 0)
	if i <= 0 || len(rest) != i+3 {
		return "", 0, false
	}
	return string(rest[:i]), binary.BigEndian.Uint16(rest[i+1:]), true
}

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

// How often some slots are looked through for outbox marks, and how many: all of them in four and a quarter minutes, by
// one worker. Few at a time, so that a store which answers each slot by itself, and others meanwhile, isn't asked for
// everything at once.
const (
	marksEvery = 500 * time.Millisecond
	marksSlots = 8
	marksPage  = 256 // marks handed on at once
)

// SweepMarks has those conversations handed on whose outbox marks were set before the Unix
// millisecond before: their owner died, and no other one has had to do with them. It looks at `slots` of its slots;
// handed is how many marks it found, done says that the last slot was reached, and the next call begins at the first.
func (s *Sweeper) SweepMarks(ctx context.Context, before int64, slots int) (handed int, done bool, err error) {
	// One View, and so one moment, for all of them: a moment costs as much as a slot that has no mark.
	start := s.cfg.Keys.OutboxMarks(nil, s.marksFrom)
	err = s.cfg.Store.View(ctx, start, nil, func(v kv.View) error {
		for slots > 0 && !done {
			slot := s.marksFrom
			if s.cfg.Mine(slot) {
				slots--
				n, err := s.sweepMarksOf(ctx, v, slot, before)
				handed += n
				if err != nil {
					return fmt.Errorf("sweep outbox marks of slot %d: %w", slot, err)
				}
			}
			if s.marksFrom++; s.marksFrom == id.SlotCount {
				s.marksFrom, done = 0, true
			}
		}
		return nil
	})
	return handed, done, err
}

func (s *Sweeper) sweepMarksOf(ctx context.Context, v kv.View, slot id.Slot, before int64) (handed int, err error) {
	start := s.cfg.Keys.OutboxMarks(nil, slot)
	for end := prefixEnd(bytes.Clone(start)); ; {
		var convs []id.ConversationID
		var last []byte
		span := kv.Span{Start: start, End: end, Limit: marksPage}
		n := 0
		err := v.Scan(span, func(key, value []byte) (bool, error) {
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
