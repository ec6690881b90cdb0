package timeline

import (
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// laneOther is after which time a resend may take the place of the one noted before it.
const laneOther = 3 * time.Second

// A lane is what one connection sends to one conversation. After a refusal that may be
// tried again the rest of the lane is refused too, or it would be stored before what
// was sent earlier. The sender begins again with a message flagged as a resend.
//
// Several resends are in flight together: were the first refused once more, the flag on
// the second must not open the lane. So the lane remembers the message it is shut by,
// and opens for the resend of that one. A sender that gave it up resends another: the
// second time that one comes, it opens the lane too.
type lane struct {
	since uint64         // arrival number of the message it is shut by; earlier ones pass
	by    id.ClientMsgID // that message
	other id.ClientMsgID // a resend that came instead of it
	at    int64          // Unix ms of the last change
}

// laneSet holds the shut lanes of a conversation by connection. Nearly always nil.
type laneSet map[uint64]lane

// laneChange is what a run will do to a lane once its outcome is known.
type laneChange struct {
	conn uint64
	shut bool // else it opens
	lane lane
}

// apply makes a change unless a later message changed the lane meanwhile.
func (s *laneSet) apply(ch laneChange) {
	old, ok := (*s)[ch.conn]
	switch {
	case !ch.shut:
		if ok && old.since < ch.lane.since {
			delete(*s, ch.conn)
		}
	case !ok || old.since >= ch.lane.since || old.by == ch.lane.by:
		if ok {
			ch.lane.since = min(ch.lane.since, old.since) // what came in between stays shut out
		}
		if *s == nil {
			*s = make(laneSet)
		}
		if !ok && len(*s) >= maxLanes {
			s.forgetOldest()
		}
		(*s)[ch.conn] = ch.lane
	}
}

// forgetOldest makes room. The connection it hits has not resent for longer than all
// others: it is gone, most likely.
func (s *laneSet) forgetOldest() {
	var conn uint64
	var oldest lane
	found := false
	for c, l := range *s {
		if !found || l.at < oldest.at || l.at == oldest.at && l.since < oldest.since {
			conn, oldest, found = c, l, true
		}
	}
	delete(*s, conn)
}

// idle reports whether no lane was shut lately.
func (s laneSet) idle(now int64) bool {
	for _, l := range s {
		if now-l.at < laneForget.Milliseconds() {
			return false
		}
	}
	return true
}

// shutLanes shuts the lane of each message of outs, which are in order, that is refused
// until it is sent again, and refuses what follows it in its lane. c is locked.
func (c *conversation) shutLanes(outs []outcome, now int64) {
	for i := range outs {
		o := &outs[i]
		if o.err == nil || o.gated || o.err.Code.Scope() != code.ScopeLane {
			continue
		}
		l, ok := c.lanes[o.p.From.Conn]
		if ok && l.since < o.at && l.by != o.p.ClientMsgID {
			o.err = code.New(code.LaneBlocked)
			continue
		}
		c.lanes.apply(laneChange{conn: o.p.From.Conn, shut: true, lane: lane{since: o.at, by: o.p.ClientMsgID, at: now}})
	}
}

// pass judges a message of arrival number at by its lane as it is with changes, what
// earlier messages of the run do to lanes. It returns the changes with what this one
// does. Through stays false for a message that must be refused as lane_blocked, unless it
// turns out to be stored already.
func (c *conversation) pass(p *packet.Pending, at uint64, now int64, changes []laneChange) (through bool, _ []laneChange) {
	conn := p.From.Conn
	var l lane
	shut := false
	c.mu.Lock()
	l, shut = c.lanes[conn]
	c.mu.Unlock()
	for i := range changes {
		if changes[i].conn == conn {
			l, shut = changes[i].lane, changes[i].shut
		}
	}
	switch {
	case !shut || l.since >= at:
		return true, changes
	case !p.Resend:
		return false, changes
	case p.ClientMsgID == l.by || p.ClientMsgID == l.other:
		return true, append(changes, laneChange{conn: conn, lane: lane{since: at}})
	}
	if l.other == (id.ClientMsgID{}) || now-l.at > laneOther.Milliseconds() {
		l.other, l.at = p.ClientMsgID, now
		changes = append(changes, laneChange{conn: conn, shut: true, lane: l})
	}
	return false, changes
}
