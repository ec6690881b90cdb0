package msgstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Severity says how bad a Finding is.
type Severity uint8

const (
	Info    Severity = iota // as it may be, and worth knowing
	Warning                 // may be the trace of a crash that a sweep or the next use puts right
	Error                   // must never be: a bug, a damaged disk, or a foreign hand
)

// String returns "info", "warning" or "error".
func (s Severity) String() string {
	switch s {
	case Info:
		return "info"
	case Warning:
		return "warning"
	}
	return "error"
}

// Finding is one thing that the audit has to say. Its text holds no message's content.
type Finding struct {
	Severity     Severity
	Conversation id.ConversationID // zero: of none
	User         id.UserID         // empty: of none
	Text         string
}

// String returns the finding on one line.
func (f Finding) String() string {
	s := f.Severity.String() + ": "
	if !f.Conversation.IsZero() {
		s += "conversation " + f.Conversation.String() + ": "
	}
	if f.User != "" {
		s += fmt.Sprintf("user %q: ", string(f.User))
	}
	return s + f.Text
}

// Check audits everything of keys' keyspace in store and calls report for whatever
// contradicts the format's rules:
//
//   - conversations: no message is missing between FirstSeq and LastSeq, none lies
//     elsewhere; the head's numbers are those of the messages; bitmaps match the messages;
//     timestamps never decrease; no two messages have one sender and client message id;
//   - ids: each entry is of a message with that id, each message newer than IDFloor has one;
//   - cursors: 0 <= ReadSeq <= RecvSeq <= LastSeq;
//   - both sides of every membership; accounts' rows are not looked into;
//   - the bus log against the heads; the oldest outbox mark;
//   - keys and rows that are not of this format.
//
// The store must not change meanwhile: a stopped one, or a checkpoint. Memory is bounded;
// conversations of more than a million messages are read several times for it. The error
// is of reading, not of what was read.
func Check(ctx context.Context, store kv.Store, keys Keys, report func(Finding)) error {
	a := auditor{ctx: ctx, store: store, keys: keys, report: report, chunk: 1 << 20}
	if err := a.run(); err != nil {
		return fmt.Errorf("check store: %w", err)
	}
	return nil
}

// auditor is one run of Check.
type auditor struct {
	ctx    context.Context
	store  kv.Store
	keys   Keys
	report func(Finding)
	chunk  int // how many ids, or conversations of the bus log, are held at once

	marks  int // outbox marks
	oldest OutboxMark
	marked id.ConversationID // has the oldest
}

func (a *auditor) find(s Severity, c id.ConversationID, format string, args ...any) {
	a.report(Finding{Severity: s, Conversation: c, Text: fmt.Sprintf(format, args...)})
}

func (a *auditor) findUser(s Severity, c id.ConversationID, u id.UserID, format string, args ...any) {
	a.report(Finding{Severity: s, Conversation: c, User: u, Text: fmt.Sprintf(format, args...)})
}

var noConversation id.ConversationID

func (a *auditor) run() error {
	if err := a.meta(); err != nil {
		return err
	}
	keyspace := binary.BigEndian.AppendUint16(nil, a.keys.Keyspace)
	end := prefixEnd(bytes.Clone(keyspace))
	for from := keyspace; from != nil; {
		key, err := firstKey(a.ctx, a.store, from, end)
		if err != nil {
			return err
		}
		if key == nil {
			break
		}
		if from, err = a.area(key); err != nil {
			return err
		}
	}
	if a.marks > 0 {
		a.find(Info, a.marked, "%d outbox marks, the oldest, of this conversation, since %s", a.marks,
			time.UnixMilli(a.oldest.Since).UTC().Format(time.RFC3339))
	}
	return nil
}

// area audits the part of the store that begins with key, and returns where the next begins; nil: none does.
func (a *auditor) area(key []byte) (next []byte, err error) {
	p, ok := split(key)
	switch {
	case !ok:
		a.find(Warning, noConversation, "unknown key %x", key)
		return append(key, 0), nil
	case p.layout != Layout:
		a.find(Error, noConversation, "keys of layout %d, want %d", p.layout, Layout)
		return prefixEnd(key[:3]), nil
	case p.slot == id.SlotStore:
		return prefixEnd(key[:prefixLen]), a.storeSlot()
	case p.slot >= id.SlotCount:
		a.find(Error, noConversation, "keys in slot %d of %d", p.slot, id.SlotCount)
		return prefixEnd(key[:prefixLen]), nil
	}
	next = prefixEnd(a.keys.areaKey(nil, p.slot, p.area))
	switch p.area {
	case areaOutbox:
		return next, a.outbox(p.slot)
	case areaUser:
		return next, a.users(p.slot)
	case areaName:
		return next, a.names(p.slot)
	case areaConversation:
		c, ok := p.conversation()
		if !ok {
			a.find(Warning, noConversation, "unknown key %x", key)
			return append(key, 0), nil
		}
		// By the key as it is: a row in a wrong slot must not lead back to the right one.
		return prefixEnd(bytes.Clone(key[:conversationLen])), a.conversation(c, p.slot)
	}
	a.find(Warning, noConversation, "unknown keys from %x on", key)
	return next, nil
}

func (a *auditor) meta() error {
	raw, err := a.store.Get(a.ctx, a.keys.StoreRow(nil, metaRowName))
	if err != nil {
		return err
	}
	if raw == nil {
		a.find(Error, noConversation, "the store has no meta row")
		return nil
	}
	m, err := ParseMeta(raw)
	if err == nil {
		err = m.check()
	}
	if err != nil {
		a.find(Error, noConversation, "%v", err)
	}
	return nil
}

// outbox audits the outbox marks of a slot.
func (a *auditor) outbox(slot id.Slot) error {
	start := a.keys.areaKey(nil, slot, areaOutbox)
	return each(a.ctx, a.store, start, prefixEnd(bytes.Clone(start)), func(key, value []byte) error {
		p, _ := split(key)
		if len(p.rest) != 16 {
			a.find(Warning, noConversation, "unknown key %x", key)
			return nil
		}
		c := id.ConversationID(p.rest)
		if c.Slot() != slot {
			a.find(Error, c, "its outbox mark lies in slot %d", slot)
		}
		m, err := ParseOutboxMark(value)
		if err != nil {
			a.find(Error, c, "%v", err)
			return nil
		}
		if a.marks == 0 || m.Since < a.oldest.Since {
			a.oldest, a.marked = m, c
		}
		a.marks++
		h, err := a.head(c)
		if err == nil && (!h.Exists() || m.FromSeq == 0 || m.FromSeq > h.LastSeq) {
			a.find(Error, c, "an outbox mark from seq %d on, where the last is %d", m.FromSeq, h.LastSeq)
		}
		return err
	})
}

// head reads a head; one that can't be read is zero, and said where its conversation is audited.
func (a *auditor) head(c id.ConversationID) (Head, error) {
	raw, err := a.store.Get(a.ctx, a.keys.Head(nil, c))
	if err != nil || raw == nil {
		return Head{}, err
	}
	h, _ := ParseHead(raw)
	return h, nil
}

// side is one side of a membership whose other side is to be looked at.
type side struct {
	user      id.UserID
	conv      id.ConversationID
	in        bool // active, or not a tombstone
	asOf      uint64
	hiddenSeq uint64
}

// sidesAtOnce is how many other sides are read with one call.
const sidesAtOnce = 256

// userSides looks at the users' side of memberships.
func (a *auditor) userSides(members []side) error {
	raws, err := multiGet(a.ctx, a.store, len(members), func(dst []byte, i int) []byte {
		return a.keys.UserSide(dst, members[i].user, members[i].conv)
	})
	if err != nil {
		return err
	}
	for i, m := range members {
		if !m.in {
			continue // a former member may keep a row until a sweep: the user's side says so itself
		}
		if raws[i] == nil {
			if closed, err := a.store.Get(a.ctx, a.keys.Closed(nil, m.user)); err != nil {
				return err
			} else if Deleted(closed) && m.conv.Kind() != id.KindGroup {
				continue // whose list went with the account
			}
			a.findUser(Error, m.conv, m.user, "is a member, but the user's list does not have the conversation")
			continue
		}
		row, err := ParseUserSide(raws[i])
		if err == nil && row.Tombstone {
			a.findUser(Error, m.conv, m.user, "is a member, but has a tombstone in the user's list")
		} // a row that can't be read is said where the user is audited
	}
	return nil
}

// memberSides looks at the conversations' side of users' rows.
func (a *auditor) memberSides(sides []side) error {
	raws, err := multiGet(a.ctx, a.store, 2*len(sides), func(dst []byte, i int) []byte {
		s := sides[i/2]
		if i%2 == 0 {
			return a.keys.Head(dst, s.conv)
		}
		return a.keys.Member(dst, s.conv, s.user)
	})
	if err != nil {
		return err
	}
	for i, s := range sides {
		head, member := raws[2*i], raws[2*i+1]
		if head == nil {
			a.findUser(Warning, s.conv, s.user, "the user's list has a conversation that does not exist")
			continue
		}
		var m Member
		if member != nil {
			if m, err = ParseMember(member); err != nil {
				continue // said where the conversation is audited
			}
		}
		if s.in && !m.Active() && s.conv.Kind() != id.KindRoom && s.conv.Kind() != id.KindSelf {
			a.findUser(Warning, s.conv, s.user, "the user's list has the conversation, but the user is no member")
		}
		if h, err := ParseHead(head); err == nil && (s.asOf > h.LastSeq || s.hiddenSeq > h.LastSeq) {
			a.findUser(Error, s.conv, s.user, "the user's row is as of seq %d, hidden up to %d, where the last is %d", s.asOf, s.hiddenSeq, h.LastSeq)
		}
	}
	return nil
}

// users audits the rows of a slot's users.
func (a *auditor) users(slot id.Slot) error {
	var sides []side
	start := a.keys.areaKey(nil, slot, areaUser)
	err := each(a.ctx, a.store, start, prefixEnd(bytes.Clone(start)), func(key, value []byte) error {
		p, _ := split(key)
		i := bytes.IndexByte(p.rest, 0)
		if i < 0 || len(p.rest) < i+2 {
			a.find(Warning, noConversation, "unknown key %x", key)
			return nil
		}
		user, row, rest := id.UserID(p.rest[:i]), p.rest[i+1], p.rest[i+2:]
		if !user.Valid() || user.Slot() != slot {
			a.findUser(Error, noConversation, user, "rows in slot %d", slot)
		}
		switch {
		case row == userConversation && len(rest) == 16:
			c := id.ConversationID(rest)
			u, err := ParseUserSide(value)
			if err != nil {
				a.findUser(Error, c, user, "%v", err)
				return nil
			}
			sides = append(sides, side{user: user, conv: c, in: !u.Tombstone, asOf: u.AsOfSeq, hiddenSeq: u.HiddenSeq})
		case (row == rowAccount || row == rowClosed) && len(rest) == 0, row == rowDevice && id.DeviceID(rest).Valid():
		case row == rowProfile && len(rest) == 0:
			if _, err := ParseProfile(value); err != nil {
				a.findUser(Error, noConversation, user, "%v", err)
			}
		case row == rowRepeat && len(rest) == 4+16:
			if _, err := ParseRepeat(value); err != nil {
				a.findUser(Error, noConversation, user, "%v", err)
			}
		case row == rowBlock && id.UserID(rest).Valid():
			if _, err := ParseBlock(value); err != nil {
				a.findUser(Error, noConversation, user, "block of %q: %v", string(rest), err)
			}
		default:
			a.findUser(Warning, noConversation, user, "unknown key %x", key)
		}
		if len(sides) < sidesAtOnce {
			return nil
		}
		err := a.memberSides(sides)
		sides = sides[:0]
		return err
	})
	if err != nil {
		return err
	}
	return a.memberSides(sides)
}

// names audits the index of names of a slot. A row may be left over from an earlier name: readers
// look at the profile.
func (a *auditor) names(slot id.Slot) error {
	start := a.keys.areaKey(nil, slot, areaName)
	return each(a.ctx, a.store, start, prefixEnd(bytes.Clone(start)), func(key, value []byte) error {
		f, err := parseName(key[prefixLen+1:], value)
		if err != nil {
			a.find(Error, noConversation, "key %x: %v", key, err)
			return nil
		}
		if !bytes.Equal(key, a.keys.Name(nil, f.Term, f.User)) {
			a.findUser(Error, noConversation, f.User, "a name in slot %d", slot)
		}
		return nil
	})
}
