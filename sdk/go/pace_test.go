package gochat

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// idle returns a client that no goroutine works for, and a link of these limits.
func idle(limits wire.Limits) (*Client, *link) {
	cfg := Config{Handler: func(Event) {}, Queue: 1 << 20}
	cfg.setDefaults()
	c := &Client{
		cfg: cfg, log: cfg.Logger, store: cfg.Store, me: alice, up: make(chan struct{}),
		convs: map[id.ConversationID]*conversation{}, behind: map[id.ConversationID]*conversation{}, unacked: map[id.ConversationID]*conversation{},
		owed:  map[id.ConversationID]*conversation{},
		lanes: map[lane]*laneState{}, receipts: map[id.ClientMsgID]*outgoing{}, evWake: make(chan struct{}, 1),
	}
	l := &link{wake: make(chan struct{}, 1), requests: map[uint32]any{}, acked: map[*conversation]struct{}{}}
	c.established(l, connack(&wire.Connack{Limits: &limits}), Session{}, time.Now())
	return c, l
}

// A server's allowance: so many a second, burst seconds' worth at once.
type allowance struct {
	perSecond, burst float64
	used             float64
	at               time.Time
}

func (a *allowance) take(now time.Time, n float64) bool {
	if !a.at.IsZero() {
		a.used = max(a.used-now.Sub(a.at).Seconds()*a.perSecond, 0)
	}
	a.at = now
	a.used += n
	return a.used <= a.perSecond*a.burst
}

// What was written offline goes out without meeting the server's limits, also over a network that
// holds everything back for half a second now and then; each lane in order, and no lane
// waits for another's end.
func TestOutboxIsPaced(t *testing.T) {
	for name, c := range map[string]struct {
		n, size int
		within  time.Duration
	}{"numbers": {1000, 10, 20 * time.Second}, "bytes": {200, 12000, 9 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			client, l := idle(wire.Limits{MaxInflight: 256, SendsPerSecond: 50, BytesPerSecond: 256 << 10, MaxContent: 12288, MaxExt: 1024, MaxMentions: 50})
			users := []id.UserID{"bob", "carol", "dora"}
			for i := range c.n {
				to := users[0] // nearly all of them, first
				if i >= c.n-20 {
					to = users[1+i%2]
				}
				text := fmt.Sprintf("%d %s", i, strings.Repeat("x", c.size))
				if _, err := client.Send(context.Background(), ToUser(to), Text(text)); err != nil {
					t.Fatal(err)
				}
			}
			sends, bytes := allowance{perSecond: 50, burst: 2}, allowance{perSecond: 256 << 10, burst: 4}
			now, seq := time.Now(), map[id.ConversationID]uint64{}
			begun := now
			var last, others time.Time
			for len(client.Outbox()) > 0 {
				client.mu.Lock()
				next := client.pump(l, now)
				out := slices.Clone(l.out)
				l.out = l.out[:0]
				client.mu.Unlock()
				arrives := now
				if d := now.Sub(begun) % (3 * time.Second); d > 2500*time.Millisecond {
					arrives = now.Add(3*time.Second - d)
				}
				for len(out) > 0 {
					f, n, err := frame.Parse(out, frame.DefaultMax)
					if err != nil || f.Type != frame.Send || n == 0 {
						t.Fatal(f.Type, err)
					}
					out = out[n:]
					if !sends.take(arrives, 1) || !bytes.take(arrives, float64(n)) {
						t.Fatalf("after %v the server refuses", now.Sub(begun))
					}
					var s packet.Send
					if err := packet.DecodeSend(&s, f.Body, &anySize); err != nil {
						t.Fatal(err)
					}
					conv := id.Direct(alice, s.ToUser)
					if string(s.ToUser) != "bob" {
						others = now
					} else if last = now; !strings.HasPrefix(string(s.Content), fmt.Sprint(seq[conv], " ")) {
						t.Fatalf("%.20s... as number %d", s.Content, seq[conv])
					}
					seq[conv]++
					b := packet.AppendSendAck(nil, f.ReqID, packet.Ack{Conversation: conv, Seq: seq[conv], MessageID: midOf(seq[conv])}, true)
					ack, _, _ := frame.Parse(b, frame.DefaultMax)
					if err := client.frame(l, &ack); err != nil {
						t.Fatal(err)
					}
				}
				if next.After(now) && next.Before(now.Add(time.Minute)) {
					now = next
				}
				if now.Sub(begun) > c.within {
					t.Fatalf("%d messages are still to be sent after %v", len(client.Outbox()), c.within)
				}
			}
			if others.Sub(begun) > last.Sub(begun)/2 {
				t.Errorf("the short lanes waited %v of %v", others.Sub(begun), last.Sub(begun))
			}
		})
	}
}

// A server that tells no rates is sent everything at once; one that refuses for the rate is
// sent nothing before the time that it gave, in whichever lane.
func TestRateLimitedHoldsAllLanes(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(&wire.Connack{Limits: &wire.Limits{MaxInflight: 500}})
	for i := range 200 {
		mustSend(t, c, fmt.Sprint(i))
	}
	first := p.expectSend("0")
	for i := range 199 {
		p.expectSend(fmt.Sprint(i + 1))
	}
	e := code.New(code.RateLimited)
	e.RetryAfter = time.Hour
	p.refuse(first.req, e)
	if _, err := c.Send(timeout(t), ToUser("carol"), Text("held back")); err != nil {
		t.Fatal(err)
	}
	p.write(frame.Append(nil, frame.Ping, 0, 0, nil))
	for { // the refusal was read before the PING is answered
		f, err := p.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Type == frame.Pong {
			break
		}
		if f.Type == frame.Send { // it may have gone before the refusal came, but only this one
			var m packet.Send
			if err := packet.DecodeSend(&m, f.Body, &anySize); err != nil || string(m.Content) != "held back" {
				t.Fatalf("SEND of %q, %v", m.Content, err)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if wait := time.Until(c.link.mayAt()); wait < 50*time.Minute {
		t.Errorf("the next lane waits %v", wait)
	}
}

// A server that finds the ranges of a SYNC too many is asked for as many as it answered, and
// for more again when that goes well.
func TestFewerRanges(t *testing.T) {
	c, l := idle(wire.Limits{})
	now := time.Now()
	for i := range 100 {
		v := c.conversation(id.Direct(alice, id.UserID(fmt.Sprint("user", i))))
		v.known, v.head = true, 1
		c.look(v)
	}
	c.mu.Lock()
	l.out = l.out[:0]
	c.mu.Unlock()
	for round, want := range []struct{ ranges, answer int }{{32, 3}, {3, 3}, {6, 6}, {12, 0}, {1, 1}, {2, 2}} {
		now = now.Add(time.Hour)
		c.mu.Lock()
		c.pullDue(l, now)
		out := slices.Clone(l.out)
		l.out = l.out[:0]
		c.mu.Unlock()
		f, _, err := frame.Parse(out, frame.DefaultMax)
		if err != nil || f.Type != frame.Sync {
			t.Fatalf("round %d: %v, %v", round, f.Type, err)
		}
		m, cerr := packet.DecodeSync(f.Body)
		if cerr != nil || len(m.Ranges) != want.ranges {
			t.Fatalf("round %d: %d ranges (%v), want %d", round, len(m.Ranges), cerr, want.ranges)
		}
		for i, r := range m.Ranges {
			p := packet.Page{Conversation: id.ConversationID(r.ConversationId), FromSeq: 1, ToSeq: 1, FirstSeq: 2, LastSeq: 1}
			var refused *code.Error
			if i >= want.answer {
				refused = code.New(code.Overloaded)
			}
			b := packet.AppendSynced(nil, f.ReqID, i < len(m.Ranges)-1, &p, refused)
			answer, _, _ := frame.Parse(b, frame.DefaultMax)
			if err := c.frame(l, &answer); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := len(c.behind); n != 100-15 {
		t.Errorf("%d conversations are behind, want 85", n)
	}
}
