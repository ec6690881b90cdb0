package conn

import (
	"context"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// callContext is what is done for f runs in.
func (c *Conn) callContext(f *frame.Frame) context.Context {
	return trace.With(context.Background(), trace.Call{
		Trace: f.Trace, ReqID: f.ReqID, Conn: c.origin.Conn, User: c.origin.User, Device: c.origin.Device,
	})
}

// failed logs an error that isn't the client's doing and returns what the client is told.
func (c *Conn) failed(ctx context.Context, doing string, err error) *code.Error {
	e := asError(err)
	level := slog.LevelWarn
	switch {
	case e.Code == code.Internal:
		level = slog.LevelError
	case e.Cause == nil || e.Code.Scope() != code.ScopeLane:
		return e // as it should be
	}
	if left, ok := c.edge.calmly.Allow(c.edge.now()); ok {
		c.edge.log.LogAttrs(ctx, level, "a call failed", slog.String("doing", doing), slog.Any("error", err), slog.Uint64("left_out", left))
	}
	return e
}

// noteCall logs a SYNC or REQUEST that was slow, or that carries a trace id.
func (c *Conn) noteCall(ctx context.Context, f *frame.Frame, took time.Duration, err *code.Error) {
	e := c.edge
	slow := e.cfg.Slow > 0 && took >= e.cfg.Slow
	level, what := slog.LevelDebug, "a call was answered"
	var left uint64
	switch {
	case slow:
		var ok bool
		if left, ok = e.calmly.Allow(e.now()); !ok {
			return
		}
		level, what = slog.LevelWarn, "a call was slow"
	case f.Flags&frame.FlagTrace == 0 || !e.log.Enabled(ctx, level):
		return
	}
	call := f.Type.String()
	if f.Type == frame.Request {
		if m, _, err := packet.DecodeRequest(f.Body); err == nil {
			call = m.String()
		}
	}
	attrs := []slog.Attr{slog.String("call", call), slog.Duration("took", took)}
	if err != nil {
		attrs = append(attrs, slog.String("refused", err.Code.String()))
	}
	if slow {
		attrs = append(attrs, slog.Uint64("left_out", left))
	}
	e.log.LogAttrs(ctx, level, what, attrs...)
}

// noteSend logs the answer to a SEND with a trace id. (Slow ones are logged by who stores them.)
func (c *Conn) noteSend(p *packet.Pending, ack packet.Ack, err *code.Error) {
	log := c.edge.log
	if !log.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	ctx := trace.With(context.Background(), p.Call())
	attrs := []slog.Attr{slog.String("conversation", ack.Conversation.String()), slog.Duration("took", time.Duration(c.edge.now()-p.At))}
	if err != nil {
		attrs = append(attrs, slog.String("refused", err.Code.String()))
	} else {
		attrs = append(attrs, slog.Uint64("seq", ack.Seq))
	}
	log.LogAttrs(ctx, slog.LevelDebug, "a send was answered", attrs...)
}
