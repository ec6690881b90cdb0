package timeline

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// While the bus is away it is asked again and again, and may hang then: no conversation waits for that.
func TestNobodyWaitsForTheBusToReturn(t *testing.T) {
	st, b := apartStage(t, func(c *Config) { c.PublishTimeout = time.Hour })
	c := consume(t, b.log)
	b.set(errors.New("away"), false)
	st.send(st.a.text(st.id(0), "1"))
	st.a.expect(t, "1:seq=1")

	hangs := make(chan struct{})
	b.mu.Lock()
	b.fail, b.block = nil, hangs
	before := b.calls
	b.mu.Unlock()
	await(t, "the bus being asked again", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.calls > before
	})
	st.send(st.a.text(st.id(0), "2"))
	st.a.expect(t, "2:seq=2")

	b.mu.Lock()
	b.block = nil
	b.mu.Unlock()
	close(hangs)
	c.wait(dm, 2)
	await(t, "the end of the mark", func() bool { return marks(t, st.store.Store, dm) == 0 })
}

// Marks behind which there is nothing that could be handed on, or nothing that can be read, say nothing of the bus, and keep nobody from
// asking it.
func TestTheBusIsAskedWhateverTheFirstMarksAre(t *testing.T) {
	for name, head := range map[string][]byte{"no conversation": nil, "a broken head": {0xff}} {
		t.Run(name, func(t *testing.T) {
			var back atomic.Int32
			st, b := apartStage(t, func(c *Config) {
				c.Events.BusAway = func(away bool) {
					if !away {
						back.Add(1)
					}
				}
			})
			c := consume(t, b.log)
			odd := id.NewGroup()
			for odd.Slot() >= dm.Slot() {
				odd = id.NewGroup()
			}
			b.set(errors.New("away"), false)
			st.send(st.a.text(st.id(0), "1"))
			st.a.expect(t, "1:seq=1")
			tx := new(kv.Tx)
			tx.SetFunc(keys.OutboxMark(nil, odd), (&msgstore.OutboxMark{Since: 1, FromSeq: 1}).Append)
			if head != nil {
				tx.Set(keys.Head(nil, odd), head)
			}
			if st.store.Store.Commit(context.Background(), tx); tx.Err != nil {
				t.Fatal(tx.Err)
			}
			before := back.Load()
			st.seq.Own([]id.Slot{odd.Slot()})
			calls := func() int {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.calls
			}
			was := calls()
			await(t, "the bus being asked again", func() bool { return calls() >= was+3 })
			if n := back.Load() - before; n != 0 {
				t.Errorf("it was taken for back %d times", n)
			}
			b.set(nil, false)
			c.wait(dm, 1)
			await(t, "the end of the mark", func() bool { return marks(t, st.store.Store, dm) == 0 })
		})
	}
}
