package conn

import "github.com/gochat-im/gochat/protocol/id"

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
