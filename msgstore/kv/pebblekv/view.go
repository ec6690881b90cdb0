package pebblekv

import (
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// Pebble shows a batch to readers before its sync returned; a power failure could
// still take back what they saw. So readers never read the database itself, only the
// snapshot that was published last, and a snapshot is published when everything in it is durable.

// view is a published snapshot and its readers.
type view struct {
	snap    *pebble.Snapshot
	readers int
}

// views holds the current view and closes those before it once nobody reads them.
//
// Closing the oldest snapshot makes Pebble look for compactions, which may wait for
// the manifest; so snapshots are closed several at a time, the newest first, on a
// goroutine of their own, never while a commit waits.
type views struct {
	mu      sync.Mutex
	idle    sync.Cond // no reader, no closer
	cur     *view
	closed  bool
	readers int // of all views
	retired []*pebble.Snapshot
	closing bool // a goroutine closes snapshots
	since   time.Time
}

const (
	retireCount = 64
	retireEvery = 100 * time.Millisecond
)

func newViews(snap *pebble.Snapshot) *views {
	v := &views{cur: &view{snap: snap}}
	v.idle.L = &v.mu
	return v
}

// acquire returns the current view; release it after reading.
func (v *views) acquire() (*view, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.closed {
		return nil, kv.ErrClosed
	}
	v.cur.readers++
	v.readers++
	return v.cur, nil
}

func (v *views) release(w *view) {
	v.mu.Lock()
	defer v.mu.Unlock()
	w.readers--
	v.readers--
	if w.readers == 0 && w != v.cur {
		v.retired = append(v.retired, w.snap)
	}
	if v.closed && v.readers == 0 {
		v.idle.Broadcast()
	}
}

// publish makes snap what readers see from now on.
func (v *views) publish(snap *pebble.Snapshot, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if old := v.cur; old != nil && old.readers == 0 {
		v.retired = append(v.retired, old.snap)
	}
	v.cur = &view{snap: snap}
	if !v.closing && (len(v.retired) >= retireCount || len(v.retired) > 0 && now.Sub(v.since) >= retireEvery) {
		v.since, v.closing = now, true
		list := v.retired
		v.retired = nil
		go func() {
			closeSnapshots(list)
			v.mu.Lock()
			v.closing = false
			v.mu.Unlock()
			v.idle.Broadcast()
		}()
	}
}

// refuse lets no more readers in.
func (v *views) refuse() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.closed = true
}

// close waits for the readers to end and closes all snapshots.
func (v *views) close() {
	v.refuse()
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.readers > 0 || v.closing {
		v.idle.Wait()
	}
	closeSnapshots(append(v.retired, v.cur.snap))
	v.retired = nil
}

// closeSnapshots closes from the newest to the oldest, so that only the last is the oldest that is open.
func closeSnapshots(list []*pebble.Snapshot) {
	for i := len(list) - 1; i >= 0; i-- {
		list[i].Close() // returns nil always
	}
}
