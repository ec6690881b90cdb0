package tikv_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tikv/client-go/v2/tikvrpc"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/kvtest"
	"github.com/gochat-im/gochat/msgstore/kv/tikv"
	"github.com/gochat-im/gochat/msgstore/kv/tikv/tikvtest"
)

var ctx = context.Background()

// splits cut the keys of the conformance suite into regions.
var splits = [][]byte{[]byte("b"), []byte("k1"), []byte("many01000"), []byte("n1"), []byte("x")}

func TestConformance(t *testing.T) {
	for name, splits := range map[string][][]byte{"one region": nil, "several regions": splits} {
		t.Run(name, func(t *testing.T) {
			kvtest.Run(t, func(t *testing.T) kv.Store { return tikvtest.Open(t, splits...) })
		})
	}
}

// TestConformanceWithFaults has regions move and replies be lost: the client rides it out, and nobody sees a difference.
func TestConformanceWithFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	faults := new(tikvtest.Faults)
	faults.Random(seed, tikvtest.Rates{NotLeader: 0.001, EpochNotMatch: 0.003, ServerBusy: 0.002, LoseReply: 0.001}, 8)
	kvtest.Run(t, func(t *testing.T) kv.Store {
		return tikvtest.New(t, splits...).Open(t, tikv.Config{}, faults)
	})
	t.Logf("seed %d: injected %d NotLeader, %d EpochNotMatch, %d ServerBusy, %d lost replies", seed,
		faults.Count(tikvtest.NotLeader), faults.Count(tikvtest.EpochNotMatch), faults.Count(tikvtest.ServerBusy), faults.Count(tikvtest.LoseReply))
}

// set makes a transaction that gives keys values.
func set(pairs ...string) *kv.Tx {
	tx := new(kv.Tx)
	for i := 0; i < len(pairs); i += 2 {
		tx.Set([]byte(pairs[i]), []byte(pairs[i+1]))
	}
	return tx
}

func step(key, old, next string) *kv.Tx {
	tx := new(kv.Tx)
	if old == "" {
		tx.Require([]byte(key), nil)
	} else {
		tx.Require([]byte(key), []byte(old))
	}
	tx.Set([]byte(key), []byte(next))
	return tx
}

// groups are those that a store tells of.
type groups struct {
	mu  sync.Mutex
	all []tikv.Group
}

func (g *groups) add(one tikv.Group) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.all = append(g.all, one)
}

// txs returns the sizes of the groups, sorted.
func (g *groups) txs() []int {
	g.mu.Lock()
	defer g.mu.Unlock()
	var n []int
	for _, one := range g.all {
		n = append(n, one.Txs)
	}
	slices.Sort(n)
	return n
}

// gather gives the transactions to the store, each by a caller of its own, and has it begin when all wait.
func gather(t *testing.T, s *tikv.Store, txs ...*kv.Tx) {
	t.Helper()
	release := s.Hold()
	var wg sync.WaitGroup
	for i, tx := range txs {
		wg.Go(func() { s.Commit(ctx, tx) })
		for s.Queued() <= i { // in their order
			runtime.Gosched()
		}
	}
	release()
	wg.Wait()
}

func TestGroups(t *testing.T) {
	seen := new(groups)
	s := tikvtest.New(t, []byte("m"), []byte("t")).Open(t, tikv.Config{
		GroupTxs: 10, GroupBytes: 1000, Observe: tikv.Observe{Group: seen.add},
	}, nil)
	if tx := set("a", "1", "n", "1", "u", "1"); true { // the client knows the regions from here on
		if s.Commit(ctx, tx); tx.Err != nil {
			t.Fatal(tx.Err)
		}
	}
	seen.all = nil

	var txs []*kv.Tx
	for i := range 25 {
		txs = append(txs, set(fmt.Sprintf("a%d", i), "1"))
	}
	for i := range 7 {
		txs = append(txs, set(fmt.Sprintf("n%d", i), "1"))
	}
	for i := range 3 {
		txs = append(txs, set(fmt.Sprintf("u%d", i), strings.Repeat("x", 600)))
	}
	txs = append(txs, set("az", "1", "nz", "1"))
	gather(t, s, txs...)
	for i, tx := range txs {
		if tx.Err != nil {
			t.Errorf("transaction %d: %v", i, tx.Err)
		}
	}
	// 25 of one region in groups of 10, 7 of the next, 3 that are too large to stand together, one that spans two.
	if got, want := seen.txs(), []int{1, 1, 1, 1, 5, 7, 10, 10}; !slices.Equal(got, want) {
		t.Errorf("groups of %v, want %v", got, want)
	}
	m := s.Metrics()
	if m.Txs != 37 || m.Groups != 9 || m.TwoPhase != 9 || m.TwoPhaseTxs != 37 || m.Conflicts != 0 {
		t.Errorf("metrics %+v", m)
	}
}

// Within a group a later transaction sees what an earlier one writes, and who conflicts stops nobody.
func TestGroupIsJudgedInOrder(t *testing.T) {
	s := tikvtest.Open(t)
	s.Commit(ctx, set("a", "1"))
	txs := []*kv.Tx{step("a", "1", "2"), step("a", "1", "3"), step("b", "", "1"), step("a", "2", "4"), step("b", "", "2")}
	gather(t, s, txs...)
	for i, conflict := range []bool{false, true, false, false, true} {
		if errors.Is(txs[i].Err, kv.ErrConflict) != conflict || !conflict && txs[i].Err != nil {
			t.Errorf("transaction %d: %v, want conflict %v", i, txs[i].Err, conflict)
		}
	}
	v, err := s.MultiGet(ctx, [][]byte{[]byte("a"), []byte("b")})
	if err != nil || string(v[0]) != "4" || string(v[1]) != "1" {
		t.Errorf("a=%s b=%s, %v", v[0], v[1], err)
	}
}

// Transactions of one call that share keys keep their order over regions, too.
func TestOrderOverRegions(t *testing.T) {
	s := tikvtest.Open(t, []byte("m"))
	wide := func(old, next string) *kv.Tx {
		tx := step("a", old, next)
		tx.Set([]byte("n"), []byte(next))
		return tx
	}
	txs := []*kv.Tx{wide("", "1"), step("a", "1", "2"), step("n", "1", "x"), wide("2", "3"), step("a", "2", "no"), step("n", "3", "4"), wide("3", "5")}
	s.Commit(ctx, txs...)
	for i, conflict := range []bool{false, false, false, false, true, false, false} {
		if errors.Is(txs[i].Err, kv.ErrConflict) != conflict || !conflict && txs[i].Err != nil {
			t.Errorf("transaction %d: %v, want conflict %v", i, txs[i].Err, conflict)
		}
	}
	v, err := s.MultiGet(ctx, [][]byte{[]byte("a"), []byte("n")})
	if err != nil || string(v[0]) != "5" || string(v[1]) != "5" {
		t.Errorf("a=%s n=%s, %v", v[0], v[1], err)
	}
}

// Somebody else changes what one transaction of a group writes, after it was judged: the others are stored.
func TestConflictWithinGroup(t *testing.T) {
	for _, c := range []struct {
		name   string
		times  int // that the other one comes in between
		reruns uint64
	}{{"once", 1, 1}, {"again and again", 100, 2}} {
		t.Run(c.name, func(t *testing.T) {
			cluster := tikvtest.New(t)
			faults := new(tikvtest.Faults)
			s, other := cluster.Open(t, tikv.Config{}, faults), cluster.Open(t, tikv.Config{}, nil)
			other.Commit(ctx, set("a", "1", "b", "1", "c", "1"))
			n := 0
			faults.Set(func(req *tikvrpc.Request) tikvtest.Fault {
				// c is written without a requirement: whoever writes it meanwhile is a conflict of TiKV's.
				if req.Type == tikvrpc.CmdPrewrite && n < c.times && strings.Contains(req.Prewrite().String(), `key:"c"`) {
					n++
					if tx := set("c", fmt.Sprint("other", n)); true {
						if other.Commit(ctx, tx); tx.Err != nil {
							t.Errorf("the other: %v", tx.Err)
						}
					}
				}
				return tikvtest.None
			})
			txs := []*kv.Tx{step("a", "1", "2"), set("c", "2"), step("b", "1", "2")}
			gather(t, s, txs...)
			if txs[0].Err != nil || txs[2].Err != nil {
				t.Errorf("a: %v, b: %v", txs[0].Err, txs[2].Err)
			}
			if wins := c.times == 1; (txs[1].Err == nil) != wins || !wins && !errors.Is(txs[1].Err, kv.ErrConflict) {
				t.Errorf("c: %v", txs[1].Err)
			}
			if m := s.Metrics(); m.Reruns != c.reruns {
				t.Errorf("%d reruns, want %d", m.Reruns, c.reruns)
			}
		})
	}
}

// commits tells whether the request is one by which a transaction is stored.
func commits(req *tikvrpc.Request) bool {
	return req.Type == tikvrpc.CmdCommit || req.Type == tikvrpc.CmdPrewrite
}

func TestLostReplies(t *testing.T) {
	for _, c := range []struct {
		name   string
		fault  tikvtest.Fault
		on     func(*tikvrpc.Request) bool
		want   error
		stored bool
	}{
		{"of commits", tikvtest.LoseReply, func(r *tikvrpc.Request) bool { return r.Type == tikvrpc.CmdCommit }, kv.ErrUndetermined, true},
		{"commits that never arrive", tikvtest.LoseRequest, func(r *tikvrpc.Request) bool { return r.Type == tikvrpc.CmdCommit }, kv.ErrUndetermined, false},
		{"reads that never arrive", tikvtest.LoseRequest, func(r *tikvrpc.Request) bool { return !commits(r) }, kv.ErrUnavailable, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster := tikvtest.New(t)
			faults := new(tikvtest.Faults)
			s := cluster.Open(t, tikv.Config{CommitTimeout: 300 * time.Millisecond}, faults)
			plain := cluster.Open(t, tikv.Config{}, nil)
			faults.Set(func(r *tikvrpc.Request) tikvtest.Fault {
				if c.on(r) {
					return c.fault
				}
				return tikvtest.None
			})
			tx := step("a", "", "1")
			if s.Commit(ctx, tx); !errors.Is(tx.Err, c.want) {
				t.Fatalf("commit: %v, want %v", tx.Err, c.want)
			}
			faults.Set(nil)
			v, err := plain.Get(ctx, []byte("a")) // the lock of one that was lost in between is seen to first
			if err != nil || (string(v) == "1") != c.stored {
				t.Errorf("a is %q, %v", v, err)
			}
			plain.Commit(ctx, tx) // unchanged, as the port allows, once a lock that was left behind has expired
			if c.stored != errors.Is(tx.Err, kv.ErrConflict) || !c.stored && tx.Err != nil {
				t.Errorf("again: %v", tx.Err)
			}
		})
	}
}

// TestAppends has two processes append to the same logs while servers come and go and replies are lost.
func TestAppends(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	cluster := tikvtest.New(t, []byte("b"), []byte("c"))
	var stores []kv.Store
	for i := range uint64(2) {
		faults := new(tikvtest.Faults)
		faults.Random(seed+i, tikvtest.Rates{NotLeader: 0.005, EpochNotMatch: 0.01, ServerBusy: 0.005, LoseReply: 0.01, LoseRequest: 0.005}, 6)
		stores = append(stores, cluster.Open(t, tikv.Config{CommitTimeout: 100 * time.Millisecond}, faults))
	}
	undetermined, conflicts := kvtest.Appends(t, kvtest.AppendModel{Logs: 6, Writers: 4, Each: 20, Spread: "abc", Seed: seed},
		cluster.Open(t, tikv.Config{}, nil), stores...)
	t.Logf("%d undetermined, %d conflicts", undetermined, conflicts)
}

// A caller who gives up while others are being committed gets its transaction back at once.
func TestWithdrawn(t *testing.T) {
	s := tikvtest.Open(t)
	s.Commit(ctx, set("z", "1"))
	release := s.Hold()
	canceled, cancel := context.WithCancel(ctx)
	a, b := set("a", "1"), set("b", "1")
	var wg sync.WaitGroup
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Commit(canceled, a)
	}()
	wg.Go(func() { s.Commit(ctx, b) })
	for s.Queued() < 2 {
		runtime.Gosched()
	}
	cancel()
	<-done
	if !errors.Is(a.Err, kv.ErrUnavailable) || !errors.Is(a.Err, context.Canceled) {
		t.Errorf("withdrawn: %v", a.Err)
	}
	release()
	wg.Wait()
	if b.Err != nil {
		t.Errorf("the other: %v", b.Err)
	}
	if v, err := s.Get(ctx, []byte("a")); v != nil || err != nil {
		t.Errorf("what was withdrawn is %q, %v", v, err)
	}
}

// What is read of the past doesn't change, and can't be changed.
func TestAsOfNow(t *testing.T) {
	s := tikvtest.Open(t, []byte("b"))
	write := func(value string) {
		t.Helper()
		tx := new(kv.Tx)
		tx.Set([]byte("a"), []byte(value))
		tx.Set([]byte("c"), []byte(value))
		if s.Commit(context.Background(), tx); tx.Err != nil {
			t.Fatal(tx.Err)
		}
	}
	write("old")
	err := s.AsOfNow(context.Background(), func(past kv.Store) error {
		write("new")
		a, err := past.Get(context.Background(), []byte("a"))
		if err != nil || string(a) != "old" {
			t.Errorf("get: %q, %v", a, err)
		}
		both, err := past.MultiGet(context.Background(), [][]byte{[]byte("a"), []byte("b"), []byte("c")})
		if err != nil || string(both[0]) != "old" || both[1] != nil || string(both[2]) != "old" {
			t.Errorf("multi-get: %q, %v", both, err)
		}
		read := func(scan func(fn func(k, v []byte) (bool, error)) error) (got string) {
			if err := scan(func(k, v []byte) (bool, error) {
				got += string(k) + "=" + string(v) + " "
				return true, nil
			}); err != nil {
				t.Error(err)
			}
			return got
		}
		const want = "a=old c=old "
		if got := read(func(fn func(k, v []byte) (bool, error)) error { return past.Scan(context.Background(), kv.Span{}, fn) }); got != want {
			t.Errorf("scan: %s", got)
		}
		if err := past.View(context.Background(), nil, nil, func(v kv.View) error {
			if got := read(func(fn func(k, v []byte) (bool, error)) error { return v.Scan(kv.Span{}, fn) }); got != want {
				t.Errorf("view: %s", got)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		tx := new(kv.Tx)
		tx.Delete([]byte("a"))
		if past.Commit(context.Background(), tx); !errors.Is(tx.Err, kv.ErrInvalid) {
			t.Errorf("commit: %v", tx.Err)
		}
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := past.Get(ended, []byte("a")); !errors.Is(err, context.Canceled) {
			t.Errorf("get when the context has ended: %v", err)
		}
		return past.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := s.Get(context.Background(), []byte("a")); err != nil || string(a) != "new" {
		t.Errorf("afterwards: %q, %v", a, err)
	}
}
