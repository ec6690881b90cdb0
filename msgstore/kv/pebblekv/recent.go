package pebblekv

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
)

// recent remembers the latest values of the keys that transactions required lately,
// absence included, so that judging the next requirement of the same key costs no
// read. Only the committing goroutine touches it.
//
// It is a set-associative table in blocks without pointers, into which the garbage collector
// doesn't look, and each of which is made when the first key comes into it. Within a set the slot that
// was used longest ago gives way.
type recent struct {
	seed  maphash.Seed
	mask  uint64
	tick  uint32
	tags  []uint32 // of slot i; 0: empty
	used  []uint32 // tick of the last use of slot i
	slots [][]byte // blocks of blockSlots, nil: empty; slotBytes each: key length u16, value length u16 (0: absent), key, value
}

const (
	ways      = 8
	slotBytes = 384 // a conversation's head with its key takes at most 283
	slotHead  = 4

	blockSlots = 64 // a multiple of ways
)

// newRecent makes room for at least n keys.
func newRecent(n int) *recent {
	sets := 1
	for sets*ways < n {
		sets *= 2
	}
	return &recent{
		seed:  maphash.MakeSeed(),
		mask:  uint64(sets - 1),
		tags:  make([]uint32, sets*ways),
		used:  make([]uint32, sets*ways),
		slots: make([][]byte, (sets*ways+blockSlots-1)/blockSlots),
	}
}

// forget empties the table, and gives its memory back.
func (r *recent) forget() {
	clear(r.tags)
	clear(r.used)
	r.tick = 0
	clear(r.slots)
}

// slot returns the memory of a slot that isn't empty.
func (r *recent) slot(i int) []byte {
	return r.slots[i/blockSlots][i%blockSlots*slotBytes:][:slotBytes]
}

func (r *recent) hash(key []byte) uint64 { return maphash.Bytes(r.seed, key) }

func tagOf(h uint64) uint32 { return uint32(h>>32) | 1 }

// find returns the slot of key, or -1.
func (r *recent) find(h uint64, key []byte) int {
	first, tag := int(h&r.mask)*ways, tagOf(h)
	for i, t := range r.tags[first : first+ways] {
		if t != tag {
			continue
		}
		slot := r.slot(first + i)
		n := int(binary.LittleEndian.Uint16(slot))
		if bytes.Equal(slot[slotHead:slotHead+n], key) {
			r.tick++
			r.used[first+i] = r.tick
			return first + i
		}
	}
	return -1
}

// value returns what slot i holds, empty if its key is absent. It is valid until the next change.
func (r *recent) value(i int) []byte {
	slot := r.slot(i)
	k, v := int(binary.LittleEndian.Uint16(slot)), int(binary.LittleEndian.Uint16(slot[2:]))
	return slot[slotHead+k : slotHead+k+v]
}

// update gives the key of slot i another value (empty: absent), or forgets it if the value is too long.
func (r *recent) update(i int, value []byte) {
	slot := r.slot(i)
	k := int(binary.LittleEndian.Uint16(slot))
	if slotHead+k+len(value) > slotBytes {
		r.tags[i] = 0
		return
	}
	binary.LittleEndian.PutUint16(slot[2:], uint16(len(value)))
	copy(slot[slotHead+k:], value)
}

// insert remembers a key that find didn't know, unless it is too long.
func (r *recent) insert(h uint64, key, value []byte) {
	if slotHead+len(key)+len(value) > slotBytes {
		return
	}
	first := int(h&r.mask) * ways
	victim := first
	for i := first; i < first+ways; i++ {
		if r.tags[i] == 0 {
			victim = i
			break
		}
		if r.tick-r.used[i] > r.tick-r.used[victim] { // the difference survives the tick's wrapping
			victim = i
		}
	}
	r.tick++
	r.tags[victim], r.used[victim] = tagOf(h), r.tick
	if b := &r.slots[victim/blockSlots]; *b == nil {
		*b = make([]byte, blockSlots*slotBytes)
	}
	slot := r.slot(victim)
	binary.LittleEndian.PutUint16(slot, uint16(len(key)))
	binary.LittleEndian.PutUint16(slot[2:], uint16(len(value)))
	copy(slot[slotHead:], key)
	copy(slot[slotHead+len(key):], value)
}
