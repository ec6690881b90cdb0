//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/certs/certtest"
)

// client runs a command of one profile to its end.
func client(t *testing.T, s *server, profiles, stdin string, args ...string) (out string, status int) {
	t.Helper()
	return clientOf(t, s, profiles, strings.NewReader(stdin), args...)
}

func clientOf(t *testing.T, s *server, profiles string, stdin io.Reader, args ...string) (out string, status int) {
	t.Helper()
	tcp, http := s.at()
	cmd := exec.Command(binary, append(args, "--profiles", profiles, "--server", tcp, "--http", "http://"+http)...)
	cmd.Stdin = stdin
	raw, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(raw), exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return string(raw), 0
}

// lines collects what a command prints, line by line.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.buf.String()), "\n")
}

// tailer is a running `gochat tail --json`.
type tailer struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err lines
}

func startTail(t *testing.T, s *server, profiles, name string) *tailer {
	t.Helper()
	tcp, http := s.at()
	l := &tailer{t: t, cmd: exec.Command(binary, "tail", "--json", "--profile", name, "--profiles", profiles, "--server", tcp, "--http", "http://"+http)}
	l.cmd.Stdout, l.cmd.Stderr = &l.out, &l.err
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.cmd.Process.Kill() })
	l.until(func() bool { return strings.Contains(strings.Join(l.err.all(), "\n"), "connected as "+name) })
	return l
}

func (l *tailer) until(cond func() bool) {
	l.t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("tail printed %q and %q", l.out.all(), l.err.all())
		}
	}
}

// texts waits for so many messages, ends the tail, and returns what it printed.
func (l *tailer) texts(want int) []string {
	t := l.t
	t.Helper()
	l.until(func() bool { return len(l.out.all()) >= want })
	_ = l.cmd.Process.Signal(syscall.SIGTERM)
	if err := l.cmd.Wait(); err != nil {
		t.Errorf("tail ended with %v: %q", err, l.err.all())
	}
	var texts []string
	for _, line := range l.out.all() {
		var m struct {
			Type string `json:"type"`
			Data struct {
				Sender   string `json:"sender_id"`
				Receiver string `json:"receiver_id"`
				Content  string `json:"content"`
				Seq      string `json:"seq"`
			} `json:"data"`
		}
		if line == "" {
			continue
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil || m.Type != "message" {
			t.Fatalf("%q: %v", line, err)
		}
		texts = append(texts, m.Data.Sender+">"+m.Data.Receiver+" "+m.Data.Seq+" "+m.Data.Content)
	}
	return texts
}

// Scripts send beside an open chat, in order, and a tail prints each message once though it was
// away in between, those of people who are new to it included.
func TestScriptsSendAndTail(t *testing.T) { everywhere(t, testScriptsSendAndTail) }

func testScriptsSendAndTail(t *testing.T, s *server) {
	profiles := t.TempDir()
	for _, name := range []string{"alice", "bob", "carol"} {
		if out, status := client(t, s, profiles, "a note\n", "chat", "--profile", name, "--to", name); status != 0 {
			t.Fatalf("registering %s: %s", name, out)
		}
	}
	if out, status := client(t, s, profiles, "", "send", "--profile", "bob", "--to", "alice", "before"); status != 0 || out != "" {
		t.Fatalf("status %d: %s", status, out)
	}
	// The tail begins with what comes from here on: what is there already was for other devices.
	first := startTail(t, s, profiles, "alice")
	open := openWindow(t, s, profiles, "bob", "alice") // and send works all the same
	if out, status := client(t, s, profiles, "", "tail", "--profile", "alice"); status != 1 || !strings.Contains(out, "open in another terminal") {
		t.Errorf("a second tail: status %d: %s", status, out)
	}
	if out, status := client(t, s, profiles, "one\ntwo\n\nthree", "send", "--profile", "bob", "--to", "alice", "--lines", "--json"); status != 0 || strings.Count(out, `"type":"sendack"`) != 3 {
		t.Fatalf("status %d: %s", status, out)
	}
	open.typeLine("by hand")
	got := first.texts(4)
	if want := "bob>alice 2 one|bob>alice 3 two|bob>alice 4 three|bob>alice 5 by hand"; strings.Join(got, "|") != want {
		t.Fatalf("tail printed %q, want %q", got, want)
	}

	client(t, s, profiles, "", "send", "--profile", "bob", "--to", "alice", "while you were away")
	client(t, s, profiles, "", "send", "--profile", "carol", "--to", "alice", "you don't know me")
	got = startTail(t, s, profiles, "alice").texts(2)
	if len(got) != 2 || !strings.Contains(strings.Join(got, "|"), "bob>alice 6 while you were away") || !strings.Contains(strings.Join(got, "|"), "carol>alice 1 you don't know me") {
		t.Fatalf("tail printed %q", got)
	}
	if got = startTail(t, s, profiles, "alice").texts(0); len(got) != 0 {
		t.Fatalf("tail printed again: %q", got)
	}

	if out, status := client(t, s, profiles, "", "send", "--profile", "bob", "--to", "nobody", "x"); status != 1 || !strings.Contains(out, "no such user") {
		t.Errorf("status %d: %s", status, out)
	}
	// The device was signed out: it says so once, and then signs in anew and sends what waits.
	if raw, err := exec.Command(binary, "admin", "sign-out", "bob", "--data", s.data).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	if out, status := client(t, s, profiles, "", "send", "--profile", "bob", "--to", "carol", "kept"); status != 4 || !strings.Contains(out, "signed out") {
		t.Errorf("status %d: %s", status, out)
	}
	if out, status := client(t, s, profiles, "", "send", "--profile", "bob", "--to", "carol", "--json", "next"); status != 0 || !strings.Contains(out, `"seq":"2"`) {
		t.Errorf("status %d: %s", status, out)
	}
	// The server is away: what was to be sent waits, and goes first next time.
	s.kill()
	if out, status := client(t, s, profiles, "", "send", "--profile", "bob", "--to", "alice", "--timeout", "500ms", "late"); status != 4 {
		t.Errorf("status %d: %s", status, out)
	}
	s.start()
	if out, status := client(t, s, profiles, "", "send", "--profile", "bob", "--to", "alice", "later"); status != 0 {
		t.Errorf("status %d: %s", status, out)
	}
	if got, want := startTail(t, s, profiles, "alice").texts(2), "bob>alice 7 late|bob>alice 8 later"; strings.Join(got, "|") != want {
		t.Errorf("tail printed %q, want %q", got, want)
	}
}

// slowly is input that comes line by line, each later than send waits for a server.
type slowly struct{ lines []string }

func (in *slowly) Read(p []byte) (int, error) {
	if len(in.lines) == 0 {
		return 0, io.EOF
	}
	time.Sleep(700 * time.Millisecond)
	n := copy(p, in.lines[0])
	in.lines = in.lines[1:]
	return n, nil
}

// How long input takes is nobody's failure, and a line that is refused doesn't take the others with it.
func TestScriptsWriteAsTheyLike(t *testing.T) {
	s := newServer(t, binary)
	s.start()
	profiles := t.TempDir()
	if out, status := client(t, s, profiles, "a note\n", "chat", "--profile", "alice", "--to", "alice"); status != 0 {
		t.Fatalf("status %d: %s", status, out)
	}
	send := []string{"send", "--profile", "alice", "--to", "alice", "--json", "--timeout", "500ms"}
	if out, status := clientOf(t, s, profiles, &slowly{[]string{"the ", "build\n"}}, send...); status != 0 || !strings.Contains(out, `"seq":"2"`) {
		t.Errorf("status %d: %s", status, out)
	}
	if out, status := clientOf(t, s, profiles, &slowly{[]string{"one\n", "two\nthree\n"}}, append(send, "--lines")...); status != 0 || strings.Count(out, `"type":"sendack"`) != 3 {
		t.Errorf("status %d: %s", status, out)
	}
	out, status := client(t, s, profiles, "four\n\xff\xfe\n\nfive\n", append(send, "--lines")...)
	if status != 1 || strings.Count(out, `"type":"sendack"`) != 2 || !strings.Contains(out, "line 2: not sent") || !strings.Contains(out, `"seq":"7"`) {
		t.Errorf("status %d: %s", status, out)
	}
	s.kill()
	if out, status := client(t, s, profiles, "six\nseven\n", append(send, "--lines")...); status != 4 || !strings.Contains(out, "2 messages") {
		t.Errorf("status %d: %s", status, out)
	}
}

// The clients speak TLS to a server whose certificate they are told to trust, and to no other.
func TestClientsSpeakTLS(t *testing.T) {
	cert, key, _ := certtest.Write(t, t.TempDir(), "localhost")
	s := newServer(t, binary, "GOCHAT_TCP__TLS__CERT_FILE="+cert, "GOCHAT_TCP__TLS__KEY_FILE="+key)
	s.start()
	profiles := t.TempDir()
	if out, status := client(t, s, profiles, "a note\n", "chat", "--profile", "alice", "--to", "alice", "--tls", "--ca", cert); status != 0 {
		t.Fatalf("status %d: %s", status, out)
	}
	if out, status := client(t, s, profiles, "", "send", "--profile", "alice", "--to", "alice", "--json", "--tls", "--ca", cert, "hello"); status != 0 || !strings.Contains(out, `"seq":"2"`) {
		t.Errorf("status %d: %s", status, out)
	}
	for _, flags := range [][]string{{"--tls"}, nil} {
		args := append([]string{"send", "--profile", "alice", "--to", "alice", "--timeout", "700ms", "hello"}, flags...)
		if out, status := client(t, s, profiles, "", args...); status != 4 {
			t.Errorf("with %q: status %d: %s", flags, status, out)
		}
	}
	if out, status := client(t, s, profiles, "", "send", "--profile", "alice", "--to", "alice", "--ca", key, "hello"); status != 2 {
		t.Errorf("status %d: %s", status, out)
	}
}
