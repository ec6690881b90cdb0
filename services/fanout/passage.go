package fanout

import (
	"context"
	"sync"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
)

// Passage remembers what the bus has brought lately, so that owners of conversations who hand
// events over directly, because the bus was away or nobody took from a queue, can ask whether what they published
// comes through again. What was handed over directly doesn't pass here. It is safe for concurrent use.
type Passage struct {
	mu        sync.Mutex
	limit     int
	now, past map[id.ConversationID]passed
}

type passed struct{ epoch, seq uint64 }

// NewPassage returns a Passage that knows at least the last conversations that were written to, 0: 16,384.
func NewPassage(conversations int) *Passage {
	if conversations <= 0 {
		conversations = 16 << 10
	}
	return &Passage{limit: conversations, now: make(map[id.ConversationID]passed)}
}

// Handler returns h, noting what was handled.
func (p *Passage) Handler(h bus.Handler) bus.Handler {
	return func(ctx context.Context, evs []bus.Event) error {
		if err := h(ctx, evs); err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		for i := range evs {
			p.note(&evs[i])
		}
		return nil
	}
}

func (p *Passage) note(ev *bus.Event) {
	next := passed{ev.Epoch, ev.LastSeq}
	if old, ok := p.now[ev.Conversation]; ok {
		if !old.before(next) {
			return
		}
	} else if len(p.now) >= p.limit {
		p.past, p.now = p.now, make(map[id.ConversationID]passed)
	}
	p.now[ev.Conversation] = next
}

func (p passed) before(x passed) bool {
	return p.epoch < x.epoch || p.epoch == x.epoch && p.seq < x.seq
}

// Passed reports whether the bus has brought message seq of conv, or a later one. No may also mean
// that it was long ago.
func (p *Passage) Passed(conv id.ConversationID, epoch, seq uint64) bool {
	want := passed{epoch, seq}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range []map[id.ConversationID]passed{p.now, p.past} {
		if got, ok := m[conv]; ok && !got.before(want) {
			return true
		}
	}
	return false
}
