package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gochat-im/gochat/tools/loopback"
)

// Server is a GoChat server that was started for a load.
type Server struct {
	Addr   netip.AddrPort // binary protocol
	HTTP   netip.AddrPort
	PID    int
	Data   string // the data directory
	Issuer *Issuer
	Raised []string // settings that differ from the shipped ones, "name: shipped -> raised"

	path   string
	env    []string
	cmd    *exec.Cmd
	dir    string
	log    string
	exited chan struct{}
	err    error
}

// Settings are what differs from the shipped configuration, raised limits above all: names and values, those of a section together.
type Settings []Setting

// Setting is one of them.
type Setting struct{ Name, Value string }

// Build compiles the server into dir and returns its path.
func Build(ctx context.Context, dir string) (string, error) {
	return build(ctx, dir, "gochat", "github.com/gochat-im/gochat/cmd/gochat")
}

func build(ctx context.Context, dir, name, program string) (string, error) {
	path := filepath.Join(dir, name)
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, program).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", name, err, out)
	}
	return path, nil
}

// patience bounds starting and stopping.
const patience = 30 * time.Second

// Start runs the server at path with a data directory, an issuer and a
// configuration of its own, and waits until it is ready. Stop it.
func Start(ctx context.Context, path, algorithm string, raise Settings) (*Server, error) {
	return Launch(ctx, Launching{Path: path, Algorithm: algorithm, Raise: raise})
}

// Launching is how a server is started.
type Launching struct {
	Path      string
	Algorithm string
	Raise     Settings
	Data      string   // a data directory that stays; "": a fresh one, which Stop removes
	Env       []string // what is added to the environment, NAME=value
}

// Launch is Start with everything that can be said.
func Launch(ctx context.Context, l Launching) (*Server, error) {
	dir, err := os.MkdirTemp("", "gochat-bench")
	if err != nil {
		return nil, fmt.Errorf("directory for the server: %w", err)
	}
	s := &Server{path: l.Path, env: l.Env, dir: dir, log: filepath.Join(dir, "log")}
	if s.Data = l.Data; s.Data == "" {
		s.Data = filepath.Join(dir, "data")
	}
	if err := s.start(ctx, l.Path, l.Algorithm, l.Raise); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, path, algorithm string, raise Settings) error {
	var err error
	if s.Issuer, err = NewIssuer(s.dir, algorithm); err != nil {
		return err
	}
	if s.Addr, err = loopback.Free(0); err != nil {
		return err
	}
	if s.HTTP, err = loopback.Free(0); err != nil {
		return err
	}
	if s.Raised, err = raised(ctx, path, raise); err != nil {
		return err
	}
	config := filepath.Join(s.dir, "gochat.yaml")
	if err := os.WriteFile(config, []byte(s.config(raise)), 0o600); err != nil {
		return fmt.Errorf("write the server's configuration: %w", err)
	}
	return s.run(ctx)
}

// run starts the process and waits until it is ready.
func (s *Server) run(ctx context.Context) error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("the server's log: %w", err)
	}
	defer log.Close()
	s.cmd = exec.Command(s.path, "serve", "--config", filepath.Join(s.dir, "gochat.yaml"))
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// Should the load generator be killed, its server goes with it.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return fmt.Errorf("start the server: %w", err)
	}
	s.PID, s.exited = s.cmd.Process.Pid, make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		s.err = cmd.Wait()
		close(exited)
	}(s.cmd, s.exited)
	return s.ready(ctx)
}

// config is the configuration file: where to listen, whose tokens to take, and what is raised.
func (s *Server) config(raise Settings) string {
	var b strings.Builder
	fmt.Fprintf(&b, "data: %q\ntcp: {listen: %q}\nhttp: {listen: %q}\nlog: {level: warn}\n", s.Data, s.Addr, s.HTTP)
	b.WriteString(s.Issuer.Config())
	section := ""
	for _, r := range raise {
		in, name, _ := strings.Cut(r.Name, ".")
		if in != section {
			section = in
			fmt.Fprintf(&b, "%s:\n", section)
		}
		fmt.Fprintf(&b, "  %s: %s\n", name, r.Value)
	}
	return b.String()
}

// raised asks the server for what it ships with, so that every difference can be told.
func raised(ctx context.Context, path string, raise Settings) ([]string, error) {
	if len(raise) == 0 {
		return nil, nil
	}
	out, err := exec.CommandContext(ctx, path, "config", "print").Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for its configuration: %w", path, err)
	}
	var told []string
	for _, r := range raise {
		shipped := "?"
		_, name, _ := strings.Cut(r.Name, ".")
		for line := range strings.Lines(string(out)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+": "); ok {
				shipped = strings.Trim(v, `"`)
				break
			}
		}
		told = append(told, fmt.Sprintf("%s: %s -> %s", r.Name, shipped, r.Value))
	}
	return told, nil
}

func (s *Server) ready(ctx context.Context) error {
	client := http.Client{Timeout: time.Second}
	for deadline := time.Now().Add(patience); ; {
		resp, err := client.Get("http://" + s.HTTP.String() + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.exited:
			return fmt.Errorf("the server ended while starting: %w\n%s", s.err, s.Log())
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server isn't ready after %v: %w\n%s", patience, err, s.Log())
		}
	}
}

// Running reports whether the server hasn't ended.
func (s *Server) Running() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// Log returns the end of what the server wrote.
func (s *Server) Log() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-8<<10):])
}

// Stop ends the server and removes its data.
func (s *Server) Stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-s.exited:
		case <-time.After(patience):
			_ = s.cmd.Process.Kill()
			<-s.exited
		}
	}
	_ = os.RemoveAll(s.dir)
}

// scrape reads the metrics page.
func scrape(ctx context.Context, addr netip.AddrPort) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr.String()+"/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(b), err
}
