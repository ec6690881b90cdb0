package fanout

import (
	"context"
	"fmt"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/packet"
)

// groupEvent delivers what of ev, messages of a group, was not seen before to those who
// were in it at that point of its log. It is cut where somebody came or went. After an
// error what comes before the error was delivered.
func (h *Handler) groupEvent(ctx context.Context, ev *bus.Event) error {
	for rest := *ev; ; {
		users, to, err := h.cfg.Groups.Recipients(ctx, rest.Conversation, rest.FirstSeq, rest.LastSeq)
		if err != nil {
			return err
		}
		part := rest
		if to < rest.LastSeq {
			n, err := through(rest.Messages, to)
			if err != nil {
				h.log.Error("fan-out: unreadable message", "conversation", ev.Conversation.String(), "first", rest.FirstSeq, "err", err)
				h.givenUp.Add(1)
				return nil
			}
			part.LastSeq, part.Messages = to, rest.Messages[:n:n]
		}
		// Looked up here: reading may have taken a while, and made room for others.
		if len(part.Messages) > 0 {
			h.pass(h.seen.get(ev.Conversation), &part, users)
		}
		if to >= rest.LastSeq {
			return nil
		}
		rest.FirstSeq, rest.Messages = to+1, rest.Messages[len(part.Messages):]
	}
}

// through returns where the messages up to seq end.
func through(messages []byte, seq uint64) (n int, err error) {
	for n < len(messages) {
		v, rest, err := packet.NextMessage(messages[n:])
		if err != nil {
			return 0, fmt.Errorf("after %d bytes: %w", n, err)
		}
		if v.Seq > seq {
			break
		}
		n = len(messages) - len(rest)
	}
	return n, nil
}
