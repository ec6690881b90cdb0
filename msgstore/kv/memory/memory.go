// Package memory is the kv.Store for tests: ordered, in memory, snapshot-isolated,
// and no stricter than the contract. Between the moment at which a transaction's
// requirements are judged and the moment at which it is stored it lets others
// commit, so that code which rests on a key it doesn't write (write skew) fails here.
package memory

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"

	"github.com/RaduBerinde/btreemap"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// Config configures a Store. The zero value is good.
type Config struct {
	// Pause is called, without locks, between the two moments of each transaction. Nil:
	// it yields the processor a few times, how often being drawn with Seed.
	Pause func()

	// Seed of the default Pause; 0: 1.
	Seed uint64

	// NoStamps makes a store without SetStamped, as the shared ones are.
	NoStamps bool
}

// Store is an ordered store in memory; see kv.Store for its contract.
type Store struct {
	pause  func()
	stamps bool

	mu       sync.Mutex
	tree     *btreemap.BTreeMap[[]byte, []byte] // neither keys nor values are ever changed in place
	deciding map[*attempt]struct{}              // judged and not yet stored
	stamp    uint64
	closed   bool
}

// attempt is a transaction between its two moments.
type attempt struct {
	writes map[string]struct{}
	beaten bool // somebody else wrote one of its keys since it was judged
}

// New returns an empty store.
func New(c Config) *Store {
	s := &Store{
		pause:    c.Pause,
		stamps:   !c.NoStamps,
		tree:     btreemap.New[[]byte, []byte](32, bytes.Compare),
		deciding: make(map[*attempt]struct{}),
	}
	if s.pause == nil {
		var mu sync.Mutex
		rng := rand.New(rand.NewPCG(max(c.Seed, 1), 0))
		s.pause = func() {
			mu.Lock()
			n := rng.IntN(4)
			mu.Unlock()
			for range n {
				runtime.Gosched()
			}
		}
	}
	return s
}

// view returns the store as it is now; later commits don't change it.
func (s *Store) view(ctx context.Context) (*btreemap.BTreeMap[[]byte, []byte], error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, kv.ErrClosed
	}
	return s.tree.Clone(), nil
}

// Get returns a copy of key's value, nil if it has none.
func (s *Store) Get(ctx context.Context, key []byte) ([]byte, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	_, value, _ := v.Get(key)
	return bytes.Clone(value), nil
}

// MultiGet returns copies of the values of keys as of one moment.
func (s *Store) MultiGet(ctx context.Context, keys [][]byte) ([][]byte, error) {
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	values := make([][]byte, len(keys))
	for i, k := range keys {
		_, value, _ := v.Get(k)
		values[i] = bytes.Clone(value)
	}
	return values, nil
}

// Scan walks span as of one moment, giving fn copies.
func (s *Store) Scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	t, err := s.view(ctx)
	if err != nil {
		return err
	}
	return scan(ctx, t, span, fn)
}

func scan(ctx context.Context, t *btreemap.BTreeMap[[]byte, []byte], span kv.Span, fn func(key, value []byte) (bool, error)) (err error) {
	end := btreemap.Max[[]byte]()
	if span.End != nil {
		end = btreemap.LT(bytes.Clone(span.End))
	}
	start := btreemap.GE(bytes.Clone(span.Start))
	n := 0
	var key, val []byte // reused, as the contract allows: a caller that keeps them is found out
	visit := func(k, value []byte) bool {
		if err = ctx.Err(); err != nil {
			err = fmt.Errorf("scan: %w", err)
			return false
		}
		key, val = append(key[:0], k...), append(val[:0], value...)
		var more bool
		more, err = fn(key, val)
		n++
		return err == nil && more && n != span.Limit
	}
	if span.Reverse {
		t.DescendFunc(end, start, visit)
	} else {
		t.AscendFunc(start, end, visit)
	}
	return err
}

// View calls fn with what is there now of the keys in [start, end).
func (s *Store) View(ctx context.Context, start, end []byte, fn func(v kv.View) error) error {
	t, err := s.view(ctx)
	if err != nil {
		return err
	}
	return fn(&view{ctx: ctx, tree: t, start: bytes.Clone(start), end: bytes.Clone(end)})
}

// view is a kv.View.
type view struct {
	ctx        context.Context
	tree       *btreemap.BTreeMap[[]byte, []byte]
	start, end []byte
	value      []byte // what Get returned last: a caller that keeps it is found out
}

// Get implements kv.View.
func (v *view) Get(key []byte) ([]byte, error) {
	for i := range v.value {
		v.value[i] = 0xEE
	}
	if bytes.Compare(key, v.start) < 0 || v.end != nil && bytes.Compare(key, v.end) >= 0 {
		return nil, nil
	}
	_, value, _ := v.tree.Get(key)
	v.value = bytes.Clone(value)
	return v.value, nil
}

// Scan implements kv.View.
func (v *view) Scan(span kv.Span, fn func(key, value []byte) (bool, error)) error {
	for i := range v.value {
		v.value[i] = 0xEE
	}
	if bytes.Compare(span.Start, v.start) < 0 {
		span.Start = v.start
	}
	if span.End == nil || v.end != nil && bytes.Compare(span.End, v.end) > 0 {
		span.End = v.end
	}
	return scan(v.ctx, v.tree, span, fn)
}

// Commit stores each transaction by itself, in order.
func (s *Store) Commit(ctx context.Context, txs ...*kv.Tx) {
	for _, tx := range txs {
		tx.Err = s.commit(ctx, tx)
	}
}

func (s *Store) commit(ctx context.Context, tx *kv.Tx) error {
	if err := tx.Check(s.stamps); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("commit: %w: %w", kv.ErrUnavailable, err)
	}
	a, err := s.judge(tx)
	if err != nil {
		return err
	}
	s.pause()
	return s.store(tx, a)
}

// judge is the first moment: every requirement must hold.
func (s *Store) judge(tx *kv.Tx) (*attempt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, kv.ErrClosed
	}
	a := &attempt{writes: make(map[string]struct{})}
	for i, ops := 0, tx.Ops(); i < len(ops); i++ {
		switch op := &ops[i]; op.Kind {
		case kv.OpRequire:
			if _, value, found := s.tree.Get(op.Key); found == op.Absent || !op.Absent && !bytes.Equal(value, op.Value) {
				return nil, fmt.Errorf("required key %x: %w", op.Key, kv.ErrConflict)
			}
		case kv.OpSet, kv.OpDelete:
			a.writes[string(op.Key)] = struct{}{}
		}
	}
	s.deciding[a] = struct{}{}
	return a, nil
}

// store is the second moment: nobody may have written what this writes.
func (s *Store) store(tx *kv.Tx, a *attempt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.deciding, a)
	if s.closed {
		return kv.ErrClosed
	}
	if a.beaten {
		return fmt.Errorf("a written key was changed meanwhile: %w", kv.ErrConflict)
	}
	var stamp uint64
	for i, ops := 0, tx.Ops(); i < len(ops); i++ {
		switch op := &ops[i]; op.Kind {
		case kv.OpSet:
			s.tree.ReplaceOrInsert(bytes.Clone(op.Key), bytes.Clone(op.Value))
		case kv.OpDelete:
			s.tree.Delete(op.Key)
		case kv.OpStamped:
			if stamp == 0 {
				s.stamp++
				stamp = s.stamp
			}
			key := binary.BigEndian.AppendUint64(bytes.Clone(op.Key), stamp)
			s.tree.ReplaceOrInsert(key, bytes.Clone(op.Value))
			a.writes[string(key)] = struct{}{}
		}
	}
	tx.Stamp = stamp
	for other := range s.deciding {
		for k := range a.writes {
			if _, both := other.writes[k]; both {
				other.beaten = true
				break
			}
		}
	}
	return nil
}

// Stamps tells whether SetStamped works.
func (s *Store) Stamps() bool { return s.stamps }

// Close ends the store and forgets what it held.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return kv.ErrClosed
	}
	s.closed = true
	s.tree = btreemap.New[[]byte, []byte](2, bytes.Compare)
	return nil
}

var _ kv.Store = (*Store)(nil)
