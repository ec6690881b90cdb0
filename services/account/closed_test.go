package account

import (
	"context"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
)

func TestABannedUserIsNobody(t *testing.T) {
	e := newEnv(t)
	ctx := context.Background()
	phone := e.register("alice", "phone")
	pad := e.login("alice", "pad")
	resume, c := e.connect(phone.AccessToken, "", "phone")
	if c != 0 {
		t.Fatal(c)
	}
	e.heard()
	want(t, "ban", e.Ban(ctx, "alice", "spam"), 0)
	if got := strings.Join(e.heard(), " "); !strings.Contains(got, "alice/phone") || !strings.Contains(got, "alice/pad") {
		t.Errorf("told of %s", got)
	}
	closed := func(what string, wanted code.Code) {
		t.Helper()
		for name, try := range map[string]func() code.Code{
			"access": func() code.Code { _, c := e.connect(pad.AccessToken, "", "pad"); return c },
			"resume": func() code.Code { _, c := e.connect("", resume, "phone"); return c },
			"operator's token": func() code.Code {
				token, err := MintToken(e.cfg.Crypt, "", "alice", "", e.clock.now().Add(2e9), 60e9)
				if err != nil {
					t.Fatal(err)
				}
				e.clock.set(e.clock.now().Add(3e9))
				_, c := e.connect(token, "", "new")
				return c
			},
			"password": func() code.Code {
				_, err := e.Login(ctx, "alice", password, "phone", 1)
				if err == nil {
					return 0
				}
				return err.Code
			},
			"refresh": func() code.Code {
				_, err := e.Refresh(ctx, pad.RefreshToken)
				if err == nil {
					return 0
				}
				return err.Code
			},
		} {
			if got := try(); got != wanted && !(wanted == 0 && (got == code.SessionRevoked)) {
				t.Errorf("%s, %s: %s, want %s", what, name, got, wanted)
			}
		}
	}
	closed("banned", code.Banned)
	if _, err := e.Login(ctx, "alice", "wrong password", "phone", 1); err == nil || err.Code != code.BadCredentials {
		t.Errorf("a wrong password tells of the ban: %v", err)
	}
	if _, err := e.Login(ctx, "alice", password, "phone", 1); err == nil || err.Reason != "spam" {
		t.Errorf("the reason isn't told: %v", err)
	}
	if ok, err := e.Exists(ctx, "alice"); !ok || err != nil {
		t.Errorf("messages to a banned user: %t, %v", ok, err)
	}
	if st, err := e.Look(ctx, "alice"); err != nil || st.Closed != "banned" || st.Reason != "spam" || st.Since.IsZero() || st.Registered.IsZero() {
		t.Errorf("the operator sees %+v, %v", st, err)
	}
	want(t, "a long reason", e.Ban(ctx, "alice", strings.Repeat("x", 201)), code.BadRequest)
	want(t, "unban", e.Unban(ctx, "alice"), 0)
	want(t, "unban again", e.Unban(ctx, "alice"), 0)
	closed("unbanned", 0) // what was given out before the ban stays revoked
	if st, _ := e.Look(ctx, "alice"); st.Closed != "" {
		t.Errorf("the operator sees %+v", st)
	}
	e.login("alice", "phone")
	// Nobody has to exist to be banned: an outside issuer's users don't.
	want(t, "banning who isn't there", e.Ban(ctx, "out:side", ""), 0)
	if _, err := e.Register(ctx, "out:side", password, "d", 1); err == nil || err.Code != code.NameTaken {
		t.Errorf("a banned name is given out: %v", err)
	}
}

func TestADeletedAccountStaysDeleted(t *testing.T) {
	e := newEnv(t)
	ctx := context.Background()
	g := e.register("alice", "phone")
	if ok, _ := e.Exists(ctx, "alice"); !ok {
		t.Fatal("alice isn't there")
	}
	e.store.next(fault{err: kv.ErrUndetermined, stored: true}, fault{err: kv.ErrConflict})
	want(t, "delete", e.DeleteAccount(ctx, "alice"), 0)
	want(t, "delete again", e.DeleteAccount(ctx, "alice"), 0)
	if ok, err := e.Exists(ctx, "alice"); ok || err != nil {
		t.Errorf("alice still is there: %v", err)
	}
	if _, c := e.connect(g.AccessToken, "", "phone"); c != code.Banned {
		t.Errorf("connect: %s", c)
	}
	if _, err := e.Login(ctx, "alice", password, "phone", 1); err == nil || err.Code != code.BadCredentials {
		t.Errorf("login: %v", err)
	}
	if _, err := e.Register(ctx, "alice", password, "phone", 1); err == nil || err.Code != code.NameTaken {
		t.Errorf("register: %v", err)
	}
	want(t, "unban", e.Unban(ctx, "alice"), code.BadRequest)
	want(t, "ban", e.Ban(ctx, "alice", ""), code.BadRequest)
	if st, err := e.Look(ctx, "alice"); err != nil || st.Closed != "deleted" {
		t.Errorf("the operator sees %+v, %v", st, err)
	}
}
