package repeat

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

const day = 24 * 60 * 60 * 1000

func TestMessageID(t *testing.T) {
	now := int64(20_000 * day)
	store := memory.New(memory.Config{})
	s, err := New(Config{Store: store, Now: func() int64 { return now }})
	if err != nil {
		t.Fatal(err)
	}
	first, second := id.NewClientMsgID(now), id.NewClientMsgID(now+1)
	ask := func(user id.UserID, key string, fresh, want id.ClientMsgID) {
		t.Helper()
		if got, err := s.MessageID(t.Context(), user, key, fresh); err != nil || got != want {
			t.Errorf("%s, %s: %v, %v, want %v", user, key, got, err, want)
		}
	}
	ask("alice", "k", first, first)
	ask("alice", "k", second, first)
	ask("bob", "k", second, second)
	ask("alice", "l", second, second)
	now += day - 1 + day // the end of the next day
	ask("alice", "k", second, first)
	now++
	ask("alice", "k", second, second)
	ask("alice", "k", first, second)
	rows := 0
	keys := msgstore.Keys{}
	if err := store.Scan(t.Context(), kv.Span{Start: keys.Repeats(nil, "alice"), End: append(keys.Repeats(nil, "alice"), 0xFF)}, func(_, _ []byte) (bool, error) {
		rows++
		return true, nil
	}); err != nil || rows != 1 {
		t.Errorf("%d rows are left, %v", rows, err)
	}
}

// Of many at once one wins, and all hear the same.
func TestMessageIDAtOnce(t *testing.T) {
	s, err := New(Config{Store: memory.New(memory.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]id.ClientMsgID, 8)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = s.MessageID(t.Context(), "alice", "k", id.NewClientMsgID(1_700_000_000_000)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, g := range got {
		if g != got[0] {
			t.Errorf("%v and %v", g, got[0])
		}
	}
}

func TestFaults(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no store is needed")
	}
	now := int64(20_000 * day)
	store := memory.New(memory.Config{})
	s, err := New(Config{Store: store, Now: func() int64 { return now }})
	if err != nil {
		t.Fatal(err)
	}
	fresh := id.NewClientMsgID(now)
	if _, err := s.MessageID(t.Context(), "alice", "k", fresh); err != nil {
		t.Fatal(err)
	}
	keys := msgstore.Keys{}
	var key []byte
	if err := store.Scan(t.Context(), kv.Span{Start: keys.Repeats(nil, "alice"), End: append(keys.Repeats(nil, "alice"), 0xFF)}, func(k, _ []byte) (bool, error) {
		key = append([]byte(nil), k...)
		return false, nil
	}); err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]code.Code{"\x02": code.Internal, "\x01x": code.Internal} {
		tx := new(kv.Tx)
		tx.Set(key, []byte(value))
		store.Commit(t.Context(), tx)
		var e *code.Error
		if _, err := s.MessageID(t.Context(), "alice", "k", fresh); !errors.As(err, &e) || e.Code != want {
			t.Errorf("%q: %v", value, err)
		}
	}
	store.Close()
	var e *code.Error
	if _, err := s.MessageID(context.Background(), "alice", "k", fresh); !errors.As(err, &e) || e.Code != code.Unavailable {
		t.Errorf("a closed store: %v", err)
	}
}

// For one process it is still yesterday: of two that are asked at once, or one after the other, for
// the same key, both know of one message.
func TestMessageIDAroundMidnight(t *testing.T) {
	const seed = 1
	t.Logf("seed %d", seed)
	store := memory.New(memory.Config{Seed: seed})
	var services []*Service
	for _, now := range []int64{20_000*day - 1, 20_000 * day} {
		s, err := New(Config{Store: store, Now: func() int64 { return now }})
		if err != nil {
			t.Fatal(err)
		}
		services = append(services, s)
	}
	for i := range 300 {
		user := id.UserID(fmt.Sprint("user", i))
		ids := make([]id.ClientMsgID, 2)
		ask := func(i int) {
			got, err := services[i].MessageID(t.Context(), user, "k", id.NewClientMsgID(int64(i)))
			if err != nil {
				t.Error(err)
			}
			ids[i] = got
		}
		var wg sync.WaitGroup
		switch i % 3 {
		case 0:
			wg.Go(func() { ask(0) })
			wg.Go(func() { ask(1) })
			wg.Wait()
		case 1:
			ask(0)
			ask(1)
		case 2:
			ask(1)
			ask(0)
		}
		if ids[0] != ids[1] {
			t.Errorf("%s: one key stands for %v and %v", user, ids[0], ids[1])
		}
	}
}
