package relay

import (
	"cmp"
	"slices"

	"github.com/gochat-im/gochat/protocol/id"
)

// gathered hands parcels on, but has all that a letter holds for one room, or for one large group's audience,
// delivered in one pass: a pass writes once to each connection, and that is what it costs. So an edge that takes
// long for a pass is brought more at once in the next, and falls no further behind.
//
// Whatever opens, changes or ends an audience comes after the passes that were gathered before it. What is for
// connections or users goes on at once: it is of other conversations.
type gathered struct {
	post
	waiting []together // in the order in which each began; behind them, in its capacity, memory of earlier ones
}

// together is one pass.
type together struct {
	conv   id.ConversationID
	room   bool
	last   uint64
	flush  bool
	frames []byte
	ends   []int
	but    []uint64
}

// One pass has at most so much, unless a single parcel has more: much less than what fills the queue of a connection.
const (
	togetherBytes  = 64 << 10
	togetherFrames = 128
	togetherPasses = 32 // at most so many passes wait
)

func (g *gathered) audience(conv id.ConversationID, last uint64, frames []byte, ends []int, but []uint64, flush bool) {
	g.add(conv, false, last, frames, ends, but, flush)
}

func (g *gathered) room(conv id.ConversationID, frames []byte, ends []int, but []uint64) {
	g.add(conv, true, 0, frames, ends, but, true)
}

func (g *gathered) add(conv id.ConversationID, room bool, last uint64, frames []byte, ends []int, but []uint64, flush bool) {
	i := slices.IndexFunc(g.waiting, func(t together) bool { return t.conv == conv && t.room == room })
	if i >= 0 && (len(g.waiting[i].frames)+len(frames) > togetherBytes || len(g.waiting[i].ends)+len(ends) > togetherFrames) {
		g.pass()
		i = -1
	}
	if i < 0 {
		if len(g.waiting) == togetherPasses {
			g.pass()
		}
		if i = len(g.waiting); i < cap(g.waiting) {
			g.waiting = g.waiting[:i+1]
		} else {
			g.waiting = append(g.waiting, together{})
		}
		t := &g.waiting[i]
		*t = together{conv: conv, room: room, frames: t.frames[:0], ends: t.ends[:0], but: t.but[:0]}
	}
	t := &g.waiting[i]
	for _, end := range ends {
		t.ends = append(t.ends, len(t.frames)+end)
	}
	t.frames, t.but = append(t.frames, frames...), append(t.but, but...)
	t.last, t.flush = cmp.Or(last, t.last), t.flush || flush
}

// pass delivers what was gathered.
func (g *gathered) pass() {
	for i := range g.waiting {
		if t := &g.waiting[i]; t.room {
			g.post.room(t.conv, t.frames, t.ends, t.but)
		} else {
			g.post.audience(t.conv, t.last, t.frames, t.ends, t.but, t.flush)
		}
	}
	g.waiting = g.waiting[:0]
}

func (g *gathered) open(conv id.ConversationID) { g.pass(); g.post.open(conv) }

func (g *gathered) end(conv id.ConversationID) { g.pass(); g.post.end(conv) }

func (g *gathered) join(conv id.ConversationID, users []id.UserID) {
	g.pass()
	g.post.join(conv, users)
}

func (g *gathered) leave(conv id.ConversationID, users []id.UserID) {
	g.pass()
	g.post.leave(conv, users)
}

func (g *gathered) hint(conns []uint64) { g.pass(); g.post.hint(conns) }

func (g *gathered) clear() { g.pass(); g.post.clear() }
