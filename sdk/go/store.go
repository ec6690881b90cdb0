package gochat

import (
	"slices"
	"sync"

	"github.com/gochat-im/gochat/protocol/id"
)

// Store keeps what a client must not lose between two runs. Its calls may come from
// several goroutines, one at a time for each conversation. After an error the store may
// hold what was to be stored or not; a client goes on, and what it can't store it
// refuses to send. Cursors, and forgetting them, it tries again before the next session.
type Store interface {
	// Load returns what is stored; the caller owns it.
	Load() (State, error)

	// PutOutgoing stores a message that waits to be sent, behind all others. When it returns
	// the message survives a crash of the machine.
	PutOutgoing(Outgoing) error

	// ReplaceOutgoing puts o in the place of the message old, as durably as PutOutgoing.
	ReplaceOutgoing(old id.ClientMsgID, o Outgoing) error

	// DropOutgoing removes a message that was answered. It may come back after a crash: it is sent again then, and
	// the server knows it.
	DropOutgoing(id.ClientMsgID) error

	// SetSession stores the session's data. It comes after every cursor that it relies on.
	SetSession(Session) error

	// SetCursor stores where a conversation stands. It survives a crash of the process; after
	// one of the machine an older cursor may be back.
	SetCursor(id.ConversationID, Cursor) error

	// ResetCursors forgets all cursors.
	ResetCursors() error

	// Close releases the store. It is not used afterwards.
	Close() error
}

// State is all that a Store keeps.
type State struct {
	Session Session
	Outbox  []Outgoing // in the order in which they were put
	Cursors map[id.ConversationID]Cursor
}

// Session is what CONNECT names of earlier sessions.
type Session struct {
	User        id.UserID `json:"user,omitempty"`
	StoreEpoch  uint64    `json:"store_epoch,omitempty"`
	SyncMark    uint64    `json:"sync_mark,omitempty"`
	ResumeToken string    `json:"resume_token,omitempty"`
}

// Cursor is where a conversation stands on this device.
type Cursor struct {
	Applied uint64 // the application has, or will never get, all up to here
	Head    uint64 // the last seq that is known to exist
}

// Outgoing is a message that waits for its SENDACK.
type Outgoing struct {
	ID           id.ClientMsgID
	Conversation id.ConversationID // zero if Body names a user and the client didn't know its own user yet
	Body         []byte            // of the SEND
	Interactive  bool
	Base         uint64 // the conversation's Applied when the message was made: it is stored above, if at all
}

// MemoryStore is a Store that ends with the process.
type MemoryStore struct {
	mu sync.Mutex
	st State
}

// NewMemoryStore returns an empty MemoryStore.
func NewMemoryStore() *MemoryStore {
	return &MemoryStore{st: State{Cursors: map[id.ConversationID]Cursor{}}}
}

func (m *MemoryStore) Load() (State, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.st.clone(), nil
}

func (s *State) clone() State {
	c := State{Session: s.Session, Outbox: slices.Clone(s.Outbox), Cursors: make(map[id.ConversationID]Cursor, len(s.Cursors))}
	for k, v := range s.Cursors {
		c.Cursors[k] = v
	}
	return c
}

func (m *MemoryStore) PutOutgoing(o Outgoing) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.st.put(o)
	return nil
}

func (m *MemoryStore) ReplaceOutgoing(old id.ClientMsgID, o Outgoing) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.st.replace(old, o)
	return nil
}

func (m *MemoryStore) DropOutgoing(c id.ClientMsgID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.st.drop(c)
	return nil
}

func (m *MemoryStore) SetSession(s Session) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.st.Session = s
	return nil
}

func (m *MemoryStore) SetCursor(c id.ConversationID, cur Cursor) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.st.Cursors == nil {
		m.st.Cursors = map[id.ConversationID]Cursor{}
	}
	m.st.Cursors[c] = cur
	return nil
}

func (m *MemoryStore) ResetCursors() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.st.Cursors)
	return nil
}

// Close does nothing: a MemoryStore may be given to another client of the same user and device afterwards.
func (m *MemoryStore) Close() error { return nil }

// The outbox is short, and answered from its front: searching it is cheap.

func (s *State) index(c id.ClientMsgID) int {
	return slices.IndexFunc(s.Outbox, func(o Outgoing) bool { return o.ID == c })
}

func (s *State) put(o Outgoing) {
	if i := s.index(o.ID); i >= 0 {
		s.Outbox[i] = o
		return
	}
	s.Outbox = append(s.Outbox, o)
}

func (s *State) replace(old id.ClientMsgID, o Outgoing) {
	if i := s.index(old); i >= 0 {
		s.Outbox[i] = o
		return
	}
	s.put(o)
}

func (s *State) drop(c id.ClientMsgID) {
	if i := s.index(c); i >= 0 {
		s.Outbox = slices.Delete(s.Outbox, i, i+1)
	}
}
