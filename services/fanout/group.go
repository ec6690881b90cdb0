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
	if m := h.seen.peek(ev.Conversation); m != nil && m.knows(ev.Epoch, ev.FirstSeq, ev.LastSeq) {
		h.repeats.Add(1)
		return nil
	}
	if l := h.large.m[ev.Conversation]; l != nil {
		return h.largeEvent(ctx, l, ev)
	}
	return h.look(ctx, ev, h.cfg.Audiences != nil)
}

// look delivers to recipients whose sessions are looked up one by one. With mayOpen a
// group that has become large is given an audience.
func (h *Handler) look(ctx context.Context, ev *bus.Event, mayOpen bool) error {
	for rest := *ev; rest.FirstSeq <= rest.LastSeq; {
		users, to, err := h.cfg.Groups.Recipients(ctx, rest.Conversation, rest.FirstSeq, rest.LastSeq)
		if err != nil {
			return err
		}
		if mayOpen && len(users) > h.largeGroup() {
			switch l, err := h.open(ctx, &rest, users); {
			case err != nil:
				return err
			case l != nil:
				return h.largeEvent(ctx, l, &rest)
			}
		}
		part, ok := h.split(&rest, to)
		if !ok {
			return nil
		}
		// Looked up here: reading may have taken a while, and made room for others.
		if len(part.Messages) > 0 {
			h.pass(ctx, h.seen.get(ev.Conversation), &part, aim{users: users})
		}
	}
	if a := h.owe.byConv[ev.Conversation]; a != nil && a.behind > 0 {
		h.moves = h.moves[:0]
		if _, _, err := h.cfg.Groups.Moves(ctx, ev.Conversation, ev.FirstSeq, ev.LastSeq, h.collect); err != nil {
			h.log.Warn("fan-out: who left can't be told of messages", "conversation", ev.Conversation.String(), "err", err)
		}
		for i := range h.moves {
			h.owe.leave(h, ev.Conversation, &h.moves[i])
		}
		clear(h.moves)
	}
	return nil
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
