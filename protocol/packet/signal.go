package packet

import "github.com/gochat-im/gochat/kitex_gen/wire"

// Kinds of SIGNAL that the protocol knows. Numbers are never reused; those from
// SignalOwn on are an integrator's.
const (
	SignalTyping  uint32 = 1
	SignalStopped uint32 = 2 // typing no longer
	SignalCursors uint32 = 3 // from the server only: data is a wire.Cursors
	SignalChunk   uint32 = 4 // of a message that is still being written
	SignalState   uint32 = 5 // from the server only: data is the receiver's wire.ConversationState
	SignalProfile uint32 = 6 // from the server only: data is a wire.Profile
	SignalRoom    uint32 = 7 // from the server only: data is a wire.RoomNews
	SignalNotice  uint32 = 8 // from the server only: data is a wire.Broadcast
	SignalOwn     uint32 = 1000
)

// ServerSignal reports whether only the server sends signals of this kind.
func ServerSignal(kind uint32) bool {
	return kind == SignalCursors || kind >= SignalState && kind <= SignalNotice
}

// StoredSignal reports whether signals of this kind tell of something stored, so that a client that missed one looks again.
func StoredSignal(kind uint32) bool {
	return kind == SignalCursors || kind == SignalState || kind == SignalProfile
}

var cursors = schema{name: "cursors", fields: []spec{
	{num: 1, name: "read_seq", kind: kindLong, attr: always},
	{num: 2, name: "recv_seq", kind: kindLong, attr: always},
	{num: 3, name: "last_seq", kind: kindLong},
	{num: 4, name: "unread", kind: kindNumber},
	{num: 5, name: "mentions", kind: kindNumber},
}}

// DecodeCursors reads the data of a signal of kind SignalCursors.
func DecodeCursors(data []byte) (*wire.Cursors, error) {
	m := new(wire.Cursors)
	if err := decode(&cursors, data, m); err != nil {
		return nil, err
	}
	return m, nil
}

// DecodeState reads the data of a signal of kind SignalState.
func DecodeState(data []byte) (*wire.ConversationState, error) {
	m := new(wire.ConversationState)
	if err := decode(&conversationState, data, m); err != nil {
		return nil, err
	}
	return m, nil
}

// DecodeProfile reads the data of a signal of kind SignalProfile.
func DecodeProfile(data []byte) (*wire.Profile, error) {
	m := new(wire.Profile)
	if err := decode(&profile, data, m); err != nil {
		return nil, err
	}
	return m, nil
}
