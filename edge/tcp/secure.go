//go:build !windows

package tcp

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cloudwego/netpoll"

	"github.com/gochat-im/gochat/edge/hub"
)

// secure is the TLS side of a socket, between its bytes and those of the Conn.
//
// crypto/tls wants a connection that blocks, and a goroutine that waits in it. Waiting costs
// memory, so only the handshake does: it runs on the goroutine that netpoll calls for the first
// bytes, which ends with the hub's deadline for a login. After it, crypto/tls reads from the
// bytes that netpoll just brought and gets a temporary error at their end, after which it
// goes on where it was; between two reads there is no goroutine.
//
// What it writes is whole records, and it takes no record back. So a record that the socket has
// only partly taken is kept here, and the plaintext that it was made of is not yet reported
// as written: the Conn offers it again, as it does after every short write, and when the record
// is through it is reported without being encrypted once more.
type secure struct {
	t           *Socket
	conn        *tls.Conn
	established atomic.Bool

	// Input's own.
	feed []byte             // came, not taken yet
	wait netpoll.Connection // what reads wait for when feed is empty; nil: they don't wait

	owed    int    // the writer's own: bytes of the next Write that pending was made of
	pending []byte // of a record that the socket has no room for; guarded by socket.mu
}

const (
	maxPlain   = 16 << 10 // of one record
	maxPending = 64 << 10 // what a client may make us answer without reading any of it
)

var (
	errNotEstablished = errors.New("tls: the handshake isn't over")
	errPending        = errors.New("tls: the client makes us write and doesn't read")
	errHandshakeRoom  = errors.New("tls: no room for the handshake")
)

// errNoInput is what crypto/tls takes for a moment without input.
var errNoInput net.Error = noInput{}

type noInput struct{}

func (noInput) Error() string   { return "tls: no more input for now" }
func (noInput) Timeout() bool   { return true }
func (noInput) Temporary() bool { return true }

// plains are buffers for what was decrypted: it is used up before the next is.
var plains = sync.Pool{New: func() any { return new([maxPlain]byte) }}

func newSecure(t *Socket, cfg *tls.Config) *secure {
	s := &secure{t: t}
	s.conn = tls.Server(s, cfg)
	return s
}

// input takes what came from the client: the handshake first, during which it waits for more.
// It keeps no reference to b. After an error the connection is to be closed.
func (s *secure) input(b []byte, nc netpoll.Connection) error {
	s.feed = b
	if !s.established.Load() {
		s.wait = nc
		err := s.conn.Handshake()
		s.wait = nil
		if err != nil {
			s.t.s.handshakesFailed.Add(1)
			return err
		}
		s.t.s.handshakes.Add(1)
		s.established.Store(true)
		if up, ok := s.t.c.(*hub.Turned); ok {
			up.Start()
		}
	}
	plain := plains.Get().(*[maxPlain]byte)
	defer plains.Put(plain)
	for {
		n, err := s.conn.Read(plain[:])
		if n > 0 {
			s.t.c.Input(plain[:n])
		}
		if err == nil {
			continue
		}
		s.feed = nil
		if errors.Is(err, errNoInput) {
			return nil
		}
		return err
	}
}

// write encrypts p and writes it. What it doesn't report as written comes again as the
// beginning of the next p. One goroutine at a time calls it.
func (s *secure) write(p []byte) (n int, err error) {
	if !s.established.Load() {
		return 0, errNotEstablished
	}
	if left, err := s.flush(); err != nil || left {
		return 0, err
	}
	n = min(s.owed, len(p))
	s.owed = 0
	for n < len(p) {
		part := p[n:min(n+maxPlain, len(p))]
		if _, err := s.conn.Write(part); err != nil {
			return n, err
		}
		if s.full() {
			s.owed = len(part)
			return n, nil
		}
		n += len(part)
	}
	return n, nil
}

// flush writes what is left of a record, and reports whether some still is.
func (s *secure) flush() (left bool, err error) {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	if len(s.pending) == 0 {
		return false, nil
	}
	n, err := s.t.put(s.pending)
	if s.pending = s.pending[n:]; len(s.pending) == 0 {
		s.pending = nil
	}
	return s.pending != nil, err
}

func (s *secure) full() bool {
	s.t.mu.Lock()
	defer s.t.mu.Unlock()
	return s.pending != nil
}

// closeWrite says that nothing more will come.
func (s *secure) closeWrite() {
	if s.established.Load() {
		_ = s.conn.CloseWrite() // the client may be gone
	}
}

// Read implements net.Conn for crypto/tls: bytes from the client.
func (s *secure) Read(p []byte) (int, error) {
	if len(s.feed) > 0 {
		n := copy(p, s.feed)
		s.feed = s.feed[n:]
		return n, nil
	}
	if s.wait != nil {
		return s.wait.Read(p)
	}
	return 0, errNoInput
}

// Write implements net.Conn for crypto/tls: records to the client, all of p or an error.
func (s *secure) Write(p []byte) (int, error) {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(s.pending) > 0 {
		if len(s.pending)+len(p) > maxPending {
			return 0, errPending
		}
		s.pending = append(s.pending, p...)
		return len(p), nil
	}
	n, err := t.put(p)
	if err != nil {
		return n, err
	}
	if n < len(p) {
		if !s.established.Load() {
			return n, errHandshakeRoom
		}
		s.pending = bytes.Clone(p[n:])
	}
	return len(p), nil
}

// The rest of net.Conn. The hub decides when a connection has taken too long.
func (s *secure) Close() error                     { s.t.Close(); return nil }
func (s *secure) LocalAddr() net.Addr              { return s.t.local() }
func (s *secure) RemoteAddr() net.Addr             { return net.TCPAddrFromAddrPort(s.t.RemoteAddr()) }
func (s *secure) SetDeadline(time.Time) error      { return nil }
func (s *secure) SetReadDeadline(time.Time) error  { return nil }
func (s *secure) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*secure)(nil)

// quiet reports whether err is how connections end every day.
func quiet(err error) bool {
	return errors.Is(err, netpoll.ErrConnClosed) || errors.Is(err, netpoll.ErrEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, os.ErrDeadlineExceeded)
}
