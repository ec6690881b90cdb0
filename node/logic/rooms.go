package logic

import (
	"context"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/fanout"
	"github.com/gochat-im/gochat/services/room"
	"github.com/gochat-im/gochat/services/timeline"
)

// roomChanges lets rooms be changed by the sequencer.
type roomChanges struct{ seq *timeline.Sequencer }

func (c roomChanges) Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*room.Change, error)) error {
	_, err := c.seq.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*timeline.Change, error) {
		ch, err := plan(ctx, h)
		if ch == nil {
			return nil, err
		}
		return &timeline.Change{Create: ch.Create, Rows: ch.Rows}, err
	})
	return err
}

// Ejecter takes people out of rooms, at all edges.
type Ejecter interface {
	Eject(conv id.ConversationID, user id.UserID)
}

// roomTeller is what reaches those who are in rooms.
type roomTeller struct {
	*fanout.Handler
	Ejecter
}

// BindRooms sets what reaches those who are in rooms: h, of this node, and who takes them out.
func (l *Logic) BindRooms(h *fanout.Handler, e Ejecter) { l.Rooms.BindTeller(roomTeller{h, e}) }
