package conversation

import (
	"context"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Writers says who may write to whom in direct conversations. Errors that aren't
// *code.Error mean that it can't be told now.
type Writers interface {
	// MayOpen returns nil if from may begin a direct conversation with to.
	MayOpen(ctx context.Context, from, to id.UserID) error

	// Denied returns why a and b may not write to each other in the direct conversation that
	// they have: ab is nil if a may write to b, ba if b may to a. It tells what is stored at
	// its call or later, never something older: what it returned changes only together with
	// the conversation's StateVersion.
	Denied(ctx context.Context, a, b id.UserID) (ab, ba *code.Error, err error)
}

// directRules are the rules of a direct conversation in which not everybody may write.
type directRules struct {
	*roster
	denied [2]*code.Error // by roster.both
}

// Check implements Rules.
func (d *directRules) Check(p *packet.Pending) *code.Error {
	if err := d.roster.Check(p); err != nil {
		return err
	}
	switch p.From.User {
	case d.both[0]:
		return d.denied[0]
	case d.both[1]:
		return d.denied[1]
	}
	return nil // the service, in others' conversation
}

// permitted returns the rules of the direct conversation r as of now.
func (s *Service) permitted(ctx context.Context, r *roster) (Rules, error) {
	if s.cfg.Writers == nil || r.both[0] == r.both[1] {
		return r, nil
	}
	ab, ba, err := s.cfg.Writers.Denied(ctx, r.both[0], r.both[1])
	switch {
	case err != nil:
		return nil, msgstore.Refusal(err)
	case ab == nil && ba == nil:
		return r, nil
	}
	return &directRules{roster: r, denied: [2]*code.Error{ab, ba}}, nil
}

// mayOpen returns nil if from may begin a direct conversation with to.
func (s *Service) mayOpen(ctx context.Context, from, to id.UserID) error {
	if s.cfg.Writers == nil || from == to {
		return nil
	}
	return s.cfg.Writers.MayOpen(ctx, from, to)
}
