package load

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// line is one connection of a client: the one that serves it, or, while it moves to another server, the next one.
type line struct {
	session
	c      *returning
	addr   netip.AddrPort
	dialed int64 // when it was begun
}

// departure is how a client leaves a server that is leaving itself.
type departure struct {
	places   []netip.AddrPort // the other servers that were named, in the order in which they are tried
	tried    int              // of them, in this round
	until    int64            // when the client stops trying, since the server closes the connection soon
	jitter   time.Duration
	moving   bool  // in the queue for trying the next of them; all goes on until then
	next     *line // the connection to it, which isn't ready; the old one goes on serving
	replaced bool  // the old server heard of the session elsewhere before the client did
	leaving  bool  // nobody else takes it: nothing new, then away
}

// Connected implements loop.Handler.
func (l *line) Connected() {
	c := l.c
	out, err := packet.AppendBody(l.Out, frame.Connect, frame.FlagRequestID, 1, &wire.Connect{
		Version: 1, Token: l.token, ResumeToken: c.resume, DeviceId: "bench", DeviceKind: wire.DeviceKind_DEVICE_KIND_BOT, Client: "gochat-bench",
		StoreEpoch: c.r.epoch, SyncMark: c.mark, InboxLimit: 2,
	})
	if err != nil {
		c.r.fail(fmt.Errorf("CONNECT: %w", err))
		return
	}
	l.Out, l.token = out, ""
}

// Closed implements loop.Handler.
func (l *line) Closed(error) {
	c := l.c
	now := c.r.loop.Now()
	switch {
	case l == c.next:
		c.notMoved(now)
		return
	case !c.ready || c.r.began == 0:
	case c.replaced && c.next != nil:
		c.stood = now
	default:
		c.r.closed++
	}
	c.lost(now)
}

// Input implements loop.Handler.
func (l *line) Input(b []byte) int {
	c := l.c
	r := c.r
	now := r.loop.Now()
	used := 0
	for l.Alive() {
		f, n, err := frame.Parse(b[used:], maxFrame)
		if err != nil {
			r.fail(fmt.Errorf("a frame to %s: %w", c.user, err))
			return len(b)
		}
		if n == 0 {
			break
		}
		used += n
		switch f.Type {
		case frame.Connack:
			if l == c.next {
				c.moved(now)
			}
			c.connected(&f, now)
		case frame.SendAck:
			c.acked(&f)
		case frame.Deliver:
			c.delivered(&f)
		case frame.Synced:
			c.synced(&f)
		case frame.Hint:
			c.pull()
		case frame.Drain:
			if err := c.drain(l, &f, now); err != nil {
				r.fail(fmt.Errorf("DRAIN to %s: %w", c.user, err))
				return len(b)
			}
		case frame.Kick:
			r.fail(l.ended(&f))
		case frame.Error:
			if l == c.next {
				c.notTaken(&f)
			} else {
				c.refused(&f, now)
			}
		}
	}
	c.leaveDue(now)
	return used
}

// drain acts on a DRAIN. Where there are other servers the client gets a session at one of them, begun at a random
// moment, before it leaves this one. Where there are none, it leaves as soon as it has its answers, and comes back.
func (c *returning) drain(l *line, f *frame.Frame, now int64) error {
	m, refused := packet.DecodeDrain(f.Body)
	if refused != nil {
		return refused
	}
	if l == c.next || c.moving || c.leaving || c.next != nil {
		return nil // the others were named already
	}
	places := make([]netip.AddrPort, len(m.Alternatives))
	for i, a := range m.Alternatives {
		var err error
		if places[i], err = netip.ParseAddrPort(a); err != nil {
			return err
		}
	}
	rand.Shuffle(len(places), func(i, j int) { places[i], places[j] = places[j], places[i] })
	if !l.ready { // the ERROR that refuses the client follows: it tries one of them when it connects again
		c.places = places
		c.failures &^= 1
		return nil
	}
	c.r.drained++
	c.jitter = time.Duration(m.JitterMs) * time.Millisecond
	deadline := time.Duration(m.DeadlineMs) * time.Millisecond
	c.places, c.tried, c.until = places, 0, now+int64(deadline*3/4)
	if len(places) == 0 {
		c.leaving = true
		return nil
	}
	c.moving = true
	c.dialAt(now + int64(randomly(min(c.jitter, deadline))))
	return nil
}

// move connects to the next of the other servers, while the one that leaves goes on serving.
func (c *returning) move(now int64) {
	c.moving = false
	c.next = &line{session: session{user: c.user}, c: c}
	addr := c.places[c.tried]
	c.tried++
	if err := c.dialLine(c.next, addr, now); err != nil {
		c.notMoved(now)
	}
}

// moved leaves the old connection for the one that stands elsewhere.
func (c *returning) moved(now int64) {
	if c.ready {
		if c.r.began != 0 {
			c.stood = now
		}
		c.confirm()
		c.Close()
		c.cutOff(now)
	}
	c.line, c.next = c.next, nil
}

// notTaken notes why the other server refuses the client; the connection's end follows.
func (c *returning) notTaken(f *frame.Frame) {
	e := c.next.refusal(f)
	c.r.refusals[e.Code.String()]++
	if e.Code.Class() == code.Terminal {
		c.r.fail(fmt.Errorf("the other server refused %s: %w", c.user, e))
	}
	c.retry = max(e.RetryAfter, e.Code.RetryAfter())
}

// notMoved plans what comes after an attempt to move that failed. A client that is still served tries the next server at
// once, and all of them later again, as long as there is time; then it goes as if there were none.
func (c *returning) notMoved(now int64) {
	c.next = nil
	c.r.missed++
	if !c.ready { // the old connection ended meanwhile
		if c.stood != 0 && c.back == 0 {
			c.stood = 0
			c.r.closed++
		}
		c.lost(now)
		return
	}
	wait := time.Duration(0)
	if c.tried == len(c.places) {
		wait = max(c.backoff(), c.retry)
		c.failures++
		c.tried = 0
	}
	if c.retry = 0; now+int64(wait) > c.until {
		c.leaving, c.failures = true, 0
		c.leaveDue(now)
		return
	}
	c.moving = true
	c.dialAt(now + int64(wait))
}

// leaveDue closes the connection of a client that leaves and has its answers.
func (c *returning) leaveDue(now int64) {
	if c.leaving && c.Alive() && c.fresh == 0 && c.asking == nothing {
		c.confirm()
		c.Close()
		c.lost(now)
	}
}
