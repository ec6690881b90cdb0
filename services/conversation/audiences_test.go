package conversation

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// listed are audiences that note who is said to have connected.
type listed struct {
	large id.ConversationID
	asked []id.ConversationID
	then  func()
	fail  error
}

func (l *listed) Connected(_ context.Context, _ id.UserID, convs []id.ConversationID) error {
	l.asked = append(l.asked, convs...)
	l.then()
	return l.fail
}

func (l *listed) Large(conv id.ConversationID) bool { return conv == l.large }

// Audiences hear of a connection between the list of its user's conversations and their
// heads, once: what is stored after that is delivered, and what was before stands in the heads.
func TestAudiencesHearOfConnections(t *testing.T) {
	store := memory.New(memory.Config{Seed: 1})
	t.Cleanup(func() { store.Close() })
	w := newWorld(t, store)
	large := w.group(1, map[id.UserID][]msgstore.Interval{"alice": {{Joined: 1}}, "bob": {{Joined: 1}}})
	small := w.group(2, map[id.UserID][]msgstore.Interval{"alice": {{Joined: 1}}})
	w.append(small, "alice", "one", true)
	w.clock.Add(1000) // the large one is the first of the list
	w.append(large, "bob", "one", true)
	as := &listed{large: large, then: func() { w.append(large, "bob", "just now", true) }}
	w.svc.BindAudiences(as)
	states, next, _, err := w.svc.Inbox(w.ctx, alive("alice"), 0, "", 1)
	if err != nil || len(states) != 1 || next == "" {
		t.Fatalf("%v, %q, %v", states, next, err)
	}
	if states[0].LastSeq != 3 || [16]byte(states[0].ConversationId) != large {
		t.Errorf("the heads were read before audiences were asked: %+v", states[0])
	}
	if len(as.asked) != 2 || !slices.Contains(as.asked, large) || !slices.Contains(as.asked, small) {
		t.Errorf("asked about %v", as.asked)
	}
	if _, _, _, err := w.svc.Inbox(w.ctx, alive("alice"), 0, next, 1); err != nil || len(as.asked) != 2 {
		t.Errorf("asked about %v, %v: a later page is no new connection", as.asked, err)
	}
	as.fail = errors.New("who is a member can't be read")
	_, _, _, err = w.svc.Inbox(w.ctx, alive("alice"), 0, "", 1)
	wantCode(t, err, code.Unavailable)

	// What devices of a large group have received isn't stored.
	as.fail = nil
	for _, conv := range []id.ConversationID{large, small} {
		w.svc.Received(alive("alice"), conv, 1)
	}
	if err := w.svc.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	for conv, want := range map[id.ConversationID]uint64{large: 0, small: 1} {
		st, err := w.svc.State(w.ctx, alive("alice"), conv)
		if err != nil || st.RecvSeq != want {
			t.Errorf("received %d of %s, %v, want %d", st.GetRecvSeq(), conv, err, want)
		}
	}
}
