package remote

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"slices"
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

	mu      sync.Mutex
	idle    map[string][]*connection // the one used last at the end
	dialing map[string]*dialing      // where connections are being made
	open    int                      // in all
	closed  bool
}

// dialing is what is under way towards one node.
type dialing struct {
	dials   int
	waiting []chan *connection // each has room for one; nil: dial yourself
}

// maxDials bounds the connections that are being made to one node at a time. Handshakes are dear: were each of a
// thousand calls to make one of its own, all would be late, and the breaker would open on a node that is well. Who
// finds no connection and may not make one waits for either.
const maxDials = 8

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
		if c, err = p.wait(real, address); err != nil {
			return nil, err
		}
	}
	if c == nil {
		var err error
		c, err = p.dial(real, network, address)
		p.dialed(address)
		if err != nil {
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

// wait returns a connection that somebody else brought back, or nil when it is the caller's turn to dial: dialed
// must follow then.
func (p *conns) wait(ctx context.Context, address string) (*connection, error) {
	p.mu.Lock()
	for len(p.idle[address]) > 0 { // brought back since the caller looked
		p.mu.Unlock()
		if c := p.take(address); c != nil {
			return c, nil
		}
		p.mu.Lock()
	}
	d := p.dialing[address]
	if d == nil {
		d = &dialing{}
		p.dialing[address] = d
	}
	if d.dials < maxDials {
		d.dials++
		p.mu.Unlock()
		return nil, nil
	}
	turn := make(chan *connection, 1)
	d.waiting = append(d.waiting, turn)
	p.mu.Unlock()
	select {
	case c := <-turn:
		return c, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(d.waiting, turn)
	if i >= 0 {
		d.waiting = slices.Delete(d.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 { // it came at the same time: somebody else's now
		if c := <-turn; c != nil {
			p.keep(c)
		} else {
			p.dialed(address)
		}
	}
	return nil, ctx.Err()
}

// dialed ends one dial, and lets the next one who waits make his.
func (p *conns) dialed(address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := p.dialing[address]
	if len(d.waiting) > 0 {
		d.next() <- nil
		return
	}
	if d.dials--; d.dials == 0 {
		delete(p.dialing, address)
	}
}

// next takes the one who has waited longest.
func (d *dialing) next() chan *connection {
	turn := d.waiting[0]
	d.waiting[0] = nil
	d.waiting = d.waiting[1:]
	return turn
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
	p.keep(c)
	return nil
}

// keep gives a connection that nobody uses to who waits for one, or keeps it for later.
func (p *conns) keep(c *connection) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.close(c)
		return
	}
	if d := p.dialing[c.address]; d != nil && len(d.waiting) > 0 {
		d.next() <- c
	} else {
		p.idle[c.address] = append(p.idle[c.address], c)
	}
	p.mu.Unlock()
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
