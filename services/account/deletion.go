package account

import (
	"context"
	"fmt"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// BeginDelete makes it durable that a user is to be deleted, before anything of that is done:
// Deletions tells of it, after a restart too, until EndDelete. It may be repeated.
func (s *Service) BeginDelete(ctx context.Context, u id.UserID) *code.Error {
	if !u.Valid() {
		return code.Newf(code.BadRequest, "the user id is malformed")
	}
	if u == id.System {
		return errService
	}
	return s.noteDelete(ctx, u, func(tx *kv.Tx, key []byte) {
		tx.Set(key, msgstore.AppendDeleting(nil, s.nowMS()))
	})
}

// EndDelete notes that everything of a deletion is done.
func (s *Service) EndDelete(ctx context.Context, u id.UserID) *code.Error {
	return s.noteDelete(ctx, u, func(tx *kv.Tx, key []byte) {
		tx.Frees = true
		tx.Delete(key)
	})
}

func (s *Service) noteDelete(ctx context.Context, u id.UserID, fill func(tx *kv.Tx, key []byte)) *code.Error {
	for attempt := 0; ; attempt++ {
		var tx kv.Tx
		fill(&tx, s.cfg.Keys.Deleting(nil, u))
		err := s.commit(ctx, &tx)
		switch {
		case err == nil:
			return nil
		case again(ctx, err, attempt):
		default:
			return storeError("noting a deletion", err)
		}
	}
}

// Deletions returns up to limit users whose deletion was begun and not ended. Of several processes
// that end deletions each asks for those of users in its own slots; nil: of all. Two that do the same at once do no harm.
func (s *Service) Deletions(ctx context.Context, mine func(slot id.Slot) bool, limit int) ([]msgstore.Deletion, error) {
	return msgstore.Deletions(ctx, s.cfg.Store, s.cfg.Keys, mine, limit)
}

// Gone reports, for each of users, whether the account was deleted. It reads the store, never a cache.
func (s *Service) Gone(ctx context.Context, users ...id.UserID) ([]bool, error) {
	keys := make([][]byte, len(users))
	for i, u := range users {
		keys[i] = s.cfg.Keys.Closed(nil, u)
	}
	rows, err := s.cfg.Store.MultiGet(ctx, keys)
	if err != nil {
		return nil, fmt.Errorf("account: reading whether accounts were deleted: %w", err)
	}
	gone := make([]bool, len(users))
	for i, raw := range rows {
		gone[i] = msgstore.Deleted(raw)
	}
	return gone, nil
}
