package pebblekv_test

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/kvtest"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
)

// open opens a store that a failing engine doesn't end the test process with, and closes it after the test.
func open(t testing.TB, c pebblekv.Config) *pebblekv.Store {
	t.Helper()
	if c.OnFatal == nil {
		c.OnFatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := pebblekv.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, kv.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	t.Run("InMemory", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) kv.Store {
			return open(t, pebblekv.Config{Dir: "store", FS: vfs.NewMem()})
		})
	})
	t.Run("OnDisk", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) kv.Store {
			return open(t, pebblekv.Config{Dir: t.TempDir()})
		})
	})
	t.Run("Tight", func(t *testing.T) { // flushes, evictions and giant batches all the time
		kvtest.Run(t, func(t *testing.T) kv.Store {
			return open(t, pebblekv.Config{Dir: "store", FS: vfs.NewMem(), MemTableBytes: 256 << 10, RecentKeys: 8, CacheBytes: 1 << 20})
		})
	})
}
