package timeline

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func TestBusApart(t *testing.T) {
	st, b := apartStage(t, nil)
	c := consume(t, b.log)
	st.send(st.a.text(st.id(0), "1"), st.a.text(st.id(0), "2"))
	st.a.expect(t, "1:seq=1", "2:seq=2")
	c.wait(dm, 2)
	if h, _ := st.head(); h.HandedSeq != 0 {
		t.Errorf("head says %d were handed on before anybody could know", h.HandedSeq)
	}
	st.send(st.a.text(st.id(0), "3"))
	st.a.expect(t, "3:seq=3")
	if h, _ := st.head(); h.HandedSeq != 2 {
		t.Errorf("head says %d were handed on", h.HandedSeq)
	}
	if marks(t, st.store.Store, dm) != 0 {
		t.Error("an outbox mark although the bus is there")
	}
}

// The process dies between the commit and the bus: the resend gets the same seq, and the
// consumer the message.
func TestDiesBetweenCommitAndPublish(t *testing.T) {
	st, b := apartStage(t, func(c *Config) { c.PublishTimeout = time.Hour })
	c := consume(t, b.log)
	dead := make(chan struct{})
	b.mu.Lock()
	b.block = dead // the first process never comes back from here
	b.mu.Unlock()
	x := st.a.text(st.id(0), "x")
	st.send(x)
	await(t, "the commit", func() bool { h, _ := st.head(); return h.LastSeq == 1 })

	other := newApartBus(t, st.store.Store)
	other.log = b.log
	cfg := st.cfg
	cfg.Bus, cfg.Worker = other, 9
	second, _ := start(t, cfg)
	second.Append(dm, []packet.Pending{resend(x)})
	got := st.a.expect(t, "1:dup=1")
	if ms := messages(t, st.store, dm); ms[0].ID != got[0].ack.MessageID {
		t.Errorf("acked %d, stored %d", got[0].ack.MessageID, ms[0].ID)
	}
	c.wait(dm, 1)

	// The first process was only stopped for a while. Its publishing repeats, its ack repeats.
	close(dead)
	st.a.expect(t, "1:seq=1")
	await(t, "the repeat", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.got[fmt.Sprint(dm, " ", 1)] == 2
	})
	if n := len(messages(t, st.store, dm)); n != 1 {
		t.Errorf("%d stored", n)
	}
}

// hookGuard allows all and calls load whenever rules are read: after the head and what
// the bus lacks up to there, before the ids.
type hookGuard struct{ load func() }

func (g hookGuard) Rules(context.Context, id.ConversationID) (Rules, error) {
	g.load()
	return allowAll, nil
}

// An append that was given up as undetermined is stored while another owner loads the
// conversation: its head is without the message, its look-up of ids finds it. An ack then
// must not leave before the bus has the message.
func TestStoredWhileItIsLoaded(t *testing.T) {
	st, b := apartStage(t, func(c *Config) { c.MaxAttempts = 1 })
	c := consume(t, b.log)
	x := st.a.text(st.id(time.Second), "x") // older than the latest id: it is looked up
	st.send(st.a.text(st.id(0), "before"))
	st.a.expect(t, "2:seq=1")
	var kept []*kv.Tx
	st.store.failNext(1, kv.ErrUndetermined, &kept)
	st.send(x)
	st.a.expect(t, "1:undetermined")
	st.stop()

	st.cfg.MaxAttempts = 0
	st.cfg.Guard = hookGuard{func() {
		for _, tx := range kept {
			if st.store.Store.Commit(context.Background(), tx); tx.Err != nil {
				t.Errorf("the late append: %v", tx.Err)
			}
		}
		kept = nil
	}}
	st.seq, st.stop = start(t, st.cfg)
	st.send(resend(x))
	st.a.expect(t, "1:dup=2")
	c.wait(dm, 2)
}

// fanouts are those who take from the queues of a bus: one consumer of a log stands for all.
type fanouts struct {
	queues int

	mu   sync.Mutex
	dead map[int]bool
	c    *consumer // nil: can't be asked
}

func (f *fanouts) Queues() int                      { return f.queues }
func (f *fanouts) Queue(conv id.ConversationID) int { return int(conv[15]) % f.queues }

func (f *fanouts) Alive(queue int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.dead[queue]
}

func (f *fanouts) Passed(_ context.Context, _ int, conv id.ConversationID, epoch, seq uint64) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.c == nil || epoch != 7 {
		return false, errors.New("nobody answers")
	}
	return f.c.has(conv, seq), nil
}

func (f *fanouts) ask(c *consumer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.c = c
}

func (f *fanouts) lapse(queue int, dead bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead[queue] = dead
}

// The bus goes away and comes back: nobody waits for it, and nothing is missed. What is published is
// handed over directly, too, until the bus is seen to bring it.
func TestBusAway(t *testing.T) {
	var direct atomic.Int64
	var away atomic.Int64
	f := &fanouts{queues: 3}
	st, b := apartStage(t, func(c *Config) {
		c.Consumers = f
		c.Direct = func(evs []bus.Event) {
			for _, e := range evs {
				direct.Add(int64(e.LastSeq - e.FirstSeq + 1))
			}
		}
		c.Events.BusAway = func(is bool) {
			if is {
				away.Add(1)
			}
		}
	})
	c := consume(t, b.log)
	var convs []id.ConversationID
	for i := range 40 {
		convs = append(convs, id.Self(id.UserID(fmt.Sprint("u", i))))
		create(t, st.store, convs[i], st.now.Load())
	}
	everywhere := func(text string) {
		for _, conv := range convs {
			st.seq.Append(conv, []packet.Pending{st.a.text(st.id(0), text)})
		}
		for _, got := range st.a.hear(t, len(convs)) {
			if got.err != nil {
				t.Fatal(got)
			}
		}
	}
	everywhere("1")
	if direct.Swap(0) != int64(len(convs)) || st.seq.DirectQueues() != 3 {
		t.Error("it began without handing over directly")
	}
	f.ask(c)
	await(t, "the bus to be trusted", func() bool { return st.seq.DirectQueues() == 0 })
	b.set(errors.New("gone"), false)
	everywhere("2")
	everywhere("3")
	if n := marks(t, st.store.Store, convs...); n != len(convs) {
		t.Errorf("%d marks", n)
	}
	if direct.Load() != int64(2*len(convs)) || away.Load() != 1 {
		t.Errorf("%d handed over directly, away %d times", direct.Load(), away.Load())
	}
	f.ask(nil)
	b.set(nil, false)
	await(t, "the sweep", func() bool { return marks(t, st.store.Store, convs...) == 0 })
	for _, conv := range convs {
		c.wait(conv, 3)
	}
	direct.Store(0)
	everywhere("4") // it publishes again, but what it brings isn't known yet
	if direct.Swap(0) != int64(len(convs)) || st.seq.DirectQueues() != 3 {
		t.Error("the bus was trusted as soon as it took something")
	}
	f.ask(c)
	await(t, "the bus to be trusted again", func() bool { return st.seq.DirectQueues() == 0 })
	everywhere("4b")
	if direct.Load() != 0 {
		t.Errorf("%d handed over directly although the bus brings them", direct.Load())
	}
	for _, conv := range convs {
		c.wait(conv, 5)
		h, _, err := msgstore.NewTimeline(st.store.Store, keys).Head(context.Background(), conv)
		if err != nil || h.LastSeq != 5 || h.HandedSeq < 4 {
			t.Errorf("head %+v %v", h, err)
		}
	}
	audit(t, st.store.Store, convs...)
}

// An owner finds what the one before left: marks, and a head that was not handed on.
func TestOwnerHandsOnWhatWasLeft(t *testing.T) {
	st, b := apartStage(t, nil)
	c := consume(t, b.log)
	b.set(errors.New("gone"), true) // it takes them and says no
	st.send(st.a.text(st.id(0), "1"), st.a.text(st.id(0), "2"))
	st.a.expect(t, "1:seq=1", "2:seq=2")
	c.wait(dm, 2)
	st.stop()
	if marks(t, st.store.Store, dm) != 1 {
		t.Fatal("no mark")
	}
	b.set(nil, false)
	st.restart() // nobody sends: the sweep at the start finds the mark
	await(t, "the sweep", func() bool { return marks(t, st.store.Store, dm) == 0 })
	if h, _ := st.head(); h.HandedSeq != 2 {
		t.Errorf("head %+v", h)
	}
	st.stop()
	st.setHead(func(h *msgstore.Head) { h.HandedSeq = 1 })
	b.mu.Lock()
	calls := b.calls
	b.mu.Unlock()
	st.restart()
	st.send(st.a.text(st.id(0), "3"))
	st.a.expect(t, "3:seq=3")
	c.wait(dm, 3)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calls != calls+2 { // what was left, what is new
		t.Errorf("published %d times", b.calls-calls)
	}
	if h, _ := st.head(); h.HandedSeq != 2 {
		t.Errorf("head %+v", h)
	}
}

// Neither the bus nor the mark: no ack, and the resend brings the message to the bus.
func TestNeitherBusNorMark(t *testing.T) {
	st, b := apartStage(t, nil)
	c := consume(t, b.log)
	b.set(errors.New("gone"), false)
	var commits atomic.Int64
	st.store.onCommit(func(ctx context.Context, next kv.Store, txs []*kv.Tx) {
		if commits.Add(1) == 1 {
			next.Commit(ctx, txs...) // the append
			return
		}
		for _, tx := range txs {
			tx.Err = kv.ErrUnavailable
		}
	})
	x := st.a.text(st.id(0), "x")
	st.send(x, st.a.text(st.id(0), "y"))
	st.a.expect(t, "1:undetermined", "2:lane_blocked")
	st.store.onCommit(nil)
	b.set(nil, false)
	st.send(resend(x))
	st.a.expect(t, "1:dup=1")
	if marks(t, st.store.Store, dm) == 0 {
		c.wait(dm, 2)
	}
	await(t, "the sweep", func() bool { return marks(t, st.store.Store, dm) == 0 })
	c.wait(dm, 2)
}

// A conversation is loaded while the bus is away: its mark is set, nobody waits.
func TestLoadedWhileAway(t *testing.T) {
	st, b := apartStage(t, nil)
	c := consume(t, b.log)
	st.send(st.a.text(st.id(0), "1"))
	st.a.expect(t, "1:seq=1")
	st.stop()
	b.set(errors.New("gone"), false)
	st.seq, st.stop = start(t, st.cfg)
	st.send(st.a.text(st.id(0), "2"))
	st.a.expect(t, "2:seq=2")
	if marks(t, st.store.Store, dm) != 1 {
		t.Error("no mark")
	}
	other := id.Self("carol")
	create(t, st.store, other, st.now.Load())
	st.seq.Append(other, []packet.Pending{st.a.text(st.id(0), "3")})
	st.a.expect(t, "3:seq=1")
	b.set(nil, false)
	await(t, "the sweep", func() bool { return marks(t, st.store.Store, dm, other) == 0 })
	c.wait(dm, 2)
	c.wait(other, 1)
}

// The bus is back, one conversation has found out, another still has its mark: what that one
// appends now goes to the bus, what it appended before must not be forgotten for it.
func TestAppendsBeforeItsMarkIsSwept(t *testing.T) {
	st, b := apartStage(t, nil)
	c := consume(t, b.log)
	b.set(errors.New("gone"), false)
	st.send(st.a.text(st.id(0), "1"))
	st.a.expect(t, "1:seq=1")
	b.set(nil, false)
	st.seq.away.Store(false)
	st.send(st.a.text(st.id(0), "2"))
	st.a.expect(t, "2:seq=2")
	st.send(st.a.text(st.id(0), "3"))
	st.a.expect(t, "3:seq=3")
	await(t, "the sweep", func() bool { return marks(t, st.store.Store, dm) == 0 })
	c.wait(dm, 3)
}

// While the lease of a queue's consumer is lapsed its events are handed over directly, and then
// until one has come through; those of other queues aren't.
func TestConsumerLapses(t *testing.T) {
	f := &fanouts{queues: 2, dead: map[int]bool{}}
	var mu sync.Mutex
	direct := map[string]int{}
	st, b := apartStage(t, func(c *Config) {
		c.Consumers = f
		c.Direct = func(evs []bus.Event) {
			mu.Lock()
			defer mu.Unlock()
			for i := range evs {
				direct[fmt.Sprint(evs[i].Conversation, " ", evs[i].LastSeq)]++
			}
		}
	})
	c := consume(t, b.log)
	f.ask(c)
	convs := make([]id.ConversationID, 2) // one in each queue
	for i := 0; convs[0].IsZero() || convs[1].IsZero(); i++ {
		conv := id.Self(id.UserID(fmt.Sprint("u", i)))
		convs[f.Queue(conv)] = conv
	}
	for _, conv := range convs {
		create(t, st.store, conv, st.now.Load())
	}
	seq := uint64(0)
	both := func(want ...int) {
		t.Helper()
		seq++
		for _, conv := range convs { // in one round, or two
			st.seq.Append(conv, []packet.Pending{st.a.text(st.id(0), "x")})
		}
		for _, got := range st.a.hear(t, 2) {
			if got.err != nil {
				t.Fatal(got)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		for i, conv := range convs {
			c.wait(conv, seq)
			if n := direct[fmt.Sprint(conv, " ", seq)]; n != want[i] {
				t.Errorf("message %d of queue %d was handed over directly %d times, want %d", seq, i, n, want[i])
			}
		}
	}
	both(1, 1)
	await(t, "both queues to be trusted", func() bool { return st.seq.DirectQueues() == 0 })
	both(0, 0)
	f.lapse(1, true)
	both(0, 1)
	both(0, 1)
	f.ask(nil)
	f.lapse(1, false)
	both(0, 1) // alive, but nothing has been seen coming through
	f.ask(c)
	await(t, "the queue to be trusted again", func() bool { return st.seq.DirectQueues() == 0 })
	both(0, 0)
	for i := range 2 {
		if _, ask := st.seq.queues.look(i); ask {
			t.Errorf("it still asks what came through queue %d", i)
		}
	}
	if n := marks(t, st.store.Store, convs...); n != 0 {
		t.Errorf("%d marks", n)
	}
}

// Marks are looked for where there may be some, and nowhere else.
func TestSweepLooksWhereMarksMayBe(t *testing.T) {
	var mu sync.Mutex
	scans := map[id.Slot]int{}
	var st *stage
	st, b := apartStage(t, func(c *Config) {
		c.Assigned = true
		c.Store = &scanStore{c.Store, func(span kv.Span) {
			mu.Lock()
			defer mu.Unlock()
			for slot := range id.Slot(id.SlotCount) {
				if string(keys.OutboxMarks(nil, slot)) == string(span.Start) {
					scans[slot]++
				}
			}
		}}
	})
	c := consume(t, b.log)
	send := func() {
		t.Helper()
		st.send(st.a.text(st.id(0), "x"))
		if got := st.a.hear(t, 1)[0]; got.err != nil {
			t.Fatal(got.err)
		}
	}
	send()
	b.set(errors.New("gone"), false)
	send()
	send()
	if marks(t, st.store.Store, dm) != 1 {
		t.Fatal("no mark")
	}
	b.set(nil, false)
	await(t, "the sweep", func() bool { return marks(t, st.store.Store, dm) == 0 })
	c.wait(dm, 3)
	st.stop()
	mu.Lock()
	if len(scans) != 1 || scans[dm.Slot()] == 0 {
		t.Errorf("slots looked at: %v, the conversation's is %d", scans, dm.Slot())
	}
	clear(scans)
	mu.Unlock()

	// What is left by an owner that died is found by the next one, when it is told of its slots.
	b.set(errors.New("gone"), false)
	st.restart()
	send()
	st.stop()
	b.set(nil, false)
	st.restart()
	other := (dm.Slot() + 1) % id.SlotCount
	st.seq.Own([]id.Slot{other})
	await(t, "a look at another slot", func() bool { mu.Lock(); defer mu.Unlock(); return scans[other] > 0 })
	if marks(t, st.store.Store, dm) != 1 {
		t.Error("the mark went although its slot is somebody else's")
	}
	st.seq.Own([]id.Slot{dm.Slot()})
	await(t, "the sweep", func() bool { return marks(t, st.store.Store, dm) == 0 })
	c.wait(dm, 4)

	// Or by whoever is asked to.
	b.set(errors.New("gone"), false)
	send()
	st.seq.Release([]id.Slot{dm.Slot()})
	st.stop()
	b.set(nil, false)
	st.restart()
	st.seq.HandOn(context.Background(), []id.ConversationID{dm})
	if marks(t, st.store.Store, dm) != 0 {
		t.Error("a mark after it was handed on")
	}
	c.wait(dm, 5)
}

// scanStore tells of scans.
type scanStore struct {
	kv.Store
	scanned func(span kv.Span)
}

func (s *scanStore) Scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	s.scanned(span)
	return s.Store.Scan(ctx, span, fn)
}
