package group

import (
	"context"
	"slices"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Moves calls fn for each of the messages first..last of conv, in their order, with which
// somebody came or went: who joins with a message sees it, and so does who leaves with
// it. ok is false, and fn was not called, when memory doesn't reach back so far; Recipients answers
// then. size is how many members there are now. fn's slices are shared: read only. What it costs follows what
// moved, not how many members there are.
func (s *Service) Moves(ctx context.Context, conv id.ConversationID, first, last uint64, fn func(seq uint64, joined, left []id.UserID)) (size int, ok bool, err error) {
	r, err := s.roster(ctx, conv, 0)
	if err != nil {
		return 0, false, msgstore.Outcome(err)
	}
	if r == nil {
		return 0, false, nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.dead || first <= r.since { // a dead one may have been read while it changed
		return len(r.list), false, nil
	}
	for i := r.stepFrom(first); i < len(r.steps) && r.steps[i].seq <= last; i++ {
		fn(r.steps[i].seq, r.steps[i].joined, r.steps[i].left)
	}
	return len(r.list), true, nil
}

// stepFrom returns where the steps of seq and later begin. mu is held.
func (r *roster) stepFrom(seq uint64) int {
	if n := len(r.steps); n == 0 || r.steps[n-1].seq < seq {
		return n // as nearly always
	}
	i, _ := slices.BinarySearchFunc(r.steps, seq, func(st step, seq uint64) int {
		switch {
		case st.seq < seq:
			return -1
		case st.seq > seq:
			return 1
		}
		return 0
	})
	return i
}

// Stays reports whether user is a member of conv after message seq: came with it or
// before, and didn't go with it or before.
func (s *Service) Stays(ctx context.Context, conv id.ConversationID, user id.UserID, seq uint64) (bool, error) {
	r, err := s.roster(ctx, conv, 0)
	if err != nil {
		return false, msgstore.Outcome(err)
	}
	if r == nil {
		return false, nil
	}
	if in, ok := r.stays(user, seq); ok {
		return in, nil
	}
	m, ok, err := s.members.Get(ctx, conv, user)
	if err != nil {
		return false, msgstore.Outcome(err)
	}
	if ok {
		for _, iv := range m.Intervals {
			if iv.Joined <= seq && (iv.Left == 0 || iv.Left > seq) {
				return true, nil
			}
		}
	}
	return false, nil
}

func (r *roster) stays(user id.UserID, seq uint64) (in, ok bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.dead || seq <= r.since { // at since, those who came with the next message may be in already
		return false, false
	}
	_, in = r.at[user]
	for i := len(r.steps) - 1; i >= 0 && r.steps[i].seq > seq; i-- { // undo what happened later, the last first
		if slices.Contains(r.steps[i].joined, user) {
			in = false
		}
		if slices.Contains(r.steps[i].left, user) {
			in = true
		}
	}
	return in, true
}

// Has reports whether user is a member of conv now, and how many there are.
func (s *Service) Has(ctx context.Context, conv id.ConversationID, user id.UserID) (in bool, size int, err error) {
	r, err := s.roster(ctx, conv, 0)
	if err != nil {
		return false, 0, msgstore.Outcome(err)
	}
	if r == nil {
		return false, 0, code.New(code.NoSuchConversation)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, in = r.at[user]
	return in, len(r.list), nil
}
