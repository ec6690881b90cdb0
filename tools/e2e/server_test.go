//go:build e2e

// Package e2e drives the real binary as its users do: it is started, talked to,
// killed, starved of disk and started again.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gochat-im/gochat/tools/cluster/local"
	"github.com/gochat-im/gochat/tools/loopback"
)

var (
	binary      string // gochat as it is shipped
	faultBinary string // gochat with fault points
)

// built spares those who look at one test the wait for two builds.
var built = flag.String("gochat", "", "a gochat program, made already, for tests that plant no faults; default: it is built")

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "gochat-e2e-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	binary, faultBinary = filepath.Join(dir, "gochat"), filepath.Join(dir, "gochat-faultpoints")
	builds := map[string]string{binary: "", faultBinary: "faultpoints"}
	if *built != "" {
		binary = *built
		builds = nil
	}
	for path, tags := range builds {
		out, err := exec.Command("go", "build", "-tags", tags, "-o", path, "github.com/gochat-im/gochat/cmd/gochat").CombinedOutput()
		if err != nil {
			return 0, fmt.Errorf("building %s: %w\n%s", filepath.Base(path), err, out)
		}
	}
	defer endBelow()
	return m.Run(), nil
}

// server is one gochat process over the life of a test, or the nodes of a cluster, which a test takes for one; its data outlives it.
type server struct {
	t     *testing.T
	nodes *local.Cluster // nil: it is one process
	next  int            // the edge that the next client goes to

	bin  string
	wrap []string // a command put before the binary
	env  []string
	data string
	tcp  string
	http string

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
	err  error         // how it ended
	mu   sync.Mutex
	out  bytes.Buffer
}

func newServer(t *testing.T, bin string, env ...string) *server {
	t.Helper()
	s := &server{t: t, bin: bin, data: t.TempDir(), tcp: freePort(t), http: freePort(t), env: env}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Logf("server said:\n%s", s.out.String())
		}
	})
	return s
}

// freePort returns a loopback address at which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	a, err := loopback.Free(0)
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

// start starts the server and waits until it is ready.
func (s *server) start() {
	s.t.Helper()
	if err := s.tryStart(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) tryStart() error {
	if s.nodes != nil {
		return s.startNodes()
	}
	args := append(append([]string{}, s.wrap...), s.bin, "serve", "--data", s.data, "--tcp", s.tcp, "--http", s.http)
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Env = append(append(os.Environ(), hurry()...), s.env...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := s.cmd.StderrPipe()
	if err != nil {
		return err
	}
	s.cmd.Stdout = s.cmd.Stderr
	s.done = make(chan struct{})
	if err := s.cmd.Start(); err != nil {
		return err
	}
	go func(cmd *exec.Cmd, done chan struct{}) {
		for sc := bufio.NewScanner(pipe); sc.Scan(); {
			s.mu.Lock()
			s.out.WriteString(sc.Text() + "\n")
			s.mu.Unlock()
		}
		s.err = cmd.Wait()
		close(done)
	}(s.cmd, s.done)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		select {
		case <-s.done:
			return fmt.Errorf("server ended while starting: %w\n%s", s.err, s.output())
		case <-time.After(10 * time.Millisecond):
		}
		res, err := http.Get("http://" + s.http + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	return errors.New("server wasn't ready in 30 s\n" + s.output())
}

// hurry are settings for tests that are many users behind one address.
func hurry() []string {
	return []string{
		"GOCHAT_HTTP__AUTH_PER_MINUTE=100000", "GOCHAT_LIMITS__SENDS_PER_SECOND=100000", "GOCHAT_LIMITS__USER_SENDS_PER_SECOND=100000",
		"GOCHAT_LIMITS__BYTES_PER_SECOND=64MiB", "GOCHAT_LIMITS__CONNECTS_PER_ADDRESS=10000",
	}
}

func (s *server) output() string {
	if s.nodes != nil {
		return s.nodesOutput()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

func (s *server) alive() bool {
	if s.nodes != nil {
		return s.nodesRun()
	}
	if s.cmd == nil {
		return false
	}
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// kill is kill -9; it returns when the process is gone.
func (s *server) kill() {
	if s.nodes != nil {
		s.killNodes()
		return
	}
	if s.alive() {
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}

// wait waits for the process to end by itself and returns its exit status.
func (s *server) wait(limit time.Duration) (int, error) {
	select {
	case <-s.done:
		return s.cmd.ProcessState.ExitCode(), nil
	case <-time.After(limit):
		return 0, fmt.Errorf("server still ran after %s", limit)
	}
}

// check runs the audit over the stopped server's data.
func (s *server) check() {
	s.t.Helper()
	if s.nodes != nil {
		s.checkShared()
		return
	}
	out, err := exec.Command(s.bin, "check", "--data", s.data).CombinedOutput()
	if err != nil {
		s.t.Errorf("gochat check: %v\n%s", err, out)
	} else {
		s.t.Logf("gochat check: %s", strings.TrimSpace(string(out)))
	}
}
