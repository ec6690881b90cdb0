package msgstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Timeline reads and writes the logs of conversations. It keeps nothing in memory and
// is safe for concurrent use.
//
// Its reads see what is durable, each as of one moment. Messages that are missing between the head's FirstSeq
// and LastSeq are ErrCorrupt: no read steps over a hole.
type Timeline struct {
	store kv.Store
	keys  Keys
}

// NewTimeline returns the timelines that lie in store under keys.
func NewTimeline(store kv.Store, keys Keys) *Timeline {
	return &Timeline{store: store, keys: keys}
}

// Head returns the conversation's head and its row, which an append requires; both are
// the caller's. raw is nil and the head zero if there is no such conversation.
func (t *Timeline) Head(ctx context.Context, c id.ConversationID) (h Head, raw []byte, err error) {
	var kb [MaxKeyLen]byte
	raw, err = t.store.Get(ctx, t.keys.Head(kb[:0], c))
	if err != nil {
		return Head{}, nil, fmt.Errorf("read head of %s: %w", c, err)
	}
	if raw == nil {
		return Head{}, nil, nil
	}
	if h, err = ParseHead(raw); err != nil {
		return Head{}, nil, fmt.Errorf("conversation %s: %w", c, err)
	}
	return h, raw, nil
}

// Heads returns the heads of several conversations at one moment, in their order; those
// that do not exist are zero.
func (t *Timeline) Heads(ctx context.Context, cs []id.ConversationID) ([]Head, error) {
	raws, err := multiGet(ctx, t.store, len(cs), func(dst []byte, i int) []byte { return t.keys.Head(dst, cs[i]) })
	if err != nil {
		return nil, fmt.Errorf("read %d heads: %w", len(cs), err)
	}
	heads := make([]Head, len(cs))
	for i, raw := range raws {
		if raw == nil {
			continue
		}
		if heads[i], err = ParseHead(raw); err != nil {
			return nil, fmt.Errorf("conversation %s: %w", cs[i], err)
		}
	}
	return heads, nil
}

// multiGet reads n keys, which key appends to what it is given.
func multiGet(ctx context.Context, store kv.Store, n int, key func(dst []byte, i int) []byte) ([][]byte, error) {
	if n == 0 {
		return nil, nil
	}
	keys := make([][]byte, n)
	buf := make([]byte, 0, n*48)
	for i := range keys {
		start := len(buf)
		buf = key(buf, i) // growing leaves the earlier keys in the old array
		keys[i] = buf[start:len(buf):len(buf)]
	}
	return store.MultiGet(ctx, keys)
}

// Range is Log.Range in a log of its own.
func (t *Timeline) Range(ctx context.Context, c id.ConversationID, from, to uint64, limit, maxBytes int) (messages []byte, first, last uint64, err error) {
	first = max(from, 1)
	last = first - 1
	err = t.Read(ctx, c, func(l *Log) (err error) {
		messages, first, last, err = l.Range(nil, from, to, limit, maxBytes)
		return err
	})
	return messages, first, last, err
}

func orMax(n int) int {
	if n <= 0 {
		return math.MaxInt
	}
	return n
}

// ascend calls fn with the segment that holds from, or the first above it, and those that
// follow. The segments alias memory that is valid until fn returns.
func (t *Timeline) ascend(ctx context.Context, c id.ConversationID, from uint64, fn func(Segment) (more bool, err error)) error {
	return t.store.Scan(ctx, t.segmentSpan(c, from, 0), segments(fn))
}

// segmentSpan is the segments from the one that holds from upward.
func (t *Timeline) segmentSpan(c id.ConversationID, from uint64, limit int) kv.Span {
	return t.keys.segmentSpan(new([2][MaxKeyLen]byte), c, from, limit)
}

// segmentSpan is the segments from the one that holds from upward; its keys lie in kb.
func (k Keys) segmentSpan(kb *[2][MaxKeyLen]byte, c id.ConversationID, from uint64, limit int) kv.Span {
	return kv.Span{
		Start: k.Segment(kb[0][:0], c, from),
		End:   prefixEnd(k.Segments(kb[1][:0], c)),
		Limit: limit,
	}
}

// segments is fn as a scan calls it.
func segments(fn func(Segment) (more bool, err error)) func(key, value []byte) (bool, error) {
	return func(key, value []byte) (bool, error) {
		s, err := segmentAt(key, value)
		if err != nil {
			return false, err
		}
		return fn(s)
	}
}

// segmentAt parses a segment and checks it against its key.
func segmentAt(key, value []byte) (Segment, error) {
	s, err := ParseSegment(value)
	if err != nil {
		return s, err
	}
	if last := binary.BigEndian.Uint64(key[len(key)-8:]); last != s.LastSeq() {
		return s, fmt.Errorf("segment of %d to %d lies under %d: %w", s.FirstSeq, s.LastSeq(), last, ErrCorrupt)
	}
	return s, nil
}

// elementTag is the tag of `messages`, field 8 and length-delimited, in DELIVER and its like.
const elementTag = 8<<3 | 2

// element returns the length of the first element of messages, its tag and length included.
func element(messages []byte) (int, error) {
	if len(messages) < 2 || messages[0] != elementTag {
		return 0, fmt.Errorf("a stored message does not begin with its tag: %w", ErrCorrupt)
	}
	size, n := uint64(messages[1]), 1
	if size >= 0x80 {
		size, n = binary.Uvarint(messages[1:])
	}
	if n <= 0 || size > uint64(len(messages)-1-n) {
		return 0, fmt.Errorf("a stored message is longer than its segment: %w", ErrCorrupt)
	}
	return 1 + n + int(size), nil
}

// elements fills starts with where each message of s begins, and after them where the last one ends.
func elements(s Segment, starts []int32) error {
	at := 0
	for i := 0; i < s.Count; i++ {
		starts[i] = int32(at)
		n, err := element(s.Messages[at:])
		if err != nil {
			return fmt.Errorf("message %d: %w", s.FirstSeq+uint64(i), err)
		}
		at += n
	}
	if at != len(s.Messages) {
		return fmt.Errorf("segment of %d to %d holds %d bytes too many: %w", s.FirstSeq, s.LastSeq(), len(s.Messages)-at, ErrCorrupt)
	}
	starts[s.Count] = int32(at)
	return nil
}

// appendPart appends the messages of s that lie in [from, to], up to limit of them and
// until dst has maxBytes, one in any case if dst is empty; n is how many. s holds from.
func appendPart(dst []byte, s Segment, from, to uint64, limit, maxBytes int) (_ []byte, n int, err error) {
	if from == s.FirstSeq && to >= s.LastSeq() && s.Count <= limit && len(s.Messages) <= maxBytes-len(dst) {
		return append(dst, s.Messages...), s.Count, nil
	}
	var starts [MaxSegmentMessages + 1]int32
	if err := elements(s, starts[:]); err != nil {
		return dst, 0, err
	}
	i := int(from - s.FirstSeq)
	j := i
	for j < s.Count && s.FirstSeq+uint64(j) <= to && j-i < limit {
		if size := int(starts[j+1] - starts[i]); size > maxBytes-len(dst) && (j > i || len(dst) > 0) {
			break
		}
		j++
	}
	return append(dst, s.Messages[starts[i]:starts[j]]...), j - i, nil
}

// IDs returns the entries stored for the client message ids of one Unix second, of later appends last.
func (t *Timeline) IDs(ctx context.Context, c id.ConversationID, second int64) ([]IDEntry, error) {
	var kb [2 * MaxKeyLen]byte
	span := kv.Span{
		Start: t.keys.IDSecond(kb[:0:MaxKeyLen], c, second),
		End:   prefixEnd(t.keys.IDSecond(kb[MaxKeyLen:MaxKeyLen], c, second)),
	}
	var es []IDEntry
	err := t.store.Scan(ctx, span, func(_, value []byte) (bool, error) {
		return true, ParseIDs(value, func(e IDEntry) { es = append(es, e) })
	})
	if err != nil {
		return nil, fmt.Errorf("read ids of %s in second %d: %w", c, second, err)
	}
	return es, nil
}

// Create adds to tx what makes the conversation exist, without messages; it conflicts if
// it exists already. now is the Unix ms of the creation.
func (t *Timeline) Create(tx *kv.Tx, c id.ConversationID, now int64) {
	t.Append(tx, c, nil, &Head{FirstSeq: 1, LastTime: now}, nil, nil)
}

// Append adds to tx what stores an append: the head h over the row oldRaw that it was
// made from (nil: no such conversation), which is the fence; segments; ids. It copies
// everything and allocates nothing but what tx grows by.
func (t *Timeline) Append(tx *kv.Tx, c id.ConversationID, oldRaw []byte, h *Head, segs []Segment, ids []IDRow) {
	var kb [MaxKeyLen]byte
	key := t.keys.Head(kb[:0], c)
	tx.Require(key, oldRaw)
	tx.SetFunc(key, h.Append)
	for i := range segs {
		s := &segs[i]
		tx.SetFunc(t.keys.Segment(kb[:0], c, s.LastSeq()), s.Append)
	}
	for i := range ids {
		es := ids[i].Entries
		key := t.keys.IDs(kb[:0], c, ids[i].Second, es[len(es)-1].Seq)
		tx.SetFunc(key, func(dst []byte) []byte { return AppendIDs(dst, es) })
	}
}
