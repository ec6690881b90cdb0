package fill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
)

// What was filled in is a store as the audit wants it, in both forms.
func TestFilledStoresAreSound(t *testing.T) {
	for _, merged := range []bool{false, true} {
		d := Direct{Conversations: 30, Messages: 70, Body: 250, Merge: merged, Users: func(k int) (a, b string) { return "a", fmt.Sprint("b", k) }}
		data := filepath.Join(t.TempDir(), "data")
		f, err := d.Write(t.Context(), data)
		if err != nil {
			t.Fatal(err)
		}
		rows := int64(30 * 70)
		if merged {
			rows = 30 * 2 // 70 messages of 300 bytes are more than one segment holds
		}
		if f.Messages != 30*70 || f.Rows != rows || f.Bytes == 0 {
			t.Errorf("merged %v: %+v, want %d rows", merged, f, rows)
		}
		store, err := pebblekv.Open(pebblekv.Config{Dir: filepath.Join(data, "store"), ReadOnly: true, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if err := msgstore.Check(t.Context(), store, msgstore.Keys{}, func(f msgstore.Finding) { t.Error(f) }); err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
		if _, err := d.Write(t.Context(), data); err == nil {
			t.Error("a store was filled twice")
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := Direct{Conversations: 1, Messages: 1, Body: 1, Users: func(int) (a, b string) { return "a", "b" }}
	if _, err := d.Write(ctx, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
