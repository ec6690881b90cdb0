package log_test

import (
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/bus/bustest"
	"github.com/gochat-im/gochat/bus/log"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// embedded is a bustest.World on a store.
type embedded struct {
	store kv.Store
	w     *world // of the process that was opened last
}

func (e *embedded) Open(t testing.TB) bustest.Bus {
	heads := map[id.ConversationID]*head{}
	if e.w != nil {
		heads = e.w.heads
	}
	e.w = newWorld(t, e.store, log.Config{StoreEvery: 10 * time.Millisecond})
	e.w.heads = heads
	return e.w.log
}

func (e *embedded) Append(t testing.TB, b bustest.Bus, conv id.ConversationID, n, size int) bus.Event {
	h := e.w.heads[conv]
	if h == nil {
		h = &head{Head: msgstore.Head{FirstSeq: 1}}
		e.w.heads[conv] = h
	}
	ev := bus.Event{Conversation: conv, Epoch: bustest.Epoch(), FirstSeq: h.LastSeq + 1, LastSeq: h.LastSeq + uint64(n)}
	ev.Messages = bustest.Messages(conv, ev.FirstSeq, ev.LastSeq, size)
	var sb msgstore.SegmentBuilder
	sb.Reset(ev.FirstSeq, h.Countable)
	for rest := ev.Messages; len(rest) > 0; {
		_, after, err := packet.NextMessage(rest)
		if err != nil {
			t.Fatal(err)
		}
		sb.Add(len(rest)-len(after), true)
		rest = after
	}
	h.LastSeq, h.Countable = ev.LastSeq, sb.Countable()
	tx := new(kv.Tx)
	e.w.tl.Append(tx, conv, h.raw, &h.Head, sb.Segments(ev.Messages), nil)
	if !b.Enlist(tx, &ev) {
		t.Fatal("not enlisted")
	}
	if e.store.Commit(t.Context(), tx); tx.Err != nil {
		t.Fatal(tx.Err)
	}
	h.raw = h.Head.Append(nil)
	ev.Offset = tx.Stamp
	return ev
}

func TestConformance(t *testing.T) {
	for name, open := range map[string]func(t testing.TB) kv.Store{
		"memory": newStore,
		"pebble": func(t testing.TB) kv.Store {
			s, err := pebblekv.Open(pebblekv.Config{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { s.Close() })
			return s
		},
	} {
		t.Run(name, func(t *testing.T) {
			bustest.Run(t, bustest.Config{Ordered: true, World: func(t testing.TB) bustest.World { return &embedded{store: open(t)} }})
		})
	}
}
