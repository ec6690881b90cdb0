package api

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"github.com/cloudwego/hertz/pkg/network"
	"github.com/cloudwego/netpoll"

	"github.com/gochat-im/gochat/edge/tcp"
)

// secureConn is a connection with TLS, as the engine wants one: buffered, with reads that wait.
// Waiting is done below, by netpoll's connection, so its timeouts and its being closed by the
// sweep hold here too.
type secureConn struct {
	*tls.Conn
	raw     netpoll.Connection
	session *tcp.Session // below tls.Conn
	in      []byte       // decrypted, from at on not taken yet
	at      int
	out     [][]byte // written, not flushed yet
	done    bool     // the handshake
}

var _ network.Conn = (*secureConn)(nil)

func newSecureConn(raw netpoll.Connection, cfg *tls.Config) *secureConn {
	session := tcp.NewSession(raw, cfg)
	return &secureConn{Conn: session.TLS(), raw: raw, session: session}
}

// shake does the handshake, the first time that it is called.
func (c *secureConn) shake() error {
	if c.done {
		return nil
	}
	c.done = true
	return c.Handshake()
}

// Len is how many bytes can be had without waiting.
func (c *secureConn) Len() int { return len(c.in) - c.at }

// Peek waits until there are n bytes and returns them; they stay until Release.
func (c *secureConn) Peek(n int) ([]byte, error) {
	for c.Len() < n {
		if err := c.fill(n - c.Len()); err != nil {
			return c.in[c.at:], err
		}
	}
	return c.in[c.at : c.at+n], nil
}

// readAtLeast is room for what is decrypted at once: a request, mostly.
const readAtLeast = 4 << 10

// fill reads once. What was peeked stays where it is: a buffer that is too small is left to it.
func (c *secureConn) fill(n int) error {
	if cap(c.in)-len(c.in) < n {
		c.in = append(make([]byte, 0, c.Len()+max(n, readAtLeast)), c.in[c.at:]...)
		c.at = 0
	}
	k, err := c.Conn.Read(c.in[len(c.in):cap(c.in)])
	c.in = c.in[:len(c.in)+k]
	if k > 0 {
		return nil // the error comes again
	}
	return err
}

var errSkip = errors.New("api: fewer bytes than are to be skipped")

// Skip takes n bytes that Peek has seen.
func (c *secureConn) Skip(n int) error {
	if n > c.Len() {
		return errSkip
	}
	c.at += n
	return nil
}

// Release gives up what was read. An idle connection keeps no buffer.
func (c *secureConn) Release() error {
	if c.Len() == 0 {
		c.in, c.at = nil, 0
	}
	return nil
}

// ReadByte takes one byte.
func (c *secureConn) ReadByte() (byte, error) {
	p, err := c.Peek(1)
	if err != nil {
		return 0, err
	}
	c.at++
	return p[0], nil
}

// ReadBinary takes n bytes and copies them.
func (c *secureConn) ReadBinary(n int) ([]byte, error) {
	p, err := c.Peek(n)
	if err != nil {
		return nil, err
	}
	c.at += n
	return bytes.Clone(p), nil
}

// Read takes what there is, and waits if that is nothing.
func (c *secureConn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if _, err := c.Peek(1); err != nil {
		return 0, err
	}
	n := copy(p, c.in[c.at:])
	c.at += n
	return n, nil
}

// Malloc returns n bytes that Flush will write.
func (c *secureConn) Malloc(n int) ([]byte, error) {
	b := make([]byte, n)
	c.out = append(c.out, b)
	return b, nil
}

// WriteBinary has Flush write b, which must not change before.
func (c *secureConn) WriteBinary(b []byte) (int, error) {
	c.out = append(c.out, b)
	return len(b), nil
}

// Flush writes, in as few records as it fits in.
func (c *secureConn) Flush() error {
	if len(c.out) == 0 {
		return nil
	}
	b := c.out[0]
	if len(c.out) > 1 {
		b = bytes.Join(c.out, nil)
	}
	c.out = nil
	_, err := c.Conn.Write(b)
	return err
}

// Write writes p behind what waits for Flush.
func (c *secureConn) Write(p []byte) (int, error) {
	if err := c.Flush(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// SetReadTimeout bounds each wait for bytes; 0 ends the bound.
func (c *secureConn) SetReadTimeout(d time.Duration) error { return c.raw.SetReadTimeout(d) }

// SetWriteTimeout does the same for writes.
func (c *secureConn) SetWriteTimeout(d time.Duration) error { return c.raw.SetWriteTimeout(d) }

// RemoteAddr is the address of the client, or of the proxy before it.
func (c *secureConn) RemoteAddr() net.Addr { return c.raw.RemoteAddr() }
