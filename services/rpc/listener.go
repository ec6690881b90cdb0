package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/gochat-im/gochat/services/link"
)

// errFull refuses connections beyond the limit.
var errFull = errors.New("too many connections")

// listener hands Kitex connections of nodes that have proved to hold the cluster key, and no others:
// the handshake happens here, bounded in number and in time, before a byte of a call is read.
type listener struct {
	ln  *net.TCPListener
	tls *tls.Config
	cfg *Config
	log *slog.Logger

	ready chan *peer
	hands chan struct{} // one for each handshake under way
	done  chan struct{} // closed when there will be no more connections

	mu       sync.Mutex
	peers    map[*peer]struct{} // all connections that were let in
	open     int                // connections in all, handshakes included
	draining bool
	refused  uint64 // handshakes that failed
	once     sync.Once
}

func newListener(cfg *Config, conf *tls.Config) (*listener, error) {
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("rpc: listening on %s: %w", cfg.Listen, err)
	}
	return &listener{
		ln: ln.(*net.TCPListener), tls: conf, cfg: cfg, log: cfg.Logger,
		ready: make(chan *peer), hands: make(chan struct{}, cfg.Handshakes), done: make(chan struct{}), peers: make(map[*peer]struct{}),
	}, nil
}

// run accepts until the listener is closed.
func (l *listener) run() {
	for {
		c, err := l.ln.AcceptTCP()
		if err != nil {
			select {
			case <-l.done:
				return
			default:
			}
			l.log.Warn("accepting a node's connection failed", "err", err)
			select { // out of descriptors, most likely
			case <-l.done:
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		// More at a time wait, the next ones in the kernel's queue: who comes together with many others is most likely
		// one of several nodes that this one's start, or a crowd of their clients, has called up.
		select {
		case l.hands <- struct{}{}:
			go l.admit(c)
		case <-l.done:
			c.Close()
			return
		}
	}
}

// admit shakes hands with one connection.
func (l *listener) admit(c *net.TCPConn) {
	l.mu.Lock()
	full := l.open >= l.cfg.MaxConns || l.draining
	if !full {
		l.open++
	}
	l.mu.Unlock()
	err := errFull
	var p *peer
	if !full {
		ctx, cancel := context.WithTimeout(context.Background(), l.cfg.HandshakeTimeout)
		t := tls.Server(c, l.tls)
		err = t.HandshakeContext(ctx)
		cancel()
		if err == nil {
			p = &peer{Conn: t, l: l}
			p.raw, err = c.SyscallConn()
		}
	}
	<-l.hands
	if err != nil {
		c.Close()
		l.mu.Lock()
		l.refused++
		if !full {
			l.open--
		}
		l.mu.Unlock()
		l.log.Debug("a connection to the address of calls between nodes was refused", "addr", c.RemoteAddr().String(), "err", err)
		return
	}
	l.mu.Lock()
	l.peers[p] = struct{}{}
	l.mu.Unlock()
	select {
	case l.ready <- p:
	case <-l.done:
		p.Close()
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case p := <-l.ready:
		return p, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() (err error) {
	l.once.Do(func() {
		close(l.done)
		err = l.ln.Close()
	})
	return err
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.ln.Addr() }

// drain ends connections without a call at once, and the others after their answer.
func (l *listener) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining = true
	for p := range l.peers {
		p.drain()
	}
}

// closeAll closes what is left.
func (l *listener) closeAll() {
	l.mu.Lock()
	var all []*peer
	for p := range l.peers {
		all = append(all, p)
	}
	l.mu.Unlock()
	for _, p := range all {
		p.Close()
	}
}

// abandoned cancels the calls whose callers have gone away. A caller has nothing to say while
// it waits, so whatever can be read is its farewell.
func (l *listener) abandoned(longer time.Duration) {
	l.mu.Lock()
	var busy []*peer
	for p := range l.peers {
		if p.busyFor(longer) {
			busy = append(busy, p)
		}
	}
	l.mu.Unlock()
	for _, p := range busy {
		if !link.Silent(p.raw) {
			p.cancelCall()
		}
	}
}

// peer is one connection of another node. It carries one call at a time.
type peer struct {
	*tls.Conn
	l   *listener
	raw syscall.RawConn

	mu       sync.Mutex
	cancel   context.CancelFunc // of the call under way; nil: none
	began    time.Time          // of it
	draining bool
	closed   bool
}

// at is the address of a peer as Kitex passes it to handlers, by which they find the connection.
type at struct {
	net.Addr
	peer *peer
}

// RemoteAddr implements net.Conn.
func (p *peer) RemoteAddr() net.Addr { return at{p.Conn.RemoteAddr(), p} }

// begin notes a call, which cancel ends.
func (p *peer) begin(cancel context.CancelFunc) {
	now := time.Now()
	p.mu.Lock()
	p.cancel, p.began = cancel, now
	p.mu.Unlock()
}

// end notes that its answer is about to be written.
func (p *peer) end() {
	p.mu.Lock()
	p.cancel = nil
	p.mu.Unlock()
}

func (p *peer) busyFor(d time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cancel != nil && time.Since(p.began) >= d
}

func (p *peer) cancelCall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cancel != nil {
		p.cancel()
	}
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

func (p *peer) drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.draining = true
	_ = p.Conn.SetReadDeadline(past) // nobody reads while a call is under way: the next read ends
}

// SetReadDeadline implements net.Conn. Kitex sets it before each call.
func (p *peer) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.draining {
		t = past
	}
	return p.Conn.SetReadDeadline(t)
}

// Close implements net.Conn.
func (p *peer) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return net.ErrClosed
	}
	p.closed = true
	cancel := p.cancel
	p.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	l := p.l
	l.mu.Lock()
	delete(l.peers, p)
	l.open--
	l.mu.Unlock()
	return p.Conn.NetConn().Close() // without a farewell that could block
}
