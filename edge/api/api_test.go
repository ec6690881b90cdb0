package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/account"
)

// rig is a listening server on a real account service.
type rig struct {
	*Server
	t        *testing.T
	url      string
	accounts *account.Service
	log      *logBuffer
	ended    chan error
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	keys, err := account.LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, log: new(logBuffer), ended: make(chan error, 1)}
	logger := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.accounts, err = account.New(account.Config{
		Store: memory.New(memory.Config{}), Crypt: keys, Argon: account.Argon{KiB: 64, Passes: 1, Lanes: 1},
		HashesWaiting: 1000, HashWait: time.Minute, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.accounts.Close)
	cfg := Config{Listen: "127.0.0.1:0", Accounts: r.accounts, AuthPerMinute: -1, Logger: logger}
	for _, f := range change {
		f(&cfg)
	}
	if r.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	r.url = "http://" + r.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	r.wait()
	return r
}

// wait waits until the server answers.
func (r *rig) wait() {
	r.t.Helper()
	for {
		resp, err := http.Get(r.url + "/healthz")
		if err == nil {
			resp.Body.Close()
			return
		}
		if r.cfg.TLS != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			return // it answers, though not to this
		}
	}
}

func (r *rig) do(method, path, contentType, body string, header ...string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, string(b)
}

const jsonType = "application/json"

// post posts v and wants a success of which the body is out.
func (r *rig) post(path string, v, out any, header ...string) {
	r.t.Helper()
	b, _ := json.Marshal(v)
	resp, body := r.do("POST", "/api/v1/auth/"+path, jsonType, string(b), header...)
	if resp.StatusCode != 200 {
		r.t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
	}
	if err := json.Unmarshal([]byte(body), out); err != nil {
		r.t.Fatalf("%s: %v in %s", path, err, body)
	}
}

// refusal reads the one shape of an error out of an answer.
func (r *rig) refusal(resp *http.Response, body string) auth.Error {
	r.t.Helper()
	var e auth.Refused
	dec := json.NewDecoder(strings.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil || e.Error.Code == 0 || e.Error.Message == "" {
		r.t.Errorf("%d with the body %q isn't the one shape of an error: %v", resp.StatusCode, body, err)
	}
	if ct := resp.Header.Get("Content-Type"); ct != jsonType {
		r.t.Errorf("%d with content type %q", resp.StatusCode, ct)
	}
	if id := resp.Header.Get("X-Request-ID"); id == "" || id != e.Error.RequestID {
		r.t.Errorf("%d with request ids %q and %q", resp.StatusCode, id, e.Error.RequestID)
	}
	return e.Error
}

func TestTheWholeWay(t *testing.T) {
	r := newRig(t)
	cred := auth.Credentials{Name: "alice", Password: "correct horse", DeviceID: "phone", DeviceKind: 1}
	var g, g2, g3 auth.Grant
	r.post("register", cred, &g)
	if g.UserID != "alice" || g.DeviceID != "phone" || g.AccessToken == "" || g.RefreshToken == "" {
		t.Errorf("registered %+v", g)
	}
	r.post("refresh", auth.Refresh{RefreshToken: g.RefreshToken}, &g2)
	if _, err := r.accounts.VerifyAccess(t.Context(), g2.AccessToken); err != nil {
		t.Error(err)
	}
	cred.DeviceID = ""
	r.post("login", cred, &g3)
	r.post("password", auth.Password{Old: "correct horse", New: "battery staple"}, &struct{}{}, "Authorization", "Bearer "+g2.AccessToken)
	if _, err := r.accounts.VerifyAccess(t.Context(), g3.AccessToken); err == nil {
		t.Error("the other device is still signed in")
	}
	r.post("logout", auth.Logout{RefreshToken: g2.RefreshToken}, &struct{}{})
	if _, err := r.accounts.VerifyAccess(t.Context(), g2.AccessToken); err == nil {
		t.Error("the device is still signed in")
	}
	for _, secret := range []string{"correct horse", "battery staple", g.AccessToken, g.RefreshToken, g2.RefreshToken, g3.AccessToken} {
		if strings.Contains(r.log.String(), secret) {
			t.Errorf("%.12q... was logged", secret)
		}
	}
}

// A device's kind is a number, or the name that it has in a frame's JSON form.
func TestDeviceKinds(t *testing.T) {
	r := newRig(t)
	for i, c := range []struct{ kind, refused string }{
		{"1", ""}, {"0", ""}, {"5", ""}, {"200", ""}, {"70000", ""}, {`"phone"`, ""}, {`"unknown"`, ""}, {`"toaster"`, ""}, {`"\u0070hone"`, ""}, {"null", ""},
		{"-1", "bad_request"}, {"1.5", "bad_request"}, {"4294967296", "bad_request"}, {"true", "bad_request"}, {"[]", "bad_request"}, {"{}", "bad_request"},
	} {
		body := fmt.Sprintf(`{"name":"user%d","password":"correct horse","device_kind":%s}`, i, c.kind)
		resp, answer := r.do("POST", "/api/v1/auth/register", jsonType, body)
		if got := resp.StatusCode == 200; got != (c.refused == "") {
			t.Errorf("%s: %d %s", c.kind, resp.StatusCode, answer)
		}
		if c.refused != "" && r.refusal(resp, answer).Name != c.refused {
			t.Errorf("%s: %s", c.kind, answer)
		}
	}
}

func TestRefusals(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Ready = func(context.Context) error { return errors.New("the store is away") } })
	var g auth.Grant
	r.post("register", auth.Credentials{Name: "alice", Password: "correct horse", DeviceID: "phone"}, &g)
	cred := `{"name":"alice","password":"correct horse"}`
	for _, c := range []struct {
		what, method, path, contentType, body string
		status                                int
		code                                  code.Code
		header                                []string
	}{
		{"name taken", "POST", "register", jsonType, cred, 409, code.NameTaken, nil},
		{"wrong password", "POST", "login", jsonType, `{"name":"alice","password":"wrong horse"}`, 401, code.BadCredentials, nil},
		{"unknown name", "POST", "login", jsonType, `{"name":"bob","password":"wrong horse"}`, 401, code.BadCredentials, nil},
		{"charset", "POST", "login", "application/json; charset=UTF-8", `{"name":"bob","password":"wrong horse"}`, 401, code.BadCredentials, nil},
		{"short password", "POST", "register", jsonType, `{"name":"bob","password":"short"}`, 400, code.BadRequest, nil},
		{"bad refresh token", "POST", "refresh", jsonType, `{"refresh_token":"x"}`, 401, code.Unauthenticated, nil},
		{"bad refresh token", "POST", "logout", jsonType, `{"refresh_token":"x"}`, 401, code.Unauthenticated, nil},
		{"no bearer", "POST", "password", jsonType, `{"old_password":"a","new_password":"b"}`, 401, code.Unauthenticated, nil},
		{"another scheme", "POST", "password", jsonType, `{}`, 401, code.Unauthenticated, []string{"Authorization", "Basic eDp4"}},
		{"a bad bearer", "POST", "password", jsonType, `{}`, 401, code.Unauthenticated, []string{"Authorization", "bearer xyz"}},
		{"a bad old password", "POST", "password", jsonType, `{"old_password":"wrong horse","new_password":"battery staple"}`, 401, code.BadCredentials, []string{"Authorization", "Bearer " + g.AccessToken}},

		{"no content type", "POST", "login", "", cred, 415, code.BadRequest, nil},
		{"a form", "POST", "login", "application/x-www-form-urlencoded", "name=alice", 415, code.BadRequest, nil},
		{"another charset", "POST", "login", "application/json; charset=latin1", cred, 415, code.BadRequest, nil},
		{"multipart", "POST", "login", "multipart/form-data; boundary=x", "--x\r\n\r\n--x--\r\n", 415, code.BadRequest, nil},
		{"empty body", "POST", "login", jsonType, "", 400, code.BadRequest, nil},
		{"no JSON", "POST", "login", jsonType, "hello", 400, code.BadRequest, nil},
		{"cut off", "POST", "login", jsonType, `{"name":"alice","passw`, 400, code.BadRequest, nil},
		{"null", "POST", "login", jsonType, `null`, 400, code.BadRequest, nil},
		{"array", "POST", "login", jsonType, `[]`, 400, code.BadRequest, nil},
		{"text", "POST", "login", jsonType, `"x"`, 400, code.BadRequest, nil},
		{"two values", "POST", "login", jsonType, cred + cred, 400, code.BadRequest, nil},
		{"something behind", "POST", "login", jsonType, cred + "x", 400, code.BadRequest, nil},
		{"unknown field", "POST", "login", jsonType, `{"name":"alice","password":"correct horse","admin":true}`, 400, code.BadRequest, nil},
		{"a field in other letters", "POST", "login", jsonType, `{"Name":"alice","password":"correct horse"}`, 400, code.BadRequest, nil},
		{"wrong type", "POST", "login", jsonType, `{"name":1,"password":"correct horse"}`, 400, code.BadRequest, nil},
		{"kind out of range", "POST", "login", jsonType, `{"name":"alice","password":"correct horse","device_kind":4294967296}`, 400, code.BadRequest, nil},
		{"invalid UTF-8", "POST", "login", jsonType, "{\"name\":\"\xff\",\"password\":\"correct horse\"}", 400, code.InvalidUTF8, nil},
		{"a lone surrogate", "POST", "register", jsonType, `{"name":"a\ud800b","password":"correct horse"}`, 400, code.BadRequest, nil},
		{"a control character", "POST", "login", jsonType, "{\"name\":\"a\nb\",\"password\":\"correct horse\"}", 400, code.BadRequest, nil},
		{"an escaped control character", "POST", "register", jsonType, `{"name":"a\u0000b","password":"correct horse"}`, 400, code.BadRequest, nil},
		{"deep nesting", "POST", "login", jsonType, `{"name":` + strings.Repeat("[", 30000) + strings.Repeat("]", 30000) + `}`, 400, code.BadRequest, nil},
		{"too large", "POST", "login", jsonType, `{"name":"` + strings.Repeat("x", 64<<10) + `"}`, 413, code.ContentTooLarge, nil},
		{"far too large", "POST", "login", jsonType, strings.Repeat("x", 384<<10), 413, code.ContentTooLarge, nil},
		{"large headers", "POST", "login", jsonType, cred, 431, code.BadRequest, []string{"X-Large", strings.Repeat("x", 17<<10)}},

		{"another method", "GET", "login", "", "", 405, code.BadRequest, nil},
		{"another method", "PUT", "login", jsonType, cred, 405, code.BadRequest, nil},
		{"no such route", "POST", "nothing", jsonType, cred, 404, code.UnknownMethod, nil},
		{"a slash too many", "POST", "login/", jsonType, cred, 404, code.UnknownMethod, nil},
		{"no such route", "GET", "../../../../etc/passwd", "", "", 404, code.UnknownMethod, nil},
		{"not ready", "GET", "../../../readyz", "", "", 503, code.Unavailable, nil},
		{"no metrics", "GET", "../../../metrics", "", "", 404, code.UnknownMethod, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := *r
			r.t = t
			resp, body := r.do(c.method, "/api/v1/auth/"+c.path, c.contentType, c.body, c.header...)
			e := r.refusal(resp, body)
			if resp.StatusCode != c.status || code.Code(e.Code) != c.code || e.Name != c.code.String() {
				t.Errorf("%d %s, want %d and %s", resp.StatusCode, body, c.status, c.code)
			}
			if s := resp.Header.Get("Server"); s != "" {
				t.Errorf("Server: %s", s)
			}
			if e.RetryAfterMS > 0 != (resp.Header.Get("Retry-After") != "") {
				t.Errorf("retry_after_ms %d, Retry-After %q", e.RetryAfterMS, resp.Header.Get("Retry-After"))
			}
		})
	}
	if l := r.log.String(); strings.Contains(l, "correct horse") || strings.Contains(l, "wrong horse") || strings.Contains(l, "xxxxxxxx") {
		t.Error("a request was quoted in the log")
	}
}

func TestRequestID(t *testing.T) {
	r := newRig(t)
	for given, kept := range map[string]bool{"abc-1_2.X": true, "": false, "a b": false, "a\"b": false, strings.Repeat("x", 65): false} {
		resp, _ := r.do("GET", "/healthz", "", "", "X-Request-ID", given)
		got := resp.Header.Get("X-Request-ID")
		if kept != (got == given) || len(got) == 0 {
			t.Errorf("%q became %q", given, got)
		}
	}
}

func TestHealthReadyMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	n := prometheus.NewCounter(prometheus.CounterOpts{Name: "gochat_test_total", Help: "x"})
	reg.MustRegister(n)
	n.Inc()
	var (
		mu   sync.Mutex
		seen = make(map[string]int)
	)
	r := newRig(t, func(c *Config) {
		c.Metrics = reg
		c.Observe = func(route string, status int, took time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			seen[fmt.Sprint(route, " ", status)]++
		}
	})
	for path, want := range map[string]string{"/healthz": `{"status":"ok"}`, "/readyz": `{"status":"ready"}`, "/metrics": "gochat_test_total 1"} {
		resp, body := r.do("GET", path, "", "")
		if resp.StatusCode != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 405} {
		if resp, body := r.do("HEAD", path, "", ""); resp.StatusCode != want || body != "" {
			t.Errorf("HEAD %s: %d %q", path, resp.StatusCode, body)
		}
	}
	r.do("GET", "/secret-path", "", "")
	mu.Lock()
	defer mu.Unlock()
	if seen["/readyz 200"] != 2 || seen["/metrics 200"] != 1 || seen[" 404"] != 1 {
		t.Errorf("observed %v", seen)
	}
}

// panics is an account service that fails in the worst way, or never answers.
type panics struct {
	Accounts
	wait chan struct{} // hears when a call waits
	free chan struct{} // ends its waiting; nil: only its context does
}

func (p *panics) Login(ctx context.Context, name, _ string, _ id.DeviceID, _ uint8) (auth.Grant, *code.Error) {
	if name == "wait" {
		p.wait <- struct{}{}
		select {
		case <-ctx.Done():
		case <-p.free:
		}
		return auth.Grant{}, code.New(code.Unavailable)
	}
	panic("no way out")
}

func TestPanicsAndTimeouts(t *testing.T) {
	p := &panics{wait: make(chan struct{}, 1)}
	r := newRig(t, func(c *Config) { p.Accounts = c.Accounts; c.Accounts = p; c.HandlerTimeout = 50 * time.Millisecond })
	for name, want := range map[string]code.Code{"x": code.Internal, "wait": code.Unavailable} {
		resp, body := r.do("POST", "/api/v1/auth/login", jsonType, `{"name":"`+name+`","password":"correct horse"}`)
		if e := r.refusal(resp, body); code.Code(e.Code) != want || resp.StatusCode != want.HTTP() {
			t.Errorf("%s: %d %s", name, resp.StatusCode, body)
		}
	}
	if l := r.log.String(); !strings.Contains(l, "no way out") || strings.Contains(l, "correct horse") {
		t.Errorf("the log says %s", l)
	}
	r.wait()
}

func TestFlood(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.AuthPerMinute = 3
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	})
	try := func(path string, from string) int {
		resp, body := r.do("POST", "/api/v1/auth/"+path, jsonType, `{}`, "X-Forwarded-For", from)
		if resp.StatusCode == 429 {
			e := r.refusal(resp, body)
			if code.Code(e.Code) != code.RateLimited || resp.Header.Get("Retry-After") == "" || e.RetryAfterMS <= 0 || e.RetryAfterMS > 20_000 {
				t.Errorf("429 %s, Retry-After %q", body, resp.Header.Get("Retry-After"))
			}
		}
		return resp.StatusCode
	}
	for i, path := range []string{"register", "login", "refresh"} {
		if got := try(path, "203.0.113.7"); got == 429 {
			t.Errorf("call %d was refused", i)
		}
	}
	for _, path := range []string{"register", "login", "refresh", "password"} {
		// What stands before the address that our proxy wrote is the client's own claim.
		for _, from := range []string{"203.0.113.7", "8.8.8.8, 203.0.113.7", "203.0.113.7, 10.1.2.3", "::ffff:203.0.113.7"} {
			if got := try(path, from); got != 429 {
				t.Errorf("%s from %s: %d", path, from, got)
			}
		}
	}
	if got := try("logout", "203.0.113.7"); got == 429 {
		t.Error("leaving is limited")
	}
	if got := try("login", "203.0.113.8"); got == 429 {
		t.Error("another address is refused")
	}
	for range 3 {
		try("login", "rubbish")
	}
	for _, from := range []string{"rubbish", "", "rubbish, 10.0.0.9"} {
		got := try("login", from)
		if wantRefused := !strings.Contains(from, "10."); (got == 429) != wantRefused {
			t.Errorf("from %q: %d", from, got)
		}
	}
	// Addresses of one /64 are one.
	for i := range 3 {
		try("login", fmt.Sprintf("2001:db8::%d", i))
	}
	if got := try("login", "2001:db8::ffff"); got != 429 {
		t.Errorf("another address of the same network: %d", got)
	}
	if got := try("login", "2001:db8:0:1::1"); got == 429 {
		t.Error("another network is refused")
	}
}

// Without trusted proxies nobody's X-Forwarded-For is believed.
func TestForwardedByAnybody(t *testing.T) {
	r := newRig(t, func(c *Config) { c.AuthPerMinute = 1 })
	r.do("POST", "/api/v1/auth/login", jsonType, `{}`, "X-Forwarded-For", "203.0.113.7")
	if resp, _ := r.do("POST", "/api/v1/auth/login", jsonType, `{}`, "X-Forwarded-For", "203.0.113.8"); resp.StatusCode != 429 {
		t.Errorf("%d", resp.StatusCode)
	}
}

func TestLimiter(t *testing.T) {
	now := time.Unix(1e9, 0)
	l := newLimiter(60, 4)
	a := netip.MustParseAddr
	for i := range 60 {
		if w := l.take(a("10.0.0.1"), now); w != 0 {
			t.Fatalf("call %d waits %s", i, w)
		}
	}
	if w := l.take(a("10.0.0.1"), now); w != time.Second {
		t.Errorf("the next waits %s", w)
	}
	if w := l.take(a("10.0.0.1"), now.Add(time.Second)); w != 0 {
		t.Errorf("a second later it waits %s", w)
	}
	for i := range 1000 {
		l.take(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), now)
		if len(l.table) > 4 {
			t.Fatalf("%d addresses are kept", len(l.table))
		}
	}
	if w := l.take(a("10.9.9.9"), now); w == 0 {
		t.Error("those without a place of their own are unlimited")
	}
	later := now.Add(time.Hour)
	if w := l.take(a("10.9.9.9"), later); w != 0 || len(l.table) != 1 {
		t.Errorf("an hour later it waits %s, and %d addresses are kept", w, len(l.table))
	}
	if w := l.take(a("10.9.9.9"), now); w != 0 {
		t.Error("a clock that went back costs a token")
	}
	if newLimiter(-1, 4).take(a("10.0.0.1"), now) != 0 {
		t.Error("unlimited isn't")
	}
}

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
		"a bad length":      "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
		"an extreme length": "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n",
		"bad chunks":        "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"large chunks":      "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("4000\r\n"+strings.Repeat("x", 0x4000)+"\r\n", 10) + "0\r\n\r\n",
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
