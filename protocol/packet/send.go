// Package packet holds the bodies of GoChat's frames: what is hot is written and
// read by hand, without allocating; the rest goes through the generated wire types
// and is checked here, since a generated codec takes any bytes for text.
//
// Everything that comes from a peer is checked for sizes, counts, identifiers and
// UTF-8 before it is handed on, and refused with a *code.Error. No decoder
// allocates more than a small multiple of its input.
package packet

import (
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/trace"
)

// Origin is who is behind a connection, as the edge knows it after CONNECT.
type Origin struct {
	User   id.UserID
	Device id.DeviceID
	Conn   uint64 // incarnation of the connection: never used twice by a cluster
}

// Limits bound what a client may send; CONNACK announces them.
type Limits struct {
	MaxContent  int // bytes of content, data, the encryption header and unknown fields of a message together
	MaxExt      int // bytes of ext
	MaxMentions int // users that a message mentions
}

// Limits unless configured, and the highest that may be.
const (
	DefaultMaxContent  = 12 << 10
	HardMaxContent     = 64 << 10
	DefaultMaxExt      = 1 << 10
	DefaultMaxMentions = 50
)

// DefaultLimits are the limits unless configured.
var DefaultLimits = Limits{MaxContent: DefaultMaxContent, MaxExt: DefaultMaxExt, MaxMentions: DefaultMaxMentions}

// Send is one SEND as the edge hands it on: decoded, and valid in every respect
// that can be told without looking anything up. All its slices and strings alias the
// body that DecodeSend was given, so that body must not be written to while they live;
// who keeps a string of it for long clones it (strings.Clone).
type Send struct {
	Conversation id.ConversationID // zero: ToUser names the conversation
	ToUser       id.UserID
	SeenSeq      uint64
	ClientMsgID  id.ClientMsgID
	Type         uint32
	NoCount      bool
	Content      []byte   // the text; within Tail
	Mentions     []string // at most Limits.MaxMentions
	MentionAll   bool
	OriginDevice []byte // what the sender claims; empty: nothing. Must be the connection's own device

	// Tail is the sender's part of the stored message, byte for byte: fields 4 and up of
	// the body, in ascending order, unknown ones included. It belongs to the Send and is never written to.
	Tail []byte

	// BodyHash is XXH64 of Tail: two messages of one id and another hash are different messages.
	BodyHash uint64
}

// Pending is a Send under way and who waits for its outcome.
type Pending struct {
	Send
	From        *Origin // shared by all of a connection
	ReqID       uint32
	Resend      bool        // sent before, maybe stored
	Interactive bool        // moves the sender's ReadSeq to SeenSeq
	Trace       *trace.ID   // of the frame; nil: none
	At          int64       // trace.Now when it came; 0: not known
	Refusal     *code.Error // why it must not be stored, unless it is already; nil: it may be
	Reply       Replier

	// Unlaned is set by who refuses p before it comes to a sequencer, and so holds back
	// nothing of the lane behind it: its Replier has to.
	Unlaned bool
}

// Call is what the log says of p.
func (p *Pending) Call() trace.Call {
	c := trace.Call{ReqID: p.ReqID, Conn: p.From.Conn, User: p.From.User, Device: p.From.Device}
	if p.Trace != nil {
		c.Trace = *p.Trace
	}
	return c
}

// Ack is the good outcome: the message is stored.
type Ack struct {
	Conversation id.ConversationID
	Seq          uint64
	MessageID    id.MessageID
	Duplicate    bool
}

// Laned is a Replier that holds back the lane of what was refused Unlaned.
type Laned interface {
	// Shut reports whether p comes behind such a message. It is for what had passed before that was known.
	Shut(p *Pending) bool
}

// Replier hears the outcome of a Pending: exactly one call each, from the goroutine
// that decided it, in the order of the lane. It must not block; it may be called
// before the call that handed the Pending over has returned.
type Replier interface {
	Acked(p *Pending, ack Ack)
	Refused(p *Pending, err *code.Error)
}
