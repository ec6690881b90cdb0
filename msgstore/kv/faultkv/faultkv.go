// Package faultkv wraps a kv.Store and makes it fail the ways real ones do: outcomes
// unknown (stored, lost, or stored later), conflicts out of nowhere, no room, nobody
// there, reads that break off, commits that hang.
//
// Faults are drawn with a seed, or scripted for the transactions that come next. A
// Store without either passes everything through.
package faultkv

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// Fault is what happens to one transaction.
type Fault uint8

const (
	None        Fault = iota
	Applied           // it is committed (or conflicts), and the caller gets ErrUndetermined
	Lost              // it is dropped, and the caller gets ErrUndetermined
	Late              // it is committed some operations later, if its requirements hold then; the caller gets ErrUndetermined at once
	Conflict          // it is dropped, and the caller gets ErrConflict although nothing conflicts
	Unavailable       // it is dropped, and the caller gets ErrUnavailable
	Full              // it is dropped, and the caller gets ErrFull, unless it frees space
	faults
)

var names = [faults]string{"none", "applied", "lost", "late", "conflict", "unavailable", "full"}

func (f Fault) String() string { return names[f] }

// Config configures a Store. The zero value injects nothing by itself.
type Config struct {
	// Seed of what is drawn; 0: one of the clock. It is printed by Logf.
	Seed uint64

	// Rates are the probabilities, 0 to 1, of each fault a transaction.
	Rates Rates

	// Read is the probability that a read fails with ErrUnavailable, a scan on its way.
	Read float64

	// Delay is the probability that a commit waits, up to MaxDelay (0: 2 ms), before it begins.
	Delay    float64
	MaxDelay time.Duration

	// Logf, as of testing.T, is told the seed; nil: nobody is.
	Logf func(format string, args ...any)
}

// Rates are probabilities of faults; what is left of 1 is for none.
type Rates struct {
	Applied, Lost, Late, Conflict, Unavailable, Full float64
}

// Store is a kv.Store that fails.
type Store struct {
	inner    kv.Store
	rates    [faults]float64
	read     float64
	delay    float64
	maxDelay time.Duration

	mu        sync.Mutex
	rng       *rand.Rand
	script    []Fault
	failReads int
	late      []*lateTx
	counts    [faults]int
	gate      chan struct{} // commits wait until it is closed; nil: open
	frozen    int           // commits that wait at the gate
	arrived   chan struct{} // closed and renewed when a commit comes to the gate
	lateRuns  sync.WaitGroup
}

// lateTx is a transaction that is stored when so many operations have come after it.
type lateTx struct {
	tx   *kv.Tx
	left int
}

// maxLate bounds after how many operations a late transaction is stored.
const maxLate = 8

// Wrap returns a failing view of inner. Closing it closes inner.
func Wrap(inner kv.Store, c Config) *Store {
	if c.Seed == 0 {
		c.Seed = uint64(time.Now().UnixNano())
	}
	if c.MaxDelay == 0 {
		c.MaxDelay = 2 * time.Millisecond
	}
	if c.Logf != nil {
		c.Logf("faultkv: seed %d", c.Seed)
	}
	r := c.Rates
	return &Store{
		inner:    inner,
		rates:    [faults]float64{Applied: r.Applied, Lost: r.Lost, Late: r.Late, Conflict: r.Conflict, Unavailable: r.Unavailable, Full: r.Full},
		read:     c.Read,
		delay:    c.Delay,
		maxDelay: c.MaxDelay,
		rng:      rand.New(rand.NewPCG(c.Seed, 0)),
		arrived:  make(chan struct{}),
	}
}

// Script gives the next transactions these faults, one each, before any is drawn again.
func (s *Store) Script(f ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = append(s.script, f...)
}

// FailReads makes the next n reads fail.
func (s *Store) FailReads(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failReads = n
}

// Calm ends all that is drawn; what was scripted stays.
func (s *Store) Calm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rates, s.read, s.delay = [faults]float64{}, 0, 0
}

// Freeze makes commits wait, from now on, until thaw is called (once or more often).
// A commit whose context ends while it waits gets ErrUnavailable.
func (s *Store) Freeze() (thaw func()) {
	gate := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate == nil {
		s.gate = gate
	} else {
		gate = s.gate
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.gate == gate {
			close(gate)
			s.gate = nil
		}
	}
}

// AwaitFrozen returns when at least n calls of Commit wait for the thaw.
func (s *Store) AwaitFrozen(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		enough, arrived := s.frozen >= n, s.arrived
		s.mu.Unlock()
		if enough {
			return nil
		}
		select {
		case <-arrived:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Settle stores the late transactions that are still due, and returns when none is under way.
func (s *Store) Settle() {
	s.mu.Lock()
	due := s.late
	s.late = nil
	s.mu.Unlock()
	for _, l := range due {
		s.inner.Commit(context.Background(), l.tx)
	}
	s.lateRuns.Wait()
}

// Count returns how many transactions had fault f.
func (s *Store) Count(f Fault) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[f]
}

// tick lets an operation pass for the late transactions; s.mu is held.
func (s *Store) tick() {
	kept := s.late[:0]
	for _, l := range s.late {
		if l.left--; l.left > 0 {
			kept = append(kept, l)
			continue
		}
		s.lateRuns.Go(func() { s.inner.Commit(context.Background(), l.tx) })
	}
	clear(s.late[len(kept):])
	s.late = kept
}

// breaks tells whether the read that comes now fails, and after how many pairs if it is a scan.
func (s *Store) breaks() (after int, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tick()
	if s.failReads > 0 {
		s.failReads--
		return s.rng.IntN(3), true
	}
	if s.read > 0 && s.rng.Float64() < s.read {
		return s.rng.IntN(3), true
	}
	return 0, false
}

func readError(what string) error { return fmt.Errorf("%s: injected: %w", what, kv.ErrUnavailable) }

// Get passes through, or fails.
func (s *Store) Get(ctx context.Context, key []byte) ([]byte, error) {
	if _, yes := s.breaks(); yes {
		return nil, readError("get")
	}
	return s.inner.Get(ctx, key)
}

// MultiGet passes through, or fails.
func (s *Store) MultiGet(ctx context.Context, keys [][]byte) ([][]byte, error) {
	if _, yes := s.breaks(); yes {
		return nil, readError("multi-get")
	}
	return s.inner.MultiGet(ctx, keys)
}

// Scan passes through, or fails at once or after a few pairs.
func (s *Store) Scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	return s.scan(span, fn, func(span kv.Span, fn func(key, value []byte) (bool, error)) error {
		return s.inner.Scan(ctx, span, fn)
	})
}

func (s *Store) scan(span kv.Span, fn func(key, value []byte) (bool, error),
	inner func(span kv.Span, fn func(key, value []byte) (bool, error)) error) error {
	after, yes := s.breaks()
	if !yes {
		return inner(span, fn)
	}
	if after == 0 {
		return readError("scan")
	}
	return inner(span, func(k, v []byte) (bool, error) {
		if after == 0 {
			return false, readError("scan")
		}
		after--
		return fn(k, v)
	})
}

// View passes through; the reads of the view fail as others do.
func (s *Store) View(ctx context.Context, start, end []byte, fn func(v kv.View) error) error {
	return s.inner.View(ctx, start, end, func(v kv.View) error { return fn(view{v, s}) })
}

// view is a kv.View that fails.
type view struct {
	inner kv.View
	store *Store
}

func (v view) Get(key []byte) ([]byte, error) {
	if _, yes := v.store.breaks(); yes {
		return nil, readError("get")
	}
	return v.inner.Get(key)
}

func (v view) Scan(span kv.Span, fn func(key, value []byte) (bool, error)) error {
	return v.store.scan(span, fn, v.inner.Scan)
}

// Commit gives each transaction its fault and passes the others on, in their order.
func (s *Store) Commit(ctx context.Context, txs ...*kv.Tx) {
	if err := s.pass(ctx); err != nil {
		for _, tx := range txs {
			tx.Err = err
		}
		return
	}
	drawn := make([]Fault, len(txs))
	inner := make([]*kv.Tx, 0, len(txs))
	s.mu.Lock()
	s.tick()
	for i, tx := range txs {
		f := s.draw(tx)
		drawn[i] = f
		switch f {
		case None, Applied:
			inner = append(inner, tx)
		case Late:
			s.late = append(s.late, &lateTx{tx: clone(tx), left: 1 + s.rng.IntN(maxLate)})
		}
		s.counts[f]++
	}
	s.mu.Unlock()
	s.inner.Commit(ctx, inner...)
	for i, tx := range txs {
		if f := drawn[i]; f != None {
			tx.Err, tx.Stamp = fmt.Errorf("commit: injected: %w", errs[f]), 0
		}
	}
}

var errs = [faults]error{
	Applied: kv.ErrUndetermined, Lost: kv.ErrUndetermined, Late: kv.ErrUndetermined,
	Conflict: kv.ErrConflict, Unavailable: kv.ErrUnavailable, Full: kv.ErrFull,
}

// draw decides the fault of tx; s.mu is held. What no store takes isn't worth one.
func (s *Store) draw(tx *kv.Tx) (f Fault) {
	if tx.Check(s.inner.Stamps()) != nil {
		return None
	}
	if len(s.script) > 0 {
		f = s.script[0]
		s.script = s.script[1:]
	} else {
		p := s.rng.Float64()
		for f = Applied; f < faults; f++ {
			if p -= s.rates[f]; p < 0 {
				break
			}
		}
		if f == faults {
			f = None
		}
	}
	if f == Full && tx.Frees {
		return None
	}
	return f
}

// pass waits as long as commits are to wait.
func (s *Store) pass(ctx context.Context) error {
	s.mu.Lock()
	gate := s.gate
	var wait time.Duration
	if s.delay > 0 && s.rng.Float64() < s.delay {
		wait = time.Duration(s.rng.Int64N(int64(s.maxDelay)))
	}
	if gate != nil {
		s.frozen++
		close(s.arrived)
		s.arrived = make(chan struct{})
	}
	s.mu.Unlock()
	if gate != nil {
		defer func() {
			s.mu.Lock()
			s.frozen--
			s.mu.Unlock()
		}()
		select {
		case <-gate:
		case <-ctx.Done():
			return fmt.Errorf("commit: injected: %w: %w", kv.ErrUnavailable, ctx.Err())
		}
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("commit: injected: %w: %w", kv.ErrUnavailable, ctx.Err())
		}
	}
	return nil
}

// clone copies tx: the caller may reuse it before the copy is stored.
func clone(tx *kv.Tx) *kv.Tx {
	c := &kv.Tx{Frees: tx.Frees}
	for _, op := range tx.Ops() {
		switch op.Kind {
		case kv.OpRequire:
			value := op.Value
			if op.Absent {
				value = nil
			} else if value == nil {
				value = []byte{}
			}
			c.Require(op.Key, value)
		case kv.OpSet:
			c.Set(op.Key, op.Value)
		case kv.OpDelete:
			c.Delete(op.Key)
		case kv.OpStamped:
			c.SetStamped(op.Key, op.Value)
		}
	}
	return c
}

// Stamps tells what the wrapped store tells.
func (s *Store) Stamps() bool { return s.inner.Stamps() }

// Close forgets the late transactions that are still due, waits for those under way
// and closes the wrapped store.
func (s *Store) Close() error {
	s.mu.Lock()
	s.late = nil
	s.mu.Unlock()
	s.lateRuns.Wait()
	return s.inner.Close()
}

var _ kv.Store = (*Store)(nil)
