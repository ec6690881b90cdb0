package fanout

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
)

// What is handed over past the bus is brought, in order, and what waits when Run ends as well.
func TestDirect(t *testing.T) {
	w := chat()
	h := w.handler(t)
	d := NewDirect(DirectConfig{})
	ended, end := context.WithCancel(t.Context())
	end()
	bring := func() []uint64 {
		t.Helper()
		if err := d.Run(ended, h); err != nil {
			t.Fatal(err)
		}
		return w.take(t, 3)
	}
	evs := []bus.Event{event(direct, 1, 2, 1), event(direct, 3, 3, 1)}
	d.Take(evs)
	clear(evs) // the slice is ours
	d.Take(nil)
	d.Take([]bus.Event{event(direct, 4, 4, 1)})
	if got := bring(); !slices.Equal(got, []uint64{1, 2, 3, 4}) {
		t.Errorf("brought %v", got)
	}
	if s := d.Stats(); s.Events != 3 || s.Missed != 0 || s.Waiting != 0 {
		t.Errorf("%+v", s)
	}
	// The same comes by the bus, too.
	if err := h.Handle(t.Context(), []bus.Event{event(direct, 3, 5, 1)}); err != nil {
		t.Fatal(err)
	}
	if got := w.take(t, 3); !slices.Equal(got, []uint64{5}) {
		t.Errorf("the bus brought %v", got)
	}
	if got := bring(); got != nil {
		t.Errorf("brought again: %v", got)
	}
}

// Of what there is no room for the newest message of each conversation is brought.
func TestDirectIsBounded(t *testing.T) {
	w := chat()
	h := w.handler(t)
	first := event(direct, 1, 1, 0)
	d := NewDirect(DirectConfig{Bytes: len(first.Messages) + directRoom})
	d.Take([]bus.Event{first, event(direct, 2, 7, 0), event(direct, 8, 9, 0)})
	d.Take([]bus.Event{event(direct, 5, 6, 0)}) // an older one behind a newer one
	if s := d.Stats(); s.Events != 4 || s.Missed != 3 || s.Waiting != 1 {
		t.Errorf("%+v", s)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := d.Run(ended, h); err != nil {
		t.Fatal(err)
	}
	if got := w.take(t, 3); !slices.Equal(got, []uint64{1, 9}) {
		t.Errorf("brought %v", got)
	}
	// There is room again.
	d.Take([]bus.Event{event(direct, 10, 10, 0)})
	if err := d.Run(ended, h); err != nil {
		t.Fatal(err)
	}
	if got := w.take(t, 3); !slices.Equal(got, []uint64{10}) {
		t.Errorf("brought %v", got)
	}
	// What can't be read is left to the recipients, who see the gap.
	w.failRead = context.DeadlineExceeded
	big := event(direct, 11, 20, 0)
	d.Take([]bus.Event{big})
	if err := d.Run(ended, h); err != nil {
		t.Fatal(err)
	}
	if got := w.take(t, 3); got != nil || d.Stats().Waiting != 0 {
		t.Errorf("brought %v, %+v", got, d.Stats())
	}
}

// Messages that others have brought while this Handler had none of their conversation are no gap.
func TestShared(t *testing.T) {
	for _, shared := range []bool{false, true} {
		w := chat()
		h := w.handler(t, func(c *Config) { c.Shared = shared })
		bring := func(from, to uint64) {
			t.Helper()
			if err := h.Handle(t.Context(), []bus.Event{event(direct, from, to, 0)}); err != nil {
				t.Fatal(err)
			}
		}
		bring(1, 3)
		w.now = w.now.Add(11 * time.Second)
		bring(100, 100)
		w.now = w.now.Add(5 * time.Second)
		bring(103, 103)
		if got := w.take(t, 3); !slices.Equal(got, []uint64{1, 2, 3, 100, 103}) {
			t.Fatalf("brought %v", got)
		}
		w.now = w.now.Add(6 * time.Second)
		h.Heal(t.Context())
		want := []uint64{101, 102}
		if got := w.take(t, 3); shared && !slices.Equal(got, want) || !shared && len(got) != 96+2 {
			t.Errorf("shared %v: healed %v", shared, got)
		}
	}
}
