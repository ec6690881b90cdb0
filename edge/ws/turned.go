package ws

import (
	"context"
	"log/slog"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

// turned is a WebSocket that only tells its client, which wasn't admitted, why and where else to go: what a
// browser's script would not see of a request that is refused. It has no Conn, is counted nowhere, and is cut off if the client
// doesn't go soon.
type turned struct {
	s       *Server
	link    Link
	json    bool
	refused *code.Error
	gone    func()
	read    int // bytes that came
}

// maxUnheard is how many bytes of a client are thrown away that was told to go: its CONNECT, and what it sent behind that.
const maxUnheard = 64 << 10

// Start tells it all there is to tell. What of that the new connection has no room for isn't told.
func (t *turned) Start() {
	frames := t.s.cfg.Hub.Farewell(t.refused, true)
	var b []byte
	if !t.json {
		b = append(appendHead(b, opBinary, len(frames)), frames...)
	}
	for t.json && len(frames) > 0 {
		f, n, err := frame.Parse(frames, frame.HardMax)
		if err == nil {
			b, err = appendJSON(b, f)
		}
		if err != nil || n == 0 { // never: they are the hub's own
			t.s.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "a farewell that can't be told", slog.Any("error", err))
			break
		}
		frames = frames[n:]
	}
	b = appendControl(b, opClose, closePayload(t.refused.Code.WS(), t.refused.Code.String()))
	if n, err := t.link.Write(b); err != nil || n < len(b) {
		t.link.Close()
		return
	}
	// The rest is the client's: closed now, with its CONNECT unread, the connection might lose what was written.
	t.link.CloseWrite(t.refused.Code)
}

// Incarnation is no connection's.
func (t *turned) Incarnation() uint64 { return 0 }

// Input throws away what the client says.
func (t *turned) Input(b []byte) {
	if t.read += len(b); t.read > maxUnheard {
		t.link.Close()
	}
}

// Closed is called by the link, once, when it has ended.
func (t *turned) Closed() { t.gone() }

// Panicked ends the connection.
func (t *turned) Panicked(v any, stack []byte) {
	t.s.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "a connection panicked", slog.Any("panic", v), slog.String("stack", string(stack)))
	t.link.Close()
}
