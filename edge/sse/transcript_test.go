package sse_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/hub/hubtest"
	"github.com/gochat-im/gochat/edge/sse"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

const connectText = `{"type": "connect", "req_id": 1, "data": {"version": 1, "device_id": "tab", "device_kind": "web", "token": "user:%s"}}`

// says wants the next packet to be of a type, and returns its text.
func (p *peer) says(kind string) string {
	p.s.t.Helper()
	text, err := p.message()
	var v struct{ Type string }
	if err != nil || json.Unmarshal([]byte(text), &v) != nil || v.Type != kind {
		p.s.t.Fatalf("got %s, %v, want %q", text, err, kind)
	}
	return text
}

// ends wants the event close, with this in it, and the end of the stream.
func (p *peer) ends(want string) {
	p.s.t.Helper()
	if text, err := p.message(); err != io.EOF || p.closing != want {
		p.s.t.Fatalf("got %q, %v, closed with %q, want %q", text, err, p.closing, want)
	}
	p.Close()
}

func (p *peer) wants(status int, key string, seq uint64, body string, header ...string) {
	p.s.t.Helper()
	if got, answer := p.post(key, seq, []byte(body), header...); got != status {
		p.s.t.Fatalf("body %d %q: %d %s, want %d", seq, body, got, answer, status)
	}
}

func (s *server) gone() {
	s.t.Helper()
	eventually(s.t, "the end of all streams", func() bool { return s.hub.Count() == 0 })
}

func TestJSON(t *testing.T) {
	s := start(t, hub.Config{})
	p := s.open("?token=user:alice") // JSON unless it is said otherwise
	p.wants(204, p.key, 1, `{"type": "connect", "data": {"version": 1, "device_id": "tab"}}`)
	if text := p.says("connack"); !strings.Contains(text, `"alice"`) {
		t.Fatalf("CONNACK %s: the token of the request didn't count", text)
	}
	p.wants(204, p.key, 2, ` [{"type": "ping", "req_id": 2}, {"type": "ping", "req_id": 3}] `)
	for _, want := range []string{`"req_id":2`, `"req_id":3`} {
		if text := p.says("pong"); !strings.Contains(strings.ReplaceAll(text, " ", ""), want) {
			t.Fatalf("got %s, want %s", text, want)
		}
	}
	p.wants(204, p.key, 3, `[]`)
	p.wants(204, p.key, 4, `{"type": "send", "req_id": 4, "data": {"receiver_id": 7}}`) // what can't be a frame is answered
	p.says("error")
	p.wants(415, p.key, 5, `{}`, "Content-Type", "text/plain") // the body wasn't taken
	p.wants(204, p.key, 5, `{"type": "ping"}`)
	p.says("pong")
	p.wants(204, p.key, 6, `[{"type": "ping"}, 7]`)
	p.says("pong")
	p.says("error")
	p.ends(`{"code": 4000, "reason": "bad_frame"}`)
	p.wants(410, p.key, 7, `{"type": "ping"}`)
	s.gone()
}

func TestWrongJSON(t *testing.T) {
	s := start(t, hub.Config{})
	for body, want := range map[string]string{
		"":                          `{"code": 4000, "reason": "bad_frame"}`,
		"[":                         `{"code": 4000, "reason": "bad_frame"}`,
		`[] []`:                     `{"code": 4000, "reason": "bad_frame"}`,
		"{\"type\": \"ping\xff\"}":  `{"code": 4041, "reason": "invalid_utf8"}`,
		`{"type": "ping"}`:          `{"code": 4002, "reason": "not_connected"}`,
		strings.Repeat(" ", 17<<10): `{"code": 4001, "reason": "frame_too_large"}`,
	} {
		p := s.open("")
		p.wants(204, p.key, 1, body)
		p.says("error")
		p.ends(want)
	}
	s.gone()
}

// Bodies act once and in order, whatever becomes of their answers.
func TestOrderAndRepeats(t *testing.T) {
	s := start(t, hub.Config{})
	c, p := s.login("alice")
	send := func(seq uint64, want int) {
		t.Helper()
		p.wants(want, p.key, seq, string(conntest.Send(uint32(seq), 0, "bob", seq, fmt.Sprintf("text %d", seq))))
	}
	send(3, 409) // body 2 is lost on its way
	send(2, 204)
	send(2, 204) // its answer was
	send(3, 204)
	send(2, 204)
	send(1, 204)
	s.expect(c, "SENDACK #2 seq 1", "SENDACK #3 seq 2")
	send(5, 409)
	send(4, 204)
	s.expect(c, "SENDACK #4 seq 3")
	for _, seq := range []string{"", "?seq=", "?seq=0", "?seq=-1", "?seq=x", "?seq=99999999999999999999"} {
		resp, err := http.Post(p.url+p.key+seq, "application/octet-stream", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Fatalf("%q: %s", seq, resp.Status)
		}
	}
}

// The same body many times at once acts once, and so many at once wait for nobody.
func TestRepeatsAtOnce(t *testing.T) {
	s := start(t, hub.Config{})
	c, p := s.login("alice")
	body := conntest.Send(2, 0, "bob", 2, "once")
	var wg sync.WaitGroup
	var mu sync.Mutex
	answers := map[int]int{}
	for range 32 {
		wg.Go(func() {
			status, _, err := p.tryPost(p.key, 2, body)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			answers[status]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if answers[204] == 0 || answers[204]+answers[429] != 32 {
		t.Fatalf("answers %v", answers)
	}
	p.wants(204, p.key, 3, string(frame.Append(nil, frame.Ping, 0, 0, nil)))
	s.expect(c, "SENDACK #2 seq 1", "PONG")
}

func TestKeys(t *testing.T) {
	s := start(t, hub.Config{}, func(c *api.Config, _ *sse.Config) { c.ForgedPerMinute = 20 })
	a, alice := s.login("alice")
	b, bob := s.login("bob")
	ping := string(frame.Append(nil, frame.Ping, 0, 0, nil))
	if alice.key == bob.key || alice.key[16:] == bob.key[16:] {
		t.Fatal("two streams have one secret")
	}
	flip := byte('A')
	if alice.key[31] == 'A' {
		flip = 'B'
	}
	for name, key := range map[string]string{
		"of nobody":                       strings.Repeat("A", 32),
		"alice's stream, bob's secret":    alice.key[:11] + bob.key[11:],
		"a character else":                alice.key[:31] + string(flip),
		"cut":                             alice.key[:31],
		"longer":                          alice.key + "A",
		"no base64":                       strings.Repeat("!", 32),
		"alice's secret, nobody's stream": strings.Repeat("A", 10) + alice.key[10:],
	} {
		if status, answer := bob.post(key, 2, []byte(ping)); status != 410 {
			t.Fatalf("%s: %d %s", name, status, answer)
		}
	}
	for i := 0; ; i++ { // who goes on guessing has to wait
		status, _ := bob.post(strings.Repeat("A", 32), 2, []byte(ping))
		if status == 429 {
			break
		}
		if status != 410 || i == 30 {
			t.Fatalf("guess %d: %d", i, status)
		}
	}
	// Nobody who has a stream has to.
	alice.wants(204, alice.key, 2, ping)
	s.expect(a, "PONG")
	bob.wants(204, bob.key, 2, ping)
	s.expect(b, "PONG")
	if log := s.log.String(); strings.Contains(log, alice.key) || strings.Contains(log, bob.key) {
		t.Error("a key is in the log")
	}
}

func TestDoor(t *testing.T) {
	s := start(t, hub.Config{})
	for name, c := range map[string]struct {
		query  string
		header []string
		want   int
	}{
		"no page":             {"", nil, 200},
		"another protocol":    {"?protocol=gochat.v9", nil, 400},
		"a page of elsewhere": {"", []string{"Origin: https://evil.example"}, 403},
		"a page of the host":  {"", []string{"Origin: http://" + s.addr}, 200},
		"a friend's page":     {"", []string{"Origin: https://friend.example"}, 200},
		"a long token":        {"?token=" + strings.Repeat("x", 5000), nil, 401},
	} {
		p, resp := s.ask(c.query, c.header...)
		if resp.StatusCode != c.want {
			t.Errorf("%s: %s", name, resp.Status)
		}
		if p != nil {
			if h := resp.Header; h.Get("Content-Type") != "text/event-stream" || !strings.Contains(h.Get("Cache-Control"), "no-store") ||
				h.Get("X-Accel-Buffering") != "no" || h.Get("X-Request-ID") == "" {
				t.Errorf("%s: headers %v", name, h)
			}
			if strings.Contains(name, "friend") && resp.Header.Get("Access-Control-Allow-Origin") != "https://friend.example" {
				t.Errorf("%s: headers %v", name, resp.Header)
			}
			p.wants(403, p.key, 1, `{"type": "ping"}`, "Origin", "https://evil.example")
			p.Close()
		}
	}
	resp, err := http.NewRequest("GET", "http://"+s.addr+"/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Header.Set("Accept", "text/html")
	if r, err := http.DefaultClient.Do(resp); err != nil || r.StatusCode != 406 {
		t.Errorf("text/html: %v, %v", r, err)
	}
	s.gone()
}

// A client or a proxy of HTTP/1.0, which ends the connection after each answer, has its stream.
func TestHTTP10(t *testing.T) {
	s := start(t, hub.Config{})
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	fmt.Fprintf(nc, "GET /events HTTP/1.0\r\nHost: %s\r\nConnection: close\r\n\r\n", s.addr)
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	p := &peer{s: s, nc: nc, r: bufio.NewReader(resp.Body), json: true, up: http.DefaultClient, url: "http://" + s.addr + "/events/"}
	if name, data, err := p.event(); name != "open" || err != nil {
		t.Fatalf("%q, %v", name, err)
	} else {
		p.key = strings.Trim(strings.TrimPrefix(data, `{"key": `), `"}`)
	}
	p.wants(204, p.key, 1, fmt.Sprintf(connectText, "old"))
	p.says("connack")
}

func TestDrain(t *testing.T) {
	s := start(t, hub.Config{DrainJitter: time.Second})
	p := s.open("")
	p.wants(204, p.key, 1, fmt.Sprintf(connectText, "alice"))
	p.says("connack")
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.hub.Shutdown(ctx) }()
	p.says("drain")
	p.says("error")
	p.ends(`{"code": 1012, "reason": "draining"}`)
	hubtest.Left(t, s.hub, <-done)
}

// Who comes to an edge that leaves is told where else to go, in whatever form, and holds nobody up.
func TestTurnedAway(t *testing.T) {
	s := start(t, hub.Config{Alternatives: []string{"10.0.0.2:8080"}})
	leave := func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if err := s.hub.Leave(ctx, hub.Elsewhere{Sockets: []string{"10.0.0.3:7070"}, Web: []string{"10.0.0.3:8080"}}); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	p := s.open("")
	if text := p.says("drain"); !strings.Contains(text, `"deadline_ms":0,"alternatives":["10.0.0.2:8080","10.0.0.3:8080"]`) {
		t.Fatalf("got %s", text)
	}
	if text := p.says("error"); !strings.Contains(text, `"draining"`) || !strings.Contains(text, `"retry_after_ms"`) {
		t.Fatalf("got %s", text)
	}
	p.ends(`{"code": 1012, "reason": "draining"}`)
	p.wants(410, p.key, 1, fmt.Sprintf(connectText, "alice"))
	c, q := s.client()
	s.expect(c, "DRAIN", "ERROR draining", "end: EOF")
	if q.closing != `{"code": 1012, "reason": "draining"}` {
		t.Fatalf("closed with %s", q.closing)
	}
	leave() // they are nobody's to wait for
	if n, st := s.hub.Count(), s.sse.Stats(); n != 0 || st.Opened != 0 || st.Refused != 2 {
		t.Fatalf("%d connections, %+v", n, st)
	}
	s.hub.Stay()
	s.login("alice")
}

// The stream that is cut ends the connection, whatever its bodies do.
func TestKill(t *testing.T) {
	s := start(t, hub.Config{Conn: conn.Config{CallTimeout: 300 * time.Millisecond}})
	c, p := s.login("alice")
	s.svc.Block.Store(true) // services answer nothing any more
	posted := make(chan int, 1)
	go func() {
		status, _, _ := p.tryPost(p.key, 2, conntest.Request(2, 1, &wire.HistoryRequest{}))
		posted <- status
	}()
	_ = p.tcp.SetLinger(0)
	_ = p.nc.Close()
	<-posted
	s.svc.Block.Store(false)
	s.gone()
	p.wants(410, p.key, 3, "")
	if _, err := c.Next(patience); err == nil {
		t.Fatal("a frame of a stream that was cut")
	}
	b, q := s.login("bob")
	if n := s.hub.CloseUserUntil("bob", "tab", time.Now(), code.New(code.SessionRevoked)); n != 1 {
		t.Fatalf("closed %d", n)
	}
	s.expect(b, "KICK session_revoked", "end: EOF")
	if want := `{"code": 4008, "reason": "session_revoked"}`; q.closing != want {
		t.Fatalf("closed with %q, want %q", q.closing, want)
	}
	q.Close()
	s.gone()
}

func TestKeepAlive(t *testing.T) {
	s := start(t, hub.Config{}, func(_ *api.Config, c *sse.Config) {
		c.KeepAlive = 10 * time.Millisecond
	})
	c, p := s.login("alice")
	go func() {
		eventually(t, "three comments", func() bool { s.sse.KeepAlive(time.Now()); return s.sse.Stats().Comments >= 3 })
		s.hub.CloseUserUntil("alice", "", time.Now(), code.New(code.SessionRevoked))
	}()
	s.expect(c, "KICK session_revoked", "end: EOF")
	if p.comments < 3 {
		t.Fatalf("%d comments", p.comments)
	}
}

// A body that doesn't end, and what comes behind the request, hold nothing up.
func TestHostileRequests(t *testing.T) {
	s := start(t, hub.Config{}, func(a *api.Config, _ *sse.Config) { a.ReadTimeout = 3 * time.Second })
	c, p := s.login("alice")
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	fmt.Fprintf(nc, "POST /events/%s?seq=2 HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000\r\n\r\n", p.key)
	p.wants(204, p.key, 2, string(frame.Append(nil, frame.Ping, 0, 0, nil)))
	s.expect(c, "PONG")
	_ = nc.SetReadDeadline(time.Now().Add(patience))
	if resp, err := http.ReadResponse(bufio.NewReader(nc), nil); err == nil && resp.StatusCode != 408 {
		t.Fatalf("a body without end: %s", resp.Status)
	}
	p.wants(413, p.key, 3, strings.Repeat("x", 200<<10))
	p.wants(204, p.key, 3, string(frame.Append(nil, frame.Ping, 0, 0, nil)))
	s.expect(c, "PONG")
	if _, err := p.nc.Write(bytes.Repeat([]byte("GET / HTTP/1.1\r\n"), 1000)); err != nil {
		t.Fatal(err)
	}
	s.gone()
}

// A client that sends more than it may is closed as on every transport, though its bodies say nothing new.
func TestFlood(t *testing.T) {
	s := start(t, hub.Config{Conn: conn.Config{SendsPerSecond: 1, FramesPerSecond: 5}})
	c, p := s.login("alice")
	for i := 0; ; i++ {
		status, answer := p.post(p.key, 1, nil)
		if status == 410 {
			break
		}
		if status != 204 || i == 5000 {
			t.Fatalf("repeat %d: %d %s", i, status, answer)
		}
	}
	s.expect(c, "ERROR flooding", "end: EOF")
}

func TestTLS(t *testing.T) {
	web := httptest.NewTLSServer(nil)
	defer web.Close()
	s := start(t, hub.Config{}, func(a *api.Config, _ *sse.Config) {
		a.TLS = &tls.Config{Certificates: web.TLS.Certificates, MinVersion: tls.VersionTLS12}
	})
	s.tls = &tls.Config{InsecureSkipVerify: true}
	c, p := s.login("alice")
	text := strings.Repeat("x", 8000)
	p.wants(204, p.key, 2, string(conntest.Send(2, 0, "alice", 2, text)))
	s.expect(c, "SENDACK #2 seq 1")
	s.hub.CloseUserUntil("alice", "", time.Now(), code.New(code.Banned))
	s.expect(c, "KICK banned", "end: EOF")
}

func TestConfig(t *testing.T) {
	if err := (sse.Config{KeepAlive: -1}).Validate(); err == nil || strings.Count(err.Error(), "sse:") != 3 {
		t.Fatalf("%v", err)
	}
	s := start(t, hub.Config{Connections: 1})
	s.open("")
	p, resp := s.ask("")
	var r auth.Refused
	if p != nil || json.NewDecoder(resp.Body).Decode(&r) != nil || code.Code(r.Error.Code) != code.TooManyConnections {
		t.Fatalf("%s %v", resp.Status, r)
	}
	if st := s.sse.Stats(); st.Opened != 1 || st.Refused != 1 {
		t.Fatalf("%+v", st)
	}
}
