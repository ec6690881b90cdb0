package sse

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

var (
	_ conn.Transport  = (*Stream)(nil)
	_ conn.Introduced = (*Stream)(nil)
)

// Stream is the Transport of a Conn over a response that doesn't end and the requests beside it.
//
// What the Conn writes becomes events. Of events that the link takes only in part the rest is
// kept, and what they were made of is not reported as written before they are through.
type Stream struct {
	s      *Server
	c      *conn.Conn
	link   Link
	json   bool
	secret [16]byte

	behind int // bytes that came on the response's own connection, behind its request

	turn    chan struct{} // held by whoever calls the Conn's Input, one body after the other, and before Start
	waiting atomic.Int32  // bodies that have the turn or wait for it

	// For who has the turn.
	token string
	seq   uint64 // of the last body that was taken

	mu     sync.Mutex
	rest   []byte // events, or the end of some, that the link has no room for
	owed   int    // bytes of the next Write that rest was made of
	wrote  int64  // Unix ns of the last write
	open   bool   // the request was answered
	closed bool   // the last event was written: nothing follows it
	busy   bool   // Input runs, or may
	ended  bool   // the link has ended
}

// Head is what the answer's body begins with: the event that tells the key.
func (t *Stream) Head() []byte {
	return openEvent(t.key(t.c.Incarnation()))
}

func openEvent(key string) []byte {
	return fmt.Appendf(nil, "event: open\ndata: {\"key\": %q}\n\n", key)
}

// Start lets the Conn write, and bodies in: the request was answered.
func (t *Stream) Start() {
	t.mu.Lock()
	t.open, t.wrote = true, time.Now().UnixNano()
	t.mu.Unlock()
	<-t.turn
}

// Incarnation is the Conn's.
func (t *Stream) Incarnation() uint64 { return t.c.Incarnation() }

// Panicked ends a connection whose Input panicked.
func (t *Stream) Panicked(v any, stack []byte) { t.c.Panicked(v, stack) }

// maxBehind is how many bytes may come behind the request, where nothing should.
const maxBehind = 4 << 10

// Input throws away what comes behind the request: an HTTP client has nothing to say there.
func (t *Stream) Input(b []byte) {
	if t.behind += len(b); t.behind > maxBehind {
		t.link.Close()
	}
}

// Closed is called by the link, once, when it has ended. The Conn hears of it when no Input runs.
func (t *Stream) Closed() {
	t.s.streams.Delete(t.c.Incarnation())
	t.s.stuck.Delete(t.c.Incarnation())
	t.mu.Lock()
	t.ended = true
	busy := t.busy
	t.mu.Unlock()
	if !busy {
		t.c.Closed()
	}
}

// Token implements conn.Introduced.
func (t *Stream) Token() string {
	token := t.token
	t.token = ""
	return token
}

// OverHTTP implements conn.Web.
func (t *Stream) OverHTTP() {}

// RemoteAddr implements conn.Transport.
func (t *Stream) RemoteAddr() netip.AddrPort { return t.link.RemoteAddr() }

// Close implements conn.Transport.
func (t *Stream) Close() { t.link.Close() }

// chunk is how much is put together for one write.
const chunk = 16 << 10

// scratch is where events are put together.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, chunk+1<<10); return &b }}

// Write implements conn.Transport: p is whole frames.
func (t *Stream) Write(p []byte) (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open || t.closed || t.ended {
		return 0, net.ErrClosed
	}
	if through, err := t.flush(); err != nil || !through {
		return 0, err
	}
	n = min(t.owed, len(p))
	t.owed = 0
	t.wrote = time.Now().UnixNano()
	bp := scratch.Get().(*[]byte)
	defer scratch.Put(bp)
	for n < len(p) {
		b, from := (*bp)[:0], n
		for n < len(p) && len(b) < chunk {
			f, size, err := frame.Parse(p[n:], frame.HardMax)
			if err != nil || size == 0 { // a Conn writes whole frames
				return from, net.ErrClosed
			}
			if b, err = t.appendEvents(b, f, p[n:n+size]); err != nil {
				t.s.cfg.Logger.LogAttrs(context.Background(), slog.LevelError, "a frame has no JSON form",
					slog.String("type", f.Type.String()), slog.Any("error", err))
			}
			n += size
		}
		if cap(b) <= 4*chunk {
			*bp = b
		}
		w, err := t.link.Write(b)
		if err != nil {
			return from, err
		}
		if w < len(b) {
			t.rest, t.owed = bytes.Clone(b[w:]), n-from
			return from, nil
		}
	}
	return n, nil
}

// appendEvents appends the events of one frame, of which whole is the bytes.
func (t *Stream) appendEvents(dst []byte, f frame.Frame, whole []byte) ([]byte, error) {
	if !t.json {
		dst = base64.StdEncoding.AppendEncode(append(dst, "data: "...), whole)
		return append(dst, "\n\n"...), nil
	}
	text, err := packet.ToJSON(f)
	if err != nil {
		return dst, err
	}
	for len(text) > 0 { // a packet's JSON form has no line end within
		line, rest, _ := bytes.Cut(text, []byte{'\n'})
		dst = append(append(append(dst, "data: "...), line...), "\n\n"...)
		text = rest
	}
	return dst, nil
}

// flush writes rest and reports whether none is left. mu is held.
func (t *Stream) flush() (through bool, err error) {
	if len(t.rest) == 0 {
		return true, nil
	}
	n, err := t.link.Write(t.rest)
	if t.rest = t.rest[n:]; len(t.rest) > 0 || err != nil {
		return false, err
	}
	t.rest = nil
	return true, nil
}

// own writes an event or a comment of the stream's own; what the link doesn't take now follows by
// itself. mu is held.
func (t *Stream) own(b []byte) error {
	t.wrote = time.Now().UnixNano()
	n, err := t.link.Write(b)
	if err == nil && n < len(b) {
		t.rest = bytes.Clone(b[n:])
		t.await()
	}
	return err
}

// await has unstick called when the link has room. mu is held.
func (t *Stream) await() { t.s.stuck.Store(t.c.Incarnation(), t) }

// unstick goes on with what is of the stream's own.
func (t *Stream) unstick() {
	t.mu.Lock()
	through, err := t.flush()
	if err == nil && !through {
		t.await()
	}
	end := through && t.closed
	t.mu.Unlock()
	switch {
	case err != nil:
		t.link.Close()
	case end:
		t.link.CloseWrite(0)
	}
}

// comment keeps the way open if nothing was written since before, in Unix ns.
func (t *Stream) comment(before int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open && !t.closed && !t.ended && len(t.rest) == 0 && t.wrote <= before {
		t.s.comments.Add(1)
		_ = t.own([]byte(":\n\n")) // of a link that has ended the Conn hears
	}
}

// closeNormal is the close code of a WebSocket for reasons that have none.
const closeNormal = 1000

// appendClose appends the last event.
func appendClose(dst []byte, reason code.Code) []byte {
	status := reason.WS()
	if status == 0 {
		status = closeNormal
	}
	return fmt.Appendf(dst, "event: close\ndata: {\"code\": %d, \"reason\": %q}\n\n", status, reason.String())
}

// CloseWrite implements conn.Transport: the last event says why, and the response ends.
func (t *Stream) CloseWrite(reason code.Code) {
	t.mu.Lock()
	if t.closed || t.ended {
		t.mu.Unlock()
		return
	}
	t.closed = true
	err := net.ErrClosed
	b := appendClose(nil, reason)
	switch {
	case !t.open:
	case len(t.rest) > 0:
		t.rest, err = append(t.rest, b...), nil
		t.await()
	default:
		err = t.own(b)
	}
	through := len(t.rest) == 0
	t.mu.Unlock()
	switch {
	case err != nil:
		t.link.Close()
	case through:
		t.link.CloseWrite(reason)
	}
}
