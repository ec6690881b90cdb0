package conversation

import (
	"context"

	"github.com/gochat-im/gochat/protocol/id"
)

// Audiences are what large groups' messages go to. It is safe for concurrent use.
type Audiences interface {
	// Connected tells that user has a new connection, maybe, and which conversations may be
	// theirs. It is brought into the audiences that it belongs to. Where none of convs has one this costs a look-up for each group at most.
	Connected(ctx context.Context, user id.UserID, convs []id.ConversationID) error

	// Large reports whether conv has an audience.
	Large(conv id.ConversationID) bool
}

// BindAudiences sets who is told of new connections. It must be called before anything else is.
func (s *Service) BindAudiences(a Audiences) { s.audiences = a }

// large reports whether conv is a group so large that nobody's receiving is stored there:
// each message would write a row a member.
func (s *Service) large(conv id.ConversationID) bool {
	return conv.Kind() == id.KindGroup && s.audiences != nil && s.audiences.Large(conv)
}
