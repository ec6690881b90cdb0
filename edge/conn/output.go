package conn

import (
	"bytes"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

var _ packet.Replier = (*Conn)(nil)

// buffer returns what the next frame is appended to. mu is held.
func (c *Conn) buffer() *buffer {
	if c.out == nil {
		c.out = c.edge.bufs.get()
	}
	return c.out
}

// touch reports whether the host is to be told that c has something to write. mu is held.
func (c *Conn) touch() bool {
	if c.touched || c.blocked || c.flushing {
		return false // it is known, or whoever writes will look again
	}
	c.touched = true
	return true
}

// Deliver queues a whole frame that the client can do without: it is dropped, and
// told by a HINT later, while too much is waiting. frame is copied. The next Flush writes it, or for
// a client in the background the next Sweep.
func (c *Conn) Deliver(frame []byte) { c.deliver(frame, false) }

// DeliverLazily is Deliver of what can wait a moment: if the connection is written to all the
// time, frame goes with what comes next, at the latest with the next Sweep.
func (c *Conn) DeliverLazily(frame []byte) { c.deliver(frame, true) }

// busyWrites is how many writes a second make a connection one that is written to all the time.
const busyWrites = 8

func (c *Conn) deliver(frame []byte, lazily bool) {
	c.mu.Lock()
	if c.state.Load() > stateConnected {
		c.mu.Unlock()
		return
	}
	cfg := &c.edge.cfg
	if c.background && c.withhold(frame) {
		c.mu.Unlock()
		return
	}
	if o := c.out; c.lag != nil || o != nil && (len(o.b)+len(frame) > cfg.QueueBytes || o.frames >= cfg.QueueFrames) ||
		c.blocked && c.edge.held.Load() > cfg.QueueTotal {
		c.drop(frame)
		c.mu.Unlock()
		return
	}
	o := c.buffer()
	o.b = append(o.b, frame...)
	o.frames++
	o.pushed++
	if typeOf(frame) == signalType {
		o.signals++
	}
	c.hold(len(frame))
	touch := (!c.background || len(o.b) >= backgroundBytes) && !(lazily && c.busy) && c.touch()
	c.mu.Unlock()
	if touch {
		c.edge.host.Touch(c)
	}
}

// Acked implements packet.Replier.
func (c *Conn) Acked(p *packet.Pending, ack packet.Ack) {
	c.mu.Lock()
	c.inflight--
	if c.state.Load() > stateConnected {
		c.mu.Unlock()
		return
	}
	o := c.buffer()
	before := len(o.b)
	o.b = packet.AppendSendAck(o.b, p.ReqID, ack, p.Conversation.IsZero())
	if p.Trace != nil {
		o.b = frame.AddTrace(o.b, before, *p.Trace)
	}
	o.frames++
	o.acks++
	c.hold(24) // about
	over := len(o.b) > c.edge.cfg.ReplyBytes
	touch := c.touch()
	c.mu.Unlock()
	if p.Trace != nil {
		c.noteSend(p, ack, nil)
	}
	c.told(touch, over)
}

// Refused implements packet.Replier. What a refusal by a service means to the rest of
// the lane is that service's to hold, unless it says that it doesn't (Pending.Unlaned); lanes here are for what never reached it.
func (c *Conn) Refused(p *packet.Pending, err *code.Error) {
	c.mu.Lock()
	c.inflight--
	if c.state.Load() > stateConnected {
		c.mu.Unlock()
		return
	}
	conv := p.Conversation
	crowd := false
	if err.Code.Scope() == code.ScopeLane {
		conv = c.laneOf(p)
		crowd = p.Unlaned && !c.block(conv, p.ClientMsgID)
	}
	over := c.refuse(p.ReqID, true, p.Trace, err, conv)
	touch := c.touch()
	c.mu.Unlock()
	if p.Trace != nil {
		c.noteSend(p, packet.Ack{Conversation: conv}, err)
	}
	c.told(touch, over)
	if crowd {
		c.Close(code.New(code.Flooding))
	}
}

// Shut implements packet.Laned.
func (c *Conn) Shut(p *packet.Pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.lanes) == 0 {
		return false
	}
	l, ok := c.lanes[c.laneOf(p)]
	return ok && bytes.Compare(p.ClientMsgID[:], l.by[:]) > 0
}

// refuse queues an ERROR and reports whether too much is waiting. mu is held.
func (c *Conn) refuse(reqID uint32, hasReq bool, tr *trace.ID, err *code.Error, conv id.ConversationID) (over bool) {
	o := c.buffer()
	before := len(o.b)
	o.b = packet.AppendError(o.b, reqID, hasReq, err, conv)
	if tr != nil {
		o.b = frame.AddTrace(o.b, before, *tr)
	}
	o.frames++
	c.hold(len(o.b) - before)
	c.edge.stats.refused(err.Code)
	c.edge.stats.outBy.add(frame.Error)
	return len(o.b) > c.edge.cfg.ReplyBytes
}

// told does what must not be done with mu held, after something was queued.
func (c *Conn) told(touch, over bool) {
	if touch {
		c.edge.host.Touch(c)
	}
	if over {
		c.Close(code.New(code.TooSlow))
	}
}

// reply queues a frame that answers f and is never dropped: a client that
// lets too many of them wait is closed. It is for the goroutine of Input, whose end
// writes them.
func (c *Conn) reply(f *frame.Frame, app func(dst []byte) []byte) {
	c.mu.Lock()
	if c.state.Load() > stateConnected {
		c.mu.Unlock()
		return
	}
	o := c.buffer()
	before := len(o.b)
	o.b = app(o.b)
	c.edge.stats.outBy.add(typeOf(o.b[before:]))
	if f.Flags&frame.FlagTrace != 0 {
		o.b = frame.AddTrace(o.b, before, f.Trace)
	}
	o.frames++
	c.hold(len(o.b) - before)
	c.replied = true
	over := len(o.b) > c.edge.cfg.ReplyBytes
	c.mu.Unlock()
	c.told(false, over)
}

// hold counts n bytes queued while the transport is full. mu is held.
func (c *Conn) hold(n int) {
	if c.blocked {
		c.held += int32(n)
		c.edge.held.Add(int64(n))
	}
}

// unhold takes back what hold counted. mu is held.
func (c *Conn) unhold() {
	if c.held != 0 {
		c.edge.held.Add(-int64(c.held))
		c.held = 0
	}
}

// crowded reports whether so much is waiting that large answers must not be added, even
// after the client was given what it takes. It is for the goroutine of Input.
func (c *Conn) crowded() bool {
	if c.waiting() <= c.edge.cfg.QueueBytes {
		return false
	}
	c.Flush()
	return c.waiting() > c.edge.cfg.QueueBytes
}

// waiting is how many bytes are still to be written.
func (c *Conn) waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.out.waiting() + c.writing.waiting()
}

// Flush writes what is queued, as far as the transport takes it. When another
// goroutine is at it, that one writes this too.
func (c *Conn) Flush() {
	c.mu.Lock()
	c.touched = false
	if c.flushing || c.blocked || c.state.Load() == stateHandshake {
		c.mu.Unlock()
		return
	}
	c.flushing = true
	c.drain()
}

// Writable is called by the transport when a Write came back short and there is room again.
func (c *Conn) Writable() {
	c.mu.Lock()
	if c.flushing {
		c.retry = true
		c.mu.Unlock()
		return
	}
	if !c.blocked {
		c.mu.Unlock()
		return
	}
	c.blocked = false
	c.unhold()
	c.flushing = true
	c.drain()
}

// drain writes until nothing is left or the transport is full. It is entered with mu
// held and flushing set, by one goroutine at a time, and returns with mu released:
// that is what keeps the frames in order.
func (c *Conn) drain() {
	e := c.edge
	for {
		w := c.writing
		if w == nil {
			if c.out == nil && c.lag != nil && c.state.Load() == stateConnected {
				c.hint()
			}
			if c.out == nil {
				break
			}
			c.writing, c.out = c.out, nil
			w = c.writing
			c.writes = min(c.writes, busyWrites) + 1
		}
		c.mu.Unlock()
		n, err := c.t.Write(w.b[w.off:])
		c.mu.Lock()
		if err != nil || c.state.Load() == stateClosed {
			e.bufs.put(w)
			e.bufs.put(c.out)
			c.writing, c.out, c.flushing = nil, nil, false
			closed := c.state.Load() == stateClosed
			c.blocked = true // nothing is written any more
			c.mu.Unlock()
			if !closed {
				c.t.Close()
			}
			return
		}
		w.off += n
		if w.off < len(w.b) {
			if c.retry {
				c.retry = false
				continue
			}
			if state := c.state.Load(); state == stateConnected && (n > 0 || c.since == 0) {
				c.since = e.second()
			}
			c.blocked, c.flushing = true, false
			c.hold(w.waiting() + c.out.waiting())
			c.mu.Unlock()
			e.stats.wrote(nil, n)
			return
		}
		c.retry = false
		e.stats.wrote(w, n)
		e.bufs.put(w)
		c.writing = nil
	}
	c.flushing = false
	if c.state.Load() == stateConnected {
		c.since = 0
	}
	end, reason := c.state.Load() == stateClosing && !c.wrclosed, code.Code(c.reason)
	if end {
		c.wrclosed = true
	}
	c.mu.Unlock()
	if end {
		c.t.CloseWrite(reason)
	}
}

// maxHints is how many conversations a lagging connection remembers before it tells
// the client to look at everything.
const maxHints = 32

// lag is what was dropped since the queue was full.
type lag struct {
	heads map[id.ConversationID]uint64
	all   bool
}

// drop remembers what a dropped frame was about. mu is held.
func (c *Conn) drop(b []byte) {
	c.lagging(1)
	f, n, err := frame.Parse(b, frame.HardMax)
	if err != nil || n == 0 {
		c.lag.all = true
		return
	}
	if f.Type == frame.Signal { // ephemeral, unless it tells of something stored: then the client looks again
		if !c.lag.all {
			m, err := packet.DecodeSignal(f.Body)
			c.lag.all = err != nil || packet.StoredSignal(m.Kind)
		}
		return
	}
	if f.Type != frame.Deliver || c.lag.all {
		c.lag.all = true
		return
	}
	conv, _, messages, err := packet.DecodeDeliver(f.Body)
	if err != nil {
		c.lag.all = true
		return
	}
	last := uint64(0)
	for len(messages) > 0 {
		v, rest, err := packet.NextMessage(messages)
		if err != nil {
			c.lag.all = true
			return
		}
		last, messages = v.Seq, rest
	}
	c.behind(conv, last)
}

// lagging counts n dropped frames. mu is held.
func (c *Conn) lagging(n int) {
	if c.lag == nil {
		c.lag = &lag{heads: make(map[id.ConversationID]uint64)}
		c.edge.stats.lagging.Add(1)
	}
	c.edge.stats.dropped.Add(uint64(n))
}

// behind notes that the client lacks messages of conv up to last, after lagging. mu is held.
func (c *Conn) behind(conv id.ConversationID, last uint64) {
	if c.lag.all {
		return
	}
	if old, ok := c.lag.heads[conv]; !ok && len(c.lag.heads) == maxHints {
		c.lag.all = true
	} else {
		c.lag.heads[conv] = max(old, last)
	}
}

// hint queues a HINT for what was dropped, and ends the lag. mu is held.
func (c *Conn) hint() {
	l := c.lag
	c.lag = nil
	if !l.all && len(l.heads) == 0 {
		return
	}
	h := wire.Hint{All: l.all}
	if !l.all {
		for conv, seq := range l.heads {
			h.Heads = append(h.Heads, &wire.ConversationSeq{ConversationId: append([]byte(nil), conv[:]...), Seq: seq})
		}
	}
	body, err := h.Marshal(nil)
	if err != nil { // plain data always marshals
		return
	}
	o := c.buffer()
	o.b = frame.Append(o.b, frame.Hint, 0, 0, body)
	o.frames++
	c.edge.stats.hints.Add(1)
	c.edge.stats.outBy.add(frame.Hint)
}
