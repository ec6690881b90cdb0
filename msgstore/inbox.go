package msgstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

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

// When the user's sides of groups are looked after.
const (
	sidesEvery = 6 * time.Hour
	sidesAge   = time.Hour // of a row that is judged: whoever wrote it has long made the user a member, or never will
)

// SweepSides brings users' lists in line with groups: a row of somebody who is in no
// longer becomes a tombstone, that of somebody who never was goes. Such rows are what
// remains when a process dies between the two sides of a change. It judges rows changed
// before the Unix millisecond before, looks at the users of `slots` of its slots, and returns
// how many rows it changed; done says that the last slot was reached, and the next call
// begins at the first.
func (s *Sweeper) SweepSides(ctx context.Context, before int64, slots int) (changed int, done bool, err error) {
	for slots > 0 {
		if !s.cfg.Mine(s.sidesFrom) {
			if s.sidesFrom++; s.sidesFrom == id.SlotCount {
				s.sidesFrom = 0
				return changed, true, nil
			}
			continue
		}
		slots--
		n, err := s.sweepSidesOf(ctx, s.sidesFrom, before)
		changed += n
		if err != nil {
			return changed, false, fmt.Errorf("sweep users' lists of slot %d: %w", s.sidesFrom, err)
		}
		if s.sidesFrom++; s.sidesFrom == id.SlotCount {
			s.sidesFrom = 0
			return changed, true, nil
		}
	}
	return changed, false, nil
}

// listed is a row of a user's list.
type listed struct {
	user id.UserID
	conv id.ConversationID
	raw  []byte
	side UserSide
}

func (s *Sweeper) sweepSidesOf(ctx context.Context, slot id.Slot, before int64) (changed int, err error) {
	start := s.cfg.Keys.areaKey(nil, slot, areaUser)
	var rows []listed
	err = each(ctx, s.cfg.Store, start, prefixEnd(bytes.Clone(start)), func(key, value []byte) error {
		p, _ := split(key)
		i := bytes.IndexByte(p.rest, 0)
		if i < 0 || len(p.rest) != i+2+16 || p.rest[i+1] != userConversation {
			return nil
		}
		conv := id.ConversationID(p.rest[i+2:])
		side, err := ParseUserSide(value)
		if err != nil || conv.Kind() != id.KindGroup || side.Tombstone || side.Changed >= before {
			return nil // a row that can't be read is the audit's to tell of
		}
		rows = append(rows, listed{id.UserID(p.rest[:i]), conv, bytes.Clone(value), side})
		if len(rows) < sidesAtOnce {
			return nil
		}
		n, err := s.reconcile(ctx, rows)
		changed += n
		rows = rows[:0]
		return err
	})
	if err == nil {
		var n int
		n, err = s.reconcile(ctx, rows)
		changed += n
	}
	return changed, err
}

// reconcile judges rows. Who is being brought in has rewritten the row, which conflicts then.
func (s *Sweeper) reconcile(ctx context.Context, rows []listed) (changed int, err error) {
	raws, err := multiGet(ctx, s.cfg.Store, len(rows), func(dst []byte, i int) []byte {
		return s.cfg.Keys.Member(dst, rows[i].conv, rows[i].user)
	})
	if err != nil {
		return 0, err
	}
	inbox := NewInbox(s.cfg.Store, s.cfg.Keys)
	var txs []*kv.Tx
	for i, r := range rows {
		var m Member
		if raws[i] != nil {
			if m, err = ParseMember(raws[i]); err != nil || m.Active() {
				continue
			}
		}
		tx := &kv.Tx{Frees: true}
		if n := len(m.Intervals); n > 0 {
			r.side.Tombstone, r.side.Changed = true, s.cfg.Now()
			r.side.AsOfSeq = max(r.side.AsOfSeq, m.Intervals[n-1].Left)
			inbox.Replace(tx, r.user, r.conv, r.raw, &r.side)
		} else {
			key := s.cfg.Keys.UserSide(nil, r.user, r.conv)
			tx.Require(key, r.raw)
			tx.Delete(key)
		}
		txs = append(txs, tx)
	}
	if len(txs) == 0 {
		return 0, nil
	}
	s.cfg.Store.Commit(ctx, txs...)
	for _, tx := range txs {
		switch {
		case tx.Err == nil:
			changed++
		case !errors.Is(tx.Err, kv.ErrConflict) && !errors.Is(tx.Err, kv.ErrUndetermined): // those are for the next pass
			return changed, tx.Err
		}
	}
	return changed, nil
}
