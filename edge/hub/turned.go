package hub

import (
	"context"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

// Turned is what stands on a connection whose client was not admitted because this edge leaves, where it takes a while to tell it why and
// where else to go: after a handshake, or in an answer that a browser's script sees, unlike a request that is refused. It has no Conn, isn't among the connections
// that are counted, nobody waits for it when this edge leaves, and it is cut off if the client doesn't go soon.
type Turned struct {
	h       *Hub
	link    conn.Transport
	refused *code.Error
	form    Form
	late    *time.Timer
	read    int // bytes that came
}

var _ conn.Upper = (*Turned)(nil)

// Form is how a client is told something that isn't admitted.
type Form struct {
	Web       bool // it came by HTTP
	Handshake bool // it is told after a handshake, and counts to its address until it has gone

	// Frame appends what is written of a frame, of which whole is the bytes; nil: just these.
	Frame func(dst []byte, f frame.Frame, whole []byte) ([]byte, error)
	End   []byte // is written behind the frames
}

// How many are turned away at the same time, how long one may take to go that was told, and how many bytes of it are thrown away
// meanwhile: its CONNECT, and what it sent behind that.
const (
	maxTurned  = 1024
	turnedTime = time.Second
	maxUnheard = 64 << 10
)

// TurnAway returns what is to stand on link instead of the connection that was refused: its owner calls Start when
// something may be written, which has as long as a login, and Closed at the end. nil: this client isn't told in
// this way. It was refused for another reason than that this edge leaves, or too many are being told at the moment.
func (h *Hub) TurnAway(link conn.Transport, refused *code.Error, form Form) *Turned {
	if refused.Code != code.Draining {
		return nil
	}
	if h.turned.Add(1) > maxTurned {
		h.turned.Add(-1)
		return nil
	}
	if form.Handshake && h.enter(link.RemoteAddr().Addr()) != nil {
		h.turned.Add(-1)
		return nil
	}
	return &Turned{h: h, link: link, refused: refused, form: form, late: time.AfterFunc(h.edge.Config().Handshake, link.Close)}
}

// Start tells the client all there is to tell. What of that the new connection has no room for isn't told.
func (t *Turned) Start() {
	t.late.Reset(turnedTime)
	var b []byte
	for frames := t.h.Farewell(t.refused, t.form.Web); len(frames) > 0; {
		f, n, err := frame.Parse(frames, frame.HardMax)
		switch {
		case err != nil || n == 0:
		case t.form.Frame == nil:
			b = append(b, frames[:n]...)
		default:
			b, err = t.form.Frame(b, f, frames[:n])
		}
		if err != nil || n == 0 { // never: they are the hub's own
			t.h.log.LogAttrs(context.Background(), slog.LevelError, "a farewell that can't be told", slog.Any("error", err))
			break
		}
		frames = frames[n:]
	}
	b = append(b, t.form.End...)
	if n, err := t.link.Write(b); err != nil || n < len(b) {
		t.link.Close()
		return
	}
	// The rest is the client's: closed now, with its CONNECT unread, the connection might lose what was written.
	t.link.CloseWrite(t.refused.Code)
}

// Incarnation is no connection's.
func (t *Turned) Incarnation() uint64 { return 0 }

// Input throws away what the client says.
func (t *Turned) Input(b []byte) {
	if t.read += len(b); t.read > maxUnheard {
		t.link.Close()
	}
}

// Closed is called by the link, once, when it has ended.
func (t *Turned) Closed() {
	t.late.Stop()
	if t.form.Handshake {
		t.h.leave(t.link.RemoteAddr().Addr(), true)
	}
	t.h.turned.Add(-1)
}

// Panicked ends the connection.
func (t *Turned) Panicked(v any, stack []byte) {
	t.h.log.LogAttrs(context.Background(), slog.LevelError, "a connection panicked", slog.Any("panic", v), slog.String("stack", string(stack)))
	t.link.Close()
}
