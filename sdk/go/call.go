package gochat

import (
	"context"
	"errors"
	"fmt"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// call is a REQUEST under way. done is called once with the answer, with Client.mu held;
// inner is good until it returns.
type call struct {
	method  packet.Method
	request packet.Body
	trace   trace.ID
	done    func(inner []byte, err error)
}

func (k *call) finish(err error) { k.done(nil, err) }

// ask queues a REQUEST. The caller holds mu.
func (c *Client) ask(l *link, k *call) {
	b, err := packet.AppendRequest(l.out, l.request(k), k.method, k.request)
	if err != nil {
		delete(l.requests, l.lastReq)
		k.finish(err)
		return
	}
	l.out = withTrace(b, len(l.out), k.trace)
	l.wakeWriter()
}

// response acts on a RESPONSE. No method of this version has an answer in parts.
func (c *Client) response(l *link, f *frame.Frame) error {
	k, _ := c.answered(l, f).(*call)
	if k == nil {
		return nil
	}
	m, inner, err := packet.DecodeResponse(f.Body)
	switch {
	case err != nil:
		k.finish(err)
	case m != k.method:
		k.finish(fmt.Errorf("the answer to %v is one to %v", k.method, m))
	default:
		k.done(inner, nil)
	}
	return nil
}

// do calls a method, waiting for a connection if there is none, and once more if the
// connection is lost meanwhile: all methods may be repeated.
func (c *Client) do(ctx context.Context, m packet.Method, req packet.Body, take func(inner []byte) error) error {
	for {
		if err := c.Connected(ctx); err != nil {
			return err
		}
		answer := make(chan error, 1)
		left := false // nobody waits; guarded by mu
		c.mu.Lock()
		if c.link == nil {
			c.mu.Unlock()
			continue
		}
		c.ask(c.link, &call{method: m, request: req, trace: traceOf(ctx), done: func(inner []byte, err error) {
			if err == nil && !left {
				err = take(inner)
			}
			answer <- err
		}})
		c.mu.Unlock()
		select {
		case err := <-answer:
			if errors.Is(err, errLost) {
				continue
			}
			if err != nil {
				return fmt.Errorf("%v: %w", m, err)
			}
			return nil
		case <-ctx.Done():
			c.mu.Lock()
			left = true
			c.mu.Unlock()
			select {
			case err := <-answer: // it came at the last moment
				if err == nil {
					return nil
				}
			default:
			}
			return fmt.Errorf("%v: %w", m, ctx.Err())
		}
	}
}

// answerInto decodes an answer; its error is nil as an interface too.
func answerInto(m packet.Method, inner []byte, ans packet.Body) error {
	if err := packet.DecodeAnswer(m, inner, ans); err != nil {
		return err
	}
	return nil
}

// Inbox returns all of the user's conversations as they stand at the server, latest activity first;
// not the user's own timeline, whose messages come as events.
func (c *Client) Inbox(ctx context.Context) ([]Conversation, error) {
	var all []Conversation
	for cursor := ""; ; {
		ans := new(wire.ConversationsResponse)
		err := c.do(ctx, packet.MethodConversations, &wire.ConversationsRequest{Cursor: cursor}, func(inner []byte) error {
			return answerInto(packet.MethodConversations, inner, ans)
		})
		if err != nil {
			return nil, err
		}
		me := c.User()
		for _, s := range ans.Conversations {
			if v := conversationOf(me, s); v.ID.Kind() != id.KindSelf {
				all = append(all, v)
			}
		}
		if cursor = ans.Cursor; cursor == "" {
			return all, nil
		}
	}
}

// History returns the newest messages below seq before (0: from the head), at most limit (0: as many as
// the server likes), in ascending order, and whether older ones exist. It moves no cursor.
func (c *Client) History(ctx context.Context, conv id.ConversationID, before uint64, limit int) (messages []Message, more bool, err error) {
	req := &wire.HistoryRequest{ConversationId: conv[:], BeforeSeq: before, Limit: uint32(max(limit, 0))}
	err = c.do(ctx, packet.MethodHistory, req, func(inner []byte) error {
		p, err := packet.DecodeHistory(inner)
		if err != nil {
			return err
		}
		var peer id.UserID
		if v := c.convs[conv]; v != nil {
			peer = v.peer
		}
		messages, more = messages[:0], p.More
		for b := p.Messages; len(b) > 0; {
			v, rest, err := packet.NextMessage(b)
			if err != nil {
				return err
			}
			m, err := messageOf(v.Raw, conv, c.me, peer)
			if err != nil {
				return err
			}
			messages, b = append(messages, m), rest
		}
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	return messages, more, nil
}

// OpenDirect returns the direct conversation with a user, made if need be. To send a message to
// somebody it isn't needed.
func (c *Client) OpenDirect(ctx context.Context, user id.UserID) (Conversation, error) {
	ans := new(wire.OpenDirectResponse)
	err := c.do(ctx, packet.MethodOpenDirect, &wire.OpenDirectRequest{UserId: string(user)}, func(inner []byte) error {
		if err := answerInto(packet.MethodOpenDirect, inner, ans); err != nil {
			return err
		}
		if ans.Conversation == nil {
			return errors.New("the answer names no conversation")
		}
		return nil
	})
	if err != nil {
		return Conversation{}, err
	}
	return conversationOf(c.User(), ans.Conversation), nil
}

// Conversation returns one conversation as it stands at the server.
func (c *Client) Conversation(ctx context.Context, conv id.ConversationID) (Conversation, error) {
	ans := new(wire.ConversationState)
	err := c.do(ctx, packet.MethodConversation, &wire.ConversationRequest{ConversationId: conv[:]}, func(inner []byte) error {
		return answerInto(packet.MethodConversation, inner, ans)
	})
	if err != nil {
		return Conversation{}, err
	}
	return conversationOf(c.User(), ans), nil
}

// MarkRead moves the user's read position up to seq (never back, never past the last message), and returns where it is then and
// how many messages are unread. The Handler hears of it too, here and on the user's other devices (CursorsMoved, or, where
// unread ones are left, ConversationChanged), and so does the other side of a direct conversation.
func (c *Client) MarkRead(ctx context.Context, conv id.ConversationID, seq uint64) (read uint64, unread int, err error) {
	err = c.do(ctx, packet.MethodRead, &wire.ReadRequest{ConversationId: conv[:], ReadSeq: seq}, func(inner []byte) error {
		ans := new(wire.ReadResponse)
		if err := answerInto(packet.MethodRead, inner, ans); err != nil {
			return err
		}
		read, unread = ans.ReadSeq, int(ans.Unread)
		if unread > 0 { // counted up to a message that the answer doesn't name
			c.askState(conv)
			return nil
		}
		c.cursors(CursorsMoved{Conversation: conv, User: c.me, Own: true, ReadSeq: read, RecvSeq: read, LastSeq: read})
		return nil
	})
	return read, unread, err
}

// SetTyping tells those who are connected now that the user is writing, or has stopped; they let it lapse after 6 s
// without another. Call it at most every few seconds. Errors are those of Signal.
func (c *Client) SetTyping(to Target, typing bool) error {
	if typing {
		return c.Signal(to, SignalTyping, nil)
	}
	return c.Signal(to, SignalStopped, nil)
}

// Signal tells the devices that are connected now something that is not stored. It is
// dropped, without an error, while there is no connection or too much waits for it.
func (c *Client) Signal(to Target, kind uint32, data []byte) error {
	w := &wire.Signal{ToUserId: string(to.User), Kind: kind, Data: data}
	if !to.Conversation.IsZero() {
		w.ConversationId = to.Conversation[:]
	}
	b, err := packet.AppendBody(nil, frame.Signal, 0, 0, w)
	if err != nil {
		return err
	}
	if f, _, err := frame.Parse(b, frame.DefaultMax); err != nil {
		return err
	} else if err := packet.Validate(&f, &packet.DefaultLimits); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped != nil {
		return c.stopped
	}
	if c.link != nil && len(c.link.out) < maxUnwritten {
		c.link.out = append(c.link.out, b...)
		c.link.wakeWriter()
	}
	return nil
}
