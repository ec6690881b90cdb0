package gochat

import (
	"errors"
	"sync/atomic"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

// A store that refuses cursors, and to forget them, while it is told to.
type refusing struct {
	*MemoryStore
	on atomic.Bool
}

func (s *refusing) SetCursor(conv id.ConversationID, cur Cursor) error {
	if s.on.Load() {
		return errors.New("the disk is full")
	}
	return s.MemoryStore.SetCursor(conv, cur)
}

func (s *refusing) ResetCursors() error {
	if s.on.Load() {
		return errors.New("the disk is full")
	}
	return s.MemoryStore.ResetCursors()
}

// While a cursor could not be stored no mark ahead of it is; both are once the store takes them.
func TestMarkWaitsForCursors(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	store := &refusing{MemoryStore: NewMemoryStore()}
	c := open(t, s.address(), r, func(c *Config) { c.Store = store })
	state := &wire.ConversationState{ConversationId: ab[:], Users: []string{"alice", "bob"}, LastSeq: 5, FirstSeq: 1}
	store.on.Store(true)
	p, _ := s.welcome(&wire.Connack{SyncMark: 50, Conversations: []*wire.ConversationState{state}})
	p.expectSync(1, 0)
	if st, _ := store.Load(); st.Session.SyncMark != 0 || len(st.Cursors) != 0 {
		t.Errorf("stored ahead of the cursor: %+v", st)
	}
	store.on.Store(false)
	p.conn.Close()
	p, _ = s.welcome(&wire.Connack{SyncMark: 60})
	req := p.expectSync(1, 0)
	if st, _ := store.Load(); st.Session.SyncMark != 60 || st.Cursors[ab] != (Cursor{0, 5}) {
		t.Errorf("stored %+v", st)
	}
	store.on.Store(true)
	p.synced(req, 1, 5, 5, 1, 2, 3, 4, 5)
	r.waitTexts(t, "m1", "m2", "m3", "m4", "m5")
	for p.acks[ab] < 5 {
		p.noteAck(p.expect(frame.RecvAck).Body)
	}
	store.on.Store(false)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if st, _ := store.Load(); st.Cursors[ab] != (Cursor{5, 5}) {
		t.Errorf("after Close %+v", st)
	}
}

// While the cursors of another epoch could not be forgotten nothing of the new one is stored.
func TestEpochWaitsForReset(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	other := id.Named(id.KindGroup, "g")
	store := &refusing{MemoryStore: NewMemoryStore()}
	old := Session{User: alice, StoreEpoch: 7, SyncMark: 5}
	if err := errors.Join(store.SetSession(old), store.SetCursor(ab, Cursor{9, 9}), store.SetCursor(other, Cursor{9, 9})); err != nil {
		t.Fatal(err)
	}
	store.on.Store(true)
	open(t, s.address(), r, func(c *Config) { c.Store = store })
	p, _ := s.welcome(&wire.Connack{StoreEpoch: 8, SyncMark: 6})
	p.deliver(1)
	r.waitTexts(t, "m1")
	if st, _ := store.Load(); st.Session != old || st.Cursors[ab] != (Cursor{9, 9}) {
		t.Errorf("stored ahead of the reset: %+v", st)
	}
	store.on.Store(false)
	p.deliver(2)
	for p.acks[ab] < 2 {
		p.noteAck(p.expect(frame.RecvAck).Body)
	}
	p.conn.Close()
	p, _ = s.welcome(&wire.Connack{StoreEpoch: 8})
	p.expect(frame.RecvAck) // once more, when the session stands
	if st, _ := store.Load(); st.Session.StoreEpoch != 8 || len(st.Cursors) != 1 || st.Cursors[ab] != (Cursor{2, 2}) {
		t.Errorf("stored %+v", st)
	}
}
