package tcp_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/certs"
	"github.com/gochat-im/gochat/edge/certs/certtest"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/tcp"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// secureServer is a server with TLS and what its clients need.
type secureServer struct {
	*server
	client *tls.Config
}

func startSecure(t testing.TB, hc hub.Config, tc tcp.Config) *secureServer {
	t.Helper()
	certFile, keyFile, client := certtest.Write(t, t.TempDir(), "gochat")
	source, err := certs.Open(certs.Config{CertFile: certFile, KeyFile: keyFile})
	if err != nil {
		t.Fatal(err)
	}
	tc.TLS = source.TLS()
	return &secureServer{start(t, hc, tc), client}
}

// over opens a connection with TLS over nc.
func (s *secureServer) over(nc net.Conn, change ...func(*tls.Config)) *conntest.Client {
	s.t.Helper()
	cfg := s.client.Clone()
	for _, f := range change {
		f(cfg)
	}
	tc := tls.Client(nc, cfg)
	_ = tc.SetDeadline(time.Now().Add(patience))
	if err := tc.Handshake(); err != nil {
		s.t.Fatal(err)
	}
	_ = tc.SetDeadline(time.Time{})
	return &conntest.Client{W: tc}
}

func (s *secureServer) raw() *net.TCPConn {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { nc.Close() })
	return nc.(*net.TCPConn)
}

func (s *secureServer) enter(user, device string, change ...func(*tls.Config)) *conntest.Client {
	s.t.Helper()
	c := s.over(s.raw(), change...)
	if _, err := c.Login(user, device); err != nil {
		s.t.Fatal(err)
	}
	return c
}

// trickle is a connection whose writes leave in small pieces.
type trickle struct {
	net.Conn
	piece int
}

func (c trickle) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		var k int
		k, err = c.Conn.Write(p[:min(c.piece, len(p))])
		n, p = n+k, p[k:]
	}
	return n, err
}

func TestTalkOverTLS(t *testing.T) {
	s := startSecure(t, hub.Config{Conn: conn.Config{BytesPerSecond: 16 << 20}}, tcp.Config{})
	version := func(v uint16) func(*tls.Config) { return func(c *tls.Config) { c.MinVersion, c.MaxVersion = v, v } }
	a := s.enter("alice", "phone", version(tls.VersionTLS12))
	b := s.enter("bob", "phone", version(tls.VersionTLS13))
	s.write(a, conntest.Send(1, 0, "bob", 1, "hello"), conntest.Send(2, 0, "bob", 2, "world"))
	s.expect(a, "SENDACK #1 seq 1", "SENDACK #2 seq 2")
	s.expect(b, "DELIVER [1 alice: hello] [2 alice: world]")

	// Records and frames needn't have anything to do with each other: one byte a record, one
	// record in many pieces, many frames in records of 16 KiB.
	for _, x := range conntest.Send(3, 0, "alice", 3, "slowly") {
		s.write(b, []byte{x})
	}
	s.expect(b, "SENDACK #3 seq 3")
	s.expect(a, "DELIVER [3 bob: slowly]")
	slow := s.over(trickle{s.raw(), 3})
	if _, err := slow.Login("carol", "phone"); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 8000)
	for i := range 4 {
		s.write(slow, conntest.Send(uint32(10+i), 0, "alice", uint64(10+i), large))
		s.expect(slow, fmt.Sprintf("SENDACK #%d seq %d", 10+i, i+1))
		if got, want := s.next(a), fmt.Sprintf("DELIVER [%d carol: xxx", i+1); !strings.HasPrefix(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	s.write(b, frame.Append(nil, frame.Ping, frame.FlagRequestID, 13, nil))
	s.expect(b, "PONG #13")
}

func TestTheReasonOfAnEndComesOverTLS(t *testing.T) {
	s := startSecure(t, hub.Config{}, tcp.Config{})
	a := s.enter("alice", "phone")
	s.hub.CloseUserUntil("alice", "phone", time.Now(), code.New(code.SessionRevoked))
	if got := s.next(a); !strings.HasPrefix(got, "KICK") {
		t.Fatalf("got %q", got)
	}
	s.expect(a, "end: EOF") // said by TLS too: not an unexpected one
	b := s.enter("bob", "phone")
	s.write(b, []byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF})
	if got := s.next(b); !strings.HasPrefix(got, "ERROR") {
		t.Fatalf("got %q", got)
	}
	// A client that leaves as TLS wants it, and one that just leaves.
	_ = s.enter("carol", "1").W.(net.Conn).Close()
	_ = s.enter("carol", "2").W.(*tls.Conn).NetConn().Close()
	b.W.(net.Conn).Close()
	eventually(t, "all connections to end", func() bool { return s.hub.Count() == 0 })
}

// TestALaggingClientOverTLS fills the socket of a client that doesn't read. What it then
// reads must be whole: frames that were being written when the socket was full, and after them hints.
func TestALaggingClientOverTLS(t *testing.T) {
	s := startSecure(t, hub.Config{Conn: conn.Config{QueueBytes: 64 << 10}}, tcp.Config{SendBuffer: 8 << 10})
	nc := s.raw()
	_ = nc.SetReadBuffer(4 << 10)
	c := s.over(nc)
	if _, err := c.Login("slow", "d"); err != nil {
		t.Fatal(err)
	}
	big := deliverTo("slow", strings.Repeat("x", 4000))
	conn := s.svc.Connection("slow", "d")
	for round := range 2 {
		dropped := s.hub.Stats().Dropped
		eventually(t, "deliveries to be dropped", func() bool {
			s.hub.Deliver(conn, big)
			s.hub.Flush()
			return s.hub.Stats().Dropped > dropped+3
		})
		for delivered := 0; ; delivered++ {
			f, err := c.Next(patience)
			if err != nil {
				t.Fatalf("round %d, after %d deliveries: %v", round, delivered, err)
			}
			if got := conntest.Describe(&f); f.Type == frame.Hint {
				if got != "HINT head 1" || delivered < 16 {
					t.Fatalf("got %q after %d deliveries", got, delivered)
				}
				break
			} else if !strings.HasPrefix(got, "DELIVER [1 slow") {
				t.Fatalf("got %q", got)
			}
		}
	}
	if s.hub.Stats().ShortWrites == 0 {
		t.Error("the socket was never full")
	}
	s.write(c, frame.Append(nil, frame.Ping, 0, 0, nil))
	s.expect(c, "PONG")
}

func TestAClientThatNeverReadsOverTLS(t *testing.T) {
	s := startSecure(t, hub.Config{Conn: conn.Config{Stalled: time.Second, QueueBytes: 64 << 10}}, tcp.Config{SendBuffer: 8 << 10})
	nc := s.raw()
	_ = nc.SetReadBuffer(4 << 10)
	c := s.over(nc)
	s.suite().NeverReads(t, c)
}

func TestHandshakesThatGoWrong(t *testing.T) {
	s := startSecure(t, hub.Config{Conn: conn.Config{Handshake: time.Second}}, tcp.Config{})
	for name, first := range map[string][]byte{
		"nothing": nil, "no TLS": conntest.Connect("a", "d"), "HTTP": []byte("GET / HTTP/1.1\r\n\r\n"),
		"half a record": {22, 3, 1, 2, 0, 1, 0, 1, 0xFC}, "zeros": make([]byte, 1000),
	} {
		nc := s.raw()
		if _, err := nc.Write(first); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		b := make([]byte, 64)
		for { // at most an alert, then the end
			n, err := nc.Read(b)
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Errorf("%s: the connection is still open", name)
			}
			if n > 0 && b[0] != 21 {
				t.Errorf("%s: got % x", name, b[:n])
			}
			if err != nil {
				break
			}
		}
		nc.Close()
	}
	eventually(t, "all connections to end", func() bool { return s.hub.Count() == 0 })
	s = startSecure(t, hub.Config{}, tcp.Config{})
	if _, err := s.enter("a", "d").Login("a", "d"); err == nil {
		t.Error("two logins on one connection")
	}
}

func TestTLSBehindAProxy(t *testing.T) {
	s := startSecure(t, hub.Config{}, tcp.Config{ProxyFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	for i, piece := range []int{1, 20, 1 << 10} {
		nc := trickle{s.raw(), piece}
		if _, err := nc.Write([]byte("PROXY TCP4 203.0.113.7 127.0.0.1 4711 7070\r\n")); err != nil {
			t.Fatal(err)
		}
		user := fmt.Sprint("u", i)
		c := s.over(nc)
		if _, err := c.Login(user, "d"); err != nil {
			t.Fatal(err)
		}
		if got := s.hub.Find(s.svc.Connection(idOf(user), "d")).RemoteAddr(); got != netip.MustParseAddrPort("203.0.113.7:4711") {
			t.Fatalf("address %v", got)
		}
	}
}

func TestIdleConnectionsWithTLSHaveNoGoroutine(t *testing.T) {
	s := startSecure(t, hub.Config{}, tcp.Config{})
	first := s.enter("user", "0")
	before := runtime.NumGoroutine()
	clients := []*conntest.Client{first}
	for i := range 100 {
		clients = append(clients, s.enter("user-"+fmt.Sprint(i), "d"))
	}
	for i, c := range clients {
		s.write(c, frame.Append(nil, frame.Ping, frame.FlagRequestID, uint32(i+1), nil))
		s.expect(c, fmt.Sprintf("PONG #%d", i+1))
	}
	eventually(t, "the goroutines of input to end", func() bool { return runtime.NumGoroutine() < before+20 })
}

// Who comes to an edge that leaves is told where else to go, over TLS too. Until then it is bounded like who isn't logged in.
func TestTurnedAwayOverTLS(t *testing.T) {
	const fewer = 3
	s := startSecure(t, hub.Config{StrangersPerAddress: fewer, Alternatives: []string{"10.0.0.2:7070"}, Conn: conn.Config{Handshake: time.Hour}},
		tcp.Config{ProxyFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}})
	leave := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.hub.Leave(ctx, hub.Elsewhere{Web: []string{"10.0.0.3:443"}}); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	gone := func() { // all are let go
		t.Helper()
		eventually(t, "those who were told to be gone", func() bool {
			var all []*hub.Turned
			for range fewer {
				if u := s.hub.TurnAway(localPipe{conntest.NewPipe()}, code.New(code.Draining), hub.Form{Handshake: true}); u != nil {
					all = append(all, u)
				}
			}
			for _, u := range all {
				u.Closed()
			}
			return len(all) == fewer
		})
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := s.over(s.raw(), func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
		f, err := c.Next(patience)
		if err != nil || f.Type != frame.Drain {
			t.Fatalf("got %v, %v", f.Type, err)
		}
		if d, err := packet.DecodeDrain(f.Body); err != nil || !slices.Equal(d.Alternatives, []string{"10.0.0.2:7070"}) {
			t.Fatalf("%+v, %v", d, err)
		}
		s.expect(c, "ERROR draining", "end: EOF") // said by TLS too: not an unexpected one
		gone()
	}
	// Its CONNECT right behind the handshake is no matter.
	c := s.over(s.raw())
	_ = c.Write(conntest.Connect("alice", "d"))
	s.expect(c, "DRAIN", "ERROR draining", "end: EOF")
	gone()
	// One that talks no TLS, or talks on, is cut off.
	noTLS := s.raw()
	_, _ = noTLS.Write(conntest.Connect("a", "d"))
	for b := make([]byte, 64); ; { // an alert
		_ = noTLS.SetReadDeadline(time.Now().Add(patience))
		if _, err := noTLS.Read(b); err != nil {
			break
		}
	}
	noTLS.Close()
	stays := s.over(s.raw())
	eventually(t, "the end", func() bool { return stays.Write(conntest.Connect("a", "d")) != nil })
	gone()
	// Beyond the limit of an address nobody waits for a handshake.
	var silent []net.Conn
	for range fewer {
		silent = append(silent, s.raw())
	}
	eventually(t, "no more to be told", func() bool {
		u := s.hub.TurnAway(localPipe{conntest.NewPipe()}, code.New(code.Draining), hub.Form{Handshake: true})
		if u != nil {
			u.Closed()
		}
		return u == nil
	})
	s.ends(s.raw())
	for _, nc := range silent {
		nc.Close()
	}
	gone()
	// Behind a proxy, whose word about the client isn't needed.
	for header, told := range map[string]bool{"PROXY TCP4 203.0.113.7 127.0.0.1 4711 7070\r\n": true, "PROXY what\r\n": false} {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
		nc, err := d.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := nc.Write([]byte(header)); err != nil {
			t.Fatal(err)
		}
		if told {
			s.expect(s.over(nc), "DRAIN", "ERROR draining", "end: EOF")
		} else {
			s.ends(nc)
		}
	}
	leave() // they are nobody's to wait for
	if st := s.hub.Stats(); st.Connections != 0 || st.Strangers != 0 {
		t.Errorf("%+v", st)
	}
	gone()
	s.hub.Stay()
	s.enter("alice", "d")
}

// Who isn't told because its handshake never comes is cut off as soon as who isn't logged in.
func TestTurnedAwayWithoutAHandshake(t *testing.T) {
	s := startSecure(t, hub.Config{Conn: conn.Config{Handshake: time.Second}}, tcp.Config{})
	if err := s.hub.Leave(t.Context(), hub.Elsewhere{}); err != nil {
		t.Fatal(err)
	}
	s.ends(s.raw())
}

// ends waits for nc's end, before which nothing comes.
func (s *secureServer) ends(nc net.Conn) {
	s.t.Helper()
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		s.t.Errorf("read %d bytes, %v", n, err)
	}
	nc.Close()
}

// localPipe is a connection from here.
type localPipe struct{ *conntest.Pipe }

func (localPipe) RemoteAddr() netip.AddrPort { return netip.MustParseAddrPort("127.0.0.1:4711") }
