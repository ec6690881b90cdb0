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

// When the user's sides of groups are looked after.
const (
	sidesEvery = 6 * time.Hour
	sidesAge   = time.Hour // of a row that is judged: whoever wrote it has long made the user a member, or never will
)

// SweepSides brings users' lists in line with groups: a row of somebody who is in no
// longer becomes a tombstone, that of somebody who never was goes. Such rows are what
// remains when a process dies between the two sides of a change. It judges rows changed
// before the Unix millisecond before, looks at the users of `slots` slots, and returns
// how many rows it changed; done says that the last slot was reached, and the next call
// begins at the first.
func (s *Sweeper) SweepSides(ctx context.Context, before int64, slots int) (changed int, done bool, err error) {
	for range slots {
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
