// Package hook asks the installation's own code about messages before they are stored: a
// word filter, a moderation service, a rule of the business. It may refuse a message, or
// replace what it says.
//
// It stands in front of the sequencer. What it decides holds for messages that are new: one
// that is stored already is acked when it is sent again, whatever the hook says by then, and
// it is known for the same by what the client sent, not by what the hook made of it.
package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Hook judges messages before they are stored.
type Hook interface {
	// BeforeSend returns what is to become of m. It may block until ctx ends. It is called by
	// several goroutines at once, but for the messages of one conversation in their order,
	// one at a time. A message may be judged several times, being sent again. What the server
	// itself writes is not judged.
	BeforeSend(ctx context.Context, m *Message) (Verdict, error)
}

// Func is a Hook.
type Func func(ctx context.Context, m *Message) (Verdict, error)

// BeforeSend implements Hook.
func (f Func) BeforeSend(ctx context.Context, m *Message) (Verdict, error) { return f(ctx, m) }

// Message is what a Hook judges. It belongs to the Hook until BeforeSend returns; what is
// kept longer must be cloned.
type Message struct {
	Conversation id.ConversationID
	Sender       id.UserID
	Device       id.DeviceID
	ClientMsgID  id.ClientMsgID
	Type         uint32
	Content      string
	Fields       []byte // all that the sender said: fields 4 to 31 of wire.Message. Read only
	Resend       bool   // it may have been judged before
}

// Verdict is what becomes of a message; the zero Verdict: it is stored as it is.
type Verdict struct {
	Refuse bool
	Reason string // with Refuse: what the sender is told beside the code forbidden. May be empty

	// Content is stored and delivered in place of what was sent; nil: that. At most
	// packet.HardMaxContent bytes of UTF-8. The device that sent the message isn't told.
	Content *string
}

// Sequencer is where messages go from here.
type Sequencer interface {
	// Append takes over batch, whose messages are for conv and belong to it in this order.
	// It doesn't block; the outcome of each goes to its Reply.
	Append(conv id.ConversationID, batch []packet.Pending)
}

// Config of a Gate. Hook and Next are needed, the rest takes its defaults when zero.
type Config struct {
	Hook Hook
	Next Sequencer

	Timeout  time.Duration // of one message; 0: 1 s
	Workers  int           // goroutines that call the hook, at most; 0: 16
	Waiting  int           // messages that may wait to be judged in all; 0: 16,384
	FailOpen bool          // a message on which the hook fails is stored as it is; else it is refused, to be sent again

	Logger *slog.Logger // nil: slog.Default()
}

// ErrConfig is wrapped by the errors of Validate.
var ErrConfig = errors.New("hook: bad configuration")

// Validate reports what is missing or out of bounds.
func (c *Config) Validate() error {
	switch {
	case c.Hook == nil || c.Next == nil:
		return fmt.Errorf("%w: Hook and Next are needed", ErrConfig)
	case c.Timeout < 0 || c.Workers < 0 || c.Waiting < 0:
		return fmt.Errorf("%w: a limit is negative", ErrConfig)
	}
	return nil
}
