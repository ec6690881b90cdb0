package faultkv_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/faultkv"
	"github.com/gochat-im/gochat/msgstore/kv/kvtest"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
)

func TestConformanceWithoutFaults(t *testing.T) {
	kvtest.Run(t, func(t *testing.T) kv.Store {
		return faultkv.Wrap(memory.New(memory.Config{}), faultkv.Config{Seed: 1})
	})
}

func TestModel(t *testing.T) {
	s := faultkv.Wrap(memory.New(memory.Config{}), faultkv.Config{Delay: 0.01, MaxDelay: 50 * time.Microsecond, Logf: t.Logf})
	kvtest.Model(t, s, 1500, func() uint64 { return uint64(time.Now().UnixNano()) })
}

var ctx = context.Background()

func wrap(t *testing.T, c faultkv.Config) (*faultkv.Store, *memory.Store) {
	c.Logf = t.Logf
	inner := memory.New(memory.Config{})
	s := faultkv.Wrap(inner, c)
	t.Cleanup(func() { s.Close() })
	return s, inner
}

func setter(key, value string) *kv.Tx {
	tx := new(kv.Tx)
	tx.Set([]byte(key), []byte(value))
	return tx
}

func TestScript(t *testing.T) {
	for _, c := range []struct {
		fault  faultkv.Fault
		err    error
		stored bool // at once
		later  bool // once settled
	}{
		{faultkv.None, nil, true, true},
		{faultkv.Applied, kv.ErrUndetermined, true, true},
		{faultkv.Lost, kv.ErrUndetermined, false, false},
		{faultkv.Late, kv.ErrUndetermined, false, true},
		{faultkv.Conflict, kv.ErrConflict, false, false},
		{faultkv.Unavailable, kv.ErrUnavailable, false, false},
		{faultkv.Full, kv.ErrFull, false, false},
	} {
		t.Run(c.fault.String(), func(t *testing.T) {
			s, inner := wrap(t, faultkv.Config{})
			s.Script(faultkv.None, c.fault)
			before, tx, after := setter("before", "1"), setter("a", "1"), setter("after", "1")
			tx.SetStamped([]byte("p"), []byte("1"))
			s.Commit(ctx, before, tx, after)
			if before.Err != nil || after.Err != nil {
				t.Errorf("the others: %v, %v", before.Err, after.Err)
			}
			if !errors.Is(tx.Err, c.err) || c.err == nil && tx.Err != nil {
				t.Errorf("got %v, want %v", tx.Err, c.err)
			}
			if (tx.Stamp != 0) != (c.err == nil) {
				t.Errorf("stamp %d with %v", tx.Stamp, tx.Err)
			}
			stored := func() bool {
				v, err := inner.Get(ctx, []byte("a"))
				if err != nil {
					t.Fatal(err)
				}
				return v != nil
			}
			if got := stored(); got != c.stored {
				t.Errorf("stored: %v", got)
			}
			tx.Reset() // what comes later has its own memory
			tx.Set([]byte("zzzz"), []byte("zzzz"))
			s.Settle()
			if got := stored(); got != c.later {
				t.Errorf("stored once settled: %v", got)
			}
			if s.Count(c.fault) < 1 {
				t.Error("not counted")
			}
		})
	}
}

func TestFullTakesWhatFrees(t *testing.T) {
	s, _ := wrap(t, faultkv.Config{})
	s.Script(faultkv.Full)
	tx := setter("a", "1")
	tx.Frees = true
	if s.Commit(ctx, tx); tx.Err != nil {
		t.Error(tx.Err)
	}
}

// TestLateIsFenced: a transaction that comes late must not undo what a later one did with the same required key.
func TestLateIsFenced(t *testing.T) {
	s, _ := wrap(t, faultkv.Config{})
	s.Script(faultkv.Late)
	late, next := new(kv.Tx), new(kv.Tx)
	late.Require([]byte("head"), nil)
	late.Set([]byte("head"), []byte("late"))
	s.Commit(ctx, late)
	if !errors.Is(late.Err, kv.ErrUndetermined) {
		t.Fatal(late.Err)
	}
	next.Require([]byte("head"), nil)
	next.Set([]byte("head"), []byte("next"))
	s.Commit(ctx, next)
	s.Settle()
	v, err := s.Get(ctx, []byte("head"))
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case next.Err == nil && string(v) == "next":
	case errors.Is(next.Err, kv.ErrConflict) && string(v) == "late":
	default:
		t.Errorf("head is %q after %v", v, next.Err)
	}
}

// TestLateComes: without anybody settling, later operations bring it about.
func TestLateComes(t *testing.T) {
	s, _ := wrap(t, faultkv.Config{})
	s.Script(faultkv.Late)
	s.Commit(ctx, setter("a", "1"))
	for {
		v, err := s.Get(ctx, []byte("a"))
		if err != nil {
			t.Fatal(err)
		}
		if v != nil {
			return
		}
	}
}

func TestReads(t *testing.T) {
	s, _ := wrap(t, faultkv.Config{Seed: 3})
	for i := range 10 {
		s.Commit(ctx, setter(fmt.Sprint("k", i), "v"))
	}
	scanned := func() (n int, err error) {
		err = s.Scan(ctx, kv.Span{}, func(k, v []byte) (bool, error) { n++; return true, nil })
		return n, err
	}
	s.FailReads(2)
	if _, err := s.Get(ctx, []byte("k1")); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("get: %v", err)
	}
	if _, err := s.MultiGet(ctx, [][]byte{[]byte("k1")}); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("multi-get: %v", err)
	}
	if v, err := s.Get(ctx, []byte("k1")); err != nil || string(v) != "v" {
		t.Errorf("then: %q, %v", v, err)
	}
	s.FailReads(2)
	err := s.View(ctx, nil, nil, func(v kv.View) error {
		if _, err := v.Get([]byte("k1")); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("get in a view: %v", err)
		}
		if err := v.Scan(kv.Span{}, func(k, v []byte) (bool, error) { return true, nil }); !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("scan in a view: %v", err)
		}
		if v, err := v.Get([]byte("k1")); err != nil || string(v) != "v" {
			t.Errorf("then, in the view: %q, %v", v, err)
		}
		return nil
	})
	if err != nil {
		t.Errorf("view: %v", err)
	}
	partial := 0
	for range 30 {
		s.FailReads(1)
		n, err := scanned()
		if !errors.Is(err, kv.ErrUnavailable) || n >= 10 {
			t.Errorf("scan: %d pairs, %v", n, err)
		}
		if n > 0 {
			partial++
		}
	}
	if partial == 0 {
		t.Error("no scan broke off on its way")
	}
	if n, err := scanned(); n != 10 || err != nil {
		t.Errorf("then: %d pairs, %v", n, err)
	}
}

func TestFreeze(t *testing.T) {
	s, inner := wrap(t, faultkv.Config{})
	thaw := s.Freeze()
	again := s.Freeze()
	var wg sync.WaitGroup
	txs := []*kv.Tx{setter("a", "1"), setter("b", "1")}
	for _, tx := range txs {
		wg.Go(func() { s.Commit(ctx, tx) })
	}
	if err := s.AwaitFrozen(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if v, err := inner.Get(ctx, []byte("a")); v != nil || err != nil {
		t.Errorf("stored while frozen: %q, %v", v, err)
	}
	canceled, cancel := context.WithCancel(ctx)
	impatient := setter("c", "1")
	wg.Go(func() { s.Commit(canceled, impatient) })
	if err := s.AwaitFrozen(ctx, 3); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.AwaitFrozen(canceled, 100); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	thaw()
	again()
	wg.Wait()
	if txs[0].Err != nil || txs[1].Err != nil {
		t.Error(txs[0].Err, txs[1].Err)
	}
	if impatient.Err != nil && !errors.Is(impatient.Err, kv.ErrUnavailable) {
		t.Error(impatient.Err)
	}
	last := setter("d", "1")
	if s.Commit(ctx, last); last.Err != nil {
		t.Error(last.Err)
	}
}

// TestRandom increments counters under all faults at once the way an owner must: what
// is undetermined is looked up again, and the fence keeps every step single.
func TestRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	s, _ := wrap(t, faultkv.Config{
		Seed:  seed,
		Rates: faultkv.Rates{Applied: 0.05, Lost: 0.05, Late: 0.1, Conflict: 0.05, Unavailable: 0.05, Full: 0.05},
		Read:  0.05,
		Delay: 0.02, MaxDelay: 100 * time.Microsecond,
	})
	const workers, steps = 6, 150
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range steps {
				increment(t, s, []byte("n"), fmt.Appendf(nil, "done/%d/%d", w, i))
			}
		})
	}
	wg.Wait()
	s.Calm()
	s.Settle()
	v, err := s.Get(ctx, []byte("n"))
	if err != nil {
		t.Fatal(err)
	}
	if n := binary.BigEndian.Uint64(v); n != workers*steps {
		t.Errorf("the counter is %d, want %d", n, workers*steps)
	}
	for f := faultkv.Applied; f <= faultkv.Full; f++ {
		if s.Count(f) == 0 {
			t.Errorf("no transaction was %v", f)
		}
	}
}

// increment adds one to the number under key, once, marking that it did under done.
func increment(t *testing.T, s kv.Store, key, done []byte) {
	tx := new(kv.Tx)
	for {
		rows, err := s.MultiGet(ctx, [][]byte{key, done})
		if err != nil {
			if !errors.Is(err, kv.ErrUnavailable) {
				t.Error(err)
			}
			continue
		}
		if rows[1] != nil {
			return
		}
		var n uint64
		if rows[0] != nil {
			n = binary.BigEndian.Uint64(rows[0])
		}
		tx.Reset()
		tx.Require(key, rows[0])
		tx.Set(key, binary.BigEndian.AppendUint64(nil, n+1))
		tx.Set(done, []byte("1"))
		if s.Commit(ctx, tx); tx.Err == nil {
			return
		}
	}
}
