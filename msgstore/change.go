package msgstore

import (
	"context"
	"fmt"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Trim adds to tx what removes the oldest messages, in whole segments: those that end
// below keep, at most maxSegments of them. It writes h, with its new FirstSeq, over the
// row raw that it was read from, so that whoever appends meanwhile wins or conflicts.
// more says that others end below keep too; without any to remove, tx stays empty.
// The newest message's segment goes only if keep is above LastSeq.
func (t *Timeline) Trim(ctx context.Context, tx *kv.Tx, c id.ConversationID, raw []byte, h *Head, keep uint64, maxSegments int) (more bool, err error) {
	next := h.FirstSeq
	removed := 0
	var kb [MaxKeyLen]byte
	err = t.ascend(ctx, c, next, func(s Segment) (bool, error) {
		if s.FirstSeq != next {
			return false, fmt.Errorf("messages %d to %d are missing: %w", next, s.FirstSeq-1, ErrCorrupt)
		}
		if s.LastSeq() >= keep || s.LastSeq() > h.LastSeq {
			return false, nil
		}
		if removed == maxSegments {
			more = true
			return false, nil
		}
		tx.Delete(t.keys.Segment(kb[:0], c, s.LastSeq()))
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
