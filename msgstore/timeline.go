package msgstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Timeline reads and writes the logs of conversations. It keeps nothing in memory and
// is safe for concurrent use.
//
// Its reads see what is durable. Messages that are missing between the head's FirstSeq
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

// Range returns messages of [from, to] in ascending order as the repeated field, and the
// range it answers for, first to last: what is not returned of that was removed by
// retention. first is from (at least 1). last is below to where limit (messages),
// maxBytes or the conversation's end cut the answer, and first-1 if it answers for
// nothing. One message is returned however large it is. limit and maxBytes 0: no limit.
// The returned bytes are the caller's.
func (t *Timeline) Range(ctx context.Context, c id.ConversationID, from, to uint64, limit, maxBytes int) (messages []byte, first, last uint64, err error) {
	first, to = max(from, 1), min(to, math.MaxUint64-1)
	messages, last, err = t.rangeUp(ctx, c, first, to, orMax(limit), orMax(maxBytes))
	if err != nil {
		return nil, first, first - 1, fmt.Errorf("read messages %d to %d of %s: %w", first, to, c, err)
	}
	return messages, first, last, nil
}

func orMax(n int) int {
	if n <= 0 {
		return math.MaxInt
	}
	return n
}

func (t *Timeline) rangeUp(ctx context.Context, c id.ConversationID, from, to uint64, limit, maxBytes int) (messages []byte, last uint64, err error) {
	next, missed := from, uint64(0)
	for next <= to {
		var gap uint64 // where the messages go on, if next is missing
		done, held := false, len(messages)
		err := t.ascend(ctx, c, next, func(s Segment) (bool, error) {
			if s.FirstSeq > next {
				gap = s.FirstSeq
				return false, nil
			}
			if messages == nil {
				messages = room(s, limit, to-next, maxBytes)
			}
			n := 0
			var err error
			messages, n, err = appendPart(messages, s, next, to, limit, maxBytes)
			next += uint64(n)
			limit -= n
			done = next > to || next <= s.LastSeq() || limit == 0 || len(messages) >= maxBytes
			return !done, err
		})
		if err != nil {
			return nil, 0, err
		}
		if done {
			break
		}
		if gap != 0 && len(messages) > held {
			return nil, 0, fmt.Errorf("messages %d to %d are missing: %w", next, gap-1, ErrCorrupt)
		}
		// The scan alone can't tell retention, the conversation's end, and a hole apart. The
		// head can: it is read later, and its two ends only go up.
		h, _, err := t.Head(ctx, c)
		if err != nil {
			return nil, 0, err
		}
		switch {
		case gap != 0 && h.FirstSeq < gap:
			return nil, 0, fmt.Errorf("messages %d to %d are missing: %w", next, gap-1, ErrCorrupt)
		case gap == 0 && h.LastSeq < next:
			return messages, next - 1, nil // the end
		case gap != 0 || h.FirstSeq > next: // retention
			if len(messages) > 0 {
				return messages, next - 1, nil // no gap among what is returned
			}
			next = min(max(gap, h.FirstSeq), to+1)
		case missed == next:
			return nil, 0, fmt.Errorf("message %d is missing: %w", next, ErrCorrupt)
		default:
			missed = next // appended after the scan: the next one must see it
		}
	}
	return messages, next - 1, nil
}

// mostRoom bounds what is set aside for messages that aren't read yet.
const mostRoom = 64 << 10

// room returns an empty slice for up to limit messages, of which more follow the next one at
// most, if they are of about the size of those in s: it then doesn't have to grow.
func room(s Segment, limit int, more uint64, maxBytes int) []byte {
	n := limit
	if more < uint64(n) {
		n = int(more) + 1
	}
	each := len(s.Messages)/s.Count + 1
	if n > mostRoom/each {
		n = mostRoom / each
	}
	return make([]byte, 0, max(min(n*(each+each/8), maxBytes), min(len(s.Messages), mostRoom)))
}

// Before returns the newest messages below before, at most limit and maxBytes of them,
// in ascending order as the repeated field; first and last are the seqs of the first and
// the last returned, last is first-1 if there are none. before 0: from the conversation's
// end. One message is returned however large it is. limit and maxBytes 0: no limit. The
// returned bytes are the caller's.
func (t *Timeline) Before(ctx context.Context, c id.ConversationID, before uint64, limit, maxBytes int) (messages []byte, first, last uint64, err error) {
	top := before - 1 // 0 wraps to the top
	top = min(top, math.MaxUint64-1)
	if limit > 0 && before != 0 {
		if messages, first, ok := t.pageUp(ctx, c, top, limit, orMax(maxBytes)); ok {
			return messages, first, top, nil
		}
	}
	for tries := 0; ; tries++ {
		p := pageDown{top: top, limit: orMax(limit), maxBytes: orMax(maxBytes)}
		err = t.pageDown(ctx, c, &p)
		// A page is read in two moments. What was merged or cut between them looks like a
		// hole, but only once.
		if errors.Is(err, ErrCorrupt) && tries < 2 {
			continue
		}
		if err != nil {
			return nil, 1, 0, fmt.Errorf("read messages of %s before %d: %w", c, before, err)
		}
		if p.low == 0 {
			return nil, 1, 0, nil
		}
		return p.ascending(), p.low, p.high, nil
	}
}

// pageUp reads the limit messages up to top from the oldest on, which takes one scan and no
// turning round: half of what going down costs. ok is false if they don't fit, or top isn't there: only
// going down finds the newest ones that do.
func (t *Timeline) pageUp(ctx context.Context, c id.ConversationID, top uint64, limit, maxBytes int) (messages []byte, first uint64, ok bool) {
	from := uint64(1)
	if top > uint64(limit) {
		from = top - uint64(limit) + 1
	}
	messages, last, err := t.rangeUp(ctx, c, from, top, limit, maxBytes)
	if err != nil || last != top || len(messages) == 0 {
		return nil, 0, false
	}
	v, _, verr := packet.NextMessage(messages)
	return messages, v.Seq, verr == nil
}

// pageDown gathers messages from the newest down.
type pageDown struct {
	top             uint64 // nothing above is wanted
	limit, maxBytes int
	low, high       uint64 // of what was taken; 0: nothing yet
	buf             []byte // of each segment, its messages in ascending order; the newest segment first
	ends            []int  // where each segment's part ends
}

// take takes what is wanted of s, which must end right below what was taken before.
func (p *pageDown) take(s Segment) (more bool, err error) {
	if p.low != 0 && s.LastSeq() != p.low-1 {
		return false, fmt.Errorf("messages %d to %d are missing: %w", s.LastSeq()+1, p.low-1, ErrCorrupt)
	}
	n := s.Count // messages of s that are low enough
	if s.LastSeq() > p.top {
		n = int(p.top - s.FirstSeq + 1)
	}
	var starts [MaxSegmentMessages + 1]int32
	if err := elements(s, starts[:]); err != nil {
		return false, err
	}
	end := int(starts[n])
	i := n
	for i > 0 && p.limit > 0 && (end-int(starts[i-1])+len(p.buf) <= p.maxBytes || i == n && len(p.buf) == 0) {
		i--
		p.limit--
	}
	if i < n {
		if p.high == 0 {
			p.high = s.FirstSeq + uint64(n) - 1
		}
		p.low = s.FirstSeq + uint64(i)
		p.buf = append(p.buf, s.Messages[starts[i]:end]...)
		p.ends = append(p.ends, len(p.buf))
	}
	return i == 0 && p.limit > 0 && len(p.buf) < p.maxBytes, nil
}

// ascending puts the parts into the order of their seqs.
func (p *pageDown) ascending() []byte {
	if len(p.ends) == 1 {
		return p.buf
	}
	out := make([]byte, 0, len(p.buf))
	for i := len(p.ends) - 1; i >= 0; i-- {
		start := 0
		if i > 0 {
			start = p.ends[i-1]
		}
		out = append(out, p.buf[start:p.ends[i]]...)
	}
	return out
}

func (t *Timeline) pageDown(ctx context.Context, c id.ConversationID, p *pageDown) error {
	// Segments lie under their last seq: a forward seek finds the one that holds top,
	// which may end far above it; everything else lies below.
	var above uint64 // FirstSeq of the segment found
	more := true
	span := t.segmentSpan(c, p.top, 1)
	err := t.scan(ctx, span, func(s Segment) (bool, error) {
		above = s.FirstSeq
		if s.FirstSeq > p.top {
			return false, nil
		}
		var err error
		more, err = p.take(s)
		return false, err
	})
	if err != nil {
		return err
	}
	if above > p.top {
		return t.checkTrimmed(ctx, c, above)
	}
	if !more {
		return nil
	}
	down := kv.Span{Start: t.keys.Segments(nil, c), End: span.End, Reverse: true}
	if above != 0 {
		down.End = t.keys.Segment(nil, c, above)
	}
	full := false
	err = t.scan(ctx, down, func(s Segment) (bool, error) {
		if s.FirstSeq > p.top { // appended since the seek
			return true, nil
		}
		more, err := p.take(s)
		full = !more
		return more, err
	})
	if err != nil {
		return err
	}
	if !full && p.low != 1 {
		low := p.low
		if low == 0 {
			low = p.top + 1
		}
		if err := t.checkTrimmed(ctx, c, low); err != nil {
			return err
		}
	}
	if above == 0 && p.high < p.top {
		return t.checkEnd(ctx, c, p.high, p.top)
	}
	return nil
}

// checkTrimmed returns ErrCorrupt if messages below first should be there: the store was
// seen to hold none.
func (t *Timeline) checkTrimmed(ctx context.Context, c id.ConversationID, first uint64) error {
	h, _, err := t.Head(ctx, c)
	if err != nil || !h.Exists() || h.FirstSeq >= first || h.LastSeq < h.FirstSeq {
		return err
	}
	if first > h.LastSeq {
		return nil // nothing was found at all: the conversation's end is looked at by itself
	}
	return fmt.Errorf("messages %d to %d are missing: %w", h.FirstSeq, first-1, ErrCorrupt)
}

// checkEnd returns ErrCorrupt if a message above last, up to top, should be there. The
// store was seen to hold none; what was appended since is there now.
func (t *Timeline) checkEnd(ctx context.Context, c id.ConversationID, last, top uint64) error {
	h, _, err := t.Head(ctx, c)
	if err != nil || h.LastSeq <= last || h.FirstSeq > last+1 && h.FirstSeq > top {
		return err
	}
	want := max(last+1, h.FirstSeq)
	if want > h.LastSeq {
		return nil
	}
	found := false
	err = t.ascend(ctx, c, want, func(s Segment) (bool, error) {
		found = s.FirstSeq <= want
		return false, nil
	})
	if err == nil && !found {
		err = fmt.Errorf("message %d is missing: %w", want, ErrCorrupt)
	}
	return err
}

// ascend calls fn with the segment that holds from, or the first above it, and those that
// follow. The segments alias memory that is valid until fn returns.
func (t *Timeline) ascend(ctx context.Context, c id.ConversationID, from uint64, fn func(Segment) (more bool, err error)) error {
	return t.scan(ctx, t.segmentSpan(c, from, 0), fn)
}

// segmentSpan is the segments from the one that holds from upward.
func (t *Timeline) segmentSpan(c id.ConversationID, from uint64, limit int) kv.Span {
	kb := make([]byte, 0, 2*MaxKeyLen)
	return kv.Span{
		Start: t.keys.Segment(kb[:0:MaxKeyLen], c, from),
		End:   prefixEnd(t.keys.Segments(kb[MaxKeyLen:MaxKeyLen], c)),
		Limit: limit,
	}
}

func (t *Timeline) scan(ctx context.Context, span kv.Span, fn func(Segment) (more bool, err error)) error {
	return t.store.Scan(ctx, span, func(key, value []byte) (bool, error) {
		s, err := segmentAt(key, value)
		if err != nil {
			return false, err
		}
		return fn(s)
	})
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
