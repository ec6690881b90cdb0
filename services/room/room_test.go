package room

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// world is a Service on a store, with a sequencer that changes one thing at a time.
type world struct {
	*Service
	t     *testing.T
	store *memory.Store
	clock int64
	told  []string
}

func newWorld(t *testing.T, change func(*Config)) *world {
	t.Helper()
	w := &world{t: t, store: memory.New(memory.Config{NoStamps: true}), clock: 1_750_000_000_000}
	cfg := Config{Store: w.store, Users: w, Create: ByAnyone, Now: func() int64 { return w.clock }}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.Service, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.Bind(w)
	w.BindTeller(w)
	return w
}

func (w *world) Exists(_ context.Context, u id.UserID) (bool, error) { return u != "nobody", nil }

func (w *world) Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*Change, error)) error {
	tl := msgstore.NewTimeline(w.store, msgstore.Keys{})
	h, raw, err := tl.Head(ctx, conv)
	if err != nil {
		return err
	}
	ch, err := plan(ctx, h)
	if err != nil || ch == nil {
		return err
	}
	if !h.Exists() {
		h = msgstore.Head{FirstSeq: 1, LastTime: w.clock}
	}
	h.StateVersion++
	var tx kv.Tx
	tl.Append(&tx, conv, raw, &h, nil, nil)
	ch.Rows(&tx, 0)
	w.store.Commit(ctx, &tx)
	return tx.Err
}

func (w *world) RoomNews(_ id.ConversationID, n *wire.RoomNews) {
	w.told = append(w.told, fmt.Sprintf("%d in, %d came %v, %d left %v", n.Count, n.JoinedCount, n.Joined, n.LeftCount, n.Left))
}
func (w *world) Eject(_ id.ConversationID, u id.UserID) { w.told = append(w.told, "eject "+string(u)) }
func (w *world) Push(u id.UserID, _ uint64, s *wire.Signal) {
	n, err := packet.DecodeRoomNews(s.Data)
	if err != nil || s.Kind != packet.SignalRoom {
		w.t.Errorf("pushed: %v, %v", s, err)
		return
	}
	w.told = append(w.told, fmt.Sprintf("%s is told %s", u, code.Code(n.Code)))
}

// ask calls a method; the error is a *code.Error, or nil.
func (w *world) ask(o *packet.Origin, m packet.Method, req packet.Body) (packet.Body, *code.Error) {
	w.t.Helper()
	inner, err := req.Marshal(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := w.Methods()[m](context.Background(), o, inner)
	var ce *code.Error
	if err != nil && !errors.As(err, &ce) {
		w.t.Fatalf("%v: %v is no code", m, err)
	}
	return body, ce
}

func (w *world) must(o *packet.Origin, m packet.Method, req packet.Body) packet.Body {
	w.t.Helper()
	body, err := w.ask(o, m, req)
	if err != nil {
		w.t.Fatalf("%v: %v", m, err)
	}
	return body
}

func (w *world) refused(want code.Code, o *packet.Origin, m packet.Method, req packet.Body) {
	w.t.Helper()
	if _, err := w.ask(o, m, req); err == nil || err.Code != want {
		w.t.Errorf("%v: %v, want %v", m, err, want)
	}
}

func (w *world) news(want ...string) {
	w.t.Helper()
	w.Turn()
	if fmt.Sprint(w.told) != fmt.Sprint(want) {
		w.t.Errorf("told %q, want %q", w.told, want)
	}
	w.told = nil
}

// at is user with connection n of the edge with that worker number.
func at(user id.UserID, worker uint32, n uint64) *packet.Origin {
	return &packet.Origin{User: user, Device: "d", Conn: conn(worker, n)}
}

func conn(worker uint32, n uint64) uint64 {
	return 1000<<(id.ConnPlaceBits+id.ConnWorkerBits) | uint64(worker)<<id.ConnPlaceBits | n
}

var (
	lobby = id.Named(id.KindRoom, "lobby")
	here  = &wire.ConversationRequest{ConversationId: lobby[:]}
)

func TestComingAndGoing(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Members = 3 })
	ann, ben := at("ann", 1, 1), at("ben", 2, 1)
	w.refused(code.NoSuchConversation, ann, packet.MethodRoomJoin, here)
	r := w.must(ann, packet.MethodRoomCreate, &wire.RoomCreateRequest{Name: "lobby", Title: "The lobby"}).(*wire.Room)
	if r.Role != 2 || r.Name != "lobby" || r.Title != "The lobby" || id.ConversationID(r.ConversationId) != lobby {
		t.Errorf("%+v", r)
	}
	if r = w.must(ben, packet.MethodRoomCreate, &wire.RoomCreateRequest{Name: "lobby"}).(*wire.Room); r.Role != 1 || r.CreatedBy != "ann" {
		t.Errorf("again: %+v", r)
	}
	w.refused(code.BadRequest, ann, packet.MethodRoomCreate, &wire.RoomCreateRequest{Name: " lobby"})
	w.refused(code.BadRequest, ann, packet.MethodRoomCreate, &wire.RoomCreateRequest{Name: "x", SlowSeconds: maxSlow + 1})
	w.refused(code.BadRequest, &packet.Origin{User: "ann"}, packet.MethodRoomJoin, here)

	w.must(ann, packet.MethodRoomJoin, here)
	w.must(at("ann", 1, 2), packet.MethodRoomJoin, here) // another device of hers
	w.must(ben, packet.MethodRoomJoin, here)
	w.news("2 in, 2 came [ann ben], 0 left []")
	w.news()
	w.must(at("cat", 2, 3), packet.MethodRoomJoin, here)
	w.refused(code.TooMany, at("dan", 2, 4), packet.MethodRoomJoin, here)
	w.must(at("cat", 2, 3), packet.MethodRoomLeave, here)
	w.news("2 in, 0 came [], 0 left []") // who came and went is not worth a name

	m := w.must(ann, packet.MethodRoomMembers, &wire.MembersRequest{ConversationId: lobby[:], Limit: 1}).(*wire.RoomMembersResponse)
	if fmt.Sprintln(m.UserIds, m.Cursor, m.Count) != "[ann] ann 2\n" {
		t.Errorf("%+v", m)
	}
	m = w.must(ann, packet.MethodRoomMembers, &wire.MembersRequest{ConversationId: lobby[:], Cursor: m.Cursor, Limit: 1}).(*wire.RoomMembersResponse)
	if fmt.Sprintln(m.UserIds, m.Cursor, m.Count) != "[ben]  2\n" {
		t.Errorf("%+v", m)
	}

	w.must(at("ann", 1, 1), packet.MethodRoomLeave, here)
	w.news() // her other device is there
	w.must(at("ann", 1, 2), packet.MethodRoomLeave, here)
	w.news("1 in, 0 came [], 1 left [ann]")
	if rooms, users := w.Stats(); rooms != 1 || users != 1 {
		t.Errorf("%d users in %d rooms", users, rooms)
	}
}

// What edges report counts, in whatever order it comes with what connections ask for, and lapses.
func TestReports(t *testing.T) {
	w := newWorld(t, nil)
	w.must(at("ann", 1, 1), packet.MethodRoomCreate, &wire.RoomCreateRequest{Name: "lobby"})
	report := func(worker uint32, start, state, before uint64, conns []uint64, users []id.UserID, left ...uint64) (bool, []uint64) {
		return w.Report(worker, start, lobby, state, before, conns, users, left)
	}
	if again, _ := report(1, 7, 5, 4, []uint64{conn(1, 9)}, []id.UserID{"zoe"}); !again {
		t.Error("a change of what isn't known is taken")
	}
	if again, _ := report(1, 7, 1, 0, []uint64{conn(1, 1), conn(1, 2)}, []id.UserID{"ann", "ben"}); again {
		t.Error("all of it is wanted again")
	}
	w.news("2 in, 0 came [], 0 left []") // nobody knows since when
	report(1, 7, 2, 1, []uint64{conn(1, 3)}, []id.UserID{"cat"}, conn(1, 2))
	report(2, 8, 1, 0, []uint64{conn(2, 1)}, []id.UserID{"dan"})
	w.news("3 in, 1 came [cat], 1 left [ben]")
	if again, _ := report(1, 7, 2, 2, nil, nil); again {
		t.Error("what didn't change is wanted again")
	}
	if again, _ := report(1, 7, 4, 3, nil, nil); !again {
		t.Error("a state was passed over")
	}
	report(2, 9, 1, 0, []uint64{conn(2, 5)}, []id.UserID{"eve"}) // that edge was started anew
	if n := w.Count(lobby); n != 3 {
		t.Errorf("%d users", n)
	}
	if _, out := w.Report(1, 7, id.NewGroup(), 1, 0, []uint64{4}, []id.UserID{"ann"}, nil); len(out) != 1 {
		t.Error("somebody is in a room that is none")
	}
	w.mu.Lock()
	for _, e := range w.live[lobby].edges {
		e.until = time.Now().Add(-time.Second)
	}
	w.mu.Unlock()
	w.Turn()
	if rooms, _ := w.Stats(); rooms != 0 {
		t.Errorf("%d rooms after all leases have lapsed", rooms)
	}
}

func TestOrder(t *testing.T) {
	w := newWorld(t, nil)
	ctx := context.Background()
	ann, ben, cat, system := at("ann", 1, 1), at("ben", 1, 2), at("cat", 1, 3), &packet.Origin{User: id.System}
	w.must(ann, packet.MethodRoomCreate, &wire.RoomCreateRequest{Name: "lobby", SlowSeconds: 10})
	do := func(user string, action, seconds uint32) *wire.RoomModerateRequest {
		return &wire.RoomModerateRequest{ConversationId: lobby[:], UserId: user, Action: action, Seconds: seconds}
	}
	w.refused(code.Forbidden, ben, packet.MethodRoomModerate, do("cat", actMute, 0))
	w.refused(code.NoSuchUser, ann, packet.MethodRoomModerate, do("nobody", actMute, 0))
	w.refused(code.BadRequest, ann, packet.MethodRoomModerate, do("cat", 9, 0))
	w.must(ann, packet.MethodRoomModerate, do("ben", actModerator, 0))
	w.refused(code.Forbidden, ben, packet.MethodRoomModerate, do("cat", actModerator, 0))
	w.refused(code.Forbidden, ben, packet.MethodRoomModerate, do("ann", actBan, 0))
	w.refused(code.Forbidden, ann, packet.MethodRoomModerate, do("ben", actMute, 0)) // first no moderator any more

	says := func(o *packet.Origin, n byte, want code.Code) {
		t.Helper()
		rules, err := w.Rules(ctx, lobby)
		if err != nil {
			t.Fatal(err)
		}
		p := &packet.Pending{From: o}
		p.ClientMsgID[0], p.ClientMsgID[15] = byte(len(o.User)), n
		switch err := rules.Check(p); {
		case want == 0 && err != nil:
			t.Errorf("%s: %v", o.User, err)
		case want != 0 && (err == nil || err.Code != want):
			t.Errorf("%s: %v, want %v", o.User, err, want)
		}
	}
	says(cat, 1, 0)
	says(cat, 1, 0) // judged again after a conflict
	says(cat, 2, code.SlowMode)
	says(ben, 1, 0)
	says(ben, 2, 0) // moderators are above it
	w.clock += 10_001
	w.Turn()
	says(cat, 3, 0)
	w.must(ben, packet.MethodRoomUpdate, &wire.RoomUpdateRequest{ConversationId: lobby[:], Fields: 3, Title: "quiet"})
	w.refused(code.BadRequest, ben, packet.MethodRoomUpdate, &wire.RoomUpdateRequest{ConversationId: lobby[:], Fields: 4})
	says(cat, 4, 0)
	w.must(ben, packet.MethodRoomModerate, do("cat", actMute, 60))
	says(cat, 5, code.Muted)
	if r := w.must(cat, packet.MethodRoom, here).(*wire.Room); r.MutedUntil != uint64(w.clock+60_000) || r.Title != "quiet" || r.SlowSeconds != 0 {
		t.Errorf("%+v", r)
	}
	w.clock += 60_001
	says(cat, 6, 0)

	w.must(cat, packet.MethodRoomJoin, here)
	w.told = nil
	w.must(ben, packet.MethodRoomModerate, do("cat", actBan, 0))
	if fmt.Sprint(w.told) != "[eject cat cat is told banned_here]" {
		t.Errorf("told %q", w.told)
	}
	if _, out := w.Report(1, 7, lobby, 1, 0, []uint64{cat.Conn}, []id.UserID{"cat"}, nil); len(out) != 1 || out[0] != cat.Conn {
		t.Errorf("an edge that has her still is told of %v", out)
	}
	says(cat, 7, code.BannedHere)
	w.refused(code.BannedHere, cat, packet.MethodRoomJoin, here)
	w.refused(code.BannedHere, cat, packet.MethodRoomMembers, &wire.MembersRequest{ConversationId: lobby[:]})
	w.must(ben, packet.MethodRoomModerate, do("cat", actUnban, 0))
	w.must(cat, packet.MethodRoomJoin, here)
	w.must(ann, packet.MethodRoomModerate, do("ben", actNoModerator, 0))
	w.refused(code.Forbidden, ben, packet.MethodRoomModerate, do("cat", actUnmute, 0))
	w.must(system, packet.MethodRoomModerate, do("ben", actMute, 0))
	says(ben, 9, code.Muted)
	w.must(system, packet.MethodRoomModerate, do("ben", actUnmute, 0))
	says(ben, 9, 0)
	if rows := msgstore.NewRooms(w.store, msgstore.Keys{}); rows != nil {
		if row, _, ok, err := rows.Get(ctx, lobby); err != nil || !ok || len(row.Curbs) != 0 || len(row.Moderators) != 1 {
			t.Errorf("%+v, %v, %v", row, ok, err)
		}
	}
}

func TestPolicies(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Create, c.Keep = "", msgstore.Keep{Messages: 50} })
	w.refused(code.Forbidden, at("ann", 1, 1), packet.MethodRoomCreate, &wire.RoomCreateRequest{Name: "lobby"})
	w.must(&packet.Origin{User: id.System}, packet.MethodRoomCreate, &wire.RoomCreateRequest{Name: "lobby"})
	if k, raw, err := msgstore.NewTimeline(w.store, msgstore.Keys{}).Keep(context.Background(), lobby); err != nil || raw == nil || k.Messages != 50 {
		t.Errorf("%+v is kept, %v", k, err)
	}
	off := newWorld(t, func(c *Config) { c.Off = true })
	off.refused(code.Forbidden, at("ann", 1, 1), packet.MethodRoomCreate, &wire.RoomCreateRequest{Name: "lobby"})
	off.refused(code.Forbidden, at("ann", 1, 1), packet.MethodRoomJoin, here)
	off.refused(code.Forbidden, at("ann", 1, 1), packet.MethodRoomUpdate, &wire.RoomUpdateRequest{ConversationId: lobby[:], Fields: 1})
	for _, bad := range []Config{{}, {Store: w.store, Users: w, Create: "x"}, {Store: w.store, Users: w, Members: -1}} {
		if _, err := New(bad); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}
