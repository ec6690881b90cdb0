package etcdtest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy stands between clients and a server, and can be cut.
type Proxy struct {
	ln   net.Listener
	done sync.WaitGroup

	mu     sync.Mutex
	target string
	cut    bool
	conns  map[net.Conn]bool
}

// newProxy returns a proxy to target, which is closed when the test ends.
func newProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, ln: ln, conns: map[net.Conn]bool{}}
	p.done.Go(p.accept)
	t.Cleanup(func() {
		_ = ln.Close()
		p.Cut()
		p.done.Wait()
	})
	return p
}

// URL is the endpoint for clients.
func (p *Proxy) URL() string { return "http://" + p.ln.Addr().String() }

// Cut closes all connections and lets no new ones through.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.conns {
		_ = c.Close()
	}
	clear(p.conns)
}

// Heal lets connections through again.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

// heal is Heal with another target.
func (p *Proxy) heal(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut, p.target = false, target
}

func (p *Proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.done.Go(func() { p.serve(c) })
	}
}

// keep notes c among those to cut; false: the proxy is cut.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cut {
		_ = c.Close()
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) serve(c net.Conn) {
	defer c.Close()
	if !p.keep(c) {
		return
	}
	p.mu.Lock()
	target := p.target
	p.mu.Unlock()
	up, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer up.Close()
	if !p.keep(up) {
		return
	}
	p.done.Go(func() {
		_, _ = io.Copy(up, c)
		_ = up.Close()
		_ = c.Close()
	})
	_, _ = io.Copy(c, up)
}
