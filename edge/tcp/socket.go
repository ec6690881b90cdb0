//go:build !windows

package tcp

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"syscall"

	"github.com/cloudwego/netpoll"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/protocol/code"
)

var _ conn.Transport = (*Socket)(nil)

// Upper is what stands on a Socket.
type Upper = conn.Upper

// Socket is the Transport of one connection. Netpoll owns the file descriptor: it
// reads from it and closes it. Writing to a descriptor that was closed and given to
// somebody else's connection must be impossible, hence mu: netpoll runs close
// callbacks newest first and closes the descriptor in the very first one that was
// added, its own, so ours (ended) runs before, takes mu, and no write touches the
// descriptor after.
type Socket struct {
	s      *Sockets
	c      Upper
	addr   netip.AddrPort // of the client; invalid while a PROXY header is awaited
	header *[]byte        // beginning of the PROXY header; nil: none is awaited
	secure *secure        // nil: plain TCP
	proxy  *hub.Hub       // counts whom a proxy speaks for; nil: nobody does

	mu     sync.Mutex
	nc     netpoll.Connection // nil before start
	fd     int
	armed  bool // known to the writables
	ending bool // Close was called
	closed bool // the descriptor isn't ours any more
}

// start lets input flow.
func (t *Socket) start(nc netpoll.Connection) {
	ending := t.take(nc)
	// Neither fails. The order matters: a connection without a request callback that the
	// peer closes is left for us to close, one that has it calls the close callbacks.
	_ = nc.AddCloseCallback(func(netpoll.Connection) error { t.ended(); return nil })
	_ = nc.SetOnRequest(t.readable)
	if ending || !nc.IsActive() {
		_ = nc.Close()
	}
}

// take makes nc the connection that Close ends, and reports whether Close was called before.
func (t *Socket) take(nc netpoll.Connection) (ending bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nc = nc
	return t.ending
}

// readable is netpoll's request callback: called by one goroutine at a time while
// bytes wait, and never at the same time as the close callbacks. It takes all bytes,
// since netpoll would call it again at once for any that it left.
func (t *Socket) readable(_ context.Context, nc netpoll.Connection) error {
	r := nc.Reader()
	n := r.Len()
	b, err := r.Peek(n)
	if err != nil {
		return nc.Close()
	}
	if t.secure != nil && !t.secure.established.Load() {
		// The handshake waits for more, so what has come must be out of the reader's way.
		b = bytes.Clone(b)
		if err := r.Skip(n); err != nil {
			return nc.Close()
		}
		if err := r.Release(); err != nil {
			return nc.Close()
		}
		t.input(b, nc)
		return nil
	}
	t.input(b, nc)
	if err := r.Skip(n); err != nil {
		return nc.Close()
	}
	return r.Release()
}

// input passes bytes on. A panic ends this connection only.
func (t *Socket) input(b []byte, nc netpoll.Connection) {
	defer func() {
		if v := recover(); v != nil {
			t.c.Panicked(v, debug.Stack())
		}
	}()
	if t.header != nil {
		if b = t.introduce(b); len(b) == 0 {
			return
		}
	}
	if t.secure == nil {
		t.c.Input(b)
		return
	}
	if err := t.secure.input(b, nc); err != nil {
		if !t.secure.established.Load() && !quiet(err) {
			t.s.log.Debug("a TLS handshake failed", "addr", t.RemoteAddr(), "err", err)
		}
		t.Close()
	}
}

// pass does the same with bytes that TLS is behind already.
func (t *Socket) pass(b []byte) {
	defer func() {
		if v := recover(); v != nil {
			t.c.Panicked(v, debug.Stack())
		}
	}()
	t.c.Input(b)
}

// introduce takes the PROXY header from the beginning of b and returns the rest.
func (t *Socket) introduce(b []byte) []byte {
	h := append(*t.header, b...)
	addr, n, err := parseProxy(h)
	switch {
	case err != nil && t.proxy == nil:
		t.Close()
		return nil
	case err != nil:
		t.proxy.Close(t.c.Incarnation(), code.Wrap(code.BadFrame, err))
		return nil
	case n == 0:
		*t.header = h
		return nil
	}
	t.header = nil
	if addr.IsValid() && t.proxy != nil { // a proxy's own health check names nobody
		if refused := t.proxy.Introduce(addr.Addr()); refused != nil {
			t.proxy.Close(t.c.Incarnation(), refused)
			return nil
		}
		t.mu.Lock()
		t.addr = addr
		t.mu.Unlock()
	}
	return h[n:]
}

// ended is the end of the descriptor: netpoll closes it when this has returned.
func (t *Socket) ended() {
	t.mu.Lock()
	was := t.closed
	t.closed = true
	if t.armed {
		t.s.out.forget(t.fd)
	}
	t.mu.Unlock()
	if !was {
		t.c.Closed()
	}
}

// Write implements conn.Transport.
func (t *Socket) Write(p []byte) (int, error) {
	if t.secure != nil {
		return t.secure.write(p)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.put(p)
}

// put gives the socket what it takes of p, and has Writable called if that isn't all. mu is held.
func (t *Socket) put(p []byte) (int, error) {
	if t.closed {
		return 0, net.ErrClosed
	}
	n, err := 0, error(nil)
	for {
		n, err = syscall.Write(t.fd, p)
		if err != syscall.EINTR {
			break
		}
	}
	switch {
	case err == syscall.EAGAIN:
		n = 0
	case err != nil:
		return 0, err
	}
	if n < len(p) {
		if err := t.s.out.await(t.fd, t.c.Incarnation(), t.armed); err != nil {
			return n, err
		}
		t.armed = true
	}
	return n, nil
}

// CloseWrite implements conn.Transport.
func (t *Socket) CloseWrite(code.Code) {
	if t.secure != nil {
		t.secure.closeWrite()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		_ = syscall.Shutdown(t.fd, syscall.SHUT_WR)
	}
}

// Close implements conn.Transport.
func (t *Socket) Close() {
	t.mu.Lock()
	t.ending = true
	nc := t.nc
	t.mu.Unlock()
	if nc != nil {
		_ = nc.Close()
	}
}

// local is the address on this side, for crypto/tls, which only hands it on.
func (t *Socket) local() net.Addr {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.nc == nil {
		return nil
	}
	return t.nc.LocalAddr()
}

// RemoteAddr implements conn.Transport.
func (t *Socket) RemoteAddr() netip.AddrPort {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.addr
}
