package logic

import (
	"context"

	"github.com/gochat-im/gochat/edge/backend"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/group"
	"github.com/gochat-im/gochat/services/importer"
	"github.com/gochat-im/gochat/services/timeline"
)

// changes lets groups be changed by the sequencer; each declares its own Change.
type changes struct{ seq *timeline.Sequencer }

func (c changes) Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*group.Change, error)) (uint64, error) {
	return c.seq.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*timeline.Change, error) {
		ch, err := plan(ctx, h)
		if ch == nil {
			return nil, err
		}
		return &timeline.Change{Sender: ch.Sender, Type: ch.Type, Content: ch.Content, Rows: ch.Rows, Done: ch.Done, Create: ch.Create, At: ch.At}, err
	})
}

// pastChanges lets the importer's changes be made by the sequencer.
type pastChanges struct{ seq *timeline.Sequencer }

func (c pastChanges) Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*importer.Change, error)) (uint64, error) {
	return c.seq.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*timeline.Change, error) {
		ch, err := plan(ctx, h)
		if ch == nil {
			return nil, err
		}
		out := &timeline.Change{Create: ch.Create, Rows: ch.Rows, Imported: make([]timeline.Imported, len(ch.Messages))}
		for i := range ch.Messages {
			out.Imported[i] = timeline.Imported(ch.Messages[i])
		}
		return out, err
	})
}

// pastMessages is the importer as the HTTP API knows it.
type pastMessages struct{ *importer.Service }

func (p pastMessages) Direct(ctx context.Context, a, b id.UserID, messages []backend.Past) (backend.Brought, error) {
	r, err := p.Service.Direct(ctx, a, b, incoming(messages))
	return backend.Brought(r), err
}

func (p pastMessages) Group(ctx context.Context, conv id.ConversationID, messages []backend.Past) (backend.Brought, error) {
	r, err := p.Service.Group(ctx, conv, incoming(messages))
	return backend.Brought(r), err
}

func incoming(messages []backend.Past) []importer.Message {
	out := make([]importer.Message, len(messages))
	for i := range messages {
		out[i] = importer.Message(messages[i])
	}
	return out
}

// datedGroups are the methods of groups as of an earlier time.
func (l *Logic) datedGroups(at int64) map[packet.Method]conn.Method {
	out := map[packet.Method]conn.Method{}
	for m, answer := range l.Groups.Dated(at).Methods() {
		out[m] = answer
	}
	return out
}
