package msgstore

import (
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/protocol/id"
)

// rowVersion is the version of every row so far.
const rowVersion = 1

// MaxHeadBytes is the most a head row takes: TiKV keeps values up to this size next
// to their key, so that reading a head is one look-up.
const MaxHeadBytes = 255

// MaxPreviewBytes is where the preview's text is cut, back to a whole rune. With it
// the longest head is 253 bytes, whatever the numbers in it.
const MaxPreviewBytes = 90

// Head is a conversation's one small row. Every append reads and writes it, and that
// is the only fence between two owners.
//
// Row: version, LastSeq, FirstSeq, Countable, StateVersion, LastTime, HandedSeq, IDMax,
// IDFloor, PreviewSeq, PreviewType, sender's length u8 and bytes, text's length u8 and bytes.
type Head struct {
	LastSeq      uint64 // of the newest message; 0: none yet
	FirstSeq     uint64 // the oldest message still stored, and the first of its segment; LastSeq+1: none is; never 0 in a stored head
	Countable    uint64 // messages so far that count as unread for somebody; never lowered
	StateVersion uint64 // raised by every change of what an append checks that is not an append itself
	LastTime     int64  // Unix ms of the newest message; while there is none, of the creation
	HandedSeq    uint64 // the last seq that the bus took, as known when this was written
	IDMax        int64  // Unix ms of the latest client message id stored; 0: none
	IDFloor      int64  // Unix ms; ids older than this may have been forgotten

	PreviewSeq    uint64 // the message that the preview is of; 0: no preview
	PreviewType   uint32
	PreviewSender id.UserID
	PreviewText   []byte // beginning of the content
}

// Exists reports whether h was stored: reads give the zero Head for conversations that do not exist.
func (h *Head) Exists() bool { return h.FirstSeq != 0 }

// Append appends the row, at most MaxHeadBytes, to dst. PreviewText is cut to
// MaxPreviewBytes at a rune; PreviewSender is at most id.MaxUserID bytes.
func (h *Head) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = binary.AppendUvarint(dst, h.LastSeq)
	dst = binary.AppendUvarint(dst, h.FirstSeq)
	dst = binary.AppendUvarint(dst, h.Countable)
	dst = binary.AppendUvarint(dst, h.StateVersion)
	dst = binary.AppendUvarint(dst, uint64(h.LastTime))
	dst = binary.AppendUvarint(dst, h.HandedSeq)
	dst = binary.AppendUvarint(dst, uint64(h.IDMax))
	dst = binary.AppendUvarint(dst, uint64(h.IDFloor))
	dst = binary.AppendUvarint(dst, h.PreviewSeq)
	dst = binary.AppendUvarint(dst, uint64(h.PreviewType))
	dst = append(dst, byte(len(h.PreviewSender)))
	dst = append(dst, h.PreviewSender...)
	text := cutText(h.PreviewText, MaxPreviewBytes)
	dst = append(dst, byte(len(text)))
	return append(dst, text...)
}

// cutText returns at most limit bytes of b, without a part of a rune at the end.
func cutText(b []byte, limit int) []byte {
	if len(b) <= limit {
		return b
	}
	n := limit
	for n > limit-utf8.UTFMax && n > 0 && !utf8.RuneStart(b[n]) {
		n--
	}
	return b[:n]
}

// ParseHead reads a head row. PreviewText aliases b, which must not be changed while
// the Head is used; PreviewSender is a copy, the one thing that is allocated.
func ParseHead(b []byte) (Head, error) {
	var h Head
	r := reader{b: b}
	r.version()
	h.LastSeq = r.uvarint()
	h.FirstSeq = r.uvarint()
	h.Countable = r.uvarint()
	h.StateVersion = r.uvarint()
	h.LastTime = r.time()
	h.HandedSeq = r.uvarint()
	h.IDMax = r.time()
	h.IDFloor = r.time()
	h.PreviewSeq = r.uvarint()
	typ := r.uvarint()
	sender := r.bytes(int(r.byte()))
	text := r.bytes(int(r.byte()))
	if err := r.end(); err != nil {
		return Head{}, fmt.Errorf("head row: %w", err)
	}
	switch {
	case typ > math.MaxUint32 || len(sender) > id.MaxUserID || len(text) > MaxPreviewBytes:
		return Head{}, fmt.Errorf("head row: preview out of bounds: %w", ErrCorrupt)
	case h.FirstSeq == 0 || h.LastSeq == math.MaxUint64 || h.FirstSeq > h.LastSeq+1 || h.HandedSeq > h.LastSeq ||
		h.PreviewSeq > h.LastSeq || h.Countable > h.LastSeq:
		return Head{}, fmt.Errorf("head row: numbers contradict each other: %w", ErrCorrupt)
	}
	h.PreviewType = uint32(typ)
	h.PreviewSender = id.UserID(sender)
	h.PreviewText = text
	return h, nil
}

// MaxSegmentBytes and MaxSegmentMessages are where segments are cut. A single message
// that is larger stands alone.
const (
	MaxSegmentBytes    = 12 << 10 // of Segment.Messages
	MaxSegmentMessages = 256
)

// Segment is a run of messages, stored as one row under the seq of its last.
//
// Row: version, FirstSeq, Count, BaseCountable, the bitmap in (Count+7)/8 bytes, the messages to the end.
type Segment struct {
	FirstSeq      uint64
	Count         int    // 1 to MaxSegmentMessages
	BaseCountable uint64 // Head.Countable as it was before the first message
	Countable     []byte // a bit a message, lowest first: it counts as unread and was not recalled; bits past Count are 0
	Messages      []byte // as DELIVER carries them: the repeated field, byte for byte
}

// LastSeq returns the seq of the last message, which the key names.
func (s *Segment) LastSeq() uint64 { return s.FirstSeq + uint64(s.Count) - 1 }

// Counts reports whether the message seq, which must lie in the segment, counts as unread.
func (s *Segment) Counts(seq uint64) bool {
	i := seq - s.FirstSeq
	return s.Countable[i/8]&(1<<(i%8)) != 0
}

// Append appends the row to dst.
func (s *Segment) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = binary.AppendUvarint(dst, s.FirstSeq)
	dst = binary.AppendUvarint(dst, uint64(s.Count))
	dst = binary.AppendUvarint(dst, s.BaseCountable)
	dst = append(dst, s.Countable...)
	return append(dst, s.Messages...)
}

// ParseSegment reads a segment row and allocates nothing: Countable and Messages alias b.
// It does not look into the messages.
func ParseSegment(b []byte) (Segment, error) {
	var s Segment
	r := reader{b: b}
	r.version()
	s.FirstSeq = r.uvarint()
	count := r.uvarint()
	s.BaseCountable = r.uvarint()
	if r.err == nil && (count == 0 || count > MaxSegmentMessages || s.FirstSeq == 0 ||
		s.FirstSeq > math.MaxUint64-count || s.BaseCountable >= s.FirstSeq) {
		r.err = ErrCorrupt
	}
	if r.err != nil {
		return Segment{}, fmt.Errorf("segment row: %w", r.err)
	}
	s.Count = int(count)
	s.Countable = r.bytes((s.Count + 7) / 8)
	s.Messages = r.bytes(len(r.b))
	if r.err == nil && len(s.Messages) < 2*s.Count {
		r.err = ErrCorrupt // an empty message takes two bytes
	}
	if r.err == nil && s.Count%8 != 0 && s.Countable[len(s.Countable)-1]>>(s.Count%8) != 0 {
		r.err = ErrCorrupt
	}
	if r.err != nil {
		return Segment{}, fmt.Errorf("segment row of %d: %w", s.FirstSeq, r.err)
	}
	return s, nil
}

// IDEntry says which message a client message id became.
type IDEntry struct {
	Hash uint64 // IDHash
	Seq  uint64
	Body uint64 // hash of what the client sent, to tell a resend from another message under the same id
}

// IDHash is XXH64 (seed 0) over the sender's bytes, a zero byte and the 16 bytes of the id.
func IDHash(sender id.UserID, c id.ClientMsgID) uint64 {
	var buf [id.MaxUserID + 1 + 16]byte
	b := append(buf[:0], sender...)
	b = append(b, 0)
	b = append(b, c[:]...)
	return xxhash.Sum64(b)
}

// AppendIDs appends the row of es, which are not empty and ascend by Seq, to dst.
//
// Row: version, then for each entry the hash u64 big-endian, Seq less the Seq before
// it (less 0 for the first), the body's hash u64 big-endian.
func AppendIDs(dst []byte, es []IDEntry) []byte {
	dst = append(dst, rowVersion)
	var seq uint64
	for i := range es {
		dst = binary.BigEndian.AppendUint64(dst, es[i].Hash)
		dst = binary.AppendUvarint(dst, es[i].Seq-seq)
		dst = binary.BigEndian.AppendUint64(dst, es[i].Body)
		seq = es[i].Seq
	}
	return dst
}

// ParseIDs calls fn with each entry of the row, ascending by Seq. After an error, fn
// may have seen some of them.
func ParseIDs(b []byte, fn func(IDEntry)) error {
	r := reader{b: b}
	r.version()
	var seq uint64
	for first := true; r.err == nil && (first || len(r.b) > 0); first = false {
		var e IDEntry
		e.Hash = r.uint64()
		delta := r.uvarint()
		e.Body = r.uint64()
		e.Seq = seq + delta
		if r.err == nil && (delta == 0 || e.Seq < seq) {
			r.err = ErrCorrupt
		}
		if r.err == nil {
			fn(e)
		}
		seq = e.Seq
	}
	if r.err != nil {
		return fmt.Errorf("row of ids: %w", r.err)
	}
	return nil
}
