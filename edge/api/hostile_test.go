package api

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// raw talks to the server by hand.
type raw struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func (r *rig) dial() *raw {
	r.t.Helper()
	c, err := net.Dial("tcp", r.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		r.t.Fatal(err)
	}
	return &raw{Conn: c, t: r.t, r: bufio.NewReader(c)}
}

func (c *raw) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

// closed waits until the server closes the connection without having said anything.
func (c *raw) closed(what string) {
	c.t.Helper()
	b, err := io.ReadAll(c.r)
	if len(b) != 0 || err != nil && !errors.Is(err, net.ErrClosed) && strings.Contains(err.Error(), "timeout") {
		c.t.Errorf("%s: %q, %v", what, b, err)
	}
}

func (c *raw) answer() (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp, string(b)
}

func TestNonsense(t *testing.T) {
	r := newRig(t)
	for what, s := range map[string]string{
		"no HTTP":           "\x00\x01\x02\x03\r\n\r\n",
		"no version":        "GET /\r\n\r\n",
		"no host":           "GET /healthz HTTP/1.1\r\n\r\n",
		"a bad length":      "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
		"an extreme length": "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n",
		"bad chunks":        "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"large chunks":      "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("4000\r\n"+strings.Repeat("x", 0x4000)+"\r\n", 20) + "0\r\n\r\n",
	} {
		t.Run(what, func(t *testing.T) {
			r := *r
			r.t = t
			c := r.dial()
			c.send(s)
			resp, body := c.answer()
			r.refusal(resp, body)
			if resp.StatusCode < 400 || resp.StatusCode >= 500 || !resp.Close {
				t.Errorf("%d %s, close %v", resp.StatusCode, body, resp.Close)
			}
			c.closed(what)
		})
	}
	// Two requests in one write, then one that announces its body.
	c := r.dial()
	c.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
	for range 2 {
		if resp, body := c.answer(); resp.StatusCode != 200 {
			t.Errorf("%d %s", resp.StatusCode, body)
		}
	}
	c.send("POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
	if resp, err := http.ReadResponse(c.r, nil); err != nil || resp.StatusCode != 100 {
		t.Fatalf("%+v, %v", resp, err)
	}
	c.send("{}")
	if resp, body := c.answer(); resp.StatusCode != 400 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

// Whoever is slow at anything is closed, and costs nobody else anything.
func TestSlowClients(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ReadTimeout, c.IdleTimeout = time.Second, time.Second })
	silent := r.dial()
	idle := r.dial()
	idle.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	if resp, _ := idle.answer(); resp.StatusCode != 200 {
		t.Error(resp.StatusCode)
	}
	half := r.dial()
	half.send("POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
	var stop atomic.Bool
	var drip sync.WaitGroup
	loris := r.dial()
	drip.Go(func() { // a byte now and then, for ever
		for _, err := io.WriteString(loris, "GET /healthz HTTP/1.1\r\nX: "); err == nil && !stop.Load(); _, err = io.WriteString(loris, "x") {
			time.Sleep(10 * time.Millisecond)
		}
	})
	silent.closed("one that never says anything")
	idle.closed("one that was idle")
	if b, err := io.ReadAll(half.r); err == nil && len(b) > 0 && !strings.HasPrefix(string(b), "HTTP/1.1 408 ") {
		t.Errorf("half a request: %q", b)
	}
	if b, _ := io.ReadAll(loris.r); len(b) > 0 && !strings.HasPrefix(string(b), "HTTP/1.1 408 ") {
		t.Errorf("a dripping request: %q", b)
	}
	stop.Store(true)
	drip.Wait()
	r.wait()
	http.DefaultClient.CloseIdleConnections()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		r.transport.mu.Lock()
		n, ips := len(r.transport.conns), len(r.transport.perIP)
		r.transport.mu.Unlock()
		if n == 0 && ips == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections of %d addresses are left", n, ips)
		}
	}
}

func TestConnectionLimits(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"in all":     func(c *Config) { c.MaxConns = 2 },
		"an address": func(c *Config) { c.MaxConnsPerIP = 2 },
	} {
		r := newRig(t, change)
		http.DefaultClient.CloseIdleConnections()
		for r.count() > 0 {
			time.Sleep(time.Millisecond)
		}
		a, b := r.dial(), r.dial()
		for _, c := range []*raw{a, b} {
			c.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
			if resp, _ := c.answer(); resp.StatusCode != 200 {
				t.Error(resp.StatusCode)
			}
		}
		r.dial().closed("one too many " + what)
		a.Close()
		for r.count() > 1 {
			time.Sleep(time.Millisecond)
		}
		c := r.dial()
		c.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, _ := c.answer(); resp.StatusCode != 200 {
			t.Error(resp.StatusCode)
		}
	}
	// A trusted proxy carries many clients.
	r := newRig(t, func(c *Config) {
		c.MaxConnsPerIP = 1
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	for range 5 {
		c := r.dial()
		c.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		if resp, _ := c.answer(); resp.StatusCode != 200 {
			t.Error(resp.StatusCode)
		}
	}
}

func (r *rig) count() int {
	r.transport.mu.Lock()
	defer r.transport.mu.Unlock()
	return len(r.transport.conns)
}

// A shutdown lets requests finish, closes who has none, and listens no more.
func TestShutdown(t *testing.T) {
	p := &panics{wait: make(chan struct{}, 1), free: make(chan struct{})}
	r := newRig(t, func(c *Config) { p.Accounts = c.Accounts; c.Accounts = p; c.HandlerTimeout = time.Minute })
	idle, silent, busy := r.dial(), r.dial(), r.dial()
	idle.send("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	idle.answer()
	body := `{"name":"wait","password":"x"}`
	busy.send(fmt.Sprintf("POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	<-p.wait
	done := make(chan error, 1)
	go func() { done <- r.Shutdown(context.Background()) }()
	idle.closed("an idle connection")
	silent.closed("a silent connection")
	close(p.free)
	if resp, b := busy.answer(); resp.StatusCode != 503 || !resp.Close {
		t.Errorf("%d %s, close %v", resp.StatusCode, b, resp.Close)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := r.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", r.Addr().String()); err == nil {
		c.Close()
		t.Error("it still listens")
	}
}

func TestShutdownWithoutPatience(t *testing.T) {
	p := &panics{wait: make(chan struct{}, 1)}
	r := newRig(t, func(c *Config) { p.Accounts = c.Accounts; c.Accounts = p; c.HandlerTimeout = time.Minute })
	busy := r.dial()
	body := `{"name":"wait","password":"x"}`
	busy.send(fmt.Sprintf("POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
	<-p.wait
	go func() { _ = r.Shutdown(context.Background()) }()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := io.ReadAll(busy.r); err != nil && strings.Contains(err.Error(), "timeout") {
		t.Error(err)
	}
	if err := <-r.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Run: %v", err)
	}
	r.ended <- nil
}

func TestNew(t *testing.T) {
	for _, c := range []Config{
		{}, {Listen: "127.0.0.1:0"}, {Accounts: &panics{}}, {Listen: "127.0.0.1:0", Accounts: &panics{}, MaxBody: -1},
		{Listen: "127.0.0.1:0", Accounts: &panics{}, ReadTimeout: -1}, {Listen: "nowhere:-1", Accounts: &panics{}},
	} {
		if s, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
			_ = s.Shutdown(context.Background())
		}
	}
	s, err := New(Config{Listen: "127.0.0.1:0", Accounts: &panics{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Listen: s.Addr().String(), Accounts: &panics{}}); err == nil || !strings.Contains(err.Error(), s.Addr().String()) {
		t.Errorf("a port in use: %v", err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", s.Addr().String()); err == nil {
		c.Close()
		t.Error("it still listens")
	}
	if err := s.Run(context.Background()); err != nil {
		t.Errorf("Run after Shutdown: %v", err)
	}
}
