package api

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/certs"
	"github.com/gochat-im/gochat/edge/certs/certtest"
)

func TestHTTPS(t *testing.T) {
	certFile, keyFile, trust := certtest.Write(t, t.TempDir(), "api")
	source, err := certs.Open(certs.Config{CertFile: certFile, KeyFile: keyFile})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, func(c *Config) { c.TLS, c.ReadTimeout = source.TLS(), time.Second })
	addr := strings.TrimPrefix(strings.TrimPrefix(r.url, "http://"), "https://")
	tr := &http.Transport{TLSClientConfig: trust}
	t.Cleanup(tr.CloseIdleConnections)
	client := &http.Client{Transport: tr, Timeout: 20 * time.Second}
	post := func(path, body string) (int, string) {
		t.Helper()
		res, err := client.Post("https://"+addr+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	// Several requests on one connection, one larger than a record.
	for i := range 3 {
		if status, body := post("/api/v1/auth/register", fmt.Sprintf(`{"name":"user%d","password":"long enough"}`, i)); status != 200 {
			t.Fatalf("registering: %d %s", status, body)
		}
	}
	if status, body := post("/api/v1/auth/login", `{"name":"`+strings.Repeat("x", 40<<10)+`","password":"y"}`); status != 400 {
		t.Errorf("a body of 40 KiB: %d %s", status, body)
	}
	if status, body := post("/api/v1/auth/login", `{"name":"`+strings.Repeat("x", 80<<10)+`"}`); status != 413 || !strings.Contains(body, "content_too_large") {
		t.Errorf("a body that is too large: %d %s", status, body)
	}

	// What isn't TLS is closed, and so is who doesn't come to an end.
	for name, first := range map[string]string{"plain HTTP": "GET /healthz HTTP/1.1\r\n\r\n", "half a record": "\x16\x03\x01\x02\x00\x01"} {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := io.WriteString(nc, first); err != nil {
			t.Fatal(err)
		}
		_ = nc.SetReadDeadline(time.Now().Add(20 * time.Second))
		if b, err := io.ReadAll(nc); err != nil && strings.Contains(err.Error(), "timeout") || bytes.Contains(b, []byte("200 OK")) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	// A request that comes a byte a record.
	tc, err := tls.Dial("tcp", addr, trust)
	if err != nil {
		t.Fatal(err)
	}
	defer tc.Close()
	for _, x := range []byte("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") {
		if _, err := tc.Write([]byte{x}); err != nil {
			t.Fatal(err)
		}
	}
	_ = tc.SetReadDeadline(time.Now().Add(20 * time.Second))
	if b, _ := io.ReadAll(tc); !bytes.HasPrefix(b, []byte("HTTP/1.1 200 ")) {
		t.Errorf("got %q", b)
	}
}
