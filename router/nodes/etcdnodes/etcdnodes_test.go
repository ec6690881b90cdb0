package etcdnodes_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/router/etcd"
	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	c := etcdtest.Client(t, "http://127.0.0.1:1")
	for want, cfg := range map[string]etcdnodes.Config{
		"needs a client":        {},
		"begins with a slash":   {Client: c, Prefix: "gochat"},
		"want one that":         {Client: c, Prefix: "/"},
		"whole seconds":         {Client: c, Lease: 1500 * time.Millisecond},
		"twice that of nodes":   {Client: c, Lease: 5 * time.Second, NumberLease: 6 * time.Second},
		"reading /gochat/slots": {Client: c},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		if _, err := etcdnodes.Open(ctx, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
		cancel()
	}
}

func TestNodesComeAndGo(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	tool := open(t, config(srv.URL(), t)) // one that only looks
	if names(tool.View()) != "" || tool.Worker() != 0 || tool.Valid() {
		t.Error("a tool is a node")
	}
	if err := tool.Announce(limit(t)); err == nil {
		t.Error("a node that hasn't joined is announced")
	}
	a := open(t, config(srv.URL(), t))
	na := join(t, a, "a")
	if na.Worker == 0 || na.Worker != a.Worker() || na.Start == 0 || na.Started == 0 || na.Weight != nodes.DefaultWeight || !a.Valid() {
		t.Errorf("joined as %+v", na)
	}
	b := started(t, config(srv.URL(), t), "b")
	sees(t, tool, "b")
	if err := a.Announce(limit(t)); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*etcdnodes.Source{a, b, tool} {
		sees(t, s, "a b")
	}
	got := tool.View().ByID("a")
	if got.Registration == 0 || got.Worker != na.Worker || got.Start != na.Start || got.RPC != na.RPC || tool.View().ByWorker(b.Worker()).ID != "b" {
		t.Errorf("a is seen as %+v", got)
	}
	if tool.View().Revision() == 0 || a.View().Revision() == 0 {
		t.Error("views have no revision")
	}
	if err := a.Close(limit(t)); err != nil {
		t.Fatal(err)
	}
	sees(t, tool, "b")
	select {
	case <-a.Lost():
	default:
		t.Error("a node that left still has its number")
	}
	if a.Valid() || names(a.View()) == "" {
		t.Error("after Close")
	}

	// Who comes again after it left in good order has its number again at once.
	again := open(t, config(srv.URL(), t))
	if n := join(t, again, "a"); n.Worker != na.Worker || n.Start == na.Start {
		t.Errorf("joined again as %+v, was %+v", n, na)
	}
	if _, err := again.Join(limit(t), nodes.Node{ID: "a/b", Roles: nodes.Logic}); err == nil {
		t.Error("a bad name")
	}
}

func TestSlotsMustAgree(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client()
	s := open(t, config(srv.URL(), t))
	if r, err := c.Get(limit(t), prefix+"/slots"); err != nil || len(r.Kvs) != 0 {
		t.Errorf("who only looks has written: %v, %v", r, err)
	}
	join(t, s, "a")
	if r, err := c.Get(limit(t), prefix+"/slots"); err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "4096 xxh64/52" {
		t.Errorf("slots: %v, %v", r, err)
	}
	if _, err := c.Put(limit(t), prefix+"/slots", "1024 xxh64/54"); err != nil {
		t.Fatal(err)
	}
	if _, err := etcdnodes.Open(limit(t), config(srv.URL(), t)); !errors.Is(err, etcdnodes.ErrSlots) || !strings.Contains(err.Error(), `"1024 xxh64/54"`) {
		t.Errorf("other slots: %v", err)
	}
}

// One node is cut off for longer than its lease: the others see it gone, it goes on with what
// it knew, and afterwards it comes back as one who was gone.
func TestLeaseLapses(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := srv.Proxy()
	var away []bool
	var mu sync.Mutex
	cfg := config(p.URL(), t)
	var registered atomic.Int32
	cfg.Events = etcdnodes.Events{
		Registered: func() { registered.Add(1) },
		Away: func(on bool) {
			mu.Lock()
			defer mu.Unlock()
			away = append(away, on)
		},
	}
	a := started(t, cfg, "a")
	b := started(t, config(srv.URL(), t), "b")
	sees(t, a, "a b")
	sees(t, b, "a b")
	before := *b.View().ByID("a")
	seen := follow(a)
	p.Cut()
	sees(t, b, "b")
	if names(a.View()) != "a b" {
		t.Errorf("without etcd a sees %q", names(a.View()))
	}
	if !a.Valid() {
		t.Error("a node that was cut off may make no ids, although its number is its own for an hour")
	}
	p.Heal()
	sees(t, b, "a b")
	after := b.View().ByID("a")
	if before.Same(after) || after.Start != before.Start || after.Worker != before.Worker {
		t.Errorf("came back as %+v, was %+v", after, before)
	}
	eventually(t, "a was told that it is registered again", func() bool { return registered.Load() >= 2 })
	eventually(t, "a sees its new record", func() bool { return a.View().ByID("a").Same(after) })
	if h := seen.all(); slices.ContainsFunc(h, func(v string) bool { return v != "a b" }) {
		t.Errorf("a, which was away itself, dropped somebody: %q", h)
	}
	eventually(t, "a knows that etcd is back", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Equal(away, []bool{true, false})
	})
	select {
	case <-a.Lost():
		t.Error("the number is lost")
	default:
	}
}

// etcd is away for longer than all leases: nobody is dropped, neither then nor at its return,
// except who doesn't come back.
func TestEtcdAway(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := srv.Proxy()
	patient := func(url string) etcdnodes.Config {
		cfg := config(url, t)
		cfg.Lease = 2 * time.Second // longer than clients need to find etcd again, on a busy machine too
		return cfg
	}
	gone := started(t, patient(p.URL()), "a-gone")
	var back atomic.Int32
	cfg := patient(srv.URL())
	cfg.Events.Away = func(on bool) {
		if !on {
			back.Add(1)
		}
	}
	b := started(t, cfg, "b")
	c := started(t, patient(srv.URL()), "c")
	for _, s := range []*etcdnodes.Source{gone, b, c} {
		sees(t, s, "a-gone b c")
	}
	seen := follow(b)
	srv.Stop()
	p.Cut() // a-gone never hears of etcd again
	timer := time.NewTimer(2500 * time.Millisecond)
	<-timer.C // not a synchronisation: the outage outlasts the leases
	if !b.Valid() || names(b.View()) != "a-gone b c" {
		t.Errorf("while etcd is away: valid %v, nodes %q", b.Valid(), names(b.View()))
	}
	srv.Restart()
	sees(t, b, "b c")
	sees(t, c, "b c")
	if h := slices.Compact(seen.all()); !slices.Equal(h, []string{"a-gone b c", "b c"}) {
		t.Errorf("views of b: %q", h)
	}
	if back.Load() != 1 {
		t.Errorf("b was told of %d returns", back.Load())
	}
	if names(gone.View()) != "a-gone b c" {
		t.Error("a-gone")
	}
}

// etcd lost everything: the nodes register again and keep their numbers, and the watch is not waiting
// for revisions that are years away.
func TestEtcdForgets(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client()
	for range 50 {
		if _, err := c.Put(limit(t), "/other", "x"); err != nil {
			t.Fatal(err)
		}
	}
	a, b := started(t, config(srv.URL(), t), "a"), started(t, config(srv.URL(), t), "b")
	sees(t, a, "a b")
	numbers := []uint32{a.Worker(), b.Worker()}
	seen := follow(a)
	srv.Wipe()
	eventually(t, "both have registered again", func() bool {
		r, err := c.Get(limit(t), prefix+"/nodes/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && r.Count == 2
	})
	d := started(t, config(srv.URL(), t), "d")
	for _, s := range []*etcdnodes.Source{a, b, d} {
		sees(t, s, "a b d")
	}
	if h := seen.all(); slices.Contains(h, "a") || slices.Contains(h, "b") || slices.Contains(h, "") {
		t.Errorf("a dropped somebody: %q", h)
	}
	if !slices.Equal(numbers, []uint32{a.Worker(), b.Worker()}) || !a.Valid() || !b.Valid() {
		t.Error("numbers are lost")
	}
	if r, err := c.Get(limit(t), fmt.Sprintf("%s/workers/%d", prefix, a.Worker())); err != nil || len(r.Kvs) != 1 || !strings.Contains(string(r.Kvs[0].Value), `"node":"a"`) {
		t.Errorf("the number's record: %v, %v", r, err)
	}
}

// Whoever was away hears what happened meanwhile, whether etcd still knows each event or not.
func TestWatchHasNoGap(t *testing.T) {
	t.Parallel()
	for _, compact := range []bool{false, true} {
		t.Run(fmt.Sprintf("compacted=%v", compact), func(t *testing.T) {
			srv := etcdtest.Start(t)
			p := srv.Proxy()
			a := started(t, config(srv.URL(), t), "a")
			tool := open(t, config(p.URL(), t))
			sees(t, tool, "a")
			p.Cut()
			if err := a.Close(limit(t)); err != nil {
				t.Fatal(err)
			}
			b := started(t, config(srv.URL(), t), "b")
			c := started(t, config(srv.URL(), t), "c")
			sees(t, c, "b c")
			if err := b.Close(limit(t)); err != nil {
				t.Fatal(err)
			}
			if compact {
				cl := srv.Client()
				r, err := cl.Put(limit(t), "/other", "x")
				if err == nil {
					_, err = cl.Compact(limit(t), r.Header.Revision)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			p.Heal()
			sees(t, tool, "c")
			started(t, config(srv.URL(), t), "d")
			sees(t, tool, "c d") // the watch goes on
		})
	}
}

// While a node is cut off another process is started in its place, as a scheduler does that can't
// reach it: the first one has to end, and the two never had one number.
func TestReplaced(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := srv.Proxy()
	first := started(t, config(p.URL(), t), "a")
	p.Cut()
	second := started(t, config(srv.URL(), t), "a") // waits for the lease to lapse
	if first.Worker() == second.Worker() {
		t.Errorf("both have number %d", first.Worker())
	}
	p.Heal()
	<-first.Lost()
	if first.Valid() || !second.Valid() {
		t.Errorf("valid: first %v, second %v", first.Valid(), second.Valid())
	}
	if err := first.Close(limit(t)); err != nil {
		t.Error(err)
	}
	sees(t, second, "a")
	if n := second.View().ByID("a"); n.Worker != second.Worker() {
		t.Errorf("a is %+v", n)
	}
}

// A record that somebody removed by hand is put back.
func TestRecordIsPutBack(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	a := started(t, config(srv.URL(), t), "a")
	sees(t, a, "a")
	before := *a.View().ByID("a")
	if _, err := srv.Client().Delete(limit(t), prefix+"/nodes/a"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the record is another", func() bool {
		n := a.View().ByID("a")
		return n != nil && !n.Same(&before) && n.Start == before.Start
	})
}

// A node without etcd for most of its number's lease must not count on the number.
func TestNumberLapses(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := srv.Proxy()
	cfg := config(p.URL(), t)
	cfg.NumberLease = 2 * time.Second
	a := started(t, cfg, "a")
	eventually(t, "the number is renewed", func() bool { return a.Valid() })
	p.Cut()
	eventually(t, "the number is not to be used", func() bool { return !a.Valid() })
	select {
	case <-a.Lost():
		t.Error("lost, but nobody said so")
	default:
	}
	c := srv.Client()
	eventually(t, "the number is free", func() bool {
		r, err := c.Get(limit(t), prefix+"/workers/", clientv3.WithPrefix(), clientv3.WithCountOnly())
		return err == nil && r.Count == 0
	})
	p.Heal()
	<-a.Lost()
	if a.Valid() {
		t.Error("the number is valid again, but anybody may have had it")
	}
}

func TestDrain(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p := srv.Proxy()
	cfg := config(p.URL(), t)
	told := make(chan bool, 8)
	cfg.Events.Draining = func(on bool) { told <- on }
	a := started(t, cfg, "a")
	b := started(t, config(srv.URL(), t), "b")
	c := srv.Client()
	if err := etcdnodes.Drain(limit(t), c, prefix, "nobody", true); !errors.Is(err, etcdnodes.ErrUnknown) {
		t.Errorf("draining nobody: %v", err)
	}
	if err := etcdnodes.Drain(limit(t), c, prefix, "a", true); err != nil {
		t.Fatal(err)
	}
	if !<-told {
		t.Error("told to stay")
	}
	drains := func(want bool) func() bool {
		return func() bool { n := b.View().ByID("a"); return n != nil && n.Draining == want }
	}
	eventually(t, "b sees a drain", drains(true))

	// It drains after it was gone, too.
	p.Cut()
	sees(t, b, "b")
	p.Heal()
	sees(t, b, "a b")
	eventually(t, "b sees a drain", drains(true))
	if err := etcdnodes.Drain(limit(t), c, prefix+"/", "a", false); err != nil {
		t.Fatal(err)
	}
	if <-told {
		t.Error("told to drain")
	}
	eventually(t, "b sees a stay", drains(false))
	if err := a.SetDraining(limit(t), true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b sees a drain", drains(true))
	select {
	case on := <-told:
		t.Errorf("told of what it said itself: %v", on)
	default:
	}
	// What this release doesn't know stays in a record.
	key := prefix + "/nodes/z"
	if _, err := c.Put(limit(t), key, `{"id":"z","worker":5,"roles":["logic"],"start":9007199254740993,"later":[1]}`); err != nil {
		t.Fatal(err)
	}
	if err := etcdnodes.Drain(limit(t), c, prefix, "z", true); err != nil {
		t.Fatal(err)
	}
	if r, err := c.Get(limit(t), key); err != nil || string(r.Kvs[0].Value) != `{"draining":true,"id":"z","later":[1],"roles":["logic"],"start":9007199254740993,"worker":5}` {
		t.Errorf("the record: %s, %v", r.Kvs[0].Value, err)
	}
	// A node that isn't announced yet drains from the first.
	d := open(t, config(srv.URL(), t))
	join(t, d, "d")
	if err := d.SetDraining(limit(t), true); err != nil {
		t.Fatal(err)
	}
	if err := d.Announce(limit(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "d drains", func() bool { n := b.View().ByID("d"); return n != nil && n.Draining })
}

func TestBadRecordsArePassedOver(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client()
	a := started(t, config(srv.URL(), t), "a")
	for key, value := range map[string]string{"x": "{", "y": `{"id":"y","worker":0,"roles":["edge"]}`, "z": `{"id":"a","worker":9,"roles":["edge"]}`, "w": `{"id":"w","worker":9,"roles":["oracle"]}`} {
		if _, err := c.Put(limit(t), prefix+"/nodes/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	// Of two with one number the one that came last counts.
	if _, err := c.Put(limit(t), prefix+"/nodes/v", fmt.Sprintf(`{"id":"v","worker":%d,"roles":["edge"]}`, a.Worker())); err != nil {
		t.Fatal(err)
	}
	sees(t, a, "v")
	sees(t, open(t, config(srv.URL(), t)), "v")
	if _, err := c.Delete(limit(t), prefix+"/nodes/v"); err != nil {
		t.Fatal(err)
	}
	sees(t, a, "a")
}

// With etcd's authentication on, everything goes on after a restart that made all tokens void.
func TestSignedIn(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	const password = "secret-of-the-test"
	root := srv.Client()
	if _, err := root.UserAdd(limit(t), "root", password); err != nil {
		t.Fatal(err)
	}
	if _, err := root.UserGrantRole(limit(t), "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := root.AuthEnable(limit(t)); err != nil {
		t.Fatal(err)
	}
	signedIn := func() etcdnodes.Config {
		cfg := config(srv.URL(), t)
		c, err := etcd.Dial(limit(t), etcd.Config{Endpoints: []string{srv.URL()}, User: "root", Password: password})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		cfg.Client = c
		return cfg
	}
	if _, err := etcdnodes.Open(limit(t), config(srv.URL(), t)); err == nil {
		t.Error("opened by somebody who hasn't signed in")
	}
	a, b := started(t, signedIn(), "a"), started(t, signedIn(), "b")
	sees(t, a, "a b")
	srv.Restart()
	c := started(t, signedIn(), "c")
	for _, s := range []*etcdnodes.Source{a, b, c} {
		sees(t, s, "a b c")
	}
	if err := b.Close(limit(t)); err != nil {
		t.Fatal(err)
	}
	sees(t, a, "a c")
}
