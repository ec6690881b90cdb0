package verify

import "github.com/gochat-im/gochat/protocol/packet"

// Group is the book of one group: some of its members send, all receive, and nobody
// else writes to it. It holds what was sent and acked and what the timeline turned
// out to be; what each member received is the caller's to count.
type Group struct {
	salt  uint16
	body  int
	base  uint64 // the last seq before the first message
	lanes []lane
	index map[string]int // lanes by the sender's name

	ackedAt, shownAt []uint64 // by seq, from base + 1: which message was acked, shown to members, with this seq; 0: none

	acked, duplicate uint64
	corrupt          uint64

	walked  uint64
	stored  uint64
	matched uint64
	lost    uint64
	doubled uint64
}

// lane is one sender of a group; the sender's index stands in for the pair in its ids and bodies.
type lane struct {
	sent uint64 // numbers 1..sent were sent
	last uint64 // the highest number seen in the timeline
}

// key names a message in one number that isn't 0.
func key(sender int, number uint64) uint64 { return uint64(sender)<<40 | number }

// put notes the message of a seq and returns what was there before.
func (g *Group) put(at *[]uint64, seq, key uint64) (before uint64) {
	if seq <= g.base || seq-g.base > maxSeqs {
		g.corrupt++
		return 0
	}
	i := int(seq - g.base - 1)
	for len(*at) <= i {
		*at = append(*at, 0)
	}
	before, (*at)[i] = (*at)[i], key
	return before
}

// maxSeqs bounds the book: a server that tells a seq beyond it is wrong.
const maxSeqs = 1 << 26

// at returns the message that was noted for a seq, 0: none.
func (g *Group) at(list []uint64, seq uint64) uint64 {
	if i := seq - g.base - 1; i < uint64(len(list)) {
		return list[i]
	}
	return 0
}

// NewGroup returns the book of a group in which the named users send bodies of so many bytes.
func NewGroup(salt uint16, body int, senders []string) *Group {
	g := &Group{salt: salt, body: body, lanes: make([]lane, len(senders)), index: map[string]int{}}
	for i, s := range senders {
		g.index[s] = i
	}
	return g
}

// Begin says what the timeline's last seq was before the first message: what lies there is of no interest.
func (g *Group) Begin(base uint64) { g.base, g.walked = base, base }

// Send returns the number of the sender's next message.
func (g *Group) Send(sender int) uint64 {
	g.lanes[sender].sent++
	return g.lanes[sender].sent
}

// Sent returns how many messages the sender has sent.
func (g *Group) Sent(sender int) uint64 { return g.lanes[sender].sent }

// Acked records the ack of a sender's number.
func (g *Group) Acked(sender int, number, seq uint64, duplicate bool) {
	g.acked++
	if before := g.put(&g.ackedAt, seq, key(sender, number)); before != 0 {
		g.corrupt++ // two messages with one seq
	}
	if duplicate {
		g.duplicate++
	}
}

// Shown records a message that members received and returns whose it is, and its number:
// 0 if nobody of the run sent it. It may be called more than once for a message.
func (g *Group) Shown(v *packet.MessageView) (sender int, number uint64) {
	sender, number = g.check(v)
	if number == 0 {
		return 0, 0
	}
	if k := key(sender, number); v.Seq > g.base {
		if before := g.put(&g.shownAt, v.Seq, k); before != 0 && before != k {
			g.corrupt++ // two messages with one seq
		}
	}
	return sender, number
}

// check returns whose message it is; number is 0 if it isn't one that was sent, byte for byte.
func (g *Group) check(v *packet.MessageView) (sender int, number uint64) {
	sender, known := g.index[string(v.Sender)]
	if known {
		number, known = ReadID(v.ClientMsgID, g.salt, sender)
	}
	if !known || number > g.lanes[sender].sent || len(v.Content) != g.body || !SameBody(v.Content, sender, number) {
		g.corrupt++
		return 0, 0
	}
	return sender, number
}

// Walked returns the seq up to which Stored has seen the timeline.
func (g *Group) Walked() uint64 { return g.walked }

// Answered records that the timeline holds nothing more up to seq than Stored was shown.
func (g *Group) Answered(seq uint64) {
	if seq > g.walked {
		g.lost += seq - g.walked
		g.walked = seq
	}
}

// Stored takes the timeline's messages above Begin's base in order, after the load has ended.
func (g *Group) Stored(v *packet.MessageView) {
	if v.Seq <= g.walked {
		g.doubled++
		return
	}
	g.Answered(v.Seq - 1) // a hole: no retention runs meanwhile
	g.walked = v.Seq
	g.stored++
	sender, number := g.check(v)
	if number == 0 {
		return
	}
	if l := &g.lanes[sender]; number <= l.last {
		g.doubled++ // or reordered: a lane is first in, first out
	} else {
		l.last = number
	}
	k := key(sender, number)
	if shown := g.at(g.shownAt, v.Seq); shown != 0 && shown != k {
		g.corrupt++ // members were shown another message with this seq
	}
	if g.at(g.ackedAt, v.Seq) == k {
		g.matched++
	}
}

// Copies counts what reached members.
type Copies struct {
	Due       uint64 `json:"due"`       // messages times members
	Delivered uint64 `json:"delivered"` // came by DELIVER, or are the member's own and acked
	Pulled    uint64 `json:"pulled"`    // came by SYNC because of a gap, a hint, or silence
	Repeats   uint64 `json:"repeats"`   // came again
	Gaps      uint64 `json:"gaps"`      // times that one came before the one below it
	Pulls     uint64 `json:"pulls"`     // SYNCs sent
	Hints     uint64 `json:"hints"`
	Missing   uint64 `json:"missing"` // never came
}

// Share returns the percentage of the copies that came by DELIVER, once.
func (c *Copies) Share() float64 {
	if c.Due == 0 {
		return 100
	}
	return 100 * float64(c.Delivered-min(c.Delivered, c.Repeats)) / float64(c.Due)
}

// GroupResult is the verdict on a run in one group.
type GroupResult struct {
	Sent       uint64 `json:"sent"`
	Acked      uint64 `json:"acked"`
	Stored     uint64 `json:"stored"`
	Lost       uint64 `json:"lost"`    // acked, and not in the timeline at the ack's seq; holes of the timeline, or of an answer from it
	Doubled    uint64 `json:"doubled"` // in the timeline twice, or out of order
	Corrupt    uint64 `json:"corrupt"` // not byte for byte what was sent, or shown at another seq
	Duplicates uint64 `json:"duplicates"`
	Unacked    uint64 `json:"unacked"`
	Refused    uint64 `json:"refused"`
	Unread     bool   `json:"unread"` // the timeline could not be read to its end

	Members Copies `json:"members"` // those who read
	Slow    Copies `json:"slow"`    // those who didn't, until they woke
}

// Result sums up. head is the conversation's last seq as the final sync told it, holes
// how many seqs an answer to a member left out.
func (g *Group) Result(head, holes, refused uint64, members, slow Copies) GroupResult {
	r := GroupResult{
		Acked: g.acked, Stored: g.stored, Doubled: g.doubled, Corrupt: g.corrupt, Duplicates: g.duplicate,
		Lost: g.lost + (g.acked - g.matched) + holes, Refused: refused, Unread: g.walked < head, Members: members, Slow: slow,
	}
	for i := range g.lanes {
		r.Sent += g.lanes[i].sent
	}
	r.Unacked = r.Sent - min(r.Sent, r.Acked+refused)
	return r
}

// Sound is what every run must be: what was acked is stored where the ack said, once and unchanged.
func (r *GroupResult) Sound() bool {
	return r.Lost == 0 && r.Doubled == 0 && r.Corrupt == 0 && !r.Unread
}

// Clean is what a run without faults must be: everything answered, everybody holds
// everything, and of those who read at least 99.9 % came by DELIVER, once.
func (r *GroupResult) Clean() bool {
	return r.Sound() && r.Members.Missing == 0 && r.Slow.Missing == 0 && r.Unacked == 0 && r.Refused == 0 && r.Members.Share() >= 99.9
}
