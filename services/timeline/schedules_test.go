package timeline

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var schedulesFlag = flag.Int("schedules", 400, "schedules of one lane")

// schedule is one connection of a client that resends as the protocol demands, and a
// sequencer's lanes without its store: everything happens in an order that a seed gives.
type schedule struct {
	rng     *rand.Rand
	c       conversation
	s       *sender
	msgs    []packet.Pending // by number
	open    []int            // sent, not acked; ascending
	next    int              // the next number
	wire    [][]int          // under way to the sequencer
	resends []bool           // of wire: flagged
	back    []int            // answers under way to the client: number, negative-1 if refused
	owes    bool             // the client waits before it sends all that is open again
	gone    map[int]bool     // given up, not stored
	stored  []int
	seen    map[int]bool // stored
	trace   []string
}

func (x *schedule) note(format string, args ...any) {
	x.trace = append(x.trace, fmt.Sprintf(format, args...))
}

// send puts messages on the wire, in parts as they are read from a socket.
func (x *schedule) send(flagged bool, ns []int) {
	for len(ns) > 0 {
		k := 1 + x.rng.IntN(min(4, len(ns)))
		x.wire, x.resends = append(x.wire, slices.Clone(ns[:k])), append(x.resends, flagged)
		ns = ns[k:]
	}
}

// hears is the client's part: what is refused is sent again with all that is open, before
// anything new.
func (x *schedule) hears() {
	n := x.back[0]
	x.back = x.back[1:]
	if n >= 0 {
		x.open = slices.DeleteFunc(x.open, func(m int) bool { return m == n })
		return
	}
	n = -n - 1
	if !slices.Contains(x.open, n) { // acked or given up meanwhile
		return
	}
	if x.rng.IntN(64) == 0 && !x.underway(n) {
		x.note("the client gives up %d", n)
		x.open = slices.DeleteFunc(x.open, func(m int) bool { return m == n })
		if !x.seen[n] {
			x.gone[n] = true
		}
	}
	if x.owes = x.rng.IntN(2) == 0; !x.owes {
		x.sendsAgain()
	}
}

// underway reports whether a message is on the wire or waits.
func (x *schedule) underway(n int) bool {
	for _, ns := range x.wire {
		if slices.Contains(ns, n) {
			return true
		}
	}
	for _, b := range append(slices.Clone(x.c.work), x.c.waiting...) {
		if slices.ContainsFunc(b.msgs, func(p packet.Pending) bool { return int(p.ReqID) == n }) {
			return true
		}
	}
	return false
}

func (x *schedule) sendsAgain() {
	x.owes = false
	ns := x.open
	if n := x.rng.IntN(x.next); !x.gone[n] && x.rng.IntN(8) == 0 { // an ack was lost: it comes again
		ns = append([]int{n}, ns...)
		slices.Sort(ns)
		ns = slices.Compact(ns)
	}
	x.send(true, ns)
}

func (x *schedule) sendsNew() {
	var ns []int
	for range 1 + x.rng.IntN(3) {
		x.msgs = append(x.msgs, x.s.text(id.NewClientMsgID(1000), fmt.Sprint(x.next)))
		ns = append(ns, x.next)
		x.next++
	}
	x.open = append(x.open, ns...)
	x.send(false, ns)
}

// arrives is Append, with or without room.
func (x *schedule) arrives(room bool) {
	var ps []packet.Pending
	for _, n := range x.wire[0] {
		p := x.msgs[n]
		p.Resend, p.ReqID = x.resends[0], uint32(n)
		ps = append(ps, p)
	}
	x.note("arrives %v again %v room %v", x.wire[0], x.resends[0], room)
	x.wire, x.resends = x.wire[1:], x.resends[1:]
	c := &x.c
	if room {
		if len(c.lanes) == 0 {
			c.waiting = append(c.waiting, batch{ps, c.arrivals + 1, 0})
		} else {
			c.waiting = c.split(c.waiting, ps, c.arrivals+1)
		}
		c.arrivals += uint64(len(ps))
		return
	}
	for i := range ps {
		c.arrivals++
		l := c.lane(1)
		l.refused = addRefused(l.refused, c.arrive(l, &ps[i], c.arrivals), c.arrivals)
		x.back = append(x.back, -int(ps[i].ReqID)-1)
	}
}

// runs decides on the first messages that wait, as judge, decide and settle do.
func (x *schedule) runs(trouble bool) {
	c := &x.c
	c.take()
	ru := run{c: c}
	limit := 1 + x.rng.IntN(24)
	if x.rng.IntN(2) == 0 {
		limit = 1 << 20
	}
	var outs []outcome
	added := map[int]bool{}
	for b, i := range c.queued(limit) {
		p := &b.msgs[i]
		outs = append(outs, outcome{p: p, at: b.at + uint64(i), burst: b.burst})
		o, n := &outs[len(outs)-1], int(p.ReqID)
		gated := c.gated != nil && blocked(c.gated[1], o.burst, o.at)
		if (!gated || p.Resend) && (x.seen[n] || added[n]) {
			o.dup = true
			continue
		}
		if gated {
			ru.refuse(o, code.New(code.LaneBlocked))
			continue
		}
		if c.gated != nil && len(c.gated[1]) > 0 {
			ru.lanes = append(ru.lanes, laneChange{conn: 1, burst: o.burst, passes: true, hash: msgstore.IDHash(p.From.User, p.ClientMsgID)})
		}
		if trouble && x.rng.IntN(16) == 0 {
			ru.refuse(o, code.New(code.RateLimited))
			continue
		}
		added[n] = true
	}
	fate := "stored"
	if trouble {
		switch x.rng.IntN(6) {
		case 0: // conflict, or undetermined: made again later
			return
		case 1: // the store is full
			fate = "full"
			for i := range outs {
				if o := &outs[i]; !o.gated && !(o.dup && x.seen[int(o.p.ReqID)]) {
					o.err, o.dup = code.New(code.StorageFull), false
				}
			}
		case 2: // given up, whatever was found out
			fate = "unavailable"
			outs, ru.lanes = outs[:0], nil
			for b, i := range c.queued(1 << 20) {
				outs = append(outs, outcome{p: &b.msgs[i], at: b.at + uint64(i), burst: b.burst, err: code.New(code.Unavailable)})
			}
		}
	}
	c.change(ru.lanes, 0)
	if fate != "stored" {
		c.shutLanes(outs, 0)
	}
	c.openLanes(ru.lanes, fate == "stored")
	c.done(len(outs))
	var line strings.Builder
	for i := range outs {
		n := int(outs[i].p.ReqID)
		if e := outs[i].err; e != nil {
			fmt.Fprintf(&line, " %d:%s", n, e.Code)
			x.back = append(x.back, -n-1)
			continue
		}
		fmt.Fprintf(&line, " %d:ok", n)
		if !outs[i].dup {
			x.stored, x.seen[n] = append(x.stored, n), true
		}
		x.back = append(x.back, n)
	}
	x.note("a run, %s:%s", fate, line.String())
}

// elsewhere stores the oldest that is open: a copy was under way on a connection before this one.
func (x *schedule) elsewhere() {
	for _, n := range x.open {
		if !x.seen[n] {
			x.note("%d is stored by way of another connection", n)
			x.stored, x.seen[n] = append(x.stored, n), true
			return
		}
	}
}

// play returns an error if messages were not stored in the order of sending.
func (x *schedule) play(steps int) error {
	for step := 0; ; step++ {
		trouble := step < steps
		if !trouble && !x.owes && len(x.open) == 0 && len(x.wire) == 0 && len(x.back) == 0 && len(x.c.work)+len(x.c.waiting) == 0 {
			break
		}
		if step > 100*steps {
			return fmt.Errorf("%v are never stored", x.open)
		}
		switch roll := x.rng.IntN(12); {
		case roll < 2 && trouble && !x.owes && len(x.open) < 8:
			x.sendsNew()
		case roll < 6 && len(x.wire) > 0:
			x.arrives(!trouble || x.rng.IntN(4) > 0)
		case roll < 7:
			x.runs(trouble)
		case roll == 7 && trouble && x.rng.IntN(8) == 0:
			x.elsewhere()
		case x.owes && (roll == 8 || len(x.back) == 0):
			x.sendsAgain()
		case len(x.back) > 0:
			x.hears()
		}
	}
	if !slices.IsSorted(x.stored) || len(x.stored)+len(x.gone) != x.next {
		return fmt.Errorf("stored %v of %d; %d given up", x.stored, x.next, len(x.gone))
	}
	return nil
}

// Whatever is refused, wherever a run ends and however late answers are heard: what a
// client sends is stored in its order, and all of it once there is no more trouble.
func TestLanesKeepOrder(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("replay with -run '%s' -args -seed %d", t.Name(), seed)
	for i := range uint64(*schedulesFlag) {
		x := &schedule{rng: rand.New(rand.NewPCG(seed, i)), s: newSender("alice", 1), seen: map[int]bool{}, gone: map[int]bool{}}
		if err := x.play(300); err != nil {
			t.Fatalf("schedule %d: %v\n%s", i, err, strings.Join(x.trace, "\n"))
		}
	}
}
