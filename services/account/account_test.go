package account

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

func TestNames(t *testing.T) {
	for _, c := range []struct {
		name string
		want id.UserID
		err  code.Code
	}{
		{"alice", "alice", 0},
		{"Alice", "Alice", 0},
		{"René", "René", 0},
		{"Rene\u0301", "Ren\u00e9", 0}, // decomposed: the same account
		{"张三", "张三", 0},
		{"a b", "a b", 0},
		{strings.Repeat("x", 64), id.UserID(strings.Repeat("x", 64)), 0},
		{strings.Repeat("e\u0301", 32), id.UserID(strings.Repeat("é", 32)), 0}, // 96 bytes that become 64
		{"", "", code.BadRequest},
		{" alice", "", code.BadRequest},
		{"alice ", "", code.BadRequest},
		{"alice\u00a0", "", code.BadRequest},
		{"a\u2028b", "", code.BadRequest},
		{"ali\u200bce", "", code.BadRequest}, // zero width space
		{"\u202eecila", "", code.BadRequest}, // right-to-left override
		{"al\x00ice", "", code.BadRequest},
		{"al\nice", "", code.BadRequest},
		{strings.Repeat("x", 65), "", code.BadRequest},
		{strings.Repeat("x", 1<<20), "", code.BadRequest},
		{"\xff\xfe", "", code.InvalidUTF8},
	} {
		got, err := normalName(c.name)
		want(t, fmt.Sprintf("%.20q", c.name), err, c.err)
		if got != c.want {
			t.Errorf("%.20q became %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPasswords(t *testing.T) {
	for _, c := range []struct {
		password string
		err      code.Code
	}{
		{"12345678", 0},
		{strings.Repeat("x", 256), 0},
		{"1234567", code.BadRequest},
		{"", code.BadRequest},
		{strings.Repeat("x", 257), code.BadRequest},
		{"\xff\xff\xff\xff\xff\xff\xff\xff", code.InvalidUTF8},
	} {
		_, err := normalPassword(c.password)
		want(t, fmt.Sprintf("%d bytes", len(c.password)), err, c.err)
	}
	e := newEnv(t)
	if _, err := e.Register(t.Context(), "alice", "cafe\u0301 noir", "phone", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Login(t.Context(), "alice", "café noir", "phone", 1); err != nil {
		t.Errorf("the same password composed: %v", err)
	}
}

func TestRegisterAndLogin(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	g := e.register("Rene\u0301", "phone")
	if g.UserID != "René" || g.DeviceID != "phone" {
		t.Errorf("registered %q on %q", g.UserID, g.DeviceID)
	}
	now := e.clock.now()
	if got := time.UnixMilli(g.AccessExpires).Sub(now); got != 15*time.Minute {
		t.Errorf("the access token expires after %s", got)
	}
	if got := time.UnixMilli(g.RefreshExpires).Sub(now); got != 30*24*time.Hour {
		t.Errorf("the refresh token expires after %s", got)
	}
	who, err := e.VerifyAccess(ctx, g.AccessToken)
	if err != nil || who.User != "René" || who.Device != "phone" || who.Outside || !who.Expires.Equal(now.Truncate(time.Second).Add(15*time.Minute)) {
		t.Errorf("verified %+v, %v", who, err)
	}

	_, err = e.Register(ctx, "René", password, "phone", 1)
	want(t, "the name again", err, code.NameTaken)
	_, err = e.Login(ctx, "René", "wrong password", "phone", 1)
	want(t, "a wrong password", err, code.BadCredentials)
	_, err2 := e.Login(ctx, "nobody", "wrong password", "phone", 1)
	want(t, "an unknown name", err2, code.BadCredentials)
	if err.Error() != err2.Error() {
		t.Errorf("an unknown name and a wrong password can be told apart: %v, %v", err, err2)
	}
	_, err = e.Login(ctx, "René", password, "bad\x00device", 1)
	want(t, "a bad device", err, code.BadRequest)
	_, err = e.Register(ctx, "bob", password, "bad\x00device", 1)
	want(t, "a bad device", err, code.BadRequest)
	_, err = e.Login(ctx, "", password, "", 1)
	want(t, "no name", err, code.BadRequest)
	_, err = e.Register(ctx, "bob", "short", "", 1)
	want(t, "a short password", err, code.BadRequest)

	g2 := e.login("René", "")
	if len(g2.DeviceID) != 32 {
		t.Errorf("the server made the device id %q", g2.DeviceID)
	}
	for _, u := range []struct {
		user id.UserID
		want bool
	}{{"René", true}, {"Rene\u0301", false}, {"nobody", false}, {"", false}} {
		for range 2 { // the second time from the cache
			if got, err := e.Exists(ctx, u.user); err != nil || got != u.want {
				t.Errorf("Exists(%q) = %v, %v", u.user, got, err)
			}
		}
	}
}

// A sign-in on a device ends the session it had.
func TestLoginReplacesSession(t *testing.T) {
	e := newEnv(t)
	old := e.register("alice", "phone")
	e.clock.pass(time.Second)
	g := e.login("alice", "phone")
	if got := e.heard(); !slices.Equal(got, []string{"alice/phone"}) {
		t.Errorf("heard %q", got)
	}
	_, err := e.VerifyAccess(t.Context(), old.AccessToken)
	want(t, "the old access token", err, code.SessionRevoked)
	_, err = e.Refresh(t.Context(), old.RefreshToken)
	want(t, "the old refresh token", err, code.SessionRevoked)
	if _, err := e.VerifyAccess(t.Context(), g.AccessToken); err != nil {
		t.Errorf("showing the old refresh token ended the new session: %v", err)
	}
}

func TestRegistrationOfOneNameAtOnce(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.HashesAtOnce = 8; c.HashesWaiting = 100 })
	const n = 32
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		won  []string
		lost int
	)
	for i := range n {
		wg.Go(func() {
			pw := fmt.Sprintf("password of %d", i)
			_, err := e.Register(context.Background(), "alice", pw, id.DeviceID(fmt.Sprintf("d%d", i)), 1)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won = append(won, pw)
			case err.Code == code.NameTaken:
				lost++
			default:
				t.Errorf("register: %v", err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 || lost != n-1 {
		t.Fatalf("%d won, %d lost", len(won), lost)
	}
	if _, err := e.Login(t.Context(), "alice", won[0], "d", 1); err != nil {
		t.Errorf("the winner's password: %v", err)
	}
	devices, _ := e.devices(t.Context(), "alice")
	if len(devices.all) != 2 {
		t.Errorf("%d devices are stored, want the winner's and the one that signed in", len(devices.all))
	}
}

func TestHashesAreBounded(t *testing.T) {
	g := newHashGate(1, 1, time.Hour)
	ctx := t.Context()
	if err := g.enter(ctx); err != nil {
		t.Fatal(err)
	}
	second := make(chan *code.Error)
	go func() { second <- g.enter(ctx) }()
	for len(g.waiting) < 2 {
		time.Sleep(time.Millisecond)
	}
	want(t, "a third", g.enter(ctx), code.Overloaded)
	g.leave()
	if err := <-second; err != nil {
		t.Errorf("the second: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	want(t, "one who went away", g.enter(gone), code.Overloaded)
	g.leave()
	if len(g.turns) != 0 || len(g.waiting) != 0 {
		t.Errorf("%d turns and %d places are still taken", len(g.turns), len(g.waiting))
	}

	g = newHashGate(1, 1, time.Millisecond)
	_ = g.enter(ctx)
	want(t, "one who waited too long", g.enter(ctx), code.Overloaded)

	e := newEnv(t, func(c *Config) { c.HashesAtOnce = 1; c.HashesWaiting = 1; c.HashWait = time.Millisecond })
	tok := e.register("alice", "phone").AccessToken
	_ = e.hashes.enter(ctx)
	_, err := e.Register(ctx, "bob", password, "d", 1)
	want(t, "register", err, code.Overloaded)
	_, err = e.Login(ctx, "alice", password, "d", 1)
	want(t, "login", err, code.Overloaded)
	_, err = e.Login(ctx, "nobody", password, "d", 1)
	want(t, "login of nobody", err, code.Overloaded)
	want(t, "change of password", e.ChangePassword(ctx, tok, password, password+"x"), code.Overloaded)
}

func TestHashFormat(t *testing.T) {
	prod := withDefaults(Argon{})
	h := hashPassword(password, prod, Argon.Key)
	if !strings.HasPrefix(h, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("a hash begins %.40q", h)
	}
	ok, stale, err := checkPassword(password, h, prod, Argon.Key)
	if !ok || stale || err != nil {
		t.Errorf("checked: %v, %v, %v", ok, stale, err)
	}
	ok, stale, _ = checkPassword(password+"x", h, cheap, Argon.Key)
	if ok || !stale {
		t.Errorf("another password at another cost: %v, %v", ok, stale)
	}
	if h == hashPassword(password, prod, Argon.Key) {
		t.Error("two hashes have one salt")
	}
	for _, bad := range []string{
		"", "x", "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ", "$argon2i$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
		"$argon2id$v=18$m=64,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", "$argon2id$v=19$m=99999999,t=1,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA",
		"$argon2id$v=19$m=64,t=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", "$argon2id$v=19$m=64,t=1,p=1$!$aGFzaGhhc2hoYXNoaGFzaA",
		"$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$YQ",
	} {
		if _, _, err := checkPassword(password, bad, cheap, Argon.Key); err == nil {
			t.Errorf("the stored hash %q was read", bad)
		}
	}
}

// A password hashed at an older cost is hashed anew at the next sign-in.
func TestHashIsRenewed(t *testing.T) {
	e := newEnv(t)
	e.register("alice", "phone")
	e.cfg.Argon = Argon{KiB: 128, Passes: 1, Lanes: 1}
	// A conflict in between must not cost another hash, nor lose the new one.
	e.store.next(fault{err: kv.ErrConflict})
	e.login("alice", "phone")
	_, acc, _ := e.readAccount(t.Context(), e.cfg.Keys.Account(nil, "alice"))
	if !strings.Contains(acc.Hash, "m=128,") {
		t.Errorf("the stored hash is %.40q", acc.Hash)
	}
	e.login("alice", "phone")
}

func TestDevicesPerUser(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.DevicesPerUser = 3 })
	e.register("alice", "d0")
	for i := 1; i < 3; i++ {
		e.clock.pass(time.Second)
		e.login("alice", id.DeviceID(fmt.Sprintf("d%d", i)))
	}
	e.clock.pass(time.Second)
	if err := e.Revoke(t.Context(), "alice", "d2"); err != nil {
		t.Fatal(err)
	}
	e.heard()
	names := func() (out []string) {
		set, err := e.devices(t.Context(), "alice")
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range set.all {
			out = append(out, string(d.device))
		}
		return out
	}
	e.login("alice", "d3") // the revoked one makes room
	if got := names(); !slices.Equal(got, []string{"d0", "d1", "d3"}) {
		t.Errorf("devices %q", got)
	}
	if got := e.heard(); len(got) != 0 {
		t.Errorf("heard %q", got)
	}
	e.clock.pass(time.Second)
	e.login("alice", "d4") // the one unused the longest
	if got := names(); !slices.Equal(got, []string{"d1", "d3", "d4"}) {
		t.Errorf("devices %q", got)
	}
	if got := e.heard(); !slices.Equal(got, []string{"alice/d0"}) {
		t.Errorf("heard %q", got)
	}
	e.login("alice", "d4") // one it has
	if got := names(); len(got) != 3 {
		t.Errorf("devices %q", got)
	}
}

// A device whose row was deleted and that comes back doesn't bring its old session back.
func TestGenerationsAreNotReused(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.DevicesPerUser = 1 })
	old := e.register("alice", "a")
	e.clock.pass(time.Second)
	e.login("alice", "b")
	e.clock.pass(time.Second)
	e.login("alice", "a")
	_, err := e.VerifyAccess(t.Context(), old.AccessToken)
	want(t, "the first access token", err, code.SessionRevoked)
	_, err = e.Refresh(t.Context(), old.RefreshToken)
	want(t, "the first refresh token", err, code.SessionRevoked)
}

func TestKnownUsersAreBounded(t *testing.T) {
	k := knownUsers{limit: 10}
	for i := range 100 {
		u := id.UserID(fmt.Sprint(i))
		k.add(u, 0)
		if !k.has(u) {
			t.Errorf("%s was forgotten at once", u)
		}
		if len(k.set) > 10 {
			t.Fatalf("%d names are kept", len(k.set))
		}
	}
}

func TestConfig(t *testing.T) {
	keys := newEnv(t).cfg.Crypt
	store := newEnv(t).store
	for _, c := range []Config{
		{},
		{Store: store},
		{Crypt: keys},
		{Store: store, Crypt: keys, AccessTTL: -1},
		{Store: store, Crypt: keys, HashesAtOnce: -1},
		{Store: store, Crypt: keys, Argon: Argon{KiB: 1, Passes: 1, Lanes: 1}},
		{Store: store, Crypt: keys, Issuers: []Issuer{{Issuer: "x", Algorithm: "HS256"}}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	s, err := New(Config{Store: store, Crypt: keys})
	if err != nil {
		t.Fatal(err)
	}
	if s.cfg.Argon != (Argon{KiB: 19 << 10, Passes: 2, Lanes: 1}) || s.cfg.AccessTTL != 15*time.Minute || cap(s.hashes.turns) < 1 {
		t.Errorf("defaults: %+v", s.cfg)
	}
}

// What the store fails with reaches the client as a code, and operations survive what can be survived.
func TestStoreFailures(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		err  error
		want code.Code
	}{
		{kv.ErrFull, code.StorageFull}, {kv.ErrUnavailable, code.Unavailable}, {kv.ErrClosed, code.Unavailable},
		{context.DeadlineExceeded, code.Unavailable}, {errBroken, code.Unavailable}, {kv.ErrTooLarge, code.Internal},
	} {
		e := newEnv(t)
		g := e.register("alice", "phone")
		e.store.next(fault{err: c.err})
		_, err := e.Register(ctx, "bob", password, "d", 1)
		want(t, "register", err, c.want)
		e.store.next(fault{err: c.err})
		_, err = e.Login(ctx, "alice", password, "d", 1)
		want(t, "login", err, c.want)
		e.store.next(fault{err: c.err})
		_, err = e.Refresh(ctx, g.RefreshToken)
		want(t, "refresh", err, c.want)
		e.store.next(fault{err: c.err})
		want(t, "revoke", e.Revoke(ctx, "alice", "phone"), c.want)
		e.store.next(fault{err: c.err})
		want(t, "revoke all", e.RevokeAll(ctx, "alice"), c.want)
		e.store.next(fault{err: c.err})
		want(t, "change password", e.ChangePassword(ctx, g.AccessToken, password, "another password"), c.want)
		if got := e.heard(); len(got) != 0 {
			t.Errorf("heard %q of what wasn't stored", got)
		}
		if _, err := e.VerifyAccess(ctx, g.AccessToken); err != nil {
			t.Errorf("after nothing was stored: %v", err)
		}

		e.store.failReads(c.err)
		_, err = e.Register(ctx, "bob", password, "d", 1)
		want(t, "register", err, c.want)
		_, err = e.Login(ctx, "alice", password, "d", 1)
		want(t, "login", err, c.want)
		_, err = e.Refresh(ctx, g.RefreshToken)
		want(t, "refresh", err, c.want)
		_, err = e.VerifyAccess(ctx, g.AccessToken)
		want(t, "verify", err, c.want)
		want(t, "revoke", e.Revoke(ctx, "alice", "phone"), c.want)
		want(t, "revoke all", e.RevokeAll(ctx, "alice"), c.want)
		want(t, "logout", e.Logout(ctx, g.RefreshToken, false), c.want)
		if _, err := e.Exists(ctx, "bob"); err == nil {
			t.Error("Exists without a store")
		}
	}

	// Conflicts and unknown outcomes, stored or not, end as if nothing had happened.
	for _, f := range []fault{
		{err: kv.ErrConflict}, {err: kv.ErrUndetermined}, {err: kv.ErrUndetermined, stored: true},
	} {
		e := newEnv(t)
		e.store.next(f)
		g := e.register("alice", "phone")
		if _, err := e.VerifyAccess(ctx, g.AccessToken); err != nil {
			t.Errorf("%+v: registered: %v", f, err)
		}
		e.clock.pass(time.Second)
		e.store.next(f)
		g = e.login("alice", "phone")
		if _, err := e.VerifyAccess(ctx, g.AccessToken); err != nil {
			t.Errorf("%+v: signed in: %v", f, err)
		}
		e.store.next(f)
		g, err := e.Refresh(ctx, g.RefreshToken)
		want(t, "refresh", err, 0)
		g, err = e.Refresh(ctx, g.RefreshToken)
		want(t, "refresh again", err, 0)
		other := e.login("alice", "laptop")
		e.store.next(f)
		want(t, "change password", e.ChangePassword(ctx, g.AccessToken, password, "another password"), 0)
		_, err = e.VerifyAccess(ctx, g.AccessToken)
		want(t, "the session that changed it", err, 0)
		_, err = e.VerifyAccess(ctx, other.AccessToken)
		want(t, "the other session", err, code.SessionRevoked)
		e.store.next(f)
		want(t, "revoke", e.Revoke(ctx, "alice", "phone"), 0)
		_, err = e.VerifyAccess(ctx, g.AccessToken)
		want(t, "a revoked session", err, code.SessionRevoked)
		e.store.next(f)
		want(t, "revoke all", e.RevokeAll(ctx, "alice"), 0)
	}

	// A conflict that never ends.
	e := newEnv(t)
	always := make([]fault, tries)
	for i := range always {
		always[i].err = kv.ErrConflict
	}
	e.store.next(always...)
	_, err := e.Register(ctx, "alice", password, "d", 1)
	want(t, "register", err, code.Unavailable)
}

// Somebody else registers the name between our read and our commit.
func TestRegisterLosesAfterTheRead(t *testing.T) {
	e := newEnv(t)
	e.store.next(fault{before: func() { e.register("alice", "first") }})
	_, err := e.Register(t.Context(), "alice", "another password", "second", 1)
	want(t, "the second", err, code.NameTaken)
	e.login("alice", "first")
}

// A password that changes between our check and our commit doesn't let the old one in.
func TestLoginWhileThePasswordChanges(t *testing.T) {
	e := newEnv(t)
	g := e.register("alice", "phone")
	e.store.next(fault{before: func() {
		if err := e.ChangePassword(context.Background(), g.AccessToken, password, "another password"); err != nil {
			t.Error(err)
		}
	}})
	_, err := e.Login(t.Context(), "alice", password, "laptop", 1)
	want(t, "the old password", err, code.BadCredentials)
	devices, _ := e.devices(t.Context(), "alice")
	if len(devices.all) != 1 {
		t.Errorf("%d devices", len(devices.all))
	}
}

// Rows that can't be read are an error, never an absence.
func TestDamagedRows(t *testing.T) {
	e := newEnv(t)
	g := e.register("alice", "phone")
	put := func(key []byte, v ...byte) {
		var tx kv.Tx
		tx.Set(key, v)
		if err := e.commit(t.Context(), &tx); err != nil {
			t.Fatal(err)
		}
	}
	put(e.cfg.Keys.Device(nil, "alice", "phone"), 99)
	_, err := e.VerifyAccess(t.Context(), g.AccessToken)
	want(t, "verify", err, code.Internal)
	_, err = e.Refresh(t.Context(), g.RefreshToken)
	want(t, "refresh", err, code.Internal)
	_, err = e.Login(t.Context(), "alice", password, "phone", 1)
	want(t, "login", err, code.Internal)
	want(t, "revoke", e.Revoke(t.Context(), "alice", "phone"), code.Internal)
	want(t, "logout", e.Logout(t.Context(), g.RefreshToken, false), code.Internal)
	put(e.cfg.Keys.Account(nil, "alice"), 1, 0)
	_, err = e.Login(t.Context(), "alice", password, "laptop", 1)
	want(t, "login", err, code.Internal)
	_, err = e.Register(t.Context(), "alice", password, "laptop", 1)
	want(t, "register", err, code.Internal)
	e.known.set = nil
	if _, err := e.Exists(t.Context(), "alice"); err == nil {
		t.Error("Exists read a damaged row")
	}
	put(e.cfg.Keys.Account(nil, "mallory"), (&accountRow{Hash: "nonsense"}).append(nil)...)
	_, err = e.Login(t.Context(), "mallory", password, "laptop", 1)
	want(t, "a damaged hash", err, code.Internal)
}

// No token, password or hash reaches the log, whatever happens.
func TestNoSecretsInTheLog(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	secrets := []string{password, "another password", "$argon2id$"}
	keep := func(tokens ...string) { secrets = append(secrets, tokens...) }
	g := e.register("alice", "phone")
	keep(g.AccessToken, g.RefreshToken)
	g2 := e.login("alice", "laptop")
	keep(g2.AccessToken, g2.RefreshToken)
	resume, _ := e.connect(g.AccessToken, "", "phone")
	keep(resume)
	g3, _ := e.Refresh(ctx, g.RefreshToken)
	keep(g3.AccessToken, g3.RefreshToken)
	errs := []*code.Error{e.ChangePassword(ctx, g3.AccessToken, password, "another password")}
	e.clock.pass(time.Minute)
	for _, tok := range slices.Clone(secrets) {
		_, err := e.Refresh(ctx, tok)
		errs = append(errs, err)
		_, err = e.VerifyAccess(ctx, tok)
		errs = append(errs, err, e.Logout(ctx, tok, false))
		_, _, _, err = e.Authenticate(ctx, tok, tok, "phone", 1)
		errs = append(errs, err)
		_, err = e.Login(ctx, "alice", tok, "tv", 1)
		errs = append(errs, err)
	}
	e.store.failReads(errBroken)
	_, err := e.Login(ctx, "alice", password, "phone", 1)
	errs = append(errs, err)
	text := e.log.String()
	for _, err := range errs {
		if err != nil {
			text += err.Error() + err.Reason + "\n"
		}
	}
	if !strings.Contains(text, "used twice") {
		t.Error("the log is empty")
	}
	for _, s := range secrets {
		if strings.Contains(text, s) {
			t.Errorf("%.20q... was logged", s)
		}
		if len(s) > 60 && strings.Contains(text, s[len(s)-20:]) {
			t.Errorf("the end of %.20q... was logged", s)
		}
	}
}
