package loopbus_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/bus/bustest"
	"github.com/gochat-im/gochat/bus/loopbus"
	"github.com/gochat-im/gochat/protocol/id"
)

// served is a bustest.World: one server, and timelines that nobody reads.
type served struct {
	*loopbus.Server
	last map[id.ConversationID]uint64
}

func newServed(t testing.TB) *served {
	srv, err := loopbus.Serve("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	return &served{srv, map[id.ConversationID]uint64{}}
}

func (s *served) Open(testing.TB) bustest.Bus { return loopbus.New(s.Addr()) }

func (s *served) Append(t testing.TB, b bustest.Bus, conv id.ConversationID, n, size int) bus.Event {
	ev := bus.Event{Conversation: conv, Epoch: bustest.Epoch(), FirstSeq: s.last[conv] + 1, LastSeq: s.last[conv] + uint64(n)}
	ev.Messages = bustest.Messages(conv, ev.FirstSeq, ev.LastSeq, size)
	s.last[conv] = ev.LastSeq
	if b.Enlist(nil, &ev) {
		t.Fatal("a bus that lies apart took an event into a transaction")
	}
	return ev
}

func TestConformance(t *testing.T) {
	bustest.Run(t, bustest.Config{Ordered: true, World: func(t testing.TB) bustest.World { return newServed(t) }})
}

// Several processes of one group divide the conversations, and take over from one that goes; what is lost
// with a connection comes again.
func TestProcessesOfOneGroup(t *testing.T) {
	w := newServed(t)
	var mu sync.Mutex
	got := map[string]map[id.ConversationID]uint64{} // by process, the last seq
	all := map[id.ConversationID]map[uint64]bool{}
	join := func(name string) (leave func()) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		b := loopbus.New(w.Addr())
		go func() {
			defer close(ended)
			if err := b.Subscribe(ctx, "g", func(_ context.Context, evs []bus.Event) error {
				mu.Lock()
				defer mu.Unlock()
				for _, ev := range evs {
					if got[name] == nil {
						got[name] = map[id.ConversationID]uint64{}
					}
					if all[ev.Conversation] == nil {
						all[ev.Conversation] = map[uint64]bool{}
					}
					got[name][ev.Conversation] = ev.LastSeq
					for seq := ev.FirstSeq; seq <= ev.LastSeq; seq++ {
						all[ev.Conversation][seq] = true
					}
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		}()
		return func() { cancel(); <-ended }
	}
	until := func(what string, done func() bool) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			mu.Lock()
			ok := done()
			mu.Unlock()
			if ok {
				return
			}
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	conv := func(i int) id.ConversationID { return id.Direct("a", id.UserID(fmt.Sprint("b", i))) }
	b := loopbus.New(w.Addr())
	give := func() {
		t.Helper()
		for i := range 100 {
			ev := w.Append(t, b, conv(i), 1, 0)
			if err := b.Publish(t.Context(), []bus.Event{ev}); err != nil { // the connection was cut: given again
				if err = b.Publish(t.Context(), []bus.Event{ev}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	complete := func() bool {
		for i := range 100 {
			for seq := uint64(1); seq <= w.last[conv(i)]; seq++ {
				if !all[conv(i)][seq] {
					return false
				}
			}
		}
		return true
	}
	leave := join("one")
	until("nobody has joined", func() bool { // a group begins with what comes after it
		mu.Unlock()
		defer mu.Lock()
		ev := w.Append(t, b, id.Direct("x", "y"), 1, 0)
		if err := b.Publish(t.Context(), []bus.Event{ev}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		mu.Lock()
		defer mu.Unlock()
		return len(got["one"]) > 0
	})
	defer join("two")()
	until("the second takes nothing", func() bool {
		mu.Unlock()
		defer mu.Lock()
		give()
		mu.Lock()
		defer mu.Unlock()
		return len(got["two"]) > 10
	})
	until("something is missing", complete)
	w.Disconnect()
	give()
	until("something is missing after the connections broke", complete)
	leave()
	give()
	until("something is missing after one has left", complete)
}

func TestOnlyLoopback(t *testing.T) {
	if s, err := loopbus.Serve("0.0.0.0:0"); err == nil {
		_ = s.Close()
		t.Error("served on all addresses")
	}
}

// Who publishes knows whether somebody takes, and what has come through.
func TestConsumers(t *testing.T) {
	w := newServed(t)
	b := loopbus.New(w.Addr())
	c := b.Watch("g")
	conv := id.NewGroup()
	q := c.Queue(conv)
	if q < 0 || q >= c.Queues() || !c.Alive(q) {
		t.Errorf("queue %d of %d, alive %v", q, c.Queues(), c.Alive(q))
	}
	passed := func(seq uint64) bool {
		t.Helper()
		ok, err := c.Passed(t.Context(), q, conv, bustest.Epoch(), seq)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	publish := func() {
		t.Helper()
		if err := b.Publish(t.Context(), []bus.Event{w.Append(t, b, conv, 1, 10)}); err != nil {
			t.Fatal(err)
		}
	}
	publish()
	if c.Alive(q) || passed(1) {
		t.Error("there is no such group yet")
	}
	ctx, leave := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	hold := make(chan struct{})
	go func() {
		ended <- loopbus.New(w.Addr()).Subscribe(ctx, "g", func(context.Context, []bus.Event) error {
			<-hold
			return nil
		})
	}()
	for !c.Alive(q) {
		publish()
	}
	last := w.last[conv]
	publish()
	if passed(last + 1) {
		t.Error("passed, though its consumer holds it")
	}
	close(hold)
	for !passed(last + 1) {
		time.Sleep(time.Millisecond)
	}
	leave()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for c.Alive(q) {
		publish()
	}
	if passed(last + 100) {
		t.Error("passed without a consumer") // the group has not taken what was published since
	}
	_ = w.Close()
	if _, err := c.Passed(t.Context(), q, conv, 1, 1); err == nil {
		t.Error("a bus that is away answers")
	}
}
