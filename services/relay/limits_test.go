package relay_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/relay"
	"github.com/gochat-im/gochat/services/session"
)

// recorder passes calls on and keeps their bodies.
type recorder struct {
	mu     sync.Mutex
	bodies [][]byte
}

func (r *recorder) keep(body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bodies = append(r.bodies, slices.Clone(body))
}

// What another node sends may be cut off or mixed up: it is refused, or taken as something else, and nothing breaks.
func TestUnreadable(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(t)
	l, e := w.logic(0), w.edge()
	w.agree(l)
	w.settled()
	rec := &recorder{}
	edges, err := relay.NewEdges(relay.EdgesConfig{Self: "x", Start: 1, Call: func(_ context.Context, _ *nodes.Node, body []byte) ([]byte, error) {
		rec.keep(body)
		return e.take(body)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(edges.Close)
	edges.SetView(l.Router)
	p := w.connect(e, "ann", "phone")
	ping, conv := frame.Append(nil, frame.Ping, 0, 0, nil), id.NewGroup()
	edges.Deliver(p.c.Incarnation(), ping)
	edges.DeliverLazily(p.c.Incarnation(), ping)
	edges.DeliverUsers([]id.UserID{"ann", "ben"}, ping, 1)
	a := edges.Audiences()
	a.Open(conv)
	a.Join(conv, []id.UserID{"ann"})
	a.Deliver(conv, 3, append(ping, ping...), []int{len(ping), 2 * len(ping)}, []uint64{0, 7}, false)
	a.Leave(conv, []id.UserID{"ann"})
	a.Close(conv)
	edges.CloseConn(p.c.Incarnation()+1, code.New(code.Replaced))
	edges.Revoke(relay.Revocation{User: "ben", Until: time.Now(), Why: "x"})
	edges.Flush()
	eventually(t, "all is sent", func() bool { s := edges.Stats()[0]; return s.Waiting+s.Orders == 0 && s.Sent > 0 })
	rec.mu.Lock()
	bodies := slices.Clone(rec.bodies)
	rec.mu.Unlock()

	for _, take := range []func([]byte) ([]byte, error){e.take, l.desk.Take, l.desk.LookUp} {
		if _, err := take(nil); err == nil {
			t.Error("nothing at all is taken")
		}
		for _, b := range bodies {
			for range 100 {
				c := slices.Clone(b)
				for range rng.IntN(4) {
					c[rng.IntN(len(c))] = byte(rng.Uint32())
				}
				if rng.IntN(2) == 0 {
					c = c[:rng.IntN(len(c))]
				}
				_, _ = take(c)
			}
		}
	}
	// A claim of more than there is costs nothing.
	if _, err := l.desk.LookUp([]byte{0, 0xff, 0xff, 0xff, 0x7f}); err == nil {
		t.Error("more users than there are bytes")
	}
}

// nearby is the edge in this process.
type nearby struct {
	delivered, lazily, users, flushed, closed, revoked int
}

func (n *nearby) Deliver(uint64, []byte)                   { n.delivered++ }
func (n *nearby) DeliverLazily(uint64, []byte)             { n.lazily++ }
func (n *nearby) DeliverUsers([]id.UserID, []byte, uint64) { n.users++ }
func (n *nearby) Flush()                                   { n.flushed++ }
func (n *nearby) Close(uint64, *code.Error)                { n.closed++ }
func (n *nearby) CloseUserUntil(id.UserID, id.DeviceID, time.Time, *code.Error) int {
	n.revoked++
	return 0
}

// What is for this process's own edge is a call, and what is for edges that there aren't is dropped.
func TestNear(t *testing.T) {
	w := newWorld(t)
	e := w.edge()
	near := &nearby{}
	edges, err := relay.NewEdges(relay.EdgesConfig{
		Self: "x", Start: 1, Near: near, Seating: e.hub.Audiences(), NearConns: 5,
		Call: func(context.Context, *nodes.Node, []byte) ([]byte, error) { t.Error("a call"); return nil, errDown },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(edges.Close)
	mine, other, f := uint64(5)<<20|1, uint64(6)<<20|1, []byte("frame")
	for _, conn := range []uint64{mine, other} {
		edges.Deliver(conn, f)
		edges.DeliverLazily(conn, f)
		edges.CloseConn(conn, code.New(code.Replaced))
	}
	edges.DeliverUsers([]id.UserID{"ann"}, f, 0)
	edges.Revoke(relay.Revocation{User: "ann"})
	edges.Flush()
	if *near != (nearby{1, 1, 1, 1, 1, 1}) {
		t.Errorf("%+v, want one of each", *near)
	}
	a, conv := edges.Audiences(), id.NewGroup()
	e.box.Near("x", e.hub.Audiences())
	if leads := e.box.Leads(nil); len(leads) > 0 {
		t.Errorf("%q lead audiences that there aren't", leads)
	}
	a.Open(conv)
	if leads := e.box.Leads(nil); !slices.Equal(leads, []string{"x"}) {
		t.Errorf("%q lead audiences", leads)
	}
	a.Join(conv, []id.UserID{"ann"})
	if n := a.Deliver(conv, 1, f, []int{len(f)}, []uint64{0}, true); n != 0 || a.Seats() != 0 || e.hub.Audiences().Len() != 1 {
		t.Errorf("%d connections, %d seats", n, a.Seats())
	}
	a.Leave(conv, []id.UserID{"ann"})
	a.Close(conv)
	if e.hub.Audiences().Len() != 0 {
		t.Error("the audience is open still")
	}
}

func TestConfigs(t *testing.T) {
	call := func(context.Context, *nodes.Node, []byte) ([]byte, error) { return nil, nil }
	for name, cfg := range map[string]relay.EdgesConfig{
		"no call": {Self: "x"}, "nobody": {Call: call}, "too much": {Self: "x", Call: call, QueueBytes: 13 << 20}, "half an edge": {Self: "x", Call: call, Near: &nearby{}},
	} {
		if _, err := relay.NewEdges(cfg); err == nil {
			t.Errorf("edges, %s: no error", name)
		}
	}
	w := newWorld(t)
	e := w.edge()
	good := relay.SessionsConfig{Edge: session.Edge{Worker: 1}, View: e.Router, Call: call, Hub: e.hub, Hints: e.hints}
	for name, change := range map[string]func(*relay.SessionsConfig){
		"no view": func(c *relay.SessionsConfig) { c.View = nil }, "half": func(c *relay.SessionsConfig) { c.Leads = e.box.Leads },
		"worker": func(c *relay.SessionsConfig) { c.Edge.Worker = 5000 }, "time": func(c *relay.SessionsConfig) { c.Bound = -1 },
	} {
		cfg := good
		change(&cfg)
		if _, err := relay.NewSessions(cfg); err == nil {
			t.Errorf("sessions, %s: no error", name)
		}
	}
	for name, cfg := range map[string]relay.LookUpsConfig{"nothing": {}, "time": {View: e.Router, Call: call, Patience: -1}} {
		if _, err := relay.NewLookUps(cfg); err == nil {
			t.Errorf("look-ups, %s: no error", name)
		}
	}
	for name, cfg := range map[string]relay.HintsConfig{"nothing": {}, "time": {Hub: e.hub, Within: -1}} {
		if _, err := relay.NewHints(cfg); err == nil {
			t.Errorf("hints, %s: no error", name)
		}
	}
}

// HINTs are spread, each connection has one of those that wait, and all means all.
func TestHintsAreSpread(t *testing.T) {
	w := newWorld(t)
	l, e := w.logic(0), w.edge()
	w.agree(l)
	w.settled()
	h, err := relay.NewHints(relay.HintsConfig{Hub: e.hub, PerSecond: 10, Within: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var phones []*phone
	var conns []uint64
	for i := range 30 {
		p := w.connect(e, id.UserID(rune('a'+i)), "phone")
		phones, conns = append(phones, p), append(conns, p.c.Incarnation())
	}
	h.Spread(conns[:10])
	h.Spread(nil)
	var told, most uint64
	for range 20 {
		h.Turn()
		n := h.Told()
		told, most = n, max(most, n-told)
	}
	if told != 30 || most == 30 {
		t.Errorf("%d are told, %d of them at once; want 30, not all at once", told, most)
	}
	for _, p := range phones {
		if p.hinted() == 0 {
			t.Errorf("%s has no HINT", p.user)
		}
	}
}
