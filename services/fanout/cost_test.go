package fanout

import (
	"fmt"
	"testing"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/session"
)

// quiet is a Deliverer that does nothing.
type quiet struct{ frames, bytes int }

func (q *quiet) Deliver(_ uint64, f []byte)               { q.frames++; q.bytes += len(f) }
func (q *quiet) DeliverLazily(conn uint64, f []byte)      { q.Deliver(conn, f) }
func (q *quiet) DeliverUsers([]id.UserID, []byte, uint64) {}
func (q *quiet) Flush()                                   {}

// load is a batch of appends to n conversations, and a way to make it the next one.
func load(t testing.TB, n int) (w *world, dir *session.Directory, evs []bus.Event, next func()) {
	w = newWorld()
	dir, err := session.New(session.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		a, b := id.UserID(fmt.Sprintf("a%05d", i)), id.UserID(fmt.Sprintf("b%05d", i))
		c := id.Direct(a, b)
		w.members[c] = []id.UserID{a, b}
		dir.Register(a, "phone", 1, uint64(2*i+1))
		dir.Register(b, "phone", 1, uint64(2*i+2))
		evs = append(evs, event(c, 1, 1, uint64(2*i+1)))
	}
	return w, dir, evs, func() {
		for i := range evs {
			evs[i].FirstSeq++
			evs[i].LastSeq++
		}
	}
}

func TestHandleAllocatesNothing(t *testing.T) {
	w, dir, evs, next := load(t, 100)
	h := w.handler(t, func(c *Config) { c.Deliver, c.Sessions = new(quiet), dir })
	ctx := t.Context()
	if n := testing.AllocsPerRun(200, func() {
		if err := h.Handle(ctx, evs); err != nil {
			t.Error(err)
		}
		next()
	}); n != 0 {
		t.Errorf("%v allocations for a batch of %d appends", n, len(evs))
	}
}

// BenchmarkHandle is the cost of an append to a direct conversation of two online
// users, deliveries aside.
func BenchmarkHandle(b *testing.B) {
	w, dir, evs, next := load(b, 500)
	h := w.handler(b, func(c *Config) { c.Deliver, c.Sessions = new(quiet), dir })
	ctx := b.Context()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if err := h.Handle(ctx, evs); err != nil {
			b.Fatal(err)
		}
		next()
		n += len(evs)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/append")
}
