package remote_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/link"
	"github.com/gochat-im/gochat/services/relay"
	"github.com/gochat-im/gochat/services/remote"
	"github.com/gochat-im/gochat/services/rpc"
	"github.com/gochat-im/gochat/services/session"
)

// relayNode is a process with ends of the relay, which serves them on loopback.
type relayNode struct {
	nodes.Node
	view
	*remote.Pool
}

// serveRelay starts a node whose ports ends makes once it has its view and its Pool.
func serveRelay(t *testing.T, name string, worker uint32, roles nodes.Roles, ends func(*relayNode) *rpc.Relay) *relayNode {
	t.Helper()
	n := &relayNode{Node: nodes.Node{ID: name, Worker: worker, Roles: roles, Start: nodes.NewStart(), Weight: 100}}
	n.view = newView(t, n.Node)
	n.Pool = pool(t, func(c *remote.PoolConfig) { c.Self = name })
	s, err := rpc.New(rpc.Config{Listen: "127.0.0.1:0", Keys: link.Keys{clusterKey}, Relay: ends(n), Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	n.RPC = s.Addr().String()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Logf("%s: %v", name, err)
		}
	})
	return n
}

// Sessions, look-ups, deliveries, orders and seats cross between servers on loopback.
func TestRelay(t *testing.T) {
	var desk *relay.Desk
	var part *session.Part
	var edges *relay.Edges
	var seated []id.UserID
	var mu sync.Mutex
	logic := serveRelay(t, "logic-1", 1, nodes.Logic|nodes.Fanout, func(n *relayNode) *rpc.Relay {
		var err error
		if part, err = session.NewPart(session.PartConfig{}); err != nil {
			t.Fatal(err)
		}
		if edges, err = relay.NewEdges(relay.EdgesConfig{Self: n.ID, Start: n.Start, Call: n.Deliver}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(edges.Close)
		desk = relay.NewDesk(part, edges, n.Start)
		return &rpc.Relay{Tell: desk.Take, LookUp: desk.LookUp, Seat: func(_ context.Context, users []id.UserID) error {
			mu.Lock()
			defer mu.Unlock()
			seated = append(seated, users...)
			return nil
		}}
	})
	var h *hub.Hub
	var sessions *relay.Sessions
	var box *relay.Box
	edge := serveRelay(t, "edge-1", 9, nodes.Edge, func(n *relayNode) *rpc.Relay {
		var err error
		if h, err = hub.New(hub.Config{Worker: n.Worker}, conntest.New().For()); err != nil {
			t.Fatal(err)
		}
		hints, err := relay.NewHints(relay.HintsConfig{Hub: h})
		if err != nil {
			t.Fatal(err)
		}
		box = relay.NewBox(h, hints)
		sessions, err = relay.NewSessions(relay.SessionsConfig{
			Edge: session.Edge{Worker: n.Worker, Start: n.Start}, View: n.Router, Call: n.Tell, Hub: h, Hints: hints, Patience: 10 * time.Second,
			Leads: box.Leads, Seat: func(ctx context.Context, node string, user id.UserID) error { return n.Seat(ctx, n.ByID(node), user) },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(sessions.Close)
		return &rpc.Relay{Deliver: box.Take}
	})
	for _, v := range []view{logic.view, edge.view} {
		if err := v.list.Set(logic.Node, edge.Node); err != nil {
			t.Fatal(err)
		}
	}
	part.SetView([]session.Edge{{Worker: edge.Worker, Start: edge.Start}}, func(id.Slot) bool { return true })
	edges.SetView(logic.Router)
	sessions.SetView()

	open := func() *conntest.Pipe {
		p := conntest.NewPipe()
		c, err := h.Open(p, p.RemoteAddr().Addr())
		if err != nil {
			t.Fatal(err)
		}
		p.C = c
		c.Input(conntest.Connect("ann", "phone"))
		awaits(t, p, "CONNACK")
		return p
	}
	first, second := open(), open()
	if r, o := sessions.Register("ann", "phone", 1, first.C.Incarnation()); r+o != 0 {
		t.Errorf("the first replaces %x and ousts %x", r, o)
	}
	if r, _ := sessions.Register("ann", "phone", 1, second.C.Incarnation()); r != first.C.Incarnation() {
		t.Errorf("the second replaces %x, want %x", r, first.C.Incarnation())
	}
	other := serveRelay(t, "fanout-1", 3, nodes.Fanout, func(*relayNode) *rpc.Relay { return &rpc.Relay{} })
	if err := other.list.Set(logic.Node, edge.Node); err != nil {
		t.Fatal(err)
	}
	looks, err := relay.NewLookUps(relay.LookUpsConfig{View: other.Router, Call: other.LookUp, Patience: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	var all []session.Session
	for sure := false; !sure; {
		all, sure = looks.Devices(t.Context(), "ann", nil)
	}
	if want := []session.Session{{User: "ann", Device: "phone", Kind: 1, Conn: second.C.Incarnation()}}; !slices.Equal(all, want) {
		t.Errorf("ann's devices are %v, want %v", all, want)
	}
	conns, ends := looks.Gather(t.Context(), []id.UserID{"ann", "ben"}, nil, nil)
	if !slices.Equal(conns, []uint64{second.C.Incarnation()}) || !slices.Equal(ends, []int{1, 1}) {
		t.Errorf("found %x, %d", conns, ends)
	}
	ping := frame.Append(nil, frame.Ping, 0, 0, nil)
	edges.Deliver(second.C.Incarnation(), ping)
	edges.Flush()
	awaits(t, second, "PING")
	edges.DeliverUsers([]id.UserID{"ann"}, ping, first.C.Incarnation())
	edges.Flush()
	awaits(t, second, "PING")
	edges.CloseConn(first.C.Incarnation(), code.New(code.Replaced))
	awaits(t, first, "ERROR replaced")

	group := id.NewGroup()
	a := edges.Audiences()
	a.Bind(func(_ context.Context, _ id.ConversationID, into func([]id.UserID)) error {
		into([]id.UserID{"ann"})
		return nil
	})
	a.Open(group)
	a.Join(group, []id.UserID{"ann"})
	a.Deliver(group, 1, ping, []int{len(ping)}, []uint64{0}, true)
	awaits(t, second, "PING")
	if leads := box.Leads(nil); !slices.Equal(leads, []string{"logic-1"}) {
		t.Errorf("%q lead audiences", leads)
	}
	if err := edge.Seat(t.Context(), edge.ByID("logic-1"), "ann"); err != nil {
		t.Error(err)
	}
	mu.Lock()
	if !slices.Equal(seated, []id.UserID{"ann"}) {
		t.Errorf("seated %q", seated)
	}
	mu.Unlock()
	// What a node has no end for, or can't read, it refuses.
	if _, err := edge.Deliver(t.Context(), edge.ByID("logic-1"), nil); err == nil {
		t.Error("a node that is no edge takes deliveries")
	}
	if _, err := logic.Deliver(t.Context(), logic.ByID("edge-1"), []byte("x")); err == nil {
		t.Error("an edge takes what can't be read")
	}
	if err := logic.Seat(t.Context(), logic.ByID("edge-1"), "ann"); err == nil {
		t.Error("an edge seats users")
	}
}

// awaits waits for a frame, whatever comes before it.
func awaits(t *testing.T, p *conntest.Pipe, want string) {
	t.Helper()
	var seen []string
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		got, err := p.Take()
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, got...)
		if slices.Contains(got, want) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("waited for %q in vain, saw %q", want, seen)
		}
	}
}
