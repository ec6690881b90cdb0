package group

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// withdrawTime bounds the writing of what a change leaves behind.
const withdrawTime = 5 * time.Second

// prepare writes users' sides of conv, which must be there before they are members: they
// lie in other slots, and nobody heeds them until the group agrees. It returns who can't
// be brought in, and why. Bringing somebody in again writes the row anew, so that the
// tombstone of an earlier leaving that comes late finds a row that knows of it: all that
// happened up to asOf. Who leaves after that must be prepared again (outdated).
func (s *Service) prepare(ctx context.Context, conv id.ConversationID, users []id.UserID) (refused map[id.UserID]code.Code, asOf uint64, err error) {
	refused = make(map[id.UserID]code.Code)
	head, _, err := s.timeline.Head(ctx, conv)
	if err != nil {
		return nil, 0, err
	}
	fresh := make([]id.UserID, 0, len(users))
	for _, u := range users {
		ok, err := s.cfg.Users.Exists(ctx, u)
		if err != nil {
			return nil, 0, fmt.Errorf("look up user: %w", err)
		}
		if !ok {
			refused[u] = code.NoSuchUser
			continue
		}
		fresh = append(fresh, u)
	}
	err = s.writeSides(ctx, conv, fresh, func(u id.UserID, old *msgstore.UserSide, raw []byte, h *msgstore.Head) (*msgstore.UserSide, error) {
		if raw == nil || old.Tombstone {
			full, err := s.full(ctx, u)
			if err != nil {
				return nil, err
			}
			if full {
				refused[u] = code.TooMany
				return nil, nil
			}
		}
		next := *old
		next.Tombstone, next.HiddenSeq = false, 0
		next.AsOfSeq, next.Changed = h.LastSeq, s.now()
		return &next, nil
	})
	return refused, head.LastSeq, err
}

// outdated reports whether m left after the user's side was prepared: it may be a tombstone by now.
func outdated(m *msgstore.Member, asOf uint64) bool {
	n := len(m.Intervals)
	return n > 0 && m.Intervals[n-1].Left > asOf
}

// errOutdated ends a plan whose users have to be prepared again.
var errOutdated = errors.New("group: somebody left meanwhile")

// full reports whether the user is in as many conversations as one may be.
func (s *Service) full(ctx context.Context, user id.UserID) (bool, error) {
	n, after := 0, id.ConversationID{}
	for {
		rows, err := s.inbox.Scan(ctx, user, after, 256)
		if err != nil {
			return false, err
		}
		for i := range rows {
			if !rows[i].Tombstone {
				n++
			}
		}
		if n >= s.cfg.Conversations || len(rows) < 256 {
			return n >= s.cfg.Conversations, nil
		}
		after = rows[len(rows)-1].Conversation
	}
}

// withdraw brings users' sides of conv in line with the group after they left it, or were
// not brought in after all: a tombstone for everybody who isn't in. It is best effort:
// what it doesn't reach is ignored by whoever reads it.
func (s *Service) withdraw(ctx context.Context, conv id.ConversationID, users []id.UserID) {
	// Who asked may have gone; the rows are as wrong then.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTime)
	defer cancel()
	members, err := s.groups.MembersOf(ctx, conv, users)
	if err == nil {
		left := make(map[id.UserID]uint64)
		var gone []id.UserID
		for i, u := range users {
			if m := &members[i]; !m.Active() {
				if n := len(m.Intervals); n > 0 {
					left[u] = m.Intervals[n-1].Left
				}
				gone = append(gone, u)
			}
		}
		err = s.writeSides(ctx, conv, gone, func(u id.UserID, old *msgstore.UserSide, raw []byte, h *msgstore.Head) (*msgstore.UserSide, error) {
			// A row as of a later seq was written by somebody who is bringing the user in.
			if raw == nil || old.Tombstone || old.AsOfSeq >= left[u] {
				return nil, nil
			}
			next := *old
			next.Tombstone, next.AsOfSeq, next.Changed = true, left[u], s.now()
			return &next, nil
		})
	}
	if err != nil {
		s.log.WarnContext(ctx, "users' lists still hold a group that they aren't in", "conversation", conv.String(), "users", len(users), "err", err)
	}
}

// writeSides reads users' sides of conv and writes what next returns for each, nil:
// nothing. Where somebody else wrote meanwhile it asks again.
func (s *Service) writeSides(ctx context.Context, conv id.ConversationID, users []id.UserID,
	next func(u id.UserID, old *msgstore.UserSide, raw []byte, h *msgstore.Head) (*msgstore.UserSide, error)) error {
	for turn := 0; len(users) > 0; turn++ {
		// The head first: a row as of its seq knows of everything up to there.
		head, _, err := s.timeline.Head(ctx, conv)
		if err != nil {
			return err
		}
		keys := make([][]byte, len(users))
		for i, u := range users {
			keys[i] = s.cfg.Keys.UserSide(nil, u, conv)
		}
		rows, err := s.cfg.Store.MultiGet(ctx, keys)
		if err != nil {
			return fmt.Errorf("read users' sides of %s: %w", conv, err)
		}
		var txs []*kv.Tx
		var sent, again []id.UserID
		for i, u := range users {
			var old msgstore.UserSide
			if rows[i] != nil {
				if old, err = msgstore.ParseUserSide(rows[i]); err != nil {
					return fmt.Errorf("%s in a user's list: %w", conv, err)
				}
			}
			row, err := next(u, &old, rows[i], &head)
			if err != nil {
				return err
			}
			if row != nil {
				tx := new(kv.Tx)
				s.inbox.Replace(tx, u, conv, rows[i], row)
				txs, sent = append(txs, tx), append(sent, u)
			}
		}
		if len(txs) > 0 {
			s.cfg.Store.Commit(ctx, txs...)
		}
		for i, tx := range txs {
			switch {
			case tx.Err == nil:
			case turn < maxTurns && (errors.Is(tx.Err, kv.ErrConflict) || errors.Is(tx.Err, kv.ErrUndetermined)):
				again = append(again, sent[i])
			default:
				return fmt.Errorf("write users' sides of %s: %w", conv, tx.Err)
			}
		}
		users = again
	}
	return nil
}
