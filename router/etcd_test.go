package router_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router"
	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
)

// member is a logic node with its own view of the others.
type member struct {
	src *etcdnodes.Source
	r   *router.Router
}

func startMember(t *testing.T, srv *etcdtest.Server, name string) *member {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	src, err := etcdnodes.Open(ctx, etcdnodes.Config{Client: srv.Client()})
	if err != nil {
		t.Fatal(err)
	}
	self, err := src.Join(ctx, nodes.Node{ID: name, Roles: nodes.Logic, RPC: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := router.New(router.Config{Source: src, Self: self})
	if err != nil {
		t.Fatal(err)
	}
	m := &member{src, r}
	if err := src.Announce(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.stop(t) })
	return m
}

func (m *member) stop(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := m.src.Close(ctx); err != nil {
		t.Error(err)
	}
	m.r.Close()
}

// Logic nodes scale from three to five and back: all of them agree on every owner without a
// word between them, and about the ideal moves.
func TestNodesAgree(t *testing.T) {
	srv := etcdtest.Start(t)
	var ms []*member
	agree := func(n int) *router.Snapshot {
		t.Helper()
		end := time.Now().Add(20 * time.Second)
		for _, m := range ms {
			for len(m.r.Logics()) != n {
				if time.Now().After(end) {
					t.Fatalf("%s sees %d nodes, want %d", m.r.Self().ID, len(m.r.Logics()), n)
				}
				time.Sleep(time.Millisecond)
			}
			for s := range id.Slot(id.SlotCount) {
				if a, b := m.r.Owner(s), ms[0].r.Owner(s); !a.Same(b) || m.r.IsSelf(a) != (a.ID == m.r.Self().ID) {
					t.Fatalf("slot %d: %s says %s, %s says %s", s, m.r.Self().ID, a.ID, ms[0].r.Self().ID, b.ID)
				}
			}
		}
		return ms[0].r.Snapshot()
	}
	grow := func(to int) {
		for len(ms) < to {
			ms = append(ms, startMember(t, srv, fmt.Sprintf("logic-%d", len(ms)+1)))
		}
	}
	moved := func(a, b *router.Snapshot) (n int) {
		router.Moved(a, b, func(id.Slot, *nodes.Node, *nodes.Node) { n++ })
		return n
	}
	grow(3)
	three := agree(3)
	grow(5)
	five := agree(5)
	for _, m := range ms[3:] {
		m.stop(t)
	}
	ms = ms[:3]
	again := agree(3)
	const ideal = id.SlotCount * 2 / 5
	for what, n := range map[string]int{"3 -> 5": moved(three, five), "5 -> 3": moved(five, again)} {
		t.Logf("%s: %d slots moved, ideal %d", what, n, ideal)
		if math.Abs(float64(n-ideal)) > ideal/10 {
			t.Errorf("%s: %d slots moved, want %d within a tenth", what, n, ideal)
		}
	}
	if n := moved(three, again); n != 0 {
		t.Errorf("%d slots aren't where they were", n)
	}
}
