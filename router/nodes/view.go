package nodes

import (
	"cmp"
	"fmt"
	"slices"
)

// View is which nodes there are, as known at one time. It and its nodes are never changed, so
// what it returns may be kept, and must not be written to.
type View struct {
	revision int64
	nodes    []*Node // by ID
	byWorker map[uint32]*Node
	level    uint32
}

// NewView makes a view of copies of ns. Two nodes of one ID or one worker number are refused.
func NewView(revision int64, ns []Node) (*View, error) {
	v := &View{revision: revision, nodes: make([]*Node, 0, len(ns)), byWorker: make(map[uint32]*Node, len(ns))}
	for _, n := range ns {
		if err := n.Validate(); err != nil {
			return nil, err
		}
		n.Weight = cmp.Or(n.Weight, DefaultWeight)
		n.Level = cmp.Or(n.Level, FirstLevel)
		if other := v.byWorker[n.Worker]; other != nil {
			return nil, fmt.Errorf("nodes %q and %q both have worker number %d", other.ID, n.ID, n.Worker)
		}
		v.byWorker[n.Worker] = &n
		v.nodes = append(v.nodes, &n)
	}
	slices.SortFunc(v.nodes, func(a, b *Node) int { return cmp.Compare(a.ID, b.ID) })
	for i, n := range v.nodes {
		if i > 0 && v.nodes[i-1].ID == n.ID {
			return nil, fmt.Errorf("there are two nodes %q", n.ID)
		}
		if i == 0 || n.Level < v.level {
			v.level = n.Level
		}
	}
	return v, nil
}

// Revision is higher in a later view of one source, unless the registry lost what it held. It
// comes from the registry, so of two nodes the one with the lower revision may be behind. It is a hint: views that
// say the same may have different revisions (so nobody waits for one), and views of the same revision differ
// for as long as one of them ignores that a node's lease has lapsed.
func (v *View) Revision() int64 { return v.revision }

// Nodes returns all nodes, by ID.
func (v *View) Nodes() []*Node { return v.nodes }

// ByID returns the node of that id; nil: there is none.
func (v *View) ByID(id string) *Node {
	i, ok := slices.BinarySearchFunc(v.nodes, id, func(n *Node, id string) int { return cmp.Compare(n.ID, id) })
	if !ok {
		return nil
	}
	return v.nodes[i]
}

// ByWorker returns the node of that worker number; nil: there is none.
func (v *View) ByWorker(worker uint32) *Node { return v.byWorker[worker] }

// With returns the nodes that have all of roles, draining ones too, by ID. It makes the list anew.
func (v *View) With(roles Roles) []*Node {
	var ns []*Node
	for _, n := range v.nodes {
		if n.Roles.Has(roles) {
			ns = append(ns, n)
		}
	}
	return ns
}

// Level is the lowest of what the nodes can read: 0 without any. Where nodes are listed that is the feature level in force. Where they are registered
// it isn't, since it falls when a node of an older release comes; the one in force is recorded, and may be raised up to this.
func (v *View) Level() uint32 { return v.level }
