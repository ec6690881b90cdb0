package conn

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"unicode/utf8"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// The methods of REQUEST. Numbers are never reused.
const (
	methodHistory       = 1
	methodConversations = 2
	methodRead          = 3
	methodOpenDirect    = 4
	methodConversation  = 5
)

// maxSignal bounds the data of a SIGNAL in bytes.
const maxSignal = 4 << 10

// other acts on every frame but a SEND of a connected client.
func (c *Conn) other(f *frame.Frame, now int64, limited bool) {
	if c.state.Load() == stateHandshake {
		if f.Type != frame.Connect {
			c.Close(code.New(code.NotConnected))
			return
		}
		c.connect(f)
		return
	}
	if limited {
		c.limit(f, now)
		return
	}
	switch f.Type {
	case frame.Connect:
		c.Close(code.New(code.AlreadyConnected))
	case frame.RecvAck:
		c.received(f)
	case frame.Ping:
		c.reply(func(dst []byte) []byte {
			return frame.Append(dst, frame.Pong, f.Flags&frame.FlagRequestID, f.ReqID, nil)
		})
	case frame.Pong:
	case frame.Sync:
		c.call(f, c.sync)
	case frame.Request:
		c.call(f, c.request)
	case frame.Signal:
		c.signal(f)
	default: // of a later version, or one that only servers send
		if f.HasReqID() {
			c.answer(f, code.New(code.UnknownFrame))
		}
	}
}

// limit refuses a frame of a connection that sends more than it may.
func (c *Conn) limit(f *frame.Frame, now int64) {
	if f.HasReqID() {
		c.answer(f, rateLimited(limitedWait))
		return
	}
	c.mu.Lock()
	flood := c.strikes.take(now, 1, c.edge.strikeRate) > 0
	c.mu.Unlock()
	if flood {
		c.Close(code.New(code.Flooding))
	}
}

// asError returns err as what crosses the wire.
func asError(err error) *code.Error {
	var e *code.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded):
		return code.Wrap(code.Unavailable, err)
	}
	return code.Wrap(code.Internal, err)
}

// failed logs an error that isn't the client's doing and returns what the client is told.
func (c *Conn) failed(doing string, err error) *code.Error {
	e := asError(err)
	if e.Code == code.Internal {
		c.edge.log.LogAttrs(context.Background(), slog.LevelError, "a call failed", slog.String("doing", doing),
			slog.String("user", string(c.origin.User)), slog.Any("error", err))
	}
	return e
}

// received acts on a RECVACK.
func (c *Conn) received(f *frame.Frame) {
	svc := c.edge.svc.Conversations
	err := packet.DecodeRecvAck(f.Body, func(conv id.ConversationID, seq uint64) {
		svc.Received(&c.origin, conv, seq)
	})
	if err != nil {
		c.answer(f, err)
	}
}

// call runs a blocking service call in the goroutine that reads: the client's next
// frame waits for it, and others' don't.
func (c *Conn) call(f *frame.Frame, fn func(ctx context.Context, f *frame.Frame) *code.Error) {
	if !f.HasReqID() {
		c.Close(code.Newf(code.BadFrame, "a %v without request id", f.Type))
		return
	}
	if c.crowded() {
		c.answer(f, code.Newf(code.Overloaded, "read the answers that are waiting first"))
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.edge.cfg.CallTimeout)
	defer cancel()
	if err := acquire(ctx, c.edge.calls); err != nil {
		c.answer(f, err)
		return
	}
	err := fn(ctx, f)
	<-c.edge.calls
	if err != nil {
		c.answer(f, err)
	}
}

// page bounds the number of messages that a client asks for.
func (c *Conn) page(n uint32) int {
	if n == 0 || int64(n) > int64(c.edge.cfg.MaxPage) {
		return c.edge.cfg.MaxPage
	}
	return int(n)
}

// conversation reads the conversation id of a request.
func conversation(b []byte) (id.ConversationID, *code.Error) {
	conv, err := id.ConversationFromBytes(b)
	if err != nil || !conv.Valid() {
		return conv, code.Newf(code.BadRequest, "conversation_id: want 16 bytes of a known kind")
	}
	return conv, nil
}

// sync answers a SYNC: one SYNCED a range, in their order.
func (c *Conn) sync(ctx context.Context, f *frame.Frame) *code.Error {
	var m wire.Sync
	if err := m.Unmarshal(bytes.Clone(f.Body)); err != nil {
		return code.Newf(code.BadRequest, "the body of SYNC can't be read")
	}
	if len(m.Ranges) == 0 || len(m.Ranges) > c.edge.cfg.MaxRanges {
		return code.Newf(code.BadRequest, "ranges: want 1 to %d", c.edge.cfg.MaxRanges)
	}
	for _, r := range m.Ranges {
		if r == nil {
			return code.Newf(code.BadRequest, "a range is missing")
		}
		if _, err := conversation(r.ConversationId); err != nil {
			return err
		}
	}
	for i, r := range m.Ranges {
		conv := id.ConversationID(r.ConversationId)
		page := packet.Page{Conversation: conv, FromSeq: r.FromSeq, ToSeq: r.ToSeq}
		var cerr *code.Error
		if c.crowded() {
			cerr = code.Newf(code.Overloaded, "ask for fewer ranges at once")
		} else if p, err := c.edge.svc.Conversations.Sync(ctx, &c.origin, conv, r.FromSeq, r.ToSeq, c.page(r.Limit)); err != nil {
			cerr = c.failed("syncing a range", err)
		} else {
			page = p
		}
		more := i < len(m.Ranges)-1
		c.reply(func(dst []byte) []byte { return packet.AppendSynced(dst, f.ReqID, more, &page, cerr) })
	}
	return nil
}

// marshaler is a generated wire message.
type marshaler interface {
	Marshal(in []byte) ([]byte, error)
}

// respond answers a REQUEST in one part.
func (c *Conn) respond(f *frame.Frame, m marshaler) *code.Error {
	inner, err := m.Marshal(nil)
	if err != nil {
		return c.failed("encoding an answer", err)
	}
	body, err := (&wire.Response{Body: inner}).Marshal(nil)
	if err != nil {
		return c.failed("encoding an answer", err)
	}
	c.reply(func(dst []byte) []byte { return frame.Append(dst, frame.Response, frame.FlagRequestID, f.ReqID, body) })
	return nil
}

// request answers a REQUEST.
func (c *Conn) request(ctx context.Context, f *frame.Frame) *code.Error {
	var m wire.Request
	// Cloned: services may keep a text of it, and the transport's buffer is used again.
	if err := m.Unmarshal(bytes.Clone(f.Body)); err != nil {
		return code.Newf(code.BadRequest, "the body of REQUEST can't be read")
	}
	svc, o := c.edge.svc.Conversations, &c.origin
	unreadable := code.Newf(code.BadRequest, "the body of the method can't be read")
	switch m.Method {
	case methodHistory:
		var r wire.HistoryRequest
		if r.Unmarshal(m.Body) != nil {
			return unreadable
		}
		conv, cerr := conversation(r.ConversationId)
		if cerr != nil {
			return cerr
		}
		page, err := svc.History(ctx, o, conv, r.BeforeSeq, c.page(r.Limit))
		if err != nil {
			return c.failed("reading history", err)
		}
		c.reply(func(dst []byte) []byte { return packet.AppendHistory(dst, f.ReqID, &page) })
		return nil
	case methodConversations:
		var r wire.ConversationsRequest
		if r.Unmarshal(m.Body) != nil {
			return unreadable
		}
		if !utf8.ValidString(r.Cursor) {
			return code.Newf(code.InvalidUTF8, "cursor isn't valid UTF-8")
		}
		limit := c.edge.cfg.InboxPage
		if r.Limit > 0 {
			limit = min(limit, int(r.Limit))
		}
		states, next, mark, err := svc.Inbox(ctx, o, r.SyncMark, r.Cursor, limit)
		if err != nil {
			return c.failed("reading the inbox", err)
		}
		return c.respond(f, &wire.ConversationsResponse{Conversations: states, Cursor: next, SyncMark: mark})
	case methodRead:
		var r wire.ReadRequest
		if r.Unmarshal(m.Body) != nil {
			return unreadable
		}
		conv, cerr := conversation(r.ConversationId)
		if cerr != nil {
			return cerr
		}
		read, unread, err := svc.Read(ctx, o, conv, r.ReadSeq)
		if err != nil {
			return c.failed("moving a read cursor", err)
		}
		return c.respond(f, &wire.ReadResponse{ReadSeq: read, Unread: unread})
	case methodOpenDirect:
		var r wire.OpenDirectRequest
		if r.Unmarshal(m.Body) != nil {
			return unreadable
		}
		if !id.UserID(r.UserId).Valid() {
			return code.Newf(code.BadRequest, "user_id: want 1 to %d bytes without control characters", id.MaxUserID)
		}
		state, err := svc.OpenDirect(ctx, o, id.UserID(r.UserId))
		if err != nil {
			return c.failed("opening a direct conversation", err)
		}
		return c.respond(f, &wire.OpenDirectResponse{Conversation: state})
	case methodConversation:
		var r wire.ConversationRequest
		if r.Unmarshal(m.Body) != nil {
			return unreadable
		}
		conv, cerr := conversation(r.ConversationId)
		if cerr != nil {
			return cerr
		}
		state, err := svc.State(ctx, o, conv)
		if err != nil {
			return c.failed("reading a conversation", err)
		}
		if state == nil {
			return code.New(code.NoSuchConversation)
		}
		return c.respond(f, state)
	}
	return code.New(code.UnknownMethod)
}

// signal passes a SIGNAL on. It is answered only if it was refused and has a request id.
func (c *Conn) signal(f *frame.Frame) {
	var m wire.Signal
	if err := m.Unmarshal(bytes.Clone(f.Body)); err != nil {
		c.answer(f, code.Newf(code.BadRequest, "the body of SIGNAL can't be read"))
		return
	}
	if err := checkSignal(&m); err != nil {
		c.answer(f, err)
		return
	}
	m.SenderId, m.SenderDevice = string(c.origin.User), string(c.origin.Device)
	ctx, cancel := context.WithTimeout(context.Background(), c.edge.cfg.CallTimeout)
	defer cancel()
	if acquire(ctx, c.edge.calls) != nil {
		return
	}
	err := c.edge.svc.Signals.Signal(ctx, &c.origin, &m)
	<-c.edge.calls
	if err != nil && f.HasReqID() {
		c.answer(f, err)
	}
}

func checkSignal(m *wire.Signal) *code.Error {
	if len(m.ConversationId) > 0 {
		if _, err := conversation(m.ConversationId); err != nil {
			return err
		}
	} else if !id.UserID(m.ToUserId).Valid() {
		return code.Newf(code.BadRequest, "to_user_id: want 1 to %d bytes without control characters", id.MaxUserID)
	}
	if len(m.Data) > maxSignal {
		return code.Newf(code.ContentTooLarge, "data: want at most %d bytes", maxSignal)
	}
	return nil
}
