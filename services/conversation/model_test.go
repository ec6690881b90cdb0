package conversation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// flaky is a store whose commits, now and then, end in any way but well: some of them
// having stored what they say they didn't know they stored.
type flaky struct {
	kv.Store
	mu  sync.Mutex
	rng *rand.Rand
	bad float64
}

func (f *flaky) Commit(ctx context.Context, txs ...*kv.Tx) {
	for _, tx := range txs {
		f.mu.Lock()
		dice, how := f.rng.Float64(), f.rng.IntN(4)
		f.mu.Unlock()
		if dice >= f.bad {
			f.Store.Commit(ctx, tx)
			continue
		}
		switch how {
		case 0:
			tx.Err = fmt.Errorf("lost: %w", kv.ErrUndetermined)
		case 1:
			if f.Store.Commit(ctx, tx); tx.Err == nil {
				tx.Err = fmt.Errorf("stored: %w", kv.ErrUndetermined)
			}
		case 2:
			tx.Err = fmt.Errorf("away: %w", kv.ErrUnavailable)
		case 3:
			tx.Err = fmt.Errorf("conflict: %w", kv.ErrConflict)
		}
	}
}

// TestModel does random things to one direct conversation and a group through two
// services on one store, crashes included, and compares what each member sees with a
// plain model.
func TestModel(t *testing.T) {
	for name, open := range adapters {
		for _, bad := range []float64{0, 0.2} {
			t.Run(fmt.Sprintf("%s, %v bad commits", name, bad), func(t *testing.T) {
				steps := 4000
				if name != "memory" {
					steps = 400
				}
				runModel(t, rand.Uint64(), open(t), bad, steps)
			})
		}
	}
}

// reader is what the model knows of one user.
type reader struct {
	// The stored cursor is at least min and at most max: what was only announced may or may
	// not be stored yet.
	readMin, readMax, recvMin, recvMax uint64
}

func runModel(t *testing.T, seed uint64, store kv.Store, bad float64, steps int) {
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	fl := &flaky{Store: store, rng: rand.New(rand.NewPCG(seed, 1)), bad: bad}
	w := newWorld(t, store)
	if _, err := msgstore.OpenMeta(w.ctx, store, keys, w.clock.Load()); err != nil {
		t.Fatal(err)
	}
	conv := w.say("ann", "ben", 1).Conversation
	type sent struct {
		by     id.UserID
		counts bool
	}
	log := []sent{{"ann", true}}
	who := map[id.UserID]*reader{"ann": {}, "ben": {}}
	users := []id.UserID{"ann", "ben"}

	w.store = fl
	start := func() (*Service, *sequencer) {
		w.serve()
		w.seq.timeline = msgstore.NewTimeline(store, keys) // messages are stored well: theirs is another test
		w.seq.world = &world{t: t, ctx: w.ctx, store: store, clock: w.clock}
		return w.svc, w.seq
	}
	var svcs [2]*Service
	for i := range svcs {
		svcs[i], _ = start()
	}
	// What each service was told and hasn't stored for certain; a crash loses it.
	var told [2]map[id.UserID]*want
	reset := func(i int) { told[i] = map[id.UserID]*want{"ann": {}, "ben": {}} }
	reset(0)
	reset(1)
	unread := func(u id.UserID, read uint64) (n uint32) {
		for seq := read + 1; seq <= uint64(len(log)) && n < UnreadCap; seq++ {
			if m := log[seq-1]; m.counts && m.by != u {
				n++
			}
		}
		return n
	}
	announced := func(i int, u id.UserID, read, recv uint64) {
		last := uint64(len(log))
		r, x := who[u], told[i][u]
		*x = x.max(want{min(read, last), min(max(recv, read), last)})
		// A seq that lies ahead is cut at the newest message when it is written, which may be
		// later: the bounds are those at that time.
		r.readMax, r.recvMax = max(r.readMax, read), max(r.recvMax, recv, read)
	}
	for step := range steps {
		i := rng.IntN(2)
		svc, u := svcs[i], users[rng.IntN(2)]
		r, last := who[u], uint64(len(log))
		o := alive(u)
		w.clock.Add(rng.Int64N(50))
		switch op := rng.IntN(12); op {
		case 0, 1, 2: // some messages
			n := 1 + rng.IntN(8)
			if rng.IntN(50) == 0 {
				n = 300
			}
			a := newAnswers()
			batch := make([]packet.Pending, n)
			for j := range batch {
				counts := rng.IntN(4) > 0
				batch[j] = message("x")
				batch[j].From, batch[j].Conversation, batch[j].Reply = o, conv, a
				if !counts {
					batch[j].NoCount, batch[j].Tail = true, append(batch[j].Tail, 13<<3, 1)
				}
				log = append(log, sent{u, counts})
			}
			seen := uint64(0)
			if rng.IntN(3) == 0 {
				seen = rng.Uint64N(last + 1)
				batch[n-1].Interactive, batch[n-1].SeenSeq = true, seen
			}
			svc.Send(batch)
			if got := a.wait(n); got[n-1].err != nil || got[n-1].ack.Seq != uint64(len(log)) {
				t.Fatalf("step %d: %+v, want seq %d", step, got[n-1], len(log))
			}
			announced(i, u, seen, 0)
		case 3, 4: // RECVACK, sometimes of what isn't there
			seq := rng.Uint64N(last + 3)
			svc.Received(o, conv, seq)
			announced(i, u, 0, min(seq, last))
			r.recvMax = max(r.recvMax, seq)
		case 5, 6: // READ
			seq := rng.Uint64N(last + 3)
			read, n, err := svc.Read(w.ctx, o, conv, seq)
			if err != nil {
				if bad == 0 {
					t.Fatalf("step %d: %v", step, err)
				}
				wantCode(t, err, code.Unavailable)
				r.readMax, r.recvMax = max(r.readMax, seq), max(r.recvMax, seq)
				break
			}
			floor := max(min(seq, last), r.readMin, told[i][u].read)
			if read < floor || read > max(min(r.readMax, last), floor) {
				t.Fatalf("step %d: %s reads %d: %d, want %d to %d", step, u, seq, read, floor, r.readMax)
			}
			if want := unread(u, read); n != want {
				t.Fatalf("step %d: %s has %d unread above %d, want %d", step, u, n, read, want)
			}
			r.readMin, r.readMax = max(r.readMin, read), max(r.readMax, read)
			r.recvMin, r.recvMax = max(r.recvMin, read), max(r.recvMax, read)
		case 7: // flush
			err := svc.Flush(w.ctx)
			if err != nil && bad == 0 {
				t.Fatalf("step %d: %v", step, err)
			}
			if bad == 0 {
				for u, x := range told[i] {
					r := who[u]
					r.readMin, r.recvMin = max(r.readMin, x.read), max(r.recvMin, x.recv)
				}
			}
		case 8: // crash: what was announced and not stored is gone, and clients announce again
			if rng.IntN(4) == 0 {
				svcs[i], _ = start()
				reset(i)
			}
		default: // look
			st, err := svc.State(w.ctx, o, conv)
			if err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			x, peer := told[i][u], users[0]
			if u == peer {
				peer = users[1]
			}
			if st.LastSeq != last || st.ReadSeq > st.RecvSeq || st.RecvSeq > last || st.PeerReadSeq > st.PeerRecvSeq || st.PeerRecvSeq > last {
				t.Fatalf("step %d: bounds: %+v, last %d", step, st, last)
			}
			if st.ReadSeq < max(r.readMin, x.read) || st.ReadSeq > r.readMax || st.RecvSeq < max(r.recvMin, x.recv) || st.RecvSeq > r.recvMax {
				t.Fatalf("step %d: %s read %d received %d, want %+v and %+v", step, u, st.ReadSeq, st.RecvSeq, *r, *x)
			}
			if p := who[peer]; st.PeerReadSeq < p.readMin || st.PeerReadSeq > p.readMax || st.PeerRecvSeq > p.recvMax {
				t.Fatalf("step %d: peer %s read %d received %d, want %+v", step, peer, st.PeerReadSeq, st.PeerRecvSeq, *p)
			}
			if want := unread(u, st.ReadSeq); st.Unread != want {
				t.Fatalf("step %d: %s has %d unread above %d, want %d", step, u, st.Unread, st.ReadSeq, want)
			}
		}
	}
	// In the end everything is told once more and written, as clients do on resume.
	fl.bad = 0
	last := uint64(len(log))
	for _, u := range users {
		svcs[0].Received(alive(u), conv, last)
		svcs[1].Received(alive(u), conv, last-1)
	}
	for _, s := range svcs {
		if err := s.Flush(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
	w.store = store
	w.serve()
	for _, u := range users {
		st, err := w.svc.State(w.ctx, alive(u), conv)
		if err != nil || st.RecvSeq != last || st.ReadSeq < who[u].readMin || st.Unread != unread(u, st.ReadSeq) {
			t.Fatalf("in the end: %+v %v, want %+v", st, err, *who[u])
		}
	}
	err := msgstore.Check(w.ctx, store, keys, func(f msgstore.Finding) { t.Errorf("audit: %+v", f) })
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
