package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/node/cluster"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/node/edge"
	"github.com/gochat-im/gochat/node/logic"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/router"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/ring"
	"github.com/gochat-im/gochat/services/relay"
	"github.com/gochat-im/gochat/services/remote"
	"github.com/gochat-im/gochat/services/rpc"
	"github.com/gochat-im/gochat/services/session"
	"github.com/gochat-im/gochat/services/timeline"
)

// peers is a node's part in a cluster: what it asks others for, what it answers them, and what
// becomes of it when they come and go. What its roles don't need is nil.
type peers struct {
	*cluster.Cluster
	log *slog.Logger

	logic    *remote.Logic   // of an edge or a logic node: the services, wherever they are
	part     *session.Part   // of a logic node: its part of the directory
	lookUps  *relay.LookUps  // of a node with a store
	edges    *relay.Edges    // of a node with a store
	desk     *relay.Desk     // of a logic node
	reports  *relay.Reports  // of a node with a store
	hints    *relay.Hints    // of an edge
	box      *relay.Box      // of an edge
	sessions *relay.Sessions // of an edge
	seat     func(ctx context.Context, users []id.UserID) error
	server   *rpc.Server

	asked    *staying      // to leave, by an operator
	changed  chan struct{} // the nodes have changed
	unfollow func()
	applying sync.Mutex
	applied  *router.Snapshot // what was made of them last; guarded by applying
	swept    atomic.Pointer[[id.SlotCount]bool]
}

// join makes this process one of the cluster's nodes; the others don't see it yet.
func (n *Node) join(in Program) error {
	asked := new(staying)
	c, err := cluster.Open(cluster.Config{Config: n.cfg, Source: in.Nodes, Logger: n.log, Draining: asked.set})
	if err != nil {
		return err
	}
	n.peers = &peers{Cluster: c, log: n.log, asked: asked, changed: make(chan struct{}, 1)}
	n.peers.swept.Store(new([id.SlotCount]bool))
	n.worker = c.Self.Worker
	_, n.peers.unfollow = c.Router.Subscribe(func(_, _ *router.Snapshot) {
		select {
		case n.peers.changed <- struct{}{}:
		default:
		}
	})
	return nil
}

// openDirectory makes this node's part of the directory, and the way to ask for the others'.
func (p *peers) openDirectory(cfg Config, c session.Config) (err error) {
	if cfg.Cluster.Has(config.RoleLogic) {
		if p.part, err = session.NewPart(session.PartConfig{Config: c}); err != nil {
			return err
		}
	}
	p.lookUps, err = relay.NewLookUps(relay.LookUpsConfig{View: p.Router, Call: p.Pool.LookUp, Near: p.part, Logger: p.log})
	return err
}

// openRemote makes the services as this node reaches them, its own among them if it has some.
func (n *Node) openRemote(signals *lateSignals) (err error) {
	c := remote.LogicConfig{Router: n.peers.Router, Pool: n.peers.Pool, Flush: n.flush, Logger: n.log}
	if n.cfg.Cluster.Has(config.RoleLogic) {
		c.Local = &remote.Local{
			Authenticator: n.logic.Accounts, Conversations: n.logic.Conversations, Signals: signals, Methods: n.logic.Methods(),
			Accounts: n.logic.SignIns(), Identify: n.logic.Identify,
		}
	}
	n.peers.logic, err = remote.NewLogic(c)
	return err
}

// methods are those of all services, wherever they are.
func (p *peers) methods() map[packet.Method]conn.Method {
	return p.logic.Methods(logic.MethodNames()...)
}

// epochTime is how long an edge waits for a logic node when it starts, and epochAgain how often it asks.
const (
	epochTime  = 30 * time.Second
	epochAgain = 100 * time.Millisecond
)

// serve has an edge's clients served by the services, wherever they are.
func (n *Node) serve(c *edge.Config, sessions *lateSessions) (err error) {
	p := n.peers
	c.Services.Authenticator, c.Services.Conversations, c.Services.Signals = p.logic, p.logic, p.logic
	c.Services.Sessions, c.Services.Methods = sessions, p.methods()
	c.Accounts, c.Identify = p.logic.Accounts(), p.logic.Identify
	if n.cfg.Cluster.Has(config.RoleLogic) {
		c.Routes, err = n.logic.Routes(p.logic, p.methods())
		return err
	}
	table, err := logic.Table(n.cfg, c.Version)
	if err != nil {
		return err
	}
	c.Routes = p.logic.Forward(table)
	c.Ready = func(context.Context) error {
		if len(p.Router.Logics()) == 0 {
			return errNobody
		}
		return nil
	}
	if n.storage != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), epochTime)
	defer cancel()
	defer config.Waiting(n.log, "the logic nodes", "as they come", epochTime)()
	for {
		if c.StoreEpoch, err = p.logic.StoreEpoch(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("asking the logic nodes for the store's epoch: %w", err)
		case <-time.After(epochAgain):
		}
	}
}

// openRelay makes this node's ends of what goes between fan-out, directory and edges.
func (n *Node) openRelay(sessions *lateSessions) (err error) {
	p := n.peers
	if n.storage != nil {
		c := relay.EdgesConfig{Self: p.Self.ID, Start: p.Self.Start, Call: p.Pool.Deliver, Logger: n.log}
		if n.edge != nil {
			c.Near, c.Seating, c.NearConns = n.edge.Hub, n.edge.Hub.Audiences(), n.worker
			c.Halls, c.Teller = n.edge.Hub.Rooms(), n.edge.Hub.Tell
		}
		if p.edges, err = relay.NewEdges(c); err != nil {
			return err
		}
	}
	if p.part != nil {
		p.desk = relay.NewDesk(p.part, p.edges, p.Self.Start)
		p.desk.Keep(n.logic.Rooms)
	}
	if n.edge == nil {
		return nil
	}
	if p.hints, err = relay.NewHints(relay.HintsConfig{Hub: n.edge.Hub}); err != nil {
		return err
	}
	p.box = relay.NewBox(n.edge.Hub, p.hints)
	p.box.Near(p.Self.ID, n.edge.Hub.Audiences())
	if p.sessions, err = relay.NewSessions(relay.SessionsConfig{
		Edge: session.Edge{Worker: n.worker, Start: p.Self.Start}, View: p.Router, Call: p.tell, Hub: n.edge.Hub, Hints: p.hints,
		Seat: p.seatAt, Leads: p.box.Leads, Logger: n.log,
	}); err != nil {
		return err
	}
	sessions.Sessions = p.sessions
	return nil
}

// tell is the Caller of an edge's sessions: this node's own part of the directory is told without a call.
func (p *peers) tell(ctx context.Context, to *nodes.Node, body []byte) ([]byte, error) {
	if p.desk != nil && p.Router.IsSelf(to) {
		return p.desk.Take(body)
	}
	return p.Pool.Tell(ctx, to, body)
}

// seatAt asks a node that leads audiences at this edge to seat a user.
func (p *peers) seatAt(ctx context.Context, node string, user id.UserID) error {
	to := p.Router.ByID(node)
	switch {
	case to == nil:
		return nil // gone, and its audiences with it
	case p.Router.IsSelf(to):
		return p.seat(ctx, []id.UserID{user})
	}
	return p.Pool.Seat(ctx, to, user)
}

// listen binds the listener of calls from other nodes, and takes part in what there is by now.
func (n *Node) listen() (err error) {
	p, has := n.peers, n.cfg.Cluster.Has
	c := rpc.Config{Listen: n.cfg.Cluster.RPC.Listen, Keys: p.Keys, Logger: n.log}
	r := &rpc.Relay{}
	if p.box != nil {
		r.Deliver = p.box.Take
	}
	if n.fanout != nil {
		p.seat = n.fanout.Seat
		r.Seat = n.fanout.Seat
	}
	if has(config.RoleLogic) {
		r.Tell, r.LookUp = p.desk.Take, p.desk.LookUp
		routes, err := n.logic.Routes(p.logic, p.methods())
		if err != nil {
			return err
		}
		c.Logic = &rpc.Logic{
			Router: p.Router, Authenticator: n.logic.Accounts, Conversations: n.logic.Conversations, Signals: n.logic.Signals(n.fanout), Methods: n.logic.Methods(),
			Rounds: n.logic.Sequencer.Rounds, StoreEpoch: n.storage.Epoch, Accounts: n.logic.SignIns(), Identify: n.logic.Identify, Routes: routes,
		}
	}
	if p.reports != nil {
		r.Saw = n.saw
	}
	c.Relay = r
	if p.server, err = rpc.New(c); err != nil {
		return fmt.Errorf("%w (cluster.rpc.listen)", err)
	}
	p.apply(n)
	return nil
}

// follow takes part in changes of the nodes until ctx ends.
func (n *Node) follow(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-n.peers.Lost():
			return errors.New("this node's number is another's: it has to be started again")
		case <-n.peers.changed:
			n.peers.apply(n)
		}
	}
}

// apply tells this node's parts who there is now.
func (p *peers) apply(n *Node) {
	p.applying.Lock()
	defer p.applying.Unlock()
	now := p.Router.Snapshot()
	if p.edges != nil {
		p.edges.SetView(p.Router)
	}
	if p.part != nil {
		var edges []session.Edge
		for _, e := range now.View().With(nodes.Edge) {
			edges = append(edges, session.Edge{Worker: e.Worker, Start: e.Start})
		}
		p.part.SetView(edges, func(s id.Slot) bool { return p.Router.IsSelf(now.Owner(s)) })
	}
	if p.box != nil {
		p.box.SetView(p.Router)
		p.sessions.SetView()
	}
	if n.cfg.Cluster.Has(config.RoleLogic) {
		p.own(n.logic.Sequencer, now)
	}
	if n.cfg.Cluster.Has(config.RoleWorker) {
		p.swept.Store(swept(now, p.Self.ID))
	}
	p.applied = now
}

// own tells the sequencer which slots have come and gone.
func (p *peers) own(seq *timeline.Sequencer, now *router.Snapshot) {
	var came, went []id.Slot
	for s := range id.Slot(id.SlotCount) {
		var was *nodes.Node
		if p.applied != nil {
			was = p.applied.Owner(s)
		}
		is := now.Owner(s)
		switch before, after := p.Router.IsSelf(was), p.Router.IsSelf(is); {
		case after && (!before || !was.Same(is)):
			came = append(came, s)
		case before && !after:
			went = append(went, s)
		}
	}
	if len(went) > 0 {
		seq.Release(went)
	}
	if len(came) > 0 {
		seq.Own(came)
	}
}

// sweeps reports whether this worker sweeps a slot: workers share them as logic nodes do.
func (p *peers) sweeps(s id.Slot) bool { return int(s) < id.SlotCount && p.swept.Load()[s] }

// swept returns the slots that the worker of that id sweeps.
func swept(now *router.Snapshot, self string) *[id.SlotCount]bool {
	var members []ring.Member
	for _, all := range []bool{false, true} { // if all of them drain, they sweep to the last
		for _, w := range now.View().With(nodes.Worker) {
			if all || !w.Draining {
				members = append(members, ring.Member{ID: w.ID, Weight: 1})
			}
		}
		if len(members) > 0 {
			break
		}
	}
	r := ring.New(members)
	mine := new([id.SlotCount]bool)
	me := slices.IndexFunc(r.Members(), func(m ring.Member) bool { return m.ID == self })
	for s := range mine {
		mine[s] = me >= 0 && r.Owner(id.Slot(s)) == me
	}
	return mine
}

// close closes what was opened, in the opposite order.
func (p *peers) close() {
	p.unfollow()
	if p.server != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = p.server.Shutdown(ended)
	}
	if p.sessions != nil {
		p.sessions.Close()
	}
	if p.edges != nil {
		p.edges.Close()
	}
	if p.reports != nil {
		p.reports.Close()
	}
	p.Cluster.Close()
}

// revoke closes connections wherever they are.
func (p *peers) revoke(v relay.Revocation) {
	switch {
	case p.desk != nil:
		p.desk.Revoke(v)
	case p.edges != nil:
		p.edges.Revoke(v)
	}
}
