package pebblekv

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// worthFlushing is how much a memtable has to hold for Relax to flush it.
const worthFlushing = 1 << 20

// Relax gives back what a busy time has filled: the memtable goes to disk, recent keys are
// forgotten. The next transactions of each key look it up again. While anybody commits it
// does nothing. It returns when the flush has begun, not when it is done.
func (s *Store) Relax() error {
	if s.cfg.ReadOnly || s.fatal.Load() != nil || s.totals.full.Load() {
		return nil
	}
	q := &s.queue
	q.mu.Lock()
	if q.busy || q.closed {
		q.mu.Unlock()
		return nil
	}
	q.busy = true
	list := q.take()
	q.mu.Unlock()
	defer q.done(list)

	if s.group.broken {
		return nil
	}
	s.group.recent.forget()
	if s.db.Metrics().MemTable.Size < worthFlushing {
		return nil
	}
	if _, err := s.db.AsyncFlush(); err != nil {
		return fmt.Errorf("flush the memtable: %w", err)
	}
	return nil
}

// Settle puts what a busy time left in order: tables of the uppermost level lie over one another,
// and a scan looks into each of them. It does so only if that level holds at least one part in settleShare of the
// store, so each byte that was written is rewritten a bounded number of times. It takes a few seconds for each gigabyte, in
// steps, and returns after the one under way when ctx ends. It is for quiet times; commits and reads go on beside it.
func (s *Store) Settle(ctx context.Context) error {
	if s.cfg.ReadOnly || s.fatal.Load() != nil || s.totals.full.Load() {
		return nil
	}
	v, err := s.views.acquire() // keeps Close away
	if err != nil {
		return err
	}
	defer s.views.release(v)
	m := s.db.Metrics()
	upper, all := m.Levels[0].TablesSize, int64(0)
	for i := range m.Levels {
		all += m.Levels[i].TablesSize
	}
	if m.Levels[0].Sublevels < 2 || upper*settleShare < all {
		return nil
	}
	if usage, err := s.cfg.FS.GetDiskUsage(s.cfg.Dir); err == nil && usage.AvailBytes < uint64(max(s.cfg.DiskReserve, 0))+2*settleStep*settleShare {
		return nil // what is rewritten lies there twice for a moment
	}
	bounds, err := s.steps()
	if err != nil {
		return fmt.Errorf("list the store's tables: %w", err)
	}
	for i := range len(bounds) - 1 {
		if err := s.db.Compact(ctx, bounds[i], bounds[i+1], false); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("compact the store: %w", err)
		}
	}
	return nil
}

const (
	settleShare = 8
	settleStep  = 64 << 20 // bytes of the uppermost level
)

// steps cuts the keys of the uppermost level in ranges that hold about settleStep of it.
func (s *Store) steps() ([][]byte, error) {
	levels, err := s.db.SSTables()
	if err != nil {
		return nil, err
	}
	tables := levels[0]
	if len(tables) == 0 {
		return nil, nil
	}
	slices.SortFunc(tables, func(a, b pebble.SSTableInfo) int { return bytes.Compare(a.Smallest.UserKey, b.Smallest.UserKey) })
	bounds := [][]byte{tables[0].Smallest.UserKey}
	last, size := tables[0].Largest.UserKey, uint64(0)
	for i := range tables {
		if first := tables[i].Smallest.UserKey; size >= settleStep && bytes.Compare(first, bounds[len(bounds)-1]) > 0 {
			bounds, size = append(bounds, first), 0
		}
		size += tables[i].Size
		if bytes.Compare(tables[i].Largest.UserKey, last) > 0 {
			last = tables[i].Largest.UserKey
		}
	}
	return append(bounds, append(slices.Clone(last), 0)), nil
}
