package loopkv_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/kvtest"
	"github.com/gochat-im/gochat/msgstore/kv/loopkv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
)

// served serves a store and returns the server and what a client sees.
func served(t *testing.T, behind kv.Store) (*loopkv.Server, *loopkv.Store) {
	t.Helper()
	srv, err := loopkv.Serve(behind, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = srv.Close() })
	s, err := loopkv.Open(t.Context(), srv.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return srv, s
}

func TestConformance(t *testing.T) {
	for name, without := range map[string]bool{"stamps": false, "no stamps": true} {
		t.Run(name, func(t *testing.T) {
			kvtest.Run(t, func(t *testing.T) kv.Store {
				_, s := served(t, memory.New(memory.Config{NoStamps: without}))
				return s
			})
		})
	}
}

func TestModel(t *testing.T) {
	_, s := served(t, memory.New(memory.Config{}))
	kvtest.Model(t, s, 1000, func() uint64 { return uint64(time.Now().UnixNano()) })
}

// losing loses the answers to commits: after the store has committed, or before.
type losing struct {
	kv.Store

	mu            sync.Mutex
	before, after func()
}

func (l *losing) lose(before, after func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.before, l.after = before, after
}

func (l *losing) Commit(ctx context.Context, txs ...*kv.Tx) {
	l.mu.Lock()
	before, after := l.before, l.after
	l.mu.Unlock()
	if before != nil {
		before()
		return
	}
	l.Store.Commit(ctx, txs...)
	if after != nil {
		after()
	}
}

func TestALostAnswerIsUndetermined(t *testing.T) {
	behind := &losing{Store: memory.New(memory.Config{})}
	srv, s := served(t, behind)
	tx := func(value string) *kv.Tx {
		tx := new(kv.Tx)
		tx.Set([]byte("k"), []byte(value))
		return tx
	}
	for _, c := range []struct {
		name          string
		before, after func()
		stored        string
	}{
		{"before it was stored", srv.Disconnect, nil, ""},
		{"after it was stored", nil, srv.Disconnect, "after it was stored"},
	} {
		behind.lose(c.before, c.after)
		lost := tx(c.name)
		if s.Commit(t.Context(), lost); !errors.Is(lost.Err, kv.ErrUndetermined) {
			t.Errorf("%s: %v", c.name, lost.Err)
		}
		behind.lose(nil, nil)
		v, err := s.Get(t.Context(), []byte("k")) // on a new connection
		if err != nil || string(v) != c.stored {
			t.Errorf("%s: %q, %v", c.name, v, err)
		}
	}
}

func TestConnectionsThatBreakBetweenRequests(t *testing.T) {
	srv, s := served(t, memory.New(memory.Config{}))
	for range 3 {
		tx := new(kv.Tx)
		tx.Set([]byte("k"), []byte("v"))
		if s.Commit(t.Context(), tx); tx.Err != nil && !errors.Is(tx.Err, kv.ErrUndetermined) {
			t.Errorf("commit: %v", tx.Err)
		}
		srv.Disconnect()
		if v, err := s.Get(t.Context(), []byte("k")); err != nil || string(v) != "v" {
			t.Errorf("%q, %v", v, err)
		}
	}
}

func TestAServerThatIsGone(t *testing.T) {
	srv, s := served(t, memory.New(memory.Config{}))
	set := new(kv.Tx)
	set.Set([]byte("k"), make([]byte, 200<<10))
	set.Set([]byte("l"), make([]byte, 200<<10))
	if s.Commit(t.Context(), set); set.Err != nil {
		t.Fatal(set.Err)
	}
	// In the middle of a scan: what was seen isn't shown again.
	seen := 0
	err := s.Scan(t.Context(), kv.Span{}, func(_, _ []byte) (bool, error) {
		seen++
		return true, srv.Close()
	})
	if !errors.Is(err, kv.ErrUnavailable) || seen != 1 {
		t.Errorf("scan: %v after %d pairs", err, seen)
	}
	_, err = s.Get(t.Context(), []byte("k"))
	tx := new(kv.Tx)
	tx.Set([]byte("k"), []byte("v"))
	s.Commit(t.Context(), tx)
	for what, err := range map[string]error{
		"get": err, "commit": tx.Err,
		"view": s.View(t.Context(), nil, nil, func(kv.View) error { return nil }),
	} {
		if !errors.Is(err, kv.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := loopkv.Open(t.Context(), srv.Addr()); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("open: %v", err)
	}
}

func TestOnlyLoopback(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "10.1.2.3:0", "localhost:0", ""} {
		if s, err := loopkv.Serve(memory.New(memory.Config{}), addr); err == nil {
			_ = s.Close()
			t.Errorf("served on %q", addr)
		}
	}
}

// A view that fn leaves with an error of its own gives its connection back in order.
func TestViewsEnd(t *testing.T) {
	_, s := served(t, memory.New(memory.Config{}))
	oops := errors.New("oops")
	for range 3 {
		if err := s.View(t.Context(), nil, nil, func(v kv.View) error {
			if _, err := v.Get([]byte("x")); err != nil {
				t.Error(err)
			}
			return oops
		}); !errors.Is(err, oops) {
			t.Errorf("%v", err)
		}
		if v, err := s.Get(t.Context(), []byte("x")); err != nil || v != nil {
			t.Errorf("%q, %v", v, err)
		}
	}
}
