package pages

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/gochat-im/gochat/edge/api"
)

// nobody has an account: pages are for everybody.
type nobody struct{ api.Accounts }

func serve(t *testing.T, files fstest.MapFS) string {
	t.Helper()
	routes, err := Routes(files)
	if err != nil {
		t.Fatal(err)
	}
	s, err := api.New(api.Config{Listen: "127.0.0.1:0", Accounts: nobody{}, Routes: routes})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + s.Addr().String()
}

func TestPages(t *testing.T) {
	long := strings.Repeat("body { color: red }\n", 100)
	base := serve(t, fstest.MapFS{
		"index.html":          {Data: []byte("<!doctype html>")},
		"icon.svg":            {Data: []byte("<svg/>")},
		"assets/a-1f2e3d.css": {Data: []byte(long)},
	})
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	ask := func(method, path string, header ...string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequest(method, base+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		a, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		body, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return a, string(body)
	}
	for _, c := range []struct {
		path, kind, body string
		keep             bool
	}{
		{"/", "text/html; charset=utf-8", "<!doctype html>", false},
		{"/icon.svg", "image/svg+xml", "<svg/>", false},
		{"/assets/a-1f2e3d.css", "text/css; charset=utf-8", long, true},
	} {
		a, body := ask("GET", c.path)
		if a.StatusCode != 200 || a.Header.Get("Content-Type") != c.kind || body != c.body {
			t.Errorf("GET %s: %d %s %.40q", c.path, a.StatusCode, a.Header.Get("Content-Type"), body)
		}
		if !strings.Contains(a.Header.Get("Content-Security-Policy"), "default-src 'none'") || a.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("GET %s: headers %v", c.path, a.Header)
		}
		if keep := strings.Contains(a.Header.Get("Cache-Control"), "immutable"); keep != c.keep {
			t.Errorf("GET %s is kept with %q", c.path, a.Header.Get("Cache-Control"))
		}
		tag := a.Header.Get("ETag")
		if a, body := ask("GET", c.path, "If-None-Match", tag); a.StatusCode != 304 || body != "" {
			t.Errorf("GET %s again: %d %.40q", c.path, a.StatusCode, body)
		}
		if a, body := ask("HEAD", c.path); a.StatusCode != 200 || body != "" {
			t.Errorf("HEAD %s: %d %.40q", c.path, a.StatusCode, body)
		}
	}
	// Compressed where that helps, for who takes it.
	for _, c := range []struct {
		path, accept string
		packed       bool
	}{
		{"/assets/a-1f2e3d.css", "br;q=1, gzip;q=0.5", true},
		{"/assets/a-1f2e3d.css", "gzip;q=0", false},
		{"/icon.svg", "gzip", false},
	} {
		a, body := ask("GET", c.path, "Accept-Encoding", c.accept)
		if packed := a.Header.Get("Content-Encoding") == "gzip"; packed != c.packed || packed == strings.HasPrefix(body, "body") && c.packed {
			t.Errorf("GET %s with %q: %q", c.path, c.accept, a.Header.Get("Content-Encoding"))
		}
	}
	for _, path := range []string{"/index.html", "/assets/", "/assets/b.css", "/../pages.go", "/%2e%2e/pages.go"} {
		if a, _ := ask("GET", path); a.StatusCode != 404 {
			t.Errorf("GET %s: %d, want 404", path, a.StatusCode)
		}
	}
	if a, _ := ask("POST", "/"); a.StatusCode != 404 && a.StatusCode != 405 {
		t.Errorf("POST /: %d", a.StatusCode)
	}
}

func TestAccepts(t *testing.T) {
	for header, want := range map[string]bool{
		"gzip": true, "gzip, br": true, "br;q=1.0, GZIP;q=0.5": true, "": false, "br": false, "gzip;q=0": false, "gzip;q=0.0": false, "gzipped": false,
	} {
		if got := accepts(header, "gzip"); got != want {
			t.Errorf("accepts(%q) = %v", header, got)
		}
	}
}
