package log_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/bus/log"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var keys = msgstore.Keys{Keyspace: 9}

// rows is what a node gives the log.
type rows struct{}

func (rows) Refs(dst []byte) []byte { return keys.BusRefs(dst, 0) }
func (rows) AppendRef(dst []byte, r *log.Ref) []byte {
	ref := msgstore.BusRef{Conversation: r.Conversation, Epoch: r.Epoch, FirstSeq: r.FirstSeq, Count: r.Count}
	return ref.Append(dst)
}
func (rows) ParseRef(v []byte) (log.Ref, error) {
	r, err := msgstore.ParseBusRef(v)
	return log.Ref{Conversation: r.Conversation, Epoch: r.Epoch, FirstSeq: r.FirstSeq, Count: r.Count}, err
}
func (rows) Position(dst []byte, group string) []byte { return keys.BusPosition(dst, group, 0) }
func (rows) AppendPosition(dst []byte, o uint64) []byte {
	return msgstore.AppendBusPosition(dst, o)
}
func (rows) ParsePosition(v []byte) (uint64, error) { return msgstore.ParseBusPosition(v) }

// world is a store with one log, and appends made by hand.
type world struct {
	t     testing.TB
	store kv.Store
	log   *log.Log
	tl    *msgstore.Timeline
	heads map[id.ConversationID]*head
}

type head struct {
	msgstore.Head
	raw []byte
}

func newWorld(t testing.TB, store kv.Store, cfg log.Config) *world {
	t.Helper()
	w := &world{t: t, store: store, tl: msgstore.NewTimeline(store, keys), heads: map[id.ConversationID]*head{}}
	cfg.Store, cfg.Rows = store, rows{}
	cfg.Read = func(ctx context.Context, c id.ConversationID, from, to uint64) ([]byte, uint64, error) {
		messages, _, last, err := w.tl.Range(ctx, c, from, to, 2, 0)
		return messages, last, err
	}
	if cfg.StoreEvery == 0 {
		cfg.StoreEvery = time.Millisecond
	}
	if cfg.PollEvery == 0 {
		cfg.PollEvery = 5 * time.Millisecond
	}
	var err error
	if w.log, err = log.New(cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

// again is the same store after a restart of the process.
func (w *world) again(cfg log.Config) *world {
	n := newWorld(w.t, w.store, cfg)
	n.heads = w.heads
	return n
}

// append stores n messages and returns their event.
func (w *world) append(conv id.ConversationID, n int) bus.Event {
	w.t.Helper()
	h := w.heads[conv]
	if h == nil {
		h = &head{Head: msgstore.Head{FirstSeq: 1}}
		w.heads[conv] = h
	}
	first := h.LastSeq + 1
	var sb msgstore.SegmentBuilder
	sb.Reset(first, h.Countable)
	var messages []byte
	for range n {
		size := len(messages)
		h.LastSeq++
		messages = packet.AppendMessage(messages, h.LastSeq, id.MessageID(h.LastSeq), "alice", []byte{5 << 3, 1})
		sb.Add(len(messages)-size, true)
	}
	h.Countable = sb.Countable()
	ev := bus.Event{Conversation: conv, Epoch: 1, FirstSeq: first, LastSeq: h.LastSeq, Messages: messages}
	tx := new(kv.Tx)
	w.tl.Append(tx, conv, h.raw, &h.Head, sb.Segments(messages), nil)
	if !w.log.Enlist(tx, &ev) {
		w.t.Fatal("not enlisted")
	}
	if w.store.Commit(context.Background(), tx); tx.Err != nil {
		w.t.Fatal(tx.Err)
	}
	h.raw = h.Head.Append(nil)
	ev.Offset = tx.Stamp
	return ev
}

func (w *world) publish(evs ...bus.Event) {
	if err := w.log.Publish(context.Background(), evs); err != nil {
		w.t.Fatal(err)
	}
}

// group records what a consumer is given.
type group struct {
	t      testing.TB
	w      *world
	name   string
	mu     sync.Mutex
	got    []string // conversation's last byte and seq of each message, in order
	epochs map[uint64]bool
	last   uint64
	fail   int           // calls to fail
	block  chan struct{} // not nil: handlers wait for it
	stop   func()
}

func (w *world) subscribe(name string, set func(g *group)) *group {
	g := &group{t: w.t, w: w, name: name, epochs: map[uint64]bool{}}
	if set != nil {
		set(g)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := w.log.Subscribe(ctx, name, g.handle); err != nil {
			w.t.Error(err)
		}
	}()
	g.stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	w.t.Cleanup(g.stop)
	// A new group begins where the log ends when it joins.
	for {
		_, ok, err := w.log.Position(context.Background(), name)
		if err != nil {
			w.t.Fatal(err)
		}
		if ok {
			return g
		}
		time.Sleep(time.Millisecond)
	}
}

func (g *group) handle(ctx context.Context, evs []bus.Event) error {
	if g.block != nil {
		select {
		case <-g.block:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.fail > 0 {
		g.fail--
		return errors.New("not now")
	}
	for i := range evs {
		ev := &evs[i]
		if ev.Offset < g.last {
			g.t.Errorf("%s: offset %d after %d", g.name, ev.Offset, g.last)
		}
		g.last = ev.Offset
		g.epochs[ev.Epoch] = true
		seq := ev.FirstSeq
		for m := ev.Messages; len(m) > 0; seq++ {
			v, rest, err := packet.NextMessage(m)
			if err != nil || v.Seq != seq {
				g.t.Errorf("%s: message %d (%v) in the place of %d", g.name, v.Seq, err, seq)
			}
			g.got = append(g.got, fmt.Sprintf("%c%d", ev.Conversation[15], v.Seq))
			m = rest
		}
		if seq != ev.LastSeq+1 {
			g.t.Errorf("%s: event up to %d ends before %d", g.name, ev.LastSeq, seq)
		}
	}
	return nil
}

func (g *group) heard() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.got...)
}

func (g *group) wait(n int) []string {
	g.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		got := g.heard()
		if len(got) >= n {
			return got
		}
		if time.Now().After(deadline) {
			g.t.Fatalf("%s heard %d of %d: %v", g.name, len(got), n, got)
		}
		time.Sleep(time.Millisecond)
	}
}

func (g *group) expect(want ...string) {
	g.t.Helper()
	got := g.wait(len(want))
	if fmt.Sprint(got) != fmt.Sprint(want) {
		g.t.Fatalf("%s heard %v, want %v", g.name, got, want)
	}
}

func conv(c byte) id.ConversationID { return id.ConversationID{0: 2, 15: c} }

func newStore(t testing.TB) kv.Store {
	s := memory.New(memory.Config{Seed: 1})
	t.Cleanup(func() { s.Close() })
	return s
}

func TestHandsOverInOffsetOrder(t *testing.T) {
	w := newWorld(t, newStore(t), log.Config{})
	w.publish(w.append(conv('a'), 1)) // before anybody listens: a new group doesn't get it
	g := w.subscribe("fanout", nil)
	b1, a2, b3 := w.append(conv('b'), 2), w.append(conv('a'), 1), w.append(conv('b'), 1)
	w.publish(b3) // announced in the wrong order
	w.publish(b1, a2)
	g.expect("b1", "b2", "a2", "b3")
	w.publish(b1) // and once more: had it
	w.publish(w.append(conv('a'), 3))
	g.expect("b1", "b2", "a2", "b3", "a3", "a4", "a5")
}

func TestFindsWhatNobodyAnnounced(t *testing.T) {
	w := newWorld(t, newStore(t), log.Config{})
	g := w.subscribe("fanout", nil)
	w.append(conv('a'), 5) // an append whose outcome was unknown to who made it
	g.expect("a1", "a2", "a3", "a4", "a5")
}

func TestPartsOfOneAppend(t *testing.T) {
	w := newWorld(t, newStore(t), log.Config{Batch: 1, Queue: 2, PollEvery: time.Hour})
	g := w.subscribe("fanout", func(g *group) { g.block = make(chan struct{}) })
	whole := w.append(conv('a'), 3)
	var parts []bus.Event
	for m := whole.Messages; len(m) > 0; {
		_, rest, _ := packet.NextMessage(m)
		p := whole
		p.FirstSeq += uint64(len(parts))
		p.LastSeq, p.Messages = p.FirstSeq, m[:len(m)-len(rest)]
		parts, m = append(parts, p), rest
	}
	// The ring has room for two of the three: what is left of the append must not pass for all of it.
	w.publish(parts...)
	w.publish(w.append(conv('b'), 1))
	close(g.block)
	g.expect("a1", "a2", "a3", "b1")
}

func TestRestartContinuesAtTheStoredPosition(t *testing.T) {
	store := newStore(t)
	w := newWorld(t, store, log.Config{})
	g := w.subscribe("fanout", nil)
	w.publish(w.append(conv('a'), 2))
	g.expect("a1", "a2")
	g.stop() // stores the position
	w.append(conv('a'), 1)
	w.append(conv('b'), 2)

	w2 := w.again(log.Config{})
	g2 := w2.subscribe("fanout", nil)
	g2.expect("a3", "b1", "b2")

	// A process that dies: the position lags, and what came after it comes again.
	w3 := w2.again(log.Config{StoreEvery: time.Hour})
	g3 := w3.subscribe("push", nil)
	w3.publish(w3.append(conv('b'), 1))
	g3.expect("b3")
	g4 := w3.again(log.Config{StoreEvery: time.Hour}).subscribe("push", nil)
	g4.expect("b3")
}

func TestGroupsAreIndependent(t *testing.T) {
	w := newWorld(t, newStore(t), log.Config{Queue: 4})
	var gs []*group
	slow := w.subscribe("slow", func(g *group) { g.block = make(chan struct{}) })
	for i := range 4 {
		gs = append(gs, w.subscribe(fmt.Sprint("g", i), func(g *group) { g.fail = i }))
	}
	var want []string
	for i := range 100 {
		w.publish(w.append(conv('a'), 1), w.append(conv('b'), 1))
		want = append(want, fmt.Sprint("a", i+1), fmt.Sprint("b", i+1))
	}
	for _, g := range gs {
		g.expect(want...)
	}
	if n := len(slow.heard()); n != 0 {
		t.Fatalf("the slow group heard %d", n)
	}
	close(slow.block)
	slow.expect(want...)
	if err := w.log.Subscribe(context.Background(), "slow", slow.handle); err == nil {
		t.Fatal("a second subscriber of one group")
	}
}

func TestBoundsItsMemory(t *testing.T) {
	w := newWorld(t, newStore(t), log.Config{QueueBytes: 100})
	slow := w.subscribe("slow", func(g *group) { g.block = make(chan struct{}) })
	var want []string
	for i := range 60 {
		w.publish(w.append(conv('a'), 2))
		want = append(want, fmt.Sprint("a", 2*i+1), fmt.Sprint("a", 2*i+2))
	}
	if events, bytes := w.log.Held(); bytes > 200 || events > 10 {
		t.Fatalf("%d events of %d bytes are held", events, bytes)
	}
	close(slow.block)
	slow.expect(want...)
	deadline := time.Now().Add(10 * time.Second)
	for {
		events, bytes := w.log.Held()
		if events == 0 && bytes == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events of %d bytes are held after all were handled", events, bytes)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestRetentionAndSweep(t *testing.T) {
	store := newStore(t)
	w := newWorld(t, store, log.Config{})
	lag := w.subscribe("lag", func(g *group) { g.block = make(chan struct{}) })
	for range 50 {
		w.publish(w.append(conv('a'), 1))
	}
	sweeper := msgstore.NewSweeper(msgstore.SweeperConfig{Store: store, Keys: keys, BusKeep: 1})
	if _, err := sweeper.SweepBusLog(context.Background(), 0); err != nil {
		t.Fatal(err)
	}
	lag.stop() // had nothing; its position is that of its start

	// Retention takes the first 40 messages meanwhile.
	h := w.heads[conv('a')]
	for more := true; more; {
		tx := new(kv.Tx)
		var err error
		if more, err = w.tl.Trim(context.Background(), tx, conv('a'), h.raw, &h.Head, 41, 16); err != nil {
			t.Fatal(err)
		}
		if store.Commit(context.Background(), tx); tx.Err != nil {
			t.Fatal(tx.Err)
		}
		h.raw = h.Head.Append(nil)
	}
	g := w.again(log.Config{}).subscribe("lag", nil)
	var want []string
	for i := 41; i <= 50; i++ {
		want = append(want, fmt.Sprint("a", i))
	}
	g.expect(want...)
	g.stop()
	removed, err := sweeper.SweepBusLog(context.Background(), 0)
	if err != nil || removed != 49 {
		t.Fatalf("%d references swept after all were handled, %v", removed, err)
	}
	w.append(conv('b'), 1)
	w.again(log.Config{}).subscribe("lag", nil).expect("b1")
}

func TestRefusesWhatCantWork(t *testing.T) {
	if _, err := log.New(log.Config{}); err == nil {
		t.Error("no store")
	}
	read := func(context.Context, id.ConversationID, uint64, uint64) ([]byte, uint64, error) { return nil, 0, nil }
	noStamps := memory.New(memory.Config{NoStamps: true})
	defer noStamps.Close()
	if _, err := log.New(log.Config{Store: noStamps, Rows: rows{}, Read: read}); err == nil {
		t.Error("a store without stamps")
	}
	if _, err := log.New(log.Config{Store: newStore(t), Rows: rows{}, Read: read, Queue: -1}); err == nil {
		t.Error("a negative limit")
	}
	closed := memory.New(memory.Config{})
	l, err := log.New(log.Config{Store: closed, Rows: rows{}, Read: read})
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	if err := l.Subscribe(context.Background(), "g", nil); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("subscribed to a closed store: %v", err)
	}
}

// The messages can't be read for a while: nothing is skipped.
func TestReadErrorsAreWaitedOut(t *testing.T) {
	store := newStore(t)
	w := newWorld(t, store, log.Config{})
	fails := 3
	l, err := log.New(log.Config{Store: store, Rows: rows{}, PollEvery: time.Millisecond,
		Read: func(ctx context.Context, c id.ConversationID, from, to uint64) ([]byte, uint64, error) {
			if fails > 0 {
				fails--
				return nil, 0, errors.New("not now")
			}
			messages, _, last, err := w.tl.Range(ctx, c, from, to, 0, 0)
			return messages, last, err
		}})
	if err != nil {
		t.Fatal(err)
	}
	w.log = l
	g := w.subscribe("g", nil)
	w.append(conv('a'), 2)
	w.append(conv('b'), 1)
	g.expect("a1", "a2", "b1")
}

func TestEnlistDoesNotAllocate(t *testing.T) {
	w := newWorld(t, newStore(t), log.Config{})
	ev := bus.Event{Conversation: conv('a'), Epoch: 1, FirstSeq: 100, LastSeq: 131}
	tx := new(kv.Tx)
	if n := testing.AllocsPerRun(100, func() {
		tx.Reset()
		w.log.Enlist(tx, &ev)
	}); n > 0 {
		t.Errorf("%.1f allocations", n)
	}
}

func BenchmarkHandOver(b *testing.B) {
	for _, n := range []int{1, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			w := newWorld(b, newStore(b), log.Config{})
			got := make(chan int, 1024)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go w.log.Subscribe(ctx, "g", func(_ context.Context, evs []bus.Event) error {
				got <- len(evs)
				return nil
			})
			for {
				if _, ok, _ := w.log.Position(ctx, "g"); ok {
					break
				}
				time.Sleep(time.Millisecond)
			}
			evs := make([]bus.Event, n)
			offset := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				for i := range evs {
					offset++
					evs[i] = bus.Event{Conversation: conv('a'), FirstSeq: offset, LastSeq: offset, Offset: offset}
				}
				w.log.Publish(ctx, evs)
				for left := n; left > 0; {
					left -= <-got
				}
			}
		})
	}
}
