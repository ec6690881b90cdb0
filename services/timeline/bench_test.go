package timeline

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// nothing is a store that takes everything and keeps nothing of it once a conversation is loaded.
type nothing struct {
	kv.Store
	off   atomic.Bool
	stamp uint64
}

func (n *nothing) Commit(ctx context.Context, txs ...*kv.Tx) {
	if !n.off.Load() {
		n.Store.Commit(ctx, txs...)
		return
	}
	for _, tx := range txs {
		n.stamp++
		tx.Err, tx.Stamp = nil, n.stamp
	}
}

// quietBus enlists a reference, as the embedded bus does, and tells nobody.
type quietBus struct{}

func (quietBus) Enlist(tx *kv.Tx, ev *bus.Event) bool {
	var kb, vb [64]byte
	vb[0] = 1
	copy(vb[1:], ev.Conversation[:])
	tx.SetStamped(keys.BusRefs(kb[:0], 0), vb[:24])
	return true
}

func (quietBus) Publish(context.Context, []bus.Event) error { return nil }

// counter counts answers.
type counter struct {
	left atomic.Int64
	done chan struct{}
	bad  atomic.Int64
}

func (c *counter) Acked(*packet.Pending, packet.Ack) {
	if c.left.Add(-1) == 0 {
		c.done <- struct{}{}
	}
}

func (c *counter) Refused(p *packet.Pending, e *code.Error) {
	c.bad.Add(1)
	c.Acked(p, packet.Ack{})
}

// load is what a number of conversations send in a round.
type load struct {
	convs []id.ConversationID
	froms []*packet.Origin
	tmpl  packet.Pending
	k     int
	c     counter
	now   int64
	pace  int64 // ms of id time from one round to the next
	n     uint64
}

func newLoad(tb testing.TB, store kv.Store, convs, k int) *load {
	l := &load{k: k, now: nowMs(), pace: 1}
	l.c.done = make(chan struct{}, 1)
	for i := range convs {
		a, b := id.UserID(fmt.Sprintf("bench-user-%05d", 2*i)), id.UserID(fmt.Sprintf("bench-user-%05d", 2*i+1))
		l.convs = append(l.convs, id.Direct(a, b))
		create(tb, store, l.convs[i], l.now)
		l.froms = append(l.froms, &packet.Origin{User: a, Device: "d", Conn: uint64(2 * i)})
	}
	l.tmpl = newSender("x", 1).text(id.NewClientMsgID(l.now), "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789")
	return l
}

// batches makes what one round sends: k messages of one sender in each conversation.
func (l *load) batches() [][]packet.Pending {
	l.now += l.pace
	out := make([][]packet.Pending, len(l.convs))
	for i := range out {
		out[i] = make([]packet.Pending, l.k)
		for j := range out[i] {
			p := l.tmpl
			l.n++
			p.ClientMsgID = id.NewClientMsgID(l.now)
			p.From, p.ReqID, p.BodyHash, p.Reply = l.froms[i], uint32(l.n), l.n, &l.c
			out[i][j] = p
		}
	}
	return out
}

func (l *load) round(s *Sequencer, batches [][]packet.Pending) {
	l.c.left.Store(int64(len(l.convs) * l.k))
	for i, conv := range l.convs {
		s.Append(conv, batches[i])
	}
	<-l.c.done
}

// BenchmarkAppend is the cost of a message, in rounds of 500 conversations. Making the
// messages is not in the time.
func BenchmarkAppend(b *testing.B) {
	for _, engine := range []string{"nothing", "pebble"} {
		for _, k := range []int{1, 8, 32} {
			b.Run(fmt.Sprintf("%s/%d", engine, k), func(b *testing.B) {
				var store kv.Store
				none := &nothing{}
				if engine == "pebble" {
					p, err := pebblekv.Open(pebblekv.Config{Dir: b.TempDir()})
					if err != nil {
						b.Fatal(err)
					}
					defer p.Close()
					store = p
				} else {
					none.Store = memory.New(memory.Config{Pause: func() {}})
					store = none
				}
				l := newLoad(b, store, 500, k)
				l.pace = map[int]int64{1: 20, 8: 33, 32: 64}[k] // as at 25, 120 and 250 thousand a second
				l.now -= l.pace * int64(b.N/500/k+2)
				none.off.Store(true)
				cfg := config(store)
				cfg.Bus = quietBus{}
				cfg.RoundMessages = 1 << 20
				s, stop := start(b, cfg)
				l.round(s, l.batches())
				l.round(s, l.batches())
				b.ReportAllocs()
				b.ResetTimer()
				rounds := 0
				for n := 0; n < b.N; n += 500 * k {
					b.StopTimer()
					bs := l.batches()
					b.StartTimer()
					l.round(s, bs)
					rounds++
				}
				b.StopTimer()
				stop()
				if l.c.bad.Load() > 0 {
					b.Fatalf("%d refused", l.c.bad.Load())
				}
			})
		}
	}
}

// A message costs the sequencer no allocation; a conversation's share of a round and the
// round itself may, for what they give away (events, encoded messages) and what grows.
func TestAllocations(t *testing.T) {
	perRound := func(k int) float64 {
		none := &nothing{Store: newMemory(t)}
		l := newLoad(t, none.Store, 16, k)
		none.off.Store(true)
		cfg := config(none)
		cfg.Bus = quietBus{}
		s, stop := start(t, cfg)
		defer stop()
		// Id times that stand still would fill one generation; these turn it over now and then.
		l.pace = 100
		l.now -= 100 * 300
		const runs = 100
		rounds := make([][][]packet.Pending, 0, 2*runs+1)
		for range 2*runs + 1 {
			rounds = append(rounds, l.batches())
		}
		next := 0
		round := func() {
			l.round(s, rounds[next])
			next++
		}
		for range runs {
			round()
		}
		n := testing.AllocsPerRun(runs, round)
		if l.c.bad.Load() > 0 {
			t.Fatalf("%d refused", l.c.bad.Load())
		}
		return n
	}
	few, many := perRound(2), perRound(64)
	perMessage := (many - few) / (16 * 62)
	t.Logf("16 conversations a round: %.0f allocations at 2 messages each, %.0f at 64: %.4f a message", few, many, perMessage)
	if perMessage > 0.02 {
		t.Errorf("%.3f allocations a message", perMessage)
	}
	if few > 4*16 {
		t.Errorf("%.0f allocations in a round of 16 conversations", few)
	}
}
