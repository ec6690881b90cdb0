package msgstore

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Members reads and writes who belongs to conversations. It keeps nothing in memory and
// is safe for concurrent use. Membership decides what an append may do, so a transaction
// that writes a member writes the conversation's head too.
type Members struct {
	store kv.Store
	keys  Keys
}

// NewMembers returns the members that lie in store under keys.
func NewMembers(store kv.Store, keys Keys) *Members { return &Members{store: store, keys: keys} }

// MemberOf is a member and whose it is.
type MemberOf struct {
	User id.UserID
	Member
}

// Get returns the user's membership; ok is false if the user never was a member.
func (m *Members) Get(ctx context.Context, c id.ConversationID, user id.UserID) (row Member, ok bool, err error) {
	raw, err := m.store.Get(ctx, m.keys.Member(nil, c, user))
	if err == nil && raw != nil {
		row, err = ParseMember(raw)
	}
	if err != nil {
		return Member{}, false, fmt.Errorf("read a member of %s: %w", c, err)
	}
	return row, raw != nil, nil
}

// Put adds to tx the writing of the user's membership.
func (m *Members) Put(tx *kv.Tx, c id.ConversationID, user id.UserID, row *Member) {
	var kb [MaxKeyLen]byte
	tx.SetFunc(m.keys.Member(kb[:0], c, user), row.Append)
}

// Scan returns up to limit memberships (0: all), former ones too, in the order of their
// users' bytes, from the first user after `after` (empty: from the beginning).
func (m *Members) Scan(ctx context.Context, c id.ConversationID, after id.UserID, limit int) ([]MemberOf, error) {
	span := m.keys.memberSpan(c, limit)
	if after != "" {
		span.Start = append(m.keys.Member(nil, c, after), 0)
	}
	var rows []MemberOf
	if err := m.store.Scan(ctx, span, gather(&rows, span)); err != nil {
		return nil, fmt.Errorf("read members of %s: %w", c, err)
	}
	return rows, nil
}

// memberSpan is where the memberships of c lie.
func (k Keys) memberSpan(c id.ConversationID, limit int) kv.Span {
	return kv.Span{Start: k.Member(nil, c, ""), End: prefixEnd(k.Member(nil, c, "")), Limit: limit}
}

// gather appends to rows what a scan of span finds, whose end is as long as its prefix.
func gather(rows *[]MemberOf, span kv.Span) func(key, value []byte) (bool, error) {
	prefix := len(span.End)
	return func(key, value []byte) (bool, error) {
		row, err := ParseMember(value)
		*rows = append(*rows, MemberOf{User: id.UserID(key[prefix:]), Member: row})
		return true, err
	}
}

// Mentions reads and writes who is mentioned where. An empty user stands for everyone.
type Mentions struct {
	store kv.Store
	keys  Keys
}

// NewMentions returns the mentions that lie in store under keys.
func NewMentions(store kv.Store, keys Keys) *Mentions { return &Mentions{store: store, keys: keys} }

// Put adds to tx that the message seq mentions user. It belongs to the append of the message.
func (m *Mentions) Put(tx *kv.Tx, c id.ConversationID, user id.UserID, seq uint64) {
	var kb [MaxKeyLen]byte
	tx.Set(m.keys.Mention(kb[:0], c, user, seq), mentionRow)
}

// Scan returns the seqs in [from, to] that mention user, ascending, up to limit (0: all).
// Messages that retention removed may be among them.
func (m *Mentions) Scan(ctx context.Context, c id.ConversationID, user id.UserID, from, to uint64, limit int) ([]uint64, error) {
	span := kv.Span{
		Start: m.keys.Mention(nil, c, user, from),
		End:   append(m.keys.Mention(nil, c, user, to), 0),
		Limit: limit,
	}
	var seqs []uint64
	err := m.store.Scan(ctx, span, func(key, value []byte) (bool, error) {
		seqs = append(seqs, binary.BigEndian.Uint64(key[len(key)-8:]))
		return true, ParseMention(value)
	})
	if err != nil {
		return nil, fmt.Errorf("read mentions in %s: %w", c, err)
	}
	return seqs, nil
}
