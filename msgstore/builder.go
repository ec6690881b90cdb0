package msgstore

import (
	"fmt"
	"slices"
)

// SegmentBuilder cuts the messages of one append into segments. Its memory is reused:
// after a few appends it allocates nothing. Not for concurrent use.
//
// The messages are encoded one after the other into one buffer of the caller's, with
// one Add for each; Segments then hands out the parts of that buffer.
type SegmentBuilder struct {
	nextSeq   uint64
	countable uint64
	size      int
	cuts      []segmentCut
	bits      []byte
	segments  []Segment
}

type segmentCut struct {
	firstSeq, base uint64
	count          int
	start, bits    int // where its messages and its bitmap begin
}

// Reset empties the builder for an append that begins at firstSeq, after messages of
// which baseCountable count (Head.Countable before the append).
func (b *SegmentBuilder) Reset(firstSeq, baseCountable uint64) {
	b.nextSeq, b.countable, b.size = firstSeq, baseCountable, 0
	b.cuts, b.bits = b.cuts[:0], b.bits[:0]
	clear(b.segments) // they pin the caller's buffers
	b.segments = b.segments[:0]
}

// Add takes note of the next message, which takes size bytes as an element of the
// repeated field, tag and length included; counts says that it counts as unread.
func (b *SegmentBuilder) Add(size int, counts bool) { b.add(size, counts, counts) }

// add is Add for messages that may have been recalled: they raised the number once and
// have no bit any more.
func (b *SegmentBuilder) add(size int, counts, raised bool) {
	n := len(b.cuts)
	if n == 0 || b.cuts[n-1].count == MaxSegmentMessages || b.size+size-b.cuts[n-1].start > MaxSegmentBytes {
		b.cuts = append(b.cuts, segmentCut{firstSeq: b.nextSeq, base: b.countable, start: b.size, bits: len(b.bits)})
		n++
	}
	c := &b.cuts[n-1]
	if c.count%8 == 0 {
		b.bits = append(b.bits, 0)
	}
	if counts {
		b.bits[len(b.bits)-1] |= 1 << (c.count % 8)
	}
	if raised {
		b.countable++
	}
	c.count++
	b.nextSeq++
	b.size += size
}

// Countable returns the conversation's countable number after what was added.
func (b *SegmentBuilder) Countable() uint64 { return b.countable }

// Segments returns the segments of everything added. messages are all the messages in
// order; it panics if their size is not that of what was added, since storing them
// would lose messages. The result aliases messages and the builder, until Reset.
func (b *SegmentBuilder) Segments(messages []byte) []Segment {
	if len(messages) != b.size {
		panic(fmt.Sprintf("msgstore: %d bytes of messages, added %d", len(messages), b.size))
	}
	b.segments = b.segments[:0]
	for i := range b.cuts {
		c := &b.cuts[i]
		end, bitsEnd := b.size, len(b.bits)
		if i+1 < len(b.cuts) {
			end, bitsEnd = b.cuts[i+1].start, b.cuts[i+1].bits
		}
		b.segments = append(b.segments, Segment{
			FirstSeq: c.firstSeq, Count: c.count, BaseCountable: c.base,
			Countable: b.bits[c.bits:bitsEnd:bitsEnd],
			Messages:  messages[c.start:end:end],
		})
	}
	return b.segments
}

// IDRow is what one append adds to the ids of one second.
type IDRow struct {
	Second  int64     // Unix second inside the ClientMsgIDs
	Entries []IDEntry // ascending by Seq, not empty
}

// IDBuilder sorts the ids of one append by their second. Its memory is reused. Not for
// concurrent use.
type IDBuilder struct {
	seconds []int64 // of entries
	entries []IDEntry
	rows    []IDRow
}

// Reset empties the builder.
func (b *IDBuilder) Reset() {
	b.seconds, b.entries, b.rows = b.seconds[:0], b.entries[:0], b.rows[:0]
}

// Add takes an id made at the Unix millisecond ms. Entries come in ascending order of Seq.
func (b *IDBuilder) Add(ms int64, e IDEntry) {
	b.seconds = append(b.seconds, IDSecondOf(ms))
	b.entries = append(b.entries, e)
}

// IDSecondOf returns the second under which an id made at the Unix millisecond ms is stored.
func IDSecondOf(ms int64) int64 { return ms / 1000 }

// Rows returns a row for each second, ascending. The result is the builder's, until Reset.
func (b *IDBuilder) Rows() []IDRow {
	if !slices.IsSorted(b.seconds) {
		b.sort()
	}
	b.rows = b.rows[:0]
	for i := 0; i < len(b.seconds); {
		j := i + 1
		for j < len(b.seconds) && b.seconds[j] == b.seconds[i] {
			j++
		}
		b.rows = append(b.rows, IDRow{Second: b.seconds[i], Entries: b.entries[i:j:j]})
		i = j
	}
	return b.rows
}

// sort orders both slices by second, then seq. Appends whose ids are not in the order
// of time are rare and small, so this may allocate.
func (b *IDBuilder) sort() {
	type pair struct {
		second int64
		entry  IDEntry
	}
	pairs := make([]pair, len(b.entries))
	for i := range pairs {
		pairs[i] = pair{b.seconds[i], b.entries[i]}
	}
	slices.SortStableFunc(pairs, func(x, y pair) int {
		switch {
		case x.second < y.second:
			return -1
		case x.second > y.second:
			return 1
		}
		return 0
	})
	for i, p := range pairs {
		b.seconds[i], b.entries[i] = p.second, p.entry
	}
}
