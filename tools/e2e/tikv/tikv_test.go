//go:build e2e

// Package tikv runs the store that nodes share against PD and a server of TiKV's API, both real
// processes on loopback, and through a proxy that has regions move and replies get lost.
package tikv

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/kvtest"
	"github.com/gochat-im/gochat/msgstore/kv/tikv"
	"github.com/gochat-im/gochat/tools/loopback"
	"github.com/gochat-im/gochat/tools/tikvlocal"
	"github.com/gochat-im/gochat/tools/tikvproxy"
)

const (
	bin      = "../../../.cache/tikv"
	keyspace = "DEFAULT" // PD makes it
)

var ctx = context.Background()

func TestMain(m *testing.M) {
	build, cancel := context.WithTimeout(ctx, 20*time.Minute)
	defer cancel()
	if err := tikvlocal.Build(build, "../../..", bin, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// cluster is PD and a server behind a proxy without faults.
type cluster struct {
	*tikvlocal.Cluster
	cfg   tikvlocal.Config
	proxy *tikvproxy.Proxy // nil: none
}

// freeAddr returns one that nobody listens on now.
func freeAddr(t *testing.T) string {
	t.Helper()
	a, err := loopback.Free(0)
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

func start(t *testing.T, proxied bool) *cluster {
	t.Helper()
	c := &cluster{cfg: tikvlocal.Config{Bin: bin, Data: t.TempDir(), PDAddr: freeAddr(t), PDPeerAddr: freeAddr(t), TiKVAddr: freeAddr(t), Sync: true}}
	if proxied {
		seed := uint64(time.Now().UnixNano())
		t.Logf("proxy's seed %d", seed)
		var err error
		if c.proxy, err = tikvproxy.Listen("127.0.0.1:0", c.cfg.TiKVAddr, seed); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.proxy.Close() })
		c.cfg.Advertise = c.proxy.Addr()
	}
	bounded, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var err error
	if c.Cluster, err = tikvlocal.Start(bounded, c.cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Stop()
		if t.Failed() {
			for _, name := range []string{"pdserver.log", "tikvserver.log"} {
				log, _ := os.ReadFile(filepath.Join(c.cfg.Data, name))
				t.Logf("the end of %s:\n%s", name, log[max(0, len(log)-4000):])
			}
		}
	})
	return c
}

// open returns a store of the cluster, which ends with the test.
func (c *cluster) open(t *testing.T, cfg tikv.Config) *tikv.Store {
	t.Helper()
	cfg.PD = []string{c.cfg.PDAddr}
	cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError}))
	bounded, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	s, err := tikv.Open(bounded, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// wiped returns a store of the cluster, emptied. It is a keyspace: outside of them lie rows of the server's own.
func (c *cluster) wiped(t *testing.T) *tikv.Store {
	t.Helper()
	s := c.open(t, tikv.Config{Keyspace: keyspace})
	for left := true; left; {
		left = false
		tx, n := new(kv.Tx), 0
		err := s.Scan(ctx, kv.Span{Limit: 5000}, func(k, _ []byte) (bool, error) {
			left = true
			tx.Delete(k)
			n += len(k)
			return n < kv.MaxTx/2, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if s.Commit(ctx, tx); tx.Err != nil {
			t.Fatal(tx.Err)
		}
	}
	return s
}

// split cuts the conformance suite's keys into regions.
func split(t *testing.T, s *tikv.Store) {
	t.Helper()
	err := s.PreSplit(ctx, func(int) [][]byte {
		return [][]byte{[]byte("a"), []byte("b"), []byte("k1"), []byte("many01000"), []byte("n1"), []byte("x")}
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	c := start(t, false)
	t.Run("one region", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) kv.Store { return c.wiped(t) })
	})
	split(t, c.open(t, tikv.Config{Keyspace: keyspace}))
	t.Run("several regions", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) kv.Store { return c.wiped(t) })
	})
}

// What one node was acknowledged, another finds that asks at once: its timestamp may be the very next of PD's.
func TestSeenElsewhere(t *testing.T) {
	c := start(t, false)
	nodes := []*tikv.Store{c.open(t, tikv.Config{Keyspace: keyspace}), c.open(t, tikv.Config{Keyspace: keyspace})}
	key := []byte("k")
	var last []byte
	for i := range uint64(1000) {
		by, other := nodes[i%2], nodes[(i+1)%2]
		next := binary.BigEndian.AppendUint64(nil, i+1)
		tx := new(kv.Tx)
		tx.Require(key, last) // judged as of a timestamp, too
		tx.Set(key, next)
		if by.Commit(ctx, tx); tx.Err != nil {
			t.Fatalf("commit %d: %v", i, tx.Err)
		}
		err := other.View(ctx, key, nil, func(v kv.View) error {
			got, err := v.Get(key)
			if err == nil && !bytes.Equal(got, next) {
				t.Errorf("after commit %d: %x", i, got)
			}
			return err
		})
		if err != nil || t.Failed() {
			t.Fatal(err)
		}
		last = next
	}
}

func TestThroughFaults(t *testing.T) {
	c := start(t, true)
	split(t, c.open(t, tikv.Config{Keyspace: keyspace}))
	t.Run("conformance", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) kv.Store {
			c.proxy.Set(tikvproxy.Rates{})
			s := c.wiped(t)
			c.proxy.Set(tikvproxy.Rates{NotLeader: 0.0002, EpochNotMatch: 0.005, ServerBusy: 0.0002, LoseReply: 0.002})
			return s
		})
		t.Logf("injected %+v", c.proxy.Counts())
	})
	t.Run("appends", func(t *testing.T) {
		c.proxy.Set(tikvproxy.Rates{})
		judge := c.wiped(t)
		stores := []kv.Store{c.open(t, tikv.Config{Keyspace: keyspace, CommitTimeout: 200 * time.Millisecond}), c.open(t, tikv.Config{Keyspace: keyspace, CommitTimeout: 200 * time.Millisecond})}
		c.proxy.Set(tikvproxy.Rates{NotLeader: 0.005, EpochNotMatch: 0.01, ServerBusy: 0.005, LoseReply: 0.01, LoseRequest: 0.005})
		before := c.proxy.Counts()
		undetermined, conflicts := kvtest.Appends(t, kvtest.AppendModel{
			Logs: 12, Writers: 6, Each: 30, Spread: "abkn", Seed: uint64(time.Now().UnixNano()),
		}, quiet{judge, c.proxy}, stores...)
		t.Logf("%d undetermined, %d conflicts, injected from %+v to %+v", undetermined, conflicts, before, c.proxy.Counts())
	})
}

// quiet is a store that reads without faults.
type quiet struct {
	kv.Store
	proxy *tikvproxy.Proxy
}

func (q quiet) Scan(ctx context.Context, span kv.Span, fn func(k, v []byte) (bool, error)) error {
	q.proxy.Set(tikvproxy.Rates{})
	return q.Store.Scan(ctx, span, fn)
}

// The server freezes and comes back: what was being appended is answered one way or the other, and all goes on.
func TestFrozenServer(t *testing.T) {
	c := start(t, false)
	s := c.open(t, tikv.Config{CommitTimeout: time.Second})
	set := func() error {
		tx := new(kv.Tx)
		tx.Set([]byte("a"), []byte("1"))
		s.Commit(ctx, tx)
		return tx.Err
	}
	if err := set(); err != nil {
		t.Fatal(err)
	}
	if err := c.TiKV.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := set(); !errors.Is(err, kv.ErrUndetermined) && !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("while it is frozen: %v", err)
	}
	if err := c.TiKV.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	for err := set(); err != nil; err = set() {
		if time.Since(back) > 15*time.Second {
			t.Fatalf("15 s after its return: %v", err)
		}
	}
	t.Logf("stores again %v after its return", time.Since(back).Round(time.Millisecond))
}

// regions returns how many PD knows.
func (c *cluster) regions(t *testing.T) int {
	t.Helper()
	var known struct {
		Count int `json:"count"`
	}
	c.pd(t, "regions", &known)
	return known.Count
}

// pd asks PD, for a minute if need be: it has no leader for a while where the disk is slow.
func (c *cluster) pd(t *testing.T, what string, out any) {
	t.Helper()
	ask := func() error {
		res, err := http.Get("http://" + c.cfg.PDAddr + "/pd/api/v1/" + what)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return errors.New(res.Status)
		}
		return json.NewDecoder(res.Body).Decode(out)
	}
	err := ask()
	for bounded := time.Now().Add(time.Minute); err != nil && time.Now().Before(bounded); err = ask() {
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("%s of PD: %v", what, err)
	}
}

func TestPreSplit(t *testing.T) {
	c := start(t, false)
	s := c.open(t, tikv.Config{RegionsPerStore: 8})
	keys := msgstore.Keys{Keyspace: 3}
	for again := range 2 { // again changes nothing
		if err := s.PreSplit(ctx, keys.SlotBounds); err != nil {
			t.Fatal(err)
		}
		// PD is told by the servers' heartbeats, some time after it is done.
		n, bounded := c.regions(t), time.Now().Add(time.Minute)
		for again == 0 && n < 10 && time.Now().Before(bounded) { // 8, and what is before and behind
			time.Sleep(10 * time.Millisecond)
			n = c.regions(t)
		}
		if n != 10 {
			t.Errorf("%d regions", n)
		}
	}
	var rules []struct {
		ID     string              `json:"id"`
		Labels []map[string]string `json:"labels"`
	}
	c.pd(t, "config/region-label/rules", &rules)
	found := false
	for _, r := range rules {
		found = found || len(r.Labels) == 1 && r.Labels[0]["key"] == "merge_option" && r.Labels[0]["value"] == "deny"
	}
	if !found {
		t.Errorf("PD will merge them again: %+v", rules)
	}
	if _, err := msgstore.OpenMeta(ctx, s, keys, 1); err != nil {
		t.Fatal(err)
	}
	tx := new(kv.Tx) // rows of one slot
	tx.Require(keys.StoreRow(nil, "none"), nil)
	tx.Set(keys.StoreRow(nil, "some"), []byte("1"))
	if s.Commit(ctx, tx); tx.Err != nil {
		t.Fatal(tx.Err)
	}
	if m := s.Metrics(); m.OnePhase != m.Groups || m.Groups == 0 {
		t.Errorf("not all in one phase: %+v", m)
	}
}

func TestGarbage(t *testing.T) {
	c := start(t, false)
	s, other := c.open(t, tikv.Config{}), c.open(t, tikv.Config{})
	safePoint := func() uint64 {
		var known struct {
			SafePoint uint64 `json:"gc_safe_point"`
		}
		c.pd(t, "gc/safepoint", &known)
		return known.SafePoint
	}
	asked := make(chan struct{}, 100)
	bounded, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var ended error
	wg.Go(func() {
		ended = s.RunGC(bounded, tikv.GCConfig{Every: time.Millisecond, Leader: func(context.Context) bool { asked <- struct{}{}; return false }})
	})
	<-asked
	<-asked
	cancel()
	wg.Wait()
	if at := safePoint(); ended != nil || at != 0 {
		t.Errorf("who isn't the leader moved the safe point to %d, %v", at, ended)
	}

	first, err := s.CollectGarbage(ctx, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if back := time.Since(first); back < time.Hour || back > time.Hour+time.Minute {
		t.Errorf("safe point %v back", back)
	}
	at := safePoint()
	if second, err := other.CollectGarbage(ctx, 30*time.Minute); err != nil || !second.After(first) || safePoint() <= at {
		t.Errorf("the next: %v after %v, %v", second, first, err)
	}
	if third, err := s.CollectGarbage(ctx, 2*time.Hour); err != nil || time.Since(third) > time.Hour {
		t.Errorf("who keeps more lowered it to %v, %v", third, err)
	}
	if m := s.Metrics(); m.GarbageRuns != 2 || m.GarbageFailures != 0 || m.SafePoint == 0 {
		t.Errorf("metrics %+v", m)
	}

	etcd, err := clientv3.New(clientv3.Config{Endpoints: []string{c.cfg.PDAddr}, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer etcd.Close()
	const tidb = "/tidb/server/info/5f0c/info"
	if _, err := etcd.Put(ctx, tidb, "{}"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CollectGarbage(ctx, time.Hour); !errors.Is(err, tikv.ErrOtherCollector) {
		t.Errorf("beside a TiDB: %v", err)
	}
	bounded, cancel = context.WithCancel(ctx)
	rounds, failed := 0, s.Metrics().GarbageFailures
	err = s.RunGC(bounded, tikv.GCConfig{Every: time.Millisecond, Leader: func(context.Context) bool { // it goes on asking
		if rounds++; rounds > 2 {
			cancel()
		}
		return rounds <= 2
	}})
	if n := s.Metrics().GarbageFailures - failed; err != nil || n != 2 {
		t.Errorf("beside a TiDB: %d failures, %v", n, err)
	}
	if _, err := etcd.Delete(ctx, tidb); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Delete(ctx, "/gochat", clientv3.WithPrefix()); err != nil { // as if another had moved PD's
		t.Fatal(err)
	}
	if _, err := s.CollectGarbage(ctx, time.Hour); !errors.Is(err, tikv.ErrOtherCollector) {
		t.Errorf("beside a safe point of somebody's: %v", err)
	}
}

// TestRate prints what appends cost here: 1,000 conversations in 8 regions, each appended to by one
// goroutine after the other, gathered by the store.
func TestRate(t *testing.T) {
	c := start(t, false)
	s := c.open(t, tikv.Config{RegionsPerStore: 8})
	keys := msgstore.Keys{}
	if err := s.PreSplit(ctx, keys.SlotBounds); err != nil {
		t.Fatal(err)
	}
	for _, writers := range []int{1, 16, 128, 512} {
		before := s.Metrics()
		var done atomic.Bool
		var wg sync.WaitGroup
		began := time.Now()
		for w := range writers {
			wg.Go(func() {
				key := binary.BigEndian.AppendUint16([]byte{0, 0, msgstore.Layout}, uint16(w*4096/writers))
				head := append(fmt.Appendf(key, "%d", w), 0x50)
				var old []byte
				for n := uint64(before.Txs); !done.Load(); n++ {
					tx := new(kv.Tx)
					if old == nil {
						old, _ = s.Get(ctx, head)
					}
					tx.Require(head, old)
					next := binary.BigEndian.AppendUint64(make([]byte, 0, 64), n)[:64]
					tx.Set(head, next)
					tx.Set(binary.BigEndian.AppendUint64(append(head[:len(head)-1:len(head)-1], 0x40), n), make([]byte, 200))
					tx.Set(binary.BigEndian.AppendUint64(append(head[:len(head)-1:len(head)-1], 0x70), n), make([]byte, 40))
					if s.Commit(ctx, tx); tx.Err != nil {
						t.Error(tx.Err)
						return
					}
					old = next
				}
			})
		}
		time.AfterFunc(2*time.Second, func() { done.Store(true) })
		wg.Wait()
		m := s.Metrics()
		txs, groups := m.Txs-before.Txs, m.Groups-before.Groups
		t.Logf("%3d writers: %6.0f appends/s, %.1f a group, %.2f %% in one phase", writers, float64(txs)/time.Since(began).Seconds(),
			float64(txs)/float64(groups), 100*float64(m.OnePhaseTxs-before.OnePhaseTxs)/float64(txs))
		if share := float64(m.OnePhaseTxs-before.OnePhaseTxs) / float64(txs); share < 0.99 {
			t.Errorf("%d writers: %.3f of the appends in one phase", writers, share)
		}
	}
}
