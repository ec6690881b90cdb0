package fanout

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// A batch looks everybody up at once, and who isn't surely known is looked for everywhere, each connection once.
func TestLookUps(t *testing.T) {
	w := newWorld()
	w.unknown, w.everywhere = map[id.UserID]bool{}, map[id.UserID][]uint64{}
	h := w.handler(t)
	conv, other := id.Direct("ann", "ben"), id.Direct("ann", "cat")
	w.members[conv], w.members[other] = []id.UserID{"ann", "ben"}, []id.UserID{"ann", "cat"}
	w.sessions["ann"], w.sessions["ben"], w.sessions["cat"] = []uint64{1, 2}, []uint64{3}, []uint64{4}
	w.unknown["ben"], w.everywhere["ben"] = true, []uint64{5}
	if err := h.Handle(t.Context(), []bus.Event{event(conv, 1, 1, 1), event(conv, 2, 2, 5), event(other, 1, 2, 0)}); err != nil {
		t.Fatal(err)
	}
	if w.gathered != 1 || w.flushes != 1 {
		t.Errorf("%d look-ups, %d flushes; want one each", w.gathered, w.flushes)
	}
	for conn, want := range map[uint64][]uint64{1: {2, 1, 2}, 2: {1, 2, 1, 2}, 3: {1, 2}, 4: {1, 2}, 5: {1}} {
		if got := w.take(t, conn); !slices.Equal(got, want) {
			t.Errorf("connection %d was delivered %d, want %d", conn, got, want)
		}
	}
}

// More users than are looked up at once are looked up in several goes.
func TestLookUpsAreBounded(t *testing.T) {
	w := newWorld()
	h := w.handler(t)
	var evs []bus.Event
	for range 100 {
		c := id.NewGroup()
		for range 200 {
			w.members[c] = append(w.members[c], "ann")
		}
		w.members[c][0] = id.UserID(c.String())
		evs = append(evs, event(c, 1, 1, 0))
	}
	if err := h.Handle(t.Context(), evs); err != nil {
		t.Fatal(err)
	}
	if w.gathered != 3 {
		t.Errorf("%d look-ups of 20,000 users, want 3", w.gathered)
	}
}

// gate is Sessions that wait to be let go on.
type gate struct {
	*world
	asked chan int
	goOn  chan struct{}
}

func (g *gate) Gather(ctx context.Context, users []id.UserID, conns []uint64, ends []int) ([]uint64, []int) {
	g.asked <- len(users)
	<-g.goOn
	return g.world.Gather(ctx, users, conns, ends)
}

// Where looking up means waiting, pushes wait beside whoever makes them, gather meanwhile, and are bounded.
func TestPushesWaitForLookUps(t *testing.T) {
	w := chat()
	g := &gate{w, make(chan int), make(chan struct{})}
	h := w.handler(t, func(c *Config) { c.Sessions, c.Pushes = g, 3 })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	push := func() { h.Push("bob", 2, &wire.Signal{Kind: packet.SignalState, Data: []byte("x")}) }
	push()
	if n := <-g.asked; n != 1 {
		t.Errorf("%d users are looked up, want 1", n)
	}
	for range 5 {
		push()
	}
	if s := h.Stats(); s.PushLost != 2 {
		t.Errorf("%d pushes are lost, want 2", s.PushLost)
	}
	g.goOn <- struct{}{}
	if n := <-g.asked; n != 3 {
		t.Errorf("%d users are looked up, want 3", n)
	}
	if !h.Reaches("nobody", 0) {
		t.Error("it is sure that somebody isn't connected without having asked")
	}
	h.PushLazily("bob", 0, &wire.Signal{Kind: packet.SignalState})
	g.goOn <- struct{}{}
	if n := <-g.asked; n != 1 {
		t.Errorf("%d users are looked up, want 1", n)
	}
	g.goOn <- struct{}{}
	for end := time.Now().Add(20 * time.Second); h.Stats().Signals != 5; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", h.Stats())
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
