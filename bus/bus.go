// Package bus is the port to the log that carries stored messages to those who
// act on them: fan-out first, later push, search and webhooks.
//
// An Event may come more than once and late; what it names is always stored.
// Consumers drop what they saw by (conversation, epoch, seq).
package bus

import (
	"context"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Event tells that one append to a conversation was stored.
type Event struct {
	Conversation id.ConversationID
	Epoch        uint64 // of the store
	FirstSeq     uint64
	LastSeq      uint64

	// Messages are the stored messages as DELIVER carries them: the repeated field, byte
	// for byte. Shared and never written to; consumers that keep it past their handler copy it.
	Messages []byte

	// Origin is the incarnation of the connection that sent all of these messages, 0 if several did or none.
	Origin uint64

	// Offset is the event's place in a bus that lies in the store itself: the stamp of the
	// commit that it was enlisted in (kv.Tx.Stamp), set by the publisher before Publish. One
	// append may be published as several consecutive events of one Offset. 0: no such bus.
	Offset uint64
}

// Publisher is what the sequencer needs of the bus.
type Publisher interface {
	// Enlist adds to the append's own transaction what publishes ev, and reports true; or
	// reports false where the bus lies apart from the store. At most one event a transaction:
	// the whole append.
	Enlist(tx *kv.Tx, ev *Event) bool

	// Publish is called after the commit. Enlisted events are published already: it tells
	// the consumers of this process and does not fail or block on them. Where Enlist said
	// false it returns when the bus has taken all of evs; after an error any of them may or
	// may not have been taken. evs and its Messages must not be changed afterwards.
	Publish(ctx context.Context, evs []Event) error
}

// Handler acts on events in their order and returns nil when they are done with: they won't
// come again unless the process dies. After an error they come again. evs is the bus's again
// when the handler returns.
type Handler func(ctx context.Context, evs []Event) error

// Subscriber is what a consumer needs of the bus.
type Subscriber interface {
	// Subscribe calls h, from one goroutine, with every event since group's stored position
	// (a new group: from now on) until ctx ends. A group has one subscriber a process.
	Subscribe(ctx context.Context, group string, h Handler) error
}
