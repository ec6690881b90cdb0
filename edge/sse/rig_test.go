package sse_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/hub/hubtest"
	"github.com/gochat-im/gochat/edge/sse"
	"github.com/gochat-im/gochat/edge/ws"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

const patience = time.Minute // how long a test waits for what must come

// server is the HTTP listener with streams over services in memory.
type server struct {
	t    testing.TB
	svc  *conntest.Services
	hub  *hub.Hub
	sse  *sse.Server
	addr string
	tls  *tls.Config // of its clients; nil: plain
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
func start(t testing.TB, hc hub.Config, change ...func(*api.Config, *sse.Config)) *server {
	t.Helper()
	if hc.Conn.Linger == 0 {
		hc.Conn.Linger = time.Second
	}
	s := &server{t: t, svc: conntest.New(), log: new(conntest.Log)}
	logger := slog.New(slog.NewTextHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	hc.Logger = logger
	var err error
	if s.hub, err = hub.New(hc, s.svc.For()); err != nil {
		t.Fatal(err)
	}
	s.svc.Out = s.hub
	pages, err := ws.New(ws.Config{Hub: s.hub, Origins: []string{"https://friend.example"}})
	if err != nil {
		t.Fatal(err)
	}
	cfg := api.Config{Listen: "127.0.0.1:0", Accounts: noAccounts{}, Origins: []string{"https://friend.example"}, Logger: logger, MaxConnsPerIP: 4096}
	sc := sse.Config{Hub: s.hub, Page: pages.Allowed, Logger: logger}
	for _, f := range change {
		f(&cfg, &sc)
	}
	if s.sse, err = sse.New(sc); err != nil {
		t.Fatal(err)
	}
	cfg.Events = s.sse
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

// ask asks for a stream. header are lines of the request beside the usual ones.
func (s *server) ask(query string, header ...string) (*peer, *http.Response) {
	s.t.Helper()
	for tries := 1; ; tries++ {
		p, resp, err := s.try(query, header)
		switch {
		case err == nil:
			return p, resp
		case !conntest.Race || tries == 5: // with the race detector the end of another connection may end this one
			s.t.Fatal(err)
		}
	}
}

func (s *server) try(query string, header []string) (*peer, *http.Response, error) {
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		return nil, nil, err
	}
	p := &peer{s: s, tcp: nc.(*net.TCPConn), nc: nc, json: !strings.Contains(query, "protocol="+sse.Frames) || strings.Contains(query, sse.JSON)}
	scheme := "http"
	if s.tls != nil {
		p.nc, scheme = tls.Client(nc, s.tls), "https"
	}
	p.up = &http.Client{Transport: &http.Transport{TLSClientConfig: s.tls}}
	s.t.Cleanup(func() { p.Close() })
	lines := append([]string{"Host: " + s.addr, "Accept: text/event-stream"}, header...)
	if _, err := fmt.Fprintf(p.nc, "GET /events%s HTTP/1.1\r\n%s\r\n\r\n", query, strings.Join(lines, "\r\n")); err != nil {
		return nil, nil, err
	}
	_ = p.nc.SetReadDeadline(time.Now().Add(patience))
	br := bufio.NewReader(p.nc)
	resp, err := http.ReadResponse(br, &http.Request{Method: "GET"})
	if err != nil {
		return nil, nil, fmt.Errorf("reading the answer: %w", err)
	}
	if resp.StatusCode != 200 {
		return nil, resp, nil
	}
	p.r = bufio.NewReader(resp.Body)
	name, data, err := p.event()
	if err != nil || name != "open" {
		return nil, nil, fmt.Errorf("got %q %q, %v, want the event open", name, data, err)
	}
	var open struct{ Key string }
	if err := json.Unmarshal([]byte(data), &open); err != nil || len(open.Key) != 32 {
		return nil, nil, fmt.Errorf("opened with %q: %v", data, err)
	}
	p.key = open.Key
	p.url = scheme + "://" + s.addr + "/events/"
	return p, resp, nil
}

// open returns a stream.
func (s *server) open(query string, header ...string) *peer {
	s.t.Helper()
	p, resp := s.ask(query, header...)
	if p == nil {
		b, _ := io.ReadAll(resp.Body)
		s.t.Fatalf("%s: %s", resp.Status, b)
	}
	return p
}

// peer is a stream as a client has it. As a conntest.Wire it takes bytes of the stream of frames, cut
// anywhere: in JSON each packet that has a JSON form is a body, and the rest goes through as text.
type peer struct {
	s     *server
	tcp   *net.TCPConn
	nc    net.Conn
	r     *bufio.Reader
	up    *http.Client
	url   string
	key   string
	json  bool
	seq   uint64
	begun []byte // of a frame, in JSON
	rest  []byte // read

	closing  string // data of the event close
	comments int
}

// post sends one body and returns the status of the answer.
func (p *peer) post(key string, seq uint64, body []byte, header ...string) (int, string) {
	p.s.t.Helper()
	status, answer, err := p.tryPost(key, seq, body, header...)
	if err != nil {
		p.s.t.Fatal(err)
	}
	return status, answer
}

func (p *peer) tryPost(key string, seq uint64, body []byte, header ...string) (int, string, error) {
	kind := "application/octet-stream"
	if p.json {
		kind = "application/json"
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", p.url+url.PathEscape(key)+fmt.Sprintf("?seq=%d", seq), bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header.Set("Content-Type", kind)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := p.up.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// next sends the next body. One for a stream that has ended is lost, as on any connection.
func (p *peer) next(body []byte) error {
	p.seq++
	status, answer, err := p.tryPost(p.key, p.seq, body)
	if err == nil && status != 204 && status != 410 {
		err = fmt.Errorf("body %d: %d %s", p.seq, status, answer)
	}
	return err
}

func (p *peer) Write(b []byte) (int, error) {
	if !p.json {
		return len(b), p.next(b)
	}
	p.begun = append(p.begun, b...)
	for {
		f, n, err := frame.Parse(p.begun, frame.HardMax)
		if err != nil || n == 0 {
			return len(b), nil
		}
		text, err := packet.ToJSON(f)
		if err != nil {
			text = fmt.Appendf(nil, `{"type": "type %d", "req_id": %d}`, f.Type, f.ReqID)
		}
		if err := p.next(text); err != nil {
			return 0, err
		}
		p.begun = append([]byte(nil), p.begun[n:]...)
	}
}

func (p *peer) SetReadDeadline(t time.Time) error { return p.nc.SetReadDeadline(t) }

func (p *peer) Close() error {
	p.up.CloseIdleConnections()
	return p.nc.Close()
}

// event reads the next event; comments are counted.
func (p *peer) event() (name, data string, err error) {
	for {
		line, err := p.r.ReadString('\n')
		if err != nil {
			return "", "", err
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "event":
			name = value
		case "data":
			data = value
		case ":":
			p.comments++
		case "":
			if data != "" {
				return name, data, nil
			}
		default:
			return "", "", fmt.Errorf("the line %q", line)
		}
	}
}

// message reads the next packet. io.EOF: the stream was closed.
func (p *peer) message() (string, error) {
	name, data, err := p.event()
	switch {
	case err != nil:
		return "", err
	case name == "close":
		p.closing = data
		if b, err := p.r.ReadByte(); err != io.EOF {
			return "", fmt.Errorf("after the close: %q, %v", b, err)
		}
		return "", io.EOF
	case name != "":
		return "", fmt.Errorf("the event %q", name)
	}
	return data, nil
}

func (p *peer) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		text, err := p.message()
		if err != nil {
			return 0, err
		}
		if p.json {
			p.rest, err = packet.FromJSON([]byte(text))
		} else {
			p.rest, err = base64.StdEncoding.DecodeString(text)
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %w", text, err)
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// client returns a scripted client over frames.
func (s *server) client() (*conntest.Client, *peer) {
	s.t.Helper()
	p := s.open("?protocol=" + sse.Frames)
	return &conntest.Client{W: p}, p
}

func (s *server) login(user string) (*conntest.Client, *peer) {
	s.t.Helper()
	c, p := s.client()
	if _, err := c.Login(user, "tab"); err != nil {
		s.t.Fatal(err)
	}
	return c, p
}

func (s *server) expect(c *conntest.Client, want ...string) {
	s.t.Helper()
	for _, w := range want {
		got := ""
		if f, err := c.Next(patience); err != nil {
			got = "end: " + err.Error()
		} else {
			got = conntest.Describe(&f)
		}
		if got != w {
			s.t.Fatalf("got %q, want %q", got, w)
		}
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
