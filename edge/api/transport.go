package api

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cloudwego/hertz/pkg/network"
	hertz "github.com/cloudwego/hertz/pkg/network/netpoll"
	"github.com/cloudwego/hertz/pkg/protocol/consts"
	"github.com/cloudwego/netpoll"

	"github.com/gochat-im/gochat/edge/tcp"
	"github.com/gochat-im/gochat/protocol/code"
)

// transport serves Hertz connections from a netpoll event loop. Hertz's own would do the
// same, but its timeouts are for one read each, so a client that sends a byte now and then
// holds a goroutine for ever, and one that never sends anything isn't timed at all; and it
// neither counts connections nor closes idle ones when it shuts down.
type transport struct {
	cfg   *Config
	ln    *net.TCPListener
	acc   *tcp.Acceptor
	serve network.OnData // the engine

	ctx  context.Context // of accepting
	stop context.CancelFunc

	mu      sync.Mutex
	conns   map[*conn]struct{}
	perIP   map[netip.Addr]int
	sockets int           // connections that became WebSockets or streams of events, and are no conns any more: the hub's to count, and to end
	closing atomic.Bool   // set under mu
	none    chan struct{} // takes one value when closing and the last of conns has ended
	stopped chan struct{} // ends the sweep

	shutdown    sync.Once
	shutdownErr error
}

func newTransport(cfg *Config, ln *net.TCPListener) *transport {
	t := &transport{
		cfg: cfg, ln: ln, acc: tcp.NewAcceptor(cfg.Logger),
		conns: make(map[*conn]struct{}), perIP: make(map[netip.Addr]int), none: make(chan struct{}, 1), stopped: make(chan struct{}),
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t
}

// Listener is asked by the engine to tell whether it runs.
func (t *transport) Listener() net.Listener { return t.ln }

// ListenAndServe accepts connections until Shutdown.
func (t *transport) ListenAndServe(serve network.OnData) error {
	t.serve = serve
	go t.sweep()
	return t.acc.Run(t.ctx, t.ln, t.accept)
}

// holder is what stays of an HTTP connection that has become something else. Only the
// goroutine that serves the connection changes it.
type holder struct {
	t    *transport
	http *conn       // nil: it has outgrown HTTP
	sock *tcp.Socket // hears of the end; nil: it is HTTP alone
}

// readable is netpoll's request callback: called by one goroutine at a time while bytes wait.
func (h *holder) readable(ctx context.Context, nc netpoll.Connection) error {
	c := h.http
	if c == nil {
		return h.sock.Readable()
	}
	if c.secure != nil {
		if err := c.secure.shake(); err != nil {
			h.t.cfg.Logger.Debug("a TLS handshake failed", "addr", c.RemoteAddr(), "err", err)
			return nc.Close()
		}
	}
	return h.t.serve(ctx, c)
}

// accept takes a new connection in, or closes it.
func (t *transport) accept(fd int, from netip.AddrPort) error {
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	nc, err := netpoll.NewFDConnection(fd)
	if err != nil { // netpoll has closed the socket
		return fmt.Errorf("registering a connection: %w", err)
	}
	c := &conn{t: t, raw: nc, peer: from.Addr(), port: from.Port()}
	c.Conn.Conn = nc.(network.Conn)
	if t.cfg.TLS != nil {
		c.secure = newSecureConn(nc, t.cfg.TLS)
		c.Conn.Conn = c.secure
	}
	t.mu.Lock()
	full := t.closing.Load() || len(t.conns) >= t.cfg.MaxConns ||
		t.perIP[c.peer] >= t.cfg.MaxConnsPerIP && !within(t.cfg.TrustedProxies, c.peer)
	if !full {
		t.conns[c] = struct{}{}
		t.perIP[c.peer]++
	}
	t.mu.Unlock()
	if full {
		_ = nc.Close()
		return nil
	}
	h := &holder{t: t, http: c}
	c.holder = h
	// What is late the sweep ends. netpoll's own timeouts panic on a connection made of a descriptor, whose address it
	// doesn't know: for reads there is none, for writes one that comes after the sweep's.
	_ = nc.SetWriteTimeout(2*t.cfg.WriteTimeout + 2*time.Second)
	c.enter(phaseRead, t.cfg.ReadTimeout)
	// Neither fails. The order matters: a connection without a request callback that the
	// peer closes is left for us to close, one that has it calls the close callbacks.
	_ = nc.AddCloseCallback(func(netpoll.Connection) error { t.forget(h); return nil })
	_ = nc.SetOnRequest(h.readable)
	if !nc.IsActive() {
		_ = nc.Close()
	}
	return nil
}

// forget is called when a connection has ended, never while it is served.
func (t *transport) forget(h *holder) {
	t.mu.Lock()
	if c := h.http; c == nil {
		t.sockets--
	} else {
		delete(t.conns, c)
		t.leave(c.peer)
		t.last()
	}
	t.mu.Unlock()
	if h.sock != nil {
		h.sock.Ended()
	}
}

// leave counts one connection of peer less. mu is held.
func (t *transport) leave(peer netip.Addr) {
	if t.perIP[peer]--; t.perIP[peer] <= 0 {
		delete(t.perIP, peer)
	}
}

// outgrown takes c, a WebSocket or a stream of events from now on, out of the limits and deadlines of HTTP,
// and lets go of it.
func (t *transport) outgrown(c *conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c.enter(phaseUpgraded, 0)
	c.holder.http = nil
	delete(t.conns, c)
	t.sockets++
	t.leave(c.peer)
	t.last()
}

// last tells a shutdown that there are no requests any more. mu is held.
func (t *transport) last() {
	if len(t.conns) == 0 && t.closing.Load() {
		select {
		case t.none <- struct{}{}:
		default:
		}
	}
}

// ended waits for connections that were closed to be gone, and reports whether all are: one
// that a route holds on to stays.
func (t *transport) ended() bool {
	for range 50 {
		t.mu.Lock()
		n := len(t.conns) + t.sockets
		t.mu.Unlock()
		if n == 0 {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

// sweep closes what is late: one goroutine for all connections, a few times in the shortest timeout.
func (t *transport) sweep() {
	every := min(t.cfg.ReadTimeout, t.cfg.WriteTimeout, t.cfg.IdleTimeout) / 8
	tick := time.NewTicker(min(max(every, time.Millisecond), time.Second))
	defer tick.Stop()
	for {
		select {
		case <-t.stopped:
			return
		case now := <-tick.C:
			t.closeWhere(func(c *conn) bool {
				d := c.deadline.Load()
				return d != 0 && now.UnixNano() > d
			})
			if t.cfg.Events != nil {
				t.cfg.Events.KeepAlive(now)
			}
		}
	}
}

// closeWhere closes the connections that match: collected first, since closing one takes it off the list.
func (t *transport) closeWhere(match func(*conn) bool) {
	var late []*conn
	t.mu.Lock()
	for c := range t.conns {
		if match(c) {
			late = append(late, c)
		}
	}
	t.mu.Unlock()
	for _, c := range late {
		_ = c.raw.Close()
	}
}

func (t *transport) closeAll() { t.closeWhere(func(*conn) bool { return true }) }

// Close is Shutdown without patience.
func (t *transport) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return t.Shutdown(ctx)
}

// Shutdown stops listening and waits for the requests under way until ctx ends, then closes
// what is left. Calls after the first wait for it and return the same.
func (t *transport) Shutdown(ctx context.Context) error {
	t.shutdown.Do(func() {
		defer close(t.stopped)
		t.mu.Lock()
		t.closing.Store(true)
		t.last()
		t.mu.Unlock()
		t.stop()
		_ = t.ln.Close() // nobody may be accepting; or accepting has closed it
		t.closeWhere(func(c *conn) bool {
			p := c.phase.Load()
			return p == phaseIdle || p == phaseRead && c.raw.Reader().Len() == 0
		})
		select {
		case <-t.none:
		case <-ctx.Done():
			t.shutdownErr = ctx.Err()
		}
		t.closeAll()
	})
	return t.shutdownErr
}

// What a connection is doing.
const (
	phaseRead     int32 = iota // a request is coming, or the first one is awaited
	phaseHandle                // a route works on it
	phaseWrite                 // the client takes the answer
	phaseIdle                  // nothing, between requests
	phaseUpgraded              // it is a WebSocket, or a stream of events
)

// conn is one connection. Only the goroutine that serves it changes its phase.
type conn struct {
	hertz.Conn
	t        *transport
	raw      netpoll.Connection
	secure   *secureConn // nil: plain HTTP
	sock     *tcp.Socket // nil: it is neither a WebSocket nor a stream of events
	holder   *holder
	peer     netip.Addr
	port     uint16
	phase    atomic.Int32
	deadline atomic.Int64 // Unix ns after which the sweep closes it; 0: none
	refused  []byte       // how an answer begins that the engine gives without a route
}

func (c *conn) enter(phase int32, limit time.Duration) {
	var d int64
	if limit > 0 {
		d = time.Now().Add(limit).UnixNano()
	}
	c.phase.Store(phase)
	c.deadline.Store(d)
}

// LocalAddr and RemoteAddr are of the listener and of the peer: what netpoll knows of a descriptor is neither.
func (c *conn) LocalAddr() net.Addr { return c.t.ln.Addr() }
func (c *conn) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.peer, c.port))
}

// Close is called by the engine when it has done with the connection. What outgrew HTTP isn't its to close.
func (c *conn) Close() error {
	if c.sock != nil {
		return nil
	}
	return c.Conn.Close()
}

// SetReadTimeout is called by the engine when it begins to wait for another request,
// and again when the first bytes of that have come: the only signs of it there are.
func (c *conn) SetReadTimeout(time.Duration) error {
	if c.phase.Load() == phaseIdle {
		c.enter(phaseRead, c.t.cfg.ReadTimeout)
	} else {
		c.enter(phaseIdle, c.t.cfg.IdleTimeout)
		if c.t.closing.Load() { // the shutdown may have looked before this was idle
			_ = c.raw.Close()
		}
	}
	return nil
}

// WriteBinary holds back what the engine answers by itself to a request that it couldn't
// read, which is plain text: Flush says the same in the one shape of an error.
func (c *conn) WriteBinary(b []byte) (int, error) {
	if c.phase.Load() != phaseRead || bytes.HasPrefix(b, []byte("HTTP/1.1 100")) {
		return c.Conn.WriteBinary(b)
	}
	c.refused = append(c.refused, b[:min(len(b), 64)]...)
	return len(b), nil
}

// Flush sends what was written.
func (c *conn) Flush() error {
	if c.phase.Load() != phaseRead || len(c.refused) == 0 {
		return c.Conn.Flush()
	}
	d := c.deadline.Load()
	late := d != 0 && time.Now().UnixNano() >= d // the sweep has ended it: to the engine, the client went away
	c.enter(phaseWrite, c.t.cfg.WriteTimeout)
	if _, err := c.Conn.WriteBinary(unreadable(c.refused, late, c.t.cfg)); err != nil {
		return err
	}
	if err := c.Conn.Flush(); err != nil {
		return err
	}
	c.linger()
	return nil
}

// unreadable is the answer to a request that couldn't be read; by its status line, engine says why, unless it was late.
func unreadable(engine []byte, late bool, cfg *Config) []byte {
	httpStatus := 400
	if f := bytes.Fields(engine); len(f) > 1 {
		if n, err := strconv.Atoi(string(f[1])); err == nil && n >= 400 && n < 600 {
			httpStatus = n
		}
	}
	if late {
		httpStatus = 408
	}
	e := code.Newf(code.BadRequest, "the request can't be read")
	switch httpStatus {
	case 408:
		e.Reason = "the request took too long"
	case 413:
		e = code.Newf(code.ContentTooLarge, "the body is larger than %d bytes", cfg.MaxBody)
	case 431:
		e.Reason = fmt.Sprintf("the headers are larger than %d bytes", cfg.MaxHeader)
	}
	rid := newRequestID()
	body := refusal(e, rid)
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nX-Request-ID: %s\r\nConnection: close\r\n\r\n%s",
		httpStatus, consts.StatusMessage(httpStatus), len(body), rid, body)
}

// What is read and thrown away of a request that was refused before its end.
const (
	lingerFor   = time.Second
	lingerBytes = 1 << 20
)

// linger says that nothing more will come, and reads on for a moment: were the socket closed
// with bytes unread, the client's system would throw away the answer.
func (c *conn) linger() {
	nc, ok := c.raw.(netpoll.Conn)
	if !ok || syscall.Shutdown(nc.Fd(), syscall.SHUT_WR) != nil {
		return
	}
	c.enter(phaseWrite, lingerFor) // the sweep's to end
	for left := lingerBytes; left > 0; {
		if _, err := c.Peek(1); err != nil {
			return
		}
		n := c.Len()
		if c.Skip(n) != nil || c.Release() != nil {
			return
		}
		left -= n
	}
}
