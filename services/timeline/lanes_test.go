package timeline

import (
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// laneScript plays arrivals into a conversation and decides on them in order, as the
// sequencer does, without one.
type laneScript struct {
	t    *testing.T
	c    conversation
	s    *sender
	msgs map[string]packet.Pending
}

func newLaneScript(t *testing.T) *laneScript {
	return &laneScript{t: t, s: newSender("alice", 1), msgs: map[string]packet.Pending{}}
}

func (l *laneScript) message(name string) packet.Pending {
	p, ok := l.msgs[name]
	if !ok {
		p = l.s.text(id.NewClientMsgID(1000), name)
		l.msgs[name] = p
	}
	return p
}

// arrives queues messages; the names of resends begin with '!'.
func (l *laneScript) arrives(names ...string) {
	var ps []packet.Pending
	for _, n := range names {
		if n[0] == '!' {
			ps = append(ps, resend(l.message(n[1:])))
		} else {
			ps = append(ps, l.message(n))
		}
	}
	l.c.waiting = l.c.split(l.c.waiting, ps, l.c.arrivals+1)
	l.c.arrivals += uint64(len(ps))
}

// noRoom refuses a message on arrival.
func (l *laneScript) noRoom(name string, flagged bool) {
	p := l.message(name)
	p.Resend = flagged
	l.c.arrivals++
	ln := l.c.lane(1)
	burst := l.c.arrive(ln, &p, l.c.arrivals)
	ln.refused = addRefused(ln.refused, burst, l.c.arrivals)
}

// decides takes what is queued and returns what passes; those in refuse are refused.
func (l *laneScript) decides(refuse ...string) (passed string) {
	l.c.take()
	var outs []outcome
	ru := run{c: &l.c}
	for b, i := range l.c.queued(1 << 20) {
		o := outcome{p: &b.msgs[i], at: b.at + uint64(i), burst: b.burst}
		if l.c.gated != nil && blocked(l.c.gated[1], o.burst, o.at) {
			ru.refuse(&o, code.New(code.LaneBlocked))
		} else {
			if l.c.gated != nil && len(l.c.gated[1]) > 0 {
				ru.lanes = append(ru.lanes, laneChange{conn: 1, burst: o.burst, passes: true, hash: msgstore.IDHash(o.p.From.User, o.p.ClientMsgID)})
			}
			name := string(o.p.Content)
			for _, r := range refuse {
				if r == name {
					ru.refuse(&o, code.New(code.RateLimited))
				}
			}
			if o.err == nil {
				passed += name
			}
		}
		outs = append(outs, o)
	}
	l.c.change(ru.lanes, 0)
	l.c.openLanes(ru.lanes, true)
	l.c.done(len(outs))
	return passed
}

func (l *laneScript) expect(got, want string) {
	l.t.Helper()
	if got != want {
		l.t.Fatalf("passed %q, want %q", got, want)
	}
}

func TestLanes(t *testing.T) {
	for name, play := range map[string]func(l *laneScript){
		"the rest is refused, the burst passes": func(l *laneScript) {
			l.arrives("a", "b", "c")
			l.expect(l.decides("b"), "a")
			l.arrives("d")
			l.expect(l.decides(), "")
			l.arrives("!b", "!c", "!d", "e")
			l.expect(l.decides(), "bcde")
			if len(l.c.lanes) != 0 {
				l.t.Error("the lane is remembered")
			}
		},
		"the head of a burst is refused again": func(l *laneScript) {
			l.arrives("a", "b", "c")
			l.expect(l.decides("a"), "")
			l.arrives("!a", "!b", "!c", "d")
			l.expect(l.decides("a"), "")
			l.arrives("!a", "!b", "!c", "!d")
			l.expect(l.decides(), "abcd")
		},
		"the middle of a burst is refused": func(l *laneScript) {
			l.arrives("a", "b", "c")
			l.expect(l.decides("a"), "")
			l.arrives("!a", "!b", "!c")
			l.expect(l.decides("b"), "a")
			l.arrives("!b", "!c")
			l.expect(l.decides(), "bc")
		},
		"no room for the head of a burst": func(l *laneScript) {
			l.arrives("a", "b", "c")
			l.expect(l.decides("a"), "")
			l.noRoom("a", true)
			l.arrives("!b", "!c")
			l.expect(l.decides(), "")
			l.arrives("!a", "!b", "!c")
			l.expect(l.decides(), "abc")
		},
		"no room while earlier ones wait, which are refused too": func(l *laneScript) {
			l.arrives("a", "b")
			l.noRoom("c", false)
			l.arrives("d")
			l.arrives("!a", "!b", "!c", "!d") // after the refusal of c was heard
			l.expect(l.decides("a"), "")      // of both bursts
			l.arrives("!a", "!b", "!c", "!d")
			l.expect(l.decides(), "abcd")
		},
		"no room, earlier ones pass": func(l *laneScript) {
			l.arrives("a")
			l.noRoom("b", false)
			l.arrives("c")
			l.expect(l.decides(), "a")
			l.arrives("!b", "!c")
			l.expect(l.decides(), "bc")
		},
		"no room in the middle of a burst that passes": func(l *laneScript) {
			l.arrives("a", "b", "c", "d")
			l.expect(l.decides("a"), "")
			l.arrives("!a", "!b")
			l.noRoom("c", true)
			l.arrives("!d", "e")
			l.expect(l.decides(), "ab")
			l.arrives("!c", "!d", "!e")
			l.expect(l.decides(), "cde")
		},
		"the first is given up": func(l *laneScript) {
			l.arrives("a", "b", "c")
			l.expect(l.decides("a"), "")
			l.arrives("!b", "!c")
			l.expect(l.decides(), "bc")
		},
		"all but a new one are given up": func(l *laneScript) {
			l.arrives("a")
			l.expect(l.decides("a"), "")
			l.arrives("b")
			l.expect(l.decides(), "")
			l.arrives("!b")
			l.expect(l.decides(), "b")
		},
		"refused for longer than bursts are remembered": func(l *laneScript) {
			l.arrives("a", "b")
			l.expect(l.decides("a"), "")
			for range 3 * maxBursts {
				l.noRoom("a", true)
				l.noRoom("b", true)
			}
			if n := len(l.c.lanes[1].refused); n > maxBursts+1 {
				l.t.Errorf("%d bursts are remembered", n)
			}
			l.arrives("!a", "!b")
			l.expect(l.decides(), "ab")
		},
		"more bursts than are remembered while one waits": func(l *laneScript) {
			l.arrives("a", "b")
			l.expect(l.decides("a"), "")
			l.arrives("!a")
			for range 3 * maxBursts {
				l.noRoom("b", true)
			}
			l.arrives("!b")
			l.expect(l.decides(), "a")
			l.arrives("!b")
			l.expect(l.decides(), "b")
		},
		"more messages than are remembered": func(l *laneScript) {
			l.arrives("a")
			l.expect(l.decides("a"), "")
			for i := range 2 * maxRanks {
				l.arrives(string(rune(0x4E00 + i)))
			}
			l.expect(l.decides(), "")
			if n := len(l.c.lanes[1].rank); n > maxRanks {
				l.t.Errorf("%d messages are remembered", n)
			}
			l.arrives("!a")
			l.expect(l.decides(), "a")
		},
	} {
		t.Run(name, func(t *testing.T) { play(newLaneScript(t)) })
	}
}

func TestLanesAreBounded(t *testing.T) {
	var c conversation
	for conn := range uint64(3 * maxLanes) {
		l := c.lane(conn + 1)
		l.at = int64(conn)
	}
	if len(c.lanes) != maxLanes || c.lanes[3*maxLanes] == nil || c.lanes[1] != nil {
		t.Errorf("%d lanes", len(c.lanes))
	}
	if c.lanesIdle(3*maxLanes) || !c.lanesIdle(3*maxLanes+laneForget.Milliseconds()) {
		t.Error("idle at the wrong time")
	}
}

// known reports whether memory can tell whether an id of the time ms is stored.
func known(m *idMemory, ms int64) bool { return ms >= m.complete || m.second(ms/1000) != nil }

func TestIDMemory(t *testing.T) {
	var m idMemory
	m.reset(10_000)
	if known(&m, 9_999) || !known(&m, 10_000) {
		t.Fatal("known from the wrong time on")
	}
	// Ids of a flow with a jump ahead; every id is found as long as it is known, whatever turns.
	type put struct {
		hash uint64
		ms   int64
	}
	var all []put
	hash := uint64(1)
	add := func(ms int64) {
		if !known(&m, ms) {
			m.seconds = append(m.seconds, idSecond{second: ms / 1000})
			for _, p := range all {
				if p.ms/1000 == ms/1000 {
					m.second(ms / 1000).add(idEntry{hash: p.hash})
				}
			}
		}
		if m.find(hash, ms) != nil {
			t.Fatalf("id %d is there before it came", hash)
		}
		m.add(ms, idEntry{hash: hash, seq: hash})
		all = append(all, put{hash, ms})
		hash += 0x9E3779B97F4A7C15
	}
	for i := range int64(6000) {
		ms := 10_000 + i*3
		switch i % 50 {
		case 7:
			ms += 59_000
		case 8:
			ms = max(ms-8_000, 1)
		}
		add(ms)
		if i%32 == 31 {
			m.turn()
			if len(m.seconds) > maxSeconds {
				m.keep([]int64{ms / 1000})
			}
			for _, p := range all {
				if known(&m, p.ms) && m.find(p.hash, p.ms) == nil {
					t.Fatalf("id of %d is lost at %d: complete from %d, split at %d", p.ms, ms, m.complete, m.split)
				}
			}
		}
	}
	m.reset(0)
	for i := range uint64(4 * maxIDs) {
		m.add(1, idEntry{hash: i << 20})
		if i%4096 == 0 {
			m.turn()
		}
		if n := len(m.recent.entries) + len(m.old.entries); n > 2*maxIDs {
			t.Fatalf("%d ids in memory", n)
		}
		if !known(&m, 1) {
			m.reset(0)
		}
	}
}

// A second that was looked up, and of which memory learned more afterwards, is looked up again
// when memory forgets that.
func TestSecondOnTheEdgeOfMemory(t *testing.T) {
	var m idMemory
	m.reset(10_500)
	m.seconds = []idSecond{{second: 9}, {second: 10}} // nothing stored in them
	m.add(10_200, idEntry{hash: 1})
	m.add(10_700, idEntry{hash: 2})
	for turn := range int64(2) {
		for i := range int64(2 * generationMin) {
			m.add(11_000+turn*10_000+i*generationSpan/generationMin, idEntry{hash: uint64(100 + turn*100 + i)})
		}
		m.turn()
	}
	if m.complete <= 10_700 {
		t.Fatalf("complete from %d", m.complete)
	}
	if known(&m, 10_700) {
		t.Errorf("10.7 s is known, entry %v", m.find(2, 10_700))
	}
	if !known(&m, 9_000) {
		t.Error("a second that was complete was forgotten")
	}
}

func TestClock(t *testing.T) {
	k := clock{worker: 5}
	seen := map[id.MessageID]bool{}
	var last id.MessageID
	take := func(m id.MessageID) id.MessageID {
		if seen[m] {
			t.Fatalf("%d twice", m)
		}
		seen[m] = true
		return m
	}
	k.begin(id.Epoch + 100)
	for range 10_000 { // more than a millisecond has
		m := take(k.next(0))
		if m <= last {
			t.Fatalf("%d after %d", m, last)
		}
		last = m
	}
	if last.UnixMilli() != id.Epoch+102 {
		t.Errorf("borrowed up to %d", last.UnixMilli()-id.Epoch)
	}
	k.begin(id.Epoch + 50) // a clock that runs back
	if m := take(k.next(0)); m <= last {
		t.Errorf("%d after %d", m, last)
	}
	// A conversation that is ahead doesn't pull the others along, and what it used is not used again.
	ahead := take(k.next(id.Epoch + 200))
	for range 5000 {
		m := take(k.next(ahead.UnixMilli()))
		if m <= ahead {
			t.Fatalf("%d after %d", m, ahead)
		}
		ahead = m
	}
	if m := take(k.next(0)); m.UnixMilli() != id.Epoch+102 {
		t.Errorf("pulled to %d", m.UnixMilli()-id.Epoch)
	}
	k.begin(id.Epoch + 200)
	for range 10_000 {
		take(k.next(0))
	}
	k.begin(id.Epoch + 300)
	take(k.next(0))
	if len(k.ahead) != 0 {
		t.Errorf("%d milliseconds are remembered", len(k.ahead))
	}
}
