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
	case s.cfg.Write == Nobody && from != id.System:
		return errNobody
	}
	gone, err := s.gone(ctx, to)
	if err != nil {
		return err
	}
	if gone[0] {
		return errGone
	}
	blocked, err := s.rows.Blocked(ctx, msgstore.Pair{By: to, Whom: from})
	if err != nil {
		return err
	}
	if blocked[0] {
		return errBlocked
	}
	if s.cfg.Write == Anyone || from == id.System {
		return nil
	}
	shared, err := s.shareGroup(ctx, from, []id.UserID{to})
	if err == nil && !shared[0] {
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
	case s.cfg.Write == Nobody && a != id.System && b != id.System:
		return errNobody, errNobody, nil
	}
	gone, err := s.gone(ctx, a, b)
	if err != nil {
		return nil, nil, err
	}
	if gone[0] || gone[1] {
		return errGone, errGone, nil
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
	if s.cfg.Write == Nobody { // the service writes, and isn't answered
		if a == id.System {
			ba = errNobody
		} else {
			ab = errNobody
		}
	}
	return ab, ba, nil
}

// MayAdd returns, for each of users in their order, why by may not bring them into a group,
// nil if they may. Who may not begin to write to somebody because they share no group can't
// make it so by that: they have to share one already, or a direct conversation.
func (s *Service) MayAdd(ctx context.Context, by id.UserID, users []id.UserID) ([]*code.Error, error) {
	pairs := make([]msgstore.Pair, len(users))
	for i, u := range users {
		pairs[i] = msgstore.Pair{By: u, Whom: by}
	}
	blocked, err := s.rows.Blocked(ctx, pairs...)
	if err != nil {
		return nil, err
	}
	denied := make([]*code.Error, len(users))
	for i := range users {
		if blocked[i] {
			denied[i] = errBlocked
		}
	}
	if s.cfg.Write != SharedGroup || by == id.System {
		return denied, nil
	}
	shared, err := s.shareGroup(ctx, by, users)
	if err != nil {
		return nil, err
	}
	for i, u := range users {
		if shared[i] || denied[i] != nil || u == by {
			continue
		}
		if _, known, err := s.members.Get(ctx, id.Direct(by, u), u); err != nil {
			return nil, err
		} else if !known {
			denied[i] = errStranger
		}
	}
	return denied, nil
}

const (
	groupsAtOnce = 256
	maxGroups    = 16 << 10 // of one user that are looked at
)

// shareGroup reports, for each of others, whether they are in a group together with u. A
// user's list may hold a group that doesn't agree, so the group's own rows decide.
func (s *Service) shareGroup(ctx context.Context, u id.UserID, others []id.UserID) (shared []bool, err error) {
	shared = make([]bool, len(others))
	ask := make([]id.UserID, 1, len(others)+1) // u, and those who aren't found yet
	ask[0] = u
	at := make([]int, 0, len(others)) // their places
	for i, o := range others {
		ask, at = append(ask, o), append(at, i)
	}
	after := id.ConversationID{byte(id.KindGroup)} // no group's id: the rest is a hash or random
	for seen := 0; seen < maxGroups && len(at) > 0; seen += groupsAtOnce {
		rows, err := s.inbox.Scan(ctx, u, after, groupsAtOnce)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			r := &rows[i]
			if r.Conversation.Kind() != id.KindGroup || len(at) == 0 {
				return shared, nil // ids are in order, their kind first
			}
			if r.Tombstone {
				continue
			}
			members, err := s.groups.MembersOf(ctx, r.Conversation, ask)
			if err != nil {
				return nil, fmt.Errorf("look for a shared group: %w", err)
			}
			if !members[0].Active() {
				continue
			}
			left := 0
			for k, place := range at {
				if members[k+1].Active() {
					shared[place] = true
					continue
				}
				ask[left+1], at[left] = ask[k+1], place
				left++
			}
			ask, at = ask[:left+1], at[:left]
		}
		if len(rows) < groupsAtOnce {
			break
		}
		after = rows[len(rows)-1].Conversation
	}
	return shared, nil
}
