package conn

import (
	"slices"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// maxIgnored is how many bytes a client may go on to send after it was told the end.
const maxIgnored = 256 << 10

// Input takes what the transport has read and acts on every frame in it. It consumes
// all of b and keeps no reference to it: the beginning of a frame at its end is
// copied. It may block in services, bounded by Config.CallTimeout a call, which holds
// back this connection alone.
func (c *Conn) Input(b []byte) {
	e := c.edge
	if len(b) == 0 {
		return
	}
	if c.state.Load() >= stateClosing {
		if c.ignored += len(b); c.ignored > maxIgnored {
			c.t.Close()
		}
		return
	}
	now := e.now()
	in := input{c: c, now: now}
	if c.bytes.take(now, len(b), e.allowed.Load().bytes) > 0 {
		in.limited = true
	}
	whole := 0
	for len(c.partial) > 0 && len(b) > 0 {
		var done bool
		if b, done = in.complete(b); done {
			whole++
		}
	}
	n := in.frames(b)
	whole += n
	in.hand()
	e.stats.in(whole, in.sends)
	if whole > 0 {
		c.heard.Store(uint32(now / 1e9))
	}
	if c.replied { // acks and deliveries are flushed by those who queue them, many at once
		c.replied = false
		c.Flush()
	}
}

// input is one call of Input.
type input struct {
	c       *Conn
	now     int64
	limited bool // the connection sends more bytes than it may
	sends   int

	// SENDs not handed on yet: a run to one target, within a slab for all SENDs of the read.
	slab    []byte
	pending []packet.Pending
	start   int // of the run in pending
}

// maxFrame is the largest frame that the client may send now.
func (c *Conn) maxFrame() int {
	if c.state.Load() == stateHandshake {
		return frame.HandshakeMax
	}
	return c.edge.cfg.MaxFrame
}

// complete adds to the unfinished frame what it lacks from b, acts on it if it is
// whole, and returns the rest of b.
func (in *input) complete(b []byte) (rest []byte, done bool) {
	c := in.c
	total, ok := frameSize(c.partial)
	if !ok { // not even the length is there
		c.keep(append(c.partial, b[0]))
		if _, n, err := frame.Parse(c.partial, c.maxFrame()); err != nil || n > 0 {
			return b[1:], in.finish()
		}
		return b[1:], false
	}
	take := min(total-len(c.partial), len(b))
	c.keep(append(c.partial, b[:take]...))
	if len(c.partial) < total {
		return b[take:], false
	}
	return b[take:], in.finish()
}

// finish acts on the frame in partial, or on the error in it.
func (in *input) finish() bool {
	p := in.c.partial
	n := in.frames(p)
	in.hand() // before the bytes go
	in.c.keep(nil)
	return n > 0
}

// frameSize is the size of the frame that b begins with, length included, if b holds the whole length.
func frameSize(b []byte) (int, bool) {
	size := 0
	for i, v := range b {
		size |= int(v&0x7F) << (7 * i)
		if v < 0x80 {
			return i + 1 + size, true
		}
	}
	return 0, false
}

// keep makes p the unfinished frame and counts its memory.
func (c *Conn) keep(p []byte) {
	if d := int64(cap(p) - cap(c.partial)); d != 0 {
		if c.edge.partial.Add(d) > c.edge.cfg.MaxPartial && d > 0 {
			c.edge.partial.Add(-d)
			c.edge.partial.Add(-int64(cap(c.partial)))
			c.partial = nil
			c.Close(code.Newf(code.Flooding, "too many unfinished frames"))
			return
		}
	}
	c.partial = p
}

// frames acts on all whole frames of b, keeps the beginning of another one, and
// returns how many there were.
func (in *input) frames(b []byte) (n int) {
	c, e := in.c, in.c.edge
	for len(b) > 0 && c.state.Load() < stateClosing {
		f, size, err := frame.Parse(b, c.maxFrame())
		if err != nil {
			in.hand()
			c.Close(asError(err))
			return n
		}
		if size == 0 {
			if len(c.partial) == 0 {
				c.keep(append([]byte(nil), b...))
			}
			return n
		}
		n++
		limited := in.limited
		// A client acknowledges what it is sent, however much that is: only its bytes count.
		if f.Type != frame.RecvAck && c.frames.take(in.now, 1, e.allowed.Load().frames) > 0 {
			limited = true
		}
		if f.Type == frame.Send && c.state.Load() == stateConnected {
			if len(in.pending) == cap(in.pending) {
				in.hand()
				in.reserve(b)
			}
			in.send(&f, limited)
		} else {
			e.stats.inBy.add(f.Type)
			in.hand() // what was sent before is stored before
			c.other(&f, in.now, limited)
		}
		b = b[size:]
	}
	return n
}

// reserve makes room for all SENDs in b: one allocation for their bytes, one for what they decode to.
func (in *input) reserve(b []byte) {
	count, size := 0, 0
	for len(b) > 0 {
		f, n, err := frame.Parse(b, frame.HardMax)
		if err != nil || n == 0 {
			break
		}
		if f.Type == frame.Send {
			count++
			size += len(f.Body)
		}
		b = b[n:]
	}
	in.pending = make([]packet.Pending, 0, count)
	in.slab = make([]byte, 0, size)
	in.start = 0
}

// send decodes a SEND and adds it to the run of its target.
func (in *input) send(f *frame.Frame, limited bool) {
	c := in.c
	if !f.HasReqID() {
		in.hand()
		c.Close(code.Newf(code.BadFrame, "a SEND without request id"))
		return
	}
	at := len(in.slab)
	in.slab = append(in.slab, f.Body...)
	body := in.slab[at:len(in.slab):len(in.slab)]
	i := len(in.pending)
	in.pending = in.pending[:i+1]
	p := &in.pending[i]
	err := packet.DecodeSend(&p.Send, body, &c.edge.cfg.Packet)
	if err == nil && len(p.OriginDevice) > 0 && string(p.OriginDevice) != string(c.origin.Device) {
		err = code.Newf(code.BadRequest, "origin_device is another device")
	}
	if err != nil {
		c.edge.stats.inBy.add(frame.Send)
		in.pending = in.pending[:i]
		in.hand() // answers keep the order of the SENDs as far as they are known
		in.start = len(in.pending)
		c.answer(f, err)
		return
	}
	p.From, p.ReqID, p.Reply, p.At = &c.origin, f.ReqID, c, in.now
	if f.Flags&frame.FlagTrace != 0 {
		t := trace.ID(f.Trace)
		p.Trace = &t
	}
	p.Resend = f.Flags&frame.FlagResend != 0
	p.Interactive = f.Flags&frame.FlagInteractive != 0
	in.sends++
	if i > in.start {
		if q := &in.pending[i-1]; q.Conversation != p.Conversation || q.ToUser != p.ToUser {
			in.pending = in.pending[:i]
			in.hand()
			in.pending = in.pending[:i+1]
		}
	}
	if limited {
		in.handLimited()
	}
}

// hand gives the run to the service, as far as its limits allow.
func (in *input) hand() {
	if in.start < len(in.pending) {
		run := in.pending[in.start:len(in.pending):len(in.pending)]
		in.start = len(in.pending)
		in.c.admit(run, in.now, 0)
	}
}

// handLimited does the same with a run whose last SEND is over the connection's limits.
func (in *input) handLimited() {
	last := len(in.pending) - 1
	run := in.pending[in.start:last:last]
	if len(run) > 0 {
		in.c.admit(run, in.now, 0)
	}
	in.start = len(in.pending)
	in.c.admit(in.pending[last:last+1:last+1], in.now, limitedWait)
}

// admit hands on those SENDs of a run that the lane, the rates and the number under
// way allow, and refuses the others: all, until limited has passed, if that isn't 0.
func (c *Conn) admit(run []packet.Pending, now int64, limited time.Duration) {
	e := c.edge
	if limited == 0 && c.admitAll(len(run), now) {
		e.svc.Conversations.Send(run)
		return
	}
	first := 0 // of those that may pass
	for i := range run {
		p := &run[i]
		wait := limited
		var err *code.Error
		c.mu.Lock()
		switch {
		case !c.open(p):
			err = errLaneBlocked
		case int(c.inflight) >= e.allowed.Load().MaxInflight:
			err = code.New(code.Overloaded)
		default:
			if wait == 0 {
				wait = c.spend(now)
			}
			if wait > 0 {
				err = rateLimited(wait)
			}
		}
		if err == nil {
			c.inflight++
			c.mu.Unlock()
			continue
		}
		conv := c.laneOf(p)
		ok := c.block(conv, p.ClientMsgID)
		ok = ok && !c.struck(now, strikeOf(p, err))
		c.mu.Unlock()
		if i > first {
			e.svc.Conversations.Send(run[first:i:i])
		}
		first = i + 1
		c.mu.Lock()
		over := c.state.Load() <= stateConnected && c.refuse(p.ReqID, true, p.Trace, err, conv)
		c.replied = true
		c.mu.Unlock()
		switch {
		case !ok:
			c.Close(code.New(code.Flooding))
			return
		case over:
			c.Close(code.New(code.TooSlow))
			return
		}
	}
	if first < len(run) {
		e.svc.Conversations.Send(slices.Clip(run[first:]))
	}
}

// spend takes one SEND from the rates, or returns how long to wait. That is until there is
// room for more than this one, or a client with much to send would be refused message by
// message. mu is held.
func (c *Conn) spend(now int64) (wait time.Duration) {
	allowed, before := c.edge.allowed.Load(), c.sent
	if wait = c.sent.take(now, 1, allowed.send); wait > 0 {
		return max(wait, c.sent.quarter(now, allowed.send))
	}
	if wait = c.user.take(now, 1, allowed.user); wait > 0 {
		c.sent = before
		return max(wait, c.user.quarter(now, allowed.user))
	}
	return 0
}

// strikeOf is what refusing p with err counts.
func strikeOf(p *packet.Pending, err *code.Error) int {
	if p.Resend || err.Code == code.LaneBlocked {
		return strikeResent
	}
	return strike
}

// struck counts n of a strike, and reports whether that was one too many. mu is held.
func (c *Conn) struck(now int64, n int) bool { return c.strikes.take(now, n, c.edge.strikeRate) > 0 }

// admitAll takes a run of n SENDs as a whole if nothing stands against any of them.
func (c *Conn) admitAll(n int, now int64) bool {
	allowed := c.edge.allowed.Load()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lanes) > 0 || int(c.inflight)+n > allowed.MaxInflight {
		return false
	}
	before := c.sent
	if c.sent.take(now, n, allowed.send) > 0 {
		return false
	}
	if c.user.take(now, n, allowed.user) > 0 {
		c.sent = before
		return false
	}
	c.inflight += int32(n)
	return true
}

// limitedWait is what a client is told to wait for when it has sent too many bytes or
// frames: the limits are per second.
const limitedWait = time.Second

func rateLimited(wait time.Duration) *code.Error {
	e := code.New(code.RateLimited)
	e.RetryAfter = max(wait, 10*time.Millisecond)
	return e
}

// answer refuses a request of the client, and counts it.
func (c *Conn) answer(f *frame.Frame, err *code.Error) {
	c.mu.Lock()
	if c.state.Load() > stateConnected {
		c.mu.Unlock()
		return
	}
	var tr *trace.ID
	if f.Flags&frame.FlagTrace != 0 {
		t := trace.ID(f.Trace)
		tr = &t
	}
	over := c.refuse(f.ReqID, f.HasReqID(), tr, err, id.ConversationID{})
	c.replied = true
	flood := c.struck(c.edge.now(), strike)
	c.mu.Unlock()
	switch {
	case flood:
		c.Close(code.New(code.Flooding))
	case over:
		c.Close(code.New(code.TooSlow))
	}
}
