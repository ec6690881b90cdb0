package fanout

import (
	"context"
	"fmt"
	"slices"

	"github.com/gochat-im/gochat/protocol/id"
)

// Fill calls into with the users that belong to the audience of conv, as it has been told so far: nobody joins or
// leaves it meanwhile. It doesn't call it if conv has no audience. It is for edges that have lost theirs.
func (h *Handler) Fill(ctx context.Context, conv id.ConversationID, into func(users []id.UserID)) error {
	l := h.large.get(conv)
	if l == nil {
		return nil
	}
	// Messages go on while the members are read; they are read again, and at last with the messages waiting, if some
	// came or went meanwhile.
	for range 2 {
		l.mu.Lock()
		at, closed := l.at, l.closed
		l.mu.Unlock()
		if closed {
			return nil
		}
		users, err := h.membersAfter(ctx, conv, at)
		if err != nil {
			return err
		}
		l.mu.Lock()
		still := l.moved <= at
		if still && !l.closed {
			into(users)
		}
		l.mu.Unlock()
		if still {
			return nil
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	users, err := h.membersAfter(ctx, conv, l.at)
	if err != nil {
		return err
	}
	into(users)
	return nil
}

// membersAfter returns who is a member of conv after message seq. The caller must not change the slice.
func (h *Handler) membersAfter(ctx context.Context, conv id.ConversationID, seq uint64) ([]id.UserID, error) {
	users, _, err := h.cfg.Groups.Recipients(ctx, conv, seq, seq)
	if err != nil {
		return nil, fmt.Errorf("reading the members of %s: %w", conv, err)
	}
	// Who left with that message is one of its recipients, and no member any more.
	left := map[id.UserID]bool{}
	_, ok, err := h.cfg.Groups.Moves(ctx, conv, seq, seq, func(_ uint64, _, gone []id.UserID) {
		for _, u := range gone {
			left[u] = true
		}
	})
	if err != nil {
		return nil, fmt.Errorf("reading who left %s: %w", conv, err)
	}
	switch {
	case !ok: // it isn't known any more: everybody is asked for
		stay := make([]id.UserID, 0, len(users))
		for _, u := range users {
			in, err := h.cfg.Groups.Stays(ctx, conv, u, seq)
			if err != nil {
				return nil, fmt.Errorf("looking for a member of %s: %w", conv, err)
			}
			if in {
				stay = append(stay, u)
			}
		}
		users = stay
	case len(left) > 0:
		users = slices.DeleteFunc(slices.Clone(users), func(u id.UserID) bool { return left[u] })
	}
	return users, nil
}

// Seat brings the connections that users have now into all audiences that they belong to: those of
// connections at edges that know of audiences, and not whose they are.
func (h *Handler) Seat(ctx context.Context, users []id.UserID) error {
	if h.audiences.Load() == 0 {
		return nil
	}
	h.large.mu.RLock()
	all := make([]*large, 0, len(h.large.m))
	for _, l := range h.large.m {
		all = append(all, l)
	}
	h.large.mu.RUnlock()
	for _, l := range all {
		for _, u := range users {
			if err := h.seat(ctx, l, u); err != nil {
				return err
			}
		}
	}
	return nil
}
