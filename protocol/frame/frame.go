// Package frame reads and writes the frames that everything between a client and
// GoChat travels in. A frame is
//
//	length   uvarint, of all that follows
//	type     1 byte
//	flags    1 byte
//	request  uvarint (u32), if FlagRequestID
//	trace    16 bytes, if FlagTrace
//	body     protobuf, by type
//
// Numbers here are frozen; SPEC.md says what each frame means.
package frame

import (
	"encoding/binary"
	"github.com/gochat-im/gochat/protocol/code"
)

// Type says what a frame is. Numbers are never reused.
type Type uint8

// The frames, and who sends them (C: the client, S: the server).
const (
	Connect  Type = 1  // C: opens the session
	Connack  Type = 2  // S: the session stands
	Send     Type = 3  // C: store this message
	SendAck  Type = 4  // S: it is stored
	Deliver  Type = 5  // S: messages of one conversation
	RecvAck  Type = 6  // C: messages have arrived
	Sync     Type = 7  // C: give me these ranges
	Synced   Type = 8  // S: a range
	Signal   Type = 9  // C and S: ephemeral
	Request  Type = 10 // C: a method call
	Response Type = 11 // S: its answer
	Hint     Type = 12 // S: look again
	Ping     Type = 13 // C and S
	Pong     Type = 14 // C and S
	Drain    Type = 15 // S: connect elsewhere
	Kick     Type = 16 // S: this device was signed out
	Error    Type = 17 // S: a request was refused, or the reason of the close
)

var names = [...]string{"", "connect", "connack", "send", "sendack", "deliver", "recvack", "sync", "synced",
	"signal", "request", "response", "hint", "ping", "pong", "drain", "kick", "error"}

// Known reports whether this version of the protocol has the type.
func (t Type) Known() bool { return t >= Connect && t <= Error }

// String returns the type's name in lower case, "unknown" for a type of a later version.
func (t Type) String() string {
	if !t.Known() {
		return "unknown"
	}
	return names[t]
}

// Flags of a frame. 0x40 and 0x80 are reserved: sent as 0 and ignored when received.
type Flags uint8

// 0x10 and 0x20 mean something else for each type.
const (
	FlagRequestID  Flags = 0x01
	FlagTrace      Flags = 0x02
	FlagCompressed Flags = 0x04 // reserved: Parse refuses it
	FlagNeverPull  Flags = 0x08 // reserved, on DELIVER: a hole in this conversation is not to be pulled

	FlagResend      Flags = 0x10 // SEND: sent before, maybe stored
	FlagInteractive Flags = 0x20 // SEND: a person wrote it, having read up to seen_seq
	FlagMore        Flags = 0x10 // RESPONSE, SYNCED: more parts of this answer follow
)

// Limits on the length field's value.
const (
	DefaultMax   = 128 << 10 // what CONNACK announces unless configured
	HandshakeMax = 8 << 10   // from clients, before CONNACK
	HardMax      = 1<<28 - 1 // the length field has at most 4 bytes
	MaxCheapID   = 1<<21 - 1 // up to here a SEND of any size has at most 8 bytes of frame around it
	TraceSize    = 16        // bytes of a trace id
	maxReqID     = 1<<32 - 1
)

// Frame is a parsed frame. Body aliases the input of Parse.
type Frame struct {
	Type  Type
	Flags Flags
	ReqID uint32   // with FlagRequestID
	Trace [16]byte // with FlagTrace
	Body  []byte
}

// HasReqID reports whether the frame carries a request id.
func (f *Frame) HasReqID() bool { return f.Flags&FlagRequestID != 0 }

// What Parse can refuse. All are *code.Error of connection scope, made once: a
// hostile stream costs no memory.
var (
	ErrTooLarge   error = code.New(code.FrameTooLarge)
	ErrLength     error = code.Newf(code.BadFrame, "the length of a frame is malformed")
	ErrShort      error = code.Newf(code.BadFrame, "the frame ends before its header does")
	ErrRequestID  error = code.Newf(code.BadFrame, "the request id is malformed")
	ErrCompressed error = code.Newf(code.BadFrame, "compression was not negotiated")
)

// Parse reads the frame that b begins with and returns it and its length n in b.
// n is 0 and err nil while b holds only the beginning of a frame. A length above
// max is refused as soon as the length can be read. An error ends the connection:
// there is no way to find the next frame. Parse doesn't allocate.
func Parse(b []byte, max int) (f Frame, n int, err error) {
	if len(b) == 0 {
		return f, 0, nil
	}
	size, i := int(b[0]), 1
	if size >= 0x80 {
		size &= 0x7F
		for shift := 7; ; shift += 7 {
			if i == 4 { // a fifth byte: above HardMax
				return f, 0, ErrTooLarge
			}
			if i == len(b) {
				return f, 0, nil
			}
			c := b[i]
			i++
			size |= int(c&0x7F) << shift
			if c < 0x80 {
				if c == 0 {
					return f, 0, ErrLength
				}
				break
			}
		}
	}
	if size > max {
		return f, 0, ErrTooLarge
	}
	if size < 2 {
		return f, 0, ErrLength
	}
	end := i + size
	if len(b) < end {
		return f, 0, nil
	}
	f.Type, f.Flags = Type(b[i]), Flags(b[i+1])
	i += 2
	if f.Flags&FlagCompressed != 0 {
		return f, 0, ErrCompressed
	}
	if f.Flags&FlagRequestID != 0 {
		id, shift := uint64(0), 0
		for {
			if i == end {
				return f, 0, ErrShort
			}
			c := b[i]
			i++
			id |= uint64(c&0x7F) << shift
			if c < 0x80 {
				if c == 0 && shift > 0 || id > maxReqID {
					return f, 0, ErrRequestID
				}
				break
			}
			if shift += 7; shift > 28 {
				return f, 0, ErrRequestID
			}
		}
		f.ReqID = uint32(id)
	}
	if f.Flags&FlagTrace != 0 {
		if end-i < TraceSize {
			return f, 0, ErrShort
		}
		copy(f.Trace[:], b[i:])
		i += TraceSize
	}
	f.Body = b[i:end:end]
	return f, end, nil
}

// AppendHeader appends what stands before a body of bodyLen bytes, which the caller
// appends next. reqID is written if flags has FlagRequestID; FlagTrace and
// FlagCompressed must not be set.
func AppendHeader(dst []byte, t Type, flags Flags, reqID uint32, bodyLen int) []byte {
	size := 2 + bodyLen
	if flags&FlagRequestID != 0 {
		size += uvarintLen(uint64(reqID))
	}
	dst = binary.AppendUvarint(dst, uint64(size))
	dst = append(dst, byte(t), byte(flags))
	if flags&FlagRequestID != 0 {
		dst = binary.AppendUvarint(dst, uint64(reqID))
	}
	return dst
}

// Append appends a whole frame. reqID is written if flags has FlagRequestID.
func Append(dst []byte, t Type, flags Flags, reqID uint32, body []byte) []byte {
	dst = AppendHeader(dst, t, flags, reqID, len(body))
	return append(dst, body...)
}

// AppendTraced appends a whole frame with a trace id; FlagTrace is set by it.
func AppendTraced(dst []byte, t Type, flags Flags, reqID uint32, trace [16]byte, body []byte) []byte {
	size := 2 + TraceSize + len(body)
	if flags&FlagRequestID != 0 {
		size += uvarintLen(uint64(reqID))
	}
	dst = binary.AppendUvarint(dst, uint64(size))
	dst = append(dst, byte(t), byte(flags|FlagTrace))
	if flags&FlagRequestID != 0 {
		dst = binary.AppendUvarint(dst, uint64(reqID))
	}
	dst = append(dst, trace[:]...)
	return append(dst, body...)
}

// AddTrace puts a trace id into the whole frame that begins at dst[at] and ends with dst; the frame has none yet.
func AddTrace(dst []byte, at int, trace [16]byte) []byte {
	size, n := binary.Uvarint(dst[at:])
	head := at + n + 2 // behind type and flags
	if Flags(dst[head-1])&FlagRequestID != 0 {
		_, m := binary.Uvarint(dst[head:])
		head += m
	}
	grown := uvarintLen(size + TraceSize) // the length itself may become longer
	end := len(dst)
	dst = append(dst, make([]byte, TraceSize+grown-n)...)
	copy(dst[head+grown-n+TraceSize:], dst[head:end])
	copy(dst[at+grown:], dst[at+n:head])
	binary.PutUvarint(dst[at:], size+TraceSize)
	dst[at+grown+1] |= byte(FlagTrace)
	copy(dst[head+grown-n:], trace[:])
	return dst
}

func uvarintLen(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}
