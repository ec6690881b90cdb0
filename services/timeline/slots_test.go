package timeline

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

func TestSlotSet(t *testing.T) {
	var s slotSet
	conv := id.Self("alice")
	if s.has(conv) {
		t.Error("an empty set has something")
	}
	for _, slot := range []id.Slot{conv.Slot(), conv.Slot(), 0, id.SlotCount - 1} {
		s.add(slot)
	}
	if !s.has(conv) || s.n.Load() != 3 {
		t.Errorf("%d slots", s.n.Load())
	}
	if !s.remove(conv.Slot()) || s.remove(conv.Slot()) || s.has(conv) || s.n.Load() != 2 {
		t.Errorf("%d slots", s.n.Load())
	}
}

// barrier holds commits back until it is opened.
type barrier struct {
	came chan struct{}
	open chan struct{}
}

func (st *stage) holdCommits() *barrier {
	b := &barrier{make(chan struct{}, 100), make(chan struct{})}
	st.store.onCommit(func(ctx context.Context, next kv.Store, txs []*kv.Tx) {
		b.came <- struct{}{}
		<-b.open
		next.Commit(ctx, txs...)
	})
	return b
}

// What was taken before is finished, what comes later is refused and may be tried elsewhere, and
// who goes on there meets no conflict.
func TestDrain(t *testing.T) {
	var conflicts atomic.Int64
	st := newStage(t, func(c *Config) {
		c.Events.Conflict = func(id.ConversationID) { conflicts.Add(1) }
	})
	slots := []id.Slot{dm.Slot()}
	b := st.holdCommits()
	st.send(st.a.text(st.id(0), "1"))
	<-b.came
	st.send(st.a.text(st.id(0), "2")) // waits behind it
	drained := make(chan error, 1)
	go func() { drained <- st.seq.Drain(t.Context(), slots) }()
	await(t, "the slot to be refused", func() bool { return st.seq.drained.has(dm) })
	st.send(st.b.text(st.id(0), "3"))
	st.b.expect(t, "1:wrong_owner")
	select {
	case err := <-drained:
		t.Fatalf("drained (%v) with an append under way", err)
	default:
	}
	close(b.open)
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
	st.a.expect(t, "1:seq=1", "2:seq=2")
	if n, _ := st.seq.Caches(); n.Entries != 0 {
		t.Errorf("%d conversations in memory", n.Entries)
	}
	if _, err := st.seq.Change(t.Context(), dm, touch); !errors.Is(err, code.New(code.WrongOwner)) {
		t.Errorf("a change: %v", err)
	}
	other := id.Self("carol") // nothing to do with it
	for other.Slot() == dm.Slot() {
		other = id.Self(id.UserID(other.String()))
	}
	create(t, st.store, other, st.now.Load())
	st.seq.Append(other, []packet.Pending{st.b.text(st.id(0), "4")})
	st.b.expect(t, "2:seq=1")

	cfg := st.cfg
	cfg.Worker = 9
	second, _ := start(t, cfg)
	second.Append(dm, []packet.Pending{st.b.text(st.id(0), "5")})
	st.b.expect(t, "3:seq=3")
	if conflicts.Load() != 0 {
		t.Errorf("%d conflicts", conflicts.Load())
	}
	if err := second.Drain(t.Context(), slots); err != nil {
		t.Fatal(err)
	}
	st.seq.Own(slots)
	st.send(st.b.text(st.id(0), "6"))
	st.b.expect(t, "4:seq=4")
	if conflicts.Load() != 0 {
		t.Errorf("%d conflicts", conflicts.Load())
	}
	messages(t, st.store, dm)
}

var touch = func(context.Context, msgstore.Head) (*Change, error) { return &Change{}, nil }

func TestDrainIsGivenUp(t *testing.T) {
	st := newStage(t, nil)
	b := st.holdCommits()
	st.send(st.a.text(st.id(0), "1"))
	<-b.came
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := st.seq.Drain(ctx, []id.Slot{dm.Slot()}); !errors.Is(err, context.Canceled) {
		t.Errorf("drained with an append under way: %v", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- st.seq.Drain(context.Background(), []id.Slot{dm.Slot()}) }()
	close(b.open)
	st.stop()
	if err := <-ended; err != nil { // with the sequencer everything has ended
		t.Error(err)
	}
	if err := st.seq.Drain(t.Context(), []id.Slot{dm.Slot()}); err != nil {
		t.Errorf("after the end: %v", err)
	}
	st.a.expect(t, "1:seq=1")
}

// Where a slot is released memory goes, and who is asked all the same appends as ever, from
// what is stored then.
func TestRelease(t *testing.T) {
	var conflicts atomic.Int64
	st := newStage(t, func(c *Config) {
		c.ConvPending = 2
		c.Events.Conflict = func(id.ConversationID) { conflicts.Add(1) }
	})
	cfg := st.cfg
	cfg.Worker = 9
	second, _ := start(t, cfg)
	seqs := []*Sequencer{st.seq, second}
	slots := []id.Slot{dm.Slot()}
	for i := range 6 { // the owner changes each time
		seqs[i%2].Append(dm, []packet.Pending{st.a.text(st.id(0), "x")})
		st.a.expect(t, fmt.Sprintf("%d:seq=%d", i+1, i+1))
		seqs[i%2].Release(slots)
		await(t, "the cache to be empty", func() bool { n, _ := seqs[i%2].Caches(); return n.Entries == 0 })
	}
	if conflicts.Load() != 0 {
		t.Errorf("%d conflicts", conflicts.Load())
	}
	// A lane that is shut stays shut: what is in flight behind a refused message must not pass it.
	b := st.holdCommits()
	one, two, three := st.a.text(st.id(0), "1"), st.a.text(st.id(0), "2"), st.a.text(st.id(0), "3")
	st.send(one)
	<-b.came
	st.send(two, three, st.a.text(st.id(0), "4")) // too many
	st.a.expect(t, "8:overloaded", "9:lane_blocked", "10:lane_blocked")
	close(b.open)
	st.a.expect(t, "7:seq=7")
	st.seq.Release(slots)
	await(t, "the state to be dropped", func() bool {
		c := st.seq.lock(dm)
		defer c.mu.Unlock()
		return c.raw == nil && !c.held
	})
	st.send(three)
	st.a.expect(t, "9:lane_blocked")
	st.send(resend(two), resend(three))
	st.a.expect(t, "8:seq=8", "9:seq=9")
	messages(t, st.store, dm)
}

// While the worker number may be somebody else's nothing is stamped with it.
func TestWorkerLost(t *testing.T) {
	var held atomic.Bool
	var checks atomic.Int64
	held.Store(true)
	st := newStage(t, func(c *Config) {
		c.WorkerHeld = func() bool {
			if n := checks.Load(); n > 0 {
				return checks.Add(-1) > 0
			}
			return held.Load()
		}
	})
	st.send(st.a.text(st.id(0), "1"))
	st.a.expect(t, "1:seq=1")
	held.Store(false)
	two := st.a.text(st.id(0), "2")
	st.send(two)
	st.a.expect(t, "2:unavailable")
	if _, err := st.seq.Change(t.Context(), dm, touch); !errors.Is(err, code.New(code.Unavailable)) {
		t.Errorf("a change: %v", err)
	}
	st.send(resend(st.a.text(two.ClientMsgID, "2")))
	st.a.expect(t, "3:unavailable")
	// It is lost between the stamp and the store.
	checks.Store(2)
	st.send(resend(st.a.text(two.ClientMsgID, "2")))
	st.a.expect(t, "4:unavailable")
	if h, _ := st.head(); h.LastSeq != 1 {
		t.Errorf("head %+v", h)
	}
	held.Store(true)
	st.send(resend(st.a.text(two.ClientMsgID, "2")))
	st.a.expect(t, "5:seq=2")
}

// A time that couldn't be reserved isn't used.
func TestTimeNotReserved(t *testing.T) {
	var fail atomic.Bool
	var calls atomic.Int64
	st := newStage(t, func(c *Config) {
		c.MaxAttempts = 2
		c.Reserve = func(_ context.Context, at int64) (int64, error) {
			calls.Add(1)
			if fail.Load() {
				return 0, errors.New("no store")
			}
			return at + 1000, nil
		}
	})
	for range 3 {
		st.send(st.a.text(st.id(0), "x"))
		st.a.hear(t, 1)
	}
	if calls.Load() != 1 {
		t.Errorf("asked %d times for one second", calls.Load())
	}
	fail.Store(true)
	st.now.Add((2 * time.Second).Milliseconds())
	x := st.a.text(st.id(0), "x")
	st.send(x)
	st.a.expect(t, "4:unavailable")
	if h, _ := st.head(); h.LastSeq != 3 {
		t.Errorf("head %+v", h)
	}
	fail.Store(false)
	st.send(resend(x))
	st.a.expect(t, "4:seq=4")
}

// What waited for so long that another owner may have decided on it isn't decided anew. What is
// stored is acked all the same.
func TestWaitedTooLong(t *testing.T) {
	st := newStage(t, func(c *Config) { c.WaitAtMost = time.Minute })
	late := st.a.text(st.id(0), "1")
	late.At = trace.Now() - int64(2*time.Minute)
	fresh := st.a.text(st.id(0), "2")
	fresh.At = trace.Now() - int64(time.Second)
	st.send(late, fresh)
	st.a.expect(t, "1:unavailable", "2:lane_blocked")
	late.At, fresh.At = 0, 0
	st.send(resend(late), resend(fresh))
	st.a.expect(t, "1:seq=1", "2:seq=2")
	late.At = trace.Now() - int64(2*time.Minute)
	st.send(resend(late))
	st.a.expect(t, "1:dup=1")
}
