package relay

import (
	"bytes"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
)

// porter stands at the door of one edge: each letter waits with him until the test has it taken in, whether its call
// has ended meanwhile or not.
type porter struct {
	View // only Edges and IsSelf are asked
	list []*nodes.Node

	letters chan handed
	end     chan struct{}
}

type handed struct {
	letter
	taken chan struct{}
}

func (p *porter) Edges() []*nodes.Node    { return p.list }
func (p *porter) IsSelf(*nodes.Node) bool { return false }

func (p *porter) call(_ context.Context, _ *nodes.Node, body []byte) ([]byte, error) {
	l, err := readLetter(bytes.Clone(body))
	if err != nil {
		return nil, err
	}
	h := handed{l, make(chan struct{})}
	select {
	case p.letters <- h:
	case <-p.end:
	}
	select {
	case <-h.taken:
	case <-p.end:
	}
	return (&receipt{}).append(nil), nil
}

const porterWorker = 5

func (p *porter) conn(n int) uint64 { return porterWorker<<20 | uint64(n) }

// next waits for a letter and returns the connections that it orders closed, and the users that it revokes.
func (p *porter) next(t *testing.T) (h handed, conns []uint64, users []id.UserID) {
	t.Helper()
	select {
	case h = <-p.letters:
	case <-time.After(2 * time.Minute):
		t.Fatal("no letter comes")
	}
	err := obey(h.orders, func(conn uint64, _ *code.Error) { conns = append(conns, conn) },
		func(v Revocation) { users = append(users, v.User) }, func(id.ConversationID, id.UserID) {})
	if err != nil {
		t.Fatal(err)
	}
	return h, conns, users
}

// until takes letters in until want is ordered closed, and returns all that were.
func (p *porter) until(t *testing.T, want uint64) (conns []uint64) {
	t.Helper()
	for !slices.Contains(conns, want) {
		h, some, _ := p.next(t)
		conns = append(conns, some...)
		close(h.taken)
	}
	return conns
}

// newPorter returns one, and Edges that have brought him their first letter.
func newPorter(t *testing.T) (*porter, *Edges) {
	t.Helper()
	p := &porter{
		list: []*nodes.Node{{ID: "edge", Worker: porterWorker, Start: 1, Registration: 1}}, letters: make(chan handed), end: make(chan struct{}),
	}
	e, err := NewEdges(EdgesConfig{Self: "x", Start: 1, Call: p.call})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(p.end); e.Close() })
	e.SetView(p)
	h, _, _ := p.next(t)
	close(h.taken)
	return p, e
}

// Of more orders than are kept the oldest is given up. If it was on its way just then no other is taken for obeyed.
func TestOrdersGivenUp(t *testing.T) {
	p, e := newPorter(t)
	e.CloseConn(p.conn(0), code.New(code.Replaced))
	h, got, _ := p.next(t)
	for n := range maxOrders {
		e.CloseConn(p.conn(n+1), code.New(code.Replaced)) // with the last of them the first is given up
	}
	close(h.taken)
	got = append(got, p.until(t, p.conn(maxOrders))...)
	for n := range maxOrders + 1 {
		if !slices.Contains(got, p.conn(n)) {
			t.Errorf("order %d was never sent", n)
		}
	}
}

// An edge comes back under another registration while a call of it is under way: it is sent what was ordered before, and
// what is since, also by those who still have the lane before.
func TestOrdersOfAnEdgeThatIsBack(t *testing.T) {
	p, e := newPorter(t)
	e.CloseConn(p.conn(1), code.New(code.Replaced))
	h, _, _ := p.next(t)
	before := e.byWorker[porterWorker].Load()
	again := *p.list[0]
	again.Registration++
	p.list = []*nodes.Node{&again}
	e.SetView(p)
	close(h.taken) // its call is answered after all
	for answered := false; !answered; time.Sleep(time.Millisecond) {
		before.mu.Lock()
		answered = before.calls == 2
		before.mu.Unlock()
	}
	before.order(func(dst []byte) []byte { return appendClose(dst, p.conn(2), code.New(code.Replaced)) })
	e.CloseConn(p.conn(3), code.New(code.Replaced))
	got := p.until(t, p.conn(3))
	for n := 1; n <= 3; n++ {
		if !slices.Contains(got, p.conn(n)) {
			t.Errorf("order %d was not sent to the edge that is back", n)
		}
	}
}

// What a desk keeps for edges that can't be told doesn't gather for those that are gone; connections of theirs that others took
// the place of do, and what nobody else keeps.
func TestOrdersForAnEdgeThatIsGone(t *testing.T) {
	p, e := newPorter(t)
	edge := p.list
	p.list = nil
	e.SetView(p)
	d := NewDesk(nil, e, 1)
	d.Revoke(Revocation{User: "ann"})
	e.Revoke(Revocation{User: "ben"})
	e.CloseConn(p.conn(1), code.New(code.Replaced))
	p.list = edge
	e.SetView(p)
	h, conns, users := p.next(t)
	close(h.taken)
	if !slices.Equal(conns, []uint64{p.conn(1)}) || !slices.Equal(users, []id.UserID{"ben"}) {
		t.Errorf("orders for connections %x and users %q waited", conns, users)
	}
	if len(d.log) != 1 {
		t.Errorf("the desk keeps %v", d.log)
	}
	d.Revoke(Revocation{User: "ann"})
	for users = nil; users == nil; close(h.taken) { // its audiences are filled first, maybe
		h, _, users = p.next(t)
	}
	if !slices.Equal(users, []id.UserID{"ann"}) {
		t.Errorf("%q are revoked at an edge that is there", users)
	}
}
