package node

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router"
)

// A node leaves when it is told to end, or while an operator says that it drains. Both are the same: the others hear
// of it first, its clients go elsewhere, its slots are handed over, the bus is left to others, and what is on its way arrives.
// A node that drains goes on like that, with nothing to do, until it is ended, or told to stay.

// staying is whether a node takes part, or leaves. The zero staying takes part.
type staying struct {
	mu      sync.Mutex
	leaving bool
	changed chan struct{} // closed at the next change; nil: nobody waits for it
}

// get returns what holds, and a channel that is closed when that changes.
func (s *staying) get() (leaving bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.leaving, s.changed
}

func (s *staying) set(leaving bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving == leaving {
		return
	}
	s.leaving = leaving
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// errLeaving is why a node that leaves isn't ready.
var errLeaving = errors.New("this node is leaving")

// leaves reports whether this node is about to end, or drains.
func (n *Node) leaves() bool {
	if n.ending.Load() {
		return true
	}
	if n.peers == nil {
		return false
	}
	leaving, _ := n.peers.asked.get()
	return leaving
}

// ready reports whether clients can be served, and by is what that stands on.
func (n *Node) ready(by func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		if n.leaves() {
			return errLeaving
		}
		return by(ctx)
	}
}

// Times of leaving.
const (
	// handOverTime is what the others have to take over what a node does that leaves, and its answers to be written.
	handOverTime = 5 * time.Second
	// knownTime is how long a node waits to hear itself that it drains.
	knownTime = time.Second
	// otherTime is how long others may hear of that later. What they send here meanwhile is served; after it they are sent on.
	otherTime = 200 * time.Millisecond
)

// obey has this node drain while an operator says so, until ctx ends.
func (n *Node) obey(ctx context.Context) error {
	for {
		leaving, changed := n.peers.asked.get()
		if !leaving {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
			continue
		}
		going, stop := context.WithCancel(ctx)
		var done sync.WaitGroup
		done.Go(func() { n.drain(going) })
		select {
		case <-ctx.Done():
		case <-changed:
		}
		stop()
		done.Wait()
		if ctx.Err() != nil {
			return nil
		}
		n.stay()
	}
}

// drain has this node do nothing any more. It is told in the log, and given up when ctx ends.
func (n *Node) drain(ctx context.Context) {
	p := n.peers
	n.log.Info("this node drains")
	n.heard(ctx)
	var err error
	if n.edge != nil {
		err = n.edge.Leave(ctx, p.elsewhere())
	}
	if ctx.Err() != nil {
		return
	}
	err = errors.Join(err, n.giveSlots(ctx, false))
	if ctx.Err() != nil {
		return
	}
	n.noEvents(ctx)
	if err != nil {
		n.log.Warn("this node has drained, not wholly", "err", err)
		return
	}
	n.log.Info("this node has drained: nothing depends on it any more")
}

// stay takes back what drain did. Slots come back with the others' views.
func (n *Node) stay() {
	n.log.Info("this node stays")
	if n.edge != nil {
		n.edge.Hub.Stay()
	}
	n.away.set(false)
	if n.cfg.Cluster.Has(config.RoleLogic) {
		// Those that came back before the drain was given up. Others are told when they come.
		n.logic.Sequencer.Own(n.peers.slots(true))
	}
}

// heard waits until this node's own view says that it drains: from then on the others' do, or will in a moment.
func (n *Node) heard(ctx context.Context) {
	if n.peers.Listed() {
		return // a list doesn't change
	}
	ctx, cancel := context.WithTimeout(ctx, knownTime)
	defer cancel()
	changed := make(chan struct{}, 1)
	now, unsubscribe := n.peers.Router.Subscribe(func(_, s *router.Snapshot) {
		if drains(s, n.peers.Self.ID) {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	defer unsubscribe()
	if drains(now, n.peers.Self.ID) {
		return
	}
	select {
	case <-changed:
	case <-ctx.Done():
	}
}

func drains(s *router.Snapshot, self string) bool {
	n := s.View().ByID(self)
	return n == nil || n.Draining
}

// slots returns the slots that are this node's in its own view, or those that aren't.
func (p *peers) slots(mine bool) []id.Slot {
	now := p.Router.Snapshot()
	var list []id.Slot
	for s := range id.Slot(id.SlotCount) {
		if p.Router.IsSelf(now.Owner(s)) == mine {
			list = append(list, s)
		}
	}
	return list
}

// giveSlots gives a logic node's slots to others while it still answers: those who ask are sent there. ending:
// all of them, even if nobody else is there to take them.
func (n *Node) giveSlots(ctx context.Context, ending bool) error {
	if !n.cfg.Cluster.Has(config.RoleLogic) {
		return nil
	}
	p := n.peers
	if !p.Listed() {
		select {
		case <-time.After(otherTime):
		case <-ctx.Done():
			return fmt.Errorf("handing over slots: %w", ctx.Err())
		}
	}
	p.apply(n)
	given := p.slots(false)
	if ending {
		given = append(given, p.slots(true)...)
	}
	err := n.logic.Sequencer.Drain(ctx, given)
	if err := n.logic.Conversations.Flush(ctx); err != nil {
		return fmt.Errorf("writing cursors before others own their conversations: %w", err)
	}
	return err
}

// elsewhere returns where clients may go instead of here: some of the other edges, at random.
func (p *peers) elsewhere() (to hub.Elsewhere) {
	const most = 8
	edges := p.Router.Edges()
	for _, i := range rand.Perm(len(edges)) {
		if e := edges[i]; !p.Router.IsSelf(e) && !e.Draining {
			if len(to.Sockets) < most {
				to.Sockets = append(to.Sockets, e.Clients...)
			}
			if e.HTTP != "" && len(to.Web) < most {
				to.Web = append(to.Web, e.HTTP)
			}
		}
	}
	return to
}

// consume has fan-out take events from the bus while it shall, until ctx ends.
func (n *Node) consume(ctx context.Context) error {
	for ctx.Err() == nil {
		ended, changed := n.away.get()
		if ended {
			n.left.set(true)
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		n.left.set(false)
		taking, stop := context.WithCancel(ctx)
		var watch sync.WaitGroup
		watch.Go(func() {
			select {
			case <-taking.Done():
			case <-changed:
				stop()
			}
		})
		err := n.storage.Bus.Subscribe(taking, fanoutGroup, n.fanout.Handle)
		over := taking.Err() != nil
		stop()
		watch.Wait()
		if err != nil && !over {
			return err
		}
	}
	return nil
}

// noEvents leaves the bus to other nodes: what was taken from it is acted on, and comes to the edges.
func (n *Node) noEvents(ctx context.Context) {
	if n.cfg.Cluster.Has(config.RoleFanout) {
		n.away.set(true)
		if over, changed := n.left.get(); !over {
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
	if n.peers.edges != nil {
		n.peers.edges.Settle(ctx)
	}
}

// announceLeave tells the others that this node ends.
func (n *Node) announceLeave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	if err := n.peers.Drain(ctx); err != nil {
		return fmt.Errorf("telling the others that this node leaves: %w", err)
	}
	n.heard(ctx)
	return nil
}

// handOver is the rest of leaving before the end, when the clients are gone.
func (n *Node) handOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handOverTime)
	defer cancel()
	err := n.giveSlots(ctx, true)
	n.noEvents(ctx)
	return err
}
