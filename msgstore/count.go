package msgstore

import (
	"context"
	"fmt"
	"math/bits"
	"slices"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Unread counts the messages above after, up to to, that count, were not recalled and
// were not sent by user, oldest first; it stops at limit (0: none). What retention
// removed is not counted.
func (t *Timeline) Unread(ctx context.Context, c id.ConversationID, after, to uint64, user id.UserID, limit int) (int, error) {
	n, next := 0, after+1
	limit = orMax(limit)
	err := t.ascend(ctx, c, next, func(s Segment) (bool, error) {
		if s.FirstSeq > next && next != after+1 {
			return false, fmt.Errorf("messages %d to %d are missing: %w", next, s.FirstSeq-1, ErrCorrupt)
		}
		m, err := s.unread(max(next, s.FirstSeq), to, user, limit-n)
		n += m
		next = s.LastSeq() + 1
		return n < limit && next <= to, err
	})
	if err != nil {
		return 0, fmt.Errorf("count unread of %s above %d: %w", c, after, err)
	}
	return n, nil
}

// unread counts messages of [from, to] that lie in s, up to limit.
func (s *Segment) unread(from, to uint64, user id.UserID, limit int) (n int, err error) {
	if s.counted(to) == s.counted(from-1) {
		return 0, nil
	}
	rest := s.Messages
	for i := 0; i < s.Count && n < limit; i++ {
		seq := s.FirstSeq + uint64(i)
		if seq > to {
			break
		}
		size, err := element(rest)
		if err != nil {
			return 0, fmt.Errorf("message %d: %w", seq, err)
		}
		if seq >= from && s.Counts(seq) {
			v, _, err := packet.NextMessage(rest[:size])
			if err != nil {
				return 0, fmt.Errorf("message %d: %v: %w", seq, err, ErrCorrupt)
			}
			if string(v.Sender) != string(user) {
				n++
			}
		}
		rest = rest[size:]
	}
	return n, nil
}

// counted returns how many bits are set for messages up to seq.
func (s *Segment) counted(seq uint64) int {
	if seq < s.FirstSeq {
		return 0
	}
	n := min(int(min(seq-s.FirstSeq, MaxSegmentMessages))+1, s.Count)
	total := 0
	for _, b := range s.Countable[:n/8] {
		total += bits.OnesCount8(b)
	}
	if n%8 != 0 {
		total += bits.OnesCount8(s.Countable[n/8] & (1<<(n%8) - 1))
	}
	return total
}

// CountableAt returns the conversation's countable number at seq: how many messages up
// to seq count. A cursor keeps it, and while it equals the head's, nothing above the
// cursor counts. Where messages were recalled it may be too low, which costs a count and
// is never wrong.
func (t *Timeline) CountableAt(ctx context.Context, c id.ConversationID, seq uint64) (uint64, error) {
	if seq == 0 {
		return 0, nil
	}
	var at uint64
	found := false
	err := t.ascend(ctx, c, seq, func(s Segment) (bool, error) {
		at, found = s.BaseCountable+uint64(s.counted(seq)), true
		return false, nil
	})
	if err != nil {
		return 0, fmt.Errorf("countable number of %s at %d: %w", c, seq, err)
	}
	if found {
		return at, nil
	}
	// Nothing is stored from seq on: seq is above the end, or retention took everything,
	// or messages were appended since. The head may be too new then, which would make
	// unread messages vanish, so only a head that ends at or below seq is taken.
	h, _, err := t.Head(ctx, c)
	if err != nil || h.LastSeq > seq {
		return 0, err
	}
	return h.Countable, nil
}

// mentionBatch is how many mentions are looked at together.
const mentionBatch = 256

// Mentioning returns the seqs in [from, to] of messages that mention user, or everyone,
// and that somebody else sent: ascending, each once, up to limit (0: all). Messages that
// were removed or recalled are left out, with unread also those that don't count as unread.
func (t *Timeline) Mentioning(ctx context.Context, c id.ConversationID, user id.UserID, from, to uint64, unread bool, limit int) ([]uint64, error) {
	m := Mentions{t.store, t.keys}
	limit = orMax(limit)
	var out []uint64
	for from <= to && len(out) < limit {
		own, err := m.Scan(ctx, c, user, from, to, mentionBatch)
		if err != nil {
			return nil, err
		}
		all, err := m.Scan(ctx, c, "", from, to, mentionBatch)
		if err != nil {
			return nil, err
		}
		end := to // the two lists are complete up to here
		for _, list := range [][]uint64{own, all} {
			if len(list) == mentionBatch {
				end = min(end, list[mentionBatch-1])
			}
		}
		seqs := append(own, all...)
		slices.Sort(seqs)
		seqs = slices.Compact(seqs)
		if i, found := slices.BinarySearch(seqs, end); found {
			seqs = seqs[:i+1]
		} else {
			seqs = seqs[:i]
		}
		if out, err = t.fromOthers(ctx, c, seqs, user, unread, limit, out); err != nil {
			return nil, fmt.Errorf("read messages of %s that mention somebody: %w", c, err)
		}
		if end == to {
			break
		}
		from = end + 1
	}
	return out, nil
}

// fromOthers appends to out, up to limit in all, those of seqs that user didn't send.
func (t *Timeline) fromOthers(ctx context.Context, c id.ConversationID, seqs []uint64, user id.UserID, unread bool, limit int, out []uint64) ([]uint64, error) {
	for len(seqs) > 0 && len(out) < limit {
		found := false
		err := t.ascend(ctx, c, seqs[0], func(s Segment) (bool, error) {
			found = true
			for len(seqs) > 0 && seqs[0] < s.FirstSeq {
				seqs = seqs[1:] // removed by retention
			}
			var starts [MaxSegmentMessages + 1]int32
			if len(seqs) > 0 && seqs[0] <= s.LastSeq() {
				if err := elements(s, starts[:]); err != nil {
					return false, err
				}
			}
			for len(seqs) > 0 && seqs[0] <= s.LastSeq() && len(out) < limit {
				seq := seqs[0]
				seqs = seqs[1:]
				i := seq - s.FirstSeq
				v, _, err := packet.NextMessage(s.Messages[starts[i]:starts[i+1]])
				if err != nil {
					return false, fmt.Errorf("message %d: %v: %w", seq, err, ErrCorrupt)
				}
				recalled := v.LastChangeSeq != 0 && packet.Counts(v.Type, v.NoCount) && !s.Counts(seq)
				if string(v.Sender) != string(user) && !recalled && (!unread || s.Counts(seq)) {
					out = append(out, seq)
				}
			}
			// The next one may lie far ahead: seek to it, unless it is in the very next segment.
			return len(seqs) > 0 && len(out) < limit && seqs[0]-s.LastSeq() <= MaxSegmentMessages, nil
		})
		if err != nil {
			return nil, err
		}
		if !found {
			break // nothing is stored from there on
		}
	}
	return out, nil
}
