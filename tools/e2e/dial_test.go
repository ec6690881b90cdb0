//go:build e2e

package e2e

import (
	"bufio"
	"context"
	bits "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// overWebSocket returns a dialer that opens a binary WebSocket at an HTTP address: the protocol's frames in
// the protocol's WebSocket, for a client that knows TCP alone.
func overWebSocket(address string) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		_, err = fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nSec-WebSocket-Protocol: gochat.v1\r\n\r\n", address)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		w := &webSocket{Conn: c, in: bufio.NewReader(c)}
		res, err := http.ReadResponse(w.in, nil)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Sec-WebSocket-Protocol") != "gochat.v1" {
			return nil, errors.Join(fmt.Errorf("upgrading to a WebSocket: %s %v", res.Status, res.Header), c.Close())
		}
		return w, nil
	}
}

// webSocket is a connection through the binary messages of a WebSocket.
type webSocket struct {
	net.Conn
	in   *bufio.Reader
	left int // of the message that is being read
}

func (w *webSocket) Read(p []byte) (int, error) {
	for w.left == 0 {
		var h [2]byte
		if _, err := io.ReadFull(w.in, h[:]); err != nil {
			return 0, err
		}
		n := int(h[1])
		if n >= 126 {
			long := make([]byte, 2+6*(n-126))
			if _, err := io.ReadFull(w.in, long); err != nil {
				return 0, err
			}
			n = 0
			for _, b := range long {
				n = n<<8 | int(b)
			}
		}
		switch h[0] {
		case 0x82:
			w.left = n
		case 0x88:
			return 0, io.EOF
		default:
			return 0, fmt.Errorf("a frame that begins with %#x", h[0])
		}
	}
	n, err := w.in.Read(p[:min(len(p), w.left)])
	w.left -= n
	return n, err
}

// Write sends one binary message, masked with zeros.
func (w *webSocket) Write(p []byte) (int, error) {
	head := []byte{0x82}
	switch {
	case len(p) < 126:
		head = append(head, 0x80|byte(len(p)))
	case len(p) < 1<<16:
		head = bits.BigEndian.AppendUint16(append(head, 0x80|126), uint16(len(p)))
	default:
		head = bits.BigEndian.AppendUint64(append(head, 0x80|127), uint64(len(p)))
	}
	if _, err := w.Conn.Write(append(append(head, 0, 0, 0, 0), p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}
