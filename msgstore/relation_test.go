package msgstore_test

import (
	"errors"
	"slices"
	"testing"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/id"
)

func TestRelations(t *testing.T) {
	ctx := t.Context()
	store := memory.New(memory.Config{})
	keys := Keys{Keyspace: 3}
	x := NewRelations(store, keys)
	commit := func(fill func(tx *kv.Tx)) error {
		tx := new(kv.Tx)
		fill(tx)
		store.Commit(ctx, tx)
		return tx.Err
	}

	p, raw, err := x.Profile(ctx, "alice")
	if err != nil || raw != nil || p.Version != 0 {
		t.Fatalf("no profile: %+v, %x, %v", p, raw, err)
	}
	first := &Profile{Version: 1, Name: "Alice"}
	if err := commit(func(tx *kv.Tx) { x.PutProfile(tx, "alice", nil, first) }); err != nil {
		t.Fatal(err)
	}
	if err := commit(func(tx *kv.Tx) { x.PutProfile(tx, "alice", nil, first) }); !errors.Is(err, kv.ErrConflict) {
		t.Fatalf("a second first profile: %v", err)
	}
	ps, err := x.Profiles(ctx, []id.UserID{"alice0", "alice"})
	if err != nil || len(ps) != 2 || ps[0].Version != 0 || ps[1].Name != "Alice" {
		t.Fatalf("profiles: %+v, %v", ps, err)
	}

	// The rows of alice are not those of alice0.
	if err := commit(func(tx *kv.Tx) {
		for _, u := range []id.UserID{"bob", "carol", "dave"} {
			x.PutBlock(tx, "alice", u, nil, 5)
		}
		x.PutBlock(tx, "alice0", "eve", nil, 5)
	}); err != nil {
		t.Fatal(err)
	}
	blocked, err := x.Blocked(ctx, Pair{"alice", "bob"}, Pair{"bob", "alice"}, Pair{"alice", "eve"})
	if err != nil || !slices.Equal(blocked, []bool{true, false, false}) {
		t.Fatalf("blocked: %v, %v", blocked, err)
	}
	users, err := x.BlockedBy(ctx, "alice", "bob", 1)
	if err != nil || !slices.Equal(users, []id.UserID{"carol"}) {
		t.Fatalf("a page: %v, %v", users, err)
	}
	if err := commit(func(tx *kv.Tx) { x.DeleteBlock(tx, "alice", "bob", nil) }); !errors.Is(err, kv.ErrConflict) {
		t.Fatalf("unblocked over a row that was not read: %v", err)
	}
	raw, err = x.Block(ctx, "alice", "bob")
	if err != nil || raw == nil {
		t.Fatalf("the block: %x, %v", raw, err)
	}
	if err := commit(func(tx *kv.Tx) { x.DeleteBlock(tx, "alice", "bob", raw) }); err != nil {
		t.Fatal(err)
	}
	if users, err = x.BlockedBy(ctx, "alice", "", 0); err != nil || !slices.Equal(users, []id.UserID{"carol", "dave"}) {
		t.Fatalf("all: %v, %v", users, err)
	}

	// What can't be read is an error and never "absent".
	if err := commit(func(tx *kv.Tx) {
		tx.Set(keys.Profile(nil, "alice"), []byte{2, 1})
		tx.Set(keys.Block(nil, "alice", "carol"), []byte{1})
	}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := x.Profile(ctx, "alice"); !errors.Is(err, ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
	if _, err := x.Profiles(ctx, []id.UserID{"bob", "alice"}); !errors.Is(err, ErrVersion) {
		t.Errorf("a later version among others: %v", err)
	}
	if _, err := x.Blocked(ctx, Pair{"alice", "carol"}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a block cut short: %v", err)
	}
	if _, err := x.BlockedBy(ctx, "alice", "", 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a block cut short in a scan: %v", err)
	}
}
