package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

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
		{"dots in the path", "GET", "../../../healthz", "", "", 404, code.UnknownMethod, nil},
		{"dots in the path, escaped", "GET", "%2e%2e/%2e%2e/%2e%2e/healthz", "", "", 404, code.UnknownMethod, nil},
		{"a name twice", "POST", "login", jsonType, `{"name":"alice","password":"wrong horse","n\u0061me":"bob"}`, 400, code.BadRequest, nil},
		{"not ready", "GET", "/readyz", "", "", 503, code.Unavailable, nil},
		{"no metrics", "GET", "/metrics", "", "", 404, code.UnknownMethod, nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := *r
			r.t = t
			path := "/api/v1/auth/" + c.path
			if strings.HasPrefix(c.path, "/") {
				path = c.path
			}
			resp, body := r.do(c.method, path, c.contentType, c.body, c.header...)
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
	if resp, _ := r.do("DELETE", "/healthz", "", ""); resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
		t.Errorf("DELETE /healthz: %d, Allow: %q", resp.StatusCode, resp.Header.Get("Allow"))
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
