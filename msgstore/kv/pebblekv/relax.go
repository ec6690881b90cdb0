package pebblekv

import "fmt"

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
