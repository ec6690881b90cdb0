// Package timeline is the sequencer: it gives every message of a conversation its
// place in the conversation's log, stores it, hands it to the bus and tells the
// sender.
//
// One goroutine sequences all conversations of the process. What waits for a
// conversation goes into one transaction, what waits for the process into one
// commit, so that batches grow by themselves when the store is slower than the
// senders, and nothing ever sleeps to make them grow. Reads of the store happen in
// loader goroutines, never in that one.
//
// What a conversation's cached state holds is a performance matter only: every
// append requires the head it was built on and writes the next one, so a second
// sequencer on the same store costs conflicts and never correctness.
package timeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Guard says who may append to a conversation.
type Guard interface {
	// Rules is called from loader goroutines when a conversation is loaded and when its
	// StateVersion has changed. What the rules rest on changes only together with the
	// conversation's head. A *code.Error is given to the senders; any other error is
	// tried again and then makes the conversation unavailable.
	Rules(ctx context.Context, conv id.ConversationID) (Rules, error)
}

// Rules judges single messages; it is kept with the conversation.
type Rules interface {
	// Check returns why p may not be appended, or nil. It runs in the sequencer's
	// goroutine for every message: it must not block.
	Check(p *packet.Pending) *code.Error
}

// Events are called on what happens; any of them may be nil. They run in the
// goroutine where it happens and must not block.
type Events struct {
	Committed    func(conversations, messages int, took time.Duration) // after a commit that stored something, before anybody hears of it
	Acked        func(messages int)                                    // after the senders of a round were answered, before the bus is told
	Conflict     func(conv id.ConversationID)
	Undetermined func(conv id.ConversationID)
	Duplicates   func(n int)
	Refused      func(c code.Code, n int)
	Loaded       func(conv id.ConversationID, took time.Duration)
	Evicted      func(conversations int)
	BusAway      func(away bool)
}

// Config configures a Sequencer. Zero values of the numbers mean their defaults.
type Config struct {
	Store kv.Store
	Keys  msgstore.Keys
	Bus   bus.Publisher
	Guard Guard

	// Epoch of the store, for bus events.
	Epoch uint64

	// Worker is the number of this process in MessageIDs, below id.ImportWorker, held by
	// no other process at the same time.
	Worker uint32

	// WorkerHeld reports whether Worker is this process's; it says no from some time before another
	// process may have the number. Then nothing is appended, and senders are told to come again. It
	// is called twice a round and must not block. Nil: it always is.
	WorkerHeld func() bool

	// Reserve makes it durable that times up to the Unix ms at have been used by Worker, and returns
	// up to when they have: msgstore.Clock.Reserve. It is called, in the sequencer's goroutine,
	// before messages with later times are stored. Nil: nobody has the number after this process, or not before the latest of its times.
	Reserve func(ctx context.Context, at int64) (upTo int64, err error)

	// Assigned: slots come and go, by Own and Release. Without, all are this process's from the beginning.
	Assigned bool

	// Now returns Unix milliseconds and never runs back, not over a restart either. Nil: the system's clock.
	Now func() int64

	Logger *slog.Logger // nil: nothing is logged

	// Slow is the time between a message's arrival and its answer from which on it is
	// logged; 0: none is.
	Slow time.Duration

	// WaitAtMost is how long after its arrival a message that isn't stored may still be decided on; then it
	// is refused for now. Where others append, too, it is the time after which another process may be asked for
	// what this one has. Its sender may have been told there that it isn't a member, say, and that must not come true
	// with a message which has waited here meanwhile. What still waits then for the store to be read, for a turn, or for a commit
	// of others is refused without being decided on, a quarter of that time later at most. 0: where slots are Assigned 5 s, a node's lease, else for ever.
	WaitAtMost time.Duration

	// Pace is the least time between the beginnings of two rounds, of which each is a commit and a publish: what comes in
	// less gathers. So an ack comes up to so much later, where there is more to do than one round at a
	// time, and costs less of everything a round passes through. 0: the next round begins when the last is through.
	Pace time.Duration

	// AfterBatch is called after each round's answers and events were given out, and, by another goroutine, after those
	// of messages that had waited for too long: the time to flush. May be nil.
	AfterBatch func()

	// Seen is called after the ack of an interactive message: user has read up to seq.
	// It must not block. May be nil.
	Seen func(conv id.ConversationID, user id.UserID, seq uint64)

	// Direct takes events past a bus that lies apart: while it is away, while nobody is alive who takes
	// from an event's queue, and from then on until an event published since has come through that queue. What is
	// handed over so may come by the bus as well. It runs in the sequencer's goroutine and must not block. Without
	// Consumers only what the bus is away for is handed over so: of one whose consumers are always there. Both may be nil.
	Direct    func(evs []bus.Event)
	Consumers Consumers

	Events Events

	MaxConversations int // kept in memory; those with something under way aside. Default 65,536.
	MaxPending       int // messages waiting, all conversations together. Default 262,144.
	MaxPendingBytes  int // their bytes. Default 256 MiB.
	ConvPending      int // messages waiting for one conversation. Default 8,192.
	ConvPendingBytes int // their bytes. Default 4 MiB.
	RoundMessages    int // messages a commit, more or less. Default 16,384.
	RoundBytes       int // bytes a commit, more or less. Default 8 MiB.
	Loaders          int // goroutines that read the store. Default 8; where slots are Assigned 32: the store is elsewhere, and what came with a slot is cold.
	MaxAttempts      int // runs of one append before its senders are told to come again. Default 8.

	RebuildAfter   time.Duration // an append not committed for so long gets new times. Default 20 s, the most.
	PublishTimeout time.Duration // of a bus apart from the store: as long as somebody may wait for a message when it goes away. Default 1 s.
	IdleAfter      time.Duration // a conversation unused for so long is dropped from memory. Default 10 min.
}

// Limits that don't depend on configuration.
const (
	maxAhead        = 60_000   // ms that an id may be ahead of the owner's clock
	runMessages     = 4096     // messages of one conversation a commit
	runBytes        = 1 << 20  // bytes of one conversation a commit, mention rows included
	eventBytes      = 48 << 10 // messages in one bus event: a DELIVER frame must hold it
	maxRebuildAfter = 20 * time.Second
	maxPace         = time.Second
	nodeLease       = 5 * time.Second // after which others take over a node's slots
	laneForget      = 2 * time.Minute // what was in flight behind a refused message has arrived by then
	slabBytes       = 256 << 10       // of encoded messages allocated at once
	idleTick        = 10 * time.Second
	loadTimeout     = 5 * time.Second
	keepTx          = 256 << 10       // transactions that grew larger are not reused
	keepRound       = 5 * time.Second // without a message: then a round's memory is given back
	maxBackoff      = time.Second
	markScanPage    = 256
	sweepAtOnce     = 32
	sweepPauseMin   = 200 * time.Millisecond
	sweepPauseMax   = 5 * time.Second
)

// Validate fills in defaults and reports what is missing or out of bounds.
func (c *Config) Validate() error {
	switch {
	case c.Store == nil:
		return errors.New("timeline: no store")
	case c.Bus == nil:
		return errors.New("timeline: no bus")
	case c.Guard == nil:
		return errors.New("timeline: no guard")
	case c.Worker >= id.ImportWorker:
		return fmt.Errorf("timeline: worker %d is not below %d", c.Worker, id.ImportWorker)
	case c.Consumers != nil && c.Direct == nil:
		return errors.New("timeline: Consumers without Direct")
	case c.Consumers != nil && c.Consumers.Queues() < 1:
		return errors.New("timeline: a bus without queues")
	case c.Slow < 0 || c.WaitAtMost < 0:
		return fmt.Errorf("timeline: slow %s, wait at most %s", c.Slow, c.WaitAtMost)
	case c.Pace < 0 || c.Pace > maxPace:
		return fmt.Errorf("timeline: a pace of %s isn't 0 to %s", c.Pace, maxPace)
	case c.RebuildAfter > maxRebuildAfter:
		return fmt.Errorf("timeline: rebuild after %s is over %s", c.RebuildAfter, maxRebuildAfter)
	}
	if c.Assigned && c.WaitAtMost == 0 {
		c.WaitAtMost = nodeLease
	}
	loaders := 8
	if c.Assigned {
		loaders = 32
	}
	if c.Now == nil {
		c.Now = func() int64 { return time.Now().UnixMilli() }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		v   *int
		def int
	}{
		{&c.MaxConversations, 1 << 16},
		{&c.MaxPending, 1 << 18},
		{&c.MaxPendingBytes, 256 << 20},
		{&c.ConvPending, 8192},
		{&c.ConvPendingBytes, 4 << 20},
		{&c.RoundMessages, 1 << 14},
		{&c.RoundBytes, 8 << 20},
		{&c.Loaders, loaders},
		{&c.MaxAttempts, 8},
	} {
		if *d.v < 0 {
			return fmt.Errorf("timeline: a limit of %d", *d.v)
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{
		{&c.RebuildAfter, maxRebuildAfter},
		{&c.PublishTimeout, time.Second},
		{&c.IdleAfter, 10 * time.Minute},
	} {
		if *d.v < 0 {
			return fmt.Errorf("timeline: a duration of %s", *d.v)
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	return nil
}
