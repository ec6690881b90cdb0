package timeline

import (
	"slices"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/packet"
)

// A lane is what one connection sends to one conversation. After a refusal that may be
// tried again the rest of the lane is refused too, or it would be stored before what
// was sent earlier. The sender begins again: it sends all that has no good answer once
// more, in order and flagged as resends, before anything new.
//
// Such a burst is in flight as a whole. If its first message is refused once more, the
// flags on the others must not let them pass; but the message that shut the lane may also
// be missing from it, having been stored by way of another connection, or been given up. So
// what counts is where a burst begins: at a resend of a message that is not behind the one
// that arrived last, in the order in which they first arrived. A message passes unless one of
// its own burst was refused before it.
//
// A lane is remembered from its first refusal until a run in which a later burst passes
// and none of it is refused. Not for less, though its queue tells an order too: the end of an
// earlier burst may stand there before the next one.
type lane struct {
	rank    map[uint64]int // by hash of sender and id: the order of first arrival
	ranks   int            // ranks given out
	last    int            // rank of what arrived last
	burst   uint64         // arrival number that the current burst began with; 0: the lane's beginning
	refused []uint64       // arrival numbers, ascending: of each burst the first that was refused
	at      int64          // Unix ms of the last refusal
}

// Bounds of what is remembered.
const (
	maxLanes  = 1024 // shut lanes of a conversation
	maxRanks  = 1024 // messages of a lane; more are in flight on no connection
	maxBursts = 64   // bursts of a lane with refusals
)

// arrive takes note of a message that has arrived in the lane l and returns the burst it is
// part of. c is locked.
func (c *conversation) arrive(l *lane, p *packet.Pending, arrival uint64) (burst uint64) {
	r, known := l.note(p)
	if known && p.Resend && r <= l.last {
		if len(l.refused) >= maxBursts && !c.queues(p.From.Conn) {
			l.refused = nil // nothing that waits can be behind these
		}
		if len(l.refused) < maxBursts {
			l.burst = arrival
		}
	}
	l.last = r
	return l.burst
}

// note returns the message's rank, a new one unless it is known.
func (l *lane) note(p *packet.Pending) (r int, known bool) {
	hash := msgstore.IDHash(p.From.User, p.ClientMsgID)
	if r, known = l.rank[hash]; known {
		return r, true
	}
	if r = l.ranks; len(l.rank) < maxRanks {
		l.rank[hash] = r
		l.ranks++
	}
	return r, false
}

// forget drops the ranks of what is behind a message that has passed: those have passed
// before, or were given up. A lane may be in use for as long as there is no room for all.
func (l *lane) forget(passed uint64) {
	r, known := l.rank[passed]
	if !known {
		return
	}
	for hash, other := range l.rank {
		if other < r {
			delete(l.rank, hash)
		}
	}
}

// queues reports whether anything of the connection waits. c is locked.
func (c *conversation) queues(conn uint64) bool {
	for _, queue := range [][]batch{c.work, c.waiting} {
		for _, b := range queue {
			for i := range b.msgs {
				if b.msgs[i].From.Conn == conn {
					return true
				}
			}
		}
	}
	return false
}

// blocked reports whether a message of the burst was refused before arrival.
func blocked(refused []uint64, burst, arrival uint64) bool {
	i, _ := slices.BinarySearch(refused, burst)
	return i < len(refused) && refused[i] < arrival
}

// addRefused notes a refusal unless an earlier one of the burst is noted.
func addRefused(refused []uint64, burst, arrival uint64) []uint64 {
	if blocked(refused, burst, arrival+1) {
		return refused
	}
	i, _ := slices.BinarySearch(refused, arrival)
	return slices.Insert(refused, i, arrival)
}

// gates are the refusals by connection that hold for a run: a copy of what the lanes say,
// and what the run adds.
type gates map[uint64][]uint64

// laneChange is what a run does to a lane once its outcomes are final.
type laneChange struct {
	conn, burst, arrival uint64
	passes               bool   // else it is refused
	hash                 uint64 // of what passes, see lane
}

// gates returns the refusals of the conversation's lanes; nil if there are none. c is locked.
func (c *conversation) gates() gates {
	if len(c.lanes) == 0 {
		return nil
	}
	g := make(gates, len(c.lanes))
	for conn, l := range c.lanes {
		g[conn] = slices.Clone(l.refused)
	}
	return g
}

// split appends msgs, which are arriving, to dst in batches of one burst each, and notes
// those whose lanes are shut. c is locked.
func (c *conversation) split(dst []batch, msgs []packet.Pending, first uint64) []batch {
	from, burst := 0, uint64(0)
	for i := range msgs {
		b := uint64(0)
		if l := c.lanes[msgs[i].From.Conn]; l != nil {
			b = c.arrive(l, &msgs[i], first+uint64(i))
		}
		if b != burst && i > from {
			dst = append(dst, batch{msgs[from:i:i], first + uint64(from), burst})
			from = i
		}
		burst = b
	}
	return append(dst, batch{msgs[from:], first + uint64(from), burst})
}

// lane returns the connection's lane, and makes it if there is none. Everything that is
// being refused is still in the queue then, or its order would be lost. c is locked.
func (c *conversation) lane(conn uint64) *lane {
	if l := c.lanes[conn]; l != nil {
		return l
	}
	l := &lane{rank: make(map[uint64]int)}
	for _, queue := range [][]batch{c.work, c.waiting} {
		for _, b := range queue {
			for i := range b.msgs {
				if p := &b.msgs[i]; p.From.Conn == conn {
					l.last, _ = l.note(p)
				}
			}
		}
	}
	if c.lanes == nil {
		c.lanes = make(map[uint64]*lane)
	}
	if len(c.lanes) >= maxLanes {
		c.forgetLane()
	}
	c.lanes[conn] = l
	return l
}

// forgetLane makes room. The connection it hits has been quiet for longer than all
// others: it is gone, most likely.
func (c *conversation) forgetLane() {
	var conn uint64
	var oldest *lane
	for k, l := range c.lanes {
		if oldest == nil || l.at < oldest.at {
			conn, oldest = k, l
		}
	}
	delete(c.lanes, conn)
}

// lanesIdle reports whether nothing was refused lately.
func (c *conversation) lanesIdle(now int64) bool {
	for _, l := range c.lanes {
		if now-l.at < laneForget.Milliseconds() {
			return false
		}
	}
	return true
}

// change makes what a run does to lanes hold. c is locked.
func (c *conversation) change(changes []laneChange, now int64) {
	for _, ch := range changes {
		if !ch.passes {
			l := c.lane(ch.conn)
			l.refused, l.at = addRefused(l.refused, ch.burst, ch.arrival), now
			continue
		}
		if l := c.lanes[ch.conn]; l != nil {
			i, _ := slices.BinarySearch(l.refused, ch.burst)
			l.refused = l.refused[i:]
		}
	}
}

// openLanes forgets the lanes in which a burst passed, and of the others what is no longer
// needed. It is called after everything that the run refuses is noted: a lane that is shut
// again keeps its order. stored says that what passed is stored. c is locked.
func (c *conversation) openLanes(changes []laneChange, stored bool) {
	for i := len(changes) - 1; i >= 0; i-- {
		ch := &changes[i]
		if !ch.passes {
			continue
		}
		switch l := c.lanes[ch.conn]; {
		case l == nil:
		case len(l.refused) == 0:
			delete(c.lanes, ch.conn)
		case stored && len(l.rank) >= maxRanks/2:
			l.forget(ch.hash) // the last that passed is the first here
		}
	}
}

// shutLanes shuts the lane of each message of outs, which are in order, that is refused
// until it is sent again, and refuses what follows it in its burst. c is locked.
func (c *conversation) shutLanes(outs []outcome, now int64) {
	for i := range outs {
		o := &outs[i]
		if o.err == nil || o.gated || o.err.Code.Scope() != code.ScopeLane {
			continue
		}
		l := c.lane(o.p.From.Conn)
		if blocked(l.refused, o.burst, o.at) {
			o.err = code.New(code.LaneBlocked)
		}
		l.refused, l.at = addRefused(l.refused, o.burst, o.at), now
	}
}
