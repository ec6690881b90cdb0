package msgstore

import (
	"bytes"
	"context"
	"encoding/binary"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Layout is the version of where rows lie. Two nodes that disagreed about it would
// both write the same seq, so it changes only while no node runs.
const Layout = 1

const prefixLen = 5

// What follows the prefix in the slot of the whole store.
const (
	storeRow    = 0x00
	storeBusRef = 0x01
	storeBusPos = 0x02

	storeDeleting = 0x03
)

// What follows the prefix in the slots of conversations and users.
const (
	areaOutbox       = 0x01
	areaConversation = 0x10
	areaUser         = 0x20
)

// What follows the conversation's id.
const (
	rowMention = 0x10
	rowCursor  = 0x20
	rowMember  = 0x30
	rowSegment = 0x40
	rowHead    = 0x50
	rowIDs     = 0x70

	rowNickname    = 0x31
	rowMemberList  = 0x35
	rowGroup       = 0x51
	rowMemberCount = 0x52
	rowKeep        = 0x53
	rowRoom        = 0x54
)

// What follows the user's id. Accounts and their devices have numbers of their own.
const userConversation = 0x10

// MaxKeyLen is the longest key of this layout in bytes, for buffers on the stack.
const MaxKeyLen = prefixLen + 1 + 16 + 1 + id.MaxUserID + 1 + 8

// Keys makes keys. Its methods append to dst and return it, as append does.
type Keys struct {
	// Keyspace tells installations apart that share one store.
	Keyspace uint16
}

func (k Keys) prefix(dst []byte, slot id.Slot) []byte {
	return append(dst, byte(k.Keyspace>>8), byte(k.Keyspace), Layout, byte(slot>>8), byte(slot))
}

func (k Keys) conversation(dst []byte, c id.ConversationID, row byte) []byte {
	dst = k.prefix(dst, c.Slot())
	dst = append(dst, areaConversation)
	dst = append(dst, c[:]...)
	return append(dst, row)
}

// All is the beginning of every key of the keyspace in this layout.
func (k Keys) All(dst []byte) []byte {
	return append(dst, byte(k.Keyspace>>8), byte(k.Keyspace), Layout)
}

// SlotBounds returns where n regions of about the same number of slots begin (1 to as many as there are
// slots), and, last, where the keyspace ends. The rows of the whole store lie in the last region.
func (k Keys) SlotBounds(n int) [][]byte {
	n = min(max(n, 1), id.SlotCount)
	bounds := make([][]byte, 0, n+1)
	for i := range n {
		bounds = append(bounds, k.prefix(nil, id.Slot(i*id.SlotCount/n)))
	}
	return append(bounds, prefixEnd(k.All(nil)))
}

// Conversation is the beginning of every key of c but its outbox mark.
func (k Keys) Conversation(dst []byte, c id.ConversationID) []byte {
	dst = k.prefix(dst, c.Slot())
	dst = append(dst, areaConversation)
	return append(dst, c[:]...)
}

// Head is the key of the conversation's head.
func (k Keys) Head(dst []byte, c id.ConversationID) []byte {
	return k.conversation(dst, c, rowHead)
}

// Segments is the beginning of the keys of the conversation's segments.
func (k Keys) Segments(dst []byte, c id.ConversationID) []byte {
	return k.conversation(dst, c, rowSegment)
}

// Segment is the key of the segment whose last message is lastSeq. A forward seek to
// Segment(seq) finds the segment that holds seq.
func (k Keys) Segment(dst []byte, c id.ConversationID, lastSeq uint64) []byte {
	return binary.BigEndian.AppendUint64(k.conversation(dst, c, rowSegment), lastSeq)
}

// IDRows is the beginning of the keys of the conversation's rows of client message ids.
func (k Keys) IDRows(dst []byte, c id.ConversationID) []byte {
	return k.conversation(dst, c, rowIDs)
}

// IDSecond is the beginning of the keys of the ids made in one Unix second.
func (k Keys) IDSecond(dst []byte, c id.ConversationID, second int64) []byte {
	return binary.BigEndian.AppendUint64(k.conversation(dst, c, rowIDs), ^uint64(second))
}

// IDs is the key of the ids made in second whose last message is lastSeq.
func (k Keys) IDs(dst []byte, c id.ConversationID, second int64, lastSeq uint64) []byte {
	return binary.BigEndian.AppendUint64(k.IDSecond(dst, c, second), lastSeq)
}

// Mentions is the beginning of the keys of what mentions user; an empty user: everyone.
func (k Keys) Mentions(dst []byte, c id.ConversationID, user id.UserID) []byte {
	dst = k.conversation(dst, c, rowMention)
	dst = append(dst, user...)
	return append(dst, 0)
}

// Mention is the key of the mention of user in the message seq; an empty user: of everyone.
func (k Keys) Mention(dst []byte, c id.ConversationID, user id.UserID, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(k.Mentions(dst, c, user), seq)
}

// Cursor is the key of the user's cursor in the conversation.
func (k Keys) Cursor(dst []byte, c id.ConversationID, user id.UserID) []byte {
	return append(k.conversation(dst, c, rowCursor), user...)
}

// Member is the key of the user's membership in the conversation; with an empty
// user, the beginning of them all.
func (k Keys) Member(dst []byte, c id.ConversationID, user id.UserID) []byte {
	return append(k.conversation(dst, c, rowMember), user...)
}

// User is the beginning of every key of the user.
func (k Keys) User(dst []byte, user id.UserID) []byte {
	dst = k.prefix(dst, user.Slot())
	dst = append(dst, areaUser)
	dst = append(dst, user...)
	return append(dst, 0)
}

// UserSides is the beginning of the keys of the user's side of conversations.
func (k Keys) UserSides(dst []byte, user id.UserID) []byte {
	return append(k.User(dst, user), userConversation)
}

// UserSide is the key of the user's side of a conversation.
func (k Keys) UserSide(dst []byte, user id.UserID, c id.ConversationID) []byte {
	return append(k.UserSides(dst, user), c[:]...)
}

// OutboxMarks is the beginning of the keys of the outbox marks of a slot's conversations;
// 16 bytes of the conversation follow.
func (k Keys) OutboxMarks(dst []byte, slot id.Slot) []byte {
	return append(k.prefix(dst, slot), areaOutbox)
}

// OutboxMark is the key of the conversation's outbox mark.
func (k Keys) OutboxMark(dst []byte, c id.ConversationID) []byte {
	dst = k.prefix(dst, c.Slot())
	dst = append(dst, areaOutbox)
	return append(dst, c[:]...)
}

// StoreRow is the key of a row of the whole store.
func (k Keys) StoreRow(dst []byte, name string) []byte {
	dst = append(k.prefix(dst, id.SlotStore), storeRow)
	return append(dst, name...)
}

// BusRefs is the beginning of the keys of a partition's references; the stamp follows.
func (k Keys) BusRefs(dst []byte, partition uint16) []byte {
	dst = append(k.prefix(dst, id.SlotStore), storeBusRef)
	return binary.BigEndian.AppendUint16(dst, partition)
}

// BusPositions is the beginning of the keys of all consumers' positions.
func (k Keys) BusPositions(dst []byte) []byte {
	return append(k.prefix(dst, id.SlotStore), storeBusPos)
}

// BusPosition is the key of the position of a group of consumers in a partition. A
// group's name has no zero byte.
func (k Keys) BusPosition(dst []byte, group string, partition uint16) []byte {
	dst = append(k.BusPositions(dst), group...)
	dst = append(dst, 0)
	return binary.BigEndian.AppendUint16(dst, partition)
}

// prefixEnd turns a prefix, in place, into the first key after all that begin with it; nil: there is none.
func prefixEnd(p []byte) []byte {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != 0xFF {
			p[i]++
			return p[:i+1]
		}
	}
	return nil
}

// Rows of an account lie in its user's slot, behind the same `20 user 00` as the user's other rows.
const (
	rowAccount byte = 0x01
	rowDevice  byte = 0x02
	rowClosed  byte = 0x03
)

// Account appends the key of the user's account row.
func (k Keys) Account(dst []byte, u id.UserID) []byte {
	return append(k.User(dst, u), rowAccount)
}

// Closed appends the key of the row that says that the user's account is closed.
func (k Keys) Closed(dst []byte, u id.UserID) []byte {
	return append(k.User(dst, u), rowClosed)
}

// Device appends the key of the row of one of the user's devices.
func (k Keys) Device(dst []byte, u id.UserID, d id.DeviceID) []byte {
	return append(k.Devices(dst, u), d...)
}

// Devices appends the prefix of all of the user's device rows. What follows it in a key is the DeviceID.
func (k Keys) Devices(dst []byte, u id.UserID) []byte {
	return append(k.User(dst, u), rowDevice)
}

// conversationLen is the length of the beginning that all keys of a conversation share.
const conversationLen = prefixLen + 1 + 16

// place is a key taken apart as far as its area.
type place struct {
	layout byte
	slot   id.Slot
	area   byte
	rest   []byte // what follows the area; aliases the key
}

// split takes key apart; false: it is too short for any key of ours.
func split(key []byte) (place, bool) {
	if len(key) <= prefixLen {
		return place{}, false
	}
	return place{
		layout: key[2],
		slot:   id.Slot(binary.BigEndian.Uint16(key[3:])),
		area:   key[prefixLen],
		rest:   key[prefixLen+1:],
	}, true
}

// conversation returns the conversation that a key of areaConversation belongs to.
func (p place) conversation() (id.ConversationID, bool) {
	if p.area != areaConversation || p.slot == id.SlotStore || len(p.rest) < 16 {
		return id.ConversationID{}, false
	}
	return id.ConversationID(p.rest[:16]), true
}

// areaKey is the beginning of the keys of one area of a slot.
func (k Keys) areaKey(dst []byte, slot id.Slot, area byte) []byte {
	return append(k.prefix(dst, slot), area)
}

// end is the first key after all of the keyspace in this layout; nil: there is none.
func (k Keys) end() []byte { return prefixEnd(k.All(nil)) }

// firstKey returns a copy of the first key of [start, end), nil if there is none.
func firstKey(ctx context.Context, store kv.Store, start, end []byte) (first []byte, err error) {
	err = store.Scan(ctx, kv.Span{Start: start, End: end, Limit: 1}, func(key, _ []byte) (bool, error) {
		first = bytes.Clone(key)
		return false, nil
	})
	return first, err
}

// nextConversation returns the first conversation that has keys at or after from, and
// where to go on after it; next nil: there is none. Seeks skip what lies between.
func nextConversation(ctx context.Context, store kv.Store, keys Keys, from []byte) (c id.ConversationID, next []byte, err error) {
	for end := keys.end(); ; {
		key, err := firstKey(ctx, store, from, end)
		if err != nil || key == nil {
			return c, nil, err
		}
		p, ok := split(key)
		if c, isConversation := p.conversation(); ok && isConversation {
			return c, prefixEnd(key[:conversationLen]), nil // by the key as it is, whatever slot that is
		}
		switch {
		case !ok:
			from = append(key, 0)
		case p.slot == id.SlotStore:
			return c, nil, nil
		case p.area < areaConversation:
			from = keys.areaKey(nil, p.slot, areaConversation)
		default: // behind the slot's conversations, or a key too short
			from = prefixEnd(keys.areaKey(nil, p.slot, p.area))
		}
	}
}

// pair is one key and its value.
type pair struct{ key, value []byte }

// Bounds of what each reads at once.
const (
	eachPairs = 256
	eachBytes = 1 << 20
)

// each calls fn with the pairs of [start, end) in order. It reads a bounded number at once,
// so fn may use the store; what it sees is not one moment. key and value are fn's to keep.
func each(ctx context.Context, store kv.Store, start, end []byte, fn func(key, value []byte) error) error {
	for {
		var batch []pair
		size := 0
		more := false
		err := store.Scan(ctx, kv.Span{Start: start, End: end}, func(key, value []byte) (bool, error) {
			batch = append(batch, pair{bytes.Clone(key), bytes.Clone(value)})
			size += len(key) + len(value)
			more = len(batch) == eachPairs || size >= eachBytes
			return !more, nil
		})
		if err != nil {
			return err
		}
		for _, p := range batch {
			if err := fn(p.key, p.value); err != nil {
				return err
			}
		}
		if !more {
			return nil
		}
		start = append(bytes.Clone(batch[len(batch)-1].key), 0)
	}
}
