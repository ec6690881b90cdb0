package timeline

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
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

// A mark of a conversation that doesn't exist is removed by whoever sweeps it, and not looked at again.
func TestOrphanMarksGo(t *testing.T) {
	ctx := context.Background()
	for name, sweep := range map[string]func(st *stage, conv id.ConversationID){
		"owner":  func(st *stage, conv id.ConversationID) { st.seq.Own([]id.Slot{conv.Slot()}) },
		"worker": func(st *stage, conv id.ConversationID) { st.seq.HandOn(ctx, []id.ConversationID{conv}) },
	} {
		t.Run(name, func(t *testing.T) {
			st, _ := apartStage(t, func(c *Config) { c.Assigned = true })
			odd := id.NewGroup()
			orphan(t, st.store, odd)
			sweep(st, odd)
			await(t, "the end of the mark", func() bool { return marks(t, st.store.Store, odd) == 0 })
			await(t, "the end of the sweep of its slot", func() bool { return st.seq.due.n.Load() == 0 })
			if raw, err := st.store.Store.Get(ctx, keys.Head(nil, odd)); raw != nil || err != nil {
				t.Errorf("a head: %x, %v", raw, err)
			}
		})
	}
}

func orphan(t *testing.T, store *hookStore, conv id.ConversationID) {
	t.Helper()
	tx := new(kv.Tx)
	tx.SetFunc(keys.OutboxMark(nil, conv), (&msgstore.OutboxMark{Since: 1, FromSeq: 1}).Append)
	if store.Store.Commit(context.Background(), tx); tx.Err != nil {
		t.Fatal(tx.Err)
	}
}

// While an orphan's mark is being removed the conversation is made elsewhere and written to, without the bus: its
// owner found a mark and set none. That mark stays until the bus has the message.
func TestOrphanThatComesToLife(t *testing.T) {
	st, b := apartStage(t, func(c *Config) { c.Assigned = true })
	c := consume(t, b.log)
	odd := id.NewGroup()
	orphan(t, st.store, odd)
	var once sync.Once
	st.store.onCommit(func(ctx context.Context, next kv.Store, txs []*kv.Tx) {
		for _, tx := range txs {
			deletes := map[string]bool{}
			for _, op := range tx.Ops() {
				deletes[string(op.Key)] = deletes[string(op.Key)] || op.Kind == kv.OpDelete
			}
			if !deletes[string(keys.OutboxMark(nil, odd))] {
				continue
			}
			once.Do(func() {
				if !deletes[string(keys.Head(nil, odd))] {
					t.Error("the head isn't written: a store that isn't this process's own would let both be stored")
				}
				create(t, next, odd, st.now.Load())
				cfg := config(next)
				away := newApartBus(t, next)
				away.set(errors.New("away"), false)
				cfg.Bus, cfg.Assigned, cfg.Worker, cfg.Now = away, true, 4, st.now.Load
				other, stop := start(t, cfg)
				other.HandOn(ctx, []id.ConversationID{odd})
				p := st.b.text(st.id(0), "alive")
				other.Append(odd, []packet.Pending{p})
				st.b.expect(t, "1:seq=1")
				stop()
			})
		}
		next.Commit(ctx, txs...)
	})
	st.seq.Own([]id.Slot{odd.Slot()})
	c.wait(odd, 1)
	await(t, "the end of the mark", func() bool { return marks(t, st.store.Store, odd) == 0 })
	if h, _, err := msgstore.NewTimeline(st.store.Store, keys).Head(context.Background(), odd); err != nil || h.LastSeq != 1 || h.HandedSeq != 1 {
		t.Errorf("head %+v, %v", h, err)
	}
}
