package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/target"
)

// servers is where a scenario's servers come from: started for each run, or one that runs already.
type servers struct {
	path      string // of the gochat binary; "": built
	algorithm string

	addr, http string
	pid        int
	issuer     string
	key        string
	users      string
	ws         bool

	built string // directory of what was built
}

func (s *servers) flags(c *common) {
	c.StringVar(&s.path, "server", "", "the gochat binary to start; by default it is built from this source")
	c.StringVar(&s.algorithm, "alg", "EdDSA", "how the started server's tokens are signed: EdDSA or HS256")
	c.BoolVar(&s.ws, "ws", false, "speak the protocol over WebSockets instead of TCP; -addr is then of the server's HTTP interface")
	c.StringVar(&s.addr, "addr", "", "load the server that listens here instead of starting one")
	c.StringVar(&s.http, "http", "", "with -addr: the server's HTTP interface, for its metrics")
	c.IntVar(&s.pid, "pid", 0, "with -addr: the server's process on this machine, for its CPU and memory")
	c.StringVar(&s.issuer, "issuer", target.DefaultIssuer, "with -addr: the iss of the tokens, an issuer that the server knows")
	c.StringVar(&s.key, "key", "", "with -addr: the file with which that issuer signs (see bench issuer)")
	c.StringVar(&s.users, "users", "", "what the users' names begin with; with -addr each run makes up new ones")
}

// prepare checks the flags and builds the server if need be. Call clean afterwards.
func (s *servers) prepare(ctx context.Context) error {
	if s.addr != "" {
		if s.key == "" {
			return usage("-addr needs -key: the server checks every token")
		}
		return nil
	}
	if s.path != "" {
		if _, err := os.Stat(s.path); err != nil {
			return usage("-server: %v", err)
		}
		return nil
	}
	dir, err := os.MkdirTemp("", "gochat-bench")
	if err != nil {
		return environment(err)
	}
	s.built = dir
	if s.path, err = target.Build(ctx, dir); err != nil {
		return environment(err)
	}
	return nil
}

func (s *servers) clean() {
	if s.built != "" {
		_ = os.RemoveAll(s.built)
	}
}

// with runs f against a server: a fresh one with the given limits raised, or the running one.
func (s *servers) with(ctx context.Context, c *common, raise target.Settings, f func(load.Target) error) error {
	if s.addr != "" {
		t, err := s.attached()
		if err != nil {
			return err
		}
		return f(t)
	}
	return s.launched(ctx, c, target.Launching{Path: s.path, Algorithm: s.algorithm, Raise: raise}, func(t load.Target, _ *target.Server) error { return f(t) })
}

// launched runs f against a server that is started so.
func (s *servers) launched(ctx context.Context, c *common, l target.Launching, f func(load.Target, *target.Server) error) error {
	server, err := target.Launch(ctx, l)
	if err != nil {
		return environment(err)
	}
	defer server.Stop()
	for _, line := range server.Raised {
		if !slices.Contains(c.report.Raised, line) {
			c.report.Raised = append(c.report.Raised, line)
			fmt.Fprintln(c.out, "raised    ", line)
		}
	}
	users := s.users
	if users == "" {
		users = "u"
	}
	addr := server.Addr
	if s.ws {
		addr = server.HTTP
	}
	err = f(load.Target{
		Addr: addr, WS: s.ws, PID: server.PID, Token: server.Issuer.Token, Users: users,
		Stats: func(ctx context.Context) (load.Stats, error) { return target.ReadMetrics(ctx, server.HTTP) },
	}, server)
	var failed *load.Failure
	if errors.As(err, &failed) {
		if !server.Running() {
			err = fmt.Errorf("%w; the server has ended", err)
		}
		err = fmt.Errorf("%w\nthe server's log ends:\n%s", err, server.Log())
	}
	return err
}

// attached is the server named by -addr.
func (s *servers) attached() (load.Target, error) {
	var t load.Target
	var err error
	if t.Addr, err = netip.ParseAddrPort(s.addr); err != nil || !t.Addr.Addr().Unmap().Is4() {
		return t, usage("-addr %q: want an IPv4 address and a port", s.addr)
	}
	if s.http != "" {
		addr, err := netip.ParseAddrPort(s.http)
		if err != nil {
			return t, usage("-http %q: want an address and a port", s.http)
		}
		t.Stats = func(ctx context.Context) (load.Stats, error) { return target.ReadMetrics(ctx, addr) }
	}
	is, err := target.LoadIssuer(s.issuer, s.key)
	if err != nil {
		return t, environment(err)
	}
	t.PID, t.Token, t.Users, t.WS = s.pid, is.Token, s.users, s.ws
	if t.Users == "" {
		// The verifier reads conversations from their beginning: it needs new ones each time.
		t.Users = fmt.Sprintf("bench-%08x-", rand.Uint32())
	}
	return t, nil
}

// issuer writes what `-addr` needs.
func issuer(args []string, out io.Writer) error {
	c := newCommon("issuer", out)
	dir := c.String("dir", ".", "directory for the key files")
	alg := c.String("alg", "EdDSA", "EdDSA or HS256")
	if done, err := c.parse(args); done {
		return err
	}
	abs, err := filepath.Abs(*dir)
	if err != nil {
		return environment(err)
	}
	is, err := target.NewIssuer(abs, *alg)
	if err != nil {
		return environment(err)
	}
	_, err = fmt.Fprintf(out, "# In the server's configuration:\nissuers:\n  - {issuer: %q, algorithm: %q, key_file: %q}\n# For bench -addr: -key %s\n",
		is.Name, is.Algorithm, is.KeyFile, strings.TrimSuffix(is.KeyFile, ".pem")+map[bool]string{true: ".key"}[*alg == "EdDSA"])
	return err
}

// pinTo runs this program again on the given CPUs, which whatever it starts inherits:
// in a running Go program only single threads can be pinned.
func pinTo(list string) error {
	const again = "GOCHAT_BENCH_PINNED"
	if os.Getenv(again) == list {
		return nil
	}
	var set unix.CPUSet
	for s := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 0 {
			return usage("-cpus %q: want numbers separated by commas", list)
		}
		set.Set(n)
	}
	exe, err := os.Executable()
	if err != nil {
		return environment(fmt.Errorf("own executable: %w", err))
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return environment(fmt.Errorf("run on CPUs %s: %w", list, err))
	}
	err = syscall.Exec(exe, os.Args, append(os.Environ(), again+"="+list))
	return environment(fmt.Errorf("run again on CPUs %s: %w", list, err))
}
