//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	gochat "github.com/gochat-im/gochat/sdk/go"
)

// window is a terminal with `gochat chat` in it, fed by a pipe.
type window struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	mu  sync.Mutex
	out bytes.Buffer
}

func openWindow(t *testing.T, s *server, profiles, name, to string) *window {
	t.Helper()
	tcp, http := s.at()
	w := &window{t: t, cmd: exec.Command(binary, "chat", "--profile", name, "--to", to, "--profiles", profiles, "--server", tcp, "--http", "http://"+http)}
	w.cmd.Stdout, w.cmd.Stderr = w, w
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.cmd.Process.Kill(); _ = w.cmd.Wait() })
	return w
}

// Write takes what the window shows.
func (w *window) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.Write(p)
}

func (w *window) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.out.String()
}

func (w *window) typeLine(format string, args ...any) {
	w.t.Helper()
	if _, err := fmt.Fprintf(w.in, format+"\n", args...); err != nil {
		w.t.Fatal(err)
	}
}

func (w *window) shows(s string) {
	w.t.Helper()
	// A client that found nobody several times, nodes of a cluster being longer away than a server, waits half a minute before it tries again.
	for end := time.Now().Add(time.Minute); !strings.Contains(w.text(), s); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("the window doesn't show %q, but:\n%s", s, w.text())
		}
	}
}

// The README's tour: two windows talk, the server is killed with -9 in the middle and
// started again; nothing is lost, nothing comes twice, nothing is out of order.
func TestTwoWindowsTalk(t *testing.T) { everywhere(t, testTwoWindowsTalk) }

func testTwoWindowsTalk(t *testing.T, s *server) {
	profiles := t.TempDir()
	alice := openWindow(t, s, profiles, "alice", "bob")
	alice.shows("Welcome, alice")
	bob := openWindow(t, s, profiles, "bob", "alice")
	bob.shows("Welcome, bob")
	const lines = 60
	for i := range lines {
		if i == 20 {
			s.kill()
		}
		if i == 40 {
			s.start()
		}
		alice.typeLine("alice says %02d.", i)
		bob.typeLine("bob says %02d.", i)
		if i == 0 { // a window shows what comes after it has met a conversation: what is there when it first hears of one isn't news
			alice.shows("bob: bob says 00.")
			bob.shows("alice: alice says 00.")
		}
		time.Sleep(5 * time.Millisecond)
	}
	for _, w := range []*window{alice, bob} {
		w.shows(fmt.Sprintf("alice says %02d.", lines-1))
		w.shows(fmt.Sprintf("bob says %02d.", lines-1))
		for _, who := range []string{"alice", "bob"} {
			at := -1
			for i := range lines {
				line := fmt.Sprintf("%s: %s says %02d.\n", who, who, i)
				if n := strings.Count(w.text(), line); n != 1 {
					t.Fatalf("%q is shown %d times; alice's window:\n%s\nbob's window:\n%s", line, n, alice.text(), bob.text())
				}
				next := strings.Index(w.text(), line)
				if next < at {
					t.Fatalf("%q comes too early:\n%s", line, w.text())
				}
				at = next
			}
		}
	}
}

// Profiles and secrets are readable by their owner alone.
func TestFilesArePrivate(t *testing.T) {
	s := newServer(t, binary)
	s.start()
	profiles := t.TempDir()
	alice := openWindow(t, s, profiles, "alice", "alice")
	alice.shows("you are talking to") // its files are there
	for _, path := range []string{
		filepath.Join(s.data, "keys"), filepath.Join(s.data, "keys", "access.pem"), filepath.Join(s.data, "keys", "mac.key"), filepath.Join(s.data, "admin.sock"),
		filepath.Join(profiles, "alice"), filepath.Join(profiles, "alice", "credentials.json"), filepath.Join(profiles, "alice", "messages.log"),
	} {
		st, err := os.Stat(path)
		if err != nil {
			t.Error(err)
		} else if st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, st.Mode())
		}
	}
}

func TestCommands(t *testing.T) {
	s := newServer(t, binary)
	s.start()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"version", 0, "gochat "},
		{"config print", 0, "disk_reserve: 256MiB"},
		{"token alice --data " + s.data, 0, "eyJ"},
		{"token alice --data " + t.TempDir(), 1, "the server makes the keys"},
		{"serve --nonsense", 2, "unknown flag"},
		{"serve --log-level loud", 2, "log.level"},
		{"serve --data " + t.TempDir() + " --tcp " + taken.Addr().String() + " --http " + freePort(t), 1, "--tcp"},
		{"serve --data " + t.TempDir() + " --http " + taken.Addr().String() + " --tcp " + freePort(t), 1, "--http"},
		{"chat", 1, "profile"},
		{"chat --profile ../x", 2, "plain name"},
		{"chat --profile carol --profiles " + t.TempDir() + " --http http://127.0.0.1:1", 1, "is the server running?"},
		{"check --data " + t.TempDir(), 1, "store"},
	} {
		out, err := exec.Command(binary, strings.Fields(c.args)...).CombinedOutput()
		status := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			status = exit.ExitCode()
		} else if err != nil {
			t.Fatal(err)
		}
		if status != c.status || !strings.Contains(string(out), c.says) {
			t.Errorf("gochat %s: status %d, want %d and %q:\n%s", c.args, status, c.status, c.says, out)
		}
	}
}

// Nothing secret is in what the server logs, at its most talkative.
func TestLogHoldsNoSecrets(t *testing.T) {
	everywhere(t, testLogHoldsNoSecrets, "GOCHAT_LOG__LEVEL=debug")
}

func testLogHoldsNoSecrets(t *testing.T, s *server) {
	alice, bob := signUp(s, "alice"), signUp(s, "bob")
	alice.connect(gochat.NewMemoryStore())
	bob.connect(gochat.NewMemoryStore())
	alice.send(bob, "the eagle lands at noon")
	bob.until("the message", 10*time.Second, func() bool { return len(bob.received) == 1 })
	s.kill()
	log := s.output()
	for what, secret := range map[string]string{
		"a message": "eagle", "a password": "password of alice", "an access token": alice.grant.AccessToken, "a refresh token": alice.grant.RefreshToken,
	} {
		if strings.Contains(log, secret) {
			t.Errorf("the log holds %s", what)
		}
	}
}
