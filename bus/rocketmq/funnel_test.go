package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/gochat-im/gochat/bus"
)

// passing is a funnel that runs, and what its handler was given.
type passing struct {
	t *testing.T
	*funnel
	stop func()

	mu    sync.Mutex
	calls [][]string
	fail  func(seq uint64) error // may be nil
	marks []Mark
}

func newPassing(t *testing.T, set func(c *Config)) *passing {
	c := valid()
	c.InPlace = 50 * time.Millisecond
	if set != nil {
		set(&c)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	p := &passing{t: t}
	p.funnel = newFunnel(&c, p.take, slog.New(slog.DiscardHandler))
	p.seen = func(m []Mark) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.marks = append(p.marks, m...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.run(ctx)
	}()
	p.stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(p.stop)
	return p
}

func (p *passing) take(_ context.Context, evs []bus.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var call []string
	for i := range evs {
		if p.fail != nil {
			if err := p.fail(evs[i].FirstSeq); err != nil {
				return err
			}
		}
		call = append(call, fmt.Sprintf("%d/%d", evs[i].Epoch, evs[i].FirstSeq))
	}
	p.calls = append(p.calls, call)
	return nil
}

// pack is a unit of queue with one event whose seq is its offset, 0: none, a probe.
func pack(queue int, offset int64, echo bool) *unit {
	u := &unit{queue: primitive.MessageQueue{Topic: "t", QueueId: queue}, offset: offset, echo: echo, mark: Mark{9, uint32(queue), uint64(offset)}, done: make(chan error, 1)}
	if offset > 0 {
		u.evs = []bus.Event{{Conversation: somewhere, Epoch: uint64(queue), FirstSeq: uint64(offset), LastSeq: uint64(offset)}}
	}
	return u
}

// Packs that come by many goroutines, out of order, are handled once each, and reported
// where they ask for it.
func TestFunnelPassesAll(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	p := newPassing(t, nil)
	for q := range 3 {
		if err := p.pass(pack(q, 1, false)); err != nil {
			t.Fatal(err)
		}
	}
	const packs = 200
	var wg sync.WaitGroup
	for q := range 3 {
		for from := int64(2); from <= packs; from += 4 { // a few at a time are out of order
			some := []int64{from, from + 1, from + 2, from + 3}
			rnd.Shuffle(4, func(i, j int) { some[i], some[j] = some[j], some[i] })
			for _, o := range some {
				wg.Go(func() {
					if err := p.pass(pack(q, o, o%7 == 0)); err != nil {
						t.Error(err)
					}
				})
			}
		}
	}
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	n := map[string]int{}
	for _, call := range p.calls {
		for _, s := range call {
			n[s]++
		}
	}
	for q := range 3 {
		for o := range packs + 1 {
			if s := fmt.Sprintf("%d/%d", q, o+1); n[s] != 1 {
				t.Errorf("event %s came %d times", s, n[s])
			}
		}
	}
	if want := 3 * ((packs + 1) / 7); len(p.marks) != want {
		t.Errorf("%d packs were reported, %d asked", len(p.marks), want)
	}
}

// take's order is that of offsets; a gap is waited for, a while.
func TestFunnelTakes(t *testing.T) {
	c := valid()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	f := newFunnel(&c, nil, nil)
	taken := func() (offsets []int64) {
		f.take()
		for _, u := range f.batch {
			offsets = append(offsets, u.offset)
		}
		return offsets
	}
	is := func(what string, want ...int64) {
		t.Helper()
		if got := taken(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	f.put(pack(1, 5, false))
	f.put(pack(1, 4, false))
	is("the first ones", 4, 5)
	f.put(pack(1, 8, false))
	f.put(pack(1, 7, false))
	is("a gap")
	f.put(pack(1, 6, false))
	is("it is filled", 6, 7, 8)
	f.put(pack(1, 3, false))
	is("what comes again doesn't wait", 3)
	f.put(pack(1, 20, false))
	f.waiting[pack(1, 0, false).queue].units[0].at = time.Now().Add(-holdGap)
	is("a gap that stays", 20)
	loose := pack(0, 99, false)
	loose.queue = primitive.MessageQueue{}
	f.put(loose)
	is("in no order", 99)
	if f.count != 0 {
		t.Errorf("%d wait", f.count)
	}
}

// What fails while others pass is given back at once; what fails with all others is tried
// again for a while.
func TestFunnelFails(t *testing.T) {
	poison := errors.New("poison")
	c := valid()
	c.InPlace = time.Hour
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	f := newFunnel(&c, func(_ context.Context, evs []bus.Event) error {
		for i := range evs {
			if evs[i].FirstSeq == 3 {
				return poison
			}
		}
		return nil
	}, slog.New(slog.DiscardHandler))
	for o := range int64(5) {
		f.batch = append(f.batch, pack(1, o+1, false))
	}
	f.act(t.Context())
	for _, u := range f.batch {
		if err := <-u.done; (err != nil) != (u.offset == 3) {
			t.Errorf("pack %d: %v", u.offset, err)
		}
	}

	p := newPassing(t, nil)
	p.mu.Lock()
	p.fail = func(uint64) error { return poison }
	p.mu.Unlock()
	if err := p.pass(pack(1, 1, true)); !errors.Is(err, poison) {
		t.Errorf("a handler that is down: %v", err)
	}
	if len(p.marks) != 0 {
		t.Error("what failed is reported as come through")
	}
	var times int
	p.mu.Lock()
	p.fail = func(uint64) error {
		if times++; times < 4 {
			return poison
		}
		return nil
	}
	p.mu.Unlock()
	if err := p.pass(pack(1, 2, true)); err != nil || times != 4 {
		t.Errorf("after %d times: %v", times, err)
	}
	if err := p.pass(pack(1, 0, true)); err != nil || len(p.marks) != 2 || len(p.calls) != 1 {
		t.Errorf("a probe: %v, %d reports, %d calls", err, len(p.marks), len(p.calls))
	}
}

// When its context ends nobody waits, whatever the handler does.
func TestFunnelStops(t *testing.T) {
	p := newPassing(t, func(c *Config) { c.InPlace = time.Hour })
	entered := make(chan struct{})
	var once sync.Once
	p.mu.Lock()
	p.fail = func(uint64) error {
		once.Do(func() { close(entered) })
		return errors.New("down")
	}
	p.mu.Unlock()
	got := make(chan error, 1)
	go func() { got <- p.pass(pack(1, 1, false)) }()
	<-entered
	p.stop()
	if err := <-got; !errors.Is(err, errStopped) {
		t.Errorf("%v", err)
	}
	if err := p.pass(pack(1, 2, false)); !errors.Is(err, errStopped) {
		t.Errorf("after its end: %v", err)
	}
}
