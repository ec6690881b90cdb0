package admin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

type rig struct {
	*Server
	t      *testing.T
	path   string
	client *http.Client
	ended  chan error
}

func start(t *testing.T, path string, change ...func(*Config)) *rig {
	t.Helper()
	cfg := Config{Path: path}
	for _, f := range change {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Server: s, t: t, path: path, ended: make(chan error, 1)}
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}
	r.client = &http.Client{Transport: tr}
	go func() { r.ended <- s.Run(context.Background()) }()
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		_ = s.Close()
		if err := <-r.ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func (r *rig) do(method, path, body string) (int, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://gochat"+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

func TestRoutes(t *testing.T) {
	var (
		level slog.LevelVar
		out   bytes.Buffer
		mu    sync.Mutex
	)
	r := start(t, filepath.Join(t.TempDir(), "a.sock"), func(c *Config) {
		c.Level = &level
		c.Logger = slog.New(slog.NewTextHandler(writer(func(p []byte) { mu.Lock(); out.Write(p); mu.Unlock() }), nil))
		c.Stats = func() any { return map[string]int{"connections": 7} }
		c.Routes = map[string]http.HandlerFunc{"POST /gc/x": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "done") }}
	})
	st, err := os.Lstat(r.path)
	if err != nil || st.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket is %v, %v", st.Mode(), err)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"GET", "/debug/vars", "", 200, `"connections": 7`},
		{"GET", "/debug/pprof/", "", 200, "goroutine"},
		{"GET", "/debug/pprof/goroutine?debug=1", "", 200, "goroutine profile"},
		{"GET", "/debug/pprof/cmdline", "", 200, "admin"},
		{"GET", "/gc/log-level", "", 200, `{"level":"INFO"}`},
		{"POST", "/gc/log-level", `{"level":"debug"}`, 200, `{"level":"DEBUG"}`},
		{"GET", "/gc/log-level", "", 200, `{"level":"DEBUG"}`},
		{"POST", "/gc/log-level", `{"level":"loud"}`, 400, "the levels are"},
		{"POST", "/gc/log-level", `{"lvl":"debug"}`, 400, "the levels are"},
		{"POST", "/gc/log-level", ``, 400, "the levels are"},
		{"POST", "/gc/log-level", `{"level":"` + strings.Repeat("x", 2000) + `"}`, 400, "the levels are"},
		{"POST", "/gc/x", "", 200, "done"},
		{"GET", "/gc/x", "", 405, ""},
		{"GET", "/nothing", "", 404, ""},
		{"DELETE", "/gc/log-level", "", 405, ""},
	} {
		if status, body := r.do(c.method, c.path, c.body); status != c.status || !strings.Contains(body, c.want) {
			t.Errorf("%s %s %.40s: %d %q, want %d %q", c.method, c.path, c.body, status, body, c.status, c.want)
		}
	}
	if level.Level() != slog.LevelDebug {
		t.Errorf("the level is %s", level.Level())
	}
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(out.String(), "log level changed") {
		t.Errorf("the log says %q", out.String())
	}
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

func TestLittleConfig(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "a.sock"))
	for _, m := range []string{"GET", "POST"} {
		if status, _ := r.do(m, "/gc/log-level", `{"level":"debug"}`); status != 404 {
			t.Errorf("%s: %d", m, status)
		}
	}
	if status, body := r.do("GET", "/debug/vars", ""); status != 200 || body != "{}\n" {
		t.Errorf("%d %q", status, body)
	}
	bad := start(t, filepath.Join(t.TempDir(), "a.sock"), func(c *Config) { c.Stats = func() any { return func() {} } })
	if status, _ := bad.do("GET", "/debug/vars", ""); status != 500 {
		t.Errorf("stats that can't be shown: %d", status)
	}
}

func TestTheSocketsPlace(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no path was taken")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "a.sock")
	if _, err := New(Config{Path: filepath.Join(dir, "nowhere", "a.sock")}); err == nil {
		t.Error("a directory that isn't there was taken")
	}
	if _, err := New(Config{Path: filepath.Join(dir, strings.Repeat("x", 200))}); err == nil {
		t.Error("a path that is too long was taken")
	}
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Path: path}); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("in the place of a file: %v", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "x" {
		t.Errorf("the file now: %q, %v", b, err)
	}
	os.Remove(path)

	// What a dead server left is replaced; a living one isn't.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	if _, err := os.Lstat(path); err != nil {
		t.Fatal(err)
	}
	r := start(t, path)
	if status, _ := r.do("GET", "/debug/vars", ""); status != 200 {
		t.Error(status)
	}
	if _, err := New(Config{Path: path}); err == nil || !strings.Contains(err.Error(), "another server") {
		t.Errorf("beside a living server: %v", err)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 1 {
		t.Errorf("%d files are left beside the socket", len(entries)-1)
	}

	if err := r.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after the shutdown: %v", err)
	}
	// One that ends late doesn't remove its successor's socket.
	late, err := New(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	next := start(t, path)
	if err := late.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if status, _ := next.do("GET", "/debug/vars", ""); status != 200 {
		t.Error(status)
	}
}

// A request that doesn't end is cut off when the patience does; the end of Run's context ends everything.
func TestEnds(t *testing.T) {
	inside := make(chan struct{}, 1)
	r := start(t, filepath.Join(t.TempDir(), "a.sock"), func(c *Config) {
		c.Routes = map[string]http.HandlerFunc{"GET /wait": func(_ http.ResponseWriter, q *http.Request) {
			inside <- struct{}{}
			<-q.Context().Done()
		}}
	})
	got := make(chan error, 1)
	go func() {
		resp, err := r.client.Get("http://gochat/wait")
		if err == nil {
			resp.Body.Close()
		}
		got <- err
	}()
	<-inside
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-got; err == nil {
		t.Error("the request was answered")
	}

	path := filepath.Join(t.TempDir(), "b.sock")
	s, err := New(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("after the end: %v", err)
	}
}
