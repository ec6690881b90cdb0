package loopbus

import (
	"context"
	"fmt"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
)

// Consumers knows what becomes of the events that a Bus publishes: services/timeline.Consumers.
type Consumers struct{ b *Bus }

// Watch returns the consumers of group, once, before anything is published.
func (b *Bus) Watch(group string) *Consumers {
	b.watched = group
	b.taken.Store(1<<queues - 1) // unless the server says otherwise
	return &Consumers{b}
}

// Queues is how many queues there are.
func (*Consumers) Queues() int { return queues }

// Queue is which of them takes the events of conv.
func (*Consumers) Queue(conv id.ConversationID) int { return queueOf(conv) }

// Alive reports whether somebody took from queue when something was published last.
func (c *Consumers) Alive(queue int) bool { return c.b.taken.Load()>>queue&1 != 0 }

// Passed reports whether message seq of conv, which was published, has come through.
func (c *Consumers) Passed(ctx context.Context, _ int, conv id.ConversationID, epoch, seq uint64) (bool, error) {
	a, err := c.b.call(ctx, request{Passed: &bus.Event{Conversation: conv, Epoch: epoch, LastSeq: seq}})
	if err != nil {
		return false, fmt.Errorf("loopbus: asking what came through: %w", err)
	}
	return a.Passed, nil
}
