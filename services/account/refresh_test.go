package account

import (
	"context"
	"encoding/base64"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
)

func TestRefreshRotates(t *testing.T) {
	e := newEnv(t)
	g := e.register("alice", "phone")
	seen := map[string]bool{g.RefreshToken: true}
	for range 5 {
		e.clock.pass(20 * 24 * time.Hour) // the session lives as long as it is used
		next, err := e.Refresh(t.Context(), g.RefreshToken)
		if err != nil {
			t.Fatal(err)
		}
		if seen[next.RefreshToken] || next.UserID != "alice" || next.DeviceID != "phone" {
			t.Fatalf("refreshed to %+v", next)
		}
		if _, err := e.VerifyAccess(t.Context(), next.AccessToken); err != nil {
			t.Fatal(err)
		}
		seen[next.RefreshToken] = true
		g = next
	}
	_, err := e.VerifyAccess(t.Context(), g.AccessToken)
	want(t, "fresh", err, 0)
	e.clock.pass(16 * time.Minute)
	_, err = e.VerifyAccess(t.Context(), g.AccessToken)
	want(t, "after a quarter of an hour", err, code.TokenExpired)
	e.clock.pass(30 * 24 * time.Hour)
	_, err = e.Refresh(t.Context(), g.RefreshToken)
	want(t, "after a month", err, code.Unauthenticated)
}

// A client that lost the answer asks again and gets the same.
func TestRefreshGrace(t *testing.T) {
	e := newEnv(t)
	g := e.register("alice", "phone")
	first, err := e.Refresh(t.Context(), g.RefreshToken)
	want(t, "refresh", err, 0)
	e.clock.pass(refreshGrace - time.Millisecond)
	again, err := e.Refresh(t.Context(), g.RefreshToken)
	want(t, "the lost answer", err, 0)
	if again.RefreshToken != first.RefreshToken {
		t.Error("the second answer brings another refresh token")
	}
	if _, err := e.VerifyAccess(t.Context(), again.AccessToken); err != nil {
		t.Error(err)
	}
	_, err = e.Refresh(t.Context(), first.RefreshToken)
	want(t, "going on", err, 0)
	if got := e.heard(); len(got) != 0 {
		t.Errorf("heard %q", got)
	}
}

func TestRefreshAtOnce(t *testing.T) {
	e := newEnv(t)
	g := e.register("alice", "phone")
	var (
		wg  sync.WaitGroup
		got [8]auth.Grant
	)
	for i := range got {
		wg.Go(func() {
			var err *code.Error
			if got[i], err = e.Refresh(context.Background(), g.RefreshToken); err != nil && err.Code != code.Unavailable {
				t.Errorf("refresh: %v", err)
			}
		})
	}
	wg.Wait()
	tokens := make(map[string]bool)
	for _, g := range got {
		if g.RefreshToken != "" {
			tokens[g.RefreshToken] = true
		}
	}
	if len(tokens) != 1 {
		t.Errorf("%d different refresh tokens", len(tokens))
	}
}

// Whoever shows a token that was replaced ends the session of thief and owner alike.
func TestRefreshTheft(t *testing.T) {
	for _, late := range []string{"after the grace", "two behind"} {
		e := newEnv(t)
		stolen := e.register("alice", "phone")
		other := e.login("alice", "laptop")
		owner, err := e.Refresh(t.Context(), stolen.RefreshToken)
		want(t, "the owner", err, 0)
		if late == "two behind" {
			if owner, err = e.Refresh(t.Context(), owner.RefreshToken); err != nil {
				t.Fatal(err)
			}
		} else {
			e.clock.pass(refreshGrace)
		}
		resume, _ := e.connect(owner.AccessToken, "", "phone")
		_, err = e.Refresh(t.Context(), stolen.RefreshToken)
		want(t, "the thief "+late, err, code.SessionRevoked)
		_, err = e.Refresh(t.Context(), owner.RefreshToken)
		want(t, "the owner's refresh token", err, code.SessionRevoked)
		_, err = e.VerifyAccess(t.Context(), owner.AccessToken)
		want(t, "the owner's access token", err, code.SessionRevoked)
		if _, c := e.connect("", resume, "phone"); c != code.SessionRevoked {
			t.Errorf("the owner's resume token: %s", c)
		}
		_, err = e.VerifyAccess(t.Context(), other.AccessToken)
		want(t, "another device", err, 0)
		if got := e.heard(); !slices.Equal(got, []string{"alice/phone"}) {
			t.Errorf("heard %q", got)
		}
	}
}

// What this server never made ends nobody's session.
func TestRefreshForged(t *testing.T) {
	e := newEnv(t)
	g := e.register("alice", "phone")
	resume, _ := e.connect(g.AccessToken, "", "phone")
	raw, err := base64.RawURLEncoding.DecodeString(g.RefreshToken)
	if err != nil {
		t.Fatal(err)
	}
	forged := []string{"", "x", g.AccessToken, resume, g.RefreshToken + "A", g.RefreshToken + "=", string(make([]byte, 4096)), "!" + g.RefreshToken[1:]}
	for i := range raw {
		b := slices.Clone(raw)
		b[i] ^= 1
		forged = append(forged, base64.RawURLEncoding.EncodeToString(b), base64.RawURLEncoding.EncodeToString(b[:i]))
	}
	stranger := newEnv(t)
	sg := stranger.register("alice", "phone")
	forged = append(forged, sg.RefreshToken)
	for _, f := range forged {
		_, err := e.Refresh(t.Context(), f)
		want(t, "refresh", err, code.Unauthenticated)
		want(t, "logout", e.Logout(t.Context(), f, true), code.Unauthenticated)
	}
	if got := e.heard(); len(got) != 0 {
		t.Errorf("heard %q", got)
	}
	if _, err := e.Refresh(t.Context(), g.RefreshToken); err != nil {
		t.Error(err)
	}
}

func TestLogout(t *testing.T) {
	e := newEnv(t)
	g := e.register("alice", "phone")
	other := e.login("alice", "laptop")
	next, err := e.Refresh(t.Context(), g.RefreshToken)
	want(t, "refresh", err, 0)
	want(t, "logout", e.Logout(t.Context(), g.RefreshToken, false), 0) // the replaced one will do
	if got := e.heard(); !slices.Equal(got, []string{"alice/phone"}) {
		t.Errorf("heard %q", got)
	}
	_, err = e.Refresh(t.Context(), next.RefreshToken)
	want(t, "refresh after logout", err, code.SessionRevoked)
	want(t, "logout again", e.Logout(t.Context(), g.RefreshToken, true), 0)
	_, err = e.VerifyAccess(t.Context(), other.AccessToken)
	want(t, "a session that is over ended others", err, 0)

	e.clock.pass(time.Second)
	g = e.login("alice", "phone")
	want(t, "logout everywhere", e.Logout(t.Context(), g.RefreshToken, true), 0)
	for _, tok := range []string{g.AccessToken, other.AccessToken} {
		_, err = e.VerifyAccess(t.Context(), tok)
		want(t, "after logging out everywhere", err, code.SessionRevoked)
	}
	e.clock.pass(time.Millisecond)
	g = e.login("alice", "phone")
	_, err = e.VerifyAccess(t.Context(), g.AccessToken)
	want(t, "signing in again at once", err, 0)

	// A token of a session whose row is gone.
	e2 := newEnv(t, func(c *Config) { c.Crypt = e.cfg.Crypt })
	want(t, "logout of nothing", e2.Logout(t.Context(), g.RefreshToken, true), 0)
	_, err = e2.Refresh(t.Context(), g.RefreshToken)
	want(t, "refresh of nothing", err, code.SessionRevoked)
}

func TestChangePassword(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	g := e.register("alice", "phone")
	other := e.login("alice", "laptop")
	third := e.login("alice", "tablet")
	minted, err := MintToken(e.cfg.Crypt, "", "alice", "", e.clock.now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	_, cerr := e.VerifyAccess(ctx, minted)
	want(t, "a minted token in the same second", cerr, 0)
	want(t, "a wrong old one", e.ChangePassword(ctx, g.AccessToken, "wrong password", "another password"), code.BadCredentials)
	want(t, "a short old one", e.ChangePassword(ctx, g.AccessToken, "wrong", "another password"), code.BadCredentials)
	want(t, "a short new one", e.ChangePassword(ctx, g.AccessToken, password, "short"), code.BadRequest)
	want(t, "a forged token", e.ChangePassword(ctx, "x", password, "another password"), code.Unauthenticated)
	e.heard()
	want(t, "a good one", e.ChangePassword(ctx, g.AccessToken, password, "another password"), 0)
	if got := e.heard(); !slices.Equal(got, []string{"alice/laptop", "alice/tablet"}) {
		t.Errorf("heard %q", got)
	}
	_, cerr = e.VerifyAccess(ctx, g.AccessToken)
	want(t, "this device", cerr, 0)
	_, cerr = e.Refresh(ctx, g.RefreshToken)
	want(t, "this device's refresh", cerr, 0)
	for _, o := range []auth.Grant{other, third} {
		_, cerr = e.VerifyAccess(ctx, o.AccessToken)
		want(t, "another device", cerr, code.SessionRevoked)
		_, cerr = e.Refresh(ctx, o.RefreshToken)
		want(t, "another device's refresh", cerr, code.SessionRevoked)
	}
	_, cerr = e.VerifyAccess(ctx, minted)
	want(t, "a minted token", cerr, code.SessionRevoked)
	_, cerr = e.Login(ctx, "alice", password, "laptop", 1)
	want(t, "the old password", cerr, code.BadCredentials)
	if _, err := e.Login(ctx, "alice", "another password", "laptop", 1); err != nil {
		t.Error(err)
	}
	ghost, err := MintToken(e.cfg.Crypt, "", "ghost", "", e.clock.now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	want(t, "no account", e.ChangePassword(ctx, ghost, password, "another password"), code.Forbidden)
}

func TestRevoke(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	g := e.register("alice", "phone")
	other := e.login("alice", "laptop")
	resume, _ := e.connect(g.AccessToken, "", "phone")
	want(t, "revoke", e.Revoke(ctx, "alice", "phone"), 0)
	if got := e.heard(); !slices.Equal(got, []string{"alice/phone"}) {
		t.Errorf("heard %q", got)
	}
	if _, c := e.connect(g.AccessToken, "", "phone"); c != code.SessionRevoked {
		t.Errorf("access token: %s", c)
	}
	if _, c := e.connect("", resume, "phone"); c != code.SessionRevoked {
		t.Errorf("resume token: %s", c)
	}
	if _, c := e.connect(other.AccessToken, "", "laptop"); c != 0 {
		t.Errorf("another device: %s", c)
	}
	want(t, "revoke again", e.Revoke(ctx, "alice", "phone"), 0)
	want(t, "of nobody", e.Revoke(ctx, "", "phone"), code.BadRequest)
	want(t, "of no device", e.Revoke(ctx, "alice", ""), code.BadRequest)
	want(t, "all of nobody", e.RevokeAll(ctx, ""), code.BadRequest)

	// What an operator revokes in advance doesn't take the name.
	want(t, "of who isn't there", e.RevokeAll(ctx, "carol"), 0)
	want(t, "of a device of who isn't there", e.Revoke(ctx, "carol", "phone"), 0)
	if ok, err := e.Exists(ctx, "carol"); ok || err != nil {
		t.Errorf("Exists: %v, %v", ok, err)
	}
	_, err := e.Login(ctx, "carol", password, "phone", 1)
	want(t, "login of who isn't there", err, code.BadCredentials)
	c := e.register("carol", "phone")
	_, err = e.VerifyAccess(ctx, c.AccessToken)
	want(t, "registered then", err, 0)
}

// A CONNECT that read the row just before the revocation is told of by the second telling.
func TestRevocationIsToldTwice(t *testing.T) {
	var s settler
	ran := make(chan int, 4)
	s.later(0, func() { ran <- 1 })
	if got := <-ran; got != 1 {
		t.Error(got)
	}
	s.later(time.Hour, func() { ran <- 2 })
	s.close()
	s.later(0, func() { ran <- 3 })
	select {
	case got := <-ran:
		t.Errorf("%d ran after the end", got)
	default:
	}

	e := newEnv(t)
	e.register("alice", "phone")
	want(t, "revoke", e.Revoke(t.Context(), "alice", "phone"), 0)
	e.heard()
	e.retell(Revocation{User: "alice", Device: "phone"})
	if got := e.heard(); !slices.Equal(got, []string{"alice/phone"}) {
		t.Errorf("heard %q", got)
	}
	e.login("alice", "phone")
	e.heard()
	e.retell(Revocation{User: "alice", Device: "phone"}) // a new session has begun
	if got := e.heard(); len(got) != 0 {
		t.Errorf("heard %q", got)
	}
	e.store.failReads(errBroken)
	e.retell(Revocation{User: "alice", Device: "phone"})
	if got := e.heard(); len(got) != 0 {
		t.Errorf("heard %q", got)
	}
}
