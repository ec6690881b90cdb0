package relation

import (
	"context"
	"errors"
	"fmt"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Pages of BLOCKS.
const (
	defaultBlocks = 100
	maxBlocks     = 500
)

// Block answers BLOCK. When it has returned without an error, what the blocked user sends
// from then on is refused; undoing it likewise holds at once. It may be repeated, and must
// be after an error: the row may stand while its effect is not certain yet.
func (s *Service) Block(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.BlockRequest
	if err := packet.DecodeMethod(packet.MethodBlock, inner, &r); err != nil {
		return nil, err
	}
	other := id.UserID(r.UserId)
	if other == o.User {
		return nil, code.Newf(code.BadRequest, "nobody can block themselves")
	}
	if r.Blocked {
		if err := s.mayBlock(ctx, o.User, other); err != nil {
			return nil, msgstore.Refusal(err)
		}
	}
	if err := s.writeBlock(ctx, o.User, other, r.Blocked); err != nil {
		return nil, msgstore.Refusal(err)
	}
	// Also where the row said so before: whoever wrote it may not have come this far.
	if err := s.fence.Touch(ctx, id.Direct(o.User, other)); err != nil {
		return nil, msgstore.Refusal(fmt.Errorf("make a block hold: %w", err))
	}
	return &wire.BlockResponse{}, nil
}

// writeBlock stores that user has blocked other, or hasn't, over whatever others write.
func (s *Service) writeBlock(ctx context.Context, user, other id.UserID, blocked bool) error {
	for turn := 0; ; turn++ {
		raw, err := s.rows.Block(ctx, user, other)
		if err != nil {
			return err
		}
		tx := new(kv.Tx)
		if blocked {
			s.rows.PutBlock(tx, user, other, raw, s.now())
		} else {
			s.rows.DeleteBlock(tx, user, other, raw)
		}
		s.cfg.Store.Commit(ctx, tx)
		switch {
		case tx.Err == nil:
			return nil
		case turn < maxTurns && (errors.Is(tx.Err, kv.ErrConflict) || errors.Is(tx.Err, kv.ErrUndetermined)):
		default:
			return fmt.Errorf("write a block: %w", tx.Err)
		}
	}
}

// mayBlock returns why user may not block other, or nil.
func (s *Service) mayBlock(ctx context.Context, user, other id.UserID) error {
	ok, err := s.cfg.Users.Exists(ctx, other)
	switch {
	case err != nil:
		return fmt.Errorf("look up user: %w", err)
	case !ok:
		return code.New(code.NoSuchUser)
	}
	all, err := s.rows.BlockedBy(ctx, user, "", s.cfg.MaxBlocks)
	if err != nil {
		return err
	}
	if len(all) < s.cfg.MaxBlocks {
		return nil
	}
	for _, u := range all {
		if u == other {
			return nil
		}
	}
	return code.Newf(code.TooMany, "at most %d users may be blocked", s.cfg.MaxBlocks)
}

// Blocks answers BLOCKS: whom the asker has blocked, in the order of their ids' bytes. The
// cursor is the last id of the page before.
func (s *Service) Blocks(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.BlocksRequest
	if err := packet.DecodeMethod(packet.MethodBlocks, inner, &r); err != nil {
		return nil, err
	}
	after := id.UserID(r.Cursor)
	if after != "" && !after.Valid() {
		return nil, code.Newf(code.BadRequest, "cursor is not one of this server's")
	}
	limit := defaultBlocks
	if r.Limit > 0 {
		limit = int(min(r.Limit, maxBlocks))
	}
	users, err := s.rows.BlockedBy(ctx, o.User, after, limit+1)
	if err != nil {
		return nil, msgstore.Refusal(err)
	}
	ans := &wire.BlocksResponse{}
	if len(users) > limit {
		users = users[:limit]
		ans.Cursor = string(users[limit-1])
	}
	for _, u := range users {
		ans.UserIds = append(ans.UserIds, string(u))
	}
	return ans, nil
}
