//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// Versions of the WebSocket clients of others, fetched into .cache.
const (
	nodeClient   = "ws@8.18.3"
	pythonClient = "websockets==15.0.1"
)

// fetched runs a package manager, unless what it fetches is there, and returns the directory.
func fetched(t *testing.T, name string, steps ...[]string) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("../../.cache/e2e", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return dir
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		cmd := exec.Command(s[0], s[1:]...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s (node with npm, and python3 with venv, are needed): %v\n%s", strings.Join(s, " "), err, out)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// member is a client in another language.
type member struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
	said bytes.Buffer // on standard error
}

func newMember(t *testing.T, name string, args ...string) *member {
	t.Helper()
	m := &member{cmd: exec.Command(name, args...)}
	m.cmd.Stderr = &m.said
	in, err := m.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.in, m.out = in, bufio.NewScanner(out)
	m.out.Buffer(nil, 1<<20)
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end := time.AfterFunc(time.Minute, func() { _ = m.cmd.Process.Kill() })
	t.Cleanup(func() {
		end.Stop()
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	})
	if got := m.line(t); got != "ready" {
		t.Fatalf("%s: %q", name, got)
	}
	return m
}

func (m *member) line(t *testing.T) string {
	t.Helper()
	if !m.out.Scan() {
		t.Fatalf("%s ended: %s", m.cmd.Args[0], m.said.String())
	}
	return m.out.Text()
}

// Clients that others wrote, over JSON WebSockets, and ours over TCP see one group alike.
func TestWebSocketClientsOfOthers(t *testing.T) { everywhere(t, testWebSocketClientsOfOthers) }

func testWebSocketClientsOfOthers(t *testing.T, s *server) {
	node := fetched(t, "node", []string{"npm", "install", "--no-audit", "--no-fund", "--prefix", ".", nodeClient})
	python := fetched(t, "python", []string{"python3", "-m", "venv", "."}, []string{"bin/pip", "install", "-q", pythonClient})
	alice, carol, dave := signUp(s, "alice"), signUp(s, "carol"), signUp(s, "dave")
	alice.connect(gochat.NewMemoryStore())
	made, err := alice.client.CreateGroup(t.Context(), gochat.NewGroup{Name: "polyglots", Users: []id.UserID{"carol", "dave"}})
	if err != nil {
		t.Fatal(err)
	}
	const each = 20
	conv, first, last := made.Conversation, made.Seq+1, made.Seq+3*each
	url := "ws://" + s.http + "/ws"
	args := func(p *person) []string {
		return []string{url, p.grant.AccessToken, conv.String(), string(p.name), strconv.Itoa(each), fmt.Sprint(last)}
	}
	members := []*member{
		newMember(t, "node", append([]string{"testdata/member.mjs", node}, args(carol)...)...),
		newMember(t, filepath.Join(python, "bin/python"), append([]string{"testdata/member.py"}, args(dave)...)...),
	}
	for _, m := range members {
		if _, err := io.WriteString(m.in, "go\n"); err != nil {
			t.Fatal(err)
		}
	}
	for n := range each {
		r, err := alice.client.Send(t.Context(), gochat.ToConversation(conv), gochat.Text(fmt.Sprint("alice says ", n+1, " 你好")))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	for _, m := range members {
		seen = append(seen, m.line(t))
		if err := m.cmd.Wait(); err != nil {
			t.Fatalf("%s: %v: %s", m.cmd.Args[0], err, m.said.String())
		}
	}
	var want [][]any
	messages, _, err := alice.client.History(t.Context(), conv, 0, 3*each)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if m.Seq >= first {
			want = append(want, []any{float64(m.Seq), string(m.Sender), m.Text})
		}
	}
	for i, got := range seen {
		var heard [][]any
		if err := json.Unmarshal([]byte(got), &heard); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(heard) != fmt.Sprint(want) {
			t.Errorf("%s heard\n%v\nwant\n%v", members[i].cmd.Args[0], heard, want)
		}
	}
	s.check()
}
