package sse

import (
	"context"
	"log/slog"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

// turned is a stream that only tells its client, which wasn't admitted, why and where else to go. It has no Conn, is
// counted nowhere, takes no bodies, and is cut off if the client doesn't go soon.
type turned struct {
	t       *Stream // that it would have been
	refused *code.Error
	gone    func()
}

// Head tells a key, of no stream.
func (u *turned) Head() []byte { return openEvent(u.t.key(0)) }

// Start tells it all there is to tell. What of that the new connection has no room for isn't told.
func (u *turned) Start() {
	frames := u.t.s.cfg.Hub.Farewell(u.refused, true)
	var b []byte
	for len(frames) > 0 {
		f, n, err := frame.Parse(frames, frame.HardMax)
		if err == nil {
			b, err = u.t.appendEvents(b, f, frames[:n])
		}
		if err != nil || n == 0 { // never: they are the hub's own
			u.t.s.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "a farewell that can't be told", slog.Any("error", err))
			break
		}
		frames = frames[n:]
	}
	b = appendClose(b, u.refused.Code)
	if n, err := u.t.link.Write(b); err != nil || n < len(b) {
		u.t.link.Close()
		return
	}
	u.t.link.CloseWrite(u.refused.Code)
}

// Incarnation is no connection's.
func (u *turned) Incarnation() uint64 { return 0 }

// Input throws away what comes behind the request.
func (u *turned) Input(b []byte) { u.t.Input(b) }

// Closed is called by the link, once, when it has ended.
func (u *turned) Closed() { u.gone() }

// Panicked ends the connection.
func (u *turned) Panicked(v any, stack []byte) {
	u.t.s.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "a connection panicked", slog.Any("panic", v), slog.String("stack", string(stack)))
	u.t.link.Close()
}
