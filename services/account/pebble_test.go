package account

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// The same on the embedded engine, with everything at once: many users who register, sign in
// on several devices, refresh, change the password and leave.
func TestOnPebble(t *testing.T) {
	store, err := pebblekv.Open(pebblekv.Config{Dir: "store", FS: vfs.NewMem(), Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	e := newEnv(t, func(c *Config) { c.Store = store; c.HashesAtOnce, c.HashesWaiting, c.HashWait = 4, 1000, time.Minute })
	ctx := context.Background()
	var wg sync.WaitGroup
	for n := range 16 {
		wg.Go(func() {
			name := fmt.Sprint("user", n)
			first, err := e.Register(ctx, name, password, "d0", 1)
			want(t, "register", err, 0)
			_, err = e.Register(ctx, name, password, "d0", 1)
			want(t, "register again", err, code.NameTaken)
			var (
				own    sync.WaitGroup
				others [3]auth.Grant
			)
			for i := range others {
				own.Go(func() {
					var err *code.Error
					// Sign-ins of one user write the same row: a few conflicts are expected, and survived.
					if others[i], err = e.Login(ctx, name, password, id.DeviceID(fmt.Sprint("d", i+1)), 1); err != nil {
						t.Errorf("login: %v", err)
						return
					}
					others[i], err = e.Refresh(ctx, others[i].RefreshToken)
					want(t, "refresh", err, 0)
				})
			}
			own.Wait()
			for _, g := range others {
				_, err := e.VerifyAccess(ctx, g.AccessToken)
				want(t, "verify", err, 0)
			}
			want(t, "change password", e.ChangePassword(ctx, first.AccessToken, password, "another password"), 0)
			for _, g := range others {
				_, err := e.VerifyAccess(ctx, g.AccessToken)
				want(t, "verify after the change", err, code.SessionRevoked)
			}
			want(t, "logout", e.Logout(ctx, first.RefreshToken, false), 0)
			_, err = e.VerifyAccess(ctx, first.AccessToken)
			want(t, "verify after logout", err, code.SessionRevoked)
			_, err = e.Login(ctx, name, "another password", "d0", 1)
			want(t, "login", err, 0)
		})
	}
	wg.Wait()
}
