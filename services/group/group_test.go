package group_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/group"
)

func wantCode(t *testing.T, what string, err error, want code.Code) {
	t.Helper()
	if got := codeOf(err); got != want || want == 0 && err != nil {
		t.Errorf("%s: %v, want code %d", what, err, want)
	}
}

func crowd(from, to int) []string {
	var users []string
	for i := from; i < to; i++ {
		users = append(users, fmt.Sprintf("m%04d", i))
	}
	return users
}

func TestLimits(t *testing.T) {
	ctx := t.Context()
	store := newStore(t)
	people := &accounts{gone: map[id.UserID]bool{"nobody": true}}
	p := newProcess(t, store, 1, func(c *group.Config) { c.Users, c.Members, c.Conversations = people, 5, 2 })
	made := func(key string, users ...string) (*wire.GroupChangeResponse, error) {
		return p.Create(ctx, as("alice"), &wire.GroupCreateRequest{Key: key, UserIds: users})
	}
	one, err := made("one", "bob", "bob", "alice", "nobody")
	wantCode(t, "create", err, 0)
	if one.Changed != 2 || len(one.Refused) != 1 || one.Refused[0].UserId != "nobody" || code.Code(one.Refused[0].Code) != code.NoSuchUser {
		t.Errorf("%+v", one)
	}
	conv := id.ConversationID(one.ConversationId)
	if conv != id.Named(id.KindGroup, "one") {
		t.Error("the key doesn't make the id")
	}
	// Once more, it does what is left.
	again, err := made("one", "bob", "carol")
	wantCode(t, "create again", err, 0)
	if again.Changed != 1 || id.ConversationID(again.ConversationId) != conv {
		t.Errorf("%+v", again)
	}
	_, err = p.Create(ctx, as("mallory"), &wire.GroupCreateRequest{Key: "one"})
	wantCode(t, "somebody else's key", err, code.Forbidden)
	again, err = p.Create(ctx, as("bob"), &wire.GroupCreateRequest{Key: "one", UserIds: []string{"eve"}})
	wantCode(t, "a member's", err, 0)
	if again.Changed != 0 || again.Seq != 0 {
		t.Errorf("%+v", again)
	}

	// A full group: those who fit are in.
	full, err := p.Add(ctx, as("alice"), conv, []string{"d1", "d2", "d3"})
	wantCode(t, "add", err, 0)
	if full.Changed != 2 || len(full.Refused) != 1 || full.Refused[0].UserId != "d3" || code.Code(full.Refused[0].Code) != code.TooMany {
		t.Errorf("%+v", full)
	}
	_, err = made("big", crowd(0, 5)...)
	wantCode(t, "more than a group takes", err, code.TooMany)

	// A user who is in as many as one may be.
	_, err = made("two", "bob")
	wantCode(t, "the second", err, 0)
	_, err = made("three")
	wantCode(t, "one too many of one's own", err, code.TooMany)
	third, err := p.Create(ctx, as("carol"), &wire.GroupCreateRequest{UserIds: []string{"bob"}, Join: 1})
	wantCode(t, "carol's", err, 0)
	if len(third.Refused) != 1 || code.Code(third.Refused[0].Code) != code.TooMany {
		t.Errorf("%+v", third)
	}
	open := id.ConversationID(third.ConversationId)
	_, err = p.Join(ctx, as("bob"), open)
	wantCode(t, "joining one too many", err, code.TooMany)
	_, err = p.Leave(ctx, as("bob"), conv)
	wantCode(t, "leaving", err, 0)
	_, err = p.Join(ctx, as("bob"), open)
	wantCode(t, "joining after that", err, 0)

	// What can't be looked up can be tried again.
	people.mu.Lock()
	people.fail = errors.New("accounts are away")
	people.mu.Unlock()
	_, err = p.Add(ctx, as("alice"), conv, []string{"late"})
	wantCode(t, "accounts away", err, code.Unavailable)
	agree(t, store, conv, p)
	agree(t, store, open, p)
}

// Who leaves as the last one shuts the door: nobody in it could be given a role any more.
func TestTheLastOneShutsTheDoor(t *testing.T) {
	ctx := t.Context()
	p := newProcess(t, newStore(t), 1, func(c *group.Config) { c.Members, c.Conversations = 2, 2 })
	made, err := p.Create(ctx, as("alice"), &wire.GroupCreateRequest{Join: 1})
	wantCode(t, "create", err, 0)
	conv := id.ConversationID(made.ConversationId)
	_, err = p.Join(ctx, as("bob"), conv)
	wantCode(t, "join", err, 0)
	// Full: who is refused has no row of it, which would count among the groups one may be in.
	for range 3 {
		_, err = p.Join(ctx, as("eve"), conv)
		wantCode(t, "join a full one", err, code.TooMany)
	}
	for range 2 {
		_, err = p.Create(ctx, as("eve"), &wire.GroupCreateRequest{})
		wantCode(t, "of one's own", err, 0)
	}
	_, err = p.Leave(ctx, as("bob"), conv)
	wantCode(t, "leave", err, 0)
	_, err = p.Join(ctx, as("bob"), conv)
	wantCode(t, "join again", err, 0)
	_, err = p.Leave(ctx, as("bob"), conv)
	wantCode(t, "leave again", err, 0)
	_, err = p.Leave(ctx, as("alice"), conv)
	wantCode(t, "the last one", err, 0)
	for _, u := range []string{"alice", "bob"} {
		_, err = p.Join(ctx, as(id.UserID(u)), conv)
		wantCode(t, u+" comes back", err, code.NoSuchConversation)
	}
}

func TestBadRequests(t *testing.T) {
	ctx := t.Context()
	p := newProcess(t, newStore(t), 1)
	made, err := p.Create(ctx, as("alice"), &wire.GroupCreateRequest{UserIds: []string{"bob", "carol"}})
	wantCode(t, "create", err, 0)
	conv := id.ConversationID(made.ConversationId)
	dm := id.Direct("alice", "bob")
	_, err = p.Create(ctx, as("alice"), &wire.GroupCreateRequest{Join: 2})
	wantCode(t, "join 2", err, code.BadRequest)
	_, err = p.Update(ctx, as("alice"), &wire.GroupUpdateRequest{ConversationId: conv[:]})
	wantCode(t, "no fields", err, code.BadRequest)
	_, err = p.Update(ctx, as("alice"), &wire.GroupUpdateRequest{ConversationId: conv[:], Fields: 8, Join: 2})
	wantCode(t, "join 2", err, code.BadRequest)
	for _, text := range []string{"a\nb", "\x00", "a\u0085"} {
		_, err = p.Create(ctx, as("alice"), &wire.GroupCreateRequest{Name: text})
		wantCode(t, "control characters in a new group's name", err, code.BadRequest)
		_, err = p.Create(ctx, as("alice"), &wire.GroupCreateRequest{Avatar: text})
		wantCode(t, "control characters in a new group's avatar", err, code.BadRequest)
		_, err = p.Update(ctx, as("alice"), &wire.GroupUpdateRequest{ConversationId: conv[:], Fields: 1, Name: text})
		wantCode(t, "control characters in a name", err, code.BadRequest)
		_, err = p.Update(ctx, as("alice"), &wire.GroupUpdateRequest{ConversationId: conv[:], Fields: 2, Avatar: text})
		wantCode(t, "control characters in an avatar", err, code.BadRequest)
		_, err = p.Nickname(ctx, as("alice"), conv, text)
		wantCode(t, "control characters in a nickname", err, code.BadRequest)
	}
	_, err = p.Nickname(ctx, as("alice"), conv, "Ällis \u200dname")
	wantCode(t, "a nickname", err, 0)
	_, err = p.Role(ctx, as("alice"), conv, "bob", 4)
	wantCode(t, "role 4", err, code.BadRequest)
	_, err = p.Role(ctx, as("alice"), conv, "alice", 1)
	wantCode(t, "an owner's own role", err, code.Forbidden)
	_, err = p.Role(ctx, as("alice"), conv, "eve", 2)
	wantCode(t, "a stranger's role", err, code.NoSuchUser)
	_, err = p.Join(ctx, as("eve"), dm)
	wantCode(t, "joining a direct conversation", err, code.NoSuchConversation)
	_, err = p.Leave(ctx, as("alice"), dm)
	wantCode(t, "leaving a direct conversation", err, code.NoSuchConversation)
	_, err = p.Add(ctx, as("eve"), conv, []string{"mallory"})
	wantCode(t, "a stranger adds", err, code.NoSuchConversation)
	_, err = p.Remove(ctx, as("eve"), conv, []string{"bob"})
	wantCode(t, "a stranger removes", err, code.NoSuchConversation)
	_, err = p.MembersPage(ctx, as("alice"), conv, "\x01", 0)
	wantCode(t, "cursor", err, code.BadRequest)
	for _, m := range []packet.Method{packet.MethodGroupCreate, packet.MethodGroup, packet.MethodMembers} {
		if _, err := p.Methods()[m](ctx, as("alice"), []byte{0xff}); codeOf(err) == 0 {
			t.Errorf("%s of garbage: %v", m, err)
		}
	}
	// Admins can't touch the owner nor each other.
	_, err = p.Role(ctx, as("alice"), conv, "bob", 2)
	wantCode(t, "role", err, 0)
	_, err = p.Role(ctx, as("alice"), conv, "carol", 2)
	wantCode(t, "role", err, 0)
	r, err := p.Remove(ctx, as("bob"), conv, []string{"alice", "bob", "carol", "stranger"})
	wantCode(t, "an admin removes", err, 0)
	if r.Changed != 0 || len(r.Refused) != 3 {
		t.Errorf("%+v", r)
	}
	// Handing over twice is once.
	for range 2 {
		_, err = p.Role(ctx, as("alice"), conv, "bob", 3)
		wantCode(t, "handing over", err, 0)
	}
	wantCode(t, "a device that isn't the sender's", func() error {
		rules, err := p.Rules(ctx, conv)
		if err != nil {
			return err
		}
		if e := rules.Check(&packet.Pending{Send: packet.Send{OriginDevice: []byte("other")}, From: as("bob")}); e != nil {
			return e
		}
		return nil
	}(), code.BadRequest)
}

func TestPagesOfMembersPassOverThoseWhoLeft(t *testing.T) {
	ctx := t.Context()
	store := newStore(t)
	p := newProcess(t, store, 1)
	made, err := p.Create(ctx, as("m0000"), &wire.GroupCreateRequest{Name: "n", Avatar: "a", Ext: []byte("e"), UserIds: crowd(1, 900)})
	wantCode(t, "create", err, 0)
	conv := id.ConversationID(made.ConversationId)
	_, err = p.Remove(ctx, as("m0000"), conv, crowd(5, 890))
	wantCode(t, "remove", err, 0)
	var got []string
	pages := 0
	for cursor, first := "", true; first || cursor != ""; first = false {
		inner, err := (&wire.MembersRequest{ConversationId: conv[:], Cursor: cursor, Limit: 10}).Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := p.Methods()[packet.MethodMembers](ctx, as("m0001"), inner)
		if err != nil {
			t.Fatal(err)
		}
		ans := body.(*wire.MembersResponse)
		for _, m := range ans.Members {
			got = append(got, m.UserId)
		}
		if ans.Count != 15 {
			t.Errorf("%d members", ans.Count)
		}
		cursor = ans.Cursor
		pages++
	}
	if want := append(crowd(0, 5), crowd(890, 900)...); !slices.Equal(got, want) {
		t.Errorf("%d pages: %v", pages, got)
	}
	g, err := p.Group(ctx, as("m0000"), conv)
	if err != nil || g.Name != "n" || g.Avatar != "a" || string(g.Ext) != "e" || g.Members != 15 || g.Role != 3 || g.CreatedBy != "m0000" {
		t.Errorf("%+v %v", g, err)
	}
	_, err = p.Group(ctx, as("m0005"), conv)
	wantCode(t, "who was taken out", err, code.NoSuchConversation)
	if n, none := p.Size(conv), p.Size(id.NewGroup()); n != 15 || none != 0 {
		t.Errorf("sizes %d and %d", n, none)
	}
	// Their lists say so too, and those of who is in say that.
	inbox := msgstore.NewInbox(store, keys)
	for u, gone := range map[id.UserID]bool{"m0001": false, "m0005": true, "m0889": true, "m0899": false} {
		if row, raw, err := inbox.Get(ctx, u, conv); err != nil || raw == nil || row.Tombstone != gone {
			t.Errorf("%s: %+v, %v", u, row, err)
		}
	}
	agree(t, store, conv, p)
}

// More changes than memory keeps: who was in long ago is read from the store.
func TestRecipientsOfLongAgo(t *testing.T) {
	ctx := t.Context()
	store := newStore(t)
	p := newProcess(t, store, 1, func(c *group.Config) { c.Remembered = 50 })
	made, err := p.Create(ctx, as("owner"), &wire.GroupCreateRequest{UserIds: []string{"u"}})
	wantCode(t, "create", err, 0)
	conv := id.ConversationID(made.ConversationId)
	for i := range 8 {
		wantCode(t, "say", p.say(conv, "owner"), 0)
		_, err := p.Add(ctx, as("owner"), conv, crowd(0, 300))
		wantCode(t, "add", err, 0)
		_, err = p.Remove(ctx, as("owner"), conv, crowd(i, 300))
		wantCode(t, "remove", err, 0)
		other, err := p.Create(ctx, as("owner"), &wire.GroupCreateRequest{}) // takes the memory
		wantCode(t, "create", err, 0)
		wantCode(t, "say", p.say(id.ConversationID(other.ConversationId), "owner"), 0)
	}
	agree(t, store, conv, p)
	users, to, err := p.Recipients(ctx, id.NewGroup(), 1, 5)
	if err != nil || len(users) != 0 || to != 5 {
		t.Errorf("of no group: %v, %d, %v", users, to, err)
	}
}

// Who hangs up in the middle finds the rest done by asking again.
func TestAddGoesOn(t *testing.T) {
	store := newStore(t)
	p := newProcess(t, store, 1)
	made, err := p.Create(t.Context(), as("owner"), &wire.GroupCreateRequest{})
	wantCode(t, "create", err, 0)
	conv := id.ConversationID(made.ConversationId)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = p.Add(ctx, as("owner"), conv, crowd(0, 1000))
	wantCode(t, "nobody waits", err, code.Undetermined)
	for _, want := range []uint32{1000, 0} {
		r, err := p.Add(t.Context(), as("owner"), conv, crowd(0, 1000))
		wantCode(t, "add", err, 0)
		if r.Changed > want {
			t.Errorf("%+v", r)
		}
	}
	if now, err := p.Members(t.Context(), conv); err != nil || len(now) != 1001 {
		t.Errorf("%d members, %v", len(now), err)
	}
	agree(t, store, conv, p)
}

func TestConfig(t *testing.T) {
	for _, c := range []group.Config{{}, {Store: newStore(t), Users: &accounts{}, Members: -1}} {
		if _, err := group.New(c); !errors.Is(err, group.ErrConfig) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
