// Package router tells which node is to be asked: who owns a conversation's or a user's slot,
// which node made an id, where the edges are. It combines the nodes there are with the ring.
//
// What it says is advice. Two nodes may have different views, and one that was just told may
// be gone; a node that is asked for what it doesn't own says who does, and the store fences
// owners that don't know of each other.
package router

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/ring"
)

// Source is where the nodes come from: nodes.Static, or the registry in etcd.
type Source interface {
	// View returns the latest view, never nil.
	View() *nodes.View

	// Subscribe has fn called with each change, in order. It returns the view that the first follows.
	Subscribe(fn func(old, new *nodes.View)) (now *nodes.View, cancel func())
}

// Config is what a Router needs.
type Config struct {
	Source Source

	// Self is this process's record. A process that is no node of the cluster (a tool) leaves it zero.
	Self nodes.Node

	Logger *slog.Logger // nil: none
}

// Validate checks c.
func (c *Config) Validate() error {
	if c.Source == nil {
		return errors.New("router: it needs a source of nodes")
	}
	return nil
}

// Router answers from the latest Snapshot. Look-ups are one atomic load and allocate nothing.
type Router struct {
	cfg  Config
	snap atomic.Pointer[Snapshot]
	stop func()

	mu   sync.Mutex // serializes changes and what is told of them
	subs []*subscriber
}

type subscriber struct{ fn func(old, new *Snapshot) }

// New returns a router of cfg's nodes. It follows the source until Close.
func New(cfg Config) (*Router, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Router{cfg: cfg}
	// A change may come before Subscribe has returned the view it follows: it waits.
	r.mu.Lock()
	defer r.mu.Unlock()
	now, stop := cfg.Source.Subscribe(func(_, v *nodes.View) { r.change(v) })
	r.stop = stop
	r.snap.Store(newSnapshot(now, &r.cfg.Self, nil))
	return r, nil
}

// Close ends the following of the source; the last snapshot stays. It must not be called by a subscriber.
func (r *Router) Close() { r.stop() }

func (r *Router) change(v *nodes.View) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.Snapshot()
	s := newSnapshot(v, &r.cfg.Self, old)
	r.snap.Store(s)
	r.cfg.Logger.Info("nodes changed", "revision", v.Revision(), "nodes", len(v.Nodes()), "logic", len(s.logic), "edge", len(s.edges), "fanout", len(s.fanouts), "owned", s.Owned(s.self))
	for _, sub := range r.subs {
		sub.fn(old, s)
	}
}

// Subscribe has fn called with each change from now on, one after the other and in their order:
// each old is the new of the one before, the first old is the snapshot returned. By then look-ups answer from new. fn is
// called on the goroutine that brought the change: it must not block, and not call Subscribe or cancel.
func (r *Router) Subscribe(fn func(old, new *Snapshot)) (now *Snapshot, cancel func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sub := &subscriber{fn}
	r.subs = append(r.subs, sub)
	return r.Snapshot(), func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.subs = slices.DeleteFunc(r.subs, func(o *subscriber) bool { return o == sub })
	}
}

// Snapshot returns the latest. Whoever asks more than one thing that belong together asks one snapshot.
func (r *Router) Snapshot() *Snapshot { return r.snap.Load() }

// Revision is that of the latest view.
func (r *Router) Revision() int64 { return r.Snapshot().Revision() }

// Owner returns the logic node that owns the slot; nil: there is no logic node.
func (r *Router) Owner(s id.Slot) *nodes.Node { return r.Snapshot().Owner(s) }

// OfKey returns a logic node for what has neither a conversation nor a user yet, the same one for the
// same key; nil: there is no logic node.
func (r *Router) OfKey(key string) *nodes.Node {
	return r.Snapshot().Owner(id.Slot(xxhash.Sum64String(key) >> 52))
}

// ByWorker returns the node that makes ids with this worker number; nil: there is none.
func (r *Router) ByWorker(worker uint32) *nodes.Node { return r.Snapshot().view.ByWorker(worker) }

// ByID returns the node of that id; nil: there is none.
func (r *Router) ByID(node string) *nodes.Node { return r.Snapshot().view.ByID(node) }

// Edges returns all edges, draining ones too, by ID. The slice is the snapshot's.
func (r *Router) Edges() []*nodes.Node { return r.Snapshot().edges }

// Fanouts returns all fan-out nodes, draining ones too, by ID. The slice is the snapshot's.
func (r *Router) Fanouts() []*nodes.Node { return r.Snapshot().fanouts }

// Logics returns all logic nodes, draining ones too, by ID. The slice is the snapshot's.
func (r *Router) Logics() []*nodes.Node { return r.Snapshot().logic }

// Self returns this process's node as the others see it; while they don't, as it was given in Config.
func (r *Router) Self() *nodes.Node { return r.Snapshot().self }

// IsSelf reports whether n is this process. nil isn't.
func (r *Router) IsSelf(n *nodes.Node) bool { return n != nil && n.ID == r.cfg.Self.ID }

// Snapshot is what a router knew at one time. It never changes.
type Snapshot struct {
	view    *nodes.View
	ring    *ring.Ring
	owners  [id.SlotCount]*nodes.Node
	edges   []*nodes.Node
	fanouts []*nodes.Node
	logic   []*nodes.Node
	self    *nodes.Node
}

func newSnapshot(v *nodes.View, self *nodes.Node, old *Snapshot) *Snapshot {
	s := &Snapshot{view: v, edges: v.With(nodes.Edge), fanouts: v.With(nodes.Fanout), logic: v.With(nodes.Logic), self: self}
	if n := v.ByID(self.ID); n != nil {
		s.self = n
	}
	members := owning(s.logic)
	if old != nil && slices.Equal(old.ring.Members(), members) {
		s.ring = old.ring // what changed has nothing to do with the ring
	} else {
		s.ring = ring.New(members)
	}
	byPlace := make([]*nodes.Node, len(members))
	for i, m := range s.ring.Members() {
		byPlace[i] = v.ByID(m.ID)
	}
	for slot := range s.owners {
		if i := s.ring.Owner(id.Slot(slot)); i >= 0 {
			s.owners[slot] = byPlace[i]
		}
	}
	return s
}

// owning returns the members of the ring by ID: the logic nodes that don't drain; if all of them
// drain, all of them, because somebody must own the slots to the last.
func owning(logic []*nodes.Node) []ring.Member {
	members := make([]ring.Member, 0, len(logic))
	for _, all := range []bool{false, true} {
		for _, n := range logic {
			if all || !n.Draining {
				members = append(members, ring.Member{ID: n.ID, Weight: n.Weight})
			}
		}
		if len(members) > 0 {
			break
		}
	}
	return members
}

// View returns the nodes.
func (s *Snapshot) View() *nodes.View { return s.view }

// Revision is that of the view.
func (s *Snapshot) Revision() int64 { return s.view.Revision() }

// Owner returns the logic node that owns the slot; nil: there is no logic node, or no such slot.
func (s *Snapshot) Owner(slot id.Slot) *nodes.Node {
	if int(slot) >= len(s.owners) {
		return nil
	}
	return s.owners[slot]
}

// Owned returns how many slots n owns.
func (s *Snapshot) Owned(n *nodes.Node) int {
	i, ok := slices.BinarySearchFunc(s.ring.Members(), n.ID, func(m ring.Member, id string) int {
		switch {
		case m.ID < id:
			return -1
		case m.ID > id:
			return 1
		}
		return 0
	})
	if !ok {
		return 0
	}
	return s.ring.Owned(i)
}

// Moved calls each with every slot whose owner in new is not the one in old, in the order of slots.
// An owner that was started again, or was gone in between, counts as another: it has forgotten, or
// somebody else may have acted for it. from and to may be nil.
func Moved(old, new *Snapshot, each func(slot id.Slot, from, to *nodes.Node)) {
	for slot := range old.owners {
		if from, to := old.owners[slot], new.owners[slot]; from != to && !from.Same(to) {
			each(id.Slot(slot), from, to)
		}
	}
}
