package conversation

import (
	"cmp"
	"fmt"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// inbox reads all pages.
func (w *world) inbox(u id.UserID, mark uint64, limit int) (all []*wire.ConversationState, newMark uint64) {
	w.t.Helper()
	for cursor := ""; ; {
		states, next, m, err := w.svc.Inbox(w.ctx, alive(u), mark, cursor, limit)
		if err != nil {
			w.t.Fatal(err)
		}
		if newMark != 0 && m != newMark {
			w.t.Fatalf("mark %d on the first page, %d on a later one", newMark, m)
		}
		newMark = m
		all = append(all, states...)
		if next == "" {
			return all, newMark
		}
		cursor = next
		w.clock.Add(1) // the mark is that of the first page
	}
}

func peers(u id.UserID, states []*wire.ConversationState) []string {
	out := []string{}
	for _, s := range states {
		for _, p := range s.Users {
			if p != string(u) {
				out = append(out, p)
			}
		}
	}
	return out
}

func TestInbox(t *testing.T) {
	for name, open := range adapters {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, open(t))
			for i := range 7 {
				w.clock.Add(1000)
				w.say(id.UserID(fmt.Sprint("u", i)), "me", i+1)
			}
			w.clock.Add(1000)
			w.say("me", "u2", 1)
			// Opened, but nothing was said: not listed for either.
			if _, err := w.svc.OpenDirect(w.ctx, alive("me"), "silent"); err != nil {
				t.Fatal(err)
			}
			w.clock.Add(1000) // what comes in the millisecond of the first page is told again
			want := []string{"u2", "u6", "u5", "u4", "u3", "u1", "u0"}
			for _, limit := range []int{0, 1, 2, 3, 7, 100} {
				states, _ := w.inbox("me", 0, limit)
				if got := peers("me", states); !slices.Equal(got, want) {
					t.Fatalf("limit %d: %v, want %v", limit, got, want)
				}
			}
			states, _ := w.inbox("me", 0, 0)
			conv := id.Direct("me", "u2")
			st := states[0]
			if st.LastSeq != 4 || st.Unread != 3 || st.ReadSeq != 0 || st.FirstSeq != 1 || st.JoinedSeq != 1 || st.LeftSeq != 0 ||
				!slices.Equal(st.ConversationId, conv[:]) || st.LastTime != start+8000 || !slices.Equal(st.Users, []string{"me", "u2"}) ||
				st.Preview == nil || st.Preview.Seq != 4 || st.Preview.SenderId != "me" || st.Preview.Text != "m1" || st.Preview.MsgType != 1 {
				t.Fatalf("state %+v preview %+v", st, st.Preview)
			}
			if states, _ := w.inbox("silent", 0, 0); len(states) != 0 {
				t.Fatalf("silent has %v", states)
			}
			if _, _, _, err := w.svc.Inbox(w.ctx, alive("me"), 0, "nonsense", 0); err == nil {
				t.Fatal("a cursor of nobody's was taken")
			} else {
				wantCode(t, err, code.BadRequest)
			}
		})
	}
}

// With a mark come those whose head, cursor, peer's cursor or own row changed since.
func TestInboxSinceMark(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	convs := map[string]id.ConversationID{}
	for _, p := range []string{"head", "mine", "theirs", "side", "still"} {
		convs[p] = w.say(id.UserID(p), "me", 2).Conversation
	}
	w.clock.Add(10 * markMargin)
	_, mark := w.inbox("me", 0, 0)
	if want := uint64(w.clock.Load() - markMargin); mark != want { // one page
		t.Fatalf("mark %d, want %d", mark, want)
	}
	if states, _ := w.inbox("me", mark, 0); len(states) != 0 {
		t.Fatalf("nothing changed, but %v", peers("me", states))
	}
	w.clock.Add(1000)
	w.say("head", "me", 1)
	if _, _, err := w.svc.Read(w.ctx, alive("me"), convs["mine"], 1); err != nil {
		t.Fatal(err)
	}
	w.svc.Received(alive("theirs"), convs["theirs"], 2)
	if err := w.svc.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	tx := new(kv.Tx)
	w.svc.inbox.Put(tx, "me", convs["side"], &msgstore.UserSide{Pinned: true, Muted: true, Changed: w.clock.Load()})
	w.commit(tx)

	states, again := w.inbox("me", mark, 2)
	got := peers("me", states)
	slices.Sort(got)
	got = slices.Compact(got) // what came in the millisecond of the first page is told again
	if want := []string{"head", "mine", "side", "theirs"}; !slices.Equal(got, want) {
		t.Fatalf("changed %v, want %v", got, want)
	}
	for _, st := range states {
		switch string(st.ConversationId) {
		case string(bytesOf(convs["side"])):
			if !st.Pinned || !st.Muted {
				t.Errorf("side: %+v", st)
			}
		case string(bytesOf(convs["theirs"])):
			if st.PeerRecvSeq != 2 || st.PeerReadSeq != 0 {
				t.Errorf("theirs: %+v", st)
			}
		}
	}
	// The mark lies back, so within the margin the same is told again: harmless.
	if states, _ := w.inbox("me", again, 0); len(states) != 4 {
		t.Fatalf("within the margin: %v", peers("me", states))
	}
	w.clock.Add(10 * markMargin)
	_, later := w.inbox("me", again, 0)
	if states, _ := w.inbox("me", later, 0); len(states) != 0 {
		t.Fatalf("long after: %v", peers("me", states))
	}
}

func bytesOf(c id.ConversationID) []byte { return c[:] }

// A row that belongs to nothing, a hidden conversation and one that was left.
func TestInboxSides(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	conv := w.say("alice", "bob", 3).Conversation
	left := w.group(5, map[id.UserID][]msgstore.Interval{"bob": {{Joined: 1, Left: 4}}})
	never := w.group(5, map[id.UserID][]msgstore.Interval{"alice": {{Joined: 1}}})
	tx := new(kv.Tx)
	w.svc.inbox.Put(tx, "bob", id.Direct("bob", "crashed"), &msgstore.UserSide{Changed: start})
	w.svc.inbox.Put(tx, "bob", conv, &msgstore.UserSide{HiddenSeq: 3, Changed: start})
	w.svc.inbox.Put(tx, "bob", left, &msgstore.UserSide{Tombstone: true, AsOfSeq: 4, Changed: start})
	w.svc.inbox.Put(tx, "bob", never, &msgstore.UserSide{Changed: start})
	w.commit(tx)
	if states, _ := w.inbox("bob", 0, 0); len(states) != 0 {
		t.Fatalf("listed: %v", states)
	}
	states, _ := w.inbox("bob", 1, 0) // a device that was away is told of the leaving, and of the hiding
	slices.SortFunc(states, func(a, b *wire.ConversationState) int { return cmp.Compare(a.LeftSeq, b.LeftSeq) })
	if len(states) != 2 || states[1].LeftSeq != 4 || states[1].Preview != nil || states[1].Unread != 4 || !states[0].Hidden || states[0].LastSeq != 3 {
		t.Fatalf("listed: %v", states)
	}
	w.say("alice", "bob", 1) // shows again
	if states, _ := w.inbox("bob", 0, 0); len(states) != 1 || states[0].LastSeq != 4 {
		t.Fatalf("listed: %v", states)
	}
}

func TestOpenDirect(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	w.users.gone["ghost"] = true
	st, err := w.svc.OpenDirect(w.ctx, alive("alice"), "bob")
	if err != nil || st.LastSeq != 0 || st.FirstSeq != 1 || st.LastTime != 0 || st.Preview != nil || !slices.Equal(st.Users, []string{"alice", "bob"}) {
		t.Fatalf("%+v %v", st, err)
	}
	w.say("bob", "alice", 2)
	if st, err = w.svc.OpenDirect(w.ctx, alive("alice"), "bob"); err != nil || st.LastSeq != 2 || st.Unread != 2 {
		t.Fatalf("%+v %v", st, err)
	}
	_, err = w.svc.OpenDirect(w.ctx, alive("alice"), "ghost")
	wantCode(t, err, code.NoSuchUser)
	_, err = w.svc.OpenDirect(w.ctx, alive("alice"), "")
	wantCode(t, err, code.BadRequest)
}

// The beginning of an image's JSON isn't shown to anybody.
func TestPreviewOfWhatIsNoText(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	w.say("alice", "me", 1)
	conv := id.Direct("alice", "me")
	for typ, want := range map[uint32]string{1: "m1", 2: "", 3: "", 4: "", 5: "", 6: "m1", 1000: "m1"} {
		h, _, err := w.seq.timeline.Head(w.ctx, conv)
		if err != nil {
			t.Fatal(err)
		}
		h.PreviewType = typ
		tx := new(kv.Tx)
		tx.Set(w.svc.cfg.Keys.Head(nil, conv), h.Append(nil))
		w.commit(tx)
		states, _ := w.inbox("me", 0, 0)
		if p := states[0].Preview; p == nil || p.Text != want || p.MsgType != typ || p.Seq != 1 {
			t.Errorf("type %d: preview %+v", typ, p)
		}
	}
}
