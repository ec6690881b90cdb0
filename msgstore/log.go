package msgstore

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Log is the messages of one conversation, its head and its members, as of one moment. They lie side by
// side, so all of them are one trip through the store.
type Log struct {
	t    *Timeline
	c    id.ConversationID
	view kv.View

	head    Head
	known   bool // head was read
	headRow [MaxHeadBytes]byte

	bounds, span [2][MaxKeyLen]byte // memory of keys, of what is read and of the scan under way
	headKey      [MaxKeyLen]byte
}

var logs = sync.Pool{New: func() any { return new(Log) }}

// Read calls fn with the log of c, which is valid until fn returns, and returns fn's error.
func (t *Timeline) Read(ctx context.Context, c id.ConversationID, fn func(l *Log) error) error {
	l := logs.Get().(*Log)
	defer func() {
		l.t, l.view, l.head, l.known = nil, nil, Head{}, false
		logs.Put(l)
	}()
	l.t, l.c = t, c
	start := t.keys.Member(l.bounds[0][:0], c, "")
	end := prefixEnd(t.keys.Head(l.bounds[1][:0], c)) // a head's key is nobody else's prefix
	err := t.store.View(ctx, start, end, func(v kv.View) error {
		l.view = v
		return fn(l)
	})
	if err != nil && l.view == nil {
		return fmt.Errorf("read messages of %s: %w", c, err)
	}
	return err
}

// Head returns the conversation's head, zero if there is no such conversation. PreviewText is the log's.
func (l *Log) Head() (Head, error) {
	if l.known {
		return l.head, nil
	}
	raw, err := l.view.Get(l.t.keys.Head(l.headKey[:0], l.c))
	if err != nil {
		return Head{}, fmt.Errorf("read head of %s: %w", l.c, err)
	}
	if raw != nil {
		if l.head, err = ParseHead(append(l.headRow[:0], raw...)); err != nil {
			return Head{}, fmt.Errorf("conversation %s: %w", l.c, err)
		}
	}
	l.known = true
	return l.head, nil
}

// Members is Members.Scan from the beginning.
func (l *Log) Members(limit int) ([]MemberOf, error) {
	span := l.t.keys.memberSpan(l.c, limit)
	var rows []MemberOf
	if err := l.view.Scan(span, gather(&rows, span)); err != nil {
		return nil, fmt.Errorf("read members of %s: %w", l.c, err)
	}
	return rows, nil
}

// Range returns messages of [from, to] in ascending order as the repeated field, and the
// range it answers for, first to last: what is not returned of that was removed by
// retention. first is from (at least 1). last is below to where limit (messages),
// maxBytes or the conversation's end cut the answer, and first-1 if it answers for
// nothing. One message is returned however large it is. limit and maxBytes 0: no limit.
// The returned bytes are the caller's; they lie in buf, from its beginning on, if it has room for them.
func (l *Log) Range(buf []byte, from, to uint64, limit, maxBytes int) (messages []byte, first, last uint64, err error) {
	first, to = max(from, 1), min(to, math.MaxUint64-1)
	messages, last, err = l.up(buf[:0], first, to, orMax(limit), orMax(maxBytes))
	if err != nil {
		return nil, first, first - 1, fmt.Errorf("read messages %d to %d of %s: %w", first, to, l.c, err)
	}
	return messages, first, last, nil
}

// up reads from the oldest on.
func (l *Log) up(messages []byte, from, to uint64, limit, maxBytes int) (_ []byte, last uint64, err error) {
	next := from
	for next <= to {
		var gap uint64 // where the messages go on, if next is missing
		done := false
		err := l.scan(l.t.keys.segmentSpan(&l.span, l.c, next, 0), func(s Segment) (bool, error) {
			if s.FirstSeq > next {
				gap = s.FirstSeq
				return false, nil
			}
			if cap(messages) == 0 {
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
		// The scan alone can't tell retention, the conversation's end, and a hole apart.
		h, err := l.Head()
		if err != nil {
			return nil, 0, err
		}
		switch {
		case gap == 0 && h.LastSeq < next: // the end
			return messages, next - 1, nil
		case gap == 0 && h.FirstSeq <= next:
			return nil, 0, fmt.Errorf("message %d is missing: %w", next, ErrCorrupt)
		case gap != 0 && (h.FirstSeq < gap || len(messages) > 0):
			return nil, 0, fmt.Errorf("messages %d to %d are missing: %w", next, gap-1, ErrCorrupt)
		case len(messages) > 0: // no gap among what is returned
			return messages, next - 1, nil
		}
		next = min(max(gap, h.FirstSeq), to+1) // retention
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
// returned bytes are the caller's; they lie in buf, from its beginning on, if it has room for them.
func (l *Log) Before(buf []byte, before uint64, limit, maxBytes int) (messages []byte, first, last uint64, err error) {
	top := before - 1 // 0 wraps to the top
	top = min(top, math.MaxUint64-1)
	if limit > 0 && before != 0 {
		if messages, first, ok := l.Page(buf, top, limit, maxBytes); ok {
			return messages, first, top, nil
		}
	}
	p := pageDown{top: top, limit: orMax(limit), maxBytes: orMax(maxBytes)}
	if err := l.pageDown(&p); err != nil {
		return nil, 1, 0, fmt.Errorf("read messages of %s before %d: %w", l.c, before, err)
	}
	if p.low == 0 {
		return nil, 1, 0, nil
	}
	return p.ascending(buf[:0]), p.low, p.high, nil
}

// Page reads the limit messages up to top from the oldest on, which takes one scan and no
// turning round: half of what going down costs. It needs no head, and a head that is read afterwards costs little if it
// lies close behind. ok is false if they don't fit, or top isn't there: only going down, as Before does, finds the newest
// ones that do. The returned bytes are the caller's; they lie in buf, from its beginning on, if it has room for them.
func (l *Log) Page(buf []byte, top uint64, limit, maxBytes int) (messages []byte, first uint64, ok bool) {
	from := uint64(1)
	if top > uint64(limit) {
		from = top - uint64(limit) + 1
	}
	messages, last, err := l.up(buf[:0], from, top, limit, orMax(maxBytes))
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

// ascending appends the parts to dst in the order of their seqs.
func (p *pageDown) ascending(dst []byte) []byte {
	for i := len(p.ends) - 1; i >= 0; i-- {
		start := 0
		if i > 0 {
			start = p.ends[i-1]
		}
		dst = append(dst, p.buf[start:p.ends[i]]...)
	}
	return dst
}

func (l *Log) pageDown(p *pageDown) error {
	// Segments lie under their last seq: a forward seek finds the one that holds top,
	// which may end far above it; everything else lies below.
	var above uint64 // FirstSeq of the segment found
	more := true
	span := l.t.keys.segmentSpan(&l.span, l.c, p.top, 1)
	err := l.scan(span, func(s Segment) (bool, error) {
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
		return l.checkTrimmed(above)
	}
	if !more {
		return nil
	}
	down := kv.Span{Start: l.t.keys.Segments(nil, l.c), End: span.End, Reverse: true}
	if above != 0 {
		down.End = l.t.keys.Segment(nil, l.c, above)
	}
	full := false
	err = l.scan(down, func(s Segment) (bool, error) {
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
		if err := l.checkTrimmed(low); err != nil {
			return err
		}
	}
	if above == 0 && p.high < p.top {
		return l.checkEnd(p.high, p.top)
	}
	return nil
}

// checkTrimmed returns ErrCorrupt if messages below first should be there, where none are.
func (l *Log) checkTrimmed(first uint64) error {
	h, err := l.Head()
	if err != nil || !h.Exists() || h.FirstSeq >= first || h.LastSeq < h.FirstSeq {
		return err
	}
	if first > h.LastSeq {
		return nil // nothing was found at all: the conversation's end is looked at by itself
	}
	return fmt.Errorf("messages %d to %d are missing: %w", h.FirstSeq, first-1, ErrCorrupt)
}

// checkEnd returns ErrCorrupt if a message above last, up to top, should be there, where none are.
func (l *Log) checkEnd(last, top uint64) error {
	h, err := l.Head()
	if err != nil || h.LastSeq <= last || h.FirstSeq > last+1 && h.FirstSeq > top {
		return err
	}
	if want := max(last+1, h.FirstSeq); want <= h.LastSeq {
		return fmt.Errorf("message %d is missing: %w", want, ErrCorrupt)
	}
	return nil
}

func (l *Log) scan(span kv.Span, fn func(Segment) (more bool, err error)) error {
	return l.view.Scan(span, segments(fn))
}
