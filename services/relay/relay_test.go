package relay_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/relay"
)

// stands waits until a device has exactly these messages of a conversation.
func stands(t *testing.T, what string, p *phone, c id.ConversationID, want ...uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s: %s has %d, want %d", what, p.user, p.seqs(c), want), func() bool { return slices.Equal(p.seqs(c), want) })
}

func closed(t *testing.T, what string, p *phone, want code.Code) {
	t.Helper()
	eventually(t, what, func() bool {
		why, ended := p.why()
		return ended && why == want
	})
}

// A device has one connection and a user so many devices, whatever edges they are at.
func TestReplacedAcrossEdges(t *testing.T) {
	w := newWorld(t)
	l1, l2 := w.logic(2), w.logic(2)
	e1, e2 := w.edge(), w.edge()
	w.fanout(nil)
	w.agree(l1, l2)
	w.settled()
	for i := range 8 { // some are of each logic node
		ann, ben := id.UserID(fmt.Sprint("ann", i)), id.UserID(fmt.Sprint("ben", i))
		c := id.Direct(ann, ben)
		w.members[c] = []id.UserID{ann, ben}
		first := w.connect(e1, ann, "phone")
		second := w.connect(e2, ann, "phone")
		closed(t, "the device connected elsewhere", first, code.Replaced)
		desk := w.connect(e1, ann, "desk")
		peer := w.connect(e2, ben, "phone")
		w.say(c, 1, peer.c.Incarnation())
		stands(t, "two devices", second, c, 1)
		stands(t, "two devices", desk, c, 1)
		third := w.connect(e2, ann, "web")
		closed(t, "too many devices", second, code.Replaced)
		w.say(c, 2, 0)
		stands(t, "two devices", desk, c, 1, 2)
		stands(t, "two devices", third, c, 2)
		stands(t, "the other user", peer, c, 2)
		if got := first.seqs(c); len(got) > 0 {
			t.Errorf("a closed connection was sent %d", got)
		}
		// As services ask for them, at whatever node.
		if conn, _ := w.fan.looks.Find(ann, "web"); conn != third.c.Incarnation() {
			t.Errorf("%s is found at %x, want %x", ann, conn, third.c.Incarnation())
		}
		n := 0
		if w.fan.looks.Each(ann, func(uint64, id.DeviceID) { n++ }); n != 2 {
			t.Errorf("%s has %d devices", ann, n)
		}
		desk.Close()
		eventually(t, "who left is out of the directory", func() bool { c, _ := w.fan.looks.Find(ann, "desk"); return c == 0 })
	}
	if s := w.fan.edges.Stats(); len(s) != 2 || s[0].Calls == 0 || s[0].Failed+s[0].Lost > 0 {
		t.Errorf("%+v", s)
	}
}

// While a slot moves its users are looked for everywhere, and when it has moved they get a HINT.
func TestMovedSlots(t *testing.T) {
	w := newWorld(t)
	l1, l2 := w.logic(0), w.logic(0)
	e1, e2 := w.edge(), w.edge()
	w.fanout(nil)
	w.agree(l1)
	w.settled()
	var phones []*phone
	var convs []id.ConversationID
	for i := range 40 {
		u := id.UserID(fmt.Sprint("u", i))
		p := w.connect([]*edgeNode{e1, e2}[i%2], u, "phone")
		c := id.Direct(u, "nobody")
		w.members[c] = []id.UserID{"nobody", u}
		phones, convs = append(phones, p), append(convs, c)
	}
	say := func(seq uint64) {
		t.Helper()
		for i := range phones {
			w.say(convs[i], seq, 0)
		}
		for i, p := range phones {
			all := make([]uint64, seq)
			for j := range all {
				all[j] = uint64(j) + 1
			}
			stands(t, fmt.Sprint("message ", seq), p, convs[i], all...)
		}
	}
	say(1)
	// The logic nodes and fan-out know of the change, the edges don't yet.
	all := w.list(l1, l2)
	w.knowing(all)
	say(2)
	if s := w.fan.looks.Stats(); s.Unknown == 0 {
		t.Error("nobody was looked for everywhere")
	}
	w.agree(l1, l2)
	w.settled()
	say(3)
	moved := 0
	for _, p := range phones {
		if l2.IsSelf(l2.Owner(p.user.Slot())) {
			moved++
			eventually(t, "a HINT for who moved", func() bool { return p.hinted() > 0 })
			if conn, _ := l2.part.Find(p.user, "phone"); conn != p.c.Incarnation() {
				t.Errorf("%s isn't where it moved to", p.user)
			}
		}
	}
	if moved == 0 || moved == len(phones) {
		t.Fatalf("%d of %d moved", moved, len(phones))
	}
	if n := l1.part.Len() + l2.part.Len(); n != len(phones) {
		t.Errorf("%d sessions in the directory, want %d", n, len(phones))
	}
	// Fan-out doesn't know yet, and asks who isn't the owner any more.
	before := w.fan.looks.Stats().Unknown
	all = w.list(l2)
	for _, l := range w.logics {
		l.see(t, all)
		l.view()
	}
	say(4)
	if s := w.fan.looks.Stats(); s.Unknown == before {
		t.Error("nobody was looked for everywhere")
	}
	// A node of the directory hangs: its users are looked for everywhere, and soon it isn't asked any more.
	w.agree(l1, l2)
	w.settled()
	w.fault(l2.ID, frozen)
	say(5)
	if s := w.fan.looks.Stats(); s.Suspects != 1 {
		t.Errorf("%+v", s)
	}
	w.fault(l2.ID, works)
	w.advance(10 * time.Second)
	say(6)
	if s := w.fan.looks.Stats(); s.Suspects != 0 {
		t.Errorf("%+v", s)
	}
}

// An edge that was frozen past its lease is back with all that it has, and says so to its clients.
func TestFrozenEdge(t *testing.T) {
	w := newWorld(t)
	l := w.logic(0)
	e1, e2 := w.edge(), w.edge()
	w.fanout(nil)
	w.agree(l)
	w.settled()
	ann, ben := w.connect(e1, "ann", "phone"), w.connect(e2, "ben", "phone")
	c := id.Direct("ann", "ben")
	w.members[c] = []id.UserID{"ann", "ben"}
	w.say(c, 1, 0)
	stands(t, "at first", ann, c, 1)
	w.fault(e1.ID, frozen)
	w.advance(10 * time.Second)
	w.heard(l.ID) // by the other edge
	w.advance(6 * time.Second)
	l.part.Sweep()
	if s := l.part.Stats(); s.Edges != 1 || s.Sessions != 1 || s.Lapsed != 1 {
		t.Errorf("%+v", s)
	}
	before := ann.hinted()
	w.say(c, 2, 0)
	stands(t, "one is frozen", ben, c, 1, 2)
	w.fault(e1.ID, works)
	eventually(t, "it is back", func() bool { return l.part.Stats().Sessions == 2 })
	eventually(t, "a HINT for what was missed", func() bool { return ann.hinted() > before })
	w.say(c, 3, 0)
	stands(t, "both", ben, c, 1, 2, 3)
	stands(t, "both", ann, c, 1, 3)
}

// What doesn't fit into the queue for an edge is dropped, and the connections it was for get a HINT.
func TestOverflow(t *testing.T) {
	w := newWorld(t)
	l := w.logic(0)
	e := w.edge()
	w.fanout(func(c *relay.EdgesConfig) { c.QueueBytes = 2 << 10 })
	w.agree(l)
	w.settled()
	ann, ben := w.connect(e, "ann", "phone"), w.connect(e, "ben", "phone")
	c, quiet := id.Direct("ann", "ann"), id.Direct("ben", "ben")
	w.members[c], w.members[quiet] = []id.UserID{"ann"}, []id.UserID{"ben"}
	w.say(quiet, 1, 0)
	stands(t, "at first", ben, quiet, 1)
	annBefore, benBefore := ann.hinted(), ben.hinted()
	w.fault(e.ID, frozen)
	for seq := range uint64(100) {
		w.say(c, seq+1, 0)
	}
	if s := w.fan.edges.Stats(); s[0].Lost == 0 || s[0].Waiting > 2<<10 {
		t.Errorf("%+v", s)
	}
	w.fault(e.ID, works)
	eventually(t, "a HINT for what was dropped", func() bool { return ann.hinted() > annBefore })
	w.say(c, 101, 0)
	eventually(t, "it goes on", func() bool { return slices.Contains(ann.seqs(c), 101) })
	got := ann.seqs(c)
	if !slices.IsSorted(got) || len(slices.Compact(slices.Clone(got))) != len(got) || len(got) == 101 {
		t.Errorf("delivered %d", got)
	}
	if ben.hinted() != benBefore {
		t.Error("a HINT for somebody who has everything")
	}
}

// An answer that is lost doesn't make anything arrive twice.
func TestLostAnswers(t *testing.T) {
	w := newWorld(t)
	l := w.logic(0)
	e := w.edge()
	w.fanout(nil)
	w.agree(l)
	w.settled()
	ann := w.connect(e, "ann", "phone")
	c := id.Direct("ann", "ann")
	w.members[c] = []id.UserID{"ann"}
	w.fault(e.ID, mute)
	w.say(c, 1, 0)
	stands(t, "the answer is lost", ann, c, 1)
	w.say(c, 2, 0)
	eventually(t, "it is tried again", func() bool { return w.fan.edges.Stats()[0].Failed > 1 })
	w.fault(e.ID, works)
	w.say(c, 3, 0)
	stands(t, "it answers again", ann, c, 1, 2, 3)
}

// Who is revoked is closed everywhere, also at an edge that couldn't be told then, or wasn't seen.
func TestRevoked(t *testing.T) {
	w := newWorld(t)
	l := w.logic(0)
	e1, e2 := w.edge(), w.edge()
	w.agree(l)
	w.settled()
	phone, desk, other := w.connect(e1, "ann", "phone"), w.connect(e2, "ann", "desk"), w.connect(e1, "ben", "phone")
	l.desk.Revoke(relay.Revocation{User: "ann", Device: "phone", Until: time.Now(), Why: "signed out"})
	closed(t, "the device", phone, code.SessionRevoked)
	w.fault(e2.ID, down)
	l.desk.Revoke(relay.Revocation{User: "ann", Until: time.Now(), Why: "gone"})
	w.fault(e2.ID, works)
	closed(t, "all devices", desk, code.SessionRevoked)
	// Who doesn't see an edge tells it when it calls.
	far := w.connect(e2, "cid", "phone")
	l.see(t, []nodes.Node{l.Node, e1.Node})
	l.view()
	l.desk.Revoke(relay.Revocation{User: "cid", Until: time.Now(), Why: "gone"})
	closed(t, "at an edge that isn't seen", far, code.SessionRevoked)
	if _, ended := other.why(); ended {
		t.Error("somebody else was closed")
	}
}

// An edge that can't reach an owner for long closes what the owner might have revoked.
func TestCutOff(t *testing.T) {
	w := newWorld(t)
	l1, l2 := w.logic(0), w.logic(0)
	e := w.edge()
	w.agree(l1, l2)
	w.settled()
	var mine, others []*phone
	for i := range 30 {
		p := w.connect(e, id.UserID(fmt.Sprint("u", i)), "phone")
		if l1.IsSelf(l1.Owner(p.user.Slot())) {
			mine = append(mine, p)
		} else {
			others = append(others, p)
		}
	}
	w.fault(l1.ID, down)
	u := mine[0].user
	again := w.connect(e, u, "phone") // works without the directory
	closed(t, "it knows by itself", mine[0], code.Replaced)
	w.advance(59 * time.Second)
	e.sessions.Check()
	if _, ended := again.why(); ended {
		t.Error("closed too early")
	}
	w.advance(2 * time.Second)
	w.heard(l2.ID)
	e.sessions.Check()
	for _, p := range append(mine[1:], again) {
		closed(t, "cut off", p, code.Unavailable)
	}
	for _, p := range others {
		if _, ended := p.why(); ended {
			t.Error("closed although its owner is heard")
		}
	}
	if s := e.sessions.Stats(); int(s.Cut) != len(mine) {
		t.Errorf("%+v, want %d cut", s, len(mine))
	}
}
