package conversation

import (
	"context"
	"errors"
	"fmt"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// maxTurns bounds how often something that ran into another writer is tried.
const maxTurns = 8

// ensure returns the direct conversation of from, who exists, and to; it makes it if
// there is none. It may run any number of times at once, here and elsewhere: whoever
// writes the head first has made it, the others find it.
func (s *Service) ensure(ctx context.Context, from, to id.UserID) (*roster, error) {
	conv := id.Direct(from, to)
	checked := from == to
	for turn := 0; ; turn++ {
		r, err := s.roster(ctx, conv)
		if r != nil || err != nil {
			return r, err
		}
		if !checked {
			// Asked first, so that who may not write learns nothing of who exists.
			if err := s.mayOpen(ctx, from, to); err != nil {
				return nil, err
			}
			ok, err := s.cfg.Users.Exists(ctx, to)
			if err != nil {
				return nil, fmt.Errorf("look up user: %w", err)
			}
			if !ok {
				return nil, code.New(code.NoSuchUser)
			}
			checked = true
		}
		err = s.make(ctx, conv, pairOf(from, to))
		switch {
		case err == nil:
		case turn == maxTurns:
			return nil, err
		case errors.Is(err, kv.ErrConflict):
			// Somebody else made it, or is about to.
		case errors.Is(err, kv.ErrUndetermined):
			// It stands or it doesn't: look, and if not, go again; requiring that there is
			// no head fences what may still arrive.
		default:
			return nil, err
		}
	}
}

// make writes the conversation: both users' sides first, since they lie in other slots
// and without the head nobody heeds them, then head and members in one transaction.
func (s *Service) make(ctx context.Context, conv id.ConversationID, p pair) error {
	users := []id.UserID{p.a, p.b}
	if p.a == p.b {
		users = users[:1]
	}
	now := s.now()
	var txs []*kv.Tx
	for _, u := range users {
		_, row, err := s.inbox.Get(ctx, u, conv)
		if err != nil {
			return err
		}
		if row != nil {
			continue
		}
		tx := new(kv.Tx)
		s.inbox.Replace(tx, u, conv, nil, &msgstore.UserSide{Changed: now})
		txs = append(txs, tx)
	}
	if len(txs) > 0 {
		s.cfg.Store.Commit(ctx, txs...)
		for _, tx := range txs {
			// After a conflict it is likely to be there, but only a look tells.
			if tx.Err != nil {
				return fmt.Errorf("write users' sides of %s: %w", conv, tx.Err)
			}
		}
	}
	tx := new(kv.Tx)
	s.timeline.Create(tx, conv, now)
	m := msgstore.Member{Intervals: []msgstore.Interval{{Joined: 1}}}
	for _, u := range users {
		s.members.Put(tx, conv, u, &m)
	}
	s.cfg.Store.Commit(ctx, tx)
	if tx.Err != nil {
		return fmt.Errorf("make direct conversation %s: %w", conv, tx.Err)
	}
	return nil
}
