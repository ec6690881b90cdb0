package conn

import (
	"bytes"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// A lane is what one connection sends to one conversation. When a SEND of it was
// refused and may be retried, those behind it must not overtake it: the lane is
// blocked until the client sends again from there, with the resend flag.
type lane struct {
	id    id.ClientMsgID // of the first that was refused
	since uint32         // second of the refusal
}

// maxLanes is how many blocked lanes a connection may have before it is closed: the
// client then comes back with no lane blocked and resends everything.
const maxLanes = 256

// laneForgets is after how many seconds any resend opens a lane: the client gave up
// on the message that was refused. Before, only that message or an earlier one does,
// since later resends may have been under way when the refusal was made.
const laneForgets = 10

// laneOf is the conversation of p, computed if p names a user.
func (c *Conn) laneOf(p *packet.Pending) id.ConversationID {
	if p.Conversation.IsZero() {
		return id.Direct(c.origin.User, p.ToUser)
	}
	return p.Conversation
}

// block blocks a lane because of the message m, unless it is blocked already. It
// reports false if the connection has too many blocked lanes. mu is held.
func (c *Conn) block(conv id.ConversationID, m id.ClientMsgID) bool {
	if _, ok := c.lanes[conv]; ok {
		return true
	}
	if c.lanes == nil {
		c.lanes = make(map[id.ConversationID]lane)
	}
	if len(c.lanes) == maxLanes {
		return false
	}
	c.lanes[conv] = lane{id: m, since: c.edge.second()}
	return true
}

// open reports whether p may pass its lane, which it opens if it is the resend that
// the lane waits for. mu is held.
func (c *Conn) open(p *packet.Pending) bool {
	if len(c.lanes) == 0 {
		return true
	}
	conv := c.laneOf(p)
	l, ok := c.lanes[conv]
	if !ok {
		return true
	}
	if !p.Resend || bytes.Compare(p.ClientMsgID[:], l.id[:]) > 0 && c.edge.second()-l.since < laneForgets {
		return false
	}
	delete(c.lanes, conv)
	if len(c.lanes) == 0 {
		c.lanes = nil
	}
	return true
}

// errLaneBlocked is shared: it is answered as often as a client likes.
var errLaneBlocked = code.New(code.LaneBlocked)
