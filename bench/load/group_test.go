package load

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

func smallGroup(t Target) Group {
	return Group{Target: t, Members: 8, Senders: 1, Window: 4, Body: 50, Warm: 20 * time.Millisecond, Measure: 100 * time.Millisecond, RecvAck: 20 * time.Millisecond}
}

// lastOne is the member that some of the tests are about: users are numbered from 1.
const lastOne = "u000008"

func TestGroupWithAnHonestServer(t *testing.T) {
	for _, c := range []struct {
		name  string
		set   func(*Group, *fake)
		check func(*GroupResult) bool
	}{
		{"one sender", func(*Group, *fake) {}, func(r *GroupResult) bool { return r.Shots.Count == 0 && r.Late.Count == 0 }},
		{"single messages first", func(g *Group, _ *fake) { g.Shots, g.Gap = 3, 5*time.Millisecond },
			func(r *GroupResult) bool { return r.Shots.Count == 3 && r.ShotAcks.Count == 3 }},
		{"several senders", func(g *Group, _ *fake) { g.Senders = 3 }, nil},
		{"senders get their own, too", func(g *Group, f *fake) { g.Senders, f.group.own = 3, true }, nil},
		{"everybody sends", func(g *Group, f *fake) { g.Senders, g.RecvAck = 8, 0 }, nil},
		{"by rate", func(g *Group, _ *fake) { g.Senders, g.Rate, g.Burst = 2, 200, 5 }, func(r *GroupResult) bool { return r.Late.Count > 0 }},
		{"more due than the server lets under way", func(g *Group, f *fake) {
			g.Rate, g.Burst = 90, 2
			f.connack = func(a *wire.Connack) { a.Limits.MaxInflight = 2 }
		}, nil},
		{"brought in bit by bit, with refusals that pass", func(_ *Group, f *fake) {
			f.group.refuse = func(n int) code.Code {
				if n <= 2 {
					return code.Overloaded
				}
				return 0
			}
		}, nil},
		{"answers in parts", func(_ *Group, f *fake) { f.parts = true }, nil},
		{"some don't read", func(g *Group, _ *fake) { g.Slow = 2 },
			func(r *GroupResult) bool { return r.Cut == 0 && r.Verify.Slow.Due == 2*r.Verify.Stored }},
		{"some read little", func(g *Group, _ *fake) { g.Slow, g.Trickle, g.Measure = 2, 2000, 600*time.Millisecond }, nil},
		{"one who doesn't read is cut off", func(g *Group, f *fake) {
			g.Slow = 2
			f.group.cut = func(u id.UserID, seq uint64) frame.Type { return cutAt(u, seq, frame.Error) }
		}, func(r *GroupResult) bool { return r.Cut == 1 && r.Verify.Slow.Pulled > 0 }},
		{"without a word", func(g *Group, f *fake) {
			g.Slow = 2
			f.group.cut = func(u id.UserID, seq uint64) frame.Type { return cutAt(u, seq, frame.Pong) }
		}, func(r *GroupResult) bool { return r.Cut == 1 }},
		{"one who doesn't read gets hints", func(g *Group, f *fake) {
			g.Slow = 2
			f.group.copies = func(u id.UserID, seq uint64) int {
				if u == lastOne && seq > 5 {
					return 0
				}
				return 1
			}
			f.group.tell = func(u id.UserID, seq uint64) bool { return u == lastOne && seq > 5 }
		}, func(r *GroupResult) bool {
			return r.Verify.Slow.Hints > 0 && r.Verify.Slow.Pulled > 0 && r.Verify.Members.Hints == 0
		}},
		{"a known process with metrics", func(g *Group, _ *fake) {
			g.Target.PID = os.Getpid()
			n := 0.0
			g.Target.Stats = func(context.Context) (Stats, error) {
				n++
				return Stats{Stored: 10 * n, Commits: 2 * n}, nil
			}
		}, func(r *GroupResult) bool { return r.PerCommit == 5 && r.PeakRSS > 0 && r.RestRSS > 0 }},
	} {
		g := smallGroup(Target{})
		f, target := startFake(t, func(f *fake) { c.set(&g, f) })
		target.PID, target.Stats = g.Target.PID, g.Target.Stats
		g.Target = target
		r, err := g.Run(t.Context())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		v := &r.Verify
		if !v.Clean() || v.Stored != v.Sent || v.Stored == 0 || v.Members.Due != uint64(8-g.Slow)*v.Stored || v.Members.Delivered != v.Members.Due ||
			v.Members.Gaps+v.Members.Repeats+v.Members.Pulls != 0 {
			t.Errorf("%s: %+v", c.name, v)
		}
		if r.Acked == 0 || r.Delivered == 0 || r.Ack.Count == 0 || r.Delivery.Count == 0 || r.Whole.Count == 0 || c.check != nil && !c.check(r) {
			t.Errorf("%s: %+v", c.name, r)
		}
		f.mu.Lock()
		for conv, seq := range f.acks {
			if want := len(f.convs[conv].messages); g.Slow == 0 && seq != uint64(want) {
				t.Errorf("%s: the last RECVACK of %s says %d of %d", c.name, conv, seq, want)
			}
		}
		f.mu.Unlock()
	}
}

// cutAt ends the last member's connection with its fifth message, once.
func cutAt(u id.UserID, seq uint64, how frame.Type) frame.Type {
	if u == lastOne && seq == 5 {
		return how
	}
	return 0
}

// TestGroupVerifierFinds lets the server do one thing wrong in each run, to seq 5 if not said otherwise.
func TestGroupVerifierFinds(t *testing.T) {
	copies := func(u id.UserID, n int) func(id.UserID, uint64) int {
		return func(user id.UserID, seq uint64) int {
			if seq == 5 && (u == "" || user == u) {
				return n
			}
			return 1
		}
	}
	for _, c := range []struct {
		name  string
		wrong func(*fake)
		check func(*GroupResult) bool
	}{
		{"a lost message", func(f *fake) { f.stored = func(seq uint64, _ []byte) bool { return seq != 5 } },
			func(r *GroupResult) bool { return r.Verify.Lost > 0 && !r.Verify.Sound() }},
		{"a changed body in the timeline", func(f *fake) {
			f.stored = func(seq uint64, tail []byte) bool {
				if seq == 5 {
					tail[len(tail)-1] = 'z'
				}
				return true
			}
		}, func(r *GroupResult) bool { return r.Verify.Corrupt > 0 && !r.Verify.Sound() }},
		{"a changed body in a delivery", func(f *fake) {
			f.group.change = func(seq uint64, message []byte) []byte {
				if seq == 5 {
					message[len(message)-1] = 'z'
				}
				return message
			}
		}, func(r *GroupResult) bool { return r.Verify.Corrupt > 0 && !r.Verify.Sound() }},
		{"an ack with another seq", func(f *fake) {
			f.moveAck = func(seq uint64) uint64 {
				if seq == 5 {
					return 4
				}
				return seq
			}
		}, func(r *GroupResult) bool { return r.Verify.Lost > 0 && !r.Verify.Sound() }},
		{"everybody gets one twice", func(f *fake) { f.group.copies = copies("", 2) },
			func(r *GroupResult) bool { return r.Verify.Members.Repeats == 7 && r.Verify.Sound() }},
		{"one gets one twice", func(f *fake) { f.group.copies = copies(lastOne, 2) },
			func(r *GroupResult) bool { return r.Verify.Members.Repeats == 1 && r.Verify.Sound() }},
		{"one doesn't get one, and pulls it", func(f *fake) { f.group.copies = copies(lastOne, 0) },
			func(r *GroupResult) bool {
				m := &r.Verify.Members
				return m.Gaps <= 1 && m.Pulls >= 1 && m.Pulled >= 1 && m.Missing == 0 && r.Verify.Sound()
			}},
		{"hints instead of copies", func(f *fake) {
			f.group.copies = func(u id.UserID, seq uint64) int {
				if u == lastOne {
					return 0
				}
				return 1
			}
			f.group.tell = func(u id.UserID, seq uint64) bool { return u == lastOne }
		}, func(r *GroupResult) bool {
			m := &r.Verify.Members
			return m.Hints > 0 && m.Pulled > 0 && m.Missing == 0 && r.Verify.Sound() && !r.Verify.Clean()
		}},
		{"a refused message", func(f *fake) {
			refused := false
			f.refuse = func(seq uint64) code.Code {
				if seq == 5 && !refused {
					refused = true
					return code.Overloaded
				}
				return 0
			}
		}, func(r *GroupResult) bool {
			return r.Verify.Refused == 1 && r.Refusals["overloaded"] == 1 && r.Verify.Sound() && !r.Verify.Clean()
		}},
		{"a SYNC that must wait", func(f *fake) {
			f.refuseSync = func(n int) code.Code {
				if n == 1 {
					return code.RateLimited
				}
				return 0
			}
		}, func(r *GroupResult) bool { return r.Verify.Clean() }},
	} {
		_, target := startFake(t, c.wrong)
		g := smallGroup(target)
		g.patience = 30 * time.Millisecond
		if strings.HasSuffix(c.name, "twice") {
			g.patience = 0
		}
		r, err := g.Run(t.Context())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if !c.check(r) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestGroupRunsThatCannotGoOn(t *testing.T) {
	var failed *Failure
	var refused *Refused
	for _, c := range []struct {
		name  string
		wrong func(*fake)
		set   func(*Group)
		want  any
		says  string
	}{
		{"a token the server doesn't take", func(f *fake) { f.refuseLogin = code.Unauthenticated }, nil, &refused, "unauthenticated"},
		{"a window above the limit", nil, func(g *Group) { g.Window = 65 }, &refused, "limits.inflight"},
		{"a rate above the limit", nil, func(g *Group) { g.Rate = 1000 }, &refused, "limits.sends_per_second"},
		{"a group that may not be", func(f *fake) { f.group.refuse = func(int) code.Code { return code.Forbidden } }, nil, &failed, "forbidden"},
		{"somebody who may not be in it", func(f *fake) { f.group.leftOut = []*wire.GroupRefusal{{UserId: lastOne, Code: 3005}} }, nil, &failed, lastOne},
		{"a KICK", func(f *fake) { f.end = func(seq uint64) frame.Type { return typeAt(seq, frame.Kick) } }, nil, &failed, "kick"},
		{"an ERROR", func(f *fake) { f.end = func(seq uint64) frame.Type { return typeAt(seq, frame.Error) } }, nil, &failed, "draining"},
		{"a member that reads is cut off", func(f *fake) {
			f.group.cut = func(u id.UserID, seq uint64) frame.Type { return cutAt(u, seq, frame.Error) }
		}, nil, &failed, lastOne},
		{"a SYNC refused for good", func(f *fake) { f.refuseSync = func(int) code.Code { return code.Forbidden } }, nil, &failed, "forbidden"},
	} {
		_, target := startFake(t, c.wrong)
		g := smallGroup(target)
		if c.set != nil {
			c.set(&g)
		}
		_, err := g.Run(t.Context())
		if err == nil || !errors.As(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %T %v", c.name, err, err)
		}
	}
	for _, g := range []Group{
		{Members: 1, Senders: 1, Body: 1, Window: 1},
		{Members: 3, Senders: 2, Slow: 2, Body: 1, Window: 1},
		{Members: 3, Senders: 1, Body: 1},
		{Members: 3, Senders: 3, Body: 1, Window: reach},
	} {
		if _, err := g.Run(t.Context()); err == nil {
			t.Errorf("%+v ran", g)
		}
	}
	_, target := startFake(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := smallGroup(target).Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
