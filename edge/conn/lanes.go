package conn

import (
	"bytes"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// A lane is what one connection sends to one conversation. When a SEND of it was
// refused here and may be tried again, those behind it must not overtake it: the lane
// is blocked until the client sends again from there, with the resend flag.
//
// Several resends are under way together: were the first refused once more, the flag
// on the second must not open the lane. So the lane remembers the message it was
// blocked by, and opens for the resend of that one or of an earlier one (ids are
// ordered by time). A client that gave it up resends another: the second time that one
// comes, it opens the lane too.
type lane struct {
	by    id.ClientMsgID // the first that was refused
	other id.ClientMsgID // a resend that came instead of it
	noted uint32         // second in which other came
}

const (
	// maxLanes is how many blocked lanes a connection may have before it is closed: the
	// client then comes back with no lane blocked and resends everything.
	maxLanes = 256
	// laneOther is after how many seconds a resend may take the place of other.
	laneOther = 3
)

// errLaneBlocked is shared: it is answered as often as a client likes.
var errLaneBlocked = code.New(code.LaneBlocked)

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
	if len(c.lanes) == maxLanes {
		return false
	}
	if c.lanes == nil {
		c.lanes = make(map[id.ConversationID]lane)
	}
	c.lanes[conv] = lane{by: m}
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
	switch now := c.edge.second(); {
	case !p.Resend:
		return false
	case bytes.Compare(p.ClientMsgID[:], l.by[:]) <= 0 || p.ClientMsgID == l.other:
		delete(c.lanes, conv)
		if len(c.lanes) == 0 {
			c.lanes = nil
		}
		return true
	case l.other == (id.ClientMsgID{}) || now-l.noted > laneOther:
		l.other, l.noted = p.ClientMsgID, now
		c.lanes[conv] = l
	}
	return false
}
