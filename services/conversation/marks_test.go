package conversation

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/id"
)

// copyOf is what a device knows: conversations as it was told of them, and a sync mark.
type copyOf struct {
	user id.UserID
	mark uint64
	told map[id.ConversationID]string
}

func told(s *wire.ConversationState) string {
	return fmt.Sprintf("last %d of %d, read %d received %d, peer %d %d, unread %d mentions %d, pinned %v muted %v hidden %v",
		s.LastSeq, s.FirstSeq, s.ReadSeq, s.RecvSeq, s.PeerReadSeq, s.PeerRecvSeq, s.Unread, s.Mentions, s.Pinned, s.Muted, s.Hidden)
}

// sync reads what changed since the mark, through any of the services, each page of any
// size; between happens between two pages.
func (d *copyOf) sync(rng *rand.Rand, worlds []*world, between func()) {
	w := worlds[0]
	w.t.Helper()
	var mark uint64
	for cursor, first := "", true; ; first = false {
		w = worlds[rng.IntN(len(worlds))]
		states, next, m, err := w.svc.Inbox(w.ctx, alive(d.user), d.mark, cursor, 1+rng.IntN(5))
		if err != nil {
			w.t.Fatal(err)
		}
		if !first && m != mark {
			w.t.Fatalf("mark %d on the first page, %d on a later one", mark, m)
		}
		mark = m
		for _, s := range states {
			d.told[id.ConversationID(s.ConversationId)] = told(s)
		}
		if cursor = next; cursor == "" {
			break
		}
		between()
	}
	d.mark = mark
}

// Three services on one store whose clocks are up to 40 s apart: whoever comes back with
// a mark, whosever it is, learns of all that changed, however it moves while pages are read.
func TestMarksWithClocksApart(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	store := memory.New(memory.Config{})
	var worlds []*world
	for _, apart := range []int64{0, 40_000, -15_000} {
		w := newWorld(t, store)
		w.clock.Add(apart)
		worlds = append(worlds, w)
	}
	users := []id.UserID{"ann", "ben", "cat", "dan", "eve", "fay", "gus", "hal"}
	var convs []id.ConversationID
	pairs := map[id.ConversationID][2]id.UserID{}
	act := func() {
		w := worlds[rng.IntN(len(worlds))]
		a, b := users[rng.IntN(len(users))], users[rng.IntN(3)]
		conv := id.Direct(a, b)
		if _, ok := pairs[conv]; !ok || rng.IntN(4) == 0 {
			if !ok {
				convs = append(convs, conv)
				pairs[conv] = [2]id.UserID{a, b}
			}
			w.say(a, b, 1+rng.IntN(3))
			return
		}
		var err error
		switch rng.IntN(4) {
		case 0:
			_, _, err = w.svc.Read(w.ctx, alive(a), conv, rng.Uint64N(20))
		case 1:
			w.svc.Received(alive(a), conv, rng.Uint64N(20))
			err = w.svc.Flush(w.ctx)
		default:
			_, err = w.set(a, conv, wire.SettingsRequest{Fields: 1 + rng.Uint32N(7), Pinned: rng.IntN(2) == 0, Muted: rng.IntN(2) == 0, Hidden: rng.IntN(2) == 0})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var devices []*copyOf
	for _, u := range users[:3] {
		for range 3 {
			devices = append(devices, &copyOf{user: u, told: map[id.ConversationID]string{}})
		}
	}
	for step := range 1500 {
		for range rng.IntN(4) {
			act()
		}
		pass := rng.Int64N(20_000)
		for _, w := range worlds {
			w.clock.Add(pass)
		}
		d := devices[rng.IntN(len(devices))]
		d.sync(rng, worlds, func() {
			if rng.IntN(3) == 0 {
				act()
			}
		})
		d.sync(rng, worlds, func() {}) // what moved meanwhile
		for _, conv := range convs {
			if p := pairs[conv]; p[0] != d.user && p[1] != d.user {
				continue
			}
			w := worlds[rng.IntN(len(worlds))]
			st, err := w.svc.State(w.ctx, alive(d.user), conv)
			if err != nil {
				t.Fatal(err)
			}
			got, ok := d.told[conv]
			if want := told(st); got != want && (ok || !st.Hidden) {
				t.Fatalf("step %d: %s was told of %v: %s\nit is %s", step, d.user, pairs[conv], got, want)
			}
		}
	}
}
