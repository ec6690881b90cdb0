package msgstore

import (
	"bytes"
	"encoding/binary"
	"slices"
	"unicode/utf8"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// conversationAudit is what the audit knows of one conversation while it reads it.
type conversationAudit struct {
	*auditor
	c    id.ConversationID
	head Head // zero: there is none that can be read

	next   uint64 // the seq that should come next; 0: no segment yet
	base   uint64 // the countable number before it
	lastMS int64
	lastID id.MessageID
	idMax  int64
	sides  []side

	active           uint64 // members who are in
	isGroup, counted bool   // it has the rows of a group

	// Ids are compared in parts, so that few are held at once: those whose hash is part
	// modulo parts.
	part, parts uint64
	messages    []idAt
	entries     []idAt
}

// idAt is a client message id and the message that has it.
type idAt struct {
	hash   uint64
	seq    uint64
	second int64
}

func compareIDs(x, y idAt) int {
	switch {
	case x.hash != y.hash:
		if x.hash < y.hash {
			return -1
		}
		return 1
	case x.seq != y.seq:
		if x.seq < y.seq {
			return -1
		}
		return 1
	case x.second != y.second:
		if x.second < y.second {
			return -1
		}
		return 1
	}
	return 0
}

// conversation audits one conversation, whose keys lie in slot.
func (a *auditor) conversation(c id.ConversationID, slot id.Slot) error {
	if c.Slot() != slot {
		a.find(Error, c, "its rows lie in slot %d, want %d", slot, c.Slot())
		return nil
	}
	if !c.Valid() {
		a.find(Error, c, "unknown kind %d", c[0])
	}
	x := conversationAudit{auditor: a, c: c}
	raw, err := a.store.Get(a.ctx, a.keys.Head(nil, c))
	if err != nil {
		return err
	}
	if raw == nil {
		a.find(Error, c, "it has rows but no head")
	} else if x.head, err = ParseHead(raw); err != nil {
		a.find(Error, c, "%v", err)
	}
	x.parts = 1
	if x.head.Exists() {
		x.parts += (x.head.LastSeq + 1 - x.head.FirstSeq) / uint64(a.chunk)
	}
	start := a.keys.Conversation(nil, c)
	if err := each(a.ctx, a.store, start, prefixEnd(bytes.Clone(start)), x.row); err != nil {
		return err
	}
	if err := a.userSides(x.sides); err != nil {
		return err
	}
	x.end()
	x.compareIDs()
	for x.part = 1; x.part < x.parts; x.part++ {
		if err := x.readPart(); err != nil {
			return err
		}
		x.compareIDs()
	}
	return nil
}

// row audits one row of the conversation, in the order of their keys.
func (x *conversationAudit) row(key, value []byte) error {
	p, _ := split(key)
	row, rest := byte(0), p.rest[16:]
	if len(rest) > 0 {
		row, rest = rest[0], rest[1:]
	}
	switch {
	case row == rowSegment && len(rest) == 8:
		x.segment(key, value)
	case row == rowIDs && len(rest) == 16:
		x.ids(rest, value, true)
	case row == rowHead && len(rest) == 0:
	case row == rowCursor && id.UserID(rest).Valid():
		x.cursor(id.UserID(rest), value)
	case row == rowMember && id.UserID(rest).Valid():
		return x.member(id.UserID(rest), value)
	case row == rowNickname && id.UserID(rest).Valid():
		if _, err := ParseNickname(value); err != nil {
			x.findUser(Error, x.c, id.UserID(rest), "%v", err)
		}
	case row == rowMemberList && len(rest) == 8:
		x.memberList(binary.BigEndian.Uint64(rest), value)
	case row == rowGroup && len(rest) == 0:
		if _, err := ParseGroup(value); err != nil {
			x.find(Error, x.c, "%v", err)
		}
		x.isGroup = true
	case row == rowKeep && len(rest) == 0:
		if _, err := ParseKeep(value); err != nil {
			x.find(Error, x.c, "%v", err)
		}
	case row == rowRoom && len(rest) == 0:
		if _, err := ParseRoom(value); err != nil {
			x.find(Error, x.c, "%v", err)
		}
	case row == rowMemberCount && len(rest) == 0:
		n, err := ParseMemberCount(value)
		if err != nil {
			x.find(Error, x.c, "%v", err)
		} else if n != x.active {
			x.find(Error, x.c, "%d members are in, the count says %d", x.active, n)
		}
		x.counted = true
	case row == rowMention && len(rest) >= 9 && rest[len(rest)-9] == 0:
		user, seq := id.UserID(rest[:len(rest)-9]), binary.BigEndian.Uint64(rest[len(rest)-8:])
		if err := ParseMention(value); err != nil {
			x.findUser(Error, x.c, user, "%v", err)
		}
		if user != "" && !user.Valid() || seq == 0 || seq > x.head.LastSeq {
			x.findUser(Error, x.c, user, "mentioned in message %d, where the last is %d", seq, x.head.LastSeq)
		} else if seq < x.head.FirstSeq {
			x.findUser(Warning, x.c, user, "mentioned in message %d, which is gone", seq)
		}
	default:
		x.find(Warning, x.c, "unknown key %x", key)
	}
	return nil
}

func (x *conversationAudit) cursor(user id.UserID, value []byte) {
	cur, err := ParseCursor(value)
	if err != nil {
		x.findUser(Error, x.c, user, "%v", err)
		return
	}
	if cur.ReadSeq > cur.RecvSeq || cur.RecvSeq > x.head.LastSeq || cur.ReadCountable > x.head.Countable || cur.ReadCountable > cur.ReadSeq {
		x.findUser(Error, x.c, user, "cursor out of bounds: read %d (countable %d), received %d, where the last is %d (countable %d)",
			cur.ReadSeq, cur.ReadCountable, cur.RecvSeq, x.head.LastSeq, x.head.Countable)
	}
}

func (x *conversationAudit) member(user id.UserID, value []byte) error {
	m, err := ParseMember(value)
	if err != nil {
		x.findUser(Error, x.c, user, "%v", err)
		return nil
	}
	end := uint64(0)
	for i, iv := range m.Intervals {
		open := iv.Left == 0 && i == len(m.Intervals)-1
		if iv.Joined <= end || !open && iv.Left < iv.Joined || iv.Joined > x.head.LastSeq+1 || iv.Left > x.head.LastSeq {
			x.findUser(Error, x.c, user, "interval %d to %d after %d, where the last message is %d", iv.Joined, iv.Left, end, x.head.LastSeq)
		}
		end = iv.Left
	}
	if m.Active() {
		x.active++
	}
	x.sides = append(x.sides, side{user: user, conv: x.c, in: m.Active()})
	if len(x.sides) < sidesAtOnce {
		return nil
	}
	err = x.userSides(x.sides)
	x.sides = x.sides[:0]
	return err
}

// memberList audits the full list of the membership message seq.
func (x *conversationAudit) memberList(seq uint64, value []byte) {
	users, err := ParseMemberList(value)
	switch {
	case err != nil:
		x.find(Error, x.c, "message %d: %v", seq, err)
	case len(users) == 0 || seq == 0 || seq > x.head.LastSeq:
		x.find(Error, x.c, "a list of %d members of message %d, where the last is %d", len(users), seq, x.head.LastSeq)
	case seq < x.head.FirstSeq:
		x.find(Warning, x.c, "a list of members of message %d, which is gone", seq)
	}
}

func (x *conversationAudit) segment(key, value []byte) {
	s, err := segmentAt(key, value)
	if err != nil {
		x.find(Error, x.c, "%v", err)
		return
	}
	if x.next == 0 {
		x.next, x.base = s.FirstSeq, s.BaseCountable
		if x.head.Exists() && s.FirstSeq != x.head.FirstSeq {
			x.find(Error, x.c, "the first segment begins with message %d, the head says %d", s.FirstSeq, x.head.FirstSeq)
		}
		if s.FirstSeq == 1 && s.BaseCountable != 0 {
			x.find(Error, x.c, "%d countable messages before the first", s.BaseCountable)
		}
	}
	switch {
	case s.FirstSeq > x.next:
		x.find(Error, x.c, "messages %d to %d are missing", x.next, s.FirstSeq-1)
		x.base = s.BaseCountable
	case s.FirstSeq < x.next:
		x.find(Error, x.c, "messages %d to %d are stored twice", s.FirstSeq, x.next-1)
		x.base = s.BaseCountable
	case s.BaseCountable != x.base:
		x.find(Error, x.c, "countable number %d before message %d, want %d", s.BaseCountable, s.FirstSeq, x.base)
		x.base = s.BaseCountable
	}
	if len(s.Messages) > MaxSegmentBytes && s.Count > 1 {
		x.find(Error, x.c, "segment of messages %d to %d holds %d bytes", s.FirstSeq, s.LastSeq(), len(s.Messages))
	}
	x.next = s.LastSeq() + 1
	x.walk(s, x.message)
}

// walk calls fn with each message of s.
func (x *conversationAudit) walk(s Segment, fn func(s *Segment, seq uint64, v *packet.MessageView)) {
	rest := s.Messages
	for i := 0; i < s.Count; i++ {
		seq := s.FirstSeq + uint64(i)
		v, after, err := packet.NextMessage(rest)
		if err != nil {
			if x.part == 0 {
				x.find(Error, x.c, "message %d: %v", seq, err)
			}
			return
		}
		fn(&s, seq, &v)
		rest = after
	}
	if len(rest) > 0 && x.part == 0 {
		x.find(Error, x.c, "segment of messages %d to %d holds %d bytes too many", s.FirstSeq, s.LastSeq(), len(rest))
	}
}

func (x *conversationAudit) message(s *Segment, seq uint64, v *packet.MessageView) {
	if v.Seq != seq {
		x.find(Error, x.c, "message %d calls itself %d", seq, v.Seq)
	}
	ms := v.ID.UnixMilli()
	if ms < x.lastMS {
		x.find(Error, x.c, "message %d is %d ms older than the one before", seq, x.lastMS-ms)
	} else if v.ID == x.lastID {
		x.find(Error, x.c, "message %d has the id of the one before", seq)
	}
	x.lastMS, x.lastID = ms, v.ID
	counts, bit := packet.Counts(v.Type, v.NoCount), s.Counts(seq)
	switch {
	case bit && !counts:
		x.find(Error, x.c, "message %d is marked as counting and doesn't", seq)
	case !bit && counts && v.LastChangeSeq == 0:
		x.find(Error, x.c, "message %d counts and isn't marked", seq)
	}
	if counts {
		x.base++
	}
	if v.LastChangeSeq != 0 && (v.LastChangeSeq <= seq || v.LastChangeSeq > x.head.LastSeq) {
		x.find(Error, x.c, "message %d was changed by message %d", seq, v.LastChangeSeq)
	}
	if v.TargetSeq >= seq {
		x.find(Error, x.c, "message %d changes message %d", seq, v.TargetSeq)
	}
	if !utf8.Valid(v.Sender) || !utf8.Valid(v.Content) {
		x.find(Error, x.c, "message %d is not valid UTF-8", seq)
	}
	x.takeID(s, seq, v)
}

// takeID notes the message's client message id, if it belongs to the part.
func (x *conversationAudit) takeID(_ *Segment, seq uint64, v *packet.MessageView) {
	if v.ClientMsgID == (id.ClientMsgID{}) {
		return // of the server
	}
	ms := v.ClientMsgID.UnixMilli()
	x.idMax = max(x.idMax, ms)
	if hash := IDHash(id.UserID(v.Sender), v.ClientMsgID); hash%x.parts == x.part {
		x.messages = append(x.messages, idAt{hash: hash, seq: seq, second: IDSecondOf(ms)})
	}
}

// ids takes one row of ids; rest is its key's second and seq.
func (x *conversationAudit) ids(rest, value []byte, first bool) {
	second := int64(^binary.BigEndian.Uint64(rest))
	var last uint64
	err := ParseIDs(value, func(e IDEntry) {
		last = e.Seq
		if e.Hash%x.parts == x.part {
			x.entries = append(x.entries, idAt{hash: e.Hash, seq: e.Seq, second: second})
		}
	})
	if !first {
		return
	}
	if err != nil {
		x.find(Error, x.c, "second %d: %v", second, err)
	} else if under := binary.BigEndian.Uint64(rest[8:]); under != last {
		x.find(Error, x.c, "ids of second %d that end with message %d lie under %d", second, last, under)
	}
}

// end compares the head with what was read.
func (x *conversationAudit) end() {
	h := &x.head
	if !h.Exists() {
		return
	}
	if x.isGroup != x.counted {
		x.find(Error, x.c, "a group's row without the number of its members, or the other way round")
	}
	if x.next == 0 {
		if h.FirstSeq <= h.LastSeq {
			x.find(Error, x.c, "messages %d to %d are missing", h.FirstSeq, h.LastSeq)
		}
		return
	}
	if x.next != h.LastSeq+1 {
		x.find(Error, x.c, "the last message stored is %d, the head says %d", x.next-1, h.LastSeq)
		return
	}
	if x.base != h.Countable {
		x.find(Error, x.c, "%d messages count, the head says %d", x.base, h.Countable)
	}
	if x.lastMS > h.LastTime {
		x.find(Error, x.c, "the last message is of %d, the head says %d", x.lastMS, h.LastTime)
	}
	if x.idMax > h.IDMax {
		x.find(Error, x.c, "an id of %d, later than the head's latest of %d", x.idMax, h.IDMax)
	}
}

// readPart reads the ids of the current part.
func (x *conversationAudit) readPart() error {
	start := x.keys.Segments(nil, x.c)
	err := each(x.ctx, x.store, start, prefixEnd(bytes.Clone(start)), func(key, value []byte) error {
		if s, err := segmentAt(key, value); err == nil {
			x.walk(s, x.takeID)
		}
		return nil
	})
	if err != nil {
		return err
	}
	start = x.keys.IDRows(nil, x.c)
	return each(x.ctx, x.store, start, prefixEnd(bytes.Clone(start)), func(key, value []byte) error {
		if rest := key[len(start):]; len(rest) == 16 {
			x.ids(rest, value, false)
		}
		return nil
	})
}

// compareIDs compares the ids of the part in messages with those in rows, and forgets them.
func (x *conversationAudit) compareIDs() {
	slices.SortFunc(x.messages, compareIDs)
	slices.SortFunc(x.entries, compareIDs)
	ms, es := x.messages, x.entries
	for i := 1; i < len(ms); i++ {
		if ms[i].hash == ms[i-1].hash {
			x.find(Error, x.c, "messages %d and %d have one sender and client message id", ms[i-1].seq, ms[i].seq)
		}
	}
	for i, j := 0, 0; i < len(ms) || j < len(es); {
		order := 0
		switch {
		case i == len(ms):
			order = 1
		case j == len(es):
			order = -1
		default:
			order = compareIDs(ms[i], es[j])
		}
		switch {
		case order == 0:
			i, j = i+1, j+1
			for j < len(es) && es[j] == ms[i-1] {
				x.find(Warning, x.c, "message %d has two entries among the ids", es[j].seq)
				j++
			}
		case order < 0:
			if ms[i].second*1000 >= x.head.IDFloor {
				x.find(Error, x.c, "message %d has no entry among the ids of second %d", ms[i].seq, ms[i].second)
			}
			i++
		default:
			if es[j].seq >= x.head.FirstSeq {
				x.find(Error, x.c, "an id of second %d is said to be of message %d, which has another or does not exist", es[j].second, es[j].seq)
			}
			j++
		}
	}
	x.messages, x.entries = ms[:0], es[:0]
}
