package timeline

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// imports returns n messages of s from the Unix ms at on, a second apart.
func imports(s *sender, at int64, n int) []Imported {
	out := make([]Imported, n)
	for i := range out {
		ms := at + int64(i)*1000
		p := s.text(id.NewClientMsgID(ms), fmt.Sprint("before ", i))
		out[i] = Imported{At: ms, Sender: "somebody", Send: p.Send}
	}
	return out
}

// What is imported is of its own times, is known by its ids, and never comes to the bus, whichever bus
// that is and whatever becomes of a commit.
func TestImported(t *testing.T) {
	for _, apart := range []bool{false, true} {
		for name, fail := range map[string]error{"sound": nil, "conflict": kv.ErrConflict, "undetermined": kv.ErrUndetermined} {
			t.Run(fmt.Sprint(name, " apart ", apart), func(t *testing.T) {
				store := &hookStore{Store: newMemory(t)}
				cfg := config(store)
				var seqs func() []bus.Event
				if apart {
					b := newApartBus(t, store.Store)
					cfg.Bus = b
					c := consume(t, b.log)
					seqs = func() []bus.Event {
						await(t, "the message of now on the bus", func() bool {
							c.mu.Lock()
							defer c.mu.Unlock()
							return c.got[fmt.Sprint(dm, " ", 31)] == 1
						})
						c.mu.Lock()
						defer c.mu.Unlock()
						if len(c.got) != 1 {
							t.Errorf("the bus has %v", c.got)
						}
						return nil
					}
				} else {
					b := &storeBus{}
					cfg.Bus, seqs = b, b.events
				}
				s, stop := start(t, cfg)
				a := newSender("somebody", 1)
				begin := nowMs() - 400*24*3600*1000
				batch := imports(a, begin, 20)
				change := func(w *Change) (uint64, error) {
					return s.Change(context.Background(), dm, func(_ context.Context, h msgstore.Head) (*Change, error) {
						if n := len(w.Imported); n > 0 && h.LastSeq >= 20 && w.Create {
							return nil, nil // it was stored after all
						}
						w.Create = w.Create && !h.Exists()
						return w, nil
					})
				}
				if fail != nil {
					store.failNext(1, fail, nil)
				}
				if seq, err := change(&Change{Create: true, Imported: batch}); err != nil || seq != 20 && fail == nil {
					t.Fatalf("seq %d, %v", seq, err)
				}
				if seq, err := change(&Change{Type: packet.TypeSystem, Content: "{}", Sender: "somebody", At: begin + 19_000}); err != nil || seq != 21 {
					t.Fatalf("seq %d, %v", seq, err)
				}
				if seq, err := change(&Change{Imported: imports(a, begin+30_000, 9)}); err != nil || seq != 30 {
					t.Fatalf("seq %d, %v", seq, err)
				}
				p := packet.Pending{Send: batch[3].Send, From: a.o, ReqID: 1, Reply: a}
				s.Append(dm, []packet.Pending{p})
				s.Append(dm, []packet.Pending{a.text(id.NewClientMsgID(nowMs()), "now")})
				a.hear(t, 2)
				got := messages(t, store, dm)
				if len(got) != 31 || got[0].ID.UnixMilli() != begin || got[20].ID.UnixMilli() != begin+19_001 || got[29].ID.UnixMilli() != begin+38_000 || got[30].ID.Worker() != cfg.Worker {
					t.Errorf("%d messages, of %d, %d and %d", len(got), got[0].ID.UnixMilli(), got[20].ID.UnixMilli(), got[29].ID.UnixMilli())
				}
				if evs := seqs(); !apart && (len(evs) != 1 || evs[0].FirstSeq != 31) {
					t.Errorf("the bus has %+v", evs)
				}
				for _, w := range []*Change{{Imported: imports(a, nowMs()-5000, 1)}, {At: nowMs(), Type: packet.TypeSystem}} {
					var e *code.Error
					if _, err := change(w); !errors.As(err, &e) || e.Code != code.Forbidden {
						t.Errorf("behind what was written now: %v", err)
					}
				}
				if _, err := change(&Change{At: nowMs() + 10_000, Type: packet.TypeSystem}); err == nil {
					t.Error("a time to come was taken")
				}
				stop()
				audit(t, store.Store, dm)
			})
		}
	}
}
