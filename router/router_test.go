package router_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router"
	"github.com/gochat-im/gochat/router/nodes"
)

func node(name string, worker uint32, roles nodes.Roles) nodes.Node {
	return nodes.Node{ID: name, Worker: worker, Roles: roles, Start: uint64(worker), Weight: 100}
}

// logics returns logic nodes 1 to n.
func logics(n int) []nodes.Node {
	var ns []nodes.Node
	for i := range n {
		ns = append(ns, node(fmt.Sprintf("logic-%d", i+1), uint32(i+1), nodes.Logic))
	}
	return ns
}

func open(t testing.TB, self string, ns ...nodes.Node) (*router.Router, *nodes.Static) {
	t.Helper()
	src, err := nodes.NewStatic(ns...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := router.New(router.Config{Source: src, Self: nodes.Node{ID: self}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, src
}

func set(t testing.TB, src *nodes.Static, ns ...nodes.Node) {
	t.Helper()
	if err := src.Set(ns...); err != nil {
		t.Fatal(err)
	}
}

// owners counts the slots by owner.
func owners(r *router.Router) map[string]int {
	m := map[string]int{}
	for s := range id.Slot(id.SlotCount) {
		if n := r.Owner(s); n != nil {
			m[n.ID]++
		}
	}
	return m
}

func TestLookUps(t *testing.T) {
	r, src := open(t, "logic-2", append(logics(3), node("edge-1", 10, nodes.Edge), node("mixed", 11, nodes.Edge|nodes.Fanout|nodes.Worker))...)
	switch {
	case r.OfKey("x") == nil || r.OfKey("x") == r.OfKey("y") && r.OfKey("x") == r.OfKey("z"):
		t.Error("OfKey")
	case r.Owner(id.SlotStore) != nil:
		t.Error("somebody owns what is no slot")
	case r.ByWorker(10).ID != "edge-1" || r.ByWorker(99) != nil || r.ByID("mixed").Worker != 11 || r.ByID("x") != nil:
		t.Error("by number and by id")
	case len(r.Edges()) != 2 || len(r.Fanouts()) != 1 || len(r.Logics()) != 3:
		t.Error("by role")
	case r.Self() != r.ByID("logic-2") || !r.IsSelf(r.Self()) || r.IsSelf(r.ByID("mixed")) || r.IsSelf(nil):
		t.Error("self")
	case r.Revision() != 1 || r.Snapshot().View() != src.View():
		t.Error("revision")
	}
	got := owners(r)
	for _, n := range r.Logics() {
		if got[n.ID] != r.Snapshot().Owned(n) || got[n.ID] < 1200 {
			t.Errorf("%s owns %d slots, by the snapshot %d", n.ID, got[n.ID], r.Snapshot().Owned(n))
		}
	}
	if len(got) != 3 || r.Snapshot().Owned(r.ByID("mixed")) != 0 {
		t.Errorf("owners: %v", got)
	}
	set(t, src, node("edge-1", 10, nodes.Edge))
	if r.Owner(0) != nil || r.OfKey("x") != nil {
		t.Error("without a logic node somebody owns a slot")
	}
	if r.Self() == nil || r.Self().ID != "logic-2" {
		t.Error("a node that the others don't see is nobody")
	}
	if _, err := router.New(router.Config{}); err == nil {
		t.Error("a router without nodes")
	}
}

func TestChanges(t *testing.T) {
	r, src := open(t, "logic-1", logics(3)...)
	type move struct{ from, to string }
	var moves map[move]int
	var last *router.Snapshot
	name := func(n *nodes.Node) string {
		if n == nil {
			return "-"
		}
		return n.ID
	}
	first, cancel := r.Subscribe(func(old, new *router.Snapshot) {
		if old != last || r.Snapshot() != new {
			t.Error("a change doesn't follow the one before, or isn't in force")
		}
		last = new
		moves = map[move]int{}
		router.Moved(old, new, func(_ id.Slot, from, to *nodes.Node) { moves[move{name(from), name(to)}]++ })
	})
	last = first
	sum := func(of func(move) bool) (n int) {
		for m, k := range moves {
			if of(m) {
				n += k
			}
		}
		return n
	}
	all := func(move) bool { return true }

	set(t, src, logics(5)...)
	if n := sum(all); n < 1475 || n > 1802 || sum(func(m move) bool { return m.to != "logic-4" && m.to != "logic-5" }) > 40 {
		t.Errorf("3 -> 5: %v", moves)
	}
	there := sum(all)
	set(t, src, logics(3)...)
	if sum(all) != there {
		t.Errorf("5 -> 3: %v", moves)
	}

	// What changes about a node but not who it is moves nothing.
	ns := logics(3)
	ns[1].Zone, ns[1].Level = "b", 7
	set(t, src, ns...)
	if len(moves) != 0 {
		t.Errorf("another zone: %v", moves)
	}
	if r.ByID("logic-2").Zone != "b" || r.Owner(0) != r.ByID(r.Owner(0).ID) {
		t.Error("owners are not the nodes of the view")
	}

	// One that was started again, or was gone in between, has forgotten what it was told.
	ns[1].Start = 77
	set(t, src, ns...)
	restarted := moves[move{"logic-2", "logic-2"}]
	ns[2].Registration = 9
	set(t, src, ns...)
	if restarted == 0 || moves[move{"logic-3", "logic-3"}] == 0 || len(moves) != 1 {
		t.Errorf("started again: %d, gone in between: %v", restarted, moves)
	}

	set(t, src)
	if sum(func(m move) bool { return m.to == "-" }) != id.SlotCount {
		t.Errorf("everybody gone: %v", moves)
	}
	cancel()
	moves = nil
	set(t, src, logics(1)...)
	if moves != nil {
		t.Error("told after the end")
	}
}

func TestDrainingOwnsNothing(t *testing.T) {
	ns := logics(3)
	r, src := open(t, "logic-1", ns...)
	before := owners(r)
	ns[0].Draining = true
	set(t, src, ns...)
	after := owners(r)
	if after["logic-1"] != 0 || after["logic-2"]+after["logic-3"] != id.SlotCount || before["logic-1"] == 0 {
		t.Errorf("owners: %v, before: %v", after, before)
	}
	if r.ByID("logic-1") == nil || r.ByWorker(1) == nil || len(r.Logics()) != 3 || r.Snapshot().Owned(r.Self()) != 0 {
		t.Error("a node that drains is not to be reached")
	}
	// The last ones own to the end.
	for i := range ns {
		ns[i].Draining = true
	}
	set(t, src, ns...)
	if got := owners(r); got["logic-1"] != before["logic-1"] {
		t.Errorf("all drain: %v, before: %v", got, before)
	}
}

func TestLookUpsAllocateNothing(t *testing.T) {
	r, _ := open(t, "logic-1", append(logics(3), node("edge-1", 10, nodes.Edge))...)
	conv, user := id.NewGroup(), id.UserID("user-1001")
	if n := testing.AllocsPerRun(100, func() {
		if r.Owner(conv.Slot()) == nil || r.Owner(user.Slot()) == nil || r.OfKey("key") == nil || r.ByWorker(10) == nil || r.ByID("edge-1") == nil ||
			len(r.Edges()) != 1 || len(r.Fanouts()) != 0 || len(r.Logics()) != 3 || !r.IsSelf(r.Self()) || r.Revision() != 1 {
			t.Error("look-ups")
		}
	}); n != 0 {
		t.Errorf("look-ups allocate %v times", n)
	}
}

// Those who look up while nodes come and go see whole snapshots.
func TestLookUpsWhileNodesChange(t *testing.T) {
	r, src := open(t, "logic-1", logics(1)...)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				s := r.Snapshot()
				for slot := id.Slot(0); slot < id.SlotCount; slot += 64 {
					if n := s.Owner(slot); n == nil || s.View().ByID(n.ID) != n {
						t.Error("an owner that is not among the nodes")
						return
					}
				}
			}
		})
	}
	for i := range 50 {
		set(t, src, logics(1+i%4)...)
	}
	close(done)
	readers.Wait()
}

func BenchmarkOwner(b *testing.B) {
	r, _ := open(b, "logic-1", logics(3)...)
	conv := id.NewGroup()
	for b.Loop() {
		r.Owner(conv.Slot())
	}
}
