package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// withRoutes adds routes that answer who asks, and fail in every way.
func withRoutes(c *Config) {
	who := func(_ context.Context, r *Request) (*Answer, error) {
		return &Answer{Body: []byte(`"` + string(r.Caller.User) + r.Caller.Key + r.Param("name") + `"`)}, nil
	}
	c.Identify = func(_ context.Context, access Access, token string, _ id.UserID) (Caller, *code.Error) {
		switch {
		case access == Key && token == "key":
			return Caller{Key: "k1"}, nil
		case access == User && (token == "alice" || token == "bob"):
			return Caller{User: "u-" + "a"}, nil
		case token == "old":
			return Caller{}, code.New(code.TokenExpired)
		}
		return Caller{}, code.New(code.Unauthenticated)
	}
	fails := func(err error) func(context.Context, *Request) (*Answer, error) {
		return func(context.Context, *Request) (*Answer, error) { return nil, err }
	}
	c.Routes = []Route{
		{Method: "GET", Path: "/who", Access: User, Serve: who},
		{Method: "GET", Path: "/key/:name", Access: Key, Serve: who},
		{Method: "GET", Path: "/seldom", Access: Open, PerMinute: 2, Serve: who},
		{Method: "POST", Path: "/body", Access: User, Body: true, Serve: func(_ context.Context, r *Request) (*Answer, error) {
			return &Answer{Status: 201, Type: "text/plain", Body: r.Body(), Header: [][2]string{{"X-Test", r.Header("X-Say")}}}, nil
		}},
		{Method: "GET", Path: "/late", Access: Open, Serve: fails(context.DeadlineExceeded)},
		{Method: "GET", Path: "/broken", Access: Open, Serve: fails(errors.New("a secret of the server's"))},
		{Method: "GET", Path: "/full", Access: Open, Serve: fails(code.New(code.StorageFull))},
		{Method: "GET", Path: "/panic", Access: Open, Serve: func(context.Context, *Request) (*Answer, error) { panic("x") }},
	}
}

func TestRoutes(t *testing.T) {
	r := newRig(t, withRoutes)
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string // of the body; of a refusal its code's name
		header             []string
	}{
		{"GET", "/who", "", 200, `"u-a"`, []string{"Authorization", "Bearer alice"}},
		{"GET", "/who", "{}", 200, `"u-a"`, []string{"Authorization", "Bearer alice"}},
		{"GET", "/who", "{1}", 400, "bad_request", []string{"Authorization", "Bearer alice"}},
		{"GET", "/who", "", 401, "unauthenticated", nil},
		{"GET", "/who", "", 401, "unauthenticated", []string{"Authorization", "Bearer key"}},
		{"GET", "/who", "", 401, "token_expired", []string{"Authorization", "Bearer old"}},
		{"GET", "/key/a%2Fb%20c", "", 200, `"k1a/b c"`, []string{"Authorization", "bearer  key"}},
		{"GET", "/key/x", "", 401, "unauthenticated", []string{"Authorization", "Bearer alice"}},
		{"GET", "/key/x/y", "", 404, "unknown_method", []string{"Authorization", "Bearer key"}},
		{"POST", "/body", `{"a":[1,{"b":2}]}`, 201, `{"a":[1,{"b":2}]}`, []string{"Authorization", "Bearer bob", "X-Say", "hello"}},
		{"POST", "/body", `{"a":1,"a":2}`, 400, "bad_request", []string{"Authorization", "Bearer bob"}},
		{"POST", "/body", `{"a":{"b":[{"c":1,"\u0063":2}]}}`, 400, "bad_request", []string{"Authorization", "Bearer bob"}},
		{"POST", "/body", strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17), 400, "bad_request", []string{"Authorization", "Bearer bob"}},
		{"POST", "/body", `{"a":1} {}`, 400, "bad_request", []string{"Authorization", "Bearer bob"}},
		{"POST", "/body", `{"a":1,}`, 400, "bad_request", []string{"Authorization", "Bearer bob"}},
		{"POST", "/body", `{"a" 1}`, 400, "bad_request", []string{"Authorization", "Bearer bob"}},
		{"GET", "/late", "", 503, "unavailable", nil},
		{"GET", "/broken", "", 500, "internal", nil},
		{"GET", "/full", "", 507, "storage_full", nil},
		{"GET", "/panic", "", 500, "internal", nil},
	} {
		resp, body := r.do(c.method, c.path, jsonType, c.body, c.header...)
		if c.status >= 400 {
			if e := r.refusal(resp, body); e.Name != c.want {
				t.Errorf("%s %s: %s, want %s", c.method, c.path, e.Name, c.want)
			}
			if resp.StatusCode == 401 != (resp.Header.Get("WWW-Authenticate") == "Bearer") {
				t.Errorf("%s %s: %d with the challenge %q", c.method, c.path, resp.StatusCode, resp.Header.Get("WWW-Authenticate"))
			}
			if strings.Contains(body, "secret") {
				t.Errorf("%s %s tells %s", c.method, c.path, body)
			}
		} else if body != c.want {
			t.Errorf("%s %s: %s, want %s", c.method, c.path, body, c.want)
		}
		if resp.StatusCode != c.status {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, resp.StatusCode, body, c.status)
		}
	}
	if strings.Contains(r.log.String(), "Bearer") {
		t.Error("a token was logged")
	}
}

// refusedAfter returns how many requests pass before one is refused as too many.
func (r *rig) refusedAfter(path string, header ...string) int {
	for n := range 100 {
		resp, body := r.do("GET", path, "", "", header...)
		if resp.StatusCode == 429 {
			if e := r.refusal(resp, body); e.Name != "rate_limited" || resp.Header.Get("Retry-After") == "" || e.RetryAfterMS <= 0 {
				r.t.Errorf("%s, Retry-After %q", body, resp.Header.Get("Retry-After"))
			}
			return n
		}
	}
	return -1
}

func TestLimitsOfRoutes(t *testing.T) {
	r := newRig(t, withRoutes, func(c *Config) { c.CallsPerMinute, c.ForgedPerMinute = 5, 3 })
	if n := r.refusedAfter("/seldom"); n != 2 {
		t.Errorf("%d of a route for two", n)
	}
	if n := r.refusedAfter("/who", "Authorization", "Bearer alice"); n != 5 {
		t.Errorf("%d of a user with five", n)
	}
	if n := r.refusedAfter("/who", "Authorization", "Bearer forged"); n != 3 {
		t.Errorf("%d forged tokens", n)
	}
	// Whoever shows forged tokens waits with a good one, too: it isn't looked at.
	if resp, body := r.do("GET", "/key/x", "", "", "Authorization", "Bearer key"); resp.StatusCode != 429 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if n := newRig(t, withRoutes).refusedAfter("/who", "Authorization", "Bearer old"); n != -1 {
		t.Errorf("a token that has expired is taken for a forged one, after %d", n)
	}
}

func TestCORS(t *testing.T) {
	const page = "https://app.example.org"
	for _, c := range []struct {
		what    string
		origins []string
		origin  string
		allowed string
	}{
		{"off", nil, page, ""},
		{"this one", []string{page}, page, page},
		{"another", []string{page}, "https://evil.example.org", ""},
		{"another port", []string{page}, page + ":8443", ""},
		{"a longer name", []string{page}, page + ".evil.org", ""},
		{"null", []string{page}, "null", ""},
		{"all", []string{"*"}, "https://evil.example.org", "*"},
		{"no page", []string{"*"}, "", ""},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := newRig(t, withRoutes, func(cfg *Config) { cfg.Origins = c.origins })
			resp, _ := r.do("GET", "/who", "", "", "Origin", c.origin, "Authorization", "Bearer alice")
			if got := resp.Header.Get("Access-Control-Allow-Origin"); got != c.allowed || resp.Header.Get("Access-Control-Allow-Credentials") != "" {
				t.Errorf("allowed: %q", got)
			}
			if len(c.origins) > 0 && c.origins[0] != "*" && resp.Header.Get("Vary") != "Origin" {
				t.Error("a cache isn't told that the answer depends on the origin")
			}
			resp, _ = r.do("OPTIONS", "/body", "", "", "Origin", c.origin, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization")
			if c.allowed == "" {
				if resp.StatusCode != 405 || resp.Header.Get("Access-Control-Allow-Methods") != "" {
					t.Errorf("a question before a request: %d %v", resp.StatusCode, resp.Header)
				}
				return
			}
			if resp.StatusCode != 204 || !strings.Contains(resp.Header.Get("Access-Control-Allow-Headers"), "Authorization") || !strings.Contains(resp.Header.Get("Access-Control-Allow-Methods"), http.MethodPatch) {
				t.Errorf("a question before a request: %d %v", resp.StatusCode, resp.Header)
			}
		})
	}
}

func TestRoutesConfig(t *testing.T) {
	for what, change := range map[string]func(*Config){
		"nobody tells tokens apart": func(c *Config) { withRoutes(c); c.Identify = nil },
		"an origin with a path":     func(c *Config) { c.Origins = []string{"https://example.org/"} },
		"an origin without scheme":  func(c *Config) { c.Origins = []string{"example.org"} },
	} {
		c := Config{Listen: "127.0.0.1:0", Accounts: new(panics)}
		change(&c)
		if c.Validate() == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}
