package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"

	"github.com/gochat-im/gochat/bench/loop"
)

// websocket is between a connection and its handler: it asks for the upgrade, and carries
// frames in binary messages (subprotocol gochat.v1). It masks with zeros, as a client may that
// nobody's cache stands in front of: no byte changes, and the server works as for any mask.
type websocket struct {
	loop.Handler
	conn *loop.Conn
	host netip.AddrPort
	up   bool
	rest []byte // of a message, what the handler hasn't taken
}

// over returns what is to handle c where h does: h itself, or a WebSocket before it.
func (t *Target) over(c *loop.Conn, h loop.Handler) loop.Handler {
	if !t.WS {
		return h
	}
	return &websocket{Handler: h, conn: c, host: t.Addr}
}

// Connected implements loop.Handler.
func (w *websocket) Connected() {
	w.conn.Out = fmt.Appendf(w.conn.Out, "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: gochat.v1\r\n\r\n", w.host)
}

// Input implements loop.Handler.
func (w *websocket) Input(b []byte) int {
	used := 0
	if !w.up {
		end := bytes.Index(b, []byte("\r\n\r\n"))
		if end < 0 {
			return 0
		}
		if status, _, _ := bytes.Cut(b, []byte("\r\n")); !bytes.HasPrefix(status, []byte("HTTP/1.1 101")) {
			w.fail(fmt.Errorf("no WebSocket: %s", b))
			return len(b)
		}
		w.up, used = true, end+4
		w.conn.Seal = seal
		w.Handler.Connected()
	}
	for w.conn.Alive() {
		op, payload, n, err := serverFrame(b[used:])
		if err != nil {
			w.fail(err)
			return len(b)
		}
		if n == 0 {
			break
		}
		used += n
		if op != 2 { // what a close is about, an ERROR has said before
			continue
		}
		if len(w.rest) > 0 {
			w.rest = append(w.rest, payload...)
			payload = w.rest
		}
		k := w.Handler.Input(payload)
		if w.rest = append(w.rest[:0], payload[k:]...); len(w.rest) == 0 {
			w.rest = nil
		}
	}
	return used
}

func (w *websocket) fail(err error) {
	w.conn.Close()
	w.Handler.Closed(err)
}

var errServerFrame = errors.New("a WebSocket frame that a server must not send")

// serverFrame cuts the first frame off b; n is 0 while it isn't whole.
func serverFrame(b []byte) (op byte, payload []byte, n int, err error) {
	if len(b) < 2 {
		return 0, nil, 0, nil
	}
	if b[0]&0xF0 != 0x80 || b[1] > 127 {
		return 0, nil, 0, errServerFrame
	}
	size, at := uint64(b[1]), 2
	switch size {
	case 126:
		if at = 4; len(b) >= at {
			size = uint64(binary.BigEndian.Uint16(b[2:]))
		}
	case 127:
		if at = 10; len(b) >= at {
			size = binary.BigEndian.Uint64(b[2:])
		}
	}
	if len(b) < at || uint64(len(b)-at) < size {
		return 0, nil, 0, nil
	}
	n = at + int(size)
	return b[0] & 0x0F, b[at:n], n, nil
}

// seal makes one message of out from at on.
func seal(out []byte, at int) []byte {
	size := len(out) - at
	var h [14]byte
	h[0] = 0x82
	n := 2
	switch {
	case size < 126:
		h[1] = 0x80 | byte(size)
	case size <= math.MaxUint16:
		h[1] = 0x80 | 126
		binary.BigEndian.PutUint16(h[2:], uint16(size))
		n = 4
	default:
		h[1] = 0x80 | 127
		binary.BigEndian.PutUint64(h[2:], uint64(size))
		n = 10
	}
	n += 4
	out = append(out, h[:n]...)
	copy(out[at+n:], out[at:at+size])
	copy(out[at:], h[:n])
	return out
}
