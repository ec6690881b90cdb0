package rocketmq

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	rocket "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/hooks"
	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// sending is a producer that keeps what it is given.
type sending struct {
	rocket.Producer
	mu     sync.Mutex
	packs  []*primitive.MessageExt
	status primitive.SendStatus
	err    error
	hold   chan struct{} // not nil: calls wait for it
	enter  chan struct{} // not nil: is told of calls
}

func (s *sending) Shutdown() error { return nil }

func (s *sending) SendSync(_ context.Context, ms ...*primitive.Message) (*primitive.SendResult, error) {
	s.mu.Lock()
	hold, enter, err, status := s.hold, s.enter, s.err, s.status
	s.mu.Unlock()
	if enter != nil {
		enter <- struct{}{}
	}
	if hold != nil {
		<-hold
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range ms {
		e := &primitive.MessageExt{Message: *primitive.NewMessage(m.Topic, append([]byte(nil), m.Body...))}
		e.Queue, e.QueueOffset, e.StoreTimestamp = m.Queue, int64(len(s.packs)), time.Now().UnixMilli()
		s.packs = append(s.packs, e)
	}
	return &primitive.SendResult{Status: status}, err
}

func newTestBus(t *testing.T, queues int, set func(c *Config)) (*Bus, *sending) {
	c := valid()
	if set != nil {
		set(&c)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	s := new(sending)
	b := &Bus{cfg: c, log: slog.New(slog.DiscardHandler), brokers: newRemote(&c), producer: s, groups: map[string]bool{}}
	var mqs []primitive.MessageQueue
	for i := range queues {
		mqs = append(mqs, primitive.MessageQueue{Topic: c.Topic, BrokerName: "a", QueueId: i})
	}
	b.begin(mqs)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, s
}

func group(n int) id.ConversationID {
	c := id.ConversationID{0: byte(id.KindGroup)}
	binary.BigEndian.PutUint32(c[10:], uint32(n))
	return c
}

func said(n int, seq uint64, size int) bus.Event {
	return bus.Event{Conversation: group(n), Epoch: 1, FirstSeq: seq, LastSeq: seq, Messages: packet.AppendMessage(nil, seq, id.MessageID(seq), "alice", make([]byte, 0, size))}
}

// Events of a conversation go to one queue in their order, what waits goes together, and no
// pack is much bigger than it may be.
func TestPublish(t *testing.T) {
	b, s := newTestBus(t, 4, func(c *Config) { c.PackBytes = 2000 })
	var evs []bus.Event
	for seq := range uint64(20) {
		for n := range 30 {
			evs = append(evs, said(n, seq+1, 0))
		}
	}
	if err := b.Publish(t.Context(), nil); err != nil {
		t.Error(err)
	}
	if err := b.Publish(t.Context(), evs); err != nil {
		t.Fatal(err)
	}
	last := map[id.ConversationID]uint64{}
	numbers := map[int]uint64{}
	total := 0
	for _, p := range s.packs {
		h, evs, err := parsePack(p.Body, nil)
		if err != nil || len(p.Body) > 2000+eventRoom || len(evs) == 0 {
			t.Fatalf("a pack of %d bytes and %d events: %v", len(p.Body), len(evs), err)
		}
		if h.Number != numbers[p.Queue.QueueId]+1 || int(h.Queue) != p.Queue.QueueId {
			t.Errorf("pack %d of queue %d in queue %d after %d", h.Number, h.Queue, p.Queue.QueueId, numbers[p.Queue.QueueId])
		}
		numbers[p.Queue.QueueId] = h.Number
		for _, ev := range evs {
			if b.Queue(ev.Conversation) != p.Queue.QueueId || ev.FirstSeq != last[ev.Conversation]+1 {
				t.Errorf("%s %d in queue %d after %d", ev.Conversation, ev.FirstSeq, p.Queue.QueueId, last[ev.Conversation])
			}
			last[ev.Conversation] = ev.FirstSeq
			total++
		}
	}
	if total != len(evs) || len(numbers) != 4 || b.Queues() != 4 || b.Enlist(nil, nil) {
		t.Errorf("%d events of %d in %d queues", total, len(evs), len(numbers))
	}
}

// What comes while a call is under way gathers; who doesn't wait gets an error and no more.
func TestGathers(t *testing.T) {
	b, s := newTestBus(t, 1, nil)
	s.hold, s.enter = make(chan struct{}), make(chan struct{}, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := b.Publish(context.Background(), []bus.Event{said(0, 1, 0)}); err != nil {
			t.Error(err)
		}
	})
	<-s.enter
	ctx, cancel := context.WithCancel(context.Background())
	for n := range queueJobs {
		wg.Go(func() {
			if err := b.Publish(ctx, []bus.Event{said(n+1, 1, 0)}); !errors.Is(err, context.Canceled) {
				t.Errorf("whose context ended: %v", err)
			}
		})
	}
	for len(b.queues[0].jobs) < queueJobs {
		time.Sleep(time.Millisecond)
	}
	full, stop := context.WithCancel(context.Background())
	stop()
	if err := b.Publish(full, []bus.Event{said(0, 1, 0)}); !errors.Is(err, context.Canceled) {
		t.Errorf("to a queue that is full: %v", err)
	}
	cancel()
	close(s.hold)
	wg.Wait()
	<-s.enter
	if err := b.Publish(context.Background(), []bus.Event{said(0, 2, 0)}); err != nil {
		t.Fatal(err)
	}
	if _, evs, err := parsePack(s.packs[1].Body, nil); err != nil || len(evs) != queueJobs {
		t.Errorf("%d events gathered of %d: %v", len(evs), queueJobs, err)
	}
}

// After some failures a broker isn't asked any more until its breaker lets a call through.
func TestBreaker(t *testing.T) {
	b, s := newTestBus(t, 1, nil)
	gone := errors.New("gone")
	s.err = gone
	for range 3 {
		if err := b.Publish(t.Context(), []bus.Event{said(0, 1, 0)}); !errors.Is(err, gone) {
			t.Errorf("%v", err)
		}
	}
	if err := b.Publish(t.Context(), []bus.Event{said(0, 1, 0)}); err == nil || errors.Is(err, gone) || len(s.packs) != 3 {
		t.Errorf("with an open breaker: %v after %d calls", err, len(s.packs))
	}
	if got := b.Breakers(); len(got) != 1 || got["a"] != "open" {
		t.Errorf("breakers: %v", got)
	}

	b, s = newTestBus(t, 1, nil)
	s.status = primitive.SendFlushDiskTimeout
	if err := b.Publish(t.Context(), []bus.Event{said(0, 1, 0)}); err == nil {
		t.Error("what may not be on disk counts as taken")
	}
	if got := b.Breakers(); got["a"] != "closed" {
		t.Errorf("breakers: %v", got)
	}
}

func TestClosed(t *testing.T) {
	b, _ := newTestBus(t, 1, nil)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), []bus.Event{said(0, 1, 0)}); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}

// A Bus without traffic probes until something is seen, and hands over what isn't.
func TestWatches(t *testing.T) {
	overdue := make(chan []bus.Event, 10)
	b, s := newTestBus(t, 2, func(c *Config) {
		c.Watched, c.EchoEvery, c.SeenWithin = "fanout", 10*time.Millisecond, 20*time.Millisecond
		c.Overdue = func(evs []bus.Event) { overdue <- evs }
	})
	come := func() { // as a consumer on another node would report
		s.mu.Lock()
		packs := s.packs
		s.packs = nil
		s.mu.Unlock()
		for _, p := range packs {
			if h, _, err := parsePack(p.Body, nil); err != nil {
				t.Error(err)
			} else if h.echo {
				b.Saw([]Mark{h.Mark})
			}
		}
	}
	if b.Alive(b.Queue(group(1))) || b.DirectQueues() != 2 {
		t.Error("not direct at the start")
	}
	for b.DirectQueues() > 0 {
		come()
		time.Sleep(time.Millisecond)
	}
	if err := b.Publish(t.Context(), []bus.Event{said(1, 1, 0)}); err != nil {
		t.Fatal(err)
	}
	if evs := <-overdue; len(evs) != 1 || evs[0].FirstSeq != 1 || b.Alive(b.Queue(group(1))) {
		t.Errorf("overdue: %v", evs)
	}
	for b.DirectQueues() > 0 {
		come()
		time.Sleep(time.Millisecond)
	}
}

// What is late is read from the timeline, with what it holds by then.
func TestUnits(t *testing.T) {
	reads := 0
	fail := false
	b, s := newTestBus(t, 1, func(c *Config) {
		c.MaxEvent = 40
		c.Read = func(_ context.Context, conv id.ConversationID, from, to uint64) ([]byte, uint64, error) {
			if reads++; fail {
				return nil, 0, errors.New("away")
			}
			switch from {
			case 1:
				return packet.AppendMessage(nil, 1, 1, "bob", nil), 1, nil
			case 2: // retention took it
				return nil, 3, nil
			}
			return nil, from - 1, nil
		}
	})
	long := bus.Event{Conversation: group(1), Epoch: 3, FirstSeq: 1, LastSeq: 5, Messages: make([]byte, 41), Origin: 4}
	if err := b.Publish(t.Context(), []bus.Event{said(1, 1, 0), long}); err != nil {
		t.Fatal(err)
	}
	var marks []Mark
	b.cfg.Watched, b.cfg.Seen = "g", func(m []Mark) { marks = append(marks, m...) }
	sub := newSubscription(b, "g", nil, b.log)
	m := s.packs[0]
	u, err := sub.unit(m)
	if err != nil || len(u.evs) != 2 || reads != 3 || u.queue != *m.Queue {
		t.Fatalf("%+v after %d reads: %v", u, reads, err)
	}
	if ev := u.evs[1]; ev.FirstSeq != 1 || ev.LastSeq != 1 || ev.Epoch != 3 || ev.Origin != 4 {
		t.Errorf("read: %+v", ev)
	}
	for name, late := range map[string]func(m *primitive.MessageExt){
		"again":    func(m *primitive.MessageExt) { m.ReconsumeTimes = 1 },
		"replayed": func(m *primitive.MessageExt) { m.WithProperty(replayed, "1") },
		"old":      func(m *primitive.MessageExt) { m.StoreTimestamp -= b.cfg.Late.Milliseconds() + 1 },
	} {
		again := &primitive.MessageExt{Message: primitive.Message{Topic: m.Topic, Body: m.Body, Queue: m.Queue}, StoreTimestamp: m.StoreTimestamp}
		late(again)
		u, err := sub.unit(again)
		if err != nil || len(u.evs) != 2 || string(u.evs[0].Messages) == string(said(1, 1, 0).Messages) || (u.queue == *m.Queue) != (name == "old") {
			t.Errorf("%s: %+v, %v", name, u, err)
		}
	}
	fail = true
	if _, err := sub.unit(m); err == nil {
		t.Error("what can't be read is handled")
	}
	if got, err := sub.consume(t.Context(), m); got != consumer.ConsumeRetryLater || err != nil {
		t.Errorf("what can't be read: %v, %v", got, err)
	}
	if got, err := sub.consume(t.Context(), &primitive.MessageExt{Message: primitive.Message{Body: []byte{9}, Queue: m.Queue}}); got != consumer.ConsumeRetryLater || err != nil {
		t.Errorf("an unreadable pack: %v, %v", got, err)
	}
	sub.seen([]Mark{{Publisher: 9}, {Publisher: 8, Number: 1}})
	if len(marks) != 1 || marks[0].Publisher != 8 {
		t.Errorf("reported to others: %v", marks)
	}
	hook := &hooks.FilterMessageContext{Msg: []*primitive.MessageExt{m}}
	if got, _ := sub.pulled(hook); len(got) != 1 {
		t.Error("what was pulled is dropped")
	}
	sub.stopping.Store(true)
	close(sub.ended)
	if got, _ := sub.pulled(hook); len(got) != 0 {
		t.Error("something is filed after the end")
	}
	b.cfg.Live = func() []string { return []string{"n"} }
	all := []*primitive.MessageQueue{{QueueId: 0}, {QueueId: 1}}
	if got := sub.allocate("g", "1.1.1.1@n#1", all, []string{"1.1.1.1@m#1", "1.1.1.1@n#1"}); len(got) != 2 {
		t.Errorf("the only live consumer gets %v", got)
	}
}

// A group that is subscribed already is refused; brokers that are away are waited for.
func TestSubscribe(t *testing.T) {
	b, _ := newTestBus(t, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.Subscribe(ctx, "g", nil) }()
	for done := false; !done; time.Sleep(time.Millisecond) {
		b.mu.Lock()
		done = b.groups["g"]
		b.mu.Unlock()
	}
	if err := b.Subscribe(ctx, "g", nil); err == nil {
		t.Error("two subscribers of a group")
	}
	if err := b.Subscribe(ctx, "a b", nil); err == nil {
		t.Error("a group that no broker takes")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
