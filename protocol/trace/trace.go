// Package trace names the request that something is done for: in frames, in answers and in
// the log. A trace id is whatever the caller chose, and means nothing to the protocol.
package trace

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
)

// Size is the number of bytes of an ID.
const Size = 16

// ID is a trace id. The zero ID means none.
type ID [Size]byte

// New returns a random ID.
func New() (t ID) {
	_, _ = rand.Read(t[:]) // never fails
	return t
}

// Parse reads the 32 hexadecimal digits that String returns.
func Parse(s string) (t ID, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != Size {
		return t, fmt.Errorf("trace id %q: want %d hexadecimal digits", s, 2*Size)
	}
	copy(t[:], b)
	return t, nil
}

// IsZero reports whether t is none.
func (t ID) IsZero() bool { return t == ID{} }

// String returns t as 32 lower-case hexadecimal digits.
func (t ID) String() string { return hex.EncodeToString(t[:]) }

// Call is a request under way: what a line of the log says about whom it is for. Zero
// fields aren't known, and left out.
type Call struct {
	Trace   ID
	Request string // of HTTP: X-Request-ID
	ReqID   uint32 // of a frame, if Conn isn't 0
	Conn    uint64
	User    id.UserID
	Device  id.DeviceID
}

// Attrs appends what is known of c to attrs.
func (c *Call) Attrs(attrs []slog.Attr) []slog.Attr {
	if !c.Trace.IsZero() {
		attrs = append(attrs, slog.String("trace", c.Trace.String()))
	}
	if c.Request != "" {
		attrs = append(attrs, slog.String("request", c.Request))
	}
	if c.Conn != 0 {
		attrs = append(attrs, slog.Uint64("conn", c.Conn), slog.Uint64("req", uint64(c.ReqID)))
	}
	if c.User != "" {
		attrs = append(attrs, slog.String("user", string(c.User)))
	}
	if c.Device != "" {
		attrs = append(attrs, slog.String("device", string(c.Device)))
	}
	return attrs
}

// callKey finds the Call of a context.
type callKey struct{}

// called is a context with a Call: one allocation for both.
type called struct {
	context.Context
	call Call
}

// Value implements context.Context.
func (c *called) Value(key any) any {
	if key == (callKey{}) {
		return &c.call
	}
	return c.Context.Value(key)
}

// With returns ctx for what is done for c.
func With(ctx context.Context, c Call) context.Context { return &called{ctx, c} }

// From returns the request that ctx is for, or nil. It is shared, and not to be changed.
func From(ctx context.Context) *Call {
	c, _ := ctx.Value(callKey{}).(*Call)
	return c
}

// Handler is a slog.Handler that adds the Call of the context to every line logged with one.
type Handler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h Handler) Handle(ctx context.Context, r slog.Record) error {
	if c := From(ctx); c != nil {
		var room [6]slog.Attr
		r = r.Clone()
		r.AddAttrs(c.Attrs(room[:0])...)
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return Handler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h Handler) WithGroup(name string) slog.Handler { return Handler{h.Handler.WithGroup(name)} }

// start is what Now counts from.
var start = time.Now()

// Now is the time since this process began, in ns, by a clock that never runs back. It is never 0.
func Now() int64 { return int64(time.Since(start)) + 1 }
