package conn

import (
	"context"
	"errors"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// other acts on every frame but a SEND of a connected client. f stays on the stack for
// what comes often.
func (c *Conn) other(f *frame.Frame, now int64, limited bool) {
	connected := c.state.Load() == stateConnected
	switch {
	case connected && !limited && f.Type == frame.RecvAck:
		c.received(f)
	case connected && !limited && f.Type == frame.Ping:
		c.pong(f)
	default:
		g := *f
		c.rare(&g, now, limited, connected)
	}
}

func (c *Conn) rare(f *frame.Frame, now int64, limited, connected bool) {
	switch {
	case !connected && f.Type == frame.Connect:
		c.connect(f)
		return
	case !connected:
		c.Close(code.New(code.NotConnected))
		return
	case limited:
		c.limit(f, now)
		return
	}
	switch f.Type {
	case frame.Connect:
		c.Close(code.New(code.AlreadyConnected))
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

// pong answers a PING.
func (c *Conn) pong(f *frame.Frame) {
	flags, reqID := f.Flags&frame.FlagRequestID, f.ReqID
	c.reply(f, func(dst []byte) []byte { return frame.Append(dst, frame.Pong, flags, reqID, nil) })
}

// limit refuses a frame of a connection that sends more than it may.
func (c *Conn) limit(f *frame.Frame, now int64) {
	if f.HasReqID() {
		c.answer(f, rateLimited(limitedWait))
		return
	}
	c.strikeOut(now)
}

// strikeOut counts something refused without an answer.
func (c *Conn) strikeOut(now int64) {
	c.mu.Lock()
	flood := c.struck(now, strike)
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

// received acts on a RECVACK.
func (c *Conn) received(f *frame.Frame) {
	svc := c.edge.svc.Conversations
	err := packet.DecodeRecvAck(f.Body, func(conv id.ConversationID, seq uint64) {
		svc.Received(&c.origin, conv, seq)
	})
	if err != nil {
		c.unwelcome(f, err)
	}
}

// unwelcome refuses a frame that has no answer unless it carries a request id.
func (c *Conn) unwelcome(f *frame.Frame, err *code.Error) {
	if !f.HasReqID() {
		c.strikeOut(c.edge.now())
		return
	}
	g := *f // which stays where it is
	c.answer(&g, err)
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
	ctx, cancel := context.WithTimeout(c.callContext(f), c.edge.cfg.CallTimeout)
	defer cancel()
	began := c.edge.now()
	err := withSlot(ctx, c.edge.calls, func() *code.Error { return fn(ctx, f) })
	if err != nil {
		c.answer(f, err)
	}
	c.noteCall(ctx, f, time.Duration(c.edge.now()-began), err)
}

// page bounds the number of messages that a client asks for.
func (c *Conn) page(n uint32) int {
	if n == 0 || int64(n) > int64(c.edge.cfg.MaxPage) {
		return c.edge.cfg.MaxPage
	}
	return int(n)
}

// sync answers a SYNC: one SYNCED a range, in their order.
func (c *Conn) sync(ctx context.Context, f *frame.Frame) *code.Error {
	m, err := packet.DecodeSync(f.Body)
	if err != nil {
		return err
	}
	buf := c.edge.pages.get()
	defer c.edge.pages.put(buf)
	for i, r := range m.Ranges {
		conv := id.ConversationID(r.ConversationId)
		page := packet.Page{Conversation: conv, FromSeq: r.FromSeq, ToSeq: r.ToSeq}
		var refused *code.Error
		if c.crowded() {
			refused = code.Newf(code.Overloaded, "ask for fewer ranges at once")
		} else if p, err := c.edge.svc.Conversations.Sync(ctx, &c.origin, conv, r.FromSeq, r.ToSeq, c.page(r.Limit), *buf); err != nil {
			refused = c.failed(ctx, "syncing a range", err)
		} else {
			page = p
			buf.keep(p.Messages)
		}
		more := i < len(m.Ranges)-1
		c.reply(f, func(dst []byte) []byte { return packet.AppendSynced(dst, f.ReqID, more, &page, refused) })
	}
	return nil
}

// request answers a REQUEST.
func (c *Conn) request(ctx context.Context, f *frame.Frame) *code.Error {
	method, inner, err := packet.DecodeRequest(f.Body)
	if err != nil {
		return err
	}
	switch method {
	case packet.MethodHistory:
		return c.history(ctx, f, inner)
	case packet.MethodBackground:
		return c.answerBackground(ctx, f, inner)
	}
	serve := c.edge.methods[method]
	if serve == nil {
		return code.New(code.UnknownMethod)
	}
	answer, failure := serve(ctx, &c.origin, inner)
	if failure != nil {
		return c.failed(ctx, "answering "+method.String(), failure)
	}
	return c.respond(ctx, f, method, answer)
}

// respond answers a REQUEST in one part.
func (c *Conn) respond(ctx context.Context, f *frame.Frame, m packet.Method, body packet.Body) *code.Error {
	b, err := packet.AppendResponse(nil, f.ReqID, false, m, body)
	if err != nil {
		return c.failed(ctx, "encoding an answer", err)
	}
	c.reply(f, func(dst []byte) []byte { return append(dst, b...) })
	return nil
}

func (c *Conn) history(ctx context.Context, f *frame.Frame, inner []byte) *code.Error {
	var r wire.HistoryRequest
	if err := packet.DecodeMethod(packet.MethodHistory, inner, &r); err != nil {
		return err
	}
	buf := c.edge.pages.get()
	defer c.edge.pages.put(buf)
	page, err := c.edge.svc.Conversations.History(ctx, &c.origin, id.ConversationID(r.ConversationId), r.BeforeSeq, c.page(r.Limit), *buf)
	if err != nil {
		return c.failed(ctx, "reading history", err)
	}
	buf.keep(page.Messages)
	c.reply(f, func(dst []byte) []byte { return packet.AppendHistory(dst, f.ReqID, &page) })
	return nil
}

// signal passes a SIGNAL on. It is answered only if it was refused and has a request id.
func (c *Conn) signal(f *frame.Frame) {
	m, err := packet.DecodeSignal(f.Body)
	if err == nil {
		m.SenderId, m.SenderDevice = string(c.origin.User), string(c.origin.Device)
		ctx, cancel := context.WithTimeout(c.callContext(f), c.edge.cfg.CallTimeout)
		defer cancel()
		err = withSlot(ctx, c.edge.calls, func() *code.Error { return c.edge.svc.Signals.Signal(ctx, &c.origin, m) })
	}
	if err != nil {
		c.unwelcome(f, err)
	}
}
