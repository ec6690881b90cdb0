package msgstore_test

import (
	"bytes"
	"errors"
	"testing"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/id"
)

func TestGoldenCopying(t *testing.T) {
	k := Keys{Keyspace: 0x0102}
	begun := Copy{ID: [16]byte{1, 2, 3, 15: 16}, From: 1706284800000, Epoch: 1706284900000, FeatureLevel: 1, Begun: 1706284900000}
	done := begun
	done.Done, done.Rows, done.Bytes = 1706285000000, 12345, 1<<40
	half := CopyPart{Rows: 300, Bytes: 70000, Cursor: []byte{1, 0, 5, 0x10, 9}}
	whole := CopyPart{State: PartVerified, Rows: 1, Bytes: 2}
	bs := map[string][]byte{
		"copy's key": k.Copy(nil), "part's key": k.CopyPart(nil, 65),
		"begun": begun.Append(nil), "done": done.Append(nil), "half": half.Append(nil), "whole": whole.Append(nil),
	}
	golden(t, "copying.golden", []string{"copy's key", "part's key", "begun", "done", "half", "whole"}, bs)
	for name, c := range map[string]Copy{"begun": begun, "done": done} {
		if again, err := ParseCopy(bs[name]); err != nil || again != c {
			t.Errorf("%s: %+v is read as %+v, %v", name, c, again, err)
		}
	}
	for name, p := range map[string]CopyPart{"half": half, "whole": whole} {
		again, err := ParseCopyPart(bs[name])
		if err != nil || again.State != p.State || again.Rows != p.Rows || again.Bytes != p.Bytes || !bytes.Equal(again.Cursor, p.Cursor) {
			t.Errorf("%s: %+v is read as %+v, %v", name, p, again, err)
		}
	}
	for _, name := range []string{"begun", "done", "half", "whole"} {
		parse := func(b []byte) error { _, err := ParseCopy(b); return err }
		if name == "half" || name == "whole" {
			parse = func(b []byte) error { _, err := ParseCopyPart(b); return err }
		}
		for n := range bs[name] {
			if err := parse(bs[name][:n]); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: the first %d bytes: %v", name, n, err)
			}
		}
		if err := parse(append([]byte{2}, bs[name][1:]...)); !errors.Is(err, ErrVersion) {
			t.Errorf("%s of a later version: %v", name, err)
		}
	}
	if _, err := ParseCopyPart([]byte{1, 3, 0, 0, 0}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a state that there is none of: %v", err)
	}
}

// What a store takes along and what it doesn't is all that it may hold.
func TestPortable(t *testing.T) {
	k := Keys{Keyspace: 0x0102}
	spans := k.Portable(64)
	in := func(key []byte) (n int) {
		for _, s := range spans {
			if bytes.Compare(key, s[0]) >= 0 && bytes.Compare(key, s[1]) < 0 {
				n++
			}
		}
		return n
	}
	foreign := func(key []byte) bool {
		for _, s := range k.Foreign() {
			if bytes.Compare(key, s[0]) >= 0 && (s[1] == nil || bytes.Compare(key, s[1]) < 0) {
				return true
			}
		}
		return false
	}
	for i := range 300 {
		c := id.Named(id.KindGroup, string(rune('a'+i)))
		for _, key := range [][]byte{k.Head(nil, c), k.OutboxMark(nil, c), k.User(nil, id.UserID(string(rune('a'+i))))} {
			if in(key) != 1 || foreign(key) || k.Own(key) {
				t.Fatalf("key %x lies in %d ranges", key, in(key))
			}
		}
	}
	for name, c := range map[string]struct {
		key               []byte
		spans             int
		foreign, ofItsOwn bool
	}{
		"meta": {k.Meta(nil), 1, false, true}, "copy": {k.Copy(nil), 1, false, true}, "part": {k.CopyPart(nil, 3), 1, false, true},
		"clock": {k.StoreRow(nil, "clock"), 1, false, false}, "copyright": {k.StoreRow(nil, "copyright"), 1, false, false},
		"deleting": {k.Deleting(nil, "u"), 1, false, false}, "reference": {append(k.BusRefs(nil, 0), 1), 0, false, false}, "position": {k.BusPosition(nil, "g", 0), 0, false, false},
		"slot 4096": {[]byte{1, 2, Layout, 0x10, 0, 0x10}, 0, true, false}, "layout 0": {[]byte{1, 2, 0, 0, 0}, 0, true, false}, "layout 2": {[]byte{1, 2, Layout + 1, 0, 0}, 0, true, false},
	} {
		if in(c.key) != c.spans || foreign(c.key) != c.foreign || k.Own(c.key) != c.ofItsOwn {
			t.Errorf("%s: in %d ranges, foreign %v, own %v", name, in(c.key), foreign(c.key), k.Own(c.key))
		}
	}
}

func TestNobodyOpensAnIncompleteCopy(t *testing.T) {
	store, k := memory.New(memory.Config{NoStamps: true}), Keys{}
	m := Meta{Epoch: 5, SlotCount: id.SlotCount, Hash: SlotHash, FeatureLevel: LevelCopying, Created: 5}
	var tx kv.Tx
	tx.Set(k.Meta(nil), m.Append(nil))
	if store.Commit(ctx, &tx); tx.Err != nil {
		t.Fatal(tx.Err)
	}
	if _, err := OpenMeta(ctx, store, k, 1); !errors.Is(err, ErrCopying) {
		t.Errorf("open: %v", err)
	}
	if _, raw, err := ReadMeta(ctx, store, k); !errors.Is(err, ErrCopying) || raw == nil {
		t.Errorf("read: %v", err)
	}
	findings := 0
	if err := Check(ctx, store, k, func(f Finding) { findings++ }); err != nil || findings != 1 {
		t.Errorf("check: %d findings, %v", findings, err)
	}
}
