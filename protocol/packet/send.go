package packet

import (
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Origin is who is behind a connection, as the edge knows it after CONNECT.
type Origin struct {
	User   id.UserID
	Device id.DeviceID
	Conn   uint64 // incarnation of the connection: never used twice by a cluster
}

// Send is one SEND as the edge hands it on: decoded, and valid in every respect
// that can be told without looking anything up.
type Send struct {
	Conversation id.ConversationID // zero: ToUser names the conversation
	ToUser       id.UserID
	SeenSeq      uint64
	ClientMsgID  id.ClientMsgID
	Type         uint32
	NoCount      bool
	Content      []byte   // the text; within Tail
	Mentions     []string // at most Limits.Mentions
	MentionAll   bool

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
	Resend      bool // sent before, maybe stored
	Interactive bool // moves the sender's ReadSeq to SeenSeq
	Reply       Replier
}

// Ack is the good outcome: the message is stored.
type Ack struct {
	Conversation id.ConversationID
	Seq          uint64
	MessageID    id.MessageID
	Duplicate    bool
}

// Replier hears the outcome of a Pending: exactly one call each, from the goroutine
// that decided it, in the order of the lane. It must not block; it may be called
// before the call that handed the Pending over has returned.
type Replier interface {
	Acked(p *Pending, ack Ack)
	Refused(p *Pending, err *code.Error)
}
