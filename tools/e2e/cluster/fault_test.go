//go:build e2e && faults

package cluster

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bench/target"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/ring"
	"github.com/gochat-im/gochat/tools/cluster/local"
)

var (
	faultStores = flag.String("fault-stores", local.StoresReal, "what the nodes of the fault tests keep everything in: real or test")
	faultOnly   = flag.String("fault-only", "", "a regular expression of which faults, \"broker|cut off\" say; all of them unless given")
	faultDir    = flag.String("fault-dir", "", "where their clusters lie, logs above all; default: somewhere that is removed")
)

// afflicted is a cluster under load to which things happen, one after another.
type afflicted struct {
	*testing.T
	ctx    context.Context
	nodes  *local.Cluster
	net    *network
	issuer *target.Issuer
	load   *load
	rate   float64

	mu     sync.Mutex
	cables map[string]string // by the process and its true address

	table []string
}

// newAfflicted starts a cluster, and, if asked for, cables between its processes and people who talk: few, who do it faster than the limits
// that are shipped allow, and notice soon when they aren't heard.
func newAfflicted(t *testing.T, people bool) *afflicted {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 14*time.Minute)
	t.Cleanup(cancel)
	issuer, err := target.NewIssuer(t.TempDir(), "EdDSA")
	if err != nil {
		t.Fatal(err)
	}
	a := &afflicted{T: t, ctx: ctx, net: newNetwork(t), issuer: issuer, cables: map[string]string{}}
	dir := t.TempDir()
	if *faultDir != "" {
		dir = filepath.Join(*faultDir, t.Name())
	}
	cfg := local.Config{
		Dir: dir, Stores: *faultStores, Edges: 2, Logics: 3, Fanouts: 2, Workers: 1, Out: writer{t},
		More: fmt.Sprintf("issuers:\n  - {issuer: %q, algorithm: %q, key_file: %q}\n", issuer.Name, issuer.Algorithm, issuer.KeyFile),
	}
	if people {
		cfg.Via = a.via
		cfg.Set = []string{
			"GOCHAT_LIMITS__HEARTBEAT_MIN=1s", "GOCHAT_LIMITS__HEARTBEAT=2s", "GOCHAT_LIMITS__CONNECTS_PER_ADDRESS=10000",
			"GOCHAT_LIMITS__SENDS_PER_SECOND=100000", "GOCHAT_LIMITS__USER_SENDS_PER_SECOND=100000", "GOCHAT_LIMITS__BYTES_PER_SECOND=64MiB",
		}
	}
	if cfg.Stores == local.StoresReal {
		cfg.PDs = 3
	}
	if a.nodes, err = local.Start(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.nodes.Kill)
	t.Cleanup(a.net.close)
	for _, p := range a.nodes.Processes() {
		a.net.runs(p.Name, p.PID())
	}
	if !people {
		return a
	}
	var edges []string
	for _, p := range a.nodes.Nodes("edge") {
		edges = append(edges, a.net.cable(p.Name, "", p.TCP))
	}
	a.load = newLoad(t, edges, issuer.Token, 12, 12)
	return a
}

// writer writes to the test's log.
type writer struct{ t *testing.T }

func (w writer) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// via has everybody call a cable's end in the place of a process.
func (a *afflicted) via(_, to, address string) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	key := to + " " + address
	if a.cables[key] == "" {
		listen := ""
		if to == local.Broker { // whose port is told as it is
			_, port, err := net.SplitHostPort(address)
			if err != nil {
				a.Fatal(err)
			}
			listen = "127.0.0.2:" + port
		}
		a.cables[key] = a.net.cable(to, listen, address)
	}
	return a.cables[key]
}

// fault is something that happens to the cluster, and ends.
type fault struct {
	name   string
	inject func()
	hold   time.Duration // how long it lasts at least
	heal   func()
	away   time.Duration // bound of the time to full service while it lasts; 0: there is none
	back   time.Duration // the same after its end
	latest time.Duration // bound of what one message takes, whenever it was sent; 0: there is none
}

// suffer lets a fault happen under load, prints how long it took until the service was full again, and verifies.
func (a *afflicted) suffer(f fault) {
	a.Helper()
	l := a.load
	l.goHome()
	l.start(a.rate)
	warm := time.Now()
	if _, ok := l.full(warm, 20*time.Second); !ok {
		a.Errorf("%s: the service wasn't full before it", f.name)
	}
	l.mu.Lock()
	first := len(l.log)
	l.mu.Unlock()

	began := time.Now()
	f.inject()
	away := "-"
	if f.away > 0 {
		away = a.bounded(f.name, "", began, f.away)
	}
	time.Sleep(time.Until(began.Add(f.hold)))
	ended := time.Now()
	f.heal()
	back := a.bounded(f.name, " after its end", ended, f.back)
	l.stop()
	l.settled(20 * time.Second)

	var acks, hears time.Duration
	l.mu.Lock()
	for _, s := range l.log[first:] {
		if !s.acked.IsZero() {
			acks = max(acks, s.acked.Sub(s.due))
		}
		if !s.done.IsZero() {
			hears = max(hears, s.done.Sub(s.due))
		}
	}
	count := len(l.log) - first
	l.mu.Unlock()
	if f.latest > 0 && max(acks, hears) > f.latest {
		a.Errorf("%s: a message took %v to its ack, one %v to everybody; none may take more than %v", f.name, acks.Round(time.Millisecond), hears.Round(time.Millisecond), f.latest)
	}
	l.verify()
	row := fmt.Sprintf("%-34s  %6s  %6s  %7.2f  %7.2f  %6d", f.name, away, back, acks.Seconds(), hears.Seconds(), count)
	a.Log(row)
	a.table = append(a.table, row)
}

// bounded waits for full service and returns how long that took, in seconds.
func (a *afflicted) bounded(name, when string, since time.Time, limit time.Duration) string {
	a.Helper()
	at, ok := a.load.full(since, limit)
	took := at.Sub(since)
	if !ok || took > limit {
		a.Errorf("%s: %v until full service%s, the bound is %v (reached: %v)", name, took.Round(time.Millisecond), when, limit, ok)
	}
	return fmt.Sprintf("%.2f", took.Seconds())
}

// Three ways in which a process fails. Each returns what happens and its end.

func (a *afflicted) kill(p *local.Process) (inject, heal func()) {
	return p.Kill, func() { a.restart(p) }
}

func (a *afflicted) restart(p *local.Process) {
	if err := p.Start(a.ctx); err != nil {
		a.Fatalf("starting %s again: %v", p.Name, err)
	}
	a.net.runs(p.Name, p.PID())
}

func (a *afflicted) freeze(p *local.Process) (inject, heal func()) {
	signal := func(s syscall.Signal) func() {
		return func() {
			if err := p.Signal(s); err != nil {
				a.Errorf("%v to %s: %v", s, p.Name, err)
			}
		}
	}
	return signal(syscall.SIGSTOP), signal(syscall.SIGCONT)
}

func (a *afflicted) part(p *local.Process) (inject, heal func()) {
	return func() { a.net.part(p.Name) }, a.net.heal
}

// owner is the logic node that the busiest conversation belongs to.
func (a *afflicted) owner() *local.Process {
	return a.ownerOf(a.load.lanes[0].conv)
}

func (a *afflicted) ownerOf(conv id.ConversationID) *local.Process {
	var members []ring.Member
	for _, n := range a.nodes.View().With(nodes.Logic) {
		members = append(members, ring.Member{ID: n.ID, Weight: 1})
	}
	r := ring.New(members)
	return a.nodes.Process(r.Members()[r.Owner(conv.Slot())].ID)
}

// leader is the PD that leads.
func (a *afflicted) leader() *local.Process {
	var said struct {
		URLs []string `json:"client_urls"`
		Name string   `json:"name"`
	}
	for _, p := range a.nodes.Processes() {
		if !strings.HasPrefix(p.Name, local.PD) {
			continue
		}
		res, err := http.Get("http://" + p.Addr + "/pd/api/v1/leader")
		if err != nil {
			a.Fatal(err)
		}
		err = json.NewDecoder(res.Body).Decode(&said)
		_ = res.Body.Close()
		if err != nil {
			a.Fatal(err)
		}
		for _, q := range a.nodes.Processes() {
			if strings.HasPrefix(q.Name, local.PD) && q.Name == said.Name {
				return q
			}
		}
	}
	a.Fatalf("no PD leads: %+v", said)
	return nil
}

// Processes are killed, frozen and cut off, one after another, under a load that doesn't wait for answers. After each nothing that
// was acked is lost, doubled or reordered, everybody has everything, and the service is full again in time.
func TestFaults(t *testing.T) {
	a := newAfflicted(t, true)
	reached := a.load.measure()
	a.load.verify()
	a.rate = max(50, reached/5)
	t.Logf("%.0f messages/s reached, %.0f/s from here on: %d lanes, the group's messages to 11", reached, a.rate, len(a.load.lanes))

	only, err := regexp.Compile(*faultOnly)
	if err != nil {
		t.Fatal(err)
	}
	type victim struct {
		name               string
		who                func() *local.Process
		kill, freeze, part bool
		hold               time.Duration
		away, frozen, back time.Duration // frozen: away of a frozen or parted one, if it is another
		latest             time.Duration
		real               bool // not with test stores
	}
	node := func(name string) func() *local.Process { return func() *local.Process { return a.nodes.Process(name) } }
	const all = 10 * time.Second
	for _, v := range []victim{
		{name: "edge", who: node("edge-1"), kill: true, freeze: true, part: true, away: all, back: all},
		// Past its lease: somebody else owns what it holds appends of.
		{name: "owner of a busy conversation", who: a.owner, kill: true, freeze: true, part: true, hold: 8 * time.Second, away: all, back: all},
		{name: "fanout node", who: node("fanout-1"), kill: true, away: 2 * time.Second, back: 2 * time.Second},
		{name: "fanout node", who: node("fanout-1"), freeze: true, part: true, away: all, back: all, real: true},
		{name: "etcd", who: node(local.Etcd), kill: true, freeze: true, part: true, hold: 8 * time.Second, away: 2 * time.Second, back: 2 * time.Second, latest: 2 * time.Second},
		{name: "broker", who: node(local.Broker), kill: true, freeze: true, part: true, hold: 6 * time.Second, away: 2 * time.Second, back: 2 * time.Second, latest: 2 * time.Second, real: true},
		{name: "PD leader", who: a.leader, kill: true, freeze: true, part: true, hold: 6 * time.Second, back: 15 * time.Second, real: true},
		{name: "TiKV's API", who: node(local.TiKV), freeze: true, part: true, hold: 5 * time.Second, back: 15 * time.Second, real: true},
	} {
		if v.real && *faultStores != local.StoresReal {
			continue
		}
		for _, way := range []struct {
			on   bool
			does string
			of   func(*local.Process) (func(), func())
		}{{v.kill, "killed", a.kill}, {v.freeze, "frozen", a.freeze}, {v.part, "cut off", a.part}} {
			if !way.on || !only.MatchString(v.name+" "+way.does) {
				continue
			}
			inject, heal := way.of(v.who())
			a.suffer(fault{name: v.name + " " + way.does, inject: inject, heal: heal, hold: v.hold, away: v.away, back: v.back, latest: v.latest})
		}
	}
	a.cutFromLogic()
	t.Logf("seconds to full service (fault, after its end), the slowest ack and delivery, messages\n%s", strings.Join(a.table, "\n"))
}
