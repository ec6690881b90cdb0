package log

import (
	"sync"

	"github.com/gochat-im/gochat/bus"
)

// ring holds the latest events for the consumers of this process. It is bounded in
// events and bytes; the oldest go when it is full, and those that every consumer has
// passed go at once, so that their memory is free.
type ring struct {
	mu     sync.Mutex
	slots  []bus.Event // grows by doubling up to max
	head   uint64      // number of the oldest event held
	tail   uint64      // number of the next event
	bytes  int
	max    int
	maxB   int
	lost   uint64               // the highest offset of which an event went because the ring was full
	cursor map[*consumer]uint64 // number of the event that each takes next
}

func (r *ring) init(events, bytes int) {
	r.max, r.maxB = events, bytes
	r.cursor = make(map[*consumer]uint64)
}

func (r *ring) at(n uint64) *bus.Event { return &r.slots[n%uint64(len(r.slots))] }

// put adds events and wakes the consumers.
func (r *ring) put(evs []bus.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.cursor) == 0 {
		return
	}
	for i := range evs {
		if int(r.tail-r.head) == len(r.slots) {
			if len(r.slots) < r.max {
				r.grow()
			} else {
				r.lose()
			}
		}
		*r.at(r.tail) = evs[i]
		r.tail++
		r.bytes += len(evs[i].Messages)
	}
	for r.bytes > r.maxB && r.tail-r.head > 1 {
		r.lose()
	}
	for c := range r.cursor {
		c.wake()
	}
}

func (r *ring) grow() {
	slots := make([]bus.Event, min(max(64, 2*len(r.slots)), r.max))
	for n := r.head; n < r.tail; n++ {
		slots[n%uint64(len(slots))] = *r.at(n)
	}
	r.slots = slots
}

func (r *ring) lose() {
	r.lost = max(r.lost, r.at(r.head).Offset)
	r.drop()
}

func (r *ring) drop() {
	e := r.at(r.head)
	r.bytes -= len(e.Messages)
	*e = bus.Event{}
	r.head++
}

// join adds a consumer, which gets what is put from now on.
func (r *ring) join(c *consumer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cursor[c] = r.tail
}

func (r *ring) leave(c *consumer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.cursor, c)
	r.passed()
}

// passed lets go of what every consumer has taken.
func (r *ring) passed() {
	low := r.tail
	for _, n := range r.cursor {
		low = min(low, n)
	}
	for r.head < low {
		r.drop()
	}
}

// take appends to dst what follows the offset after in an unbroken row, at most max
// events or those of one offset. If it appends nothing, gap says that there may be
// something to be read from the log: up to the offset below upTo, 0: to its end.
func (r *ring) take(c *consumer, after uint64, dst []bus.Event, max int) (_ []bus.Event, gap bool, upTo uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.cursor[c]
	if n < r.head { // it fell out of the ring
		n, gap = r.head, true
	}
	for ; n < r.tail; n++ {
		e := r.at(n)
		if e.Offset <= after && (len(dst) == 0 || e.Offset != after) {
			continue // had it: read from the log meanwhile
		}
		if e.Offset <= r.lost { // only a part of it may be left
			if gap = true; len(dst) == 0 {
				continue
			}
			break
		}
		if e.Offset > after+1 {
			if len(dst) == 0 {
				gap, upTo = true, e.Offset
			}
			break
		}
		if len(dst) >= max && e.Offset != after {
			break
		}
		dst = append(dst, *e)
		after = e.Offset
	}
	r.cursor[c] = n
	r.passed()
	if len(dst) > 0 {
		gap = false
	}
	return dst, gap, upTo
}
