package msgstore_test

import (
	"context"
	"errors"
	"testing"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
)

// A level is raised once, by whoever comes first, and keeps everything else of the row. Older code opens the store no more.
func TestRaiseLevel(t *testing.T) {
	store := &metaRace{Store: memory.New(memory.Config{})}
	keys := Keys{Keyspace: 3}
	if _, err := RaiseLevelOf(ctx, store, keys, 2, 3); err == nil {
		t.Error("raised in a store that has no meta row")
	}
	want, err := OpenMeta(ctx, store, keys, testNow)
	if err != nil || want.FeatureLevel != 1 {
		t.Fatalf("new: %+v, %v", want, err)
	}
	if got, err := RaiseLevel(ctx, store, keys, FeatureLevel); got != FeatureLevel || err != nil {
		t.Errorf("to what this code reads: %d, %v", got, err)
	}
	if _, err := RaiseLevel(ctx, store, keys, FeatureLevel+1); !errors.Is(err, ErrFeatureLevel) {
		t.Errorf("to more than this code reads: %v", err)
	}
	store.before = func() { // an epoch is set meanwhile
		m, err := NewEpoch(ctx, store.Store, keys, testNow+50)
		if err != nil {
			t.Error(err)
		}
		want = m
	}
	if got, err := RaiseLevelOf(ctx, store, keys, 2, 3); got != 2 || err != nil {
		t.Errorf("raised: %d, %v", got, err)
	}
	want.FeatureLevel = 2
	raw, err := store.Get(ctx, keys.StoreRow(nil, "meta"))
	if err != nil {
		t.Fatal(err)
	}
	if m, err := ParseMeta(raw); m != want || err != nil {
		t.Errorf("%+v, %v, want %+v", m, err, want)
	}
	for to, is := range map[uint32]uint32{1: 2, 2: 2} {
		if got, err := RaiseLevelOf(ctx, store, keys, to, 3); got != is || err != nil {
			t.Errorf("to %d, of a store that is at 2: %d, %v", to, got, err)
		}
	}
	if _, err := OpenMeta(ctx, store, keys, testNow); !errors.Is(err, ErrFeatureLevel) {
		t.Errorf("older code opens it: %v", err)
	}
	if _, err := RaiseLevel(ctx, store, keys, 1); !errors.Is(err, ErrFeatureLevel) {
		t.Errorf("older code raises it: %v", err)
	}
}

// metaRace is a store in which something happens once before the next commit.
type metaRace struct {
	kv.Store
	before func()
}

func (r *metaRace) Commit(ctx context.Context, txs ...*kv.Tx) {
	if f := r.before; f != nil {
		r.before = nil
		f()
	}
	r.Store.Commit(ctx, txs...)
}
