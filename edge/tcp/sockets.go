//go:build !windows

package tcp

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/cloudwego/netpoll"
)

// Sockets are what a server's connections share: the wait for full ones to have room.
type Sockets struct {
	log *slog.Logger
	out *writables

	handshakes, handshakesFailed atomic.Uint64
}

// NewSockets returns Sockets that call writable, from a goroutine of their own that Close ends,
// with the incarnation of a connection whose Write came back short and that has room again.
func NewSockets(writable func(incarnation uint64), log *slog.Logger) (*Sockets, error) {
	s := &Sockets{log: log}
	var err error
	if s.out, err = newWritables(writable); err != nil {
		return nil, fmt.Errorf("waiting for sockets: %w", err)
	}
	return s, nil
}

// Close frees what is shared. It is called when all connections have ended.
func (s *Sockets) Close() { s.out.close() }

// Stats are counts since New.
type Stats struct {
	Handshakes       uint64 // TLS handshakes that succeeded
	HandshakesFailed uint64
}

// Stats returns the counts so far.
func (s *Sockets) Stats() Stats {
	return Stats{Handshakes: s.handshakes.Load(), HandshakesFailed: s.handshakesFailed.Load()}
}

// Adopt makes a Socket of a connection that somebody else has accepted and goes on to serve:
// its owner calls Bind, then Begin and Catch when the bytes are the Upper's, and Readable whenever
// some have come from then on, all within nc's request callback, and Ended from nc's close callback
// if Bind was called. addr is the client's; sendBuffer as in Config.
func (s *Sockets) Adopt(nc netpoll.Connection, addr netip.AddrPort, sendBuffer int) (*Socket, error) {
	c, ok := nc.(netpoll.Conn)
	if !ok {
		return nil, fmt.Errorf("taking over a connection: %T has no descriptor", nc)
	}
	t := &Socket{s: s, fd: c.Fd(), addr: addr}
	t.take(nc)
	if sendBuffer > 0 {
		if err := syscall.SetsockoptInt(t.fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer); err != nil {
			return nil, fmt.Errorf("setting SO_SNDBUF: %w", err)
		}
	}
	return t, nil
}

// Bind puts up on the socket: it hears of its end.
func (t *Socket) Bind(up Upper) { t.c = up }

// Ended tells the Upper that the connection has ended.
func (t *Socket) Ended() { t.ended() }

// Begin puts the TLS side of the connection, after its handshake, between the socket and the
// Upper; nil: there is none. From now on the Upper may write. What was read before follows by Catch.
func (t *Socket) Begin(over *Session) {
	if over != nil {
		t.secure = over.begin(t)
	}
}

// Catch hands on bytes that were read before Begin, and what crypto/tls holds back behind them.
func (t *Socket) Catch(read []byte) {
	if len(read) > 0 {
		t.pass(read)
	}
	if t.secure != nil {
		t.input(nil, t.nc)
	}
}

// Readable takes all bytes that wait. It is called by one goroutine at a time, from nc's request callback.
func (t *Socket) Readable() error { return t.readable(context.Background(), t.nc) }

// Session is the net.Conn below a server's TLS connection that becomes a Socket's: it is
// the connection itself, which blocks, up to Socket.Begin, and never blocks from then on.
type Session struct {
	net.Conn
	tls  *tls.Conn
	here *secure // nil before Begin
}

// NewSession returns the Session over nc. Its owner makes the handshake with TLS.
func NewSession(nc netpoll.Connection, cfg *tls.Config) *Session {
	s := &Session{Conn: nc}
	s.tls = tls.Server(s, cfg)
	return s
}

// TLS is the connection that the Session is below of.
func (s *Session) TLS() *tls.Conn { return s.tls }

// begin makes t what is below.
func (s *Session) begin(t *Socket) *secure {
	s.here = &secure{t: t, conn: s.tls}
	s.here.established.Store(true)
	return s.here
}

// Read implements net.Conn for crypto/tls.
func (s *Session) Read(p []byte) (int, error) {
	if s.here != nil {
		return s.here.Read(p)
	}
	return s.Conn.Read(p)
}

// Write implements net.Conn for crypto/tls.
func (s *Session) Write(p []byte) (int, error) {
	if s.here != nil {
		return s.here.Write(p)
	}
	return s.Conn.Write(p)
}
