package memory_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/kvtest"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
)

func TestConformance(t *testing.T) {
	kvtest.Run(t, func(*testing.T) kv.Store { return memory.New(memory.Config{}) })
}

func TestConformanceWithoutStamps(t *testing.T) {
	kvtest.Run(t, func(*testing.T) kv.Store { return memory.New(memory.Config{NoStamps: true}) })
}

var ctx = context.Background()

func read(t *testing.T, s kv.Store, key string) string {
	t.Helper()
	v, err := s.Get(ctx, []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return string(v)
}

// meanwhile returns a store and a way to have something happen between the two moments
// of the next transaction.
func meanwhile() (s *memory.Store, between func(f func())) {
	var next func()
	s = memory.New(memory.Config{Pause: func() {
		f := next
		next = nil
		if f != nil {
			f()
		}
	}})
	return s, func(f func()) { next = f }
}

func set(t *testing.T, s kv.Store, key, value string) {
	t.Helper()
	tx := new(kv.Tx)
	if value == "" {
		tx.Delete([]byte(key))
	} else {
		tx.Set([]byte(key), []byte(value))
	}
	if s.Commit(ctx, tx); tx.Err != nil {
		t.Fatal(tx.Err)
	}
}

// TestBetween: what others do between a transaction's two moments.
func TestBetween(t *testing.T) {
	for _, c := range []struct {
		name     string
		between  func(t *testing.T, s kv.Store)
		conflict bool
	}{
		{"nothing", func(t *testing.T, s kv.Store) {}, false},
		{"the read key changes: write skew", func(t *testing.T, s kv.Store) { set(t, s, "read", "2") }, false},
		{"the read key goes", func(t *testing.T, s kv.Store) { set(t, s, "read", "") }, false},
		{"the written key changes", func(t *testing.T, s kv.Store) { set(t, s, "written", "2") }, true},
		{"the written key goes", func(t *testing.T, s kv.Store) { set(t, s, "written", "") }, true},
		{"the written key changes and changes back", func(t *testing.T, s kv.Store) { set(t, s, "written", "2"); set(t, s, "written", "1") }, true},
		{"the blindly written key comes", func(t *testing.T, s kv.Store) { set(t, s, "blind", "2") }, true},
		{"the deleted key comes and goes", func(t *testing.T, s kv.Store) { set(t, s, "deleted", "2"); set(t, s, "deleted", "") }, true},
		{"another key changes", func(t *testing.T, s kv.Store) { set(t, s, "other", "2") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, between := meanwhile()
			set(t, s, "read", "1")
			set(t, s, "written", "1")
			tx := new(kv.Tx)
			tx.Require([]byte("read"), []byte("1"))
			tx.Require([]byte("written"), []byte("1"))
			tx.Set([]byte("written"), []byte("3"))
			tx.Set([]byte("blind"), []byte("3"))
			tx.Delete([]byte("deleted"))
			between(func() { c.between(t, s) })
			s.Commit(ctx, tx)
			if errors.Is(tx.Err, kv.ErrConflict) != c.conflict || !c.conflict && tx.Err != nil {
				t.Errorf("got %v, want conflict %v", tx.Err, c.conflict)
			}
			if got := read(t, s, "blind") == "3"; got == c.conflict {
				t.Errorf("stored: %v", got)
			}
		})
	}
}

// TestWriteSkewHappens: the pauses of a store as it comes let two transactions through
// of which each rests on a key that the other writes. Code that must not happen to
// would be found out.
func TestWriteSkewHappens(t *testing.T) {
	s := memory.New(memory.Config{Seed: 7})
	for round := range 10_000 {
		a, b := new(kv.Tx), new(kv.Tx)
		ka, kb := fmt.Appendf(nil, "a%d", round), fmt.Appendf(nil, "b%d", round)
		a.Require(ka, nil)
		a.Set(kb, []byte("1"))
		b.Require(kb, nil)
		b.Set(ka, []byte("1"))
		var wg sync.WaitGroup
		wg.Go(func() { s.Commit(ctx, a) })
		wg.Go(func() { s.Commit(ctx, b) })
		wg.Wait()
		if a.Err == nil && b.Err == nil {
			return
		}
	}
	t.Error("never in 10,000 rounds")
}

func TestCloseBetween(t *testing.T) {
	s, between := meanwhile()
	between(func() { s.Close() })
	tx := new(kv.Tx)
	tx.Set([]byte("a"), []byte("1"))
	if s.Commit(ctx, tx); !errors.Is(tx.Err, kv.ErrClosed) {
		t.Error(tx.Err)
	}
}

func TestModel(t *testing.T) {
	kvtest.Model(t, memory.New(memory.Config{}), 3000, func() uint64 { return uint64(time.Now().UnixNano()) })
}
