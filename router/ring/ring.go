// Package ring places the slots on the nodes that own them. A placement is a pure function of
// its members: whoever knows the same members knows the same owners, in any process and any
// release. testdata/placements.txt holds it to that for ever.
//
// Each slot ranks the members by a hash of both (weighted rendezvous) and goes to the first,
// except that no member takes more than its share and a sixteenth: beyond that it keeps those
// slots that rank it best, and the others go on to their next choice. docs/adr/0005 tells why.
package ring

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/protocol/id"
)

// MaxWeight is the highest weight that counts; more is taken for it.
const MaxWeight = 1 << 16

// slack is the part of its share that a member may own beyond it: 1/slack. Less of it would
// move more slots that neither come to a new member nor from one that left; more of it would
// leave the load of large rings uneven.
const slack = 16

// Member is one that may own slots.
type Member struct {
	// ID tells members apart. Of several with one ID the heaviest counts.
	ID string

	// Weight is the member's part of the sum of all weights, which is about its part of the
	// slots. 0: it owns none.
	Weight uint32
}

// Ring is a placement of all slots on members. It never changes.
type Ring struct {
	members []Member // those with a weight, by ID
	owners  [id.SlotCount]uint16
	owned   []int
}

// New returns the placement on members, in whatever order they are. It takes time in proportion
// to their number: under 1 ms for 5 of them, under 10 ms for 100. At most 65,535.
func New(members []Member) *Ring {
	r := &Ring{members: distinct(members)}
	n := len(r.members)
	r.owned = make([]int, n)
	if n == 0 {
		return r
	}
	p := placement{seeds: make([]uint64, n), weights: make([]uint64, n), capacity: make([]int, n), held: make([]held, n)}
	var sum uint64
	for i, m := range r.members {
		p.seeds[i] = seedOf(m)
		p.weights[i] = uint64(m.Weight)
		sum += p.weights[i]
	}
	for i, w := range p.weights {
		// Rounded up, so that the capacities are enough for all slots.
		p.capacity[i] = int((w*id.SlotCount*(slack+1) + sum*slack - 1) / (sum * slack))
	}
	for s := range id.SlotCount {
		p.place(choice{slot: uint16(s), cost: 0, member: -1})
	}
	for i := range p.held {
		r.owned[i] = len(p.held[i])
		for _, c := range p.held[i] {
			r.owners[c.slot] = uint16(i)
		}
	}
	return r
}

// distinct returns those of members that have a weight, each once, by ID.
func distinct(members []Member) []Member {
	ms := make([]Member, 0, len(members))
	for _, m := range members {
		if m.Weight > 0 {
			m.Weight = min(m.Weight, MaxWeight)
			ms = append(ms, m)
		}
	}
	slices.SortFunc(ms, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(b.Weight, a.Weight))
	})
	return slices.CompactFunc(ms, func(a, b Member) bool { return a.ID == b.ID })
}

// Members returns those that may own slots, by ID. The slice is the ring's.
func (r *Ring) Members() []Member { return r.members }

// Owner returns the place in Members of the one that owns slot s; -1: there are no members, or no such slot.
func (r *Ring) Owner(s id.Slot) int {
	if int(s) >= len(r.owners) || len(r.members) == 0 {
		return -1
	}
	return int(r.owners[s])
}

// Owned returns how many slots the member at place i in Members owns.
func (r *Ring) Owned(i int) int { return r.owned[i] }

// A choice is a slot at a member, and what the slot costs there. Lower is better.
type choice struct {
	cost   uint64
	slot   uint16
	member int32
}

// before orders choices. No two of one slot, and no two of one member, are equal.
func (c choice) before(d choice) bool {
	if c.cost != d.cost {
		return c.cost < d.cost
	}
	if c.member != d.member {
		return c.member < d.member
	}
	return c.slot < d.slot
}

// placement is a stable matching under way: slots ask members from their best choice on, members
// send away the worst they hold when they hold too many. Both sides go by the same costs, so
// the outcome is one and the same whichever slot asks first: as if all pairs of a slot and a
// member were gone through from the lowest cost up, each taken if the slot is free and the member not full.
type placement struct {
	seeds    []uint64
	weights  []uint64
	capacity []int
	held     []held
}

// place finds a member for the slot of last, which was just sent away by last.member; -1: by none yet.
func (p *placement) place(last choice) {
	for {
		last = p.next(last)
		h := &p.held[last.member]
		h.push(last)
		if len(*h) <= p.capacity[last.member] {
			return
		}
		last = h.pop()
	}
}

// next returns the best choice of last's slot behind last.
func (p *placement) next(last choice) choice {
	best := choice{member: -1}
	mixed := mix(uint64(last.slot) + 0x9E3779B97F4A7C15)
	for i, seed := range p.seeds {
		c := choice{cost: log2(mix(seed^mixed)) / p.weights[i], slot: last.slot, member: int32(i)}
		if last.member >= 0 && !last.before(c) {
			continue
		}
		if best.member < 0 || c.before(best) {
			best = c
		}
	}
	return best // there is one: the capacities are enough for all slots
}

// seedOf returns what stands for m in the costs: XXH64 (seed 0) of its ID.
func seedOf(m Member) uint64 { return xxhash.Sum64String(m.ID) }

// mix is the finalizer of SplitMix64: it makes numbers that differ a little differ in all bits.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xBF58476D1CE4E5B9
	x = (x ^ x>>27) * 0x94D049BB133111EB
	return x ^ x>>31
}

// logs holds log2(1 + i/1024), times 2^50. Whole numbers alone make it, because the last bits of
// floating point are not the same on all processors.
var logs = func() (t [1025]uint64) {
	for i := range 1024 {
		x := 1<<63 + uint64(i)<<53 // 1 + i/1024, times 2^63
		for b := 49; b >= 0; b-- {
			hi, lo := bits.Mul64(x, x) // squaring doubles the logarithm; hi is times 2^62
			if hi>>63 != 0 {
				t[i] |= 1 << b
				x = hi
			} else {
				x = hi<<1 | lo>>63
			}
		}
	}
	t[1024] = 1 << 50
	return t
}()

// log2 returns -log2((x|1) / 2^64), times 2^50, within 2^28 of the truth and falling as x grows.
// Of evenly spread x it is exponentially distributed, so that the lowest of several such, each divided by
// a weight, belongs to one in proportion to its weight.
func log2(x uint64) uint64 {
	x |= 1
	lead := bits.LeadingZeros64(x)
	x <<= lead // 1 in the uppermost bit, the fraction behind
	i := x << 1 >> 54
	rest := x << 11 >> 32 // what is behind the 10 bits of i, 32 bits of it
	l := logs[i] + (logs[i+1]-logs[i])>>18*rest>>14
	return uint64(lead+1)<<50 - l
}

// held is a heap with the worst choice at the top.
type held []choice

func (h *held) push(c choice) {
	*h = append(*h, c)
	s := *h
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if !s[up].before(s[i]) {
			break
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
}

func (h *held) pop() choice {
	s := *h
	top := s[0]
	last := len(s) - 1
	s[0] = s[last]
	s = s[:last]
	for i := 0; ; {
		down := 2*i + 1
		if down >= last {
			break
		}
		if right := down + 1; right < last && s[down].before(s[right]) {
			down = right
		}
		if !s[i].before(s[down]) {
			break
		}
		s[i], s[down] = s[down], s[i]
		i = down
	}
	*h = s
	return top
}
