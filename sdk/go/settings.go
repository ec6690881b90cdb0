package gochat

import (
	"context"
	"errors"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Settings are the user's own about a conversation, the same on all devices. A nil
// member is left as it is.
type Settings struct {
	Pinned *bool
	Muted  *bool
	Hidden *bool // out of the list until the next message
}

// Numbers of SettingsRequest.fields.
const (
	fieldPinned = 1
	fieldMuted  = 2
	fieldHidden = 4
)

// SetSettings changes settings of a conversation and returns how it stands then. The
// Handler hears of it too, here and on the user's other devices (ConversationChanged).
func (c *Client) SetSettings(ctx context.Context, conv id.ConversationID, s Settings) (Conversation, error) {
	req := &wire.SettingsRequest{ConversationId: conv[:]}
	for _, f := range []struct {
		value *bool
		field uint32
		to    *bool
	}{{s.Pinned, fieldPinned, &req.Pinned}, {s.Muted, fieldMuted, &req.Muted}, {s.Hidden, fieldHidden, &req.Hidden}} {
		if f.value != nil {
			req.Fields |= f.field
			*f.to = *f.value
		}
	}
	var st Conversation
	err := c.do(ctx, packet.MethodSettings, req, func(inner []byte) error {
		ans := new(wire.ConversationState)
		if err := answerInto(packet.MethodSettings, inner, ans); err != nil {
			return err
		}
		st = conversationOf(c.me, ans)
		c.heard(ans) // this device may not have known of it
		return nil
	})
	return st, err
}

// Pin keeps a conversation at the top of the list, or no longer.
func (c *Client) Pin(ctx context.Context, conv id.ConversationID, on bool) (Conversation, error) {
	return c.SetSettings(ctx, conv, Settings{Pinned: &on})
}

// Mute keeps a conversation from calling for attention, or no longer.
func (c *Client) Mute(ctx context.Context, conv id.ConversationID, on bool) (Conversation, error) {
	return c.SetSettings(ctx, conv, Settings{Muted: &on})
}

// Hide takes a conversation out of the list until its next message, or puts it back.
func (c *Client) Hide(ctx context.Context, conv id.ConversationID, on bool) (Conversation, error) {
	return c.SetSettings(ctx, conv, Settings{Hidden: &on})
}

// Mentions returns the seqs above after of messages that mention the user, or everyone,
// ascending, at most limit (0: as many as the server likes), and whether there are others above.
func (c *Client) Mentions(ctx context.Context, conv id.ConversationID, after uint64, limit int) (seqs []uint64, more bool, err error) {
	req := &wire.MentionsRequest{ConversationId: conv[:], AfterSeq: after, Limit: uint32(max(limit, 0))}
	err = c.do(ctx, packet.MethodMentions, req, func(inner []byte) error {
		ans := new(wire.MentionsResponse)
		if err := answerInto(packet.MethodMentions, inner, ans); err != nil {
			return err
		}
		seqs, more = seqs[:0], ans.More
		for _, m := range ans.Mentions {
			seqs = append(seqs, m.Seq)
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return seqs, more, nil
}

// cursors tells of positions that moved. The rest of a conversation that this device didn't know of, because it was hidden
// when the device came, is asked for. The caller holds mu.
func (c *Client) cursors(e CursorsMoved) {
	c.push(e)
	if k := e.Conversation.Kind(); k != id.KindDirect && k != id.KindGroup {
		return
	}
	if v := c.conversation(e.Conversation); !v.known && !v.asking {
		c.askState(v.id)
	}
}

// askState asks how a conversation stands that messages alone don't tell of: what a group
// is called, and the user's role in it. The answer comes as ConversationChanged. The caller holds mu.
func (c *Client) askState(conv id.ConversationID) {
	if c.link == nil {
		return // whoever connects is told
	}
	v := c.conversation(conv)
	v.asking = true
	req := &wire.ConversationRequest{ConversationId: conv[:]}
	c.ask(c.link, &call{method: packet.MethodConversation, request: req, done: func(inner []byte, err error) {
		v.asking = false
		s := new(wire.ConversationState)
		if err == nil {
			err = answerInto(packet.MethodConversation, inner, s)
		}
		if err == nil {
			c.heard(s)
			return
		}
		c.log.Info("asking for a conversation", "conversation", conv.String(), "error", err)
		var told *code.Error
		if errors.As(err, &told) && told.Retryable() && c.link != nil {
			c.link.doubt(conv, max(retryAfter(told), time.Second/2))
		}
	}})
}

// maxDoubt is how long a client waits, at most, before it asks whether its user was among many who were taken out of
// a group and aren't all named: not all of them should ask at once.
const maxDoubt = 4 * time.Second

// doubt has a conversation asked for after a while, unless it is going to be.
func (l *link) doubt(conv id.ConversationID, after time.Duration) {
	if _, ok := l.doubts[conv]; ok {
		return
	}
	if l.doubts == nil {
		l.doubts = map[id.ConversationID]time.Time{}
	}
	l.doubts[conv] = time.Now().Add(after)
	l.wakeWriter()
}

// doubtsDue asks for the conversations whose time has come.
func (c *Client) doubtsDue(l *link, now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	for conv, at := range l.doubts {
		switch {
		case !now.Before(at):
			delete(l.doubts, conv)
			c.askState(conv)
		case at.Before(next):
			next = at
		}
	}
	return next
}

// signalled acts on a SIGNAL. The caller holds mu. Signals are left out while too many events wait.
func (c *Client) signalled(m *wire.Signal) {
	if len(c.events) >= c.cfg.Queue && m.Kind != packet.SignalRoom { // that the client isn't in it any more must be known
		return
	}
	var conv id.ConversationID
	copy(conv[:], m.ConversationId)
	switch m.Kind {
	case packet.SignalCursors:
		if w, err := packet.DecodeCursors(m.Data); err == nil {
			c.cursors(CursorsMoved{
				Conversation: conv, User: id.UserID(m.SenderId), Own: m.SenderId == string(c.me),
				ReadSeq: w.ReadSeq, RecvSeq: w.RecvSeq, LastSeq: w.LastSeq, Unread: int(w.Unread), Mentions: int(w.Mentions),
			})
		} else {
			c.log.Warn("cursors that can't be read", "error", err)
		}
	case packet.SignalState:
		if s, err := packet.DecodeState(m.Data); err == nil {
			c.heard(s)
		} else {
			c.log.Warn("a conversation that can't be read", "error", err)
		}
	case packet.SignalProfile:
		c.profileSignalled(m)
	case packet.SignalRoom:
		c.roomNews(conv, m.Data)
	case packet.SignalNotice:
		c.announced(m.Data)
	case packet.SignalChunk:
		c.chunkArrived(conv, m)
	default:
		c.push(SignalReceived{Conversation: conv, Sender: id.UserID(m.SenderId), Device: id.DeviceID(m.SenderDevice), Kind: m.Kind, Data: m.Data})
	}
}
