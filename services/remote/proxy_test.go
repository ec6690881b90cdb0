package remote_test

import (
	"net"
	"sync"
	"testing"
)

// proxy stands before a node's address. What goes through it may be cut off, or held up.
type proxy struct {
	ln net.Listener
	to string

	mu    sync.Mutex
	free  sync.Cond // held went down
	held  bool
	conns map[net.Conn]struct{}
}

func newProxy(t testing.TB, to string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, to: to, conns: make(map[net.Conn]struct{})}
	p.free.L = &p.mu
	go p.run()
	t.Cleanup(func() { ln.Close(); p.hold(false); p.cut() })
	return p
}

func (p *proxy) run() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		d, err := net.Dial("tcp", p.to)
		if err != nil {
			c.Close()
			continue
		}
		p.mu.Lock()
		p.conns[c], p.conns[d] = struct{}{}, struct{}{}
		p.mu.Unlock()
		go p.copy(c, d)
		go p.copy(d, c)
	}
}

func (p *proxy) copy(to, from net.Conn) {
	defer func() {
		to.Close()
		from.Close()
		p.mu.Lock()
		delete(p.conns, from)
		p.mu.Unlock()
	}()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		for p.held {
			p.free.Wait()
		}
		p.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut closes all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		c.Close()
	}
}

// hold stops the bytes of all connections, or lets them go on.
func (p *proxy) hold(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = on
	p.free.Broadcast()
}
