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
	pids       string
	cluster    string
	running    string // directory of a local cluster
	memnode    string // the binary of the server that keeps everything in memory
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
	c.StringVar(&s.addr, "addr", "", "load the server that listens here instead of starting one; edges of one cluster separated by commas")
	c.StringVar(&s.http, "http", "", "with -addr: the server's HTTP interface, for its metrics; several separated by commas are added up")
	c.IntVar(&s.pid, "pid", 0, "with -addr: the server's process on this machine, for its CPU and memory")
	c.StringVar(&s.pids, "pids", "", "with -addr: the processes of a cluster on this machine, as edge-1=PID,logic-1=PID, or a file with a line name=PID for each")
	c.StringVar(&s.memnode, "memnode", "", "with -cluster: the server that keeps everything in memory; by default it is built from this source")
	c.StringVar(&s.cluster, "cluster", "", "start a cluster of these processes instead of one server, on a store in memory: roles joined by +, several alike by *, as edge*2,logic*3,fanout+worker; alone: one process that is everything, on the same store")
	c.StringVar(&s.running, "target", "", "load the cluster of this directory, which tools/cluster started and which runs, as .cache/cluster")
	c.StringVar(&s.issuer, "issuer", target.DefaultIssuer, "with -addr: the iss of the tokens, an issuer that the server knows")
	c.StringVar(&s.key, "key", "", "with -addr: the file with which that issuer signs (see bench issuer)")
	c.StringVar(&s.users, "users", "", "what the users' names begin with; with -addr each run makes up new ones")
}

// prepare checks the flags and builds the server if need be. Call clean afterwards.
func (s *servers) prepare(ctx context.Context) error {
	if s.running != "" {
		if s.addr != "" || s.cluster != "" || s.ws {
			return usage("-target names a cluster that runs, and knows its addresses: neither -addr, -cluster nor -ws go with it")
		}
		return nil
	}
	if s.cluster != "" {
		if s.addr != "" {
			return usage("-cluster starts one; -addr names one that runs")
		}
		if _, err := target.ParseLayout(s.cluster); err != nil {
			return usage("-cluster: %w", err)
		}
	}
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
		if s.cluster == "" || s.memnode != "" {
			return nil
		}
	}
	if err := s.build(ctx); err != nil {
		return environment(err)
	}
	return nil
}

// build compiles the server, and what keeps everything in memory if that is what is started.
func (s *servers) build(ctx context.Context) (err error) {
	if s.built, err = os.MkdirTemp("", "gochat-bench"); err != nil {
		return err
	}
	if s.path == "" {
		if s.path, err = target.Build(ctx, s.built); err != nil {
			return err
		}
	}
	if s.cluster != "" && s.memnode == "" {
		s.memnode, err = target.BuildMemory(ctx, s.built)
	}
	return err
}

func (s *servers) clean() {
	if s.built != "" {
		_ = os.RemoveAll(s.built)
	}
}

// with runs f against a server: a fresh one with the given limits raised, or the running one.
func (s *servers) with(ctx context.Context, c *common, raise target.Settings, f func(load.Target) error) error {
	if s.addr != "" || s.running != "" {
		attach := s.attached
		if s.running != "" {
			attach = s.found
		}
		t, err := attach()
		if err != nil {
			return err
		}
		return f(t)
	}
	if s.cluster != "" {
		return s.inMemory(ctx, c, s.cluster, raise, f)
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
	c.raised(server.Raised)
	users := s.users
	if users == "" {
		users = "u"
	}
	addr := server.Addr
	if s.ws {
		addr = server.HTTP
	}
	err = f(load.Target{
		Addr: addr, WS: s.ws, PID: server.PID, Token: server.Issuer.Token, Issuer: server.Issuer.Name, Key: server.Issuer.SignFile, Users: users,
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

// raised tells which limits aren't the shipped ones, each once.
func (c *common) raised(lines []string) {
	for _, line := range lines {
		if !slices.Contains(c.report.Raised, line) {
			c.report.Raised = append(c.report.Raised, line)
			fmt.Fprintln(c.out, "raised    ", line)
		}
	}
}

// inMemory runs f against a fresh cluster on a store in memory.
func (s *servers) inMemory(ctx context.Context, c *common, layout string, raise target.Settings, f func(load.Target) error) error {
	parts, err := target.ParseLayout(layout)
	if err != nil {
		return usage("-cluster: %w", err)
	}
	cluster, err := target.Memory{Server: s.path, Node: s.memnode, Algorithm: s.algorithm, Raise: raise, Parts: parts}.Start(ctx)
	if err != nil {
		return environment(err)
	}
	defer cluster.Stop()
	c.raised(cluster.Raised)
	users := s.users
	if users == "" {
		users = "u"
	}
	err = f(cluster.Target(s.ws, users))
	var failed *load.Failure
	if errors.As(err, &failed) {
		if !cluster.Running() {
			err = fmt.Errorf("%w; a process has ended", err)
		}
		err = fmt.Errorf("%w\nthe processes' logs end:\n%s", err, cluster.Log())
	}
	return err
}

// addresses reads a list of IPv4 addresses with ports.
func addresses(name, list string) (all []netip.AddrPort, err error) {
	for a := range strings.SplitSeq(list, ",") {
		addr, err := netip.ParseAddrPort(strings.TrimSpace(a))
		if err != nil || !addr.Addr().Unmap().Is4() {
			return nil, usage("%s %q: want an IPv4 address and a port, or several", name, list)
		}
		all = append(all, addr)
	}
	return all, nil
}

// processes reads -pids: a list, or a file with a line for each.
func processes(text string) (all []load.Process, err error) {
	if text == "" {
		return nil, nil
	}
	if !strings.Contains(text, "=") {
		b, err := os.ReadFile(text)
		if err != nil {
			return nil, usage("-pids: %w", err)
		}
		text = strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", ",")
	}
	for item := range strings.SplitSeq(text, ",") {
		name, pid, _ := strings.Cut(strings.TrimSpace(item), "=")
		n, err := strconv.Atoi(pid)
		if err != nil || n < 1 || name == "" {
			return nil, usage("-pids %q: want name=PID", item)
		}
		all = append(all, load.Process{Name: name, PID: n})
	}
	return all, nil
}

// attached is the server named by -addr.
func (s *servers) attached() (load.Target, error) {
	var t load.Target
	edges, err := addresses("-addr", s.addr)
	if err != nil {
		return t, err
	}
	t.Addr, t.Also = edges[0], edges[1:]
	if s.http != "" {
		pages, err := addresses("-http", s.http)
		if err != nil {
			return t, err
		}
		t.Stats = func(ctx context.Context) (load.Stats, error) { return target.ReadMetrics(ctx, pages...) }
	}
	if t.Nodes, err = processes(s.pids); err != nil {
		return t, err
	}
	is, err := target.LoadIssuer(s.issuer, s.key)
	if err != nil {
		return t, environment(err)
	}
	t.PID, t.Token, t.Users, t.WS = s.pid, is.Token, s.users, s.ws
	t.Issuer, t.Key = is.Name, is.SignFile
	if t.Users == "" {
		t.Users = newUsers()
	}
	return t, nil
}

// found is the cluster that runs in the directory named by -target.
func (s *servers) found() (load.Target, error) {
	t, err := target.Running(s.running)
	if err != nil {
		return t, environment(fmt.Errorf("%w (it is started by: go run ./tools/cluster up)", err))
	}
	if t.Users = s.users; t.Users == "" {
		t.Users = newUsers()
	}
	return t, nil
}

// newUsers begins the names of users that a server which ran before hasn't seen: the verifier reads conversations from their beginning.
func newUsers() string { return fmt.Sprintf("%s%08x-", target.LocalPrefix, rand.Uint32()) }

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
		return os.Unsetenv(again) // the server would ask what that is
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
