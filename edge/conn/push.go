package conn

import (
	"sync/atomic"

	"github.com/gochat-im/gochat/protocol/id"
)

// Push is Deliver for a caller that brings n whole frames, which tell of messages of conv up to last,
// to many connections: it tells nobody that there is something to write but reports it, and the caller
// then calls Flush soon, or the host's Touch. All of frames is taken or none.
func (c *Conn) Push(frames []byte, n int, conv id.ConversationID, last uint64) (flush bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Load() > stateConnected {
		return false
	}
	cfg := &c.edge.cfg
	if o := c.out; c.lag != nil || o != nil && (len(o.b)+len(frames) > cfg.QueueBytes || o.frames+n > cfg.QueueFrames) ||
		c.blocked && c.edge.held.Load() > cfg.QueueTotal {
		c.lagging(n)
		c.behind(conv, last)
		return false
	}
	o := c.buffer()
	o.b = append(o.b, frames...)
	o.frames += n
	o.pushed += n
	c.hold(len(frames))
	return (!c.background || len(o.b) >= backgroundBytes) && c.touch()
}

// PushLive is Push of what nobody pulls later: frames of a room, the i-th of which ends at ends[i] and isn't for connection but[i].
// What doesn't fit is left out, and the client isn't told of it: it sees by the next frame that it gets. Nothing is taken once left
// is set: what is pushed after that for another reason is behind all that was pushed for this one.
func (c *Conn) PushLive(frames []byte, ends []int, but []uint64, left *atomic.Bool) (flush bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Load() != stateConnected || left.Load() {
		return false
	}
	cfg := &c.edge.cfg
	if o := c.out; c.lag != nil || o != nil && (len(o.b)+len(frames) > cfg.QueueBytes || o.frames+len(ends) > cfg.QueueFrames) ||
		c.blocked && c.edge.held.Load() > cfg.QueueTotal {
		c.edge.stats.leftOut.Add(uint64(len(ends)))
		return false
	}
	from, taken := 0, 0
	for i, end := range ends {
		if but[i] != c.origin.Conn {
			o := c.buffer()
			o.b = append(o.b, frames[from:end]...)
			o.frames++
			o.pushed++
			if typeOf(frames[from:end]) == signalType {
				o.signals++
			}
			taken += end - from
		}
		from = end
	}
	if taken == 0 {
		return false
	}
	c.hold(taken)
	return (!c.background || len(c.out.b) >= backgroundBytes) && c.touch()
}
