package relation

import (
	"context"
	"fmt"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// What is answered over and over. They are never changed.
var (
	errBlocked  = code.Newf(code.Forbidden, "this user doesn't want to hear from you")
	errNobody   = code.Newf(code.Forbidden, "there are no direct conversations here")
	errStranger = code.Newf(code.Forbidden, "only people who share a group may write to each other here")
)

// MayOpen returns nil if from may begin a direct conversation with to, a *code.Error that
// says why not, or another error if that can't be told now. It reads the store.
func (s *Service) MayOpen(ctx context.Context, from, to id.UserID) error {
	switch {
	case from == to:
		return nil
	case s.cfg.Write == Nobody:
		return errNobody
	}
	blocked, err := s.rows.Blocked(ctx, msgstore.Pair{By: to, Whom: from})
	if err != nil {
		return err
	}
	if blocked[0] {
		return errBlocked
	}
	if s.cfg.Write == Anyone {
		return nil
	}
	shared, err := s.shareGroup(ctx, from, to)
	if err == nil && !shared {
		err = errStranger
	}
	return err
}

// Denied returns why a and b, who have a direct conversation, may not write to each other
// in it: ab is nil if a may write to b, ba if b may to a. It reads the store, never a
// cache: what it returns is as of its call.
func (s *Service) Denied(ctx context.Context, a, b id.UserID) (ab, ba *code.Error, err error) {
	switch {
	case a == b:
		return nil, nil, nil
	case s.cfg.Write == Nobody:
		return errNobody, errNobody, nil
	}
	blocked, err := s.rows.Blocked(ctx, msgstore.Pair{By: b, Whom: a}, msgstore.Pair{By: a, Whom: b})
	if err != nil {
		return nil, nil, err
	}
	if blocked[0] {
		ab = errBlocked
	}
	if blocked[1] {
		ba = errBlocked
	}
	return ab, ba, nil
}

const (
	groupsAtOnce = 256
	maxGroups    = 16 << 10 // of one user that are looked at
)

// shareGroup reports whether a and b are in a group together. A user's side may tell of a
// group that doesn't agree, so the group's own rows decide.
func (s *Service) shareGroup(ctx context.Context, a, b id.UserID) (bool, error) {
	after := id.ConversationID{byte(id.KindGroup)} // no group's id: the rest is a hash or random
	for seen := 0; seen < maxGroups; seen += groupsAtOnce {
		rows, err := s.inbox.Scan(ctx, a, after, groupsAtOnce)
		if err != nil {
			return false, err
		}
		for i := range rows {
			r := &rows[i]
			if r.Conversation.Kind() != id.KindGroup {
				return false, nil // ids are in order, their kind first
			}
			if r.Tombstone {
				continue
			}
			both := true
			for _, u := range [...]id.UserID{b, a} {
				m, ok, err := s.members.Get(ctx, r.Conversation, u)
				if err != nil {
					return false, fmt.Errorf("look for a shared group: %w", err)
				}
				if both = ok && m.Active(); !both {
					break
				}
			}
			if both {
				return true, nil
			}
		}
		if len(rows) < groupsAtOnce {
			return false, nil
		}
		after = rows[len(rows)-1].Conversation
	}
	return false, nil
}
