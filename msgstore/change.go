package msgstore

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Trim adds to tx what removes the oldest messages, in whole segments: those that end
// below keep, at most maxSegments of them. It writes h, with its new FirstSeq, over the
// row raw that it was read from, so that whoever appends meanwhile wins or conflicts, and requires
// the segments as they were, since others may merge them meanwhile.
// more says that others end below keep too; without any to remove, tx stays empty.
// The newest message's segment goes only if keep is above LastSeq.
func (t *Timeline) Trim(ctx context.Context, tx *kv.Tx, c id.ConversationID, raw []byte, h *Head, keep uint64, maxSegments int) (more bool, err error) {
	next := h.FirstSeq
	removed := 0
	err = t.store.Scan(ctx, t.segmentSpan(c, next, 0), func(key, value []byte) (bool, error) {
		s, err := segmentAt(key, value)
		switch {
		case err != nil:
			return false, err
		case s.FirstSeq != next:
			return false, fmt.Errorf("messages %d to %d are missing: %w", next, s.FirstSeq-1, ErrCorrupt)
		case s.LastSeq() >= keep || s.LastSeq() > h.LastSeq:
			return false, nil
		case removed == maxSegments:
			more = true
			return false, nil
		}
		tx.Require(key, value)
		tx.Delete(key)
		removed++
		next = s.LastSeq() + 1
		return true, nil
	})
	if err != nil {
		return false, fmt.Errorf("trim %s below %d: %w", c, keep, err)
	}
	if removed > 0 {
		h.FirstSeq = next
		tx.Frees = true
		t.Append(tx, c, raw, h, nil, nil)
	}
	return more, nil
}

// Rewrite adds to tx what puts message, an element of the repeated field, into the place
// of the message seq; counts false: it counts as unread no longer (recalled). All others
// of the segment are copied byte for byte. A segment that becomes larger than
// MaxSegmentBytes is split. The segment is required as it was read; the append that tells
// of the change is the caller's, in the same tx.
//
// Rewrite touches one segment, so a tx holds one Rewrite per segment at most.
func (t *Timeline) Rewrite(ctx context.Context, tx *kv.Tx, c id.ConversationID, seq uint64, message []byte, counts bool) error {
	if n, err := element(message); err != nil || n != len(message) {
		return fmt.Errorf("rewrite message %d of %s: not one element: %w", seq, c, ErrCorrupt)
	}
	found := false
	err := t.store.Scan(ctx, t.segmentSpan(c, seq, 1), func(key, value []byte) (bool, error) {
		s, err := segmentAt(key, value)
		if err != nil || s.FirstSeq > seq {
			return false, err
		}
		found = true
		tx.Require(key, value)
		return false, t.rewrite(tx, c, s, seq, message, counts)
	})
	if err == nil && !found {
		err = fmt.Errorf("no such message: %w", ErrCorrupt)
	}
	if err != nil {
		return fmt.Errorf("rewrite message %d of %s: %w", seq, c, err)
	}
	return nil
}

func (t *Timeline) rewrite(tx *kv.Tx, c id.ConversationID, s Segment, seq uint64, message []byte, counts bool) error {
	var starts [MaxSegmentMessages + 1]int32
	if err := elements(s, starts[:]); err != nil {
		return err
	}
	var b SegmentBuilder
	b.Reset(s.FirstSeq, s.BaseCountable)
	messages := make([]byte, 0, len(s.Messages)+len(message))
	for i := range s.Count {
		at := s.FirstSeq + uint64(i)
		old := s.Messages[starts[i]:starts[i+1]]
		raised, err := s.raised(at, old)
		if err != nil {
			return err
		}
		put, bit := old, s.Counts(at)
		if at == seq {
			put, bit = message, counts
		}
		messages = append(messages, put...)
		b.add(len(put), bit, raised)
	}
	// The last of the parts has the key of the old segment, the others lie below it.
	var kb [MaxKeyLen]byte
	for _, part := range b.Segments(messages) {
		tx.SetFunc(t.keys.Segment(kb[:0], c, part.LastSeq()), part.Append)
	}
	return nil
}

// raised reports whether the message raised the countable number when it was appended: a
// recall clears the bit and lowers no number. A changed message keeps its type.
func (s *Segment) raised(seq uint64, message []byte) (bool, error) {
	if s.Counts(seq) {
		return true, nil
	}
	v, _, err := packet.NextMessage(message)
	if err != nil {
		return false, fmt.Errorf("message %d: %v: %w", seq, err, ErrCorrupt)
	}
	return v.LastChangeSeq != 0 && packet.Counts(v.Type, v.NoCount), nil
}

// What one step of merging reads of a conversation, and when merging is worth its writes: a message
// is then rewritten a few times until its segment is full, whatever the pace at which others follow.
const (
	mergeRows  = 512 // segments
	mergeBytes = 1 << 20
	mergeBack  = 16 // segments that were looked at before and may grow
	mergeMany  = 16 // segments that are merged however unequal they are
)

// row is a segment as it was read.
type row struct {
	key, value []byte
	s          Segment
}

// lastBefore returns up to which message the segments of c, of which h is the head, hold only what was sent before the
// Unix millisecond before; 0: none do. It reads a few of them, and may be off by as much as the clocks of c's owners differed.
func (t *Timeline) lastBefore(ctx context.Context, c id.ConversationID, h *Head, before int64) (top uint64, err error) {
	if h.LastTime < before {
		return h.LastSeq, nil
	}
	for from, to := h.FirstSeq, h.LastSeq; from <= to; {
		mid := from + (to-from)/2
		below := mid - 1
		span := kv.Span{Start: t.keys.Segment(nil, c, mid), End: append(t.keys.Segment(nil, c, to), 0), Limit: 1}
		err := t.store.Scan(ctx, span, func(key, value []byte) (bool, error) {
			s, err := segmentAt(key, value)
			if err != nil {
				return false, err
			}
			at, err := s.lastTime()
			switch {
			case err != nil:
			case at < before:
				top, below = s.LastSeq(), to
			default:
				below = min(below, s.FirstSeq-1)
			}
			return false, err
		})
		if err != nil {
			return 0, fmt.Errorf("look for segments of %s: %w", c, err)
		}
		from, to = max(from, top+1), below
	}
	return top, nil
}

// merge adds to tx what puts small segments of c together that lie at or below top and hold
// only messages sent before the Unix millisecond before. It goes down until mergeBack segments are from before since. Every segment that it touches is
// required as it was read, as by Rewrite and Trim: the head isn't needed. n is how many rows fewer
// there will be; below is where to go on, 0: nowhere.
func (t *Timeline) merge(ctx context.Context, tx *kv.Tx, c id.ConversationID, top uint64, since, before int64) (n int, below uint64, err error) {
	var rows []row // from the newest down
	size, old := 0, 0
	span := kv.Span{Start: t.keys.Segments(nil, c), End: append(t.keys.Segment(nil, c, top), 0), Reverse: true}
	err = t.store.Scan(ctx, span, func(key, value []byte) (bool, error) {
		s, err := segmentAt(key, value)
		if err != nil {
			return false, err
		}
		at, err := s.lastTime()
		if err != nil || at >= before {
			return err == nil, err
		}
		r := row{key: bytes.Clone(key), value: bytes.Clone(value)}
		if r.s, err = ParseSegment(r.value); err != nil {
			return false, err
		}
		rows = append(rows, r)
		size += len(value)
		if at < since {
			old++
		}
		if old < mergeBack && (len(rows) == mergeRows || size >= mergeBytes) {
			below = r.s.FirstSeq - 1
		}
		return below == 0 && old < mergeBack, nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("merge segments of %s: %w", c, err)
	}
	slices.Reverse(rows)
	for i := 0; i < len(rows); {
		k := mergeable(rows[i:])
		if k == 0 {
			i++
			continue
		}
		if err := t.mergeRun(tx, rows[i:i+k]); err != nil {
			return 0, 0, fmt.Errorf("merge segments of %s: %w", c, err)
		}
		n += k - 1
		i += k
	}
	return n, below, nil
}

// mergeable returns how many of rows, from the first on, are to become one; 0: none.
func mergeable(rows []row) (n int) {
	bytes, count, largest := 0, 0, 0
	for i := range rows {
		s := &rows[i].s
		if i > 0 && s.FirstSeq != rows[i-1].s.LastSeq()+1 {
			break
		}
		bytes += len(s.Messages)
		count += s.Count
		if bytes > MaxSegmentBytes || count > MaxSegmentMessages {
			break
		}
		largest = max(largest, len(s.Messages))
		if i > 0 && (bytes >= 2*largest || i+1 >= mergeMany) {
			n = i + 1
		}
	}
	return n
}

// mergeRun adds to tx what makes one segment of a run that fits, messages byte for byte. It
// lies under the key of the last.
func (t *Timeline) mergeRun(tx *kv.Tx, run []row) error {
	var b SegmentBuilder
	b.Reset(run[0].s.FirstSeq, run[0].s.BaseCountable)
	var messages []byte
	for i := range run {
		s := &run[i].s
		tx.Require(run[i].key, run[i].value)
		if i < len(run)-1 {
			tx.Delete(run[i].key)
		}
		var starts [MaxSegmentMessages + 1]int32
		if err := elements(*s, starts[:]); err != nil {
			return err
		}
		for j := range s.Count {
			counts := s.Counts(s.FirstSeq + uint64(j))
			b.add(int(starts[j+1]-starts[j]), counts, counts) // of the base only the first's is kept
		}
		messages = append(messages, s.Messages...)
	}
	whole := b.Segments(messages)
	if len(whole) != 1 {
		return fmt.Errorf("%d segments became %d", len(run), len(whole))
	}
	tx.SetFunc(run[len(run)-1].key, whole[0].Append)
	return nil
}
