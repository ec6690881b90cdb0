package fanout

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
)

const (
	defaultDirectBytes = 32 << 20
	directRoom         = 256  // bytes that an event takes beside its messages, more or less
	directBatch        = 1024 // events a call of the handler
	maxMissed          = 16 << 10
	directEnd          = time.Second // to bring what waits when Run ends
)

// DirectConfig configures a Direct. Zero values mean their defaults.
type DirectConfig struct {
	Bytes  int          // of messages that wait, more or less; 0: 32 MiB
	Logger *slog.Logger // nil: nothing is logged
}

// Direct is the way past a bus that is away: what owners of conversations hand over waits here, bounded, for this
// process's Handler. Of a conversation of which more comes than there is room for only the newest message is brought, read
// from the timeline: who gets it sees that some are missing, and pulls them. It is safe for concurrent use.
type Direct struct {
	cfg DirectConfig

	mu      sync.Mutex
	waiting []bus.Event
	bytes   int
	missed  map[id.ConversationID]newest
	stats   DirectStats
	wake    chan struct{}
}

// newest is the last message of a conversation that there was no room for.
type newest struct{ epoch, seq uint64 }

// DirectStats count since the start, but for Waiting.
type DirectStats struct {
	Events  uint64 // taken
	Missed  uint64 // of them: there was no room for
	Waiting int    // now
}

// NewDirect returns a Direct that brings nothing before Run.
func NewDirect(cfg DirectConfig) *Direct {
	if cfg.Bytes <= 0 {
		cfg.Bytes = defaultDirectBytes
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Direct{cfg: cfg, missed: make(map[id.ConversationID]newest), wake: make(chan struct{}, 1)}
}

// Take hands events over and never blocks. Their messages are never written to again; the slice is the caller's.
func (d *Direct) Take(evs []bus.Event) {
	if len(evs) == 0 {
		return
	}
	d.mu.Lock()
	d.stats.Events += uint64(len(evs))
	for i := range evs {
		ev := &evs[i]
		size := len(ev.Messages) + directRoom
		if d.bytes+size > d.cfg.Bytes {
			d.miss(ev)
			continue
		}
		d.bytes += size
		d.waiting = append(d.waiting, *ev)
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// miss notes that ev goes missing. mu is held.
func (d *Direct) miss(ev *bus.Event) {
	d.stats.Missed++
	if was, ok := d.missed[ev.Conversation]; ok && (was.epoch > ev.Epoch || was.epoch == ev.Epoch && was.seq >= ev.LastSeq) {
		return
	} else if !ok && len(d.missed) >= maxMissed {
		return // its members see the gap with its next message, or when they connect
	}
	d.missed[ev.Conversation] = newest{ev.Epoch, ev.LastSeq}
}

// Run has h bring what is handed over, until ctx ends, and then for a second more what is left.
func (d *Direct) Run(ctx context.Context, h *Handler) error {
	for {
		select {
		case <-d.wake:
			d.bring(ctx, h)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), directEnd)
			defer cancel()
			d.bring(last, h)
			return nil
		}
	}
}

// bring has h bring what waits. What is left when ctx ends goes on waiting.
func (d *Direct) bring(ctx context.Context, h *Handler) {
	for ctx.Err() == nil {
		evs := d.next()
		if len(evs) == 0 {
			break
		}
		if err := h.Handle(ctx, evs); err != nil {
			d.cfg.Logger.Debug("what was handed over directly was not brought", "events", len(evs), "err", err)
		}
	}
	some := 0
	for ctx.Err() == nil {
		conv, at, ok := d.nextMissed()
		if !ok {
			break
		}
		h.bringNewest(ctx, conv, at)
		some++
	}
	if some > 0 {
		d.cfg.Logger.Warn("more was handed over past the bus than there is room for; of some conversations only the newest message was brought", "conversations", some)
	}
}

// next takes a batch of what waits.
func (d *Direct) next() []bus.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(d.waiting), directBatch)
	evs := d.waiting[:n:n]
	if d.waiting = d.waiting[n:]; len(d.waiting) == 0 {
		d.waiting = nil
	}
	for i := range evs {
		d.bytes -= len(evs[i].Messages) + directRoom
	}
	return evs
}

// nextMissed takes one of the conversations that there was no room for.
func (d *Direct) nextMissed() (conv id.ConversationID, at newest, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conv, at = range d.missed {
		delete(d.missed, conv)
		return conv, at, true
	}
	return conv, at, false
}

// Stats returns the counters.
func (d *Direct) Stats() DirectStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.stats
	s.Waiting = len(d.waiting)
	return s
}

// bringNewest delivers one message of conv as the timeline has it.
func (h *Handler) bringNewest(ctx context.Context, conv id.ConversationID, at newest) {
	messages, first, last, err := h.cfg.Timeline.Range(ctx, conv, at.seq, at.seq, 1, h.cfg.MaxFrame)
	if err != nil || len(messages) == 0 {
		if err != nil && ctx.Err() == nil {
			h.log.Warn("fan-out: a message could not be read to be handed over", "conversation", conv.String(), "seq", at.seq, "err", err)
		}
		return
	}
	ev := bus.Event{Conversation: conv, Epoch: at.epoch, FirstSeq: first, LastSeq: last, Messages: messages}
	if err := h.Handle(ctx, []bus.Event{ev}); err != nil {
		h.log.Debug("fan-out: what was handed over directly was not brought", "conversation", conv.String(), "err", err)
	}
}
