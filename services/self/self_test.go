package self

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/id"
)

// log is a sequencer that keeps what it is given, and commits what makes a conversation.
type log struct {
	store kv.Store
	lines []string
	err   error
	made  bool
}

func (l *log) Append(ctx context.Context, conv id.ConversationID, sender id.UserID, msgType uint32, content string, first func(tx *kv.Tx)) error {
	if l.err != nil {
		return l.err
	}
	if conv != id.Self(sender) || msgType != 80 {
		return errors.New("not the sender's own timeline")
	}
	if !l.made {
		l.made = true
		var tx kv.Tx
		first(&tx)
		if l.store.Commit(ctx, &tx); tx.Err != nil {
			return tx.Err
		}
	}
	l.lines = append(l.lines, content)
	return nil
}

// failing fails commits and reads as it is told.
type failing struct {
	kv.Store
	commit, get error
}

func (f *failing) Commit(ctx context.Context, txs ...*kv.Tx) {
	if f.commit != nil {
		for _, tx := range txs {
			tx.Err = f.commit
		}
		return
	}
	f.Store.Commit(ctx, txs...)
}

func (f *failing) Get(ctx context.Context, key []byte) ([]byte, error) {
	if f.get != nil {
		return nil, f.get
	}
	return f.Store.Get(ctx, key)
}

func TestRecord(t *testing.T) {
	ctx := t.Context()
	store := &failing{Store: memory.New(memory.Config{})}
	seq := &log{store: store}
	s, err := New(Config{Store: store, Sequencer: seq, Now: func() int64 { return 1234 }})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Event{
		{Event: "signed_in", Device: "p", Kind: KindName(1)},
		{Event: "signed_out", Device: "p", Kind: KindName(200), By: "d"},
		{Event: "revoked"},
	} {
		if err := s.Record(ctx, "alice", e); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{`{"event":"signed_in","device":"p","kind":"phone"}`, `{"event":"signed_out","device":"p","by":"d"}`, `{"event":"revoked"}`}
	if !slices.Equal(seq.lines, want) {
		t.Errorf("recorded %q, want %q", seq.lines, want)
	}
	conv := id.Self("alice")
	side, raw, err := msgstore.NewInbox(store, msgstore.Keys{}).Get(ctx, "alice", conv)
	if err != nil || raw == nil || side.Changed != 1234 {
		t.Errorf("the user's side: %+v, %v", side, err)
	}
	m, ok, err := msgstore.NewMembers(store, msgstore.Keys{}).Get(ctx, conv, "alice")
	if err != nil || !ok || !m.Active() || m.Intervals[0].Joined != 1 {
		t.Errorf("the member: %+v, %v", m, err)
	}
}

func TestRecordFails(t *testing.T) {
	ctx := t.Context()
	broken := errors.New("broken")
	for name, f := range map[string]struct {
		store failing
		seq   error
		want  error
	}{
		"unreadable":   {failing{get: broken}, nil, broken},
		"unwritable":   {failing{commit: kv.ErrFull}, nil, kv.ErrFull},
		"not appended": {failing{}, broken, broken},
		"a conflict":   {failing{commit: kv.ErrConflict}, nil, nil}, // another event lists the timeline
	} {
		f.store.Store = memory.New(memory.Config{})
		s, err := New(Config{Store: &f.store, Sequencer: &log{store: f.store.Store, err: f.seq}, Now: func() int64 { return 1 }})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Record(ctx, "alice", Event{Event: "signed_in"}); !errors.Is(err, f.want) || (err == nil) != (f.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, f.want)
		}
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a service of nothing")
	}
}
