package relation

import (
	"context"
	"errors"
	"fmt"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// ErasedName is the name in the profile of somebody whose account was deleted: their messages
// stay with others, who are to be told by whom they aren't any more.
const ErasedName = "deleted account"

// errGone is what a message to a deleted account is answered with. It is never changed.
var errGone = code.Newf(code.NoSuchUser, "this account was deleted")

// gone reports which of users were deleted.
func (s *Service) gone(ctx context.Context, users ...id.UserID) ([]bool, error) {
	if s.cfg.Gone == nil {
		return make([]bool, len(users)), nil
	}
	return s.cfg.Gone(ctx, users...)
}

// Erase removes what user, who was deleted, showed and wanted: in the profile's place comes one
// with ErasedName alone, which is told like any change; nobody finds the user by name any more; and the
// user's blocks go. It may be repeated, and has to be after an error.
func (s *Service) Erase(ctx context.Context, user id.UserID) error {
	for turn := 0; ; turn++ {
		p, raw, err := s.rows.Profile(ctx, user)
		if err != nil {
			return err
		}
		// Before the name is forgotten: a crash in between finds it here again.
		if err := s.rows.PutNames(ctx, user, nil, terms(user, p.Name)); err != nil {
			return err
		}
		if p.Name == ErasedName && p.Avatar == "" && len(p.Ext) == 0 {
			break
		}
		next := msgstore.Profile{Name: ErasedName, Version: p.Version + 1, Changed: s.now()}
		tx := new(kv.Tx)
		s.rows.PutProfile(tx, user, raw, &next)
		s.cfg.Store.Commit(ctx, tx)
		if tx.Err == nil {
			w := s.profiles.put(user, wireOf(user, &next), s.now())
			s.news.add(&packet.Origin{User: user}, w)
			break
		}
		if turn == maxTurns || !errors.Is(tx.Err, kv.ErrConflict) && !errors.Is(tx.Err, kv.ErrUndetermined) {
			return fmt.Errorf("erase a profile: %w", tx.Err)
		}
	}
	for {
		users, err := s.rows.BlockedBy(ctx, user, "", maxBlocks)
		if err != nil {
			return err
		}
		for _, other := range users {
			if err := s.writeBlock(ctx, user, other, false); err != nil {
				return err
			}
		}
		if len(users) < maxBlocks {
			return nil
		}
	}
}
