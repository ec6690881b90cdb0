package timeline

import (
	"context"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func refused(p packet.Pending, e *code.Error) packet.Pending {
	p.Refusal = e
	return p
}

// What was judged before it came here counts for new messages only: one that is stored is
// acked, whatever is thought of it by now. A refusal that may be tried again shuts the lane.
func TestMessagesThatWereJudgedBefore(t *testing.T) {
	store := newMemory(t)
	conv := id.Direct("alice", "bob")
	create(t, store, conv, nowMs())
	s, _ := start(t, config(store))
	alice := newSender("alice", 1)
	send := func(ps ...packet.Pending) { s.Append(conv, ps) }

	first := alice.text(id.NewClientMsgID(nowMs()), "a")
	changed := alice.text(id.NewClientMsgID(nowMs()), "damn")
	hash := changed.BodyHash
	again := resend(changed) // as the client sends it
	if err := changed.ReplaceContent("d***"); err != nil {
		t.Fatal(err)
	}
	send(first, changed)
	alice.expect(t, "1:seq=1", "2:seq=2")
	no := code.New(code.Forbidden)
	send(refused(resend(first), no), refused(again, no), refused(alice.text(id.NewClientMsgID(nowMs()), "spam"), no))
	alice.expect(t, "1:dup=1", "2:dup=2", "3:forbidden")
	if got := messages(t, store, conv); len(got) != 2 || string(got[1].Content) != "d***" {
		t.Fatalf("stored %v", got)
	}
	if es, err := msgstore.NewTimeline(store, keys).IDs(context.Background(), conv, msgstore.IDSecondOf(again.ClientMsgID.UnixMilli())); err != nil || es[len(es)-1].Body != hash {
		t.Errorf("the id's row doesn't hold what the client sent: %+v, %v", es, err)
	}

	away := code.New(code.Unavailable)
	fourth, fifth := alice.text(id.NewClientMsgID(nowMs()), "d"), alice.text(id.NewClientMsgID(nowMs()), "e")
	send(refused(resend(first), away), refused(fourth, away), fifth)
	alice.expect(t, "1:dup=1", "4:unavailable", "5:lane_blocked")
	send(resend(fourth), resend(fifth))
	alice.expect(t, "4:seq=3", "5:seq=4")
	audit(t, store, conv)
}

// Two owners of one conversation: a rule that changed is heeded by the other one too, from
// the moment on at which its change is answered, whoever answers.
func TestARuleThatLiesElsewhereHoldsForEveryOwner(t *testing.T) {
	store := newMemory(t)
	conv := id.Direct("alice", "bob")
	create(t, store, conv, nowMs())
	var mu sync.Mutex
	blocked := false
	cfg := config(store)
	cfg.Guard = guardFunc(func() Rules {
		mu.Lock()
		defer mu.Unlock()
		now := blocked
		return rulesFunc(func(p *packet.Pending) *code.Error {
			if now && p.From.User == "bob" {
				return code.New(code.Forbidden)
			}
			return nil
		})
	})
	here, _ := start(t, cfg)
	cfg.Bus, cfg.Worker = &storeBus{}, 4
	there, _ := start(t, cfg)
	bob := newSender("bob", 1)
	seq := uint64(0)
	for round := range 40 {
		on := round%2 == 0
		for _, s := range []*Sequencer{here, there} { // both have it in memory, by the rules until now
			s.Append(conv, []packet.Pending{bob.text(id.NewClientMsgID(nowMs()), "x")})
			if a := bob.hear(t, 1)[0]; (a.err == nil) != on {
				t.Fatalf("round %d: %s", round, a)
			} else if a.err == nil {
				seq = a.ack.Seq
			}
		}
		mu.Lock()
		blocked = on
		mu.Unlock()
		if _, err := here.Change(context.Background(), conv, func(context.Context, msgstore.Head) (*Change, error) { return &Change{}, nil }); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*Sequencer{there, here} {
			s.Append(conv, []packet.Pending{bob.text(id.NewClientMsgID(nowMs()), "y")})
			if a := bob.hear(t, 1)[0]; (a.err == nil) == on {
				t.Fatalf("round %d, after the change: %s", round, a)
			} else if a.err == nil {
				seq = a.ack.Seq
			}
		}
	}
	if got := messages(t, store, conv); uint64(len(got)) != seq {
		t.Errorf("%d messages are stored, the last ack was %d", len(got), seq)
	}
	audit(t, store, conv)
}

// guardFunc gives the rules as of now.
type guardFunc func() Rules

func (f guardFunc) Rules(context.Context, id.ConversationID) (Rules, error) { return f(), nil }
