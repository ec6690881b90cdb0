package load

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

func small(t Target) Pairs {
	return Pairs{Target: t, Pairs: 3, Body: 50, Window: 4, Warm: 20 * time.Millisecond, Measure: 100 * time.Millisecond}
}

func TestPairsWithAnHonestServer(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Pairs, *fake)
	}{
		{"by window", func(*Pairs, *fake) {}},
		{"RECVACKs now and then", func(p *Pairs, _ *fake) { p.RecvAck = 30 * time.Millisecond }},
		{"by rate", func(p *Pairs, _ *fake) { p.Rate = 200 }},
		{"in bursts", func(p *Pairs, _ *fake) { p.Rate, p.Burst = 200, 8 }},
		{"more due than the server lets under way", func(p *Pairs, f *fake) {
			p.Rate, p.Burst, p.Body = 290, 2, 1
			f.connack = func(a *wire.Connack) { a.Limits.MaxInflight = 2 }
		}},
		{"answers in parts", func(_ *Pairs, f *fake) { f.parts = true }},
		{"a known process with metrics", func(p *Pairs, _ *fake) {
			p.Target.PID = os.Getpid()
			n := 0.0
			p.Target.Stats = func(context.Context) (Stats, error) {
				n++
				return Stats{Stored: 10 * n, Commits: 2 * n}, nil
			}
		}},
	} {
		p := small(Target{})
		f, target := startFake(t, func(f *fake) { c.set(&p, f) })
		target.PID, target.Stats = p.Target.PID, p.Target.Stats
		p.Target = target
		r, err := p.Run(t.Context())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		v := &r.Verify
		if !v.Clean() || v.Gaps+v.Repeats+v.Pulls != 0 || v.Pairs != 3 || v.Stored < 3 || v.Stored != v.Sent || v.Delivered != v.Sent {
			t.Errorf("%s: %+v", c.name, v)
		}
		if r.Acked == 0 || r.Delivered == 0 || r.Ack.Count == 0 || r.Delivery.Count == 0 || (p.Rate > 0) != (r.Late.Count > 0) {
			t.Errorf("%s: %+v", c.name, r)
		}
		if p.Target.Stats != nil && (r.PerCommit != 5 || r.RSS == 0) {
			t.Errorf("%s: %v messages a commit, %d bytes", c.name, r.PerCommit, r.RSS)
		}
		f.mu.Lock()
		for conv, seq := range f.acks {
			if want := len(f.convs[conv].messages); seq != uint64(want) {
				t.Errorf("%s: the last RECVACK of %s says %d of %d", c.name, conv, seq, want)
			}
		}
		f.mu.Unlock()
	}
}

// TestVerifierFinds lets the server do one thing wrong in each run, always to seq 5.
func TestVerifierFinds(t *testing.T) {
	five := func(seq uint64) bool { return seq == 5 }
	for _, c := range []struct {
		name  string
		wrong func(*fake)
		check func(*PairsResult) bool
	}{
		{"a lost message", func(f *fake) { f.stored = func(seq uint64, _ []byte) bool { return !five(seq) } },
			func(r *PairsResult) bool { return r.Verify.Lost >= 3 && !r.Verify.Sound() }},
		{"a changed body", func(f *fake) {
			f.stored = func(seq uint64, tail []byte) bool {
				if five(seq) {
					tail[len(tail)-1] = 'z'
				}
				return true
			}
		}, func(r *PairsResult) bool { return r.Verify.Corrupt == 3 && !r.Verify.Sound() }},
		{"an ack with another seq", func(f *fake) {
			f.moveAck = func(seq uint64) uint64 {
				if five(seq) {
					return 4
				}
				return seq
			}
		}, func(r *PairsResult) bool { return r.Verify.Lost == 3 && !r.Verify.Sound() }},
		{"a repeated delivery", func(f *fake) {
			f.deliver = func(seq uint64) int {
				if five(seq) {
					return 2
				}
				return 1
			}
		}, func(r *PairsResult) bool { return r.Verify.Repeats == 3 && r.Verify.Sound() }},
		{"a gap, which is pulled", func(f *fake) {
			f.deliver = func(seq uint64) int {
				if five(seq) {
					return 0
				}
				return 1
			}
		}, func(r *PairsResult) bool {
			v := &r.Verify
			return v.Gaps == 3 && v.Pulls >= 3 && v.Pulled >= 3 && v.Missing == 0 && v.Sound()
		}},
		{"hints instead of deliveries", func(f *fake) { f.hint = func(seq uint64) bool { return seq >= 5 } },
			func(r *PairsResult) bool {
				return r.Hints > 0 && r.Verify.Missing == 0 && r.Verify.Sound() && !r.Verify.Clean()
			}},
		{"a refused message", func(f *fake) {
			refused := map[uint64]int{}
			f.refuse = func(seq uint64) code.Code {
				if five(seq) {
					if refused[seq]++; refused[seq] <= 3 {
						return code.Overloaded
					}
				}
				return 0
			}
		}, func(r *PairsResult) bool {
			return r.Verify.Refused == 3 && r.Refusals["overloaded"] == 3 && r.Verify.Sound() && !r.Verify.Clean()
		}},
		{"a SYNC that must wait", func(f *fake) {
			f.refuseSync = func(n int) code.Code {
				if n == 2 {
					return code.RateLimited
				}
				return 0
			}
		}, func(r *PairsResult) bool { return r.Verify.Clean() }},
	} {
		_, target := startFake(t, c.wrong)
		r, err := small(target).Run(t.Context())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !c.check(r) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestRunsThatCannotGoOn(t *testing.T) {
	var failed *Failure
	var refused *Refused
	for _, c := range []struct {
		name  string
		wrong func(*fake)
		set   func(*Pairs)
		want  any
		says  string
	}{
		{"a token the server doesn't take", func(f *fake) { f.refuseLogin = code.Unauthenticated }, nil, &refused, "unauthenticated"},
		{"another user", func(f *fake) { f.connack = func(a *wire.Connack) { a.UserId = "eve" } }, nil, &failed, "eve"},
		{"no limits", func(f *fake) { f.connack = func(a *wire.Connack) { a.Limits = nil } }, nil, &failed, "limits"},
		{"a window above the limit", nil, func(p *Pairs) { p.Window = 65 }, &refused, "limits.inflight"},
		{"a rate above the limit", nil, func(p *Pairs) { p.Rate = 1000 }, &refused, "limits.sends_per_second"},
		{"a body above the limit", nil, func(p *Pairs) { p.Body = 20_000 }, &refused, "bodies"},
		{"a KICK", func(f *fake) { f.end = func(seq uint64) frame.Type { return typeAt(seq, frame.Kick) } }, nil, &failed, "kick"},
		{"a DRAIN", func(f *fake) { f.end = func(seq uint64) frame.Type { return typeAt(seq, frame.Drain) } }, nil, &failed, "drain"},
		{"an ERROR", func(f *fake) { f.end = func(seq uint64) frame.Type { return typeAt(seq, frame.Error) } }, nil, &failed, "draining"},
		{"a closed connection", func(f *fake) { f.end = func(seq uint64) frame.Type { return typeAt(seq, frame.Pong) } }, nil, &failed, "ended"},
		{"a SYNC refused for good", func(f *fake) { f.refuseSync = func(int) code.Code { return code.Forbidden } }, nil, &failed, "forbidden"},
		{"nobody there", nil, func(p *Pairs) { p.Target.Addr = closedPort(t) }, &failed, "connect"},
	} {
		_, target := startFake(t, c.wrong)
		p := small(target)
		if c.set != nil {
			c.set(&p)
		}
		_, err := p.Run(t.Context())
		if err == nil || !errors.As(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %T %v", c.name, err, err)
		}
	}
	if _, err := (Pairs{Pairs: 0, Body: 1}).Run(t.Context()); err == nil {
		t.Error("no pairs ran")
	}
	_, target := startFake(t, nil)
	target.Token = func(string) (string, error) { return "", errors.New("no ink") }
	if _, err := small(target).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no ink") {
		t.Errorf("without tokens: %v", err)
	}
	_, target = startFake(t, nil)
	target.Stats = func(context.Context) (Stats, error) { return Stats{}, errors.New("no page") }
	if _, err := small(target).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no page") {
		t.Errorf("without metrics: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := small(target).Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// closedPort is an address where nobody listens.
func closedPort(t *testing.T) netip.AddrPort {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func typeAt(seq uint64, t frame.Type) frame.Type {
	if seq == 5 {
		return t
	}
	return 0
}

func TestIdle(t *testing.T) {
	f, target := startFake(t, nil)
	target.PID = os.Getpid()
	target.Stats = func(context.Context) (Stats, error) { return Stats{Goroutines: 7}, nil }
	r, err := Idle{Target: target, Conns: 50, Beats: 2}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Heartbeats of one second, told by the server and sent at half of it, since the margin is larger.
	if r.Heartbeat != 1 || r.Pings < 90 || r.Pings > 110 || r.Pongs == 0 || r.Lost != 0 || r.Goroutines != 7 || r.Sources != 1 || r.Held.RSS == 0 {
		t.Errorf("%+v", r)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pings == 0 || len(f.users) != 50 {
		t.Errorf("%d pings of %d users", f.pings, len(f.users))
	}
	_, target = startFake(t, func(f *fake) { f.refuseLogin = code.TooManyConnections })
	var refused *Refused
	if _, err := (Idle{Target: target, Conns: 2}).Run(t.Context()); !errors.As(err, &refused) {
		t.Errorf("refused connections: %v", err)
	}
	if _, err := (Idle{}).Run(t.Context()); err == nil {
		t.Error("no connections ran")
	}
	target.Addr = closedPort(t)
	var failed *Failure
	if _, err := (Idle{Target: target, Conns: 2}).Run(t.Context()); !errors.As(err, &failed) {
		t.Errorf("nobody there: %v", err)
	}
}

func TestSources(t *testing.T) {
	list := sources(300)
	seen := map[string]bool{}
	for _, a := range list {
		seen[a.String()] = true
		if !a.IsLoopback() {
			t.Errorf("%s is no loopback address", a)
		}
	}
	if len(seen) != 300 || seen["127.0.0.1"] {
		t.Errorf("%d different addresses of 300", len(seen))
	}
}

func TestRound(t *testing.T) {
	h := loop.NewRound(0, 4, time.Second)
	beats := map[int]int{}
	for now := int64(0); now <= int64(2*time.Second); now += int64(10 * time.Millisecond) {
		h.Turn(now, func(i int) { beats[i]++ })
	}
	for i := range 4 {
		if beats[i] != 2 {
			t.Errorf("connection %d beat %d times in two rounds", i, beats[i])
		}
	}
}

// TestSendsAllocateNothing plays both ends of a pair without sockets.
func TestSendsAllocateNothing(t *testing.T) {
	r := &pairsRun{Pairs: Pairs{Body: 100, Window: 1, Target: Target{Users: "u"}}, limits: &wire.Limits{}}
	var p pair
	p.init(r, 0)
	p.template(func(m *wire.Send) { m.ConversationId = p.conv[:] })
	if r.failed != nil {
		t.Fatal(r.failed)
	}
	c := p.sender()
	c.Out = make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		c.Out = c.Out[:0]
		p.send(0)
	}); n != 0 {
		t.Errorf("a SEND allocates %v times", n)
	}
	var s wire.Send
	f, _, err := frame.Parse(c.Out, frame.DefaultMax)
	if err != nil || s.Unmarshal(f.Body) != nil || !bytes.Equal(s.ConversationId, p.conv[:]) || len(s.Content) != 100 || len(s.ClientMsgId) != 16 || s.MsgType != 1 {
		t.Errorf("%v: %+v", err, &s)
	}
}

// What is measured under a change is told apart from the calm before and after it.
func TestPairsMeanwhile(t *testing.T) {
	p := small(Target{})
	_, p.Target = startFake(t, func(*fake) {})
	turned := 0
	p.Meanwhile = func(ctx context.Context, s *Spans) error {
		for range 2 {
			time.Sleep(20 * time.Millisecond)
			s.Turn()
			turned++
		}
		return nil
	}
	r, err := p.Run(t.Context())
	if err != nil || turned != 2 || len(r.Spans) != 3 || !r.Verify.Clean() {
		t.Fatalf("%v: %+v", err, r)
	}
	var acks, copies int64
	for _, s := range r.Spans {
		acks, copies = acks+s.Ack.Count, copies+s.Delivery.Count
	}
	if acks != r.Ack.Count || copies != r.Delivery.Count || acks == 0 {
		t.Errorf("%d acks, %d deliveries in parts: %+v", acks, copies, r)
	}
	away := errors.New("gone wrong")
	p.Meanwhile = func(context.Context, *Spans) error { return away }
	p.Target.Users = "others"
	if _, err := p.Run(t.Context()); !errors.Is(err, away) {
		t.Errorf("what went wrong meanwhile: %v", err)
	}
}

func TestSpans(t *testing.T) {
	now := int64(0)
	s := &Spans{clock: func() int64 { return now }, starts: []int64{0}, seen: []*spanSeen{newSpanSeen()}}
	for _, at := range []int64{100, 200} {
		now = at
		s.Turn()
	}
	s.refuse()
	for _, c := range []struct {
		from, to int64
		in       int
	}{{0, 10, 0}, {0, 99, 0}, {99, 100, 1}, {50, 300, 1}, {100, 150, 1}, {199, 250, 1}, {200, 201, 2}, {-5, 5, 0}} {
		if got := s.of(c.from, c.to); got != s.seen[c.in] {
			t.Errorf("from %d to %d counts elsewhere than in %d", c.from, c.to, c.in)
		}
	}
	all := s.results(1e9)
	if len(all) != 3 || all[2].Refused != 1 || all[0].Refused != 0 || all[2].Seconds < 0.99 {
		t.Errorf("%+v", all)
	}
	var none *Spans
	none.acked(1, 2)
	none.delivered(1, 2)
	none.refuse()
	if none.results(1) != nil {
		t.Error("parts of nothing")
	}
}
