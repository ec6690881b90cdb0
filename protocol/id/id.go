// Package id holds GoChat's typed identifiers, how they are made, written and
// checked, and the slot that each of them belongs to.
package id

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/cespare/xxhash/v2"
)

// UserID names an account: 1 to 64 bytes of valid UTF-8 without control
// characters, case-sensitive; an outside issuer's subject as it is.
type UserID string

// System is the installation itself as a sender. Nobody registers it or signs in as it: what it says
// comes from the company's own back end.
const System UserID = "gochat:system"

// MaxUserID is the longest UserID in bytes.
const MaxUserID = 64

// ErrInvalid is wrapped by every error about a malformed identifier.
var ErrInvalid = errors.New("invalid identifier")

// Valid reports whether u is a well-formed UserID.
func (u UserID) Valid() bool { return validName(string(u), MaxUserID) }

// DeviceID names one installation of an app among its user's devices: 1 to 64
// bytes of valid UTF-8 without control characters, chosen by the client.
type DeviceID string

// Valid reports whether d is a well-formed DeviceID.
func (d DeviceID) Valid() bool { return validName(string(d), 64) }

func validName(s string, limit int) bool {
	if len(s) == 0 || len(s) > limit || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < ' ' || r >= 0x7F && unicode.IsControl(r) {
			return false
		}
	}
	return true
}

// Kind is the kind of a conversation, the first byte of its id.
type Kind uint8

// The kinds of conversations. Numbers are never reused.
const (
	KindDirect Kind = 1
	KindGroup  Kind = 2
	KindSelf   Kind = 3
	KindRoom   Kind = 4
)

// ConversationID names a conversation: its Kind, then 15 bytes of a hash or of randomness.
type ConversationID [16]byte

// Kind returns the kind of the conversation.
func (c ConversationID) Kind() Kind { return Kind(c[0]) }

// IsZero reports whether c names no conversation.
func (c ConversationID) IsZero() bool { return c == ConversationID{} }

// Valid reports whether c is of a known kind.
func (c ConversationID) Valid() bool { return c[0] >= byte(KindDirect) && c[0] <= byte(KindRoom) }

// String returns c as 32 hexadecimal digits, its form in JSON and logs.
func (c ConversationID) String() string { return hex.EncodeToString(c[:]) }

// ParseConversation reads the form that String writes.
func ParseConversation(s string) (ConversationID, error) {
	var c ConversationID
	if len(s) != 32 {
		return c, fmt.Errorf("conversation id of %d characters, want 32: %w", len(s), ErrInvalid)
	}
	if _, err := hex.Decode(c[:], []byte(s)); err != nil {
		return ConversationID{}, fmt.Errorf("conversation id: %w", ErrInvalid)
	}
	return c, nil
}

// ConversationFromBytes copies the 16 bytes of b.
func ConversationFromBytes(b []byte) (ConversationID, error) {
	if len(b) != 16 {
		return ConversationID{}, fmt.Errorf("conversation id of %d bytes, want 16: %w", len(b), ErrInvalid)
	}
	return ConversationID(b), nil
}

// Direct returns the conversation of two users, the same whichever comes first.
func Direct(a, b UserID) ConversationID {
	if b < a {
		a, b = b, a
	}
	return hashed(KindDirect, string(a), string(b))
}

// Self returns the log of one user.
func Self(u UserID) ConversationID { return hashed(KindSelf, string(u)) }

// Named returns the group or room that an integrator knows under a name of its own.
func Named(k Kind, name string) ConversationID { return hashed(k, name) }

// NewGroup returns a random group id.
func NewGroup() ConversationID {
	var c ConversationID
	_, _ = rand.Read(c[:]) // never fails
	c[0] = byte(KindGroup)
	return c
}

// hashed is SHA-256 over the kind and each part with its length (u16 big-endian)
// before it, cut to 15 bytes behind the kind.
func hashed(k Kind, parts ...string) ConversationID {
	buf := make([]byte, 0, 160)
	buf = append(buf, byte(k))
	for _, p := range parts {
		buf = binary.BigEndian.AppendUint16(buf, uint16(len(p)))
		buf = append(buf, p...)
	}
	sum := sha256.Sum256(buf)
	var c ConversationID
	c[0] = byte(k)
	copy(c[1:], sum[:15])
	return c
}

// Slot is one of SlotCount hash buckets; conversations and users each belong to one.
type Slot uint16

// SlotCount is fixed for the life of a store.
const SlotCount = 4096

// SlotStore is the slot of rows that belong to the whole store.
const SlotStore Slot = 0xFFFF

// Slot returns the bucket of the conversation: the top 12 bits of XXH64 (seed 0) of its 16 bytes.
func (c ConversationID) Slot() Slot { return Slot(xxhash.Sum64(c[:]) >> 52) }

// Slot returns the bucket of the user: the top 12 bits of XXH64 (seed 0) of its bytes.
func (u UserID) Slot() Slot { return Slot(xxhash.Sum64String(string(u)) >> 52) }

// ClientMsgID is the sender's key of one message: a UUIDv7, made on server time.
type ClientMsgID [16]byte

// NewClientMsgID returns a UUIDv7 of the given Unix millisecond.
func NewClientMsgID(ms int64) ClientMsgID {
	var c ClientMsgID
	_, _ = rand.Read(c[6:]) // never fails
	c.stamp(ms)
	return c
}

// DerivedClientMsgID returns the UUIDv7 of the Unix millisecond ms that stands for parts: the same for the same.
func DerivedClientMsgID(ms int64, parts ...string) ClientMsgID {
	h := sha256.New()
	for _, p := range parts {
		h.Write(binary.BigEndian.AppendUint16(nil, uint16(len(p))))
		h.Write([]byte(p))
	}
	var c ClientMsgID
	copy(c[6:], h.Sum(nil))
	c.stamp(ms)
	return c
}

func (c *ClientMsgID) stamp(ms int64) {
	c[0], c[1], c[2] = byte(ms>>40), byte(ms>>32), byte(ms>>24)
	c[3], c[4], c[5] = byte(ms>>16), byte(ms>>8), byte(ms)
	c[6] = 0x70 | c[6]&0x0F
	c[8] = 0x80 | c[8]&0x3F
}

// Valid reports whether c has the version and variant bits of a UUIDv7.
func (c ClientMsgID) Valid() bool { return c[6]>>4 == 7 && c[8]>>6 == 2 }

// UnixMilli returns the time inside the id.
func (c ClientMsgID) UnixMilli() int64 {
	return int64(binary.BigEndian.Uint64(c[:8]) >> 16)
}

// String returns the usual 8-4-4-4-12 form.
func (c ClientMsgID) String() string {
	var b [36]byte
	hex.Encode(b[0:8], c[0:4])
	hex.Encode(b[9:13], c[4:6])
	hex.Encode(b[14:18], c[6:8])
	hex.Encode(b[19:23], c[8:10])
	hex.Encode(b[24:36], c[10:16])
	b[8], b[13], b[18], b[23] = '-', '-', '-', '-'
	return string(b[:])
}

// ParseClientMsgID reads the form that String writes. Whether it is a UUIDv7 is Valid's to tell.
func ParseClientMsgID(s string) (ClientMsgID, error) {
	var c ClientMsgID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return c, fmt.Errorf("client message id is not in the 8-4-4-4-12 form: %w", ErrInvalid)
	}
	digits := s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	if _, err := hex.Decode(c[:], []byte(digits)); err != nil {
		return ClientMsgID{}, fmt.Errorf("client message id: %w", ErrInvalid)
	}
	return c, nil
}

// MessageID names a message over all conversations and is ordered by time: one
// zero bit, 41 bits of milliseconds since Epoch, 10 bits of the worker that made
// it, a 12-bit counter. The time in it is the message's timestamp.
type MessageID uint64

// Epoch is the Unix millisecond that MessageIDs count from: 2024-01-01T00:00:00Z.
const Epoch = 1704067200000

// MaxWorker is the highest worker number in a MessageID.
const MaxWorker = 1<<10 - 1

// ImportWorker is the worker number in the MessageIDs of messages that came from elsewhere with
// times of their own; no process has it.
const ImportWorker = MaxWorker

// MakeMessageID puts a MessageID together. counter has 12 bits, worker 10.
func MakeMessageID(unixMilli int64, worker, counter uint32) MessageID {
	return MessageID(uint64(unixMilli-Epoch)<<22 | uint64(worker&MaxWorker)<<12 | uint64(counter&0xFFF))
}

// Worker returns the number of the worker that made the id.
func (m MessageID) Worker() uint32 { return uint32(m>>12) & MaxWorker }

// UnixMilli returns the message's timestamp.
func (m MessageID) UnixMilli() int64 { return int64(m>>22) + Epoch }
