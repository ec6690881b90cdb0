package node

import (
	"context"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/group"
	"github.com/gochat-im/gochat/services/timeline"
)

// changes lets groups be changed by the sequencer; each declares its own Change.
type changes struct{ seq *timeline.Sequencer }

func (c changes) Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*group.Change, error)) (uint64, error) {
	return c.seq.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*timeline.Change, error) {
		ch, err := plan(ctx, h)
		return (*timeline.Change)(ch), err
	})
}
