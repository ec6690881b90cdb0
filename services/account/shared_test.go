package account

import (
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
)

// An account that another process deletes stops existing here after two seconds; what ends
// a session there is read at once.
func TestDeletedElsewhere(t *testing.T) {
	var cfg Config
	here := newEnv(t, func(c *Config) { c.Shared, cfg = true, *c })
	there, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(there.Close)
	ctx := t.Context()
	grant := here.register("alice", "phone")
	exists := func(s *Service, expected bool) {
		t.Helper()
		if ok, err := s.Exists(ctx, "alice"); err != nil || ok != expected {
			t.Errorf("exists: %v, %v", ok, err)
		}
	}
	exists(here.Service, true)
	exists(there, true)
	if _, got := here.connect(grant.AccessToken, "", "phone"); got != 0 {
		t.Errorf("connect: %s", got)
	}
	want(t, "revoke", there.Revoke(ctx, "alice", "phone"), 0)
	if _, err := here.VerifyAccess(ctx, grant.AccessToken); err == nil || err.Code != code.SessionRevoked {
		t.Error("a token that was revoked by another process is accepted")
	}
	if _, got := here.connect(grant.AccessToken, "", "phone"); got != code.SessionRevoked {
		t.Errorf("connect with a token that was revoked by another process: %s", got)
	}
	want(t, "delete", there.DeleteAccount(ctx, "alice"), 0)
	exists(there, false)
	here.clock.pass(2 * time.Second)
	exists(here.Service, false)
}
