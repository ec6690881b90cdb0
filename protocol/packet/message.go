package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/gochat-im/gochat/protocol/id"
)

// Message types. Numbers are never reused; SPEC.md says what their content is.
const (
	TypeText  = 1
	TypeImage = 2
	TypeFile  = 3
	TypeVoice = 4
	TypeVideo = 5

	TypeSystem    = 64 // 64-127: written by the server alone
	TypeSystemEnd = 127

	TypeAccountEvent = 80   // in a self timeline: something happened to the user's account
	TypeOwn          = 1000 // from here on an integrator's
)

// Counts reports whether a message raises the unread number of its readers: types
// of users and integrators do unless the sender said no_count; the server's own
// (64-127) and reserved ones don't.
func Counts(msgType uint32, noCount bool) bool {
	return !noCount && (msgType >= 1 && msgType < TypeSystem || msgType >= TypeOwn)
}

// Field numbers of wire.Message that the codec knows by hand.
const (
	fieldSeq        = 1
	fieldMessageID  = 2
	fieldSender     = 3
	fieldClientID   = 4
	fieldType       = 5
	fieldContent    = 6
	fieldData       = 7
	fieldMentions   = 8
	fieldMentionAll = 9
	fieldReplyTo    = 10
	fieldThread     = 11
	fieldExpires    = 12
	fieldNoCount    = 13
	fieldNoPush     = 14
	fieldDevice     = 15
	fieldExt        = 16
	fieldEncryption = 17
	fieldServer     = 32 // 32-49: the server's, refused in a SEND
	fieldLastChange = 32
	fieldTarget     = 33
	fieldServerEnd  = 49

	tagMessages = 8<<3 | wtBytes // `messages` of DELIVER, SYNCED and HISTORY
)

// ErrMalformed is what the walkers of messages return for bytes that are no message.
var ErrMalformed = errors.New("malformed message")

// AppendMessage appends one stored message as an element of the repeated field `messages`:
// the server's fields, then tail (Send.Tail) byte for byte.
func AppendMessage(dst []byte, seq uint64, mid id.MessageID, sender id.UserID, tail []byte) []byte {
	size := varintLen(seq) + 9 + bytesLen(len(sender)) + len(tail)
	dst = append(dst, tagMessages)
	dst = binary.AppendUvarint(dst, uint64(size))
	dst = appendVarint(dst, fieldSeq, seq)
	dst = append(dst, fieldMessageID<<3|wtFixed64)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(mid))
	dst = appendBytes(dst, fieldSender, string(sender))
	return append(dst, tail...)
}

// AppendChanged is AppendMessage for a message that another one changed or that changes
// another: lastChange is the seq of the latest message that changed this one, target the
// seq of the one that this one changes; 0: none. They stand before tail, so that tail
// stays the end of the message.
func AppendChanged(dst []byte, seq uint64, mid id.MessageID, sender id.UserID, lastChange, target uint64, tail []byte) []byte {
	size := varintLen(seq) + 9 + bytesLen(len(sender)) + len(tail)
	if lastChange != 0 {
		size += 2 + uvarintLen(lastChange)
	}
	if target != 0 {
		size += 2 + uvarintLen(target)
	}
	dst = append(dst, tagMessages)
	dst = binary.AppendUvarint(dst, uint64(size))
	dst = appendVarint(dst, fieldSeq, seq)
	dst = append(dst, fieldMessageID<<3|wtFixed64)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(mid))
	dst = appendBytes(dst, fieldSender, string(sender))
	if lastChange != 0 {
		dst = binary.AppendUvarint(binary.AppendUvarint(dst, fieldLastChange<<3|wtVarint), lastChange)
	}
	if target != 0 {
		dst = binary.AppendUvarint(binary.AppendUvarint(dst, fieldTarget<<3|wtVarint), target)
	}
	return append(dst, tail...)
}

// MessageView is a stored message read in place. Its slices alias what NextMessage was given.
type MessageView struct {
	Seq           uint64
	ID            id.MessageID
	Sender        []byte
	Content       []byte
	ClientMsgID   id.ClientMsgID // zero: none (messages of the server)
	Type          uint32
	LastChangeSeq uint64 // 0: never changed
	TargetSeq     uint64 // 0: changes nothing
	NoCount       bool

	Raw  []byte // the whole message (the element's body)
	Body []byte // the sender's part: Send.Tail as it was stored
}

// NextMessage reads the first element of the repeated field `messages` and returns
// what follows it; messages are through when rest is empty. It takes any valid
// protobuf encoding of a message, and doesn't allocate.
func NextMessage(messages []byte) (v MessageView, rest []byte, err error) {
	if len(messages) == 0 || messages[0] != tagMessages {
		return v, nil, ErrMalformed
	}
	f, n := next(messages)
	if n == 0 {
		return v, nil, ErrMalformed
	}
	if err := v.parse(f.data); err != nil {
		return v, nil, err
	}
	return v, messages[n:], nil
}

// ParseMessage reads one message, an element of `messages` without its tag and length.
func ParseMessage(raw []byte) (v MessageView, err error) {
	err = v.parse(raw)
	return v, err
}

func (v *MessageView) parse(b []byte) error {
	v.Raw, v.Body = b, nil
	var f field
	for i := 0; i < len(b); {
		at := i
		if i = f.read(b, i); i == 0 {
			return ErrMalformed
		}
		if v.Body == nil && f.num > fieldSender && (f.num < fieldServer || f.num > fieldServerEnd) {
			v.Body = b[at:]
		}
		ok := true
		switch f.num {
		case fieldSeq:
			v.Seq, ok = f.val, f.wt == wtVarint
		case fieldMessageID:
			v.ID, ok = id.MessageID(f.val), f.wt == wtFixed64
		case fieldSender:
			v.Sender, ok = f.data, f.wt == wtBytes
		case fieldClientID:
			if ok = f.wt == wtBytes && (len(f.data) == 16 || len(f.data) == 0); ok && len(f.data) == 16 {
				v.ClientMsgID = id.ClientMsgID(f.data)
			}
		case fieldType:
			v.Type, ok = uint32(f.val), f.wt == wtVarint && f.val <= 1<<32-1
		case fieldContent:
			v.Content, ok = f.data, f.wt == wtBytes
		case fieldNoCount:
			v.NoCount, ok = f.val != 0, f.wt == wtVarint
		case fieldLastChange:
			v.LastChangeSeq, ok = f.val, f.wt == wtVarint
		case fieldTarget:
			v.TargetSeq, ok = f.val, f.wt == wtVarint
		}
		if !ok {
			return fmt.Errorf("field %d: %w", f.num, ErrMalformed)
		}
	}
	if v.Body == nil {
		v.Body = b[len(b):]
	}
	return nil
}

// aliased returns b as a string that shares its memory: b must never be written to again.
func aliased(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
