package gochat

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
)

func reopen(t *testing.T, path string) (*FileStore, State) {
	t.Helper()
	s, err := OpenFileStore(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	st, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	return s, st
}

// steps is some of a store's life.
func steps(t *testing.T, s Store) {
	t.Helper()
	out := func(n byte) Outgoing {
		return Outgoing{ID: id.ClientMsgID{15: n}, Conversation: ab, Body: []byte{n, 2, 3}, Interactive: n%2 == 0, Base: uint64(n) << 40}
	}
	if err := errors.Join(
		s.PutOutgoing(out(1)), s.PutOutgoing(out(2)), s.SetSession(Session{User: alice, StoreEpoch: 1 << 60, SyncMark: 1<<64 - 1, ResumeToken: "r"}),
		s.SetCursor(ab, Cursor{3, 9}), s.SetCursor(id.Self(alice), Cursor{1 << 50, 1 << 50}), s.ReplaceOutgoing(id.ClientMsgID{15: 1}, out(7)),
		s.DropOutgoing(id.ClientMsgID{15: 2}), s.SetCursor(ab, Cursor{9, 9}), s.PutOutgoing(out(3)),
	); err != nil {
		t.Fatal(err)
	}
}

func TestFileStoreEqualsMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	f, empty := reopen(t, path)
	if len(empty.Outbox)+len(empty.Cursors) != 0 || empty.Session != (Session{}) {
		t.Errorf("a new store holds %+v", empty)
	}
	m := NewMemoryStore()
	steps(t, f)
	steps(t, m)
	want, _ := m.Load()
	if got, _ := f.Load(); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.PutOutgoing(Outgoing{}); err == nil {
		t.Error("a closed store takes a message")
	}
	f, got := reopen(t, path)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("after reopening %+v\nwant %+v", got, want)
	}
	if err := errors.Join(f.ResetCursors(), m.ResetCursors()); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, got = reopen(t, path); len(got.Cursors) != 0 || len(got.Outbox) != 2 {
		t.Errorf("after a reset %+v", got)
	}
}

// A file cut at any byte opens with the whole records before, and takes new ones.
func TestFileStoreTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	f, _ := reopen(t, path)
	steps(t, f)
	f.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		torn := append([]byte(nil), whole[:cut]...)
		if cut%3 == 0 && cut >= len(fileMagic) {
			torn = append(torn, 0xFF, 0, 0xAB) // or garbage behind
		}
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		f, st := reopen(t, path)
		if err := f.PutOutgoing(Outgoing{ID: id.ClientMsgID{1}, Body: []byte("new")}); err != nil {
			t.Fatal(err)
		}
		f.Close()
		f, again := reopen(t, path)
		f.Close()
		if len(again.Outbox) != len(st.Outbox)+1 || string(again.Outbox[len(st.Outbox)].Body) != "new" {
			t.Fatalf("cut at %d: %+v", cut, again)
		}
	}
}

func TestFileStoreCompacts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	f, _ := reopen(t, path)
	steps(t, f)
	for n := range uint64(60000) {
		if err := f.SetCursor(ab, Cursor{n, n}); err != nil {
			t.Fatal(err)
		}
	}
	want, _ := f.Load()
	f.Close()
	info, err := os.Stat(path)
	if err != nil || info.Size() > 2*compactMin {
		t.Errorf("%d bytes, %v", info.Size(), err)
	}
	if _, got := reopen(t, path); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if _, err := os.Stat(path + ".new"); !os.IsNotExist(err) {
		t.Errorf("the new file stays behind: %v", err)
	}
}

func TestFileStoreRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	f, _ := reopen(t, path)
	if _, err := OpenFileStore(path); !errors.Is(err, ErrStoreInUse) {
		t.Errorf("opened twice: %v", err)
	}
	if err := f.PutOutgoing(Outgoing{Body: make([]byte, maxRecord)}); err == nil {
		t.Error("a record of any size is taken")
	}
	f.Close()
	for _, foreign := range []string{"this is some other file altogether", "short"} {
		if err := os.WriteFile(path, []byte(foreign), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFileStore(path); err == nil {
			t.Error("a foreign file is taken")
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != foreign {
			t.Errorf("a foreign file became %q, %v", b, err)
		}
	}
	bad := end(append(begin([]byte(fileMagic), 99), 1), len(fileMagic))
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFileStore(path); !errors.Is(err, errRecord) {
		t.Errorf("a record of a later version: %v", err)
	}
	if _, err := OpenFileStore(filepath.Join(path, "below", "a", "file")); err == nil {
		t.Error("a file below a file")
	}
}
