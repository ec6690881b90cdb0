package hub_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func newHub(t testing.TB, cfg hub.Config) (*hub.Hub, *conntest.Services) {
	t.Helper()
	svc := conntest.New()
	h, err := hub.New(cfg, svc.For())
	if err != nil {
		t.Fatal(err)
	}
	svc.Out = h
	return h, svc
}

// open makes a connection that seems to come from the pipe's address.
func open(h *hub.Hub) (*conntest.Pipe, *code.Error) {
	p := conntest.NewPipe()
	c, err := h.Open(p, p.RemoteAddr().Addr())
	p.C = c
	return p, err
}

func login(t testing.TB, h *hub.Hub, user, device string) *conntest.Pipe {
	t.Helper()
	p, refused := open(h)
	if refused != nil {
		t.Fatal(refused)
	}
	p.C.Input(conntest.Connect(user, device))
	expect(t, p, "CONNACK")
	return p
}

func expect(t testing.TB, p *conntest.Pipe, want ...string) {
	t.Helper()
	got, err := p.Take()
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("got %q (%v), want %q", got, err, want)
	}
}

func TestIncarnationsAreNeverUsedTwice(t *testing.T) {
	h, _ := newHub(t, hub.Config{Worker: 7, ConnectsPerAddress: 1e6, PerAddress: 1e6})
	seen := make(map[uint64]bool)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3000 {
				p, err := open(h)
				if err != nil {
					t.Error(err)
					return
				}
				n := p.C.Incarnation()
				mu.Lock()
				if seen[n] || n == 0 || n>>20&1023 != 7 {
					t.Errorf("incarnation %x", n)
				}
				seen[n] = true
				mu.Unlock()
				if h.Find(n) != p.C {
					t.Errorf("%x isn't found", n)
				}
				p.Close()
				if h.Find(n) != nil {
					t.Errorf("%x is found after its end", n)
				}
			}
		})
	}
	wg.Wait()
	if h.Count() != 0 {
		t.Errorf("%d connections", h.Count())
	}
	h.Deliver(1<<63, []byte{2, 13, 0}) // nobody's
	h.Close(1<<63, code.New(code.Replaced))
}

func TestSlotsAreUsedAgain(t *testing.T) {
	h, _ := newHub(t, hub.Config{})
	p, _ := open(h)
	slot := p.C.Incarnation() & 0xFFFFF
	p.Close()
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		q, err := open(h)
		if err != nil {
			t.Fatal(err)
		}
		again := q.C.Incarnation()&0xFFFFF == slot
		q.Close()
		if again {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the slot isn't used again")
		}
	}
}

func TestAdmission(t *testing.T) {
	const wait = "too_many_connections"
	for name, c := range map[string]struct {
		cfg    hub.Config
		admits int
	}{
		"in all":             {hub.Config{Connections: 3}, 3},
		"strangers":          {hub.Config{Strangers: 2, StrangersPerAddress: 2}, 2},
		"an address":         {hub.Config{PerAddress: 2}, 2},
		"an address's":       {hub.Config{StrangersPerAddress: 2}, 2},
		"connects a second":  {hub.Config{ConnectsPerAddress: 1}, 10},
		"none of the limits": {hub.Config{}, 20},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := newHub(t, c.cfg)
			h.SetClock(func() int64 { return 0 })
			var ps []*conntest.Pipe
			for range 20 {
				p, err := open(h)
				if err != nil {
					if err.Code.String() != wait {
						t.Fatalf("refused with %v", err)
					}
					break
				}
				ps = append(ps, p)
			}
			if len(ps) != c.admits {
				t.Fatalf("%d were admitted, want %d", len(ps), c.admits)
			}
			for _, p := range ps {
				p.Close()
			}
			st := h.Stats()
			if st.Connections != 0 || st.Strangers != 0 {
				t.Fatalf("left: %+v", st)
			}
		})
	}
}

func TestOneSiteOfIPv6IsOneAddress(t *testing.T) {
	h, _ := newHub(t, hub.Config{PerAddress: 1})
	for a, want := range map[string]bool{"2001:db8::1": true, "2001:db8:0:1::1": true, "::ffff:192.0.2.9": true} {
		if err := h.Introduce(netip.MustParseAddr(a)); (err == nil) != want {
			t.Errorf("%s: %v", a, err)
		}
	}
	for _, a := range []string{"2001:db8::2", "192.0.2.9"} {
		if h.Introduce(netip.MustParseAddr(a)) == nil {
			t.Errorf("%s: admitted", a)
		}
	}
}

func TestLoginFreesAStranger(t *testing.T) {
	h, svc := newHub(t, hub.Config{Strangers: 1, StrangersPerAddress: 1})
	var ps []*conntest.Pipe
	for i := range 5 {
		ps = append(ps, login(t, h, fmt.Sprint("u", i), "d"))
	}
	if st := h.Stats(); st.Connections != 5 || st.Strangers != 0 || st.LoggedIn != 5 {
		t.Fatalf("%+v", st)
	}
	for _, p := range ps {
		p.Close()
	}
	if st := h.Stats(); st.Connections != 0 || st.Strangers != 0 || svc.Sessions() != 0 {
		t.Fatalf("%+v", st)
	}
}

// Who comes back is let in by a resume token as if it had come before: it is no stranger while it waits for its login, and no new
// connection of its address. One user's tokens count a few times within ten seconds.
func TestReturning(t *testing.T) {
	h, svc := newHub(t, hub.Config{Strangers: 6, StrangersPerAddress: 6, ConnectsPerAddress: 1, Conn: conn.Config{CallTimeout: time.Second}}) // 10 at once
	h.SetClock(func() int64 { return 0 })
	resume := func(user string) *conntest.Pipe {
		t.Helper()
		p, refused := open(h)
		if refused != nil {
			t.Fatalf("%s: %v", user, refused)
		}
		p.C.Input(conntest.ConnectFrame(&wire.Connect{Version: 1, ResumeToken: "resume:" + user, DeviceId: "d"}))
		return p
	}
	var ps []*conntest.Pipe
	for i := range 100 {
		p := resume(fmt.Sprint("u", i))
		expect(t, p, "CONNACK")
		ps = append(ps, p)
	}
	if st := h.Stats(); st.Returned != 100 || st.Strangers != 0 {
		t.Fatalf("%+v", st)
	}
	for _, p := range ps {
		p.Close()
	}
	// While logins take long nobody of them is in the way of others.
	svc.Block.Store(true)
	var wg sync.WaitGroup
	for i := range 20 {
		p, refused := open(h)
		if refused != nil {
			t.Fatal(refused)
		}
		wg.Go(func() {
			p.C.Input(conntest.ConnectFrame(&wire.Connect{Version: 1, ResumeToken: fmt.Sprint("resume:v", i), DeviceId: "d"}))
		})
		for end := time.Now().Add(time.Minute); h.Stats().Returned != uint64(101+i); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%+v", h.Stats())
			}
		}
		defer p.Close()
	}
	if st := h.Stats(); st.Strangers != 0 || st.Connections != 20 {
		t.Fatalf("%+v", st)
	}
	svc.Block.Store(false)
	wg.Wait() // they end with their time
	before := h.Stats().Returned
	taken := 0
	for {
		p, refused := open(h)
		if refused != nil {
			break
		}
		p.C.Input(conntest.ConnectFrame(&wire.Connect{Version: 1, ResumeToken: "resume:w", DeviceId: "d"}))
		expect(t, p, "CONNACK")
		p.Close()
		if taken++; taken > 100 {
			t.Fatal("one user's token is taken for proof without end")
		}
	}
	if n := h.Stats().Returned - before; n != 4 {
		t.Errorf("one user's token was taken for proof %d times, want 4", n)
	}
	// A token that isn't good is none.
	h, _ = newHub(t, hub.Config{ConnectsPerAddress: 1})
	h.SetClock(func() int64 { return 0 })
	for i := range 11 {
		p, refused := open(h)
		if (refused != nil) != (i == 10) {
			t.Fatalf("connection %d: %v", i, refused)
		}
		if refused == nil {
			p.C.Input(conntest.ConnectFrame(&wire.Connect{Version: 1, ResumeToken: "forged", DeviceId: "d"}))
			expect(t, p, "ERROR unauthenticated")
			p.Close()
		}
	}
}

func TestConnectionsOfAUser(t *testing.T) {
	h, _ := newHub(t, hub.Config{PerUser: 3})
	a, b, c := login(t, h, "u", "a"), login(t, h, "u", "b"), login(t, h, "u", "c")
	other := login(t, h, "v", "a")
	p, _ := open(h)
	p.C.Input(conntest.Connect("u", "d"))
	expect(t, p, "ERROR too_many_connections")
	b.Close() // in the middle of the user's list
	d := login(t, h, "u", "d")
	again := login(t, h, "u", "a")
	expect(t, a, "ERROR replaced")
	a.Close()
	if n := h.CloseUserUntil("u", id.DeviceID("c"), time.Now(), code.New(code.SessionRevoked)); n != 1 {
		t.Fatalf("%d closed", n)
	}
	expect(t, c, "KICK session_revoked")
	c.Close()
	if n := h.CloseUserUntil("u", "", time.Now(), code.New(code.Banned)); n != 2 {
		t.Fatalf("%d closed", n)
	}
	expect(t, d, "KICK banned")
	expect(t, again, "KICK banned")
	expect(t, other)
	if n := h.CloseUserUntil("nobody", "", time.Now(), code.New(code.Banned)); n != 0 {
		t.Fatalf("%d closed", n)
	}
	// What was opened after the moment in question is none of it.
	if n := h.CloseUserUntil("v", "", time.Now().Add(-time.Hour), code.New(code.SessionRevoked)); n != 0 {
		t.Fatalf("%d closed", n)
	}
	expect(t, other)
	if n := h.CloseUserUntil("v", "a", time.Now().Add(time.Second), code.New(code.SessionRevoked)); n != 1 {
		t.Fatalf("%d closed", n)
	}
	expect(t, other, "KICK session_revoked")
}

func TestDeliver(t *testing.T) {
	h, _ := newHub(t, hub.Config{})
	a, b := login(t, h, "a", "d"), login(t, h, "b", "d")
	ping := frame.Append(nil, frame.Ping, 0, 0, nil)
	for range 3 {
		h.Deliver(a.C.Incarnation(), ping)
	}
	h.Deliver(b.C.Incarnation(), ping)
	expect(t, a)
	writes := a.Writes()
	h.Flush()
	h.Flush()
	expect(t, a, "PING", "PING", "PING")
	expect(t, b, "PING")
	if n := a.Writes() - writes; n != 1 {
		t.Fatalf("%d writes for one flush", n)
	}
	if got := testing.AllocsPerRun(100, func() {
		h.Deliver(a.C.Incarnation(), ping)
		h.Deliver(b.C.Incarnation(), ping)
		h.Flush()
		a.Discard()
		b.Discard()
	}); got > 0 && !conntest.Race {
		t.Errorf("delivering to two: %v allocations", got)
	}
}

func TestSweep(t *testing.T) {
	h, _ := newHub(t, hub.Config{Conn: conn.Config{
		Handshake: time.Second, Heartbeat: time.Second, HeartbeatMin: time.Second, Stalled: time.Second, Linger: time.Second}})
	silent := login(t, h, "silent", "d")
	stranger, _ := open(h)
	stuck, _ := open(h) // it may be silent, but has to read
	stuck.C.Input(conntest.ConnectFrame(&wire.Connect{Version: 1, Token: "user:stuck", DeviceId: "d", HeartbeatSeconds: 600}))
	expect(t, stuck, "CONNACK")
	stuck.Room(0)
	h.Deliver(stuck.C.Incarnation(), frame.Append(nil, frame.Ping, 0, 0, nil))
	h.Flush()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = h.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	for end := time.Now().Add(time.Minute); h.Count() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d connections are left", h.Count())
		}
	}
	expect(t, silent, "ERROR idle_timeout")
	expect(t, stranger, "ERROR handshake_timeout")
	if st := h.Stats(); st.Closed[code.TooSlow] != 1 {
		t.Fatalf("closed %v", st.Closed)
	}
}

func TestShutdownForces(t *testing.T) {
	h, svc := newHub(t, hub.Config{Conn: conn.Config{Linger: 200 * time.Millisecond}, Alternatives: []string{"other:7070"}})
	p := login(t, h, "a", "d")
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	cl := conntest.Client{W: p.Client()}
	f, err := cl.Next(0)
	if err != nil {
		t.Fatal(err)
	}
	d, cerr := packet.DecodeDrain(f.Body)
	if cerr != nil || d.JitterMs == 0 && d.DeadlineMs > 1 || d.JitterMs > d.DeadlineMs || d.DeadlineMs > 300 { // less on a slow machine
		t.Fatalf("DRAIN %+v, %v", d, cerr)
	}
	if f, err = cl.Next(0); err != nil || conntest.Describe(&f) != "ERROR draining" {
		t.Fatalf("%s, %v", conntest.Describe(&f), err)
	}
	if _, err := open(h); err == nil || err.Code != code.Draining {
		t.Fatalf("admitted after the end: %v", err)
	}
	if svc.Sessions() != 0 {
		t.Fatal("a session is left")
	}
}

// Where there is nothing else, clients are told to come back here, each at a time of its own, spread over
// longer than the server takes to leave.
func TestShutdownTellsWhenToComeBack(t *testing.T) {
	h, _ := newHub(t, hub.Config{Conn: conn.Config{Linger: 100 * time.Millisecond}, DrainJitter: time.Hour})
	pipes := []*conntest.Pipe{login(t, h, "a", "d"), login(t, h, "b", "d"), login(t, h, "c", "d")}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if err := h.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	times := map[time.Duration]bool{}
	for _, p := range pipes {
		cl := conntest.Client{W: p.Client()}
		f, err := cl.Next(0)
		if err != nil {
			t.Fatal(err)
		}
		if d, cerr := packet.DecodeDrain(f.Body); cerr != nil || d.JitterMs != 3_600_000 || len(d.Alternatives) != 0 {
			t.Fatalf("DRAIN %+v, %v", d, cerr)
		}
		if f, err = cl.Next(0); err != nil {
			t.Fatal(err)
		}
		told, _, cerr := packet.DecodeError(f.Body)
		if cerr != nil || told.Code != code.Draining || told.RetryAfter <= 0 || told.RetryAfter > time.Hour {
			t.Fatalf("told %v (after %v), %v", told, told.RetryAfter, cerr)
		}
		times[told.RetryAfter] = true
	}
	if len(times) < 2 {
		t.Errorf("all are told to come back after %v", times)
	}
	if _, err := open(h); err == nil || err.Code != code.Draining || err.RetryAfter <= 0 {
		t.Fatalf("admitted after the end: %v", err)
	}
}

func TestConfig(t *testing.T) {
	if err := (hub.Config{}).Validate(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]hub.Config{
		"worker": {Worker: 1024}, "connections": {Connections: 1<<20 + 1}, "negative": {PerUser: -1}, "jitter": {DrainJitter: -1}, "conn": {Conn: conn.Config{MaxPage: -1}},
	} {
		if c.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := hub.New(c, conn.Services{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A drain that is given up leaves who is there, and admits others again. Clients of the binary protocol and of HTTP are told other places.
func TestLeaveIsGivenUp(t *testing.T) {
	h, _ := newHub(t, hub.Config{Alternatives: []string{"other:7070"}})
	p := login(t, h, "a", "d")
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	ended := make(chan error, 1)
	go func() {
		ended <- h.Leave(ctx, hub.Elsewhere{Sockets: []string{"edge-2:7070"}, Web: []string{"edge-2:443"}})
	}()
	cl := conntest.Client{W: p.Client()}
	f, err := cl.Next(0)
	for end := time.Now().Add(time.Minute); errors.Is(err, io.EOF) && time.Now().Before(end); f, err = cl.Next(0) {
		time.Sleep(time.Millisecond) // DRAIN isn't written yet
	}
	if err != nil {
		t.Fatal(err)
	}
	d, cerr := packet.DecodeDrain(f.Body)
	if cerr != nil || len(d.Alternatives) != 2 || d.Alternatives[0] != "other:7070" || d.Alternatives[1] != "edge-2:7070" || d.JitterMs != 1000 {
		t.Fatalf("DRAIN %+v, %v", d, cerr)
	}
	if _, err := open(h); err == nil || err.Code != code.Draining {
		t.Fatalf("admitted while leaving: %v", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatalf("Leave: %v", err)
	}
	h.Stay()
	if n := h.Count(); n != 1 {
		t.Errorf("%d connections are left, want the one", n)
	}
	if _, err := open(h); err != nil {
		t.Fatalf("not admitted again: %v", err)
	}
}

// A crowd with somewhere else to go is told little by little, as those before are gone, and all of it in time however slowly
// they go. Who logs in meanwhile is told too.
func TestLeaveIsPaced(t *testing.T) {
	const n = 1000
	h, _ := newHub(t, hub.Config{Connections: 2 * n, Strangers: 10, StrangersPerAddress: 10, ConnectsPerAddress: 2 * n, DrainJitter: 10 * time.Millisecond, Conn: conn.Config{Linger: 100 * time.Millisecond}})
	var clock atomic.Int64 // goes on by being looked at: a machine that stands still is one thing, clients that don't go another
	h.SetClock(func() int64 { return clock.Add(int64(10 * time.Millisecond)) })
	var ps []*conntest.Pipe
	for i := range n {
		ps = append(ps, login(t, h, fmt.Sprint("u", i), "d"))
	}
	late, refused := open(h)
	if refused != nil {
		t.Fatal(refused)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, time.Hour)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- h.Leave(ctx, hub.Elsewhere{Sockets: []string{"edge-2:7070"}}) }()
	told := func() (list []*conntest.Pipe) {
		for _, p := range ps {
			if p.C != nil && p.Pending() {
				list = append(list, p)
			}
		}
		return list
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	until("nobody is told", func() bool { return len(told()) > 0 })
	most := 0
	late.C.Input(conntest.Connect("late", "d"))
	expect(t, late, "CONNACK")
	ps = append(ps, late)
	for gone := 0; gone < n+1; {
		until(fmt.Sprint("nobody is told after ", gone), func() bool { return len(told()) > 0 })
		list := told()
		most = max(most, len(list))
		for _, p := range list {
			if got, err := p.Take(); err != nil || len(got) != 1 || got[0] != "DRAIN" {
				t.Fatalf("told %v, %v", got, err)
			}
			p.Close()
			p.C = nil
			gone++
		}
	}
	if most > 300 {
		t.Errorf("%d were told at the same time", most)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// Those who stay don't hold up the others: all are told before two thirds of the time are over, and if the process
// stood still until then, at least before they are closed.
func TestEverybodyIsToldInTime(t *testing.T) {
	for name, still := range map[string]bool{"in time": false, "standing still": true} {
		t.Run(name, func(t *testing.T) {
			const n = 600
			h, _ := newHub(t, hub.Config{ConnectsPerAddress: n, Conn: conn.Config{Linger: 10 * time.Millisecond}})
			if still {
				h.SetClock(func() int64 { return 0 })
			}
			var ps []*conntest.Pipe
			for i := range n {
				ps = append(ps, login(t, h, fmt.Sprint("u", i), "d"))
			}
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			if err := h.Leave(ctx, hub.Elsewhere{Sockets: []string{"edge-2:7070"}}); err != nil {
				t.Fatal(err)
			}
			for _, p := range ps {
				expect(t, p, "DRAIN", "ERROR draining")
			}
		})
	}
}

func TestLeaveTime(t *testing.T) {
	h, _ := newHub(t, hub.Config{})
	if d := h.LeaveTime(hub.Elsewhere{}); d != 3*time.Second {
		t.Errorf("with nowhere to go: %s", d)
	}
	if d := h.LeaveTime(hub.Elsewhere{Web: []string{"x:1"}}); d != 10*time.Second {
		t.Errorf("with somewhere to go: %s", d)
	}
	h, _ = newHub(t, hub.Config{ConnectsPerAddress: 5000})
	for i := range 3000 {
		login(t, h, fmt.Sprint("u", i), "d")
	}
	if d := h.LeaveTime(hub.Elsewhere{Web: []string{"x:1"}}); d != 18*time.Second {
		t.Errorf("3,000 with somewhere to go: %s", d)
	}
	h, _ = newHub(t, hub.Config{DrainJitter: time.Minute})
	if d := h.LeaveTime(hub.Elsewhere{Sockets: []string{"x:1"}}); d != time.Minute {
		t.Errorf("spread over a minute: %s", d)
	}
}
