package tcp_test

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/hub/hubtest"
	"github.com/gochat-im/gochat/edge/tcp"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

const patience = time.Minute // how long a test waits for what must come

type server struct {
	t    testing.TB
	svc  *conntest.Services
	hub  *hub.Hub
	addr string
}

// start runs a server with services in memory until the test ends.
func start(t testing.TB, hc hub.Config, tc tcp.Config) *server {
	t.Helper()
	if hc.Conn.Linger == 0 {
		hc.Conn.Linger = time.Second
	}
	if tc.Logger == nil {
		tc.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	svc := conntest.New()
	h, err := hub.New(hc, svc.For())
	if err != nil {
		t.Fatal(err)
	}
	svc.Out = h
	tc.Hub, tc.Listen = h, "127.0.0.1:0"
	s, err := tcp.New(tc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx); err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	wg.Go(func() { _ = h.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		end, done := context.WithTimeout(context.Background(), 3*time.Second)
		defer done()
		hubtest.Left(t, h, h.Shutdown(end))
		s.Close()
		if n := svc.Sessions(); n != 0 {
			t.Errorf("%d sessions are left in the directory", n)
		}
	})
	return &server{t: t, svc: svc, hub: h, addr: s.Addr().String()}
}

// dial opens a connection that is closed when the test ends.
func (s *server) dial() *conntest.Client {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	return &conntest.Client{W: nc}
}

func (s *server) next(c *conntest.Client) string {
	s.t.Helper()
	f, err := c.Next(patience)
	if err != nil {
		c.W.(net.Conn).Close() // a client that sees the end goes, too
		return "end: " + err.Error()
	}
	return conntest.Describe(&f)
}

func (s *server) expect(c *conntest.Client, want ...string) {
	s.t.Helper()
	for _, w := range want {
		if got := s.next(c); got != w {
			s.t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func (s *server) write(c *conntest.Client, frames ...[]byte) {
	s.t.Helper()
	var b []byte
	for _, f := range frames {
		b = append(b, f...)
	}
	if err := c.Write(b); err != nil {
		s.t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// TestSuite is what every transport must do.
func TestSuite(t *testing.T) {
	hubtest.Run(t, func(t testing.TB, hc hub.Config, small bool) *hubtest.Server {
		tc := tcp.Config{}
		if small {
			tc.SendBuffer = 8 << 10
		}
		return start(t, hc, tc).suite()
	})
}

// suite is s as the suite sees it.
func (s *server) suite() *hubtest.Server {
	return &hubtest.Server{Services: s.svc, Hub: s.hub, Dial: func() (hubtest.Wire, *net.TCPConn, code.Code) {
		nc, err := net.Dial("tcp", s.addr)
		if err != nil {
			s.t.Fatal(err)
		}
		return nc, nc.(*net.TCPConn), 0
	}}
}

func TestProxy(t *testing.T) {
	loopback := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	s := start(t, hub.Config{PerAddress: 1}, tcp.Config{ProxyFrom: loopback})
	v2 := append([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c"), 203, 0, 113, 9, 127, 0, 0, 1, 0x1F, 0x90, 0x1B, 0x9E)
	a, b := s.dial(), s.dial()
	s.write(a, []byte("PROXY TCP4 203.0.113.7 127.0.0.1 4711 7070\r\n"), conntest.Connect("a", "d"))
	for _, x := range append(v2, conntest.Connect("b", "d")...) {
		s.write(b, []byte{x})
	}
	for _, c := range []*conntest.Client{a, b} {
		if f, err := c.Next(patience); err != nil || f.Type != frame.Connack {
			t.Fatalf("got %v, %v", f.Type, err)
		}
	}
	if got := s.hub.Find(s.svc.Connection("a", "d")).RemoteAddr(); got != netip.MustParseAddrPort("203.0.113.7:4711") {
		t.Fatalf("address %v", got)
	}
	if got := s.hub.Find(s.svc.Connection("b", "d")).RemoteAddr(); got != netip.MustParseAddrPort("203.0.113.9:8080") {
		t.Fatalf("address %v", got)
	}
	c := s.dial()
	s.write(c, []byte("PROXY TCP4 203.0.113.7 127.0.0.1 4712 7070\r\n"), conntest.Connect("c", "d"))
	s.expect(c, "ERROR too_many_connections", "end: EOF")
	d := s.dial()
	s.write(d, conntest.Connect("c", "d"))
	s.expect(d, "ERROR bad_frame", "end: EOF")
}
