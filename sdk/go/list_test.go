package gochat

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// TestListFolds gives a List events in the orders that a network makes of them.
func TestListFolds(t *testing.T) {
	at := time.UnixMilli(1_800_000_000_000)
	message := func(seq uint64, from id.UserID, c Content) Event {
		if c.Type == 0 {
			c.Type = packet.TypeText
		}
		return MessageReceived{Message{Conversation: ab, Peer: bob, Seq: seq, Sender: from, Own: from == alice, Time: at.Add(time.Duration(seq) * time.Second), Content: c}}
	}
	says := func(seq uint64) Event { return message(seq, bob, Text(fmt.Sprint("m", seq))) }
	state := func(c Conversation) Event {
		c.ID, c.Peer, c.Users = ab, bob, pair
		return ConversationChanged{c}
	}
	own := func(read, last uint64, unread, mentions int) Event {
		return CursorsMoved{Conversation: ab, User: alice, Own: true, ReadSeq: read, RecvSeq: read, LastSeq: last, Unread: unread, Mentions: mentions}
	}
	peer := func(read, recv uint64) Event {
		return CursorsMoved{Conversation: ab, User: bob, ReadSeq: read, RecvSeq: recv}
	}
	bye := func(seq uint64, do string) Event {
		return message(seq, bob, Content{Type: TypeMembership, Text: fmt.Sprintf(`{"do":%q,"users":["alice"],"count":1}`, do)})
	}
	for _, tc := range []struct {
		name   string
		events []Event
		want   string
	}{
		{"a first message", []Event{says(1)}, "last 1 m1 read 0 unread 1 mentions 0 peer 0/0"},
		{"what one said oneself", []Event{says(1), message(2, alice, Text("hi"))}, "last 2 hi read 0 unread 1 mentions 0 peer 0/0"},
		{"what doesn't count", []Event{message(1, bob, Content{NoCount: true}), message(2, bob, Content{Type: TypeGroup, Text: "{}"})}, "last 2  read 0 unread 0 mentions 0 peer 0/0"},
		{"an image has no text to show", []Event{message(1, bob, Content{Type: packet.TypeImage, Text: `{"url":""}`})}, "last 1  read 0 unread 1 mentions 0 peer 0/0"},
		{"mentions", []Event{message(1, bob, Content{Mentions: []string{"alice"}}), message(2, bob, Content{MentionAll: true}), message(3, bob, Content{Mentions: []string{"carol"}})},
			"last 3  read 0 unread 3 mentions 2 peer 0/0"},
		{"the server's count and what came since", []Event{state(Conversation{LastSeq: 9, ReadSeq: 4, Unread: 3, Mentions: 1}), says(10), says(9)}, "last 10 m10 read 4 unread 4 mentions 1 peer 0/0"},
		{"a state that was overtaken by a message", []Event{says(1), says(2), says(3), state(Conversation{LastSeq: 2, Unread: 2, Preview: "m2"})}, "last 3 m3 read 0 unread 3 mentions 0 peer 0/0"},
		{"read elsewhere", []Event{says(1), says(2), says(3), own(2, 3, 1, 0)}, "last 3 m3 read 2 unread 1 mentions 0 peer 0/0"},
		{"read elsewhere, told before a message", []Event{says(1), says(2), own(2, 3, 1, 1), says(3)}, "last 3 m3 read 2 unread 1 mentions 1 peer 0/0"},
		{"read elsewhere, told after a later message", []Event{says(1), says(2), says(3), own(2, 2, 0, 0)}, "last 3 m3 read 2 unread 1 mentions 0 peer 0/0"},
		{"late cursors", []Event{says(1), says(2), own(2, 2, 0, 0), own(1, 2, 1, 0)}, "last 2 m2 read 2 unread 0 mentions 0 peer 0/0"},
		{"a late state", []Event{says(1), says(2), own(2, 2, 0, 0), state(Conversation{LastSeq: 2, ReadSeq: 1, Unread: 1, Preview: "m2"})}, "last 2 m2 read 2 unread 0 mentions 0 peer 0/0"},
		{"the peer's, in any order", []Event{says(1), peer(0, 1), peer(1, 1), peer(0, 1)}, "last 1 m1 read 0 unread 1 mentions 0 peer 1/1"},
		{"settings, in any order", []Event{state(Conversation{LastSeq: 1, Pinned: true, SettingsVersion: 7}), state(Conversation{LastSeq: 1, Muted: true, SettingsVersion: 5})},
			"last 1  read 0 unread 0 mentions 0 peer 0/0 pinned"},
		{"hidden until the next message", []Event{state(Conversation{LastSeq: 1, Hidden: true}), says(2)}, "last 2 m2 read 0 unread 1 mentions 0 peer 0/0"},
		{"hidden", []Event{says(1), state(Conversation{LastSeq: 1, Hidden: true, Unread: 1, SettingsVersion: 1})}, "last 1  read 0 unread 1 mentions 0 peer 0/0 hidden"},
		{"hidden, told late", []Event{says(1), says(2), state(Conversation{LastSeq: 1, Hidden: true, Unread: 1, SettingsVersion: 1})}, "last 2 m2 read 0 unread 2 mentions 0 peer 0/0"},
		{"taken out", []Event{says(1), bye(2, "remove")}, "last 2 m1 read 0 unread 1 mentions 0 peer 0/0 left 2"},
		{"a state that a change of the group overtook tells the preview", []Event{bye(2, "add"), state(Conversation{LastSeq: 1, Unread: 1, Preview: "m1"})}, "last 2 m1 read 0 unread 1 mentions 0 peer 0/0"},
		{"a state from before another one", []Event{state(Conversation{LastSeq: 2, Preview: "m2"}), state(Conversation{LastSeq: 1, Preview: "m1"})}, "last 2 m2 read 0 unread 0 mentions 0 peer 0/0"},
		{"and back", []Event{says(1), bye(2, "leave"), bye(5, "add"), says(6)}, "last 6 m6 read 0 unread 1 mentions 0 peer 0/0"},
		{"another store", []Event{says(1), Resynced{2}, says(1)}, "last 1 m1 read 0 unread 1 mentions 0 peer 0/0"},
	} {
		var l List
		l.Apply(Connected{User: alice})
		for _, e := range tc.events {
			l.Apply(e)
		}
		c, ok := l.Get(ab)
		if !ok || c.Peer != bob || !slices.Equal(c.Users, pair) {
			t.Errorf("%s: %+v", tc.name, c)
		}
		got := fmt.Sprintf("last %d %s read %d unread %d mentions %d peer %d/%d", c.LastSeq, c.Preview, c.ReadSeq, c.Unread, c.Mentions, c.PeerReadSeq, c.PeerRecvSeq)
		for what, is := range map[string]bool{" pinned": c.Pinned, " muted": c.Muted, " hidden": c.Hidden} {
			if is {
				got += what
			}
		}
		if c.LeftSeq != 0 {
			got += fmt.Sprint(" left ", c.LeftSeq)
		}
		if got != tc.want {
			t.Errorf("%s: %s\nwant %s", tc.name, got, tc.want)
		}
		if shown := len(l.All()) == 1; shown != (!c.Hidden && c.LeftSeq == 0) {
			t.Errorf("%s: shown %v", tc.name, shown)
		}
	}
}

// Roles follow what messages tell, unless they are older than what the server told of.
func TestListFollowsRoles(t *testing.T) {
	group := id.ConversationID{0: byte(id.KindGroup), 15: 1}
	var l List
	l.Apply(Connected{User: alice})
	l.Apply(ConversationChanged{Conversation{ID: group, LastSeq: 2, Role: Owner}})
	for i, step := range []struct {
		seq  uint64
		from id.UserID
		text string
		want Role
	}{
		{2, bob, `{"do":"role","users":["alice"],"count":1,"role":"member"}`, Owner}, // before that
		{3, alice, `{"do":"role","users":["bob"],"count":1,"role":"admin"}`, Owner},
		{4, alice, `{"do":"role","users":["bob"],"count":1,"role":"owner"}`, Admin},
		{5, bob, `{"do":"role","users":["alice"],"count":1,"role":"member"}`, Member},
		{6, bob, `{"do":"role","users":["alice"],"count":1,"role":"king"}`, NotIn},
		{7, bob, `{"do":"role","users":["alice"],"count":1,"role":"owner"}`, Owner},
		{8, alice, `{"do":"leave","users":["alice"],"count":1}`, NotIn},
	} {
		l.Apply(MessageReceived{Message{Conversation: group, Seq: step.seq, Sender: step.from, Own: step.from == alice, Content: Content{Type: TypeMembership, Text: step.text}}})
		if got, _ := l.Get(group); got.Role != step.want {
			t.Errorf("step %d: %v, want %v", i, got.Role, step.want)
		}
	}
	// Out and back again while away: the server has told how it ended before the messages come.
	l.Apply(ConversationChanged{Conversation{ID: group, LastSeq: 12, Role: Member}})
	for i, step := range []struct {
		seq  uint64
		do   string
		want Role
	}{{10, "remove", Member}, {12, "add", Member}, {13, "remove", NotIn}, {17, "add", Member}} {
		l.Apply(MessageReceived{Message{Conversation: group, Seq: step.seq, Sender: bob, Content: Content{Type: TypeMembership, Text: fmt.Sprintf(`{"do":%q,"users":["alice"],"count":1}`, step.do)}}})
		if got, _ := l.Get(group); got.Role != step.want || (got.LeftSeq != 0) != (step.want == NotIn) {
			t.Errorf("back again, step %d: %v, left %d", i, got.Role, got.LeftSeq)
		}
	}
}

// A state that a message overtook takes back nothing that the message told.
func TestListFollowsNames(t *testing.T) {
	group := id.ConversationID{0: byte(id.KindGroup), 15: 1}
	var l List
	state := func(seq uint64) Event {
		return ConversationChanged{Conversation{ID: group, LastSeq: seq, Name: "old", Avatar: "old", Nickname: "old", Role: Admin}}
	}
	told := func(seq uint64, from id.UserID, kind uint32, text string) Event {
		return MessageReceived{Message{Conversation: group, Seq: seq, Sender: from, Own: from == alice, Content: Content{Type: kind, Text: text}}}
	}
	for i, step := range []struct {
		event Event
		want  string
	}{
		{Connected{User: alice}, `"" "" "" 0`},
		{state(2), `"old" "old" "old" 2`},
		{told(2, alice, TypeNickname, `{"nickname":"Al"}`), `"old" "old" "old" 2`}, // before that
		{told(3, alice, TypeNickname, `{"nickname":"Al"}`), `"old" "old" "Al" 2`},
		{told(4, bob, TypeNickname, `{"nickname":"B"}`), `"old" "old" "Al" 2`},
		{told(5, bob, TypeGroup, `{"name":"new"}`), `"new" "old" "Al" 2`},
		{told(6, bob, TypeGroup, `{"avatar":"new"}`), `"new" "new" "Al" 2`},
		{told(7, bob, TypeMembership, `{"do":"role","users":["alice"],"count":1,"role":"member"}`), `"new" "new" "Al" 1`},
		{state(2), `"new" "new" "Al" 1`},
		{state(4), `"new" "new" "old" 1`},
		{state(5), `"old" "new" "old" 1`},
		{state(7), `"old" "old" "old" 2`},
		{told(8, alice, TypeNickname, `{"nickname":""}`), `"old" "old" "" 2`},
	} {
		l.Apply(step.event)
		c, _ := l.Get(group)
		if got := fmt.Sprintf("%q %q %q %d", c.Name, c.Avatar, c.Nickname, c.Role); got != step.want {
			t.Errorf("step %d: %s, want %s", i, got, step.want)
		}
	}
}

// Unread messages are counted up to the cap, however many there are.
func TestListCap(t *testing.T) {
	var l List
	l.Apply(Connected{User: alice})
	for seq := uint64(1); seq <= 3*UnreadCap; seq++ {
		l.Apply(MessageReceived{Message{Conversation: ab, Seq: seq, Sender: bob, Content: Content{Type: 1, MentionAll: true}}})
	}
	expect := func(unread int) {
		t.Helper()
		if c, _ := l.Get(ab); c.Unread != unread || c.Mentions != unread {
			t.Errorf("%d unread, %d mentions, want %d", c.Unread, c.Mentions, unread)
		}
	}
	expect(UnreadCap)
	l.Apply(CursorsMoved{Conversation: ab, Own: true, ReadSeq: 3*UnreadCap - 5, LastSeq: 3*UnreadCap - 2, Unread: 3, Mentions: 3})
	expect(5)
}

func TestListOrder(t *testing.T) {
	var l List
	var convs []Conversation
	for i, c := range []Conversation{{LastSeq: 1}, {LastSeq: 1, Pinned: true}, {LastSeq: 1}, {}, {LastSeq: 1, Pinned: true}, {LastSeq: 1, Hidden: true}, {LastSeq: 5, LeftSeq: 5}} {
		c.ID, c.LastTime = id.Named(id.KindGroup, fmt.Sprint(i)), time.UnixMilli(int64(1000*i))
		c.Name = fmt.Sprint(i)
		convs = append(convs, c)
	}
	l.Load(convs)
	l.Load([]Conversation{{ID: id.Self(alice), LastSeq: 3}})
	var got []string
	for _, c := range l.All() {
		got = append(got, c.Name)
	}
	if want := []string{"4", "1", "2", "0"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// What the server tells of cursors and settings, and what it is asked.
func TestSettingsAndSignalsOfTheServer(t *testing.T) {
	s := newScripted(t)
	events := make(chan Event, 64)
	c := open(t, s.address(), newRecorder(), func(cfg *Config) { cfg.Handler = func(e Event) { events <- e } })
	p, _ := s.welcome(nil)
	next := func() Event {
		t.Helper()
		for {
			select {
			case e := <-events:
				if _, ok := e.(Connected); !ok {
					return e
				}
			case <-time.After(patience):
				t.Fatal("no event")
			}
		}
	}
	signal := func(kind uint32, from id.UserID, body packet.Body) {
		t.Helper()
		var data []byte
		if body != nil {
			var err error
			if data, err = body.Marshal(nil); err != nil {
				t.Fatal(err)
			}
		} else {
			data = []byte{0xFF}
		}
		p.body(frame.Signal, 0, 0, &wire.Signal{ConversationId: ab[:], Kind: kind, Data: data, SenderId: string(from)})
	}
	signal(packet.SignalCursors, bob, nil) // can't be read: dropped
	signal(packet.SignalState, alice, nil)
	signal(packet.SignalState, alice, &wire.ConversationState{ConversationId: ab[:], Users: []string{"alice", "bob"}})
	if e, ok := next().(ConversationChanged); !ok || e.Conversation.Peer != bob {
		t.Errorf("%+v", e)
	}
	signal(packet.SignalCursors, alice, &wire.Cursors{ReadSeq: 3, RecvSeq: 4, LastSeq: 5, Unread: 2, Mentions: 1})
	if e, want := next(), (CursorsMoved{ab, alice, true, 3, 4, 5, 2, 1}); e != want {
		t.Errorf("%+v, want %+v", e, want)
	}
	signal(packet.SignalCursors, bob, &wire.Cursors{ReadSeq: 3, RecvSeq: 4})
	if e, want := next(), (CursorsMoved{ab, bob, false, 3, 4, 0, 0, 0}); e != want {
		t.Errorf("%+v, want %+v", e, want)
	}
	signal(packet.SignalState, alice, &wire.ConversationState{ConversationId: ab[:], Users: []string{"alice", "bob"}, Pinned: true, SettingsVersion: 9})
	if e, ok := next().(ConversationChanged); !ok || !e.Conversation.Pinned || e.Conversation.SettingsVersion != 9 || e.Conversation.Peer != bob {
		t.Errorf("%+v", e)
	}
	// And asking for it.
	answer := func(m packet.Method, take func(inner []byte), ans packet.Body) {
		t.Helper()
		f := p.expect(frame.Request)
		got, inner, err := packet.DecodeRequest(f.Body)
		if err != nil || got != m {
			t.Fatalf("asked for %v, %v", got, err)
		}
		take(inner)
		b, merr := packet.AppendResponse(nil, f.ReqID, false, m, ans)
		if merr != nil {
			t.Fatal(merr)
		}
		p.write(b)
	}
	type result struct {
		conv Conversation
		err  error
	}
	done := make(chan result, 1)
	for fields, ask := range map[uint32]func() (Conversation, error){
		1: func() (Conversation, error) { return c.Pin(timeout(t), ab, true) },
		2: func() (Conversation, error) { return c.Mute(timeout(t), ab, true) },
		4: func() (Conversation, error) { return c.Hide(timeout(t), ab, true) },
	} {
		go func() {
			conv, err := ask()
			done <- result{conv, err}
		}()
		answer(packet.MethodSettings, func(inner []byte) {
			var r wire.SettingsRequest
			if err := packet.DecodeMethod(packet.MethodSettings, inner, &r); err != nil || r.Fields != fields ||
				r.Pinned != (fields == 1) || r.Muted != (fields == 2) || r.Hidden != (fields == 4) {
				t.Errorf("asked %+v, %v", &r, err)
			}
		}, &wire.ConversationState{ConversationId: ab[:], Users: []string{"alice", "bob"}, Muted: true})
		if r := <-done; r.err != nil || r.conv.Peer != bob || !r.conv.Muted {
			t.Errorf("%+v", r)
		}
		if e, ok := next().(ConversationChanged); !ok || !e.Conversation.Muted {
			t.Errorf("%+v", e)
		}
	}
	go func() {
		seqs, more, err := c.Mentions(timeout(t), ab, 7, 2)
		if !more || !slices.Equal(seqs, []uint64{8, 11}) {
			err = fmt.Errorf("%d, more %v, %v", seqs, more, err)
		}
		done <- result{err: err}
	}()
	answer(packet.MethodMentions, func(inner []byte) {
		var r wire.MentionsRequest
		if err := packet.DecodeMethod(packet.MethodMentions, inner, &r); err != nil || r.AfterSeq != 7 || r.Limit != 2 {
			t.Errorf("asked %+v, %v", &r, err)
		}
	}, &wire.MentionsResponse{More: true, Mentions: []*wire.ConversationSeq{{ConversationId: ab[:], Seq: 8}, {ConversationId: ab[:], Seq: 11}}})
	if r := <-done; r.err != nil {
		t.Error(r.err)
	}
}

// What is said in rooms makes no entry: who is in one isn't its member, and has nothing unread there.
func TestListHasNoRooms(t *testing.T) {
	var l List
	l.Apply(Connected{User: alice})
	l.Apply(MessageReceived{Message{Conversation: RoomID("lobby"), Seq: 3, Sender: bob}})
	l.Apply(MessageReceived{Message{Conversation: ab, Seq: 1, Sender: bob}})
	if _, ok := l.Get(RoomID("lobby")); ok || len(l.All()) != 1 {
		t.Errorf("the list is %+v", l.All())
	}
}
