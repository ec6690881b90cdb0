package relay_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/router"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/fanout"
	"github.com/gochat-im/gochat/services/relay"
	"github.com/gochat-im/gochat/services/session"
)

// world is a cluster in one process: real hubs, directory, fan-out and relays, joined by calls that
// can be made to fail, to hang and to lose their answers.
type world struct {
	t testing.TB

	mu      sync.Mutex
	now     time.Time
	faults  map[string]fault // of calls to nodes, by id
	thawed  chan struct{}    // closed and made anew when a fault ends
	members map[id.ConversationID][]id.UserID
	served  map[string]int // calls that were answered, by node

	logics  []*logicNode
	edges   []*edgeNode
	fan     *fanNode
	halls   map[id.ConversationID]*hall
	workers uint32
}

type fault int

const (
	works  fault = iota
	down         // refuses at once
	frozen       // takes the call, and goes on with it when it is thawed
	mute         // does what it is called for, and the answer is lost
)

var errDown = errors.New("it is down")

func newWorld(t testing.TB) *world {
	return &world{
		t: t, now: time.Unix(1_790_000_000, 0), faults: map[string]fault{}, thawed: make(chan struct{}),
		members: map[id.ConversationID][]id.UserID{}, served: map[string]int{}, halls: map[id.ConversationID]*hall{},
	}
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// heard waits until a node was called, and has answered, since.
func (w *world) heard(node string) {
	w.t.Helper()
	served := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.served[node]
	}
	before := served()
	// The second begins when the caller has done with the first, the third with the second.
	eventually(w.t, node+" is called", func() bool { return served() >= before+3 })
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	w.now = w.now.Add(d)
	w.mu.Unlock()
}

func (w *world) fault(node string, f fault) {
	w.mu.Lock()
	w.faults[node] = f
	close(w.thawed)
	w.thawed = make(chan struct{})
	w.mu.Unlock()
}

// call makes one call of the node to.
func (w *world) call(ctx context.Context, to *nodes.Node, do func() ([]byte, error)) ([]byte, error) {
	for {
		w.mu.Lock()
		f, thawed := w.faults[to.ID], w.thawed
		w.mu.Unlock()
		switch f {
		case down:
			return nil, errDown
		case mute:
			_, _ = do()
			return nil, errDown
		case works:
			w.mu.Lock()
			w.served[to.ID]++
			w.mu.Unlock()
			return do()
		}
		select {
		case <-thawed:
		case <-ctx.Done():
			// It is on its way all the same.
			go func() {
				for {
					w.mu.Lock()
					f, thawed := w.faults[to.ID], w.thawed
					w.mu.Unlock()
					switch f {
					case frozen:
						<-thawed
						continue
					case works, mute:
						_, _ = do()
					}
					return
				}
			}()
			return nil, ctx.Err()
		}
	}
}

// process is what all nodes have.
type process struct {
	nodes.Node
	*router.Router
	list *nodes.Static
}

func (w *world) process(name string, roles nodes.Roles) process {
	w.t.Helper()
	w.workers++
	n := nodes.Node{ID: name, Worker: w.workers, Roles: roles, Start: nodes.NewStart(), Weight: 100, RPC: name + ":1"}
	list, err := nodes.NewStatic()
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := router.New(router.Config{Source: list, Self: n})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(r.Close)
	return process{n, r, list}
}

func (p *process) see(t testing.TB, all []nodes.Node) {
	if err := p.list.Set(all...); err != nil {
		t.Fatal(err)
	}
}

type logicNode struct {
	process
	part  *session.Part
	edges *relay.Edges
	desk  *relay.Desk
}

func (w *world) logic(perKind int) *logicNode {
	w.t.Helper()
	l := &logicNode{process: w.process(fmt.Sprint("logic-", len(w.logics)+1), nodes.Logic)}
	var err error
	if l.part, err = session.NewPart(session.PartConfig{Config: session.Config{PerKind: perKind}, Now: w.clock}); err != nil {
		w.t.Fatal(err)
	}
	l.edges = w.newEdges(l.process, nil)
	l.desk = relay.NewDesk(l.part, l.edges, l.Start)
	w.logics = append(w.logics, l)
	return l
}

// view is what follows a change of the nodes.
func (l *logicNode) view() {
	var es []session.Edge
	for _, n := range l.Edges() {
		es = append(es, session.Edge{Worker: n.Worker, Start: n.Start})
	}
	l.edges.SetView(l.Router)
	l.part.SetView(es, func(s id.Slot) bool { return l.IsSelf(l.Owner(s)) })
}

func (w *world) newEdges(p process, change func(*relay.EdgesConfig)) *relay.Edges {
	w.t.Helper()
	cfg := relay.EdgesConfig{
		Self: p.ID, Start: p.Start, Timeout: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
		Call: func(ctx context.Context, to *nodes.Node, body []byte) ([]byte, error) {
			return w.call(ctx, to, func() ([]byte, error) {
				for _, e := range w.edges {
					if e.ID == to.ID {
						return e.take(body)
					}
				}
				return nil, errDown
			})
		},
	}
	if change != nil {
		change(&cfg)
	}
	e, err := relay.NewEdges(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(e.Close)
	return e
}

// fanNode is the fan-out node.
type fanNode struct {
	process
	*fanout.Handler
	edges *relay.Edges
	looks *relay.LookUps
}

func (w *world) fanout(change func(*relay.EdgesConfig)) *fanNode {
	w.t.Helper()
	f := &fanNode{process: w.process("fanout-1", nodes.Fanout)}
	f.edges = w.newEdges(f.process, change)
	var err error
	f.looks, err = relay.NewLookUps(relay.LookUpsConfig{
		View: f.Router, Patience: 100 * time.Millisecond, Now: w.clock,
		Call: func(ctx context.Context, to *nodes.Node, body []byte) ([]byte, error) {
			return w.call(ctx, to, func() ([]byte, error) { return w.node(to.ID).desk.LookUp(body) })
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	f.Handler, err = fanout.New(fanout.Config{
		Members: w, Sessions: f.looks, Deliver: f.edges, Timeline: w, Groups: w, Audiences: f.edges.Audiences(), LargeGroup: 3,
		Now: w.clock, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	f.edges.Audiences().Bind(f.Fill)
	w.fan = f
	return f
}

func (w *world) node(name string) *logicNode {
	return w.logics[slices.IndexFunc(w.logics, func(l *logicNode) bool { return l.ID == name })]
}

type edgeNode struct {
	process
	hub      *hub.Hub
	box      *relay.Box
	hints    *relay.Hints
	sessions *relay.Sessions
	mu       sync.RWMutex // of box, while the edge starts anew
}

func (e *edgeNode) take(body []byte) ([]byte, error) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.box.Take(body)
}

func (w *world) edge() *edgeNode {
	w.t.Helper()
	e := &edgeNode{process: w.process(fmt.Sprint("edge-", len(w.edges)+1), nodes.Edge)}
	w.begin(e)
	w.edges = append(w.edges, e)
	return e
}

// begin starts what an edge has in memory.
func (w *world) begin(e *edgeNode) {
	w.t.Helper()
	svc := conntest.New()
	late := &lateSessions{}
	all := svc.For()
	all.Sessions = late
	h, err := hub.New(hub.Config{Worker: e.Worker, Connections: 10_000, PerAddress: 10_000, ConnectsPerAddress: 1e6, Strangers: 10_000}, all)
	if err != nil {
		w.t.Fatal(err)
	}
	svc.Out = h
	hints, err := relay.NewHints(relay.HintsConfig{Hub: h, Within: time.Second})
	if err != nil {
		w.t.Fatal(err)
	}
	box := relay.NewBox(h, hints)
	s, err := relay.NewSessions(relay.SessionsConfig{
		Edge: session.Edge{Worker: e.Worker, Start: e.Start}, View: e.Router, Hub: h, Hints: hints, Now: w.clock,
		Patience: 100 * time.Millisecond, Every: 50 * time.Millisecond, Timeout: 100 * time.Millisecond,
		Call: func(ctx context.Context, to *nodes.Node, body []byte) ([]byte, error) {
			w.mu.Lock()
			mine := w.faults[e.ID]
			w.mu.Unlock()
			if mine != works { // who is cut off reaches nobody, and who is frozen calls nobody
				return nil, errDown
			}
			return w.call(ctx, to, func() ([]byte, error) { return w.node(to.ID).desk.Take(body) })
		},
		Leads: box.Leads,
		Seat:  func(ctx context.Context, _ string, user id.UserID) error { return w.fan.Seat(ctx, []id.UserID{user}) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	late.Sessions = s
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = hints.Run(ctx) }()
	w.t.Cleanup(func() { stop(); <-ended; s.Close() })
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hub, e.box, e.hints, e.sessions = h, box, hints, s
}

// lateSessions are made after the hub.
type lateSessions struct{ conn.Sessions }

func (e *edgeNode) view() {
	e.box.SetView(e.Router)
	e.sessions.SetView()
}

// list is everybody, of logic nodes those that own something.
func (w *world) list(owners ...*logicNode) (all []nodes.Node) {
	for _, l := range owners {
		all = append(all, l.Node)
	}
	for _, e := range w.edges {
		all = append(all, e.Node)
	}
	if w.fan != nil {
		all = append(all, w.fan.Node)
	}
	return all
}

// agree has all nodes see the same, edges last.
func (w *world) agree(owners ...*logicNode) {
	w.t.Helper()
	all := w.list(owners...)
	w.knowing(all)
	for _, e := range w.edges {
		e.see(w.t, all)
		e.view()
	}
}

// knowing has all but the edges see the nodes.
func (w *world) knowing(all []nodes.Node) {
	for _, l := range w.logics {
		l.see(w.t, all)
		l.view()
	}
	if w.fan != nil {
		w.fan.see(w.t, all)
		w.fan.edges.SetView(w.fan.Router)
	}
}

// settled waits until every edge has announced everything.
func (w *world) settled() {
	w.t.Helper()
	eventually(w.t, "all slots are known", func() bool {
		for _, l := range w.logics {
			if l.part.Stats().Unknown > 0 {
				return false
			}
		}
		for _, e := range w.edges {
			if e.sessions.Stats().Later > 0 {
				return false
			}
		}
		return true
	})
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// What fan-out asks for.

func (w *world) Members(_ context.Context, c id.ConversationID) ([]id.UserID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.members[c], nil
}

func (w *world) Range(_ context.Context, c id.ConversationID, from, to uint64, _, _ int) ([]byte, uint64, uint64, error) {
	return message(from), from, from, nil
}

func message(seq uint64) []byte {
	text := fmt.Sprint(seq)
	tail := append([]byte{5 << 3, 1, 6<<3 | 2, byte(len(text))}, text...)
	return packet.AppendMessage(nil, seq, id.MakeMessageID(1_800_000_000_000, 1, uint32(seq)), "alice", tail)
}

// say has message seq of a conversation handed out.
func (w *world) say(c id.ConversationID, seq, origin uint64) {
	w.t.Helper()
	if err := w.fan.Handle(context.Background(), []bus.Event{{Conversation: c, Epoch: 1, FirstSeq: seq, LastSeq: seq, Messages: message(seq), Origin: origin}}); err != nil {
		w.t.Fatal(err)
	}
}

// hall is a group's log: who came and went with each message.
type hall struct {
	joined, left [][]id.UserID
	in           map[id.UserID]bool
}

func (w *world) head(c id.ConversationID) uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if h := w.halls[c]; h != nil {
		return uint64(len(h.joined))
	}
	return 0
}

// append stores a message with which people come and go.
func (w *world) append(c id.ConversationID, joined, left []id.UserID) (seq uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.halls[c]
	if h == nil {
		h = &hall{in: map[id.UserID]bool{}}
		w.halls[c] = h
	}
	h.joined, h.left = append(h.joined, joined), append(h.left, left)
	for _, u := range joined {
		h.in[u] = true
	}
	for _, u := range left {
		delete(h.in, u)
	}
	return uint64(len(h.joined))
}

// after returns who is in after message seq. mu is held.
func (h *hall) after(seq uint64) map[id.UserID]bool {
	in := map[id.UserID]bool{}
	for i := range min(seq, uint64(len(h.joined))) {
		for _, u := range h.joined[i] {
			in[u] = true
		}
		for _, u := range h.left[i] {
			delete(in, u)
		}
	}
	return in
}

func (w *world) Recipients(_ context.Context, c id.ConversationID, first, last uint64) (users []id.UserID, to uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.halls[c]
	in := h.after(first)
	for _, u := range h.left[first-1] {
		in[u] = true
	}
	for u := range in {
		users = append(users, u)
	}
	slices.Sort(users)
	to = first
	for to < last && len(h.left[to-1]) == 0 && len(h.joined[to]) == 0 {
		to++
	}
	return users, to, nil
}

func (w *world) Moves(_ context.Context, c id.ConversationID, first, last uint64, fn func(uint64, []id.UserID, []id.UserID)) (int, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.halls[c]
	for seq := first; seq <= last; seq++ {
		if len(h.joined[seq-1])+len(h.left[seq-1]) > 0 {
			fn(seq, h.joined[seq-1], h.left[seq-1])
		}
	}
	return len(h.in), true, nil
}

func (w *world) Size(id.ConversationID) int { return 0 }

func (w *world) Stays(_ context.Context, c id.ConversationID, user id.UserID, seq uint64) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.halls[c].after(seq)[user], nil
}

func (w *world) Has(_ context.Context, c id.ConversationID, user id.UserID) (bool, int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.halls[c].in[user], len(w.halls[c].in), nil
}
