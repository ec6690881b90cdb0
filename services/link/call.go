package link

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/node"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// NewCall returns what a call from the node from says of itself: whom it is for, which is o if that
// isn't nil and the request that ctx is for. How long the caller waits is filled in when it is sent.
func NewCall(ctx context.Context, from string, o *packet.Origin) *node.Call {
	c := &node.Call{From: from}
	if t := trace.From(ctx); t != nil {
		if !t.Trace.IsZero() {
			c.Trace = append([]byte(nil), t.Trace[:]...)
		}
		c.Request, c.ReqId, c.Conn, c.User, c.Device = t.Request, t.ReqID, t.Conn, string(t.User), string(t.Device)
	}
	if o != nil {
		c.Conn, c.User, c.Device = o.Conn, string(o.User), string(o.Device)
	}
	return c
}

// Origin is who c is for. Its strings live as long as the request that c came with.
func Origin(c *node.Call) packet.Origin {
	return packet.Origin{User: id.UserID(c.GetUser()), Device: id.DeviceID(c.GetDevice()), Conn: c.GetConn()}
}

// Within returns ctx for the work of c: with its deadline, and its names in the log.
func Within(ctx context.Context, c *node.Call) (context.Context, context.CancelFunc) {
	call := trace.Call{
		Request: c.GetRequest(), ReqID: c.GetReqId(), Conn: c.GetConn(),
		User: id.UserID(c.GetUser()), Device: id.DeviceID(c.GetDevice()),
	}
	copy(call.Trace[:], c.GetTrace())
	ctx = trace.With(ctx, call)
	if ms := c.GetTimeoutMs(); ms > 0 {
		return context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
	}
	return context.WithCancel(ctx)
}

// Left is the time until ctx's deadline as it stands in a call: rounded up, at most bound.
func Left(ctx context.Context, bound time.Duration) (time.Duration, uint32) {
	if at, ok := ctx.Deadline(); ok {
		bound = min(bound, time.Until(at))
	}
	ms := (bound + time.Millisecond - 1).Milliseconds()
	return bound, uint32(min(max(ms, 1), math.MaxUint32))
}

// maxText bounds the text of a refusal, in bytes.
const maxText = 1 << 10

// FailureOf returns err as it crosses the wire; nil for nil. What is no *code.Error and no *WrongNode
// is internal, or unavailable if time ran out, and its text stays here, where it is to be logged.
func FailureOf(err error) *node.Failure {
	if err == nil {
		return nil
	}
	var wrong *WrongNode
	if errors.As(err, &wrong) {
		f := fill(code.New(code.WrongOwner))
		f.Node, f.Addr, f.Revision = wrong.Node.ID, wrong.Node.Addr, wrong.Revision
		return f
	}
	var e *code.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		e = code.New(code.Unavailable)
	default:
		e = code.New(code.Internal)
	}
	return fill(e)
}

// Refused is FailureOf for a *code.Error, which may be nil.
func Refused(e *code.Error) *node.Failure {
	if e == nil {
		return nil
	}
	return fill(e)
}

func fill(e *code.Error) *node.Failure {
	text := e.Reason
	if len(text) > maxText {
		text = text[:maxText]
	}
	return &node.Failure{Code: uint32(e.Code), Text: text, RetryAfterMs: uint64((e.RetryAfter + time.Millisecond - 1).Milliseconds())}
}

// ErrorOf returns a failure that came as the error that it was: nil, a *WrongNode or a *code.Error.
func ErrorOf(f *node.Failure) error {
	switch {
	case f == nil:
		return nil
	case f.Addr != "" && code.Code(f.Code) == code.WrongOwner:
		return &WrongNode{Node: Node{ID: f.Node, Addr: f.Addr}, Revision: f.Revision}
	}
	return &code.Error{Code: code.Code(f.Code), Reason: f.Text, RetryAfter: time.Duration(f.RetryAfterMs) * time.Millisecond}
}
