package node

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// hasAll waits until the device has exactly the messages of its user's stays up to last.
func (a *actor) hasAll(ctx context.Context, conv id.ConversationID, stays []msgstore.Interval, last uint64) {
	a.t.Helper()
	var want []uint64
	for _, s := range stays {
		to := last
		if s.Left != 0 {
			to = min(to, s.Left)
		}
		for seq := s.Joined; seq <= to; seq++ {
			want = append(want, seq)
		}
	}
	a.until(ctx, func() string {
		a.mu.Lock()
		defer a.mu.Unlock()
		if got := a.got[conv]; !slices.Equal(got, want) {
			return fmt.Sprintf("%v has %v, want %v (stays %v)", a, got, want, stays)
		}
		return ""
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.wrong != nil {
		a.t.Error(a.wrong)
	}
}

// A group grows beyond the threshold and shrinks below it, again and again, while people
// join, leave, come again, write, lose their connections, close their clients and open them. Every device
// has, in order, exactly the messages of its user's stays.
func TestAGroupBecomesLargeAndSmall(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newTown(t, func(c *Config, _ *Program) {
		c.Fanout.LargeGroup, c.Fanout.AudienceIdle = 4, time.Second
		c.Limits.SendsPerSecond, c.Limits.UserSendsPerSecond = 1000, 1000
	}, "owner")
	n := w.node
	const people = 9
	var names []id.UserID
	for i := range people {
		names = append(names, id.UserID(fmt.Sprint("u", i)))
	}
	registerAll(t, n, names...)
	ctx := w.ctx
	owner := w.device("owner", "desk")
	made, err := owner.CreateGroup(ctx, gochat.NewGroup{Name: "crowd", Open: true})
	w.must(err)
	conv := made.Conversation
	tell := func(text string) uint64 {
		t.Helper()
		ack, err := owner.tells(conv, text)
		w.must(err)
		return ack.Seq
	}

	phones, stays := make([]*actor, people), make([][]msgstore.Interval, people)
	for i, name := range names {
		phones[i] = newActor(t, n, w.data, name, "phone")
		t.Cleanup(phones[i].offline)
		phones[i].online(ctx)
	}
	in := func(i int) bool { return len(stays[i]) > 0 && stays[i][len(stays[i])-1].Left == 0 }
	desks := make([]*listener, people)
	for i, name := range names {
		desks[i] = w.device(string(name), "desk")
	}
	join := func(i int) {
		c, err := desks[i].JoinGroup(ctx, conv)
		w.must(err)
		stays[i] = append(stays[i], msgstore.Interval{Joined: c.Seq})
	}
	leave := func(i int) {
		c, err := desks[i].LeaveGroup(ctx, conv)
		w.must(err)
		stays[i][len(stays[i])-1].Left = c.Seq
	}
	settle := func() {
		t.Helper()
		last := tell("so far")
		for i, p := range phones {
			p.online(ctx)
			p.hasAll(ctx, conv, stays[i], last)
		}
	}
	for wave := range 3 {
		var wg sync.WaitGroup
		for i := range people {
			rnd := rand.New(rand.NewPCG(seed, uint64(wave*100+i)))
			wg.Go(func() { // everybody at once; each knows their own stays
				for step := range 8 {
					switch op := rnd.IntN(10); {
					case !in(i) && op < 6:
						join(i)
					case in(i) && op < 2:
						leave(i)
					case in(i) && op < 6:
						for k := range 1 + rnd.IntN(5) {
							if _, err := desks[i].tells(conv, fmt.Sprint(i, step, k)); err != nil {
								t.Error(err)
							}
						}
					case op == 6:
						phones[i].offline()
					case op == 7:
						phones[i].online(ctx)
					default:
						phones[i].cut()
					}
				}
				if !in(i) {
					join(i)
				}
			})
		}
		wg.Wait()
		settle() // all ten are in
		if s := n.fanout.Stats(); s.Audiences != 1 || s.Opened < uint64(wave+1) {
			t.Errorf("wave %d: a group of ten has no audience: %+v", wave, s)
		}
		if wave == 1 { // nothing is said for a while
			idle := n.fanout.Stats().Opened
			for n.fanout.Stats().Audiences > 0 {
				select {
				case <-ctx.Done():
					t.Fatal("an idle audience stays open")
				case <-time.After(20 * time.Millisecond):
				}
			}
			if n.edge.Hub.Audiences().Seats() != 0 {
				t.Errorf("%d seats without an audience", n.edge.Hub.Audiences().Seats())
			}
			settle()
			if s := n.fanout.Stats(); s.Audiences != 1 || s.Opened != idle+1 {
				t.Errorf("not opened again: %+v", s)
			}
		}
		for i := range people {
			wg.Go(func() { leave(i) })
		}
		wg.Wait()
		settle() // nobody but the owner
		if s := n.fanout.Stats(); s.Audiences != 0 {
			t.Errorf("wave %d: a group of one has an audience: %+v", wave, s)
		}
	}
}

// Above its budget a group's members are told that there is something new and fetch it:
// all of them have everything, whether the group is large or small.
func TestABudgetOfDeliveries(t *testing.T) {
	for _, large := range []int{4, 500} {
		t.Run(fmt.Sprint("large from ", large), func(t *testing.T) {
			const people, messages = 6, 120
			w := newTown(t, func(c *Config, _ *Program) {
				c.Fanout.LargeGroup, c.Fanout.DeliveriesPerSecond = large, 6
				c.Limits.SendsPerSecond, c.Limits.UserSendsPerSecond = 1000, 1000
			}, "owner", "u0", "u1", "u2", "u3", "u4", "u5")
			owner := w.device("owner", "desk")
			var users []id.UserID
			var phones []*actor
			for i := range people {
				users = append(users, id.UserID(fmt.Sprint("u", i)))
				phones = append(phones, newActor(t, w.node, w.data, users[i], "phone"))
				t.Cleanup(phones[i].offline)
				phones[i].online(w.ctx)
			}
			made, err := owner.CreateGroup(w.ctx, gochat.NewGroup{Name: "loud", Users: users})
			w.must(err)
			var last uint64
			for i := range messages {
				ack, err := owner.tells(made.Conversation, fmt.Sprint(i))
				w.must(err)
				last = ack.Seq
			}
			for _, p := range phones {
				p.hasAll(w.ctx, made.Conversation, []msgstore.Interval{{Joined: made.Seq}}, last)
			}
			s := w.node.fanout.Stats()
			if s.Hinted == 0 || (s.Opened > 0) != (large < people) {
				t.Errorf("%+v", s)
			}
			// A burst and what came back of it since: copies are a part of what there was to deliver.
			if s.Delivered >= people*messages {
				t.Errorf("%d frames were delivered in spite of the budget", s.Delivered)
			}
		})
	}
}
