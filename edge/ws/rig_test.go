package ws_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/hub/hubtest"
	"github.com/gochat-im/gochat/edge/ws"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

const patience = time.Minute // how long a test waits for what must come

// server is the HTTP listener with WebSockets over services in memory.
type server struct {
	t    testing.TB
	svc  *conntest.Services
	hub  *hub.Hub
	ws   *ws.Server
	addr string
	log  *conntest.Log
}

// noAccounts is a server on which nobody signs in.
type noAccounts struct{}

func (noAccounts) Register(context.Context, string, string, id.DeviceID, uint8) (auth.Grant, *code.Error) {
	return auth.Grant{}, code.New(code.RegistrationClosed)
}

func (noAccounts) Login(context.Context, string, string, id.DeviceID, uint8) (auth.Grant, *code.Error) {
	return auth.Grant{}, code.New(code.BadCredentials)
}

func (noAccounts) Refresh(context.Context, string) (auth.Grant, *code.Error) {
	return auth.Grant{}, code.New(code.Unauthenticated)
}

func (noAccounts) Logout(context.Context, string, bool) *code.Error { return nil }

func (noAccounts) ChangePassword(context.Context, string, string, string) *code.Error {
	return code.New(code.Forbidden)
}

// start serves until the test ends.
func start(t testing.TB, hc hub.Config, wc ws.Config, change ...func(*api.Config)) *server {
	t.Helper()
	if hc.Conn.Linger == 0 {
		hc.Conn.Linger = time.Second
	}
	s := &server{t: t, svc: conntest.New(), log: new(conntest.Log)}
	logger := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	hc.Logger, wc.Logger = logger, logger
	var err error
	if s.hub, err = hub.New(hc, s.svc.For()); err != nil {
		t.Fatal(err)
	}
	s.svc.Out = s.hub
	wc.Hub = s.hub
	if s.ws, err = ws.New(wc); err != nil {
		t.Fatal(err)
	}
	cfg := api.Config{Listen: "127.0.0.1:0", Accounts: noAccounts{}, WebSocket: s.ws, Logger: logger}
	for _, f := range change {
		f(&cfg)
	}
	a, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = a.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	web, stopWeb := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := a.Run(web); err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	wg.Go(func() { _ = s.hub.Run(ctx) })
	t.Cleanup(func() {
		end, done := context.WithTimeout(context.Background(), 3*time.Second)
		defer done()
		hubtest.Left(t, s.hub, s.hub.Shutdown(end))
		cancel()
		stopWeb()
		wg.Wait()
		if n := s.svc.Sessions(); n != 0 {
			t.Errorf("%d sessions are left in the directory", n)
		}
	})
	return s
}

// upgrade is how a test asks for a WebSocket.
type upgrade struct {
	protocols string // ws.Binary unless it is said otherwise
	query     string
	header    [][2]string // beside the usual ones; an empty value takes one away
	tls       *tls.Config
	behind    []byte // sent right behind the request
}

// dial asks for a WebSocket and returns the answer, and the WebSocket if it is one.
func (s *server) dial(u upgrade) (*peer, *http.Response) {
	s.t.Helper()
	for tries := 1; ; tries++ {
		p, resp, err := s.ask(u)
		switch {
		case err == nil:
			return p, resp
		case !conntest.Race || tries == 5: // with the race detector the end of another connection may end this one
			s.t.Fatal(err)
		}
	}
}

func (s *server) ask(u upgrade) (*peer, *http.Response, error) {
	if u.protocols == "" {
		u.protocols = ws.Binary
	}
	var nc net.Conn
	nc, err := net.Dial("tcp", s.addr)
	if err == nil && u.tls != nil {
		c := tls.Client(nc, u.tls)
		err = c.Handshake()
		nc = c
	}
	if err != nil {
		return nil, nil, err
	}
	s.t.Cleanup(func() { nc.Close() })
	header := [][2]string{{"Host", s.addr}, {"Upgrade", "websocket"}, {"Connection", "Upgrade"}, {"Sec-WebSocket-Version", "13"},
		{"Sec-WebSocket-Key", base64.StdEncoding.EncodeToString([]byte("0123456789abcdef"))}, {"Sec-WebSocket-Protocol", u.protocols}}
	for _, h := range u.header {
		at := -1
		for i := range header {
			if header[i][0] == h[0] {
				at = i
			}
		}
		if at < 0 {
			header = append(header, h)
		} else {
			header[at] = h
		}
	}
	req := "GET /ws" + u.query + " HTTP/1.1\r\n"
	for _, h := range header {
		if h[1] != "" {
			req += h[0] + ": " + h[1] + "\r\n"
		}
	}
	if _, err := nc.Write(append([]byte(req+"\r\n"), u.behind...)); err != nil {
		return nil, nil, err
	}
	br := bufio.NewReader(nc)
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(br, &http.Request{Method: "GET"})
	if err != nil {
		return nil, nil, fmt.Errorf("reading the answer: %w", err)
	}
	return &peer{nc: nc, r: br, json: resp.Header.Get("Sec-WebSocket-Protocol") == ws.JSON}, resp, nil
}

// open returns a WebSocket.
func (s *server) open(u upgrade) *peer {
	s.t.Helper()
	p, resp := s.dial(u)
	if resp.StatusCode != 101 {
		b, _ := io.ReadAll(resp.Body)
		s.t.Fatalf("%s: %s", resp.Status, b)
	}
	return p
}

// peer is a WebSocket as a client has it. As a conntest.Wire it writes binary messages and
// reads the payloads of those that come; pings and the close are answered by itself.
type peer struct {
	nc   net.Conn
	r    *bufio.Reader
	json bool
	rest []byte

	status int    // of the close frame that came
	reason string // in it
}

// mask is what a client's frames are masked with.
var mask = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// raw returns a client's frame; first is the byte with FIN, reserved bits and opcode.
func raw(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, mask[:]...)
	for i, x := range payload {
		b = append(b, x^mask[i&3])
	}
	return b
}

func (p *peer) Write(b []byte) (int, error) {
	if _, err := p.nc.Write(raw(0x82, b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// text sends one text message.
func (p *peer) text(format string, args ...any) error {
	_, err := p.nc.Write(raw(0x81, fmt.Appendf(nil, format, args...)))
	return err
}

func (p *peer) SetReadDeadline(t time.Time) error { return p.nc.SetReadDeadline(t) }
func (p *peer) Close() error                      { return p.nc.Close() }

// frame reads one frame as it comes.
func (p *peer) frame() (first byte, payload []byte, err error) {
	var h [8]byte
	if _, err := io.ReadFull(p.r, h[:2]); err != nil {
		return 0, nil, err
	}
	first = h[0]
	size := uint64(h[1])
	switch h[1] {
	case 126:
		_, err = io.ReadFull(p.r, h[:2])
		size = uint64(binary.BigEndian.Uint16(h[:]))
	case 127:
		_, err = io.ReadFull(p.r, h[:])
		size = binary.BigEndian.Uint64(h[:])
	}
	if err != nil || size > 1<<28 {
		return 0, nil, fmt.Errorf("a frame of %d bytes: %v", size, err)
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(p.r, payload)
	return first, payload, err
}

var errFrame = errors.New("a server sends no such frame")

// message reads the next message, and answers what comes before it. io.EOF: the WebSocket was closed.
func (p *peer) message() ([]byte, error) {
	for {
		first, payload, err := p.frame()
		if err != nil {
			return nil, err
		}
		want := byte(0x82)
		if p.json {
			want = 0x81
		}
		switch first {
		case want:
			return payload, nil
		case 0x89:
			_, err = p.nc.Write(raw(0x8A, payload))
		case 0x8A:
		case 0x88:
			p.status = 1005
			if len(payload) >= 2 {
				p.status, p.reason = int(binary.BigEndian.Uint16(payload)), string(payload[2:])
			}
			_, _ = p.nc.Write(raw(0x88, payload))
			if _, err := p.r.ReadByte(); err == nil {
				return nil, fmt.Errorf("after the close: %w", errFrame)
			}
			return nil, io.EOF
		default:
			err = fmt.Errorf("%#x: %w", first, errFrame)
		}
		if err != nil {
			return nil, err
		}
	}
}

func (p *peer) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		m, err := p.message()
		if err != nil {
			return 0, err
		}
		p.rest = m
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// client returns a scripted client over a binary WebSocket.
func (s *server) client(u upgrade) *conntest.Client { return &conntest.Client{W: s.open(u)} }

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
