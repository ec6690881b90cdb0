package conversation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/faultkv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// faulty makes one operation in five or so of a store go wrong.
func faulty(t testing.TB, store kv.Store, seed uint64) *faultkv.Store {
	return faultkv.Wrap(store, faultkv.Config{
		Seed: seed, Read: 0.02, Logf: t.Logf,
		Rates: faultkv.Rates{Applied: 0.04, Lost: 0.04, Late: 0.04, Conflict: 0.04, Unavailable: 0.03, Full: 0.02},
	})
}

// mayFail fails the test unless err is one that clients try again after.
func mayFail(t testing.TB, step int, bad bool, err error) {
	t.Helper()
	var ce *code.Error
	if !bad || !errors.As(err, &ce) || ce.Code != code.Unavailable && ce.Code != code.StorageFull {
		t.Fatalf("step %d: %v", step, err)
	}
}

// TestModel does random things to one direct conversation and a group through two
// services on one store, crashes included, and compares what each member sees with a
// plain model.
func TestModel(t *testing.T) {
	for name, open := range adapters {
		for _, bad := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, faults %v", name, bad), func(t *testing.T) {
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

func runModel(t *testing.T, seed uint64, store kv.Store, bad bool, steps int) {
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	faults := faultkv.Wrap(store, faultkv.Config{})
	if bad {
		faults = faulty(t, store, seed)
	}
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

	w.store = faults
	start := func() (*Service, *sequencer) {
		w.serve()
		w.seq.timeline = msgstore.NewTimeline(store, keys) // messages are stored well: theirs is another test
		w.seq.world = &world{t: t, ctx: w.ctx, store: store, clock: w.clock, ids: w.ids}
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
			batch := make([]packet.Pending, n)
			for j := range batch {
				counts := rng.IntN(4) > 0
				batch[j] = message("x")
				batch[j].From, batch[j].Conversation = o, conv
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
			for {
				a := newAnswers()
				for j := range batch {
					batch[j].Reply = a
				}
				svc.Send(slices.Clone(batch))
				got := a.wait(n)
				if err := got[n-1].err; err != nil {
					mayFail(t, step, bad, err)
					continue
				}
				if got[n-1].ack.Seq != uint64(len(log)) {
					t.Fatalf("step %d: %+v, want seq %d", step, got[n-1], len(log))
				}
				break
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
				mayFail(t, step, bad, err)
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
			if err != nil && !bad {
				t.Fatalf("step %d: %v", step, err)
			}
			if !bad {
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
				mayFail(t, step, bad, err)
				break
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
	faults.Calm()
	faults.Settle()
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
