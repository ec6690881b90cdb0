package conntest

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

// Pipe is a Transport in memory whose peer takes as many bytes as it is told to.
type Pipe struct {
	C *conn.Conn // set before the first Input

	mu       sync.Mutex
	out      []byte
	room     int // bytes the peer still takes; negative: any number
	short    bool
	wrclosed bool
	closed   bool
	writes   int
}

// NewPipe returns a pipe whose peer takes everything.
func NewPipe() *Pipe { return &Pipe{room: -1} }

// Write implements conn.Transport.
func (p *Pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return 0, net.ErrClosed
	}
	p.writes++
	n := len(b)
	if p.room >= 0 {
		n = min(n, p.room)
		p.room -= n
	}
	p.out = append(p.out, b[:n]...)
	p.short = n < len(b)
	return n, nil
}

// CloseWrite implements conn.Transport.
func (p *Pipe) CloseWrite(code.Code) {
	p.mu.Lock()
	p.wrclosed = true
	p.mu.Unlock()
}

// Close implements conn.Transport.
func (p *Pipe) Close() {
	p.mu.Lock()
	was := p.closed
	p.closed = true
	p.mu.Unlock()
	if !was {
		p.C.Closed()
	}
}

// RemoteAddr implements conn.Transport.
func (p *Pipe) RemoteAddr() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:4711") }

// Room makes the peer take n more bytes, any number if negative.
func (p *Pipe) Room(n int) {
	p.mu.Lock()
	p.room = n
	short := p.short && n != 0
	p.mu.Unlock()
	if short {
		p.C.Writable()
	}
}

// Ended reports whether the connection was closed, or its writing half was.
func (p *Pipe) Ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed || p.wrclosed
}

// Writes is how many times something was written.
func (p *Pipe) Writes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.writes
}

// Discard throws away what was written, keeping the memory.
func (p *Pipe) Discard() {
	p.mu.Lock()
	p.out = p.out[:0]
	p.mu.Unlock()
}

// Pending reports whether something was written that Take would return.
func (p *Pipe) Pending() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.out) > 0
}

// Take returns the frames written so far, described, and forgets them.
func (p *Pipe) Take() ([]string, error) {
	p.mu.Lock()
	b := p.out
	p.out = nil
	p.mu.Unlock()
	var lines []string
	for len(b) > 0 {
		f, n, err := frame.Parse(b, frame.HardMax)
		if err != nil {
			return lines, err
		}
		if n == 0 {
			p.mu.Lock()
			p.out = append(b, p.out...)
			p.mu.Unlock()
			return lines, io.ErrUnexpectedEOF
		}
		lines = append(lines, Describe(&f))
		b = b[n:]
	}
	return lines, nil
}

// Host keeps connections the simple way, and admits everybody.
type Host struct {
	mu    sync.Mutex
	conns map[uint64]*conn.Conn
	dirty []*conn.Conn
	rate  conn.Bucket
	next  uint64
}

// NewHost returns a host of no connections.
func NewHost() *Host { return &Host{conns: make(map[uint64]*conn.Conn)} }

// Open makes a connection over p.
func (h *Host) Open(e *conn.Edge, p *Pipe) *conn.Conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	p.C = conn.New(e, p, h.next)
	h.conns[h.next] = p.C
	return p.C
}

// Touch implements conn.Host.
func (h *Host) Touch(c *conn.Conn) {
	h.mu.Lock()
	h.dirty = append(h.dirty, c)
	h.mu.Unlock()
}

// Returns implements conn.Host.
func (h *Host) Returns(*conn.Conn, id.UserID) bool { return true }

// Login implements conn.Host.
func (h *Host) Login(*conn.Conn) (*conn.Bucket, *code.Error) { return &h.rate, nil }

// Gone implements conn.Host.
func (h *Host) Gone(c *conn.Conn) {
	h.mu.Lock()
	delete(h.conns, c.Incarnation())
	h.mu.Unlock()
}

// Count is how many connections there are.
func (h *Host) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.conns)
}

// Close implements conn.Host.
func (h *Host) Close(incarnation uint64, reason *code.Error) {
	h.mu.Lock()
	c := h.conns[incarnation]
	h.mu.Unlock()
	if c != nil {
		c.Close(reason)
	}
}

// Deliver implements Deliverer.
func (h *Host) Deliver(incarnation uint64, b []byte) {
	h.mu.Lock()
	c := h.conns[incarnation]
	h.mu.Unlock()
	if c != nil {
		c.Deliver(b)
	}
}

// Flush implements Deliverer.
func (h *Host) Flush() {
	h.mu.Lock()
	cs := h.dirty
	h.dirty = nil
	h.mu.Unlock()
	for _, c := range cs {
		c.Flush()
	}
}

// Forget empties the list of connections that have something to write.
func (h *Host) Forget() {
	h.mu.Lock()
	h.dirty = h.dirty[:0]
	h.mu.Unlock()
}

// Client returns the peer's side of the pipe, for reading what was written.
func (p *Pipe) Client() Wire { return peer{p} }

type peer struct{ p *Pipe }

func (w peer) Read(b []byte) (int, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	n := copy(b, w.p.out)
	w.p.out = w.p.out[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (w peer) Write(b []byte) (int, error) {
	w.p.C.Input(b)
	return len(b), nil
}

func (peer) SetReadDeadline(time.Time) error { return nil }
