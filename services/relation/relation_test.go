package relation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
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

var keys = msgstore.Keys{Keyspace: 5}

const start = 1_800_000_000_000

// world is a Service on a store, and those whom it tells things.
type world struct {
	t     *testing.T
	ctx   context.Context
	store kv.Store
	svc   *Service
	clock atomic.Int64

	mu      sync.Mutex
	gone    map[id.UserID]bool
	away    error // of the accounts
	touched []id.ConversationID
	stuck   error // of the fence
	pushed  chan string
}

func newWorld(t *testing.T, store kv.Store, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t, ctx: t.Context(), store: store, gone: map[id.UserID]bool{}, pushed: make(chan string, 4096)}
	w.clock.Store(start)
	cfg := Config{Store: store, Keys: keys, Users: w, Now: w.clock.Load, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	svc, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.svc = svc
	svc.Bind(w, w)
	return w
}

func (w *world) Exists(_ context.Context, u id.UserID) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.gone[u], w.away
}

func (w *world) Touch(_ context.Context, conv id.ConversationID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.touched = append(w.touched, conv)
	return w.stuck
}

func (w *world) Push(u id.UserID, but uint64, s *wire.Signal) {
	p, err := packet.DecodeProfile(s.Data)
	if err != nil || s.Kind != packet.SignalProfile || s.ToUserId != string(u) || s.SenderId != p.UserId || len(s.ConversationId) > 0 {
		w.t.Errorf("pushed %+v, %v", s, err)
	}
	w.pushed <- fmt.Sprintf("%s: %s is %s (%d) but %d", u, p.UserId, p.Name, p.Version, but)
}

func of(u id.UserID) *packet.Origin { return &packet.Origin{User: u, Device: "d", Conn: 7} }

// answer calls a method and returns its answer.
func answer[A packet.Body](w *world, m func(context.Context, *packet.Origin, []byte) (packet.Body, error), u id.UserID, req packet.Body) (a A, err error) {
	w.t.Helper()
	inner, err := req.Marshal(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	body, err := m(w.ctx, of(u), inner)
	if err != nil {
		var ce *code.Error
		if !errors.As(err, &ce) {
			w.t.Fatalf("%v is no *code.Error", err)
		}
		return a, err
	}
	return body.(A), nil
}

func (w *world) block(by, whom id.UserID, on bool) error {
	_, err := answer[*wire.BlockResponse](w, w.svc.Block, by, &wire.BlockRequest{UserId: string(whom), Blocked: on})
	return err
}

func (w *world) set(u id.UserID, name string) (*wire.Profile, error) {
	return answer[*wire.Profile](w, w.svc.SetProfile, u, &wire.ProfileSetRequest{Fields: 1, Name: name})
}

func (w *world) profiles(users ...string) (*wire.ProfilesResponse, error) {
	return answer[*wire.ProfilesResponse](w, w.svc.Profiles, "asker", &wire.ProfilesRequest{UserIds: users})
}

func (w *world) want(err error, c code.Code) {
	w.t.Helper()
	var ce *code.Error
	if c == 0 && err != nil || c != 0 && (!errors.As(err, &ce) || ce.Code != c) {
		w.t.Fatalf("got %v, want code %d", err, c)
	}
}

// join writes that users are in a conversation; half: only what lies with the user.
func (w *world) join(conv id.ConversationID, half bool, users ...id.UserID) {
	w.t.Helper()
	tx := new(kv.Tx)
	for _, u := range users {
		msgstore.NewInbox(w.store, keys).Put(tx, u, conv, &msgstore.UserSide{Changed: start})
		if !half {
			msgstore.NewMembers(w.store, keys).Put(tx, conv, u, &msgstore.Member{Intervals: []msgstore.Interval{{Joined: 1}}})
		}
	}
	w.store.Commit(w.ctx, tx)
	w.want(tx.Err, 0)
}

func TestBlocks(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}), func(c *Config) { c.MaxBlocks = 5 })
	w.gone["ghost"] = true
	for _, u := range []id.UserID{"e", "c", "a", "d", "b", "b"} {
		w.want(w.block("alice", u, true), 0)
	}
	if n := len(w.touched); n != 6 || w.touched[5] != id.Direct("alice", "b") {
		t.Errorf("touched %d conversations, want one a call, repeated ones too", n)
	}
	w.want(w.block("alice", "f", true), code.TooMany)
	w.want(w.block("alice", "ghost", true), code.NoSuchUser)
	w.want(w.block("alice", "alice", true), code.BadRequest)
	w.want(w.block("alice", "", true), code.BadRequest)
	w.want(w.block("alice", "ghost", false), 0) // of whom there is nothing to undo

	var all []string
	pages := 0
	for cursor := ""; ; pages++ {
		p, err := answer[*wire.BlocksResponse](w, w.svc.Blocks, "alice", &wire.BlocksRequest{Cursor: cursor, Limit: 2})
		w.want(err, 0)
		all = append(all, p.UserIds...)
		if cursor = p.Cursor; cursor == "" {
			break
		}
	}
	if !slices.Equal(all, []string{"a", "b", "c", "d", "e"}) || pages != 2 {
		t.Errorf("blocked: %v in %d pages", all, pages+1)
	}
	_, err := answer[*wire.BlocksResponse](w, w.svc.Blocks, "alice", &wire.BlocksRequest{Cursor: "\n"})
	w.want(err, code.BadRequest)

	ab, ba, err := w.svc.Denied(w.ctx, "a", "alice")
	if err != nil || ab == nil || ab.Code != code.Forbidden || ba != nil {
		t.Errorf("a to alice %v, alice to a %v, %v", ab, ba, err)
	}
	w.want(w.svc.MayOpen(w.ctx, "a", "alice"), code.Forbidden)
	w.want(w.svc.MayOpen(w.ctx, "alice", "a"), 0)
	w.want(w.svc.MayOpen(w.ctx, "alice", "alice"), 0)
	w.want(w.block("alice", "a", false), 0)
	w.want(w.svc.MayOpen(w.ctx, "a", "alice"), 0)
	if ab, ba, err = w.svc.Denied(w.ctx, "alice", "alice"); ab != nil || ba != nil || err != nil {
		t.Errorf("notes to herself: %v, %v, %v", ab, ba, err)
	}
}

func TestBlockingWhenThingsFail(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	w.away = errors.New("accounts are away")
	w.want(w.block("alice", "bob", true), code.Unavailable)
	w.away, w.stuck = nil, code.New(code.Undetermined)
	w.want(w.block("alice", "bob", true), code.Undetermined)
	// Nobody was told that it holds; asked again it is made to, though the row is there.
	w.stuck = nil
	before := len(w.touched)
	w.want(w.block("alice", "bob", true), 0)
	if len(w.touched) != before+1 {
		t.Error("a block that was written before is not made to hold")
	}
	w.corrupt(keys.Block(nil, "alice", "bob"))
	if err := w.svc.MayOpen(w.ctx, "bob", "alice"); !errors.Is(err, msgstore.ErrVersion) {
		t.Errorf("a block that can't be read is taken for %v", err)
	}
	if _, _, err := w.svc.Denied(w.ctx, "bob", "alice"); !errors.Is(err, msgstore.ErrVersion) {
		t.Errorf("a block that can't be read is taken for %v", err)
	}
	_, err := answer[*wire.BlocksResponse](w, w.svc.Blocks, "alice", &wire.BlocksRequest{})
	w.want(err, code.Internal)
}

// A change that comes long after its outcome was unknown doesn't undo what was said since.
func TestLateWrites(t *testing.T) {
	store := faultkv.Wrap(memory.New(memory.Config{}), faultkv.Config{Seed: 1})
	w := newWorld(t, store)
	store.Script(faultkv.Late)
	if _, err := w.set("alice", "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.set("alice", "two"); err != nil {
		t.Fatal(err)
	}
	store.Script(faultkv.Late)
	w.want(w.block("alice", "bob", true), 0)
	for range 20 { // whatever is late has come by then
		w.want(w.block("alice", "carol", true), 0)
	}
	if p, _, err := w.svc.rows.Profile(w.ctx, "alice"); err != nil || p.Name != "two" || p.Version != 2 {
		t.Errorf("in the end %+v, %v", p, err)
	}
	if b, err := w.svc.rows.Blocked(w.ctx, msgstore.Pair{By: "alice", Whom: "bob"}); err != nil || !b[0] {
		t.Errorf("blocked: %v, %v", b, err)
	}
}

// corrupt makes a row unreadable.
func (w *world) corrupt(key []byte) {
	w.t.Helper()
	tx := new(kv.Tx)
	tx.Set(key, []byte{99})
	w.store.Commit(w.ctx, tx)
	w.want(tx.Err, 0)
}

func TestSharedGroups(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}), func(c *Config) { c.Write = SharedGroup })
	for i := range 300 { // more than one page, and other kinds before and behind them
		w.join(id.Named(id.KindGroup, fmt.Sprint("alice", i)), false, "alice")
		if i < 20 {
			w.join(id.Direct("alice", id.UserID(fmt.Sprint("u", i))), false, "alice", id.UserID(fmt.Sprint("u", i)))
			w.join(id.Named(id.KindRoom, fmt.Sprint(i)), false, "alice", "bob")
		}
	}
	w.want(w.svc.MayOpen(w.ctx, "alice", "bob"), code.Forbidden)
	w.want(w.svc.MayOpen(w.ctx, "bob", "alice"), code.Forbidden)
	w.want(w.svc.MayOpen(w.ctx, "bob", "bob"), 0)
	// The user's side alone is no membership.
	g := id.Named(id.KindGroup, "lunch")
	w.join(g, true, "alice", "bob")
	w.want(w.svc.MayOpen(w.ctx, "alice", "bob"), code.Forbidden)
	w.join(g, false, "alice", "bob")
	w.want(w.svc.MayOpen(w.ctx, "alice", "bob"), 0)
	w.want(w.svc.MayOpen(w.ctx, "bob", "alice"), 0)
	w.want(w.block("alice", "bob", true), 0)
	w.want(w.svc.MayOpen(w.ctx, "bob", "alice"), code.Forbidden)
	// Who has left shares nothing.
	tx := new(kv.Tx)
	msgstore.NewMembers(w.store, keys).Put(tx, g, "alice", &msgstore.Member{Intervals: []msgstore.Interval{{Joined: 1, Left: 5}}})
	w.store.Commit(w.ctx, tx)
	w.want(tx.Err, 0)
	w.want(w.svc.MayOpen(w.ctx, "alice", "bob"), code.Forbidden)
	if ab, ba, err := w.svc.Denied(w.ctx, "alice", "bob"); ab != nil || ba == nil || err != nil {
		t.Errorf("what stands asks for blocks alone: %v, %v, %v", ab, ba, err)
	}
	w.corrupt(keys.Member(nil, g, "bob"))
	if err := w.svc.MayOpen(w.ctx, "alice", "bob"); !errors.Is(err, msgstore.ErrVersion) {
		t.Errorf("a member that can't be read: %v", err)
	}
}

func TestWhoMayBringWhomIntoAGroup(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	people := []id.UserID{"bob", "carol", "dave", "eve", "alice"}
	may := func(policy Policy, want ...bool) {
		t.Helper()
		w.svc.cfg.Write = policy
		denied, err := w.svc.MayAdd(w.ctx, "alice", people)
		w.want(err, 0)
		for i, e := range denied {
			if (e == nil) != want[i] || e != nil && e.Code != code.Forbidden {
				t.Errorf("%d: alice brings in %s: %v, want %t", policy, people[i], e, want[i])
			}
		}
	}
	w.want(w.block("bob", "alice", true), 0)
	for i := range 3 {
		w.join(id.Named(id.KindGroup, fmt.Sprint(i)), false, "alice", "carol")
	}
	w.join(id.Named(id.KindGroup, "more"), false, "alice", "bob")
	w.join(id.Named(id.KindGroup, "half"), true, "alice", "eve")
	w.join(id.Direct("alice", "dave"), false, "alice", "dave")
	may(Anyone, false, true, true, true, true)
	may(Nobody, false, true, true, true, true)
	may(SharedGroup, false, true, true, false, true)
	w.want(w.block("bob", "alice", false), 0)
	may(SharedGroup, true, true, true, false, true)
	w.corrupt(keys.Block(nil, "eve", "alice"))
	if _, err := w.svc.MayAdd(w.ctx, "alice", people); !errors.Is(err, msgstore.ErrVersion) {
		t.Errorf("a block that can't be read: %v", err)
	}
}

func TestNobodyMayWrite(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}), func(c *Config) { c.Write = Nobody })
	w.join(id.Named(id.KindGroup, "lunch"), false, "alice", "bob")
	w.want(w.svc.MayOpen(w.ctx, "alice", "bob"), code.Forbidden)
	w.want(w.svc.MayOpen(w.ctx, "alice", "alice"), 0)
	if ab, ba, err := w.svc.Denied(w.ctx, "alice", "bob"); ab == nil || ba == nil || err != nil {
		t.Errorf("denied: %v, %v, %v", ab, ba, err)
	}
}

// The store conflicts, fails and doesn't know at random: what was answered as set is there
// afterwards unless something later was, and every error is one that may be tried again.
func TestFaults(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	inner := memory.New(memory.Config{})
	store := faultkv.Wrap(inner, faultkv.Config{Seed: seed, Rates: faultkv.Rates{Applied: 0.2, Lost: 0.2, Conflict: 0.2, Unavailable: 0.1}, Read: 0.05})
	w := newWorld(t, store)
	truth := msgstore.NewRelations(inner, keys)
	version := uint64(0)
	for i := range 300 {
		name := fmt.Sprint("name", i)
		p, err := w.set("alice", name)
		if err == nil {
			row, _, rerr := truth.Profile(w.ctx, "alice")
			if rerr != nil || row.Name != name || row.Version != p.Version || row.Version <= version {
				t.Fatalf("round %d: told %+v after version %d, stored %+v, %v", i, p, version, row, rerr)
			}
			version = row.Version
		} else if !retryable(err) {
			t.Fatalf("round %d: %v", i, err)
		}
		on := i%2 == 0
		if err := w.block("alice", "bob", on); err == nil {
			if b, rerr := truth.Blocked(w.ctx, msgstore.Pair{By: "alice", Whom: "bob"}); rerr != nil || b[0] != on {
				t.Fatalf("round %d: blocked is %v, want %t, %v", i, b, on, rerr)
			}
		} else if !retryable(err) {
			t.Fatalf("round %d: %v", i, err)
		}
	}
}

func retryable(err error) bool {
	var ce *code.Error
	return errors.As(err, &ce) && ce.Retryable()
}

func TestUnavailable(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want code.Code
	}{
		{code.New(code.Forbidden), code.Forbidden},
		{fmt.Errorf("x: %w", kv.ErrFull), code.StorageFull},
		{fmt.Errorf("x: %w", msgstore.ErrCorrupt), code.Internal},
		{fmt.Errorf("x: %w", kv.ErrUndetermined), code.Unavailable},
	} {
		if got := msgstore.Refusal(tc.err); got.Code != tc.want {
			t.Errorf("%v: %v, want %v", tc.err, got, tc.want)
		}
	}
}

func TestConfig(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	for name, cfg := range map[string]Config{
		"nothing":  {},
		"policy":   {Store: w.store, Users: w, Write: 9},
		"negative": {Store: w.store, Users: w, TellPeers: -1},
	} {
		if _, err := New(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for s, want := range map[string]Policy{"anyone": Anyone, "shared_group": SharedGroup, "nobody": Nobody} {
		if p, err := ParsePolicy(s); err != nil || p != want {
			t.Errorf("%s: %v, %v", s, p, err)
		}
	}
	if _, err := ParsePolicy("friends"); !errors.Is(err, ErrConfig) {
		t.Errorf("friends: %v", err)
	}
}

// The service writes whatever the policy says, to all but those who have blocked it; answering it is for the policy.
func TestServiceMayWrite(t *testing.T) {
	for _, policy := range []Policy{Anyone, SharedGroup, Nobody} {
		w := newWorld(t, memory.New(memory.Config{}), func(c *Config) { c.Write = policy })
		w.want(w.svc.MayOpen(w.ctx, id.System, "bob"), 0)
		for _, pair := range [][2]id.UserID{{id.System, "bob"}, {"bob", id.System}} {
			ab, ba, err := w.svc.Denied(w.ctx, pair[0], pair[1])
			if pair[0] != id.System {
				ab, ba = ba, ab
			}
			if err != nil || ab != nil || (ba != nil) != (policy == Nobody) {
				t.Errorf("%d: the service may not write: %v, or bob may not answer: %v, %v", policy, ab, ba, err)
			}
		}
		if denied, err := w.svc.MayAdd(w.ctx, id.System, []id.UserID{"bob"}); err != nil || denied[0] != nil {
			t.Errorf("%d: the service brings bob in: %v, %v", policy, denied, err)
		}
		w.want(w.block("bob", id.System, true), 0)
		w.want(w.svc.MayOpen(w.ctx, id.System, "bob"), code.Forbidden)
		if ab, _, err := w.svc.Denied(w.ctx, id.System, "bob"); err != nil || ab == nil {
			t.Errorf("%d: blocked, the service may write: %v", policy, err)
		}
	}
}
