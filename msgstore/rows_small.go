package msgstore

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/gochat-im/gochat/protocol/id"
)

// BusRef is one append as the embedded bus names it.
//
// Row: version, conversation in 16 bytes, Epoch, FirstSeq, Count.
type BusRef struct {
	Conversation id.ConversationID
	Epoch        uint64 // of the store
	FirstSeq     uint64
	Count        uint32 // at least 1
}

// LastSeq returns the seq of the last message of the append.
func (r *BusRef) LastSeq() uint64 { return r.FirstSeq + uint64(r.Count) - 1 }

// Append appends the row to dst.
func (r *BusRef) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = append(dst, r.Conversation[:]...)
	dst = binary.AppendUvarint(dst, r.Epoch)
	dst = binary.AppendUvarint(dst, r.FirstSeq)
	return binary.AppendUvarint(dst, uint64(r.Count))
}

// ParseBusRef reads a reference row.
func ParseBusRef(b []byte) (BusRef, error) {
	var f BusRef
	r := reader{b: b}
	r.version()
	copy(f.Conversation[:], r.bytes(16))
	f.Epoch = r.uvarint()
	f.FirstSeq = r.uvarint()
	count := r.uvarint()
	err := r.end()
	if err == nil && (f.FirstSeq == 0 || count == 0 || count > math.MaxUint32 || f.FirstSeq > math.MaxUint64-count) {
		err = ErrCorrupt
	}
	if err != nil {
		return BusRef{}, fmt.Errorf("bus reference row: %w", err)
	}
	f.Count = uint32(count)
	return f, nil
}

// AppendBusPosition appends the row of a consumer's position to dst: everything up to
// the stamp, inclusive, is done with.
//
// Row: version, stamp.
func AppendBusPosition(dst []byte, stamp uint64) []byte {
	return binary.AppendUvarint(append(dst, rowVersion), stamp)
}

// ParseBusPosition reads the row of a consumer's position.
func ParseBusPosition(b []byte) (stamp uint64, err error) {
	r := reader{b: b}
	r.version()
	stamp = r.uvarint()
	if err := r.end(); err != nil {
		return 0, fmt.Errorf("bus position row: %w", err)
	}
	return stamp, nil
}

// OutboxMark says that a conversation has appends which the bus has not taken.
//
// Row: version, Since, FromSeq.
type OutboxMark struct {
	Since   int64  // Unix ms when it was set
	FromSeq uint64 // the first seq that was not handed on then
}

// Append appends the row to dst.
func (m *OutboxMark) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = binary.AppendUvarint(dst, uint64(m.Since))
	return binary.AppendUvarint(dst, m.FromSeq)
}

// ParseOutboxMark reads the row of an outbox mark.
func ParseOutboxMark(b []byte) (OutboxMark, error) {
	var m OutboxMark
	r := reader{b: b}
	r.version()
	m.Since = r.time()
	m.FromSeq = r.uvarint()
	if err := r.end(); err != nil {
		return OutboxMark{}, fmt.Errorf("outbox mark row: %w", err)
	}
	return m, nil
}

// Cursor is how far a user has come in a conversation: 0 <= ReadSeq <= RecvSeq <= LastSeq.
//
// Row: version, ReadSeq, ReadCountable, RecvSeq, Changed.
type Cursor struct {
	ReadSeq       uint64
	ReadCountable uint64 // the conversation's countable number at ReadSeq
	RecvSeq       uint64
	Changed       int64 // Unix ms
}

// Append appends the row to dst.
func (c *Cursor) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = binary.AppendUvarint(dst, c.ReadSeq)
	dst = binary.AppendUvarint(dst, c.ReadCountable)
	dst = binary.AppendUvarint(dst, c.RecvSeq)
	return binary.AppendUvarint(dst, uint64(c.Changed))
}

// ParseCursor reads a cursor row.
func ParseCursor(b []byte) (Cursor, error) {
	var c Cursor
	r := reader{b: b}
	r.version()
	c.ReadSeq = r.uvarint()
	c.ReadCountable = r.uvarint()
	c.RecvSeq = r.uvarint()
	c.Changed = r.time()
	if err := r.end(); err != nil {
		return Cursor{}, fmt.Errorf("cursor row: %w", err)
	}
	return c, nil
}

// Interval is a stretch of messages that a member may see, both ends included.
type Interval struct {
	Joined uint64 // the first
	Left   uint64 // the last; 0: still a member
}

// maxIntervals bounds what a member row may claim to hold: nobody joins and leaves so often.
const maxIntervals = 1 << 12

// Member is one user's membership of a conversation.
//
// Row: version, Role u8, MutedUntil, number of intervals, each Joined and Left.
type Member struct {
	Role       uint8
	MutedUntil int64      // Unix ms; 0: not muted
	Intervals  []Interval // ascending; only the last may be open
}

// Append appends the row to dst.
func (m *Member) Append(dst []byte) []byte {
	dst = append(dst, rowVersion, m.Role)
	dst = binary.AppendUvarint(dst, uint64(m.MutedUntil))
	dst = binary.AppendUvarint(dst, uint64(len(m.Intervals)))
	for _, iv := range m.Intervals {
		dst = binary.AppendUvarint(dst, iv.Joined)
		dst = binary.AppendUvarint(dst, iv.Left)
	}
	return dst
}

// ParseMember reads a member row.
func ParseMember(b []byte) (Member, error) {
	var m Member
	r := reader{b: b}
	r.version()
	m.Role = r.byte()
	m.MutedUntil = r.time()
	n := r.uvarint()
	if r.err == nil && (n > maxIntervals || int(n)*2 > len(r.b)) {
		r.err = ErrCorrupt
	}
	if r.err == nil && n > 0 {
		m.Intervals = make([]Interval, n)
		for i := range m.Intervals {
			m.Intervals[i] = Interval{Joined: r.uvarint(), Left: r.uvarint()}
		}
	}
	if err := r.end(); err != nil {
		return Member{}, fmt.Errorf("member row: %w", err)
	}
	return m, nil
}

// Active reports whether the user is a member now.
func (m *Member) Active() bool {
	return len(m.Intervals) > 0 && m.Intervals[len(m.Intervals)-1].Left == 0
}

// Sees reports whether the message seq is in one of the member's intervals.
func (m *Member) Sees(seq uint64) bool {
	for _, iv := range m.Intervals {
		if seq >= iv.Joined && (iv.Left == 0 || seq <= iv.Left) {
			return true
		}
	}
	return false
}

// Flags of the user's side row. Other bits are 0.
const (
	sidePinned    = 1 << 0
	sideMuted     = 1 << 1
	sideTombstone = 1 << 2
)

// UserSide is a conversation as the user's own list holds it.
//
// Row: version, flags u8 (1 pinned, 2 muted, 4 tombstone), HiddenSeq, AsOfSeq, Changed.
type UserSide struct {
	Pinned, Muted bool
	HiddenSeq     uint64 // hidden while the conversation's LastSeq is not above it; 0: not hidden
	AsOfSeq       uint64 // the conversation's LastSeq when this was written
	Changed       int64  // Unix ms
	Tombstone     bool   // the user has left
}

// Append appends the row to dst.
func (u *UserSide) Append(dst []byte) []byte {
	var flags byte
	if u.Pinned {
		flags |= sidePinned
	}
	if u.Muted {
		flags |= sideMuted
	}
	if u.Tombstone {
		flags |= sideTombstone
	}
	dst = append(dst, rowVersion, flags)
	dst = binary.AppendUvarint(dst, u.HiddenSeq)
	dst = binary.AppendUvarint(dst, u.AsOfSeq)
	return binary.AppendUvarint(dst, uint64(u.Changed))
}

// ParseUserSide reads the row of a user's side.
func ParseUserSide(b []byte) (UserSide, error) {
	var u UserSide
	r := reader{b: b}
	r.version()
	flags := r.byte()
	u.HiddenSeq = r.uvarint()
	u.AsOfSeq = r.uvarint()
	u.Changed = r.time()
	err := r.end()
	if err == nil && flags&^(sidePinned|sideMuted|sideTombstone) != 0 {
		err = ErrCorrupt
	}
	if err != nil {
		return UserSide{}, fmt.Errorf("row of a user's side: %w", err)
	}
	u.Pinned, u.Muted, u.Tombstone = flags&sidePinned != 0, flags&sideMuted != 0, flags&sideTombstone != 0
	return u, nil
}

// mentionRow is the value of every mention: the key says it all.
var mentionRow = []byte{rowVersion}

// ParseMention checks the row of a mention.
func ParseMention(b []byte) error {
	r := reader{b: b}
	r.version()
	if err := r.end(); err != nil {
		return fmt.Errorf("mention row: %w", err)
	}
	return nil
}

// reader takes a row apart. After the first error everything it returns is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.b = nil
}

func (r *reader) version() {
	switch {
	case len(r.b) == 0:
		r.fail(ErrCorrupt)
	case r.b[0] == 0:
		r.fail(ErrCorrupt) // versions begin at 1: zeroes are a damaged row
	case r.b[0] != rowVersion:
		r.fail(ErrVersion)
	default:
		r.b = r.b[1:]
	}
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail(ErrCorrupt)
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) uvarint() uint64 {
	if len(r.b) > 0 && r.b[0] < 0x80 {
		c := r.b[0]
		r.b = r.b[1:]
		return uint64(c)
	}
	v, n := binary.Uvarint(r.b)
	if n <= 0 || r.b[n-1] == 0 { // a last byte of 0 is a longer form than needed
		r.fail(ErrCorrupt)
		return 0
	}
	r.b = r.b[n:]
	return v
}

// time reads a number that is not negative as int64.
func (r *reader) time() int64 {
	v := r.uvarint()
	if v > math.MaxInt64 {
		r.fail(ErrCorrupt)
		return 0
	}
	return int64(v)
}

func (r *reader) uint64() uint64 {
	if len(r.b) < 8 {
		r.fail(ErrCorrupt)
		return 0
	}
	v := binary.BigEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

// bytes returns the next n bytes, aliasing the row.
func (r *reader) bytes(n int) []byte {
	if n > len(r.b) {
		r.fail(ErrCorrupt)
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

// end reports the first error; bytes that are left over are one.
func (r *reader) end() error {
	if r.err == nil && len(r.b) != 0 {
		r.err = ErrCorrupt
	}
	return r.err
}
