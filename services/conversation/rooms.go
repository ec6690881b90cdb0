package conversation

import (
	"context"

	"github.com/gochat-im/gochat/protocol/id"
)

// Rooms knows who may do what in rooms, in which nobody is a member.
type Rooms interface {
	// Rules returns what messages to the room must keep to, as of now, or a *code.Error.
	Rules(ctx context.Context, conv id.ConversationID) (Rules, error)

	// MayRead refuses whoever may not read the room's messages.
	MayRead(ctx context.Context, conv id.ConversationID, user id.UserID) error
}
