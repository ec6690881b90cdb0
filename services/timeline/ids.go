package timeline

import (
	"math/bits"
	"math/rand/v2"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
)

// Bounds of a conversation's memory of ids.
const (
	generationSpan = 2000    // ms of id time in one generation
	generationMin  = 16      // ids below which a generation isn't closed: a look-up costs more than keeping them
	maxIDs         = 1 << 16 // ids in memory; then the older generation goes, whatever its age
	maxSeconds     = 8       // seconds looked up and kept
	keepEntries    = 1 << 12 // a table that grew larger than this is not reused
)

// idEntry says which message an id became.
type idEntry struct {
	hash uint64 // msgstore.IDHash
	seq  uint64
	body uint64
	mid  id.MessageID // 0: not read yet
}

// idTable finds entries by hash. Entries are only added.
type idTable struct {
	entries []idEntry
	index   []uint64 // open addressing; upper half of the hash, number of the entry + 1; nil while there are few
}

func (t *idTable) find(hash uint64) *idEntry {
	if t.index == nil {
		for i := range t.entries {
			if t.entries[i].hash == hash {
				return &t.entries[i]
			}
		}
		return nil
	}
	mask := uint64(len(t.index) - 1)
	for i := t.slot(hash); ; i = (i + 1) & mask {
		n := t.index[i]
		if n == 0 {
			return nil
		}
		if n>>32 == hash>>32 { // entries that can't match are not touched: they are not in the cache
			if e := &t.entries[uint32(n)-1]; e.hash == hash {
				return e
			}
		}
	}
}

func (t *idTable) add(e idEntry) {
	t.entries = append(t.entries, e)
	n := len(t.entries)
	switch {
	case t.index == nil && n <= 8:
		return
	case n*2 > len(t.index):
		t.grow(n)
		return
	}
	t.insert(e.hash, n)
}

// spread places hashes in tables. Senders choose their ids and can compute the hash of
// one; without a factor they don't know they could make all of theirs collide.
var spread = rand.Uint64() | 1

// slot returns where in the index a hash is looked for first.
func (t *idTable) slot(hash uint64) uint64 {
	return hash * spread >> (64 - bits.TrailingZeros(uint(len(t.index))))
}

func (t *idTable) insert(hash uint64, n int) {
	mask := uint64(len(t.index) - 1)
	i := t.slot(hash)
	for t.index[i] != 0 {
		i = (i + 1) & mask
	}
	t.index[i] = hash>>32<<32 | uint64(n)
}

func (t *idTable) grow(n int) {
	t.index = make([]uint64, max(64, 1<<bits.Len(uint(n*2))))
	for i := range t.entries {
		t.insert(t.entries[i].hash, i+1)
	}
}

func (t *idTable) reset() {
	if cap(t.entries) > keepEntries {
		*t = idTable{}
		return
	}
	t.entries = t.entries[:0]
	clear(t.index)
}

// idSecond is one second of ids as read from the store, and what was added since.
type idSecond struct {
	second int64
	table  idTable
}

// idMemory is what is known of the ids stored in one conversation. It holds all ids
// of the Unix millisecond complete and later, in two generations by id time, and all
// ids of the seconds that were looked up. It is right only as long as the head that
// it was loaded with is followed by our own appends alone, which each commit proves.
type idMemory struct {
	complete int64 // from here on, by id time, what isn't in memory isn't stored
	split    int64 // ids of this time and later are in recent, others in old
	latest   int64 // the latest id time there is: a later id is new
	recent   idTable
	old      idTable
	seconds  []idSecond
}

// reset forgets everything; nothing of the time complete or later is stored.
func (m *idMemory) reset(complete int64) {
	m.complete, m.split, m.latest = complete, complete, complete-1
	m.recent.reset()
	m.old.reset()
	m.seconds = nil
}

func (m *idMemory) second(second int64) *idTable {
	for i := range m.seconds {
		if m.seconds[i].second == second {
			return &m.seconds[i].table
		}
	}
	return nil
}

// find returns the entry of an id of the time ms, which is complete or later, or in a
// second that is loaded; nil: it is new. The entry may be written to until the next add.
func (m *idMemory) find(hash uint64, ms int64) *idEntry {
	switch {
	case ms > m.latest:
		return nil
	case ms >= m.split:
		return m.recent.find(hash)
	case ms >= m.complete:
		return m.old.find(hash)
	}
	return m.second(msgstore.IDSecondOf(ms)).find(hash)
}

// add takes a new id of the time ms, which is as for find.
func (m *idMemory) add(ms int64, e idEntry) {
	m.latest = max(m.latest, ms)
	switch {
	case ms >= m.split:
		m.recent.add(e)
	case ms >= m.complete:
		m.old.add(e)
	default:
		m.second(msgstore.IDSecondOf(ms)).add(e)
	}
}

// turn begins a new generation if the recent one has come to its end. It is called between
// runs: what is complete stays as it was when the run was prepared.
func (m *idMemory) turn() {
	n := len(m.recent.entries)
	if m.latest-m.split >= generationSpan && n >= generationMin || n >= maxIDs/2 || len(m.old.entries) >= maxIDs {
		m.rotate()
	}
}

// rotate forgets the older generation and begins a new one behind the latest id.
func (m *idMemory) rotate() {
	// A second that was complete only together with the generation that goes must be looked up again.
	kept := m.seconds[:0]
	for _, s := range m.seconds {
		if (s.second+1)*1000 <= m.complete {
			kept = append(kept, s)
		}
	}
	clear(m.seconds[len(kept):])
	m.seconds = kept
	m.complete, m.split = m.split, m.latest+1
	m.old, m.recent = m.recent, m.old
	m.recent.reset()
}

// keep makes room for one more second among those looked up, sparing those in use.
func (m *idMemory) keep(inUse []int64) {
	kept := m.seconds[:0]
	for _, s := range m.seconds {
		for _, u := range inUse {
			if s.second == u {
				kept = append(kept, s)
				break
			}
		}
	}
	clear(m.seconds[len(kept):])
	m.seconds = kept
}

// loadedIDs counts the ids in the seconds looked up.
func (m *idMemory) loadedIDs() int {
	n := 0
	for i := range m.seconds {
		n += len(m.seconds[i].table.entries)
	}
	return n
}

// behind reports whether a look-up found a message that the head in memory is without: it
// was stored after the head was read, late or by another owner. Such a message may be acked
// only once the head is read again: only that sees to it that a bus apart has it. (A run that
// has a transaction learns by a conflict that its head is behind.)
func (s *Sequencer) behind(ru *run) bool {
	outs := s.round.outs[ru.start:ru.end]
	for i := range outs {
		if outs[i].dup && outs[i].seq > ru.c.head.LastSeq {
			return true
		}
	}
	return false
}
