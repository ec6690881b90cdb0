package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/cloudwego/gopkg/bufiox"
	kitex "github.com/cloudwego/kitex/pkg/remote"

	"github.com/gochat-im/gochat/services/link"
)

// errUnsent is wrapped by what kept a call from being sent at all.
var errUnsent = errors.New("the call was not sent")

// conns are the connections to all nodes, by address. Kitex takes one for each call and brings it
// back. It is a pool of our own because it has to know the call: a connection gets the
// deadline of the call's context, and is broken off when that is cancelled, which is how the other side learns of it.
type conns struct {
	tls     *tls.Config
	connect time.Duration

	mu     sync.Mutex
	idle   map[string][]*connection // the one used last at the end
	open   int                      // in all
	closed bool
}

// idleFor is how long an unused connection is kept; the server gives up after two minutes.
const idleFor = 90 * time.Second

// calling finds the context of a call in the one that Kitex passes on, which has no end: Kitex would
// start a goroutine for each call to watch one that has.
type calling struct{}

// Get implements Kitex's pool. An error of it means that nothing was sent.
func (p *conns) Get(ctx context.Context, network, address string, _ kitex.ConnOption) (net.Conn, error) {
	real, _ := ctx.Value(calling{}).(context.Context)
	if real == nil {
		real = ctx
	}
	c := p.take(address)
	if c == nil {
		var err error
		if c, err = p.dial(real, network, address); err != nil {
			return nil, err
		}
	}
	at, _ := real.Deadline()
	_ = c.Conn.SetDeadline(at)
	c.stop = context.AfterFunc(real, c.abort)
	return c, nil
}

// take returns an idle connection whose peer is still there.
func (p *conns) take(address string) *connection {
	for {
		p.mu.Lock()
		list := p.idle[address]
		if len(list) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := list[len(list)-1]
		list[len(list)-1] = nil
		p.idle[address] = list[:len(list)-1]
		p.mu.Unlock()
		if link.Silent(c.raw) {
			return c
		}
		p.close(c)
	}
}

func (p *conns) dial(ctx context.Context, network, address string) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, p.connect)
	defer cancel()
	var d net.Dialer
	raw, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	t := tls.Client(raw, p.tls)
	if err := t.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, err
	}
	c := &connection{Conn: t, address: address}
	if c.raw, err = raw.(*net.TCPConn).SyscallConn(); err != nil {
		raw.Close()
		return nil, err
	}
	c.r, c.w = bufiox.NewDefaultReader(t), bufiox.NewDefaultWriter(t)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		raw.Close()
		return nil, net.ErrClosed
	}
	p.open++
	return c, nil
}

// Put implements Kitex's pool: the call on c is over and was answered.
func (p *conns) Put(nc net.Conn) error {
	c := nc.(*connection)
	if !c.stop() { // it is being broken off
		p.close(c)
		return nil
	}
	_ = c.Conn.SetDeadline(time.Time{})
	c.used = time.Now()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.close(c)
		return nil
	}
	p.idle[c.address] = append(p.idle[c.address], c)
	p.mu.Unlock()
	return nil
}

// Discard implements Kitex's pool: something went wrong on c.
func (p *conns) Discard(nc net.Conn) error {
	c := nc.(*connection)
	c.stop()
	p.close(c)
	return nil
}

// Clean implements Kitex's pool.
func (p *conns) Clean(_, address string) {
	p.mu.Lock()
	list := p.idle[address]
	delete(p.idle, address)
	p.mu.Unlock()
	for _, c := range list {
		p.close(c)
	}
}

// Close implements Kitex's pool. The owner of the pool closes it, after its clients.
func (p *conns) Close() error { return nil }

// closeAll closes what is idle, and what is brought back from now on.
func (p *conns) closeAll() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = map[string][]*connection{}
	p.mu.Unlock()
	for _, list := range idle {
		for _, c := range list {
			p.close(c)
		}
	}
}

// sweep closes connections that nobody has used for long.
func (p *conns) sweep(now time.Time) {
	var old []*connection
	p.mu.Lock()
	for address, list := range p.idle {
		n := 0
		for n < len(list) && now.Sub(list[n].used) > idleFor {
			n++
		}
		old = append(old, list[:n]...)
		if n == len(list) {
			delete(p.idle, address)
		} else if n > 0 {
			p.idle[address] = append([]*connection(nil), list[n:]...)
		}
	}
	p.mu.Unlock()
	for _, c := range old {
		p.close(c)
	}
}

func (p *conns) close(c *connection) {
	c.once.Do(func() {
		_ = c.NetConn().Close()
		p.mu.Lock()
		p.open--
		p.mu.Unlock()
	})
}

// connection is a connection to a node.
type connection struct {
	*tls.Conn
	address string
	raw     syscall.RawConn
	r       *bufiox.DefaultReader
	w       *bufiox.DefaultWriter
	stop    func() bool // of the watch on the call's context
	used    time.Time
	once    sync.Once
}

// abort ends whatever is being read or written.
func (c *connection) abort() { _ = c.Conn.SetDeadline(time.Unix(1, 0)) }

// Reader and Writer are what Kitex reads and writes by.
func (c *connection) Reader() *bufiox.DefaultReader { return c.r }

// Writer implements what Kitex asks of a connection.
func (c *connection) Writer() *bufiox.DefaultWriter { return c.w }

// SetReadDeadline does nothing: the call's context decides, not Kitex.
func (c *connection) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing, either.
func (c *connection) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline does nothing, either.
func (c *connection) SetDeadline(time.Time) error { return nil }

// dialer is asked for by Kitex and never used: the pool dials.
type dialer struct{}

// DialTimeout implements Kitex's dialer.
func (dialer) DialTimeout(string, string, time.Duration) (net.Conn, error) {
	return nil, errUnsent
}
