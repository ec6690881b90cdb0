package target

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

// TestMain lets the test binary stand in for the server: `config print`, and `serve
// --config FILE`, which answers /readyz and writes its configuration to its log.
func TestMain(m *testing.M) {
	if len(os.Args) < 3 || os.Getenv("STAND_IN") == "" {
		os.Exit(m.Run())
	}
	switch {
	case os.Args[1] == "config":
		fmt.Print("limits:\n  sends_per_second: 50\n  bytes_per_second: \"256KiB\"\n")
	case os.Getenv("STAND_IN") == "dies":
		fmt.Println("the port is taken")
		os.Exit(1)
	default:
		b, err := os.ReadFile(os.Args[3])
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s", b)
		addr := regexp.MustCompile(`http: {listen: "(.*?)"}`).FindSubmatch(b)[1]
		calls := 0
		panic(http.ListenAndServe(string(addr), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if calls++; r.URL.Path == "/readyz" && calls < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})))
	}
}

func TestIssuersTokens(t *testing.T) {
	for _, alg := range []string{"EdDSA", "HS256"} {
		dir := t.TempDir()
		is, err := NewIssuer(dir, alg)
		if err != nil {
			t.Fatal(err)
		}
		private := filepath.Join(dir, "issuer.key")
		if alg == "HS256" {
			private = is.KeyFile
		}
		again, err := LoadIssuer("elsewhere", private)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(is.KeyFile)
		if err != nil {
			t.Fatal(err)
		}
		var key any = b
		if alg == "EdDSA" {
			block, _ := pem.Decode(b)
			if key, err = x509.ParsePKIXPublicKey(block.Bytes); err != nil {
				t.Fatal(err)
			}
			_ = key.(ed25519.PublicKey)
		}
		for name, issuer := range map[string]*Issuer{DefaultIssuer: is, "elsewhere": again} {
			token, err := issuer.Token("u000001")
			if err != nil {
				t.Fatal(err)
			}
			var c jwt.RegisteredClaims
			_, err = jwt.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return key, nil }, jwt.WithValidMethods([]string{alg}))
			if err != nil || c.Issuer != name || c.Subject != "u000001" || c.ExpiresAt == nil {
				t.Errorf("%s of %s: %v, %+v", alg, name, err, c)
			}
		}
		for _, name := range []string{private, is.KeyFile} {
			if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", name, st.Mode(), err)
			}
		}
	}
}

func TestWrongKeys(t *testing.T) {
	dir := t.TempDir()
	if _, err := NewIssuer(dir, "none"); err == nil {
		t.Error("an algorithm called none")
	}
	for _, alg := range []string{"EdDSA", "HS256"} {
		if _, err := NewIssuer(filepath.Join(dir, "nowhere"), alg); err == nil {
			t.Errorf("%s keys were written nowhere", alg)
		}
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, path := range []string{
		filepath.Join(dir, "absent"), write("short", "secret"),
		write("garbage", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")}))),
	} {
		if _, err := LoadIssuer("x", path); err == nil {
			t.Errorf("%s was taken", path)
		}
	}
}

func TestServerIsStartedAndStopped(t *testing.T) {
	t.Setenv("STAND_IN", "serves")
	s, err := Start(t.Context(), os.Args[0], "EdDSA", Settings{{"limits.sends_per_second", "1000"}, {"limits.bytes_per_second", "1GiB"}, {"limits.new", "1"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"limits.sends_per_second: 50 -> 1000", "limits.bytes_per_second: 256KiB -> 1GiB", "limits.new: ? -> 1"}
	if !slices.Equal(s.Raised, want) {
		t.Errorf("raised %q, want %q", s.Raised, want)
	}
	for _, want := range []string{"  sends_per_second: 1000\n", s.Addr.String(), `issuer: "gochat-bench", algorithm: "EdDSA"`, s.Issuer.KeyFile} {
		if !strings.Contains(s.Log(), want) {
			t.Errorf("the configuration lacks %q:\n%s", want, s.Log())
		}
	}
	if !s.Running() || s.PID == 0 {
		t.Error("the server doesn't run")
	}
	s.Stop()
	if s.Running() {
		t.Error("the server runs on")
	}
	if _, err := os.Stat(s.dir); !os.IsNotExist(err) {
		t.Errorf("its data are left: %v", err)
	}
	if s.Log() == "" {
		t.Error("no word about the log that is gone")
	}
}

func TestServerThatDoesNotStart(t *testing.T) {
	if _, err := Start(t.Context(), filepath.Join(t.TempDir(), "absent"), "EdDSA", nil); err == nil {
		t.Error("a binary that isn't there started")
	}
	if _, err := Start(t.Context(), filepath.Join(t.TempDir(), "absent"), "EdDSA", Settings{{"limits.x", "1"}}); err == nil {
		t.Error("a binary that isn't there told its configuration")
	}
	if _, err := Start(t.Context(), os.Args[0], "none", nil); err == nil {
		t.Error("started with an algorithm called none")
	}
	t.Setenv("STAND_IN", "dies")
	if _, err := Start(t.Context(), os.Args[0], "HS256", nil); err == nil || !strings.Contains(err.Error(), "the port is taken") {
		t.Errorf("a server that dies: %v", err)
	}
	t.Setenv("STAND_IN", "serves")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Start(ctx, os.Args[0], "HS256", nil); err == nil {
		t.Error("started though cancelled")
	}
}

func TestMetrics(t *testing.T) {
	status := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		fmt.Fprint(w, "# HELP go_goroutines x\ngo_goroutines 31\ngochat_messages_stored_total 1.2e+06\ngochat_commit_messages_bucket{le=\"1\"} 3\ngochat_commit_messages_count 400\n")
	}))
	defer srv.Close()
	addr := netip.MustParseAddrPort(srv.Listener.Addr().String())
	s, err := ReadMetrics(t.Context(), addr)
	if err != nil || s.Stored != 1.2e6 || s.Commits != 400 || s.Goroutines != 31 {
		t.Errorf("%+v, %v", s, err)
	}
	if value("a 1\n", "b") != 0 {
		t.Error("a metric that isn't there has a value")
	}
	status = http.StatusNotFound
	if _, err := ReadMetrics(t.Context(), addr); err == nil {
		t.Error("metrics of a page that isn't there")
	}
	srv.Close()
	if _, err := ReadMetrics(t.Context(), addr); err == nil {
		t.Error("metrics of a server that is gone")
	}
}
