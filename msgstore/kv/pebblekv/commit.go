package pebblekv

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// queue gathers the calls of Commit. A call that finds nobody committing commits at
// once, on its own goroutine; those that come meanwhile wait, and the first of them
// commits for all of them when the one before is through.
type queue struct {
	mu      sync.Mutex
	idle    sync.Cond // nobody commits
	busy    bool      // somebody commits
	closed  bool
	waiting []*call
	spare   []*call // the other of two arrays
}

// call is one waiting call of Commit.
type call struct {
	txs  []*kv.Tx
	wake chan bool // true: commit for all that wait; false: done
}

var calls = sync.Pool{New: func() any { return &call{wake: make(chan bool, 1)} }}

// Commit stores the transactions, together with those of other callers that come meanwhile.
// ctx counts until the transactions are taken; from then on the outcome is waited for.
func (s *Store) Commit(ctx context.Context, txs ...*kv.Tx) {
	if len(txs) == 0 {
		return
	}
	if err := ctx.Err(); err != nil {
		refuse(txs, fmt.Errorf("commit: %w: %w", kv.ErrUnavailable, err))
		return
	}
	q := &s.queue
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		refuse(txs, fmt.Errorf("commit: %w", kv.ErrClosed))
		return
	}
	c := calls.Get().(*call)
	c.txs = txs
	q.waiting = append(q.waiting, c)
	lead := !q.busy
	q.busy = true
	if !lead {
		q.mu.Unlock()
		if lead = <-c.wake; lead {
			q.mu.Lock()
		}
	}
	if lead {
		list := q.take()
		q.mu.Unlock()
		s.group.commit(list, c)
		q.done(list)
	}
	c.txs = nil
	calls.Put(c)
}

func refuse(txs []*kv.Tx, err error) {
	for _, tx := range txs {
		tx.Err = err
	}
}

// take returns the calls that wait; who has the duty to commit gives them back to done. mu is held.
func (q *queue) take() []*call {
	list := q.waiting
	q.waiting, q.spare = q.spare[:0], nil
	return list
}

// done passes the duty to commit on, if anybody waits.
func (q *queue) done(list []*call) {
	clear(list)
	q.mu.Lock()
	q.spare = list[:0]
	if len(q.waiting) > 0 {
		next := q.waiting[0]
		q.mu.Unlock()
		next.wake <- true
		return
	}
	q.busy = false
	if q.closed {
		q.idle.Broadcast()
	}
	q.mu.Unlock()
}

// close lets nobody in and waits for those inside; false: it was closed before.
func (q *queue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.closed = true
	q.idle.L = &q.mu
	for q.busy {
		q.idle.Wait()
	}
	return true
}

// group is what the goroutine that commits works with; the queue gives it to one at a time.
type group struct {
	broken bool // a write failed: nothing is written any more

	s       *Store
	limit   int // bytes of a batch at which it is written
	txs     []*kv.Tx
	batch   *pebble.Batch
	stamps  *pebble.Batch // stamped keys that go to the end of batch
	stamp   uint64        // last given out
	stored  uint64        // last that the store has
	order   []int         // scratch of add
	recent  *recent
	written written
	disk    watermark
	stats   Group
	began   time.Time
}

func newGroup(s *Store, stamp uint64) group {
	limit := min(8<<20, s.cfg.MemTableBytes/4)
	batch := func() *pebble.Batch {
		return s.db.NewBatch(pebble.WithInitialSizeBytes(64<<10), pebble.WithMaxRetainedSizeBytes(2*limit))
	}
	return group{
		s:      s,
		limit:  limit,
		batch:  batch(),
		stamps: batch(),
		stamp:  stamp,
		stored: stamp,
		recent: newRecent(s.cfg.RecentKeys),
		disk: watermark{
			fs:      s.cfg.FS,
			dir:     s.cfg.Dir,
			reserve: uint64(max(s.cfg.DiskReserve, 0)),
			every:   watermarkEvery,
			changed: s.diskChanged,
		},
	}
}

func (s *Store) diskChanged(full bool, free uint64) {
	if full {
		s.log.Warn("disk nearly full: only transactions that free space are taken", "free", free, "reserve", s.cfg.DiskReserve)
	} else {
		s.log.Info("disk has space again", "free", free, "reserve", s.cfg.DiskReserve)
	}
	s.totals.full.Store(full)
	if s.cfg.Observe.Full != nil {
		s.cfg.Observe.Full(full, free)
	}
}

// commit decides the transactions of all calls of list and wakes their callers, all but own.
func (g *group) commit(list []*call, own *call) {
	g.begin()
	woken := 0
	for i, c := range list {
		for _, tx := range c.txs {
			g.add(tx)
			if g.batch.Len()+g.stamps.Len() < g.limit {
				continue
			}
			// A giant group is written in parts, so that no batch outgrows the memtable.
			g.write()
			wake(list[woken:i], own)
			woken = i
			g.begin()
		}
	}
	g.write()
	wake(list[woken:], own)
}

func wake(list []*call, own *call) {
	for _, c := range list {
		if c != own {
			c.wake <- false
		}
	}
}

func (g *group) begin() {
	g.began = time.Now()
	g.disk.check(g.began)
	g.txs = g.txs[:0]
	g.written.reset()
	g.stats = Group{}
}

// add judges tx and, if all that it requires holds, puts what it writes in the batch.
func (g *group) add(tx *kv.Tx) {
	if tx.Err = g.judge(tx); tx.Err != nil {
		return
	}
	ops := tx.Ops()
	tx.Stamp = 0
	g.order = g.order[:0]
	for i := range ops {
		switch op := &ops[i]; op.Kind {
		case kv.OpSet, kv.OpDelete:
			g.place(ops, i)
		case kv.OpStamped:
			if tx.Stamp == 0 {
				g.stamp++
				tx.Stamp = g.stamp
			}
			d := g.stamps.SetDeferred(len(op.Key)+kv.StampLen, len(op.Value))
			copy(d.Key, op.Key)
			binary.BigEndian.PutUint64(d.Key[len(op.Key):], tx.Stamp)
			copy(d.Value, op.Value)
			g.remember(d.Key, op.Value)
		}
	}
	for _, i := range g.order {
		op := &ops[i]
		if g.maybeStamped(op.Key) {
			g.appendStamps() // else they would come after the write of the same key that comes now
		}
		if op.Kind == kv.OpSet {
			d := g.batch.SetDeferred(len(op.Key), len(op.Value))
			copy(d.Key, op.Key)
			copy(d.Value, op.Value)
		} else {
			d := g.batch.DeleteDeferred(len(op.Key))
			copy(d.Key, op.Key)
		}
		g.remember(op.Key, op.Value)
	}
	g.txs = append(g.txs, tx)
}

// place puts write i of ops where its key belongs in the order in which add writes them: the
// rows of a conversation are neighbours, and inserting a neighbour of the last key costs
// the memtable no search. Writes of one key keep their order.
func (g *group) place(ops []kv.Op, i int) {
	g.order = append(g.order, i)
	if len(g.order) > placeMax {
		return
	}
	for j := len(g.order) - 1; j > 0 && bytes.Compare(ops[g.order[j-1]].Key, ops[i].Key) > 0; j-- {
		g.order[j], g.order[j-1] = g.order[j-1], i
	}
}

// placeMax bounds place's work, which is quadratic.
const placeMax = 16

// maybeStamped tells whether key may be one that stamps holds.
func (g *group) maybeStamped(key []byte) bool {
	if g.stamps.Empty() || len(key) < kv.StampLen {
		return false
	}
	n := binary.BigEndian.Uint64(key[len(key)-kv.StampLen:])
	return n > g.stored && n <= g.stamp
}

// appendStamps moves the stamped keys to the end of the batch.
func (g *group) appendStamps() {
	if g.stamps.Empty() {
		return
	}
	if err := g.batch.Apply(g.stamps, nil); err != nil {
		g.s.fail(fmt.Errorf("gather stamped keys: %w", err))
	}
	g.stamps.Reset()
}

// remember brings what is known of key up to date.
func (g *group) remember(key, value []byte) {
	if i := g.recent.find(g.recent.hash(key), key); i >= 0 {
		g.recent.update(i, value)
	}
}

// judge returns why tx can't be stored, nil if it can.
func (g *group) judge(tx *kv.Tx) error {
	if f := g.s.fatal.Load(); f != nil {
		g.stats.Refused++
		return fmt.Errorf("commit: %w: %w", kv.ErrUndetermined, f.err)
	}
	if err := tx.Check(true); err != nil {
		g.stats.Refused++
		return fmt.Errorf("commit: %w", err)
	}
	if g.s.cfg.ReadOnly {
		g.stats.Refused++
		return fmt.Errorf("commit: %w: it was opened for reading", kv.ErrUnavailable)
	}
	if g.disk.full && !tx.Frees {
		g.stats.Refused++
		return errFull
	}
	ops := tx.Ops()
	for i := range ops {
		op := &ops[i]
		if op.Kind != kv.OpRequire {
			continue
		}
		h := g.recent.hash(op.Key)
		var value []byte
		if at := g.recent.find(h, op.Key); at >= 0 {
			value = g.recent.value(at)
		} else {
			var err error
			if value, err = g.lookUp(h, op.Key); err != nil {
				g.stats.Refused++
				return fmt.Errorf("commit: %w: %w", kv.ErrUnavailable, err)
			}
		}
		// Values are never empty, so an empty one means absence.
		if op.Absent != (len(value) == 0) || !bytes.Equal(value, op.Value) {
			g.stats.Conflicts++
			return errConflict
		}
	}
	return nil
}

var (
	errConflict = fmt.Errorf("commit: a required key has another value: %w", kv.ErrConflict)
	errFull     = fmt.Errorf("commit: disk space is below the reserve: %w", kv.ErrFull)
)

// lookUp finds the value (empty: absent) of a key that recent doesn't know, and tells it.
func (g *group) lookUp(h uint64, key []byte) ([]byte, error) {
	if value, ok := g.written.last(g.recent, g.txs, h, key); ok {
		g.recent.insert(h, key, value)
		return value, nil
	}
	g.s.totals.lookUps.Add(1)
	// This goroutine is the only writer and the groups before are durable, so the database itself is right.
	value, err := get(g.s.db, key)
	if err != nil {
		return nil, err
	}
	g.recent.insert(h, key, value)
	return value, nil
}

// write makes what was added durable, then visible.
func (g *group) write() {
	if g.broken {
		return // everything was refused; the batch is still Pebble's, and touching it panics
	}
	g.appendStamps()
	if g.stamp != g.stored {
		var v [kv.StampLen]byte
		binary.BigEndian.PutUint64(v[:], g.stamp)
		if err := g.batch.Set(stampKey, v[:], nil); err != nil {
			g.s.fail(fmt.Errorf("note the last stamp: %w", err))
		}
	}
	if !g.batch.Empty() {
		g.stats.Bytes = g.batch.Len()
		if err := g.apply(); err != nil {
			g.broken = true
			g.s.fail(err)
			for _, tx := range g.txs {
				tx.Err = fmt.Errorf("commit: %w: %w", kv.ErrUndetermined, err)
			}
			g.txs = g.txs[:0]
		} else {
			g.stored = g.stamp
			g.batch.Reset()
		}
	}
	g.stats.Txs = len(g.txs)
	g.disk.written += g.stats.Bytes
	g.s.totals.add(&g.stats)
	if g.s.cfg.Observe.Group != nil {
		g.s.cfg.Observe.Group(g.stats)
	}
	clear(g.txs)
}

// apply runs the batch through Pebble. After an error neither the batch nor Pebble is used again.
func (g *group) apply() (err error) {
	defer func() {
		// Pebble panics when it can't write to its log or begin another.
		if r := recover(); r != nil {
			err = fmt.Errorf("pebble: %v\n%s", r, debug.Stack())
		}
	}()
	start := time.Now()
	if err := g.s.db.ApplyNoSyncWait(g.batch, pebble.Sync); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	if f := g.s.fatal.Load(); f != nil {
		return f.err
	}
	// While the disk works: nobody else writes, so this snapshot ends with the batch.
	snap := g.s.db.NewSnapshot()
	applied := time.Now()
	if err := g.batch.SyncWait(); err != nil {
		return fmt.Errorf("sync the log: %w", err)
	}
	synced := time.Now()
	g.s.views.publish(snap, synced)
	g.stats.Prepare, g.stats.Apply, g.stats.Sync = start.Sub(g.began), applied.Sub(start), synced.Sub(applied)
	return nil
}
