package msgstore

import (
	"context"
	"fmt"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Inbox reads and writes the user's side of conversations: the list of what a user
// belongs to, with what is the user's own about it. It lies in another slot than the
// conversation, so it is written before the append that makes the user a member, ignored
// until the conversation agrees, and turned into a tombstone after leaving. It keeps
// nothing in memory and is safe for concurrent use.
type Inbox struct {
	store kv.Store
	keys  Keys
}

// NewInbox returns the inboxes that lie in store under keys.
func NewInbox(store kv.Store, keys Keys) *Inbox { return &Inbox{store: store, keys: keys} }

// InboxRow is one conversation of a user's list.
type InboxRow struct {
	Conversation id.ConversationID
	UserSide
}

// Get returns the user's side of a conversation and its row, which Replace and Leave
// require; raw is nil if there is none.
func (x *Inbox) Get(ctx context.Context, user id.UserID, c id.ConversationID) (row UserSide, raw []byte, err error) {
	raw, err = x.store.Get(ctx, x.keys.UserSide(nil, user, c))
	if err == nil && raw != nil {
		row, err = ParseUserSide(raw)
	}
	if err != nil {
		return UserSide{}, nil, fmt.Errorf("read a user's side of %s: %w", c, err)
	}
	return row, raw, nil
}

// Put adds to tx the writing of the user's side, whatever is there.
func (x *Inbox) Put(tx *kv.Tx, user id.UserID, c id.ConversationID, row *UserSide) {
	var kb [MaxKeyLen]byte
	tx.SetFunc(x.keys.UserSide(kb[:0], user, c), row.Append)
}

// Replace adds to tx the writing of the user's side over the row raw that was read (nil:
// none); it conflicts if another one is there by then.
func (x *Inbox) Replace(tx *kv.Tx, user id.UserID, c id.ConversationID, raw []byte, row *UserSide) {
	var kb [MaxKeyLen]byte
	tx.Require(x.keys.UserSide(kb[:0], user, c), raw)
	x.Put(tx, user, c, row)
}

// Leave adds to tx the tombstone of a user who left at leftSeq, over the row raw that was
// read, and reports whether there is one to write. There isn't without a row, nor over
// one whose AsOfSeq is not below leftSeq: that was written by somebody who knew of the
// leaving, such as a later join, and a late tombstone would make it vanish. now is in Unix ms.
func (x *Inbox) Leave(tx *kv.Tx, user id.UserID, c id.ConversationID, raw []byte, leftSeq uint64, now int64) (bool, error) {
	if raw == nil {
		return false, nil
	}
	row, err := ParseUserSide(raw)
	if err != nil {
		return false, fmt.Errorf("leave %s: %w", c, err)
	}
	if row.AsOfSeq >= leftSeq {
		return false, nil
	}
	row.AsOfSeq, row.Changed, row.Tombstone = leftSeq, now, true
	x.Replace(tx, user, c, raw, &row)
	return true, nil
}

// Scan returns up to limit (0: all) of the user's rows, tombstones too, in the order of
// their ids, from the first one after `after` (zero: from the beginning).
func (x *Inbox) Scan(ctx context.Context, user id.UserID, after id.ConversationID, limit int) ([]InboxRow, error) {
	span := kv.Span{Start: x.keys.UserSides(nil, user), End: prefixEnd(x.keys.UserSides(nil, user)), Limit: limit}
	if !after.IsZero() {
		span.Start = append(append(span.Start, after[:]...), 0)
	}
	var rows []InboxRow
	err := x.store.Scan(ctx, span, func(key, value []byte) (bool, error) {
		row, err := ParseUserSide(value)
		if err == nil && len(key) != len(span.End)+16 {
			err = fmt.Errorf("a key of %d bytes among them: %w", len(key), ErrCorrupt)
		}
		if err != nil {
			return false, err
		}
		rows = append(rows, InboxRow{Conversation: id.ConversationID(key[len(key)-16:]), UserSide: row})
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("read a user's conversations: %w", err)
	}
	return rows, nil
}
