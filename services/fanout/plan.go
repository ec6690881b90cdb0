package fanout

import (
	"context"

	"github.com/gochat-im/gochat/protocol/id"
)

// plan is what a batch delivers to users wherever they are connected. It is gathered first, then all
// of them are looked up at once: where that means asking other nodes, a batch asks each of them once.
type plan struct {
	parcels []parcel
	users   []id.UserID // of all parcels
	conns   []uint64    // where they are
	ends    []int
	debits  []debit
	lost    []id.UserID // of one parcel, those to be looked for at all edges
}

// parcel is one frame and whom it is for.
type parcel struct {
	skip        uint64 // the connection that doesn't get it
	from, to    int32  // in Handler.slab
	first, last int32  // its users, in plan.users
	debit       int32  // in plan.debits, one more; 0: none
}

// debit is what each delivery of a parcel takes off a group's budget.
type debit struct {
	conv     id.ConversationID
	messages uint64
}

// maxLookUp is from how many users on a batch is not gathered any longer.
const maxLookUp = 8 << 10

func (p *plan) full() bool { return len(p.users) >= maxLookUp }

// each plans the frame that begins at from in the slab and ends it, for the sessions of users but skip.
func (h *Handler) each(users []id.UserID, from int, skip uint64) {
	if len(users) == 0 {
		return
	}
	p := &h.plan
	first := len(p.users)
	if n := len(p.parcels); n > 0 {
		// What comes one after the other is for the same people more often than not.
		if before := &p.parcels[n-1]; int(before.last-before.first) == len(users) && same(p.users[before.first:before.last], users) {
			first = int(before.first)
		}
	}
	if first == len(p.users) {
		p.users = append(p.users, users...)
	}
	p.parcels = append(p.parcels, parcel{
		skip: skip, from: int32(from), to: int32(len(h.slab)), first: int32(first), last: int32(first + len(users)),
	})
}

// same compares what is the same strings in memory more often than not, or differs early.
func same(a, b []id.UserID) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// lookUp delivers what is planned. The frames of it are in the slab still.
func (h *Handler) lookUp(ctx context.Context) {
	p := &h.plan
	if len(p.parcels) == 0 {
		return
	}
	h.owe.planned = 0
	p.conns, p.ends = h.cfg.Sessions.Gather(ctx, p.users, p.conns[:0], p.ends[:0])
	var all uint64
	for i := range p.parcels {
		c := &p.parcels[i]
		n := deliver(h.cfg.Deliver, p, c, h.slab[c.from:c.to:c.to], false)
		if c.debit > 0 {
			d := &p.debits[c.debit-1]
			h.owe.spent(d.conv, n*d.messages)
		}
		all += n
	}
	h.delivered.Add(all)
	h.unwritten = h.unwritten || all > 0
	p.parcels, p.debits = p.parcels[:0], p.debits[:0]
	if cap(p.users) > 4*maxLookUp {
		p.users, p.conns, p.ends = nil, nil, nil
	}
	clear(p.users)
	p.users = p.users[:0]
}

// deliver hands a frame to the connections that were found and returns how many those were, one each for
// those who are looked for everywhere.
func deliver(d Deliverer, p *plan, c *parcel, frame []byte, lazily bool) (n uint64) {
	start := 0
	if c.first > 0 {
		start = p.ends[c.first-1]
	}
	for i := c.first; i < c.last; i++ {
		end := p.ends[i]
		if end > start && p.conns[end-1] == 0 {
			p.lost = append(p.lost, p.users[i])
			start = end
			continue
		}
		for _, conn := range p.conns[start:end] {
			switch {
			case conn == c.skip:
				continue
			case lazily:
				d.DeliverLazily(conn, frame)
			default:
				d.Deliver(conn, frame)
			}
			n++
		}
		start = end
	}
	if len(p.lost) > 0 {
		d.DeliverUsers(p.lost, frame, c.skip)
		n += uint64(len(p.lost))
		clear(p.lost)
		p.lost = p.lost[:0]
	}
	return n
}
