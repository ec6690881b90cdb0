package logic

import (
	"context"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/conversation"
	"github.com/gochat-im/gochat/services/relation"
	"github.com/gochat-im/gochat/services/timeline"
)

// fence has a conversation's owner read again what an append is judged by.
type fence struct{ seq *timeline.Sequencer }

func (f fence) Touch(ctx context.Context, conv id.ConversationID) error {
	_, err := f.seq.Change(ctx, conv, func(_ context.Context, h msgstore.Head) (*timeline.Change, error) {
		if !h.Exists() {
			return nil, nil // whoever makes it reads what is stored by then
		}
		return &timeline.Change{}, nil
	})
	return err
}

// heardSignals lets no signal through to somebody who wouldn't get a message of its sender.
type heardSignals struct {
	conn.Signals
	convs     *conversation.Service
	relations *relation.Service
}

func (h heardSignals) Signal(ctx context.Context, o *packet.Origin, s *wire.Signal) *code.Error {
	peer := id.UserID(s.ToUserId)
	if conv := s.ConversationId; peer == "" && len(conv) == len(id.ConversationID{}) && id.ConversationID(conv).Kind() == id.KindDirect {
		both, err := h.convs.Users(ctx, id.ConversationID(conv))
		if err != nil {
			return code.Wrap(code.Unavailable, err)
		}
		for _, u := range both {
			if u != o.User {
				peer = u
			}
		}
	}
	if peer != "" {
		denied, _, err := h.relations.Denied(ctx, o.User, peer)
		if err != nil {
			return code.Wrap(code.Unavailable, err)
		}
		if denied != nil {
			return denied
		}
	}
	return h.Signals.Signal(ctx, o, s)
}
