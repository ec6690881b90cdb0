package gochat

import (
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// inbox takes in a page of the conversations that moved since the sync mark, and goes on
// to the next one, or stores the new mark. The caller holds mu.
func (c *Client) inbox(l *link, states []*wire.ConversationState, cursor string, mark uint64) {
	for _, s := range states {
		c.heard(s)
	}
	if l.pages.mark == 0 {
		l.pages.mark = mark // the first page's: it was taken before anything was read
	}
	if cursor != "" {
		c.askPage(l, cursor)
		return
	}
	if l.pages.mark != 0 {
		c.session.SyncMark = l.pages.mark
		c.saveSession()
	}
	l.pages.busy, l.pages.mark = false, 0
}

// askPage asks for a page of the inbox.
func (c *Client) askPage(l *link, cursor string) {
	l.pages.busy = true
	req := &wire.ConversationsRequest{Cursor: cursor, SyncMark: c.session.SyncMark}
	c.ask(l, &call{method: packet.MethodConversations, request: req, done: func(inner []byte, err error) {
		if err == nil {
			ans := new(wire.ConversationsResponse)
			if e := packet.DecodeAnswer(packet.MethodConversations, inner, ans); e == nil {
				c.inbox(l, ans.Conversations, ans.Cursor, ans.SyncMark)
				return
			} else {
				err = e
			}
		}
		// The mark stays where it is, so nothing is missed; once more from the start.
		c.log.Warn("reading the inbox", "error", err)
		l.pages.busy, l.pages.mark, l.pages.due = false, 0, true
		l.pages.wait = time.Now().Add(time.Second)
		if e, ok := err.(*code.Error); ok {
			l.pages.wait = l.pages.wait.Add(e.RetryAfter)
		}
	}})
}

// pageDue starts reading the inbox anew if that is due.
func (c *Client) pageDue(l *link, now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	switch {
	case !l.pages.due || l.pages.busy:
	case now.Before(l.pages.wait):
		next = l.pages.wait
	default:
		l.pages.due = false
		c.askPage(l, "")
	}
	return next
}

// heard takes in how a conversation stands. Its head is stored before the sync mark is.
func (c *Client) heard(s *wire.ConversationState) {
	v := c.conversation(id.ConversationID(s.ConversationId))
	info := conversationOf(c.me, s)
	if info.Peer != "" {
		v.peer = info.Peer
	}
	if v.id.Kind() == id.KindGroup && c.me != "" {
		v.nicknamed(c.me, info.Nickname)
	}
	if s.LastSeq >= v.told {
		v.told, v.left = s.LastSeq, s.LeftSeq
	}
	head := s.LastSeq
	if s.LeftSeq != 0 {
		head = min(head, s.LeftSeq)
	}
	fresh := !v.known
	if fresh {
		c.meet(v, head+1)
		if c.cfg.Backlog > 0 && v.applied > 0 {
			v.applied-- // meet counts from a message that has come
		}
		if first := max(s.FirstSeq, s.JoinedSeq); first > v.applied+1 {
			v.applied = first - 1
		}
		v.applied = min(v.applied, head)
		v.done, v.acked = v.applied, v.applied
	}
	if fresh || head > v.head {
		v.head = max(v.head, head)
		c.look(v)
		c.settle(v)
	}
	if v.id.Kind() != id.KindSelf { // told by its events
		c.push(ConversationChanged{Conversation: info})
	}
}

// hinted acts on a HINT.
func (c *Client) hinted(l *link, m *wire.Hint) {
	if m.All {
		l.pages.due = true
	}
	for _, h := range m.Heads {
		v := c.conversation(id.ConversationID(h.ConversationId))
		if !v.known {
			c.meet(v, h.Seq)
		}
		v.head = max(v.head, h.Seq)
		c.look(v)
	}
}
