package relation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

func TestProfiles(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	p, err := w.set("alice", "Alice")
	if err != nil || p.Version != 1 || p.Name != "Alice" || p.UserId != "alice" {
		t.Fatalf("set %+v, %v", p, err)
	}
	p, err = answer[*wire.Profile](w, w.svc.SetProfile, "alice", &wire.ProfileSetRequest{Fields: 6, Name: "not set", Avatar: "u", Ext: []byte{1}})
	if err != nil || p.Version != 2 || p.Name != "Alice" || p.Avatar != "u" || len(p.Ext) != 1 {
		t.Fatalf("the rest set %+v, %v", p, err)
	}
	if p, err = w.set("carol", ""); err != nil || p.Version != 0 || p.UserId != "carol" {
		t.Fatalf("nothing set %+v, %v", p, err)
	}
	ans, err := w.profiles("bob", "alice", "carol", "alice")
	if err != nil || len(ans.Profiles) != 2 || ans.Profiles[0].Version != 2 || ans.Answered != 4 {
		t.Fatalf("found %+v, %v", ans, err)
	}
	// Emptied is still a profile, so that who holds the old one learns of it.
	p, err = answer[*wire.Profile](w, w.svc.SetProfile, "alice", &wire.ProfileSetRequest{Fields: 7})
	if err != nil || p.Version != 3 || p.Name != "" {
		t.Fatalf("emptied %+v, %v", p, err)
	}
	if ans, err = w.profiles("alice"); err != nil || len(ans.Profiles) != 1 || ans.Profiles[0].Version != 3 {
		t.Fatalf("emptied, found %+v, %v", ans, err)
	}
	for _, bad := range []*wire.ProfileSetRequest{{}, {Fields: 8}, {Fields: 1, Name: "a\x07"}, {Fields: 2, Avatar: "a\n"}, {Fields: 4, Ext: make([]byte, 1025)}} {
		_, err := answer[*wire.Profile](w, w.svc.SetProfile, "alice", bad)
		w.want(err, code.BadRequest)
	}
	_, err = w.svc.Profiles(w.ctx, of("x"), []byte{1})
	w.want(err, code.BadRequest)
	w.corrupt(keys.Profile(nil, "dave"))
	_, err = w.profiles("alice", "dave")
	w.want(err, code.Internal)
	_, err = w.set("dave", "Dave")
	w.want(err, code.Internal)
}

// An answer fits a frame, says how far it goes, and going on from there misses nothing.
func TestLargeProfilesComeInParts(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	var users []string
	for i := range packet.MaxProfiles {
		u := fmt.Sprintf("user%02d%s", i, strings.Repeat("x", 50))
		users = append(users, u)
		if i%7 == 3 {
			continue // has none
		}
		_, err := answer[*wire.Profile](w, w.svc.SetProfile, id.UserID(u), &wire.ProfileSetRequest{
			Fields: 7, Name: strings.Repeat("n", 256), Avatar: strings.Repeat("u", 2048), Ext: make([]byte, 1024),
		})
		w.want(err, 0)
	}
	found, asked := 0, 0
	for rest := users; len(rest) > 0; asked++ {
		ans, err := w.profiles(rest...)
		w.want(err, 0)
		b, err := ans.Marshal(nil)
		if err != nil || len(b) > 100<<10 || ans.Answered == 0 {
			t.Fatalf("%d bytes, %d answered, %v", len(b), ans.Answered, err)
		}
		found += len(ans.Profiles)
		rest = rest[ans.Answered:]
	}
	if found != 86 || asked < 3 {
		t.Errorf("%d profiles in %d answers", found, asked)
	}
}

// What is kept in memory is bounded, ends, and never goes back to an older version.
func TestCache(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}), func(c *Config) { c.CacheBytes = 20_000 })
	_, err := w.set("alice", "one")
	w.want(err, 0)
	// Another process changes it.
	tx := new(kv.Tx)
	_, raw, _ := w.svc.rows.Profile(w.ctx, "alice")
	w.svc.rows.PutProfile(tx, "alice", raw, &msgstore.Profile{Version: 2, Name: "two"})
	w.store.Commit(w.ctx, tx)
	w.want(tx.Err, 0)
	name := func() string {
		t.Helper()
		ans, err := w.profiles("alice")
		w.want(err, 0)
		return ans.Profiles[0].Name
	}
	if got := name(); got != "one" {
		t.Errorf("within the minute: %q", got)
	}
	w.clock.Add(60_000)
	if got := name(); got != "two" {
		t.Errorf("after it: %q", got)
	}
	if p := w.svc.profiles.put("alice", &wire.Profile{UserId: "alice", Name: "one", Version: 1}, w.clock.Load()); p.Version != 2 {
		t.Errorf("a late reader brings version %d back", p.Version)
	}
	for i := range 2000 {
		_, err := w.profiles(fmt.Sprint("nobody", i))
		w.want(err, 0)
	}
	c := &w.svc.profiles
	sum := 0
	for u, e := range c.byID {
		sum += e.size(u)
	}
	if c.bytes > 20_000 || c.bytes != sum {
		t.Errorf("%d bytes are kept, %d counted, 20,000 allowed", sum, c.bytes)
	}
}

// Several devices set different fields at once: each change is there in the end, and no
// version stands for two.
func TestChangesAtOnce(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	versions := make(chan uint64, 64)
	var wg sync.WaitGroup
	for _, r := range []*wire.ProfileSetRequest{{Fields: 1, Name: "n"}, {Fields: 2, Avatar: "a"}, {Fields: 4, Ext: []byte("e")}} {
		wg.Go(func() {
			p, err := answer[*wire.Profile](w, w.svc.SetProfile, "alice", r)
			if err != nil {
				t.Error(err)
				return
			}
			versions <- p.Version
		})
	}
	wg.Wait()
	close(versions)
	seen := map[uint64]bool{}
	for v := range versions {
		seen[v] = true
	}
	p, _, err := w.svc.rows.Profile(w.ctx, "alice")
	if err != nil || p.Name != "n" || p.Avatar != "a" || string(p.Ext) != "e" || p.Version != 3 {
		t.Errorf("in the end %+v, %v, told %v", p, err, seen)
	}
}

func TestNewsAreToldOnceAWhile(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}), func(c *Config) { c.TellEvery, c.TellPeers = 50*time.Millisecond, 300 })
	for i := range 400 {
		u := id.UserID(fmt.Sprint("u", i))
		w.join(id.Direct("alice", u), false, "alice", u)
	}
	w.join(id.Direct("alice", "alice"), false, "alice")
	w.join(id.Named(id.KindGroup, "lunch"), false, "alice", "bob")
	for i := range 3 {
		_, err := w.set("alice", fmt.Sprint("Alice", i))
		w.want(err, 0)
	}
	ctx, cancel := context.WithCancel(w.ctx)
	ended := make(chan error, 1)
	go func() { ended <- w.svc.Run(ctx) }()
	if got := <-w.pushed; got != "alice: alice is Alice2 (3) but 7" {
		t.Errorf("the other devices hear %q", got)
	}
	told := map[string]bool{}
	for range 299 { // one of the 300 may be her notes
		told[<-w.pushed] = true
	}
	if len(told) != 299 || told["bob: alice is Alice2 (3) but 7"] {
		t.Errorf("%d were told", len(told))
	}
	_, err := w.set("alice", "Alice3")
	w.want(err, 0)
	for {
		if got := <-w.pushed; got == "alice: alice is Alice3 (4) but 7" {
			break
		} else if !strings.Contains(got, "Alice2 (3)") {
			t.Fatalf("then %q", got)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestNewsAreBounded(t *testing.T) {
	var n news
	n.init(2)
	p := &wire.Profile{Version: 1}
	now := time.Unix(100, 0)
	if !n.add(of("a"), p) || !n.add(of("b"), p) || n.add(of("c"), p) || !n.add(of("a"), p) {
		t.Fatal("two users fit, and no third")
	}
	for _, want := range []id.UserID{"a", "b"} {
		if it, ok, _ := n.next(now, now.Add(time.Second)); !ok || it.user != want {
			t.Fatalf("%q, %t, want %q", it.user, ok, want)
		}
	}
	n.add(of("b"), p)
	if _, ok, wait := n.next(now, now); ok || wait != time.Second {
		t.Fatalf("both cool: %t, %s", ok, wait)
	}
	now = now.Add(time.Second)
	if it, ok, _ := n.next(now, now.Add(time.Second)); !ok || it.user != "b" {
		t.Fatalf("%q, %t, want b", it.user, ok)
	}
	if _, ok, _ := n.next(now.Add(time.Second), now); ok || len(n.byUser) != 0 || len(n.cooling) != 0 {
		t.Fatalf("%d users are kept", len(n.byUser))
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
