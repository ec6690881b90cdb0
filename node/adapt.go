package node

import (
	"context"

	"github.com/gochat-im/gochat/bus/log"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/conversation"
	"github.com/gochat-im/gochat/services/timeline"
)

// busRows gives the embedded bus its place in the stored format.
type busRows struct{ keys msgstore.Keys }

// busPartition is the only one: ordered keys cost less than spread ones.
const busPartition = 0

func (r busRows) Refs(dst []byte) []byte { return r.keys.BusRefs(dst, busPartition) }

func (r busRows) AppendRef(dst []byte, ref *log.Ref) []byte {
	row := msgstore.BusRef(*ref)
	return row.Append(dst)
}

func (r busRows) ParseRef(value []byte) (log.Ref, error) {
	row, err := msgstore.ParseBusRef(value)
	return log.Ref(row), err
}

func (r busRows) Position(dst []byte, group string) []byte {
	return r.keys.BusPosition(dst, group, busPartition)
}

func (r busRows) AppendPosition(dst []byte, offset uint64) []byte {
	return msgstore.AppendBusPosition(dst, offset)
}

func (r busRows) ParsePosition(value []byte) (uint64, error) { return msgstore.ParseBusPosition(value) }

// guard lets the sequencer ask the conversation service; each declares its own Rules.
type guard struct{ convs *conversation.Service }

func (g guard) Rules(ctx context.Context, conv id.ConversationID) (timeline.Rules, error) {
	return g.convs.Rules(ctx, conv)
}

// lateSignals breaks the circle of hub (delivers for fan-out) and fan-out (takes the hub's signals).
type lateSignals struct{ conn.Signals }
