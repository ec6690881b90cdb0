package group

import (
	"context"
	"errors"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Depart takes a user who is gone for good out of the group conv. An owner's group is handed
// over first: to the admin who has been in for the longest, else to such a member; one without
// other members is closed to joining. It does nothing for who isn't in, and may be repeated: what a crash leaves is a group
// that was handed over already.
func (s *Service) Depart(ctx context.Context, user id.UserID, conv id.ConversationID) error {
	o := &packet.Origin{User: user}
	for turn := 0; ; turn++ {
		g, err := s.groups.Get(ctx, conv, user)
		if err != nil {
			return err
		}
		if !g.Exists || !g.Member.Active() {
			return nil
		}
		if g.Member.Role == roleOwner {
			var heir id.UserID
			if heir, err = s.heir(ctx, conv, user); err != nil {
				return err
			}
			switch {
			case heir != "":
				_, err = s.Role(ctx, o, conv, heir, roleOwner)
			case g.Join != 0:
				_, err = s.Update(ctx, o, &wire.GroupUpdateRequest{ConversationId: conv[:], Fields: fieldJoin})
			}
		}
		if err == nil {
			_, err = s.Leave(ctx, o, conv)
		}
		var ce *code.Error
		switch {
		case err == nil:
			return nil
		case turn < maxTurns && errors.As(err, &ce) && (ce.Code == code.NoSuchUser || ce.Code == code.Forbidden):
			// The heir left, or somebody joined, meanwhile.
		default:
			return err
		}
	}
}

// heir returns who is to own conv after owner; empty: nobody else is in.
func (s *Service) heir(ctx context.Context, conv id.ConversationID, owner id.UserID) (heir id.UserID, err error) {
	var role uint8
	var since uint64
	for after := id.UserID(""); ; {
		page, err := s.members.Scan(ctx, conv, after, MaxPage)
		if err != nil {
			return "", err
		}
		for i := range page {
			m := &page[i]
			if m.User == owner || !m.Active() {
				continue
			}
			joined := m.Intervals[len(m.Intervals)-1].Joined
			if heir == "" || m.Role > role || m.Role == role && joined < since {
				heir, role, since = m.User, m.Role, joined
			}
		}
		if len(page) < MaxPage {
			return heir, nil
		}
		after = page[len(page)-1].User
	}
}
