//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/tools/cluster/local"
)

// history returns all that p sees of a conversation, the first message first, and fails if it has gaps.
func (p *person) history(ctx context.Context, conv id.ConversationID) (all []string) {
	p.t.Helper()
	var list []gochat.Message
	for before, more := uint64(0), true; more; {
		page, left, err := p.client.History(ctx, conv, before, 100)
		if err != nil {
			p.t.Fatalf("%s reads %s: %v", p.name, conv, err)
		}
		if more = left && len(page) > 0; len(page) > 0 {
			list, before = append(slices.Clone(page), list...), page[0].Seq
		}
	}
	for i, m := range list {
		if m.Seq != list[0].Seq+uint64(i) {
			p.t.Fatalf("%s sees message %d in the place of %d", p.name, m.Seq, list[0].Seq+uint64(i))
		}
		all = append(all, fmt.Sprintf("%d %d %s %s", m.Seq, m.ID, m.Sender, m.Text))
	}
	return all
}

// heard waits until p was brought message seq of conv.
func (p *person) heard(conv id.ConversationID, seq uint64) {
	p.t.Helper()
	p.until(fmt.Sprintf("message %d", seq), time.Minute, func() bool {
		return slices.ContainsFunc(p.received[conv], func(m gochat.Message) bool { return m.Seq == seq })
	})
}

// say sends a text and returns its seq.
func (p *person) say(ctx context.Context, to gochat.Target, text string) uint64 {
	p.t.Helper()
	r, err := p.client.Send(ctx, to, gochat.Text(text))
	if err == nil {
		var ack gochat.Ack
		if ack, err = r.Wait(ctx); err == nil {
			return ack.Seq
		}
	}
	p.t.Fatalf("%s says %q: %v", p.name, text, err)
	return 0
}

// Every node of a cluster is stopped and started again, one after the other, while people at both edges talk. Nobody notices: each
// message is there once, in the same place for all, and has been brought to everybody; who was away catches up; what is read and unread is the same on all devices.
func TestEveryNodeRestarts(t *testing.T) {
	s := newCluster(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	alice, bob, carol := signUp(s, "alice"), signUp(s, "bob"), signUp(s, "carol")
	if alice.tcp == bob.tcp {
		t.Fatal("alice and bob are at one edge")
	}
	kept := gochat.NewMemoryStore()
	alice.connect(gochat.NewMemoryStore())
	bob.connect(gochat.NewMemoryStore())
	carol.connect(kept)
	made, err := alice.client.CreateGroup(ctx, gochat.NewGroup{Name: "all", Users: []id.UserID{"bob", "carol"}})
	if err != nil {
		t.Fatal(err)
	}
	group, direct := made.Conversation, id.Direct("alice", "bob")
	carol.heard(group, alice.say(ctx, gochat.ToConversation(group), "welcome"))
	_ = carol.client.Close() // she will be back

	stop := make(chan struct{})
	var talk sync.WaitGroup
	sent := map[*person]int{}
	for _, p := range []*person{alice, bob} {
		peer := map[*person]id.UserID{alice: "bob", bob: "alice"}[p]
		talk.Go(func() { // ends with stop
			n := 0
			defer func() { p.mu.Lock(); sent[p] = n; p.mu.Unlock() }()
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, to := range []gochat.Target{gochat.ToUser(peer), gochat.ToConversation(group)} {
					r, err := p.client.Send(ctx, to, gochat.Text(fmt.Sprint(n, " of ", p.name)))
					if err == nil {
						_, err = r.Wait(ctx)
					}
					if err != nil {
						t.Errorf("%s, message %d: %v", p.name, n, err)
						return
					}
				}
				n++
			}
		})
	}
	for _, role := range local.Roles {
		for _, node := range s.nodes.Nodes(role) {
			began := time.Now()
			if err := node.Restart(ctx); err != nil {
				t.Error(err)
			}
			t.Logf("%s is back after %s", node.Name, time.Since(began).Round(time.Millisecond))
		}
	}
	close(stop)
	talk.Wait()
	if t.Failed() {
		return
	}

	carol.connect(kept)
	lastDirect, lastGroup := bob.say(ctx, gochat.ToUser("alice"), "the end"), bob.say(ctx, gochat.ToConversation(group), "the end")
	alice.heard(direct, lastDirect)
	alice.heard(group, lastGroup)
	bob.heard(direct, lastDirect)
	carol.heard(group, lastGroup)
	total := sent[alice] + sent[bob]
	t.Logf("%d messages to each of two conversations", total)
	for _, c := range []struct {
		conv   id.ConversationID
		people []*person
		said   int // texts that people wrote
		last   uint64
	}{{direct, []*person{alice, bob}, total + 1, lastDirect}, {group, []*person{alice, bob, carol}, total + 2, lastGroup}} {
		first := c.people[0].history(ctx, c.conv)
		for _, p := range c.people {
			own := p.history(ctx, c.conv)
			if len(own) > len(first) || !slices.Equal(first[len(first)-len(own):], own) || len(own) < c.said {
				t.Errorf("%s and %s see different histories, of %d and %d messages; %d were sent", c.people[0].name, p.name, len(first), len(own), c.said)
			}
			p.mu.Lock()
			seen := map[uint64]int{}
			for _, m := range p.received[c.conv] {
				seen[m.Seq]++
			}
			p.mu.Unlock()
			for seq := c.last - uint64(c.said) + 1; seq <= c.last; seq++ {
				if seen[seq] != 1 {
					t.Errorf("%s was brought message %d of %s %d times", p.name, seq, c.conv, seen[seq])
				}
			}
		}
	}

	// Another device of bob's, at the other edge: what it reads is read on all.
	desk := &person{t: t, s: s, name: "bob", tcp: alice.tcp, http: alice.http, received: map[id.ConversationID][]gochat.Message{}, wake: make(chan struct{})}
	if err := desk.post("login", auth.Credentials{Name: "bob", Password: "password of bob", DeviceID: "desk"}, &desk.grant); err != nil {
		t.Fatal(err)
	}
	moved := make(chan gochat.CursorsMoved, 100)
	other, err := gochat.Open(gochat.Config{Address: desk.tcp, Token: desk.token, Device: "desk", Handler: func(e gochat.Event) {
		if m, ok := e.(gochat.CursorsMoved); ok && m.Own && m.Conversation == direct {
			moved <- m
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Connected(ctx); err != nil {
		t.Fatal(err)
	}
	seq := alice.say(ctx, gochat.ToUser("bob"), "have you read this?")
	if c, err := other.Conversation(ctx, direct); err != nil || c.Unread == 0 {
		t.Errorf("unread at bob's desk: %d, %v", c.Unread, err)
	}
	if read, unread, err := bob.client.MarkRead(ctx, direct, seq); err != nil || read != seq || unread != 0 {
		t.Errorf("bob has read up to %d, want %d; %d unread, %v", read, seq, unread, err)
	}
	for m := (gochat.CursorsMoved{}); m.ReadSeq < seq; {
		select {
		case m = <-moved:
		case <-ctx.Done():
			t.Fatal("bob's desk wasn't told what was read on his phone")
		}
	}
	inbox, err := other.Inbox(ctx)
	at := slices.IndexFunc(inbox, func(c gochat.Conversation) bool { return c.ID == direct })
	if err != nil || at < 0 || inbox[at].Unread != 0 || inbox[at].LastSeq != seq {
		t.Errorf("the inbox at bob's desk: %+v, %v", inbox, err)
	}
	s.check()
}
