package session

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
)

// region is a Part with edges that follow the protocol, and what they have.
type region struct {
	t     *testing.T
	part  *Part
	now   time.Time
	edges []*fakeEdge
	owned map[id.Slot]bool
	next  uint64
}

type fakeEdge struct {
	Edge
	sessions []Session
	told     []uint64 // to close, while it was frozen
	again    []id.Slot
	frozen   bool
}

func newRegion(t *testing.T, edges int) *region {
	r := &region{t: t, now: time.Unix(1_790_000_000, 0), owned: map[id.Slot]bool{}}
	var err error
	if r.part, err = NewPart(PartConfig{Config: Config{DevicesPerUser: 4}, Now: func() time.Time { return r.now }}); err != nil {
		t.Fatal(err)
	}
	for i := range edges {
		r.edges = append(r.edges, &fakeEdge{Edge: Edge{Worker: uint32(i + 1), Start: 1}})
	}
	return r
}

func (r *region) view() {
	var es []Edge
	for _, e := range r.edges {
		es = append(es, e.Edge)
	}
	r.part.SetView(es, func(s id.Slot) bool { return r.owned[s] })
}

func (r *region) own(users ...id.UserID) {
	for _, u := range users {
		r.owned[u.Slot()] = true
	}
	r.view()
}

func (r *region) lose(users ...id.UserID) {
	for _, u := range users {
		delete(r.owned, u.Slot())
	}
	r.view()
}

// conn makes an incarnation of edge i, of a second of its own.
func (r *region) conn(i int) uint64 {
	r.next++
	return (1_790_000_000+r.next)<<30 | uint64(r.edges[i].Worker)<<20 | r.next&0xFFFFF
}

// connect registers a session; what isn't entered is announced again later.
func (r *region) connect(i int, user id.UserID, device id.DeviceID) (conn, replaced uint64) {
	e := r.edges[i]
	s := Session{user, device, 1, r.conn(i)}
	e.sessions = append(e.sessions, s)
	replaced, ousted, err := r.part.Register(e.Edge, user, device, 1, s.Conn)
	if err != nil {
		if !errors.Is(err, ErrForeign) {
			r.t.Fatal(err)
		}
		e.again = append(e.again, user.Slot())
	}
	r.close(replaced, ousted)
	return s.Conn, replaced
}

// close ends connections wherever they are, and has their edges say so, those that are frozen later.
func (r *region) close(conns ...uint64) {
	for _, c := range conns {
		for _, e := range r.edges {
			i := slices.IndexFunc(e.sessions, func(s Session) bool { return s.Conn == c })
			switch {
			case i < 0:
			case e.frozen:
				e.told = append(e.told, c)
			default:
				u := e.sessions[i].User
				e.sessions = slices.Delete(e.sessions, i, i+1)
				if err := r.part.Unregister(e.Edge, u, c); errors.Is(err, ErrForeign) {
					e.again = append(e.again, u.Slot())
				} else if err != nil {
					r.t.Fatal(err)
				}
			}
		}
	}
}

func (r *region) thaw(e *fakeEdge) {
	e.frozen = false
	r.close(e.told...)
	e.told = nil
}

// renew is what an edge does every few seconds.
func (r *region) renew(i int) (announced int) {
	e := r.edges[i]
	missing, err := r.part.Renew(e.Edge, e.again, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	e.again = nil
	for _, s := range missing {
		var of []Session
		for _, x := range e.sessions {
			if x.User.Slot() == s {
				of = append(of, x)
			}
		}
		closed, err := r.part.Announce(e.Edge, s, of, nil)
		if err != nil {
			r.t.Fatal(err)
		}
		r.close(closed...)
	}
	return len(missing)
}

// at returns what the Part says of user, without the 0 that stands for others.
func (r *region) at(user id.UserID) (conns []uint64, sure bool) {
	conns, _ = r.part.Gather(r.t.Context(), []id.UserID{user}, nil, nil)
	if n := len(conns); n > 0 && conns[n-1] == 0 {
		return conns[:n-1], false
	}
	return conns, true
}

func (r *region) want(what string, user id.UserID, sure bool, want ...uint64) {
	r.t.Helper()
	if got, is := r.at(user); is != sure || !slices.Equal(got, want) {
		r.t.Errorf("%s: %s is at %x, sure %v; want %x, %v", what, user, got, is, want, sure)
	}
}

func TestNewSlotsAreUnknown(t *testing.T) {
	r := newRegion(t, 2)
	r.want("another node's", "ann", false)
	if _, _, err := r.part.Register(r.edges[0].Edge, "ann", "phone", 1, r.conn(0)); !errors.Is(err, ErrForeign) {
		t.Fatalf("registered with a node that has no slots: %v", err)
	}
	if _, err := r.part.Announce(r.edges[0].Edge, id.UserID("ann").Slot(), nil, nil); !errors.Is(err, ErrForeign) {
		t.Fatalf("announced to a node that has no slots: %v", err)
	}
	r.own("ann")
	r.want("new", "ann", false)
	a, _ := r.connect(0, "ann", "phone")
	r.want("new", "ann", false, a)
	if n := r.renew(0); n != 1 {
		t.Errorf("%d slots to announce, want 1", n)
	}
	r.want("one of two has announced", "ann", false, a)
	r.renew(1)
	r.want("both have", "ann", true, a)
	if n := r.renew(1); n != 0 {
		t.Errorf("%d slots to announce again", n)
	}
	if s := r.part.Stats(); s != (PartStats{Sessions: 1, Edges: 2}) {
		t.Errorf("%+v", s)
	}

	// Lost and back: what was there is nothing that counts.
	r.lose("ann")
	r.want("lost", "ann", false)
	if r.part.Len() != 0 {
		t.Error("sessions of another node's slot are kept")
	}
	r.own("ann")
	r.want("back", "ann", false)
	r.now = r.now.Add(10 * time.Second)
	r.renew(0)
	r.part.Sweep()
	r.want("an edge says nothing", "ann", false, a)
	r.now = r.now.Add(5*time.Second + time.Millisecond)
	r.part.Sweep()
	r.want("for a lease", "ann", true, a)
}

func TestLeases(t *testing.T) {
	r := newRegion(t, 2)
	r.own("ann", "ben")
	a, _ := r.connect(0, "ann", "phone")
	b, _ := r.connect(1, "ann", "desk")
	c, _ := r.connect(1, "ben", "desk")
	r.renew(0)
	r.renew(1)
	r.want("at first", "ann", true, b, a)
	r.now = r.now.Add(14 * time.Second)
	r.renew(0)
	r.part.Sweep()
	r.want("within the lease", "ann", true, b, a)
	r.now = r.now.Add(2 * time.Second)
	r.part.Sweep()
	r.want("edge 2 is gone", "ann", true, a)
	r.want("edge 2 is gone", "ben", true)
	if s := r.part.Stats(); s.Edges != 1 || s.Lapsed != 1 {
		t.Errorf("%+v", s)
	}
	if n := r.renew(1); n != 2 {
		t.Errorf("it is back: %d slots to announce, want 2", n)
	}
	r.want("it is back", "ann", true, b, a)
	r.want("it is back", "ben", true, c)

	// Without a sweep in between, too.
	r.now = r.now.Add(16 * time.Second)
	r.renew(0)
	r.want("both were away, one came back", "ann", true, b, a)
	if n := r.renew(1); n != 2 {
		t.Errorf("%d slots to announce, want 2", n)
	}
	r.want("both are back", "ann", true, b, a)

	// A new start of edge 1: what the one before had is gone, and it says nothing any more.
	old := r.edges[0].Edge
	r.edges[0].Start, r.edges[0].sessions = 2, nil
	if _, err := r.part.Renew(r.edges[0].Edge, nil, nil); !errors.Is(err, ErrStale) {
		t.Errorf("a start that isn't in the view pushes the one aside that is: %v", err)
	}
	r.view()
	d, _ := r.connect(0, "ben", "phone")
	r.want("new start", "ann", true, b)
	r.want("new start", "ben", true, d, c)
	if _, err := r.part.Renew(old, nil, nil); !errors.Is(err, ErrStale) {
		t.Errorf("the start before renews: %v", err)
	}
	if _, _, err := r.part.Register(old, "ann", "web", 1, r.conn(0)); !errors.Is(err, ErrStale) {
		t.Errorf("the start before registers: %v", err)
	}
	r.edges[0].Start = 3
	r.view()
	r.want("a later start is in the view", "ben", true, c)
	// Of one that the view doesn't know yet nobody is pushed aside.
	if _, err := r.part.Renew(Edge{Worker: 9, Start: 1}, nil, nil); err != nil {
		t.Error(err)
	}
	if _, err := r.part.Renew(Edge{Worker: 9, Start: 2}, nil, nil); err != nil {
		t.Error(err)
	}
	if _, _, err := r.part.Register(r.edges[0].Edge, "ann", "web", 1, b); err == nil {
		t.Error("an edge registers another's connection")
	}
	if _, err := r.part.Announce(r.edges[0].Edge, id.UserID("ben").Slot(), []Session{{"ben", "web", 1, c}}, nil); err == nil {
		t.Error("an edge announces another's connection")
	}
	if _, err := r.part.Renew(Edge{Worker: 5000}, nil, nil); err == nil {
		t.Error("a worker number that no edge can have")
	}
}

// Of what is announced the newest wins, as if it had all been registered in its order.
func TestAnnounced(t *testing.T) {
	r := newRegion(t, 3)
	u := id.UserID("ann")
	r.own(u)
	conn := make([]uint64, 9)
	for i := range conn {
		conn[i] = r.conn(i % 3)
	}
	announce := func(i int, closed []uint64, sessions ...Session) {
		t.Helper()
		got, err := r.part.Announce(r.edges[i].Edge, u.Slot(), sessions, nil)
		if err != nil || !slices.Equal(got, closed) {
			t.Fatalf("closes %x, %v; want %x", got, err, closed)
		}
	}
	if _, _, err := r.part.Register(r.edges[1].Edge, u, "phone", 1, conn[4]); err != nil {
		t.Fatal(err)
	}
	announce(0, []uint64{conn[0]}, Session{u, "phone", 1, conn[0]}, Session{u, "desk", 2, conn[3]})
	r.want("an older one of the device", u, false, conn[4], conn[3])
	announce(2, []uint64{conn[4]}, Session{u, "phone", 1, conn[5]}, Session{u, "web", 2, conn[2]})
	r.want("a newer one of the device", u, false, conn[5], conn[3], conn[2])
	announce(2, nil, Session{u, "phone", 1, conn[5]}, Session{u, "web", 2, conn[2]})
	announce(1, []uint64{conn[1]}, Session{u, "pad", 1, conn[7]}, Session{u, "old", 1, conn[1]})
	r.want("too many", u, true, conn[7], conn[5], conn[3], conn[2])
	announce(2, []uint64{conn[2]}, Session{u, "web", 2, conn[2]}, Session{u, "phone", 1, conn[5]}, Session{u, "tv", 2, conn[8]})
	r.want("too many", u, true, conn[8], conn[7], conn[5], conn[3])
	announce(2, nil, Session{u, "tv", 2, conn[8]})
	r.want("what isn't named is gone", u, true, conn[8], conn[7], conn[3])
	all, sure := r.part.Devices(u, nil)
	if want := []Session{{u, "tv", 2, conn[8]}, {u, "pad", 1, conn[7]}, {u, "desk", 2, conn[3]}}; !sure || !slices.Equal(all, want) {
		t.Errorf("%v, sure %v; want %v", all, sure, want)
	}
	if c, kind := r.part.Find(u, "pad"); c != conn[7] || kind != 1 {
		t.Errorf("found %x of kind %d", c, kind)
	}
	n := 0
	if r.part.Each(u, func(uint64, id.DeviceID) { n++ }); n != 3 {
		t.Errorf("%d sessions, want 3", n)
	}
}

func TestPartOfOneKind(t *testing.T) {
	p, err := NewPart(PartConfig{Config: Config{PerKind: 1}})
	if err != nil {
		t.Fatal(err)
	}
	u, e := id.UserID("ann"), Edge{Worker: 1, Start: 1}
	p.SetView([]Edge{e}, func(id.Slot) bool { return true })
	c := func(n uint64) uint64 { return n<<30 | 1<<20 }
	closed, err := p.Announce(e, u.Slot(), []Session{{u, "a", 1, c(5)}, {u, "b", 2, c(4)}, {u, "c", 1, c(3)}, {u, "d", 1, c(6)}}, nil)
	if err != nil || !slices.Equal(closed, []uint64{c(3), c(5)}) {
		t.Errorf("closes %x, %v", closed, err)
	}
	if _, err := NewPart(PartConfig{Lease: -1}); !errors.Is(err, ErrConfig) {
		t.Errorf("a lease below zero: %v", err)
	}
	if _, err := NewPart(PartConfig{Config: Config{PerKind: -1}}); !errors.Is(err, ErrConfig) {
		t.Errorf("a number below zero: %v", err)
	}
}

// Edges come and go, freeze and start anew, slots move away and back. Whatever the Part is sure of, it has
// every session of edges that it doesn't ask for any; and when all is said, it has what they have.
func TestPartModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, round))
		r := newRegion(t, 3)
		var users []id.UserID
		for i := range 12 {
			users = append(users, id.UserID(fmt.Sprint("u", i)))
		}
		r.own(users...)
		lastSpoke := make([]time.Time, len(r.edges))
		check := func(step int, all bool) {
			t.Helper()
			lacks := make([][]id.Slot, len(r.edges)) // of those that speak
			for i, e := range r.edges {
				if !e.frozen && r.now.Sub(lastSpoke[i]) < 15*time.Second {
					var err error
					if lacks[i], err = r.part.Renew(e.Edge, nil, nil); err != nil {
						t.Fatal(err)
					}
					lacks[i] = append(lacks[i], e.again...)
					lastSpoke[i] = r.now
				} else {
					for _, u := range users {
						lacks[i] = append(lacks[i], u.Slot())
					}
				}
			}
			for _, u := range users {
				got, sure := r.at(u)
				if all && (!sure || !r.owned[u.Slot()]) {
					t.Fatalf("round %d, step %d: %s is unknown", round, step, u)
				}
				if !sure {
					continue
				}
				for i, e := range r.edges {
					for _, s := range e.sessions {
						if s.User == u && !slices.Contains(lacks[i], u.Slot()) && !slices.Contains(got, s.Conn) {
							t.Fatalf("round %d, step %d: %s is connected at %x, told %x and sure of it", round, step, u, s.Conn, got)
						}
					}
				}
				if !all {
					continue
				}
				for _, c := range got {
					if !slices.ContainsFunc(r.edges, func(e *fakeEdge) bool {
						return slices.ContainsFunc(e.sessions, func(s Session) bool { return s.User == u && s.Conn == c })
					}) {
						t.Fatalf("round %d, step %d: %s isn't connected at %x", round, step, u, c)
					}
				}
			}
		}
		for step := range 300 {
			i := rng.IntN(len(r.edges))
			e, u := r.edges[i], users[rng.IntN(len(users))]
			switch rng.IntN(12) {
			case 0, 1, 2:
				if !e.frozen {
					r.connect(i, u, id.DeviceID(fmt.Sprint("d", rng.IntN(6))))
					lastSpoke[i] = r.now
				}
			case 3, 4:
				if n := len(e.sessions); n > 0 && !e.frozen {
					r.close(e.sessions[rng.IntN(n)].Conn)
				}
			case 5, 6:
				if !e.frozen {
					r.renew(i)
					lastSpoke[i] = r.now
				}
			case 7:
				r.now = r.now.Add(time.Duration(rng.IntN(6000)) * time.Millisecond)
				r.part.Sweep()
			case 8:
				if e.frozen {
					r.thaw(e)
				} else {
					e.frozen = true
				}
			case 9:
				r.lose(u)
			case 10:
				r.own(u)
			case 11: // starts anew
				if rng.IntN(4) == 0 {
					e.Start++
					e.sessions, e.again, e.told, e.frozen = nil, nil, nil, false
					r.view()
				}
			}
			check(step, false)
		}
		for _, e := range r.edges {
			r.thaw(e)
		}
		r.own(users...)
		for range 2 { // what is closed at one edge by another's announcement is said the second time
			for i := range r.edges {
				r.renew(i)
			}
		}
		check(-1, true)
		if s := r.part.Stats(); s.Edges != 3 || s.Unknown != 0 {
			t.Fatalf("%+v", s)
		}
	}
}
