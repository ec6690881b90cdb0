package conversation_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/faultkv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/conversation"
	"github.com/gochat-im/gochat/services/group"
	"github.com/gochat-im/gochat/services/relation"
	"github.com/gochat-im/gochat/services/timeline"
)

// queueBus is a bus that lies apart: what it took, in order, behind a door for each node.
type queueBus struct {
	mu    sync.Mutex
	taken map[id.ConversationID]map[uint64]bool
}

const busQueues = 4

// door is one node's way to the bus, and to those who take from it.
type door struct {
	bus *queueBus

	mu     sync.Mutex
	fail   bool // Publish
	took   bool // although it fails
	dead   [busQueues]bool
	direct map[id.ConversationID]map[uint64]bool
}

func noted(m map[id.ConversationID]map[uint64]bool, evs []bus.Event) {
	for i := range evs {
		c := evs[i].Conversation
		if m[c] == nil {
			m[c] = map[uint64]bool{}
		}
		for seq := evs[i].FirstSeq; seq <= evs[i].LastSeq; seq++ {
			m[c][seq] = true
		}
	}
}

func (d *door) Enlist(*kv.Tx, *bus.Event) bool { return false }

func (d *door) Publish(_ context.Context, evs []bus.Event) error {
	d.mu.Lock()
	fail, took := d.fail, d.took
	d.mu.Unlock()
	if !fail || took {
		d.bus.mu.Lock()
		noted(d.bus.taken, evs)
		d.bus.mu.Unlock()
	}
	if fail {
		return errors.New("the bus is away")
	}
	return nil
}

func (d *door) handDirectly(evs []bus.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	noted(d.direct, evs)
}

func (d *door) Queues() int                      { return busQueues }
func (d *door) Queue(conv id.ConversationID) int { return int(conv[15]) % busQueues }

func (d *door) Alive(queue int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.dead[queue]
}

func (d *door) Passed(_ context.Context, _ int, conv id.ConversationID, _, seq uint64) (bool, error) {
	return d.bus.has(conv, seq), nil
}

func (b *queueBus) has(conv id.ConversationID, seq uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken[conv][seq]
}

func (d *door) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// stack is one node: all services on its own way to the store.
type stack struct {
	store     *faultkv.Store
	door      *door
	convs     *conversation.Service
	groups    *group.Service
	relations *relation.Service
	seq       *timeline.Sequencer
	held      atomic.Bool // its worker number
	stop      func()
}

type groupChanges struct{ seq *timeline.Sequencer }

func (c groupChanges) Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*group.Change, error)) (uint64, error) {
	return c.seq.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*timeline.Change, error) {
		ch, err := plan(ctx, h)
		if ch == nil {
			return nil, err
		}
		return &timeline.Change{Sender: ch.Sender, Type: ch.Type, Content: ch.Content, Rows: ch.Rows, Done: ch.Done, Create: ch.Create, At: ch.At}, err
	})
}

type touches struct{ seq *timeline.Sequencer }

func (f touches) Touch(ctx context.Context, conv id.ConversationID) error {
	_, err := f.seq.Change(ctx, conv, func(_ context.Context, h msgstore.Head) (*timeline.Change, error) {
		if !h.Exists() {
			return nil, nil
		}
		return &timeline.Change{}, nil
	})
	return err
}

type noDevices struct{}

func (noDevices) Reaches(id.UserID, uint64) bool             { return false }
func (noDevices) Push(id.UserID, uint64, *wire.Signal)       {}
func (noDevices) PushLazily(id.UserID, uint64, *wire.Signal) {}

func newStack(t *testing.T, shared kv.Store, b *queueBus, worker uint32, seed uint64) *stack {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := &stack{door: &door{bus: b, direct: map[id.ConversationID]map[uint64]bool{}}}
	s.held.Store(true)
	skew := time.Duration(worker-1) * 300 * time.Millisecond
	clock, err := msgstore.OpenClock(t.Context(), msgstore.ClockConfig{Store: shared, Worker: worker, Wall: func() time.Time { return time.Now().Add(skew) }, Logger: slog.New(slog.DiscardHandler)})
	must(err)
	s.store = faultkv.Wrap(shared, faultkv.Config{
		Seed:  seed + uint64(worker),
		Rates: faultkv.Rates{Applied: 0.03, Lost: 0.03, Late: 0.03, Conflict: 0.03, Unavailable: 0.02, Full: 0.01},
		Read:  0.01, Delay: 0.1, MaxDelay: time.Millisecond,
	})
	quiet := slog.New(slog.DiscardHandler)
	s.relations, err = relation.New(relation.Config{Store: s.store, Users: everybody{}, Now: clock.Now, Logger: quiet})
	must(err)
	s.groups, err = group.New(group.Config{Store: s.store, Users: everybody{}, Shared: true, Now: clock.Now, Logger: quiet})
	must(err)
	s.convs, err = conversation.New(conversation.Config{
		Store: s.store, Users: everybody{}, Groups: s.groups, Writers: s.relations, Now: clock.Now, Logger: quiet,
		FlushEvery: 20 * time.Millisecond, Conversations: 64,
	})
	must(err)
	s.seq, err = timeline.New(timeline.Config{
		Store: s.store, Bus: s.door, Guard: guard{s.convs}, Epoch: 1, Worker: worker, WorkerHeld: s.held.Load, Now: clock.Now, Reserve: clock.Reserve,
		Assigned: true, Seen: s.convs.Seen, Direct: s.door.handDirectly, Consumers: s.door, MaxConversations: 4, MaxAttempts: 4, WaitAtMost: waitAtMost, RebuildAfter: 200 * time.Millisecond,
	})
	must(err)
	s.convs.Bind(s.seq)
	s.convs.BindDevices(noDevices{})
	s.groups.Bind(groupChanges{s.seq})
	s.relations.Bind(touches{s.seq}, noDevices{})
	ctx, cancel := context.WithCancel(context.Background())
	last, cancelLast := context.WithCancel(context.Background())
	var wg, wgLast sync.WaitGroup
	wg.Go(func() { _ = clock.Run(ctx) })
	wg.Go(func() { _ = s.seq.Run(ctx) })
	wgLast.Go(func() {
		if err := s.convs.Run(last); err != nil {
			t.Errorf("last cursors: %v", err)
		}
	})
	s.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		cancelLast()
		wgLast.Wait()
	})
	t.Cleanup(s.stop)
	return s
}
