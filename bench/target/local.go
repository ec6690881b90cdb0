package target

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/tools/cluster/local"
)

// Growing is a cluster whose nodes find each other in an etcd, so that they may come and go. Start one with StartGrowing.
type Growing struct {
	Edges  []netip.AddrPort // binary protocol
	Issuer *Issuer

	cluster *local.Cluster
	router  *router.Router
	stop    func()

	mu    sync.Mutex
	steps []Step // since the last move began
	began time.Time
}

// Step is one change of who owns the slots.
type Step struct {
	After float64 `json:"after_s"` // the move's beginning
	Nodes int     `json:"nodes"`   // that own slots, from then on
	Moved int     `json:"moved"`   // slots that have another owner
	Ideal float64 `json:"ideal"`   // slots that had to move for the nodes' shares to be even
}

// Move is what nodes that came, or left, moved.
type Move struct {
	From  int     `json:"from"` // nodes that own slots
	To    int     `json:"to"`
	Moved int     `json:"moved"` // slots, by all steps
	Ideal float64 `json:"ideal"`
	Steps []Step  `json:"steps"`
	Last  float64 `json:"last_s"`  // from the move's beginning to the last step
	Still float64 `json:"still_s"` // to when every node was seen to know of it
	Whole float64 `json:"whole_s"` // to when all that came were ready, or all that left had ended
}

// Off is by how much more, or less, moved than had to, in percent.
func (m *Move) Off() float64 {
	if m.Ideal == 0 {
		return 0
	}
	return 100 * max(float64(m.Moved)-m.Ideal, m.Ideal-float64(m.Moved)) / m.Ideal
}

// StartGrowing starts a cluster. Of cfg it makes More and Set: whose tokens are taken, and raise. Stop it.
func StartGrowing(ctx context.Context, cfg local.Config, raise Settings) (*Growing, error) {
	g := &Growing{}
	var err error
	if g.Issuer, err = LocalIssuer(cfg.Dir); err != nil {
		return nil, err
	}
	cfg.More = g.Issuer.Config()
	for _, r := range raise {
		cfg.Set = append(cfg.Set, r.Env())
	}
	if g.cluster, err = local.Start(ctx, cfg); err != nil {
		return nil, err
	}
	for _, p := range g.cluster.Nodes("edge") {
		addr, err := netip.ParseAddrPort(p.TCP)
		if err != nil {
			g.cluster.Kill()
			return nil, fmt.Errorf("address of %s: %w", p.Name, err)
		}
		g.Edges = append(g.Edges, addr)
	}
	if g.router, err = router.New(router.Config{Source: g.cluster}); err != nil {
		g.cluster.Kill()
		return nil, err
	}
	_, g.stop = g.router.Subscribe(g.changed)
	return g, nil
}

// changed is called with every change of the nodes.
func (g *Growing) changed(old, new *router.Snapshot) {
	moved := 0
	router.Moved(old, new, func(id.Slot, *nodes.Node, *nodes.Node) { moved++ })
	if moved == 0 {
		return
	}
	was, is := owners(old), owners(new)
	s := Step{Nodes: len(is), Moved: moved}
	// All weigh the same. Whoever stays owns a part that grows, or none has to leave it.
	for node := range is {
		share := id.SlotCount / float64(len(is))
		if was[node] {
			share -= id.SlotCount / float64(len(was))
		}
		s.Ideal += max(share, 0)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s.After = time.Since(g.began).Seconds()
	g.steps = append(g.steps, s)
}

// owners are the nodes that own slots.
func owners(s *router.Snapshot) map[string]bool {
	all := map[string]bool{}
	for slot := range id.Slot(id.SlotCount) {
		if n := s.Owner(slot); n != nil {
			all[n.ID] = true
		}
	}
	return all
}

// Grow starts count more logic nodes at once, and returns when all nodes know where the slots lie then, and the names of the new ones.
func (g *Growing) Grow(ctx context.Context, count int) (names []string, m Move, err error) {
	m, err = g.move(ctx, func() error {
		added, err := g.cluster.AddNodes(ctx, "logic", count)
		for _, p := range added {
			names = append(names, p.Name)
		}
		return err
	})
	return names, m, err
}

// Shrink ends nodes as an operator's SIGTERM does, all at once, and returns when they have ended and all others know where the slots lie then.
func (g *Growing) Shrink(ctx context.Context, names ...string) (Move, error) {
	return g.move(ctx, func() error { return g.cluster.RemoveNodes(ctx, names...) })
}

func (g *Growing) move(ctx context.Context, do func() error) (m Move, err error) {
	began := time.Now()
	g.mu.Lock()
	g.steps, g.began = nil, began
	g.mu.Unlock()
	m.From = len(owners(g.router.Snapshot()))
	done := make(chan error, 1)
	go func() { done <- do() }()
	var known time.Time // when all were seen to know of the last step; zero: not yet
	for whole := false; !whole || known.IsZero(); {
		select {
		case err := <-done:
			if err != nil {
				return m, err
			}
			m.Whole, whole, done = time.Since(began).Seconds(), true, nil
		case <-ctx.Done():
			if done != nil {
				<-done
			}
			return m, ctx.Err()
		case <-time.After(lookEvery):
		}
		// The ring may stand still long before those that leave have ended.
		switch last := g.last(); {
		case last.IsZero():
		case known.Before(last) && !g.agreed(ctx):
			known = time.Time{}
		case known.Before(last):
			known = time.Now()
		}
	}
	m.Still = known.Sub(began).Seconds()
	g.mu.Lock()
	m.Steps = slices.Clone(g.steps)
	g.mu.Unlock()
	for _, s := range m.Steps {
		m.Moved += s.Moved
		m.Ideal += s.Ideal
		m.Last = s.After
	}
	m.To = len(owners(g.router.Snapshot()))
	return m, nil
}

// lookEvery is how often all nodes are asked what they know: a page of metrics of each.
const lookEvery = 50 * time.Millisecond

// last is when the latest step was; zero: there was none since the move began.
func (g *Growing) last() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.steps); n > 0 {
		return g.began.Add(time.Duration(g.steps[n-1].After * float64(time.Second)))
	}
	return time.Time{}
}

// agreed reports whether every logic node owns what it should, by its own account, and every node has heard of all that own any.
func (g *Growing) agreed(ctx context.Context) bool {
	now := g.router.Snapshot()
	for _, n := range now.View().Nodes() {
		p := g.cluster.Process(n.ID)
		if p == nil || !p.Running() {
			continue
		}
		addr, err := netip.ParseAddrPort(p.HTTP)
		if err != nil {
			return false
		}
		asking, cancel := context.WithTimeout(ctx, time.Second)
		page, err := scrape(asking, addr)
		cancel()
		if err != nil {
			if n.Draining {
				continue // it may be ending by now
			}
			return false
		}
		if value(page, "gochat_cluster_view_revision") < float64(now.Revision()) {
			return false
		}
		if p.Role == "logic" && int(value(page, "gochat_cluster_slots")) != now.Owned(n) {
			return false
		}
	}
	return true
}

// Target is the cluster as a load sees it. Processes come and go, so nothing is told of them.
func (g *Growing) Target(users string) load.Target {
	return load.Target{Addr: g.Edges[0], Also: g.Edges[1:], Token: g.Issuer.Token, Issuer: g.Issuer.Name, Key: g.Issuer.SignFile, Users: users}
}

// Log writes what each node said last, if it said anything, to w.
func (g *Growing) Log(w io.Writer) { tails(w, g.cluster.Processes()) }

// Stop ends the cluster at once.
func (g *Growing) Stop() {
	g.stop()
	g.router.Close()
	g.cluster.Kill()
}
