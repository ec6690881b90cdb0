package msgstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
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
// than r, or a conversation's own Keep, lets them be, in whole segments: a message may outlive it by those that were stored with
// it. What tells of these messages (mentions, lists of members) goes after them; so that a crash in between leaves
// nothing, the first pass, one after a pass with an error, and one with slots that the pass before hadn't, looks for such rows everywhere. The head stays and says where what is left begins, and that seqs are never given out
// again; its preview goes with its message. messages is how many were removed; done says that the last
// conversation was reached; the next call begins at the first. A conversation whose head
// keeps changing meanwhile is left for the next pass.
func (s *Sweeper) SweepOld(ctx context.Context, r Retention, budget int) (messages int, done bool, err error) {
	defer func() {
		if s.oldFailed = s.oldFailed || err != nil; done {
			s.thorough, s.oldFailed = s.oldFailed, false
		}
	}()
	for range budget {
		if s.oldFrom == nil {
			s.oldFrom = s.cfg.Keys.All(nil)
			s.thorough = s.gained() || s.thorough
		}
		c, next, err := s.next(ctx, s.oldFrom)
		if err != nil {
			return messages, false, fmt.Errorf("sweep old messages: %w", err)
		}
		s.oldFrom = next
		if next == nil {
			return messages, true, nil
		}
		n, err := s.sweepOldOf(ctx, c, r.Of(c.Kind()))
		messages += n
		if err != nil {
			return messages, false, fmt.Errorf("sweep old messages of %s: %w", c, err)
		}
	}
	return messages, false, nil
}

// sweepOldOf removes the segments of c whose messages are all older than age (0: none is), or
// than the conversation's own retention says, and what tells of them.
func (s *Sweeper) sweepOldOf(ctx context.Context, c id.ConversationID, age time.Duration) (messages int, err error) {
	messages, first, err := s.trimOld(ctx, c, age)
	if err == nil && (messages > 0 || s.thorough && first > 1) {
		err = s.sweepGone(ctx, c, first)
	}
	return messages, err
}

// trimOld removes the segments; first is the conversation's FirstSeq as last seen.
func (s *Sweeper) trimOld(ctx context.Context, c id.ConversationID, age time.Duration) (messages int, first uint64, err error) {
	conflicts := 0
	for {
		keep, own, err := s.timeline.Keep(ctx, c)
		if err != nil {
			return messages, first, err
		}
		if own == nil {
			keep.Age = age
		}
		none := keep.Age <= 0 && keep.Messages == 0
		if none && !s.thorough {
			return messages, first, nil
		}
		h, raw, err := s.timeline.Head(ctx, c)
		if err != nil || raw == nil {
			return messages, first, err
		}
		if first = h.FirstSeq; none || h.FirstSeq > h.LastSeq {
			return messages, first, nil
		}
		upTo, err := s.firstKept(ctx, c, &h, &keep)
		if err != nil || upTo <= h.FirstSeq {
			return messages, first, err
		}
		var tx kv.Tx
		tx.Require(s.cfg.Keys.Keep(nil, c), own)
		if h.PreviewSeq < upTo {
			h.PreviewSeq, h.PreviewType, h.PreviewSender, h.PreviewText = 0, 0, "", nil
		}
		if _, err := s.timeline.Trim(ctx, &tx, c, raw, &h, upTo, retainSegments); err != nil {
			return messages, first, err
		}
		s.cfg.Store.Commit(ctx, &tx)
		switch {
		case tx.Err == nil:
			messages += int(h.FirstSeq - first)
			first = h.FirstSeq
		case errors.Is(tx.Err, kv.ErrConflict), errors.Is(tx.Err, kv.ErrUndetermined):
			if conflicts++; conflicts == 3 {
				return messages, first, nil
			}
		default:
			return messages, first, tx.Err
		}
	}
}

// firstKept returns the first seq of the first segment, among the oldest retainSegments, that holds
// a message to be kept, or what follows them. Messages that the bus hasn't taken are not passed.
func (s *Sweeper) firstKept(ctx context.Context, c id.ConversationID, h *Head, k *Keep) (uint64, error) {
	keep, seen := h.FirstSeq, 0
	since, newest := int64(math.MinInt64), uint64(0) // messages at since and later are kept unless they lie below newest
	if k.Age > 0 {
		since = s.cfg.Now() - k.Age.Milliseconds()
	}
	if k.Messages > 0 && h.LastSeq > k.Messages {
		newest = h.LastSeq - k.Messages + 1
	}
	err := s.timeline.ascend(ctx, c, h.FirstSeq, func(seg Segment) (bool, error) {
		if seg.LastSeq() > min(h.HandedSeq, h.LastSeq) {
			return false, nil
		}
		if seg.LastSeq() >= newest {
			if at, err := seg.lastTime(); err != nil || at >= since {
				return false, err
			}
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

// Keep says how long the messages of one conversation are kept, in the place of what holds
// for its kind. Neither Age nor Messages: for ever.
//
// Row: version, Age in seconds, Messages, Set.
type Keep struct {
	Age      time.Duration // after they were sent, in whole seconds; 0: whatever their age
	Messages uint64        // the newest so many; 0: any number
	Set      int64         // Unix ms when this was decided
}

// Append appends the row to dst.
func (k *Keep) Append(dst []byte) []byte {
	dst = binary.AppendUvarint(append(dst, rowVersion), uint64(k.Age/time.Second))
	dst = binary.AppendUvarint(dst, k.Messages)
	return binary.AppendUvarint(dst, uint64(k.Set))
}

// maxKeepSeconds is the longest Age: a duration can't be longer.
const maxKeepSeconds = uint64(1<<63-1) / uint64(time.Second)

// ParseKeep reads the row of a conversation's own retention.
func ParseKeep(b []byte) (Keep, error) {
	var k Keep
	r := reader{b: b}
	r.version()
	seconds := r.uvarint()
	k.Messages = r.uvarint()
	k.Set = r.time()
	err := r.end()
	if err == nil && seconds > maxKeepSeconds {
		err = ErrCorrupt
	}
	if err != nil {
		return Keep{}, fmt.Errorf("row of a conversation's retention: %w", err)
	}
	k.Age = time.Duration(seconds) * time.Second
	return k, nil
}

// Keep is the key of the conversation's own retention.
func (k Keys) Keep(dst []byte, c id.ConversationID) []byte {
	return k.conversation(dst, c, rowKeep)
}

// Keep returns the conversation's own retention as it is stored, and its row; raw is nil
// where what holds for its kind holds.
func (t *Timeline) Keep(ctx context.Context, c id.ConversationID) (k Keep, raw []byte, err error) {
	var kb [MaxKeyLen]byte
	raw, err = t.store.Get(ctx, t.keys.Keep(kb[:0], c))
	if err == nil && raw != nil {
		k, err = ParseKeep(raw)
	}
	if err != nil {
		return Keep{}, nil, fmt.Errorf("read the retention of %s: %w", c, err)
	}
	return k, raw, nil
}

// SetKeep stores how long the messages of c, which must exist, are kept; nil: as long as
// those of its kind. It holds from the sweeper's next pass on.
func (t *Timeline) SetKeep(ctx context.Context, c id.ConversationID, k *Keep) error {
	var kb [MaxKeyLen]byte
	for {
		_, raw, err := t.Keep(ctx, c)
		if err != nil {
			return err
		}
		if raw == nil && k == nil {
			return nil
		}
		tx, key := new(kv.Tx), t.keys.Keep(kb[:0], c)
		tx.Require(key, raw)
		if k != nil {
			tx.SetFunc(key, k.Append)
		} else {
			tx.Delete(key)
		}
		t.store.Commit(ctx, tx)
		switch {
		case tx.Err == nil:
			return nil
		case errors.Is(tx.Err, kv.ErrConflict) && ctx.Err() == nil:
		default:
			return fmt.Errorf("store the retention of %s: %w", c, tx.Err)
		}
	}
}

// goneRows is how many rows that tell of messages that are gone one transaction removes.
const goneRows = 256

// sweepGone removes what tells of messages of c below first, which are gone: mentions and
// full lists of members. Nobody writes such rows of messages that exist already, so no fence is needed.
func (s *Sweeper) sweepGone(ctx context.Context, c id.ConversationID, first uint64) error {
	lists := s.cfg.Keys.conversation(nil, c, rowMemberList)
	end := binary.BigEndian.AppendUint64(append([]byte(nil), lists...), first)
	if err := s.clear(ctx, lists, end); err != nil {
		return err
	}
	mentions := s.cfg.Keys.conversation(nil, c, rowMention)
	for from, end := mentions, prefixEnd(append([]byte(nil), mentions...)); ; {
		key, err := firstKey(ctx, s.cfg.Store, from, end)
		if err != nil || key == nil {
			return err
		}
		if len(key) < len(mentions)+9 { // for the audit
			from = append(key, 0)
			continue
		}
		// One user's lie together, in order: all below first go, the rest is passed over.
		user := key[:len(key)-8]
		if binary.BigEndian.Uint64(key[len(user):]) < first {
			if err := s.clear(ctx, key, binary.BigEndian.AppendUint64(append([]byte(nil), user...), first)); err != nil {
				return err
			}
		}
		from = prefixEnd(append([]byte(nil), user...))
	}
}

// clear removes the rows of [start, end).
func (s *Sweeper) clear(ctx context.Context, start, end []byte) error {
	for {
		var tx kv.Tx
		tx.Frees = true
		n := 0
		err := s.cfg.Store.Scan(ctx, kv.Span{Start: start, End: end, Limit: goneRows}, func(key, _ []byte) (bool, error) {
			tx.Delete(key)
			n++
			return true, nil
		})
		if err != nil || n == 0 {
			return err
		}
		if s.cfg.Store.Commit(ctx, &tx); tx.Err != nil {
			return tx.Err
		}
		if n < goneRows {
			return nil
		}
	}
}
