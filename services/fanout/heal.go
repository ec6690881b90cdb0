package fanout

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// missing is a stretch of a conversation that was not delivered.
type missing struct {
	conv     id.ConversationID
	epoch    uint64
	from, to uint64
	origin   uint64
	gap      bool // a hole between what was seen; else an append whose recipients could not be found
	tries    int
}

const (
	maxRetry = 1024 // appends kept for another try
	maxTries = 10   // while the store is there
)

// later keeps ev, whose recipients could not be found because of err, for Run.
func (h *Handler) later(ev *bus.Event, err error) {
	if len(h.retry) >= maxRetry {
		h.givenUp.Add(1)
		h.log.Error("fan-out: append given up, too many wait", "conversation", ev.Conversation.String(), "first", ev.FirstSeq, "last", ev.LastSeq, "err", err)
		return
	}
	h.log.Warn("fan-out: no recipients found, trying again", "conversation", ev.Conversation.String(), "first", ev.FirstSeq, "last", ev.LastSeq, "err", err)
	h.retry = append(h.retry, missing{ev.Conversation, ev.Epoch, ev.FirstSeq, ev.LastSeq, ev.Origin, false, 0})
}

// Run fills what the bus left out, from the timeline, and brings pushes that wait, until ctx ends.
func (h *Handler) Run(ctx context.Context) error {
	var pushing sync.WaitGroup
	defer pushing.Wait()
	if h.cfg.Pushes > 0 {
		pushing.Go(func() { h.runPushes(ctx) })
	}
	t := time.NewTicker(max(min(time.Second, h.cfg.GapAfter/2), time.Millisecond))
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			h.Heal(ctx)
		}
	}
}

// Heal does what is due now: reads gaps that are old enough and appends that failed before, tells
// of messages that weren't delivered, closes audiences that nobody writes to.
func (h *Handler) Heal(ctx context.Context) {
	h.closeIdle()
	h.tellAll(ctx)
	h.tellRooms()
	h.mu.Lock()
	todo := h.retry
	h.retry = nil
	todo = h.seen.due(todo, h.cfg.Now().Add(-h.cfg.GapAfter))
	h.mu.Unlock()
	for i := range todo {
		if ctx.Err() != nil {
			return
		}
		h.heal(ctx, &todo[i])
	}
}

// due appends the gaps that were seen before limit, or are too many to wait.
func (s *seen) due(dst []missing, limit time.Time) []missing {
	for conv := range s.gapped {
		m := s.peek(conv)
		if m == nil || len(m.above) == 0 {
			delete(s.gapped, conv)
			continue
		}
		below := m.hi
		for _, r := range m.above {
			if r.since.Before(limit) || len(m.above) > soonAbove {
				dst = append(dst, missing{conv: conv, epoch: m.epoch, from: below + 1, to: r.from - 1, gap: true})
			}
			below = r.to
		}
	}
	return dst
}

// heal delivers one stretch as the timeline has it. A gap that can't be read stays one,
// and is due again at the next turn.
func (h *Handler) heal(ctx context.Context, g *missing) {
	const pageMessages, pageBytes = 256, 64 << 10
	for from := g.from; from <= g.to; {
		messages, first, last, err := h.cfg.Timeline.Range(ctx, g.conv, from, g.to, pageMessages, pageBytes)
		if err != nil {
			h.failed(ctx, g, from, err)
			return
		}
		h.mu.Lock()
		if len(messages) == 0 {
			// Gone by retention: seen is seen.
			if m := h.seen.peek(g.conv); m != nil {
				m.record(g.epoch, from, g.to, h.cfg.Now())
			}
			h.mu.Unlock()
			break
		}
		ev := bus.Event{Conversation: g.conv, Epoch: g.epoch, FirstSeq: first, LastSeq: last, Messages: messages, Origin: g.origin}
		err = h.event(ctx, &ev)
		h.flush(ctx)
		h.mu.Unlock()
		if err != nil {
			h.failed(ctx, g, from, err)
			return
		}
		from = last + 1
	}
	h.healed.Add(1)
}

// failed keeps the rest of g for another try, unless it had enough.
func (h *Handler) failed(ctx context.Context, g *missing, from uint64, err error) {
	if ctx.Err() != nil || g.gap {
		return // a gap stays in its conversation's mark, and is due again
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !errors.Is(err, kv.ErrUnavailable) { // a store that is away says so at once, ten times in as many seconds
		g.tries++
	}
	if g.tries >= maxTries || len(h.retry) >= maxRetry {
		h.givenUp.Add(1)
		h.log.Error("fan-out: append given up", "conversation", g.conv.String(), "first", from, "last", g.to, "tries", g.tries, "err", err)
		return
	}
	g.from = from
	h.retry = append(h.retry, *g)
}
