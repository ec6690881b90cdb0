package msgstore_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/faultkv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
)

// Each number has a ceiling of its own: a node with a fast clock doesn't drag others along, and
// nobody waits for another's row.
func TestClockOfEachWorker(t *testing.T) {
	store := memory.New(memory.Config{})
	if _, err := OpenMeta(ctx, store, Keys{}, testNow); err != nil {
		t.Fatal(err)
	}
	open := func(worker uint32, ahead time.Duration) *Clock {
		t.Helper()
		c, err := OpenClock(ctx, ClockConfig{Store: store, Worker: worker, Logger: quiet, Wall: func() time.Time { return time.UnixMilli(testNow).Add(ahead) }})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	expect := func(c *Clock, want time.Duration) {
		t.Helper()
		if got := c.Now(); got != testNow+want.Milliseconds() {
			t.Errorf("time is %d, want %s", got-testNow, want)
		}
	}
	expect(open(2, 20*time.Second), 20*time.Second)
	expect(open(1, 0), 0)
	expect(open(1, 0), 10*time.Second)              // who has the number next begins where this one can have come to
	expect(open(2, 0), 30*time.Second)              // and likewise
	expect(open(22, 0), 0)                          // not a part of 2
	expect(open(0, 15*time.Second), 15*time.Second) // a store that has had one node
	expect(open(3, 0), 25*time.Second)

	if err := Check(ctx, store, Keys{}, func(f Finding) { t.Errorf("audit: %s", f) }); err != nil {
		t.Error(err)
	}
}

func TestClockReserves(t *testing.T) {
	store := faultkv.Wrap(memory.New(memory.Config{}), faultkv.Config{})
	wall := func() time.Time { return time.UnixMilli(testNow) }
	c, err := OpenClock(ctx, ClockConfig{Store: store, Worker: 7, Wall: wall, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	store.Script(faultkv.Unavailable)
	const within, beyond = testNow + 9_000, testNow + 25_000
	if got, err := c.Reserve(ctx, within); err != nil || got < within {
		t.Errorf("a time below the ceiling: %d, %v", got-testNow, err)
	}
	if _, err := c.Reserve(ctx, beyond); !errors.Is(err, kv.ErrUnavailable) { // the store is asked only now
		t.Errorf("beyond the ceiling, the store away: %v", err)
	}
	store.Script(faultkv.Lost, faultkv.Conflict, faultkv.Applied)
	if got, err := c.Reserve(ctx, beyond); err != nil || got < beyond {
		t.Errorf("beyond the ceiling: %d, %v", got-testNow, err)
	}
	if got := c.Now(); got != testNow {
		t.Errorf("the time itself went to %d", got-testNow)
	}
	next, err := OpenClock(ctx, ClockConfig{Store: store, Worker: 7, Wall: wall, Logger: quiet})
	if err != nil || next.Now() < beyond {
		t.Errorf("the next process begins at %d, %v", next.Now()-testNow, err)
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			at := next.Now() + int64(i)*10_000
			if got, err := next.Reserve(ctx, at); err != nil || got < at {
				t.Errorf("%d: %d, %v", at, got, err)
			}
		})
	}
	wg.Wait()
}
