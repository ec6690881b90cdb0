package tikv_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/kvtest"
	"github.com/gochat-im/gochat/msgstore/kv/tikv"
	"github.com/gochat-im/gochat/msgstore/kv/tikv/tikvtest"
)

// until waits for something that other goroutines bring about.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for late := time.Now().Add(30 * time.Second); !is(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(late) {
			t.Fatalf("%s: not after 30 s", what)
		}
	}
}

// operations are all kinds there are, of a key.
var operations = map[string]func(ctx context.Context, s kv.Store, key string) error{
	"get": func(ctx context.Context, s kv.Store, key string) error {
		_, err := s.Get(ctx, []byte(key))
		return err
	},
	"multi-get": func(ctx context.Context, s kv.Store, key string) error {
		_, err := s.MultiGet(ctx, [][]byte{[]byte(key), []byte("another")})
		return err
	},
	"scan": func(ctx context.Context, s kv.Store, key string) error {
		return s.Scan(ctx, kv.Span{Start: []byte(key)}, func(_, _ []byte) (bool, error) { return true, nil })
	},
	"view": func(ctx context.Context, s kv.Store, key string) error {
		return s.View(ctx, nil, nil, func(v kv.View) error {
			_, err := v.Get([]byte(key))
			return err
		})
	},
	"commit": func(ctx context.Context, s kv.Store, key string) error {
		tx := set(key, "1")
		s.Commit(ctx, tx)
		return tx.Err
	},
}

// away has the breaker of s open, and returns what ends the reads that it opened for.
func away(t *testing.T, s *tikv.Store, failures int) (end func()) {
	t.Helper()
	canceled, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for range failures {
		wg.Go(func() { _, _ = s.Get(canceled, []byte("a")) })
	}
	until(t, "an open breaker", func() bool { return s.State() != "closed" }) // it may be half open already
	return func() {
		cancel()
		wg.Wait()
	}
}

// frozen has somebody answer nothing.
var frozen = map[string]func(*tikvtest.Faults) (thaw func()){"TiKV": (*tikvtest.Faults).Freeze, "PD": (*tikvtest.Faults).FreezePD}

// While nothing answers, operations are refused at once: nothing is sent, and nothing stored.
func TestBreakerRefuses(t *testing.T) {
	for who, freeze := range frozen {
		t.Run(who, func(t *testing.T) {
			cluster := tikvtest.New(t)
			faults := new(tikvtest.Faults)
			s, plain := cluster.Open(t, tikv.Config{Breaker: tikv.Breaker{Failures: 4, Patience: 20 * time.Millisecond, Open: time.Hour}}, faults), cluster.Open(t, tikv.Config{}, nil)
			for name, operation := range operations {
				if err := operation(ctx, s, "before"); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
			}
			thaw := freeze(faults)
			defer thaw()
			away(t, s, 4)()
			held := faults.Held()
			for name, operation := range operations {
				if err := operation(ctx, s, "while"); !errors.Is(err, kv.ErrUnavailable) || errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", name, err)
				}
			}
			// A call of several, over regions or not, that it can't even look for.
			txs := []*kv.Tx{set("while", "1"), set("while", "2", "x", "1"), set("new", "1")}
			s.Commit(ctx, txs...)
			for i, tx := range txs {
				if !errors.Is(tx.Err, kv.ErrUnavailable) {
					t.Errorf("transaction %d: %v", i, tx.Err)
				}
			}
			if n := faults.Held() - held; who == "TiKV" && n > 0 {
				t.Errorf("%d requests were sent", n)
			}
			if m := s.Metrics(); m.Breaker != "open" || m.KeptBack != uint64(len(operations)+len(txs)) || m.Unavailable != 1+uint64(len(txs)) {
				t.Errorf("metrics %+v", m)
			}
			thaw()
			for _, key := range []string{"while", "x", "new"} {
				if v, err := plain.Get(ctx, []byte(key)); v != nil || err != nil {
					t.Errorf("%s is %q, %v", key, v, err)
				}
			}
		})
	}
}

// What tries closes the breaker when it is answered, however long that took, and meanwhile doesn't stand in the way of others that try.
func TestBreakerTries(t *testing.T) {
	for who, freeze := range frozen {
		for name, operation := range operations {
			t.Run(who+" "+name, func(t *testing.T) {
				cluster := tikvtest.New(t)
				faults := new(tikvtest.Faults)
				s := cluster.Open(t, tikv.Config{Breaker: tikv.Breaker{Failures: 2, Patience: 20 * time.Millisecond, Open: 10 * time.Millisecond}}, faults)
				if err := operation(ctx, s, "before"); err != nil {
					t.Fatal(err)
				}
				thaw := freeze(faults)
				defer thaw()
				away(t, s, 2)()
				held := faults.Held()
				const tries = 3
				results := make(chan error, tries)
				for i := range tries {
					go func() {
						for {
							err := operation(ctx, s, fmt.Sprint("try", i))
							if !errors.Is(err, kv.ErrUnavailable) {
								results <- err
								return
							}
							time.Sleep(time.Millisecond) // not the whole processor
						}
					}()
				}
				until(t, "three that try", func() bool { return faults.Held() >= held+tries })
				if state := s.State(); state == "closed" {
					t.Error("closed while nothing is answered")
				}
				thaw()
				for range tries {
					if err := <-results; err != nil {
						t.Error(err)
					}
				}
				if err := operation(ctx, s, "after"); err != nil || s.State() != "closed" {
					t.Errorf("%s after its return: %v", s.State(), err)
				}
			})
		}
	}
}

// What waits for its turn when the breaker opens is refused, and so is what comes then, while what was begun is waited for.
func TestBreakerQueue(t *testing.T) {
	cluster := tikvtest.New(t)
	faults := new(tikvtest.Faults)
	s := cluster.Open(t, tikv.Config{Parallel: 1, Breaker: tikv.Breaker{Failures: 2, Patience: 100 * time.Millisecond, Open: time.Hour}}, faults)
	s.Commit(ctx, set("z", "1"))
	thaw := faults.Freeze()
	defer thaw()
	begun, queued := step("a", "", "1"), []*kv.Tx{set("b", "1"), set("a", "2")}
	var wg, waiting sync.WaitGroup
	wg.Go(func() { s.Commit(ctx, begun) })
	until(t, "a commit under way", func() bool { return faults.Held() > 0 })
	for _, tx := range queued {
		waiting.Go(func() { s.Commit(ctx, tx) })
	}
	until(t, "commits that wait", func() bool { return s.Queued() == len(queued) })
	away(t, s, 1)()
	waiting.Wait()
	for i, tx := range queued {
		if !errors.Is(tx.Err, kv.ErrUnavailable) {
			t.Errorf("the one that waited %d: %v", i, tx.Err)
		}
	}
	thaw()
	wg.Wait()
	if begun.Err != nil {
		t.Errorf("the one that was begun: %v", begun.Err)
	}
	if s.State() != "closed" {
		t.Errorf("%s, though that is an answer", s.State())
	}
}

// Answers that nobody likes to hear are answers, and callers who give up say nothing.
func TestBreakerStaysClosed(t *testing.T) {
	cluster := tikvtest.New(t)
	faults := new(tikvtest.Faults)
	s := cluster.Open(t, tikv.Config{Breaker: tikv.Breaker{Failures: 1, Patience: time.Hour}}, faults)
	s.Silent() // so that one failure would do
	check := func(what string) {
		t.Helper()
		if s.State() != "closed" {
			t.Fatalf("%s: %s", what, s.State())
		}
	}
	s.Commit(ctx, set("a", "1"))
	for range 20 {
		s.Silent()
		tx := step("a", "2", "3")
		if s.Commit(ctx, tx); !errors.Is(tx.Err, kv.ErrConflict) {
			t.Fatal(tx.Err)
		}
		check("conflicts")
		large := set("a", string(make([]byte, kv.MaxValue+1)))
		if s.Commit(ctx, large); !errors.Is(large.Err, kv.ErrTooLarge) {
			t.Fatal(large.Err)
		}
		check("too large")
	}
	thaw := faults.Freeze()
	defer thaw()
	for _, name := range []string{"get", "multi-get", "view"} {
		s.Silent()
		canceled, cancel := context.WithCancel(ctx)
		held, done := faults.Held(), make(chan error)
		go func() { done <- operations[name](canceled, s, "a") }()
		until(t, "a read", func() bool { return faults.Held() > held })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		check("canceled " + name)
		short, cancel := context.WithTimeout(ctx, time.Millisecond)
		if err := operations[name](short, s, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		cancel()
		check("too short a time for " + name)
	}
}

// A View whose function uses the store, too, doesn't stand in its own way.
func TestBreakerView(t *testing.T) {
	cluster := tikvtest.New(t)
	faults := new(tikvtest.Faults)
	s := cluster.Open(t, tikv.Config{Breaker: tikv.Breaker{Failures: 1, Patience: 20 * time.Millisecond, Open: time.Millisecond}}, faults)
	s.Commit(ctx, set("a", "1"))
	thaw := faults.Freeze()
	defer thaw()
	away(t, s, 1)()
	thaw()
	until(t, "a View that tries", func() bool {
		err := s.View(ctx, nil, nil, func(v kv.View) error {
			if _, err := s.Get(ctx, []byte("a")); err != nil {
				t.Errorf("within the View: %v", err)
			}
			_, err := v.Get([]byte("a"))
			return err
		})
		return err == nil
	})
	if s.State() != "closed" {
		t.Error(s.State())
	}
}

// paced takes its time before it says that a store is unavailable: the model asks again at once, so often and not more.
type paced struct{ kv.Store }

func pace(err error) {
	if errors.Is(err, kv.ErrUnavailable) {
		time.Sleep(time.Millisecond)
	}
}

func (p paced) Get(ctx context.Context, key []byte) ([]byte, error) {
	v, err := p.Store.Get(ctx, key)
	pace(err)
	return v, err
}

func (p paced) MultiGet(ctx context.Context, keys [][]byte) ([][]byte, error) {
	v, err := p.Store.MultiGet(ctx, keys)
	pace(err)
	return v, err
}

func (p paced) Commit(ctx context.Context, txs ...*kv.Tx) {
	p.Store.Commit(ctx, txs...)
	pace(txs[0].Err)
}

// TestBreakerAppends has two processes append to the same logs while the servers freeze again and again, with breakers that open for
// little: nothing is lost or doubled.
func TestBreakerAppends(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	cluster := tikvtest.New(t, []byte("b"), []byte("c"))
	breaker := tikv.Breaker{Failures: 2, Patience: 2 * time.Millisecond, Open: time.Millisecond}
	both := make([]*tikvtest.Faults, 2)
	var stores []kv.Store
	var opened []*tikv.Store
	for i := range both {
		both[i] = new(tikvtest.Faults)
		both[i].Random(seed+uint64(i), tikvtest.Rates{EpochNotMatch: 0.01, LoseReply: 0.005}, 2)
		s := cluster.Open(t, tikv.Config{CommitTimeout: 100 * time.Millisecond, Breaker: breaker}, both[i])
		stores, opened = append(stores, paced{s}), append(opened, s)
	}
	over := make(chan struct{})
	var wg sync.WaitGroup
	for _, faults := range both {
		wg.Go(func() {
			for round := 0; round < 20; round++ {
				thaw := faults.Freeze()
				select {
				case <-over:
				case <-time.After(10 * time.Millisecond):
				}
				thaw()
				select {
				case <-over:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	undetermined, conflicts := kvtest.Appends(t, kvtest.AppendModel{Logs: 6, Writers: 4, Each: 20, Spread: "abc", Seed: seed},
		cluster.Open(t, tikv.Config{}, nil), stores...)
	close(over)
	wg.Wait()
	t.Logf("seed %d: %d undetermined, %d conflicts, kept back %d and %d", seed, undetermined, conflicts, opened[0].Metrics().KeptBack, opened[1].Metrics().KeptBack)
}
