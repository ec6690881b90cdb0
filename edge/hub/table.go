package hub

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/id"
)

// An incarnation (protocol/id says what it is made of) names one connection of one edge. Its
// second is above the one that its slot in the table had before.
const (
	slotBits   = id.ConnPlaceBits
	workerBits = id.ConnWorkerBits
	maxSlots   = 1 << slotBits
	chunkSlots = 1 << 10
)

var errFull = errors.New("the table of connections is full")

// table finds a connection by its incarnation without a lock or a hash.
type table struct {
	worker uint64
	chunks [maxSlots / chunkSlots]atomic.Pointer[chunk]

	mu   sync.Mutex
	used int // slots that exist; those of the last chunk included
	// Free slots, oldest first: a slot isn't used again in the second in which it was.
	free []uint32
	head int
}

type chunk struct {
	conns [chunkSlots]atomic.Pointer[conn.Conn]
	// Guarded by table.mu.
	second [chunkSlots]uint64 // of the slot's latest incarnation
	next   [chunkSlots]uint32 // slot + 1 of the user's next connection; guarded by the user's shard
	seats  [chunkSlots]*seat  // of the connection in audiences; guarded by its user's shard
}

// secondOf is the second of the Unix epoch in which a connection was opened.
func secondOf(incarnation uint64) uint64 { return id.ConnSecond(incarnation) }

func slotOf(incarnation uint64) uint32 { return uint32(incarnation & (maxSlots - 1)) }

func (t *table) chunk(slot uint32) *chunk { return t.chunks[slot/chunkSlots].Load() }

// reserve finds a slot and makes an incarnation of the Unix second now.
func (t *table) reserve(now uint64) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var slot uint32
	if t.head < len(t.free) && t.seconds(t.free[t.head]) < now {
		slot = t.free[t.head]
		t.head++
		if t.head > 1024 && t.head > len(t.free)/2 {
			t.free = append(t.free[:0], t.free[t.head:]...)
			t.head = 0
		}
	} else {
		if t.used == maxSlots {
			return 0, errFull
		}
		slot = uint32(t.used)
		t.used++
		if p := &t.chunks[slot/chunkSlots]; p.Load() == nil {
			p.Store(new(chunk))
		}
	}
	t.chunk(slot).second[slot%chunkSlots] = now
	return now<<(slotBits+workerBits) | t.worker<<slotBits | uint64(slot), nil
}

func (t *table) seconds(slot uint32) uint64 { return t.chunk(slot).second[slot%chunkSlots] }

// put makes c findable.
func (t *table) put(c *conn.Conn) {
	slot := slotOf(c.Incarnation())
	t.chunk(slot).conns[slot%chunkSlots].Store(c)
}

// release gives the slot of an incarnation back.
func (t *table) release(incarnation uint64) {
	slot := slotOf(incarnation)
	t.chunk(slot).conns[slot%chunkSlots].Store(nil)
	t.mu.Lock()
	t.free = append(t.free, slot)
	t.mu.Unlock()
}

// get returns the connection of an incarnation, nil if it is gone.
func (t *table) get(incarnation uint64) *conn.Conn {
	slot := slotOf(incarnation)
	k := t.chunk(slot)
	if k == nil {
		return nil
	}
	if c := k.conns[slot%chunkSlots].Load(); c != nil && c.Incarnation() == incarnation {
		return c
	}
	return nil
}

// slots is how many slots exist.
func (t *table) slots() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.used
}

// each calls fn with the connections in slots from..to-1.
func (t *table) each(from, to int, fn func(c *conn.Conn)) {
	for slot := from; slot < to; slot++ {
		if k := t.chunk(uint32(slot)); k != nil {
			if c := k.conns[slot%chunkSlots].Load(); c != nil {
				fn(c)
			}
		}
	}
}
