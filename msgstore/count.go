package msgstore

import (
	"context"
	"fmt"
	"math/bits"

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
