package relay_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/relay"
)

// handle hands messages from..to of a group out.
func (w *world) handle(c id.ConversationID, from, to uint64) {
	w.t.Helper()
	var all []byte
	for seq := from; seq <= to; seq++ {
		all = append(all, message(seq)...)
	}
	if err := w.fan.Handle(context.Background(), []bus.Event{{Conversation: c, Epoch: 1, FirstSeq: from, LastSeq: to, Messages: all}}); err != nil {
		w.t.Fatal(err)
	}
}

// restart ends an edge and starts it again: its connections and all it knew are gone.
func (w *world) restart(e *edgeNode, owners ...*logicNode) {
	w.t.Helper()
	e.sessions.Close()
	e.Start = nodes.NewStart()
	w.begin(e)
	w.agree(owners...)
}

// joins connects a member and has it know what there is, as CONNECT does.
func (w *world) joins(e *edgeNode, c id.ConversationID, user id.UserID, device string) *phone {
	p := w.connect(e, user, device)
	p.mu.Lock()
	p.synced[c] = w.head(c)
	p.mu.Unlock()
	return p
}

// misses returns the messages of c that p has neither got nor was told to read, and should have.
func (w *world) misses(p *phone, c id.ConversationID) (missing []uint64) {
	w.mu.Lock()
	h := w.halls[c]
	w.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	for seq := p.synced[c] + 1; seq <= uint64(len(h.joined)); seq++ {
		member := h.after(seq)[p.user] || slices.Contains(h.left[seq-1], p.user)
		if member && !slices.Contains(p.got[c], seq) {
			missing = append(missing, seq)
		}
	}
	return missing
}

func TestAudienceOverEdges(t *testing.T) {
	w := newWorld(t)
	l := w.logic(0)
	es := []*edgeNode{w.edge(), w.edge(), w.edge()}
	w.fanout(nil)
	w.agree(l)
	w.settled()
	c := id.NewGroup()
	w.append(c, []id.UserID{"ann", "ben", "cat", "dan", "eve"}, nil)
	ann, ben, cat := w.joins(es[0], c, "ann", "phone"), w.joins(es[1], c, "ben", "phone"), w.joins(es[2], c, "cat", "phone")
	w.handle(c, 1, 1) // opens it
	if !w.fan.Large(c) {
		t.Fatal("the group has no audience")
	}
	for _, p := range []*phone{ann, ben, cat} {
		stands(t, "who is there", p, c, 1)
	}
	eventually(t, "the edges tell who there is", func() bool { return w.fan.edges.Audiences().Seats() == 3 })
	dan := w.joins(es[0], c, "dan", "phone")
	stranger := w.joins(es[0], c, "zoe", "phone")
	w.append(c, nil, []id.UserID{"ben"})
	w.append(c, nil, nil)
	w.handle(c, 2, 3)
	stands(t, "stays", ann, c, 1, 2, 3)
	stands(t, "came to the edge after the opening", dan, c, 2, 3)
	stands(t, "left with 2", ben, c, 1, 2)
	stands(t, "comes back later", cat, c, 1, 2, 3)

	// An edge starts anew, and those who come back to it are in the audience.
	w.restart(es[0], l)
	w.settled()
	ann = w.joins(es[0], c, "ann", "phone")
	w.append(c, []id.UserID{"ben"}, nil)
	w.handle(c, 4, 4)
	stands(t, "the edge is new", ann, c, 4)
	stands(t, "member again", ben, c, 1, 2, 4)
	stands(t, "another edge", cat, c, 1, 2, 3, 4)

	// An edge loses more than fits: it is filled again, and its members get a HINT.
	w.fault(es[2].ID, down)
	for range 20 {
		seq := w.append(c, nil, nil)
		w.handle(c, seq, seq)
	}
	es[2].box.SetView(w.logics[0]) // what it knew of fan-out's stream is gone
	es[2].see(t, w.list(l)[:2])
	es[2].box.SetView(es[2].Router)
	w.fault(es[2].ID, works)
	eventually(t, "told of what it wasn't sent", func() bool { return len(w.misses(cat, c)) == 0 })
	es[2].see(t, w.list(l))
	seq := w.append(c, nil, nil)
	w.handle(c, seq, seq)
	eventually(t, "filled again", func() bool { return slices.Contains(cat.seqs(c), seq) })

	// It shrinks, and ends at all edges.
	w.append(c, nil, []id.UserID{"cat", "dan", "eve", "ben"})
	w.handle(c, seq+1, seq+1)
	eventually(t, "it ends", func() bool {
		n := 0
		for _, e := range es {
			_, seats := e.box.Stats()
			n += seats
		}
		return !w.fan.Large(c) && n == 0 && w.fan.edges.Audiences().Seats() == 0
	})
	if got := stranger.seqs(c); len(got) > 0 {
		t.Errorf("somebody who is no member was sent %d", got)
	}
}

// Members of a large group, and of small ones, come, go, connect at three edges and leave, while edges start
// anew, can't be reached, freeze and lose answers, and slots move. Each device has every message that it should have once,
// or was told that there is something.
func TestEverybodyGetsEverything(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for round := range uint64(3) {
		t.Run(fmt.Sprint(round), func(t *testing.T) { t.Parallel(); play(t, rand.New(rand.NewPCG(seed, round))) })
	}
}

func play(t *testing.T, rng *rand.Rand) {
	w := newWorld(t)
	logics := []*logicNode{w.logic(0), w.logic(0), w.logic(0)}
	es := []*edgeNode{w.edge(), w.edge(), w.edge()}
	w.fanout(func(c *relay.EdgesConfig) { c.QueueBytes = 300 })
	owners := logics[:2]
	w.agree(owners...)
	w.settled()
	users := make([]id.UserID, 14)
	for i := range users {
		users[i] = id.UserID(fmt.Sprint("u", i))
	}
	groups := []id.ConversationID{id.NewGroup(), id.NewGroup()}
	w.append(groups[0], users[:10], nil)
	w.append(groups[1], users[:2], nil) // small
	var phones []*phone
	handled := map[id.ConversationID]uint64{}
	catchUp := func() {
		for _, c := range groups {
			if head := w.head(c); head > handled[c] {
				w.handle(c, handled[c]+1, head)
				handled[c] = head
			}
		}
	}
	for range 120 {
		switch rng.IntN(14) {
		case 0, 1, 2:
			e, u := es[rng.IntN(3)], users[rng.IntN(len(users))]
			w.mu.Lock()
			f := w.faults[e.ID]
			w.mu.Unlock()
			if f != works { // nobody gets as far as a CONNACK at an edge that is cut off
				continue
			}
			p := w.connect(e, u, fmt.Sprint("d", rng.IntN(3)))
			p.mu.Lock()
			for _, c := range groups {
				p.synced[c] = w.head(c)
			}
			p.mu.Unlock()
			phones = append(phones, p)
		case 3:
			if n := len(phones); n > 8 {
				phones[rng.IntN(n)].Close()
			}
		case 4:
			w.fault(es[rng.IntN(3)].ID, []fault{down, frozen, mute}[rng.IntN(3)])
		case 5, 6:
			w.fault(es[rng.IntN(3)].ID, works)
		case 7:
			if rng.IntN(3) > 0 {
				continue
			}
			e := es[rng.IntN(3)]
			for _, p := range phones {
				if p.edge == e {
					p.Close()
				}
			}
			w.fault(e.ID, works)
			w.restart(e, owners...)
		case 8:
			if rng.IntN(3) == 0 {
				owners = logics[rng.IntN(2) : 2+rng.IntN(2)]
				if rng.IntN(2) == 0 {
					w.agree(owners...)
				} else {
					w.knowing(w.list(owners...)) // the edges learn of it later
				}
			}
		default:
			c := groups[rng.IntN(4)/3]
			var joined, left []id.UserID
			if rng.IntN(3) == 0 {
				u := users[rng.IntN(len(users))]
				w.mu.Lock()
				switch h := w.halls[c]; {
				case !h.in[u] && (c == groups[0] || len(h.in) < 3):
					joined = append(joined, u)
				case h.in[u] && len(h.in) > 2:
					left = append(left, u)
				}
				w.mu.Unlock()
			}
			w.append(c, joined, left)
			if rng.IntN(2) == 0 {
				catchUp()
			}
		}
	}
	for _, e := range es {
		w.fault(e.ID, works)
	}
	w.agree(owners...)
	w.settled()
	catchUp()
	for _, c := range groups {
		for _, p := range phones {
			eventually(t, fmt.Sprintf("%s at %s (%x, told to look at all %d times) misses %d of %s, has %d", p.user, p.edge.ID, p.c.Incarnation(), p.hinted(), w.misses(p, c), c, p.seqs(c)), func() bool {
				_, ended := p.why()
				return ended || len(w.misses(p, c)) == 0
			})
			got := p.seqs(c)
			slices.Sort(got)
			if len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Errorf("%s was sent something twice: %d", p.user, got)
			}
			w.mu.Lock()
			for _, seq := range got {
				h := w.halls[c]
				if !h.after(seq)[p.user] && !slices.Contains(h.left[seq-1], p.user) {
					t.Errorf("%s was sent %d and was no member", p.user, seq)
				}
			}
			w.mu.Unlock()
		}
	}
}
