package relation

import (
	"context"
	"fmt"
	"strings"
	"sync"
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
	crowd := []id.UserID{"alice"}
	for i := range maxTold {
		crowd = append(crowd, id.UserID(fmt.Sprint("c", i)))
	}
	w.join(id.Named(id.KindGroup, "all hands"), false, crowd...)
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
	told := map[string]int{}
	for got := ""; got != "bob: alice is Alice2 (3) but 7"; told[got]++ { // the only one of a group, which come last
		got = <-w.pushed
	}
	if len(told) != 300 && len(told) != 301 || told["c0: alice is Alice2 (3) but 7"] > 0 { // one of the 300 may be her notes
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
