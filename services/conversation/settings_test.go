package conversation

import (
	"fmt"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/faultkv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// devices are connections by user, and what was pushed to them.
type devices struct {
	conns map[id.UserID][]uint64
	got   []string
}

func (d *devices) Reaches(user id.UserID, but uint64) bool {
	return slices.ContainsFunc(d.conns[user], func(c uint64) bool { return c != but })
}

func (d *devices) PushLazily(user id.UserID, but uint64, s *wire.Signal) { d.Push(user, but, s) }

func (d *devices) Push(user id.UserID, but uint64, s *wire.Signal) {
	line := fmt.Sprintf("to %s but %d, of %s:", user, but, s.SenderId)
	switch s.Kind {
	case packet.SignalCursors:
		c, err := packet.DecodeCursors(s.Data)
		line += fmt.Sprintf(" read %d received %d, %d and %d of %d, %v", c.GetReadSeq(), c.GetRecvSeq(), c.GetUnread(), c.GetMentions(), c.GetLastSeq(), err)
	case packet.SignalState:
		st, err := packet.DecodeState(s.Data)
		line += fmt.Sprintf(" pinned %v muted %v hidden %v, %v", st.GetPinned(), st.GetMuted(), st.GetHidden(), err)
	}
	d.got = append(d.got, line)
}

func (d *devices) take() []string {
	got := d.got
	d.got = nil
	slices.Sort(got)
	return got
}

func connected(w *world, conns map[id.UserID][]uint64) *devices {
	d := &devices{conns: conns}
	w.svc.BindDevices(d)
	return d
}

func (w *world) set(u id.UserID, conv id.ConversationID, r wire.SettingsRequest) (*wire.ConversationState, error) {
	w.t.Helper()
	r.ConversationId = conv[:]
	inner, err := r.Marshal(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := w.svc.AnswerSettings(w.ctx, alive(u), inner)
	if err != nil {
		return nil, err
	}
	return body.(*wire.ConversationState), nil
}

func TestSettings(t *testing.T) {
	for name, open := range adapters {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, open(t))
			d := connected(w, map[id.UserID][]uint64{"me": {1, 2}, "bob": {3}})
			conv := w.say("bob", "me", 2).Conversation
			version := uint64(0)
			for _, tc := range []struct {
				r                     wire.SettingsRequest
				pinned, muted, hidden bool
				pushed                bool
			}{
				{wire.SettingsRequest{Fields: 1, Pinned: true, Muted: true}, true, false, false, true},
				{wire.SettingsRequest{Fields: 1, Pinned: true}, true, false, false, false},
				{wire.SettingsRequest{Fields: 6, Muted: true, Hidden: true}, true, true, true, true},
				{wire.SettingsRequest{Fields: 4, Hidden: false}, true, true, false, true},
				{wire.SettingsRequest{Fields: 3}, false, false, false, true},
				{wire.SettingsRequest{Fields: 5, Pinned: true, Hidden: true}, true, false, true, true},
			} {
				st, err := w.set("me", conv, tc.r)
				if err != nil || st.Pinned != tc.pinned || st.Muted != tc.muted || st.Hidden != tc.hidden {
					t.Fatalf("%+v: %+v %v", &tc.r, st, err)
				}
				if tc.pushed != (st.SettingsVersion > version) {
					t.Errorf("%+v: version %d after %d", &tc.r, st.SettingsVersion, version)
				}
				version = st.SettingsVersion
				var want []string
				if tc.pushed {
					want = []string{fmt.Sprintf("to me but 1, of me: pinned %v muted %v hidden %v, <nil>", tc.pinned, tc.muted, tc.hidden)}
				}
				if got := d.take(); !slices.Equal(got, want) {
					t.Errorf("%+v: pushed %q", &tc.r, got)
				}
			}
			if states, _ := w.inbox("me", 0, 0); len(states) != 0 {
				t.Errorf("hidden, and listed: %v", states)
			}
			w.serve()
			if states, _ := w.inbox("me", 1, 0); len(states) != 1 || !states[0].Hidden || !states[0].Pinned {
				t.Errorf("a device that was away is told: %v", states)
			}
			w.say("bob", "me", 1)
			if states, _ := w.inbox("me", 0, 0); len(states) != 1 || states[0].Hidden || !states[0].Pinned || states[0].Unread != 3 {
				t.Errorf("after the next message: %v", states)
			}
			if states, _ := w.inbox("bob", 0, 0); len(states) != 1 || states[0].Pinned {
				t.Errorf("the other side: %v", states)
			}
		})
	}
}

func TestSettingsRefused(t *testing.T) {
	store := faultkv.Wrap(memory.New(memory.Config{}), faultkv.Config{})
	w := newWorld(t, store)
	conv := w.say("bob", "me", 2).Conversation
	left := w.group(5, map[id.UserID][]msgstore.Interval{"me": {{Joined: 1, Left: 4}}, "in": {{Joined: 1}}})
	for _, tc := range []struct {
		user id.UserID
		conv id.ConversationID
		r    wire.SettingsRequest
		want code.Code
	}{
		{"me", conv, wire.SettingsRequest{}, code.BadRequest},
		{"me", conv, wire.SettingsRequest{Fields: 8}, code.BadRequest},
		{"me", id.ConversationID{}, wire.SettingsRequest{Fields: 1}, code.NoSuchConversation},
		{"me", left, wire.SettingsRequest{Fields: 1}, code.Forbidden},
		{"mallory", conv, wire.SettingsRequest{Fields: 1}, code.NoSuchConversation},
		{"me", id.Direct("me", "nobody"), wire.SettingsRequest{Fields: 1}, code.NoSuchConversation},
	} {
		_, err := w.set(tc.user, tc.conv, tc.r)
		wantCode(t, err, tc.want)
	}
	if st, err := w.set("in", left, wire.SettingsRequest{Fields: 1, Pinned: true}); err != nil || !st.Pinned {
		t.Errorf("a member: %+v %v", st, err)
	}
	// What is undetermined is looked at again.
	for turn := range 40 {
		faulted := faulty(t, w.store, uint64(turn))
		w.svc.cfg.Store = faulted
		w.svc.inbox = msgstore.NewInbox(faulted, keys)
		pin := turn%2 == 0
		_, err := w.set("me", conv, wire.SettingsRequest{Fields: 1, Pinned: pin})
		w.svc.cfg.Store, w.svc.inbox = w.store, msgstore.NewInbox(w.store, keys)
		st, serr := w.svc.State(w.ctx, alive("me"), conv)
		switch {
		case serr != nil:
			t.Fatal(serr)
		case err == nil && st.Pinned != pin:
			t.Fatalf("turn %d: answered, and not stored", turn)
		case err != nil:
			mayFail(t, turn, true, err)
		}
	}
}

// A leaving that is written late still turns the side into a tombstone, whatever was set meanwhile.
func TestSettingsBeforeALateTombstone(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	group := w.group(5, map[id.UserID][]msgstore.Interval{"me": {{Joined: 1}}})
	if _, err := w.set("me", group, wire.SettingsRequest{Fields: 3, Pinned: true, Muted: true}); err != nil {
		t.Fatal(err)
	}
	_, raw, err := w.svc.inbox.Get(w.ctx, "me", group)
	if err != nil {
		t.Fatal(err)
	}
	tx := new(kv.Tx)
	if ok, err := w.svc.inbox.Leave(tx, "me", group, raw, 5, w.clock.Load()); !ok || err != nil {
		t.Fatalf("no tombstone: %v", err)
	}
	w.commit(tx)
}

// Who reads elsewhere, and the other side, are told once of several moves.
func TestPushes(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	d := connected(w, map[id.UserID][]uint64{"me": {1, 2}, "bob": {3}, "in": {4}})
	conv := w.say("bob", "me", 5).Conversation
	group := w.group(9, map[id.UserID][]msgstore.Interval{"me": {{Joined: 1}}, "in": {{Joined: 1}}})
	expect := func(want ...string) {
		t.Helper()
		w.svc.pushMoves(w.ctx)
		if got := d.take(); !slices.Equal(got, want) {
			t.Errorf("pushed %q, want %q", got, want)
		}
	}
	read := func(u id.UserID, conv id.ConversationID, seq uint64) {
		t.Helper()
		if _, _, err := w.svc.Read(w.ctx, alive(u), conv, seq); err != nil {
			t.Fatal(err)
		}
	}
	flush := func() {
		t.Helper()
		if err := w.svc.Flush(w.ctx); err != nil {
			t.Fatal(err)
		}
	}
	expect()
	read("me", conv, 1)
	read("me", conv, 3)
	read("me", conv, 2) // behind: no move
	expect("to bob but 0, of me: read 3 received 3, 0 and 0 of 0, <nil>", "to me but 0, of me: read 3 received 3, 2 and 0 of 5, <nil>")
	w.svc.Received(alive("me"), conv, 5)
	expect() // not before it is stored
	flush()
	expect("to bob but 0, of me: read 3 received 5, 0 and 0 of 0, <nil>")
	w.svc.Received(alive("me"), conv, 4)
	flush()
	expect()
	// In a group own devices alone, and of reading alone.
	w.svc.Received(alive("me"), group, 9)
	flush()
	expect()
	read("in", group, 4)
	expect("to in but 0, of in: read 4 received 4, 5 and 0 of 9, <nil>")
	w.svc.Seen(group, "me", 7)
	flush()
	expect("to me but 0, of me: read 7 received 9, 2 and 0 of 9, <nil>")
	// Nobody there, nobody told.
	delete(d.conns, "bob")
	d.conns["me"] = nil
	read("me", conv, 5)
	expect()
	// Too many: dropped.
	w.svc.pushes.limit = 1
	d.conns["me"] = []uint64{1}
	read("me", group, 8)
	read("in", group, 9)
	expect("to me but 0, of me: read 8 received 9, 1 and 0 of 9, <nil>")
}

// mention stores a message of from's, and who is mentioned in it.
func (w *world) mention(conv id.ConversationID, from id.UserID, counts bool, who ...id.UserID) uint64 {
	w.t.Helper()
	w.append(conv, from, "x", counts)
	h, _, err := w.seq.timeline.Head(w.ctx, conv)
	if err != nil {
		w.t.Fatal(err)
	}
	tx := new(kv.Tx)
	for _, u := range who {
		msgstore.NewMentions(w.store, keys).Put(tx, conv, u, h.LastSeq)
	}
	w.commit(tx)
	return h.LastSeq
}

func TestMentions(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	conv := w.group(2, map[id.UserID][]msgstore.Interval{
		"me": {{Joined: 1}}, "bob": {{Joined: 1}}, "late": {{Joined: 5}}, "back": {{Joined: 1, Left: 4}, {Joined: 8}},
	})
	w.mention(conv, "bob", true, "me")           // 3
	w.mention(conv, "me", true, "")              // 4
	w.mention(conv, "bob", true, "", "me")       // 5
	w.mention(conv, "bob", false, "me", "back")  // 6
	w.mention(conv, "late", true, "bob", "back") // 7
	w.mention(conv, "late", true, "back", "me")  // 8
	for _, tc := range []struct {
		user    id.UserID
		after   uint64
		limit   uint32
		want    []uint64
		more    bool
		mention uint32 // unread
	}{
		{"me", 0, 0, []uint64{3, 5, 6, 8}, false, 3},
		{"me", 3, 1, []uint64{5}, true, 3},
		{"me", 5, 2, []uint64{6, 8}, false, 3},
		{"me", 8, 0, nil, false, 3},
		{"me", 1<<64 - 1, 0, nil, false, 3},
		{"bob", 0, 0, []uint64{4, 7}, false, 2},
		{"late", 0, 0, []uint64{5}, false, 1},
		{"back", 0, 0, []uint64{4, 8}, false, 1},
		{"back", 0, 1, []uint64{4}, true, 1},
	} {
		r := wire.MentionsRequest{ConversationId: conv[:], AfterSeq: tc.after, Limit: tc.limit}
		inner, err := r.Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := w.svc.AnswerMentions(w.ctx, alive(tc.user), inner)
		if err != nil {
			t.Fatal(err)
		}
		ans := body.(*wire.MentionsResponse)
		var got []uint64
		for _, m := range ans.Mentions {
			if id.ConversationID(m.ConversationId) != conv {
				t.Errorf("%s: %+v", tc.user, m)
			}
			got = append(got, m.Seq)
		}
		if !slices.Equal(got, tc.want) || ans.More != tc.more {
			t.Errorf("%s above %d: %d, more %v, want %d, %v", tc.user, tc.after, got, ans.More, tc.want, tc.more)
		}
		if st, err := w.svc.State(w.ctx, alive(tc.user), conv); err != nil || st.Mentions != tc.mention {
			t.Errorf("%s: %d unread mentions, want %d, %v", tc.user, st.GetMentions(), tc.mention, err)
		}
	}
	if _, _, err := w.svc.Read(w.ctx, alive("me"), conv, 5); err != nil {
		t.Fatal(err)
	}
	if st, err := w.svc.State(w.ctx, alive("me"), conv); err != nil || st.Mentions != 1 || st.Unread != 2 {
		t.Errorf("after reading: %+v %v", st, err)
	}
	// Up to the cap, past long stretches of one's own.
	for range 300 {
		w.mention(conv, "me", true, "")
	}
	for range UnreadCap + 5 {
		w.mention(conv, "bob", true, "", "me")
	}
	for range 2 {
		if st, err := w.svc.State(w.ctx, alive("me"), conv); err != nil || st.Mentions != UnreadCap || st.Unread != UnreadCap {
			t.Errorf("many: %d of %d, %v", st.GetMentions(), st.GetUnread(), err)
		}
	}
	_, _, err := w.svc.Mentions(w.ctx, alive("mallory"), conv, 0, 0)
	wantCode(t, err, code.NoSuchConversation)
	_, err = w.svc.AnswerMentions(w.ctx, alive("me"), []byte{0xFF})
	wantCode(t, err, code.BadRequest)
}

// Whatever moves while the pages are read, none is missed.
func TestInboxWhileConversationsMove(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	const n = 23
	for i := range n {
		w.clock.Add(1000)
		w.say(id.UserID(fmt.Sprint("u", i)), "me", 1)
	}
	w.clock.Add(1000)
	for _, limit := range []int{1, 2, 5, 22, 23} {
		seen := map[string]uint64{}
		pages := 0
		for cursor := ""; ; pages++ {
			states, next, _, err := w.svc.Inbox(w.ctx, alive("me"), 0, cursor, limit)
			if err != nil || len(states) > limit {
				t.Fatal(len(states), err)
			}
			for _, p := range states {
				seen[peers("me", []*wire.ConversationState{p})[0]] = p.LastSeq
			}
			if next == "" {
				break
			}
			cursor = next
			w.clock.Add(1)
			if pages < 12 { // the last ones of the list, one by one; u3 again and again
				w.say(id.UserID(fmt.Sprint("u", pages%n)), "me", 1)
				w.say("u3", "me", 1)
			}
		}
		if len(seen) != n {
			t.Errorf("limit %d: %d of %d conversations in %d pages", limit, len(seen), n, pages+1)
		}
		w.clock.Add(1000)
	}
}
