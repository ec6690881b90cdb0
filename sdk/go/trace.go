package gochat

import (
	"context"

	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/trace"
)

// WithTrace returns a context whose calls tell the server a trace id, 16 bytes that mean
// something to who chose them: methods that ask the server, and Send, whose message has it
// each time that it is sent until this Client is closed. The server's log names it.
func WithTrace(ctx context.Context, id [16]byte) context.Context {
	return trace.With(ctx, trace.Call{Trace: id})
}

// traceOf is the trace id of ctx; zero: none.
func traceOf(ctx context.Context) trace.ID {
	if c := trace.From(ctx); c != nil {
		return c.Trace
	}
	return trace.ID{}
}

// withTrace puts t, unless it is zero, into the frame that begins at b[at].
func withTrace(b []byte, at int, t trace.ID) []byte {
	if t.IsZero() {
		return b
	}
	return frame.AddTrace(b, at, t)
}
