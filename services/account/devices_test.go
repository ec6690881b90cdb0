package account

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

const (
	phone   = uint8(wire.DeviceKind_DEVICE_KIND_PHONE)
	desktop = uint8(wire.DeviceKind_DEVICE_KIND_DESKTOP)
)

// presence is the connected devices of one user, with their kinds.
type presence map[id.DeviceID]uint8

func (p presence) Each(_ id.UserID, fn func(uint64, id.DeviceID)) {
	for d := range p {
		fn(1, d)
	}
}

func (p presence) Find(_ id.UserID, d id.DeviceID) (uint64, uint8) {
	if k, ok := p[d]; ok {
		return 1, k
	}
	return 0, 0
}

func body(t *testing.T, m packet.Body) []byte {
	t.Helper()
	b, err := m.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// list is DEVICES as one line a device.
func (e *env) list(u id.UserID, d id.DeviceID) (out []string) {
	e.t.Helper()
	ans, err := e.Devices(context.Background(), &packet.Origin{User: u, Device: d}, nil)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, x := range ans.(*wire.DevicesResponse).Devices {
		age := func(ms uint64) string {
			if ms == 0 {
				return "?"
			}
			return e.clock.now().Sub(time.UnixMilli(int64(ms))).Round(time.Second).String()
		}
		line := fmt.Sprintf("%s kind %d in %s seen %s", x.DeviceId, x.Kind, age(x.SignedInTime), age(x.LastSeenTime))
		if x.Online {
			line += " online"
		}
		if x.Current {
			line += " current"
		}
		out = append(out, line)
	}
	return out
}

func (e *env) signOut(u id.UserID, from, target id.DeviceID) (uint32, *code.Error) {
	e.t.Helper()
	ans, err := e.SignOut(context.Background(), &packet.Origin{User: u, Device: from}, body(e.t, &wire.SignOutRequest{DeviceId: string(target)}))
	if err != nil {
		return 0, err.(*code.Error)
	}
	return ans.(*wire.SignOutResponse).SignedOut, nil
}

func wantLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestDevices(t *testing.T) {
	online := presence{"desk": desktop, "guest": phone}
	e := newEnv(t, func(c *Config) { c.Presence = online })
	ctx := t.Context()
	e.register("alice", "phone")
	e.clock.pass(time.Minute)
	desk, err := e.Login(ctx, "alice", password, "desk", 0) // doesn't say its kind when it signs in
	want(t, "login", err, 0)
	e.clock.pass(time.Minute)
	e.login("alice", "tablet")
	want(t, "revoke", e.Revoke(ctx, "alice", "tablet"), 0)
	wantLines(t, "devices", e.list("alice", "desk"), []string{
		"desk kind 3 in 1m0s seen 0s online current", "guest kind 1 in ? seen 0s online", "phone kind 1 in 2m0s seen 2m0s",
	})
	e.heard()
	wantLines(t, "recorded", e.recorded(), []string{
		`signed_in alice/desk(0) by ""`, `signed_in alice/tablet(1) by ""`, `revoked alice/tablet(1) by ""`,
	})

	n, err := e.signOut("alice", "desk", "phone")
	want(t, "sign out", err, 0)
	if n != 1 {
		t.Errorf("%d signed out", n)
	}
	wantLines(t, "heard", e.heard(), []string{"alice/phone"})
	wantLines(t, "recorded", e.recorded(), []string{`signed_out alice/phone(1) by "desk"`})
	if got := e.whys[len(e.whys)-1]; got != "signed out from another device" {
		t.Errorf("told because %q", got)
	}
	for _, target := range []id.DeviceID{"phone", "never"} { // nothing is known of them
		if n, err := e.signOut("alice", "desk", target); n != 0 || err != nil {
			t.Errorf("%s: %d signed out, %v", target, n, err)
		}
	}
	delete(online, "phone")
	e.login("alice", "phone")
	e.heard()
	e.recorded()
	if n, err := e.signOut("alice", "desk", ""); n != 2 || err != nil {
		t.Errorf("all others: %d signed out, %v", n, err)
	}
	heard := e.heard()
	slices.Sort(heard)
	wantLines(t, "heard", heard, []string{"alice/guest", "alice/phone"})
	_, err = e.VerifyAccess(ctx, desk.AccessToken)
	want(t, "the one that asked", err, 0)
	_, err = e.Refresh(ctx, desk.RefreshToken)
	want(t, "the one that asked, refreshing", err, 0)

	e.recorded()
	if n, err := e.signOut("alice", "desk", "desk"); n != 1 || err != nil { // itself
		t.Errorf("itself: %d signed out, %v", n, err)
	}
	wantLines(t, "recorded", e.recorded(), []string{`signed_out alice/desk(0) by ""`})
	_, err = e.VerifyAccess(ctx, desk.AccessToken)
	want(t, "itself", err, code.SessionRevoked)
}

func TestSignOutRefusals(t *testing.T) {
	e := newEnv(t)
	e.register("alice", "phone")
	e.login("alice", "desk")
	o := &packet.Origin{User: "alice", Device: "desk"}
	for what, in := range map[string][]byte{
		"no protobuf": {0xff}, "control characters": body(t, &wire.SignOutRequest{DeviceId: "a\x01"}),
		"too long": body(t, &wire.SignOutRequest{DeviceId: strings.Repeat("x", 65)}),
	} {
		_, err := e.SignOut(t.Context(), o, in)
		ce, _ := err.(*code.Error)
		want(t, what, ce, code.BadRequest)
	}
	if _, err := e.Devices(t.Context(), o, []byte{0xff}); err == nil {
		t.Error("DEVICES took what is no protobuf")
	}

	// Whatever the store does, the session ends once, and once only.
	e.heard()
	e.store.next(fault{err: kv.ErrConflict}, fault{err: kv.ErrUndetermined, stored: true})
	n, err := e.signOut("alice", "desk", "phone")
	want(t, "undetermined", err, 0)
	if got := e.heard(); n != 1 || len(got) != 1 {
		t.Errorf("%d signed out, heard %q", n, got)
	}
	if _, err := e.Login(t.Context(), "alice", password, "phone", phone); err != nil {
		t.Fatal(err)
	}
	e.store.next(fault{err: kv.ErrFull})
	_, err = e.signOut("alice", "desk", "phone")
	want(t, "full", err, code.StorageFull)
	e.store.failReads(errBroken)
	_, err = e.signOut("alice", "desk", "phone")
	want(t, "unreadable", err, code.Unavailable)
	if _, err := e.Devices(t.Context(), o, nil); err == nil {
		t.Error("DEVICES without a store")
	}
}

// An outside issuer's user has no rows; whoever signs out device after device can't fill the
// store with them, and no token that was refused is good again.
func TestSignOutOfOutsideUsersIsBounded(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.DevicesPerUser = 2 })
	keys := e.cfg.Crypt
	mint := func(d id.DeviceID) string {
		tok, err := MintToken(keys, "", "mallory", d, e.clock.now(), 24*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	mine, first := mint("mine"), mint("d0")
	for i := range 40 {
		e.clock.pass(time.Second)
		if n, err := e.signOut("mallory", "mine", id.DeviceID(fmt.Sprintf("d%d", i))); n != 1 || err != nil {
			t.Fatalf("%d: %d signed out, %v", i, n, err)
		}
	}
	set, cerr := e.devices(t.Context(), "mallory")
	if cerr != nil || len(set.all) > maxDeviceRows*2 {
		t.Errorf("%d rows, %v", len(set.all), cerr)
	}
	_, c := e.connect(first, "", "d0")
	if c != code.SessionRevoked {
		t.Errorf("a token from before its device was signed out: %v", c)
	}
	if _, c = e.connect(mine, "", "mine"); c != code.SessionRevoked {
		t.Errorf("a token from before what was forgotten: %v", c) // the price
	}
	e.clock.pass(time.Second)
	if _, c = e.connect(mint("d0"), "", "d0"); c != 0 {
		t.Errorf("a fresh token: %v", c)
	}
}

// One of a kind: who signs in on a second phone is signed out of the first, and of nothing else.
func TestDevicesPerKind(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.DevicesPerKind = 1 })
	ctx := t.Context()
	old := e.register("alice", "phone1")
	e.clock.pass(time.Second)
	desk, err := e.Login(ctx, "alice", password, "desk", desktop)
	want(t, "a desktop", err, 0)
	e.clock.pass(time.Second)
	if got := e.heard(); len(got) != 0 {
		t.Errorf("a desktop ended %q", got)
	}
	e.recorded()
	e.login("alice", "phone2")
	wantLines(t, "heard", e.heard(), []string{"alice/phone1"})
	wantLines(t, "recorded", e.recorded(), []string{`signed_in alice/phone2(1) by ""`, `revoked alice/phone1(1) by "phone2"`})
	_, err = e.Refresh(ctx, old.RefreshToken)
	want(t, "the first phone", err, code.SessionRevoked)
	_, err = e.Refresh(ctx, desk.RefreshToken)
	want(t, "the desktop", err, 0)
	e.login("alice", "phone2") // the same one again
	if got := e.heard(); !slices.Equal(got, []string{"alice/phone2"}) {
		t.Errorf("heard %q", got)
	}
	if got := e.list("alice", "desk"); len(got) != 2 {
		t.Errorf("devices %q", got)
	}
}

func TestEventsOfPasswordAndLogout(t *testing.T) {
	e := newEnv(t)
	ctx := t.Context()
	g := e.register("alice", "phone")
	desk := e.login("alice", "desk")
	e.recorded()
	want(t, "password", e.ChangePassword(ctx, desk.AccessToken, password, "another password"), 0)
	wantLines(t, "recorded", e.recorded(), []string{`password_changed alice/desk(0) by ""`})
	_, err := e.Refresh(ctx, g.RefreshToken)
	want(t, "the phone", err, code.SessionRevoked)
	want(t, "logout", e.Logout(ctx, desk.RefreshToken, true), 0)
	wantLines(t, "recorded", e.recorded(), []string{`signed_out alice/(0) by "desk"`})
	want(t, "revoke all", e.RevokeAll(ctx, "alice"), 0)
	wantLines(t, "recorded", e.recorded(), []string{`revoked alice/(0) by ""`})
}
