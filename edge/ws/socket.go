package ws

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

var (
	_ conn.Transport  = (*Socket)(nil)
	_ conn.Introduced = (*Socket)(nil)
)

// Socket is one WebSocket: the Transport of a Conn, over the Transport of the bytes below.
//
// What the Conn writes becomes messages. One that the link takes only in part must be finished
// before anything else: in binary its payload is what the Conn offers again, so only the rest
// of a header is kept here; of JSON the rest of the text is, and what it was made of is not
// reported as written before it is through. Pongs and the close frame go between messages.
type Socket struct {
	s    *Server
	c    *conn.Conn
	link Link
	json bool

	// The reading goroutine's own.
	token string
	in    *reader // nil: nothing is under way

	mu     sync.Mutex
	rest   []byte // whole frames, or the header of one, that the link has no room for
	pongs  []byte // the answer to the last ping, while it can't be sent
	left   int    // bytes of the binary message under way that the Conn has still to write
	owed   int    // bytes of the next Write that rest was made of
	status uint16 // close code of a failure; 0: the registered one of the reason
	lost   bool   // the client's close frame won't be found
	open   bool   // the request was answered
	closed bool   // a close frame was sent: nothing follows it
}

// Start lets the Conn write: the request was answered.
func (t *Socket) Start() {
	t.mu.Lock()
	t.open = true
	t.mu.Unlock()
}

// Incarnation is the Conn's.
func (t *Socket) Incarnation() uint64 { return t.c.Incarnation() }

// Panicked ends a connection whose Input panicked.
func (t *Socket) Panicked(v any, stack []byte) {
	t.reading().failed = true
	t.c.Panicked(v, stack)
}

// Closed is called by the link, once, when it has ended.
func (t *Socket) Closed() {
	t.drop()
	t.s.stuck.Delete(t.c.Incarnation())
	t.c.Closed()
}

// Token implements conn.Introduced.
func (t *Socket) Token() string {
	token := t.token
	t.token = ""
	return token
}

// OverHTTP implements conn.Web.
func (t *Socket) OverHTTP() {}

// RemoteAddr implements conn.Transport.
func (t *Socket) RemoteAddr() netip.AddrPort { return t.link.RemoteAddr() }

// Close implements conn.Transport.
func (t *Socket) Close() { t.link.Close() }

// scratch is where messages are put together.
var scratch = sync.Pool{New: func() any { b := make([]byte, 0, chunk+maxHead); return &b }}

// chunk is how much is put together for one write.
const chunk = 16 << 10

// Write implements conn.Transport: p is whole frames, or what was not taken of such.
func (t *Socket) Write(p []byte) (n int, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open || t.closed {
		return 0, net.ErrClosed
	}
	if through, err := t.flush(); err != nil || !through {
		return 0, err
	}
	if t.json {
		n, err = t.writeText(p)
	} else {
		n, err = t.writeBinary(p)
	}
	if err == nil && n == len(p) {
		err = t.between()
	}
	return n, err
}

// flush writes rest and reports whether none is left. mu is held.
func (t *Socket) flush() (through bool, err error) {
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

// writeBinary makes one message of p, or goes on with the one that p is the rest of. mu is held.
func (t *Socket) writeBinary(p []byte) (n int, err error) {
	if t.left == 0 {
		bp := scratch.Get().(*[]byte)
		defer scratch.Put(bp)
		b := appendHead((*bp)[:0], opBinary, len(p))
		header := len(b)
		b = append(b, p[:min(len(p), chunk)]...)
		w, err := t.link.Write(b)
		if err != nil {
			return 0, err
		}
		if w < header {
			t.rest = bytes.Clone(b[w:header])
		}
		n = max(w-header, 0)
		t.left = len(p) - n
		if w < len(b) || t.left == 0 {
			return n, nil
		}
	}
	w, err := t.link.Write(p[n:min(n+t.left, len(p))])
	t.left -= w
	return n + w, err
}

// writeText makes messages of the frames in p. mu is held.
func (t *Socket) writeText(p []byte) (n int, err error) {
	n = min(t.owed, len(p))
	t.owed = 0
	bp := scratch.Get().(*[]byte)
	defer scratch.Put(bp)
	for n < len(p) {
		b, from := (*bp)[:0], n
		for n < len(p) && len(b) < chunk {
			f, size, err := frame.Parse(p[n:], frame.HardMax)
			if err != nil || size == 0 { // a Conn writes whole frames
				return from, net.ErrClosed
			}
			if b, err = appendJSON(b, f); err != nil {
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

// between sends the pong that waited for the end of a message. mu is held.
func (t *Socket) between() error {
	if t.pongs == nil || t.left > 0 || len(t.rest) > 0 {
		return nil
	}
	b := t.pongs
	t.pongs = nil
	return t.own(b)
}

// own writes a frame of the WebSocket's own; what the link doesn't take now follows by itself. mu is held.
func (t *Socket) own(b []byte) error {
	n, err := t.link.Write(b)
	if err != nil {
		return err
	}
	if n < len(b) {
		t.rest = bytes.Clone(b[n:])
		t.await()
	}
	return nil
}

// await has unstick called when the link has room. mu is held.
func (t *Socket) await() { t.s.stuck.Store(t.c.Incarnation(), t) }

// unstick goes on with frames of the WebSocket's own.
func (t *Socket) unstick() {
	t.mu.Lock()
	through, err := t.flush()
	if err == nil && through && t.owed == 0 {
		err = t.between()
	}
	if err == nil && len(t.rest) > 0 {
		t.await()
	}
	t.mu.Unlock()
	if err != nil {
		t.link.Close()
	}
}

// pong answers a ping; one that must wait is replaced by the next, as the RFC allows.
func (t *Socket) pong(payload []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.open || t.closed {
		return
	}
	b := appendControl(make([]byte, 0, 2+len(payload)), opPong, payload)
	if t.left > 0 || len(t.rest) > 0 {
		t.pongs = b
		return
	}
	_ = t.own(b) // of a link that has ended the Conn hears
}

// CloseWrite implements conn.Transport: the client is told why, and closes.
func (t *Socket) CloseWrite(reason code.Code) {
	status := reason.WS()
	if status == 0 {
		status = closeNormal
	}
	t.mu.Lock()
	if t.status != 0 {
		status = int(t.status)
	}
	ok := t.sayClose(closePayload(status, reason.String()))
	half := t.lost && len(t.rest) == 0
	t.mu.Unlock()
	switch {
	case !ok:
		t.link.Close()
	case half:
		t.link.CloseWrite(reason)
	}
}

// sayClose sends the close frame, once, and reports whether it can arrive. mu is held.
func (t *Socket) sayClose(payload []byte) bool {
	if t.closed {
		return true
	}
	t.closed, t.pongs = true, nil
	if !t.open || t.left > 0 {
		return false
	}
	b := appendControl(nil, opClose, payload)
	if len(t.rest) > 0 {
		t.rest = append(t.rest, b...)
		t.await()
		return true
	}
	return t.own(b) == nil
}

// leave ends the connection as the client asked: its close frame is answered, if it isn't an
// answer itself, and then it is the server that ends the connection below.
func (t *Socket) leave(status int) {
	var payload []byte
	if status != closeNoStatus {
		payload = binary.BigEndian.AppendUint16(nil, uint16(status))
	}
	t.mu.Lock()
	t.sayClose(payload)
	t.mu.Unlock()
	t.link.Close()
}
