package msgstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Bounds of a sweep of old messages.
const (
	retainSegments = 64          // removed by one transaction
	retainEvery    = time.Hour   // from the end of a pass to the next
	retainFirst    = time.Minute // to the first pass
)

// Retention says for how long messages are kept after they were sent, by the kind of their
// conversation. 0: for ever.
type Retention struct{ Direct, Group, Self, Room time.Duration }

// Of returns how long messages of conversations of kind k are kept; 0: for ever.
func (r Retention) Of(k id.Kind) time.Duration {
	switch k {
	case id.KindDirect:
		return r.Direct
	case id.KindGroup:
		return r.Group
	case id.KindSelf:
		return r.Self
	case id.KindRoom:
		return r.Room
	}
	return 0
}

// SweepOld looks at up to budget conversations and removes their messages that are older
// than r lets them be, in whole segments: a message may outlive it by those that were stored with
// it. The head stays and says where what is left begins, and that seqs are never given out
// again; its preview goes with its message. messages is how many were removed; done says that the last
// conversation was reached; the next call begins at the first. A conversation whose head
// keeps changing meanwhile is left for the next pass.
func (s *Sweeper) SweepOld(ctx context.Context, r Retention, budget int) (messages int, done bool, err error) {
	if r == (Retention{}) {
		return 0, true, nil
	}
	for range budget {
		if s.oldFrom == nil {
			s.oldFrom = s.cfg.Keys.All(nil)
		}
		c, next, err := nextConversation(ctx, s.cfg.Store, s.cfg.Keys, s.oldFrom)
		if err != nil {
			return messages, false, fmt.Errorf("sweep old messages: %w", err)
		}
		s.oldFrom = next
		if next == nil {
			return messages, true, nil
		}
		keep := r.Of(c.Kind())
		if keep <= 0 {
			continue
		}
		n, err := s.sweepOldOf(ctx, c, s.cfg.Now()-keep.Milliseconds())
		messages += n
		if err != nil {
			return messages, false, fmt.Errorf("sweep old messages of %s: %w", c, err)
		}
	}
	return messages, false, nil
}

// sweepOldOf removes the segments of c whose messages were all sent before the Unix millisecond before.
func (s *Sweeper) sweepOldOf(ctx context.Context, c id.ConversationID, before int64) (messages int, err error) {
	conflicts := 0
	for {
		h, raw, err := s.timeline.Head(ctx, c)
		if err != nil || raw == nil || h.FirstSeq > h.LastSeq {
			return messages, err
		}
		keep, err := s.firstSince(ctx, c, &h, before)
		if err != nil || keep <= h.FirstSeq {
			return messages, err
		}
		var tx kv.Tx
		first := h.FirstSeq
		if h.PreviewSeq < keep {
			h.PreviewSeq, h.PreviewType, h.PreviewSender, h.PreviewText = 0, 0, "", nil
		}
		if _, err := s.timeline.Trim(ctx, &tx, c, raw, &h, keep, retainSegments); err != nil {
			return messages, err
		}
		s.cfg.Store.Commit(ctx, &tx)
		switch {
		case tx.Err == nil:
			messages += int(h.FirstSeq - first)
		case errors.Is(tx.Err, kv.ErrConflict), errors.Is(tx.Err, kv.ErrUndetermined):
			if conflicts++; conflicts == 3 {
				return messages, nil
			}
		default:
			return messages, tx.Err
		}
	}
}

// firstSince returns the first seq of the first segment, among the oldest retainSegments, that holds
// a message sent at or after the Unix millisecond since, or what follows them. Messages that
// the bus hasn't taken are not passed.
func (s *Sweeper) firstSince(ctx context.Context, c id.ConversationID, h *Head, since int64) (uint64, error) {
	keep, seen := h.FirstSeq, 0
	err := s.timeline.ascend(ctx, c, h.FirstSeq, func(seg Segment) (bool, error) {
		at, err := seg.lastTime()
		if err != nil {
			return false, err
		}
		if at >= since || seg.LastSeq() > min(h.HandedSeq, h.LastSeq) {
			return false, nil
		}
		keep = seg.LastSeq() + 1
		seen++
		return seen < retainSegments, nil
	})
	return keep, err
}

// lastTime is when the newest message was sent, in Unix ms: times never decrease.
func (s *Segment) lastTime() (int64, error) {
	var at int64
	for rest := s.Messages; len(rest) > 0; {
		v, next, err := packet.NextMessage(rest)
		if err != nil {
			return 0, fmt.Errorf("segment of messages %d to %d: %w", s.FirstSeq, s.LastSeq(), ErrCorrupt)
		}
		at, rest = v.ID.UnixMilli(), next
	}
	return at, nil
}
