package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/tools/loopback"
)

// Part is one process of a cluster.
type Part struct {
	Name  string
	Roles []string // none: it is the whole server, and there is no cluster
}

// Alone is the layout of one process that is everything.
const Alone = "alone"

// ParseLayout reads which processes a cluster has: roles of one process joined by +, processes separated by commas,
// several alike by *, as in edge*2,logic*3,fanout+worker.
func ParseLayout(text string) (parts []Part, err error) {
	if text == Alone {
		return []Part{{Name: Alone}}, nil
	}
	roles := map[string]int{}
	have := map[string]bool{}
	for item := range strings.SplitSeq(text, ",") {
		kind, times, several := strings.Cut(strings.TrimSpace(item), "*")
		n := 1
		if several {
			if n, err = strconv.Atoi(times); err != nil || n < 1 || n > 64 {
				return nil, fmt.Errorf("%q: want a number from 1 to 64 behind the *", item)
			}
		}
		list := strings.Split(kind, "+")
		for _, r := range list {
			switch r {
			case "edge", "logic", "fanout", "worker":
				have[r] = true
			default:
				return nil, fmt.Errorf("%q: want edge, logic, fanout or worker, joined by +, or %s", item, Alone)
			}
		}
		for range n {
			roles[kind]++
			parts = append(parts, Part{Name: fmt.Sprintf("%s-%d", strings.ReplaceAll(kind, "+", "."), roles[kind]), Roles: list})
		}
	}
	for _, r := range []string{"edge", "logic", "fanout", "worker"} {
		if !have[r] {
			return nil, fmt.Errorf("%s: no process is %s", text, r)
		}
	}
	return parts, nil
}

// Cluster is a cluster of processes on this machine, on a store and a bus that are memory.
type Cluster struct {
	Edges  []netip.AddrPort // binary protocol
	HTTP   []netip.AddrPort // of the edges
	Nodes  []load.Process
	Issuer *Issuer
	Raised []string

	counts netip.AddrPort // of the process that holds the memory
	dir    string
	cmds   []*exec.Cmd
	ended  chan error // of each that ends
	logs   []string
}

// BuildMemory compiles the server that keeps everything in memory into dir and returns its path.
func BuildMemory(ctx context.Context, dir string) (string, error) {
	return build(ctx, dir, "memnode", "github.com/gochat-im/gochat/bench/memnode")
}

// Memory is a cluster to start.
type Memory struct {
	Server    string // the gochat binary, which makes keys and tells what it ships with
	Node      string // what BuildMemory made
	Algorithm string // of the tokens
	Raise     Settings
	Parts     []Part
}

// Start runs the processes and waits until all edges are ready. Stop them.
func (m Memory) Start(ctx context.Context) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "gochat-bench")
	if err != nil {
		return nil, fmt.Errorf("directory for the cluster: %w", err)
	}
	c := &Cluster{dir: dir, ended: make(chan error, len(m.Parts)+1)}
	if err := c.start(ctx, m); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// member is a process with its addresses.
type member struct {
	Part
	tcp, http, rpc netip.AddrPort
}

func (p *member) has(role string) bool {
	return len(p.Roles) == 0 || strings.Contains(","+strings.Join(p.Roles, ",")+",", ","+role+",")
}

func (p *member) stored() bool { return p.has("logic") || p.has("fanout") || p.has("worker") }

func (c *Cluster) start(ctx context.Context, m Memory) (err error) {
	if c.Issuer, err = NewIssuer(c.dir, m.Algorithm); err != nil {
		return err
	}
	if c.Raised, err = raised(ctx, m.Server, m.Raise); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, m.Server, "cluster", "keys", filepath.Join(c.dir, "keys")).CombinedOutput(); err != nil {
		return fmt.Errorf("make the cluster's keys: %w\n%s", err, out)
	}
	members := make([]member, len(m.Parts))
	stored := 0
	for i, p := range m.Parts {
		members[i].Part = p
		for _, a := range []*netip.AddrPort{&members[i].tcp, &members[i].http, &members[i].rpc} {
			if *a, err = loopback.Free(0); err != nil {
				return err
			}
		}
		if members[i].stored() {
			stored++
		}
	}
	if c.counts, err = loopback.Free(0); err != nil {
		return err
	}
	// What a single process needs lies in its memory; several share what another one serves.
	counts := []string{"-counts", c.counts.String()}
	var shared []string
	if stored > 1 {
		store, err := loopback.Free(0)
		if err != nil {
			return err
		}
		bus, err := loopback.Free(0)
		if err != nil {
			return err
		}
		if err := c.run(m.Node, "store", append([]string{"-serve-store", store.String(), "-serve-bus", bus.String()}, counts...)); err != nil {
			return err
		}
		if err := c.answers(ctx, store, bus); err != nil {
			return fmt.Errorf("the store: %w\n%s", err, c.Log())
		}
		shared, counts = []string{"-store", store.String(), "-bus", bus.String()}, nil
	}
	for i := range members {
		p := &members[i]
		file := filepath.Join(c.dir, p.Name+".yaml")
		if err := os.WriteFile(file, []byte(c.config(members, i, stored, m.Raise)), 0o600); err != nil {
			return fmt.Errorf("write the configuration of %s: %w", p.Name, err)
		}
		args := []string{"-config", file}
		if p.stored() {
			args = append(append(args, shared...), counts...)
		}
		if err := c.run(m.Node, p.Name, args); err != nil {
			return err
		}
	}
	for i := range members {
		p := &members[i]
		if !p.has("edge") {
			continue
		}
		c.Edges, c.HTTP = append(c.Edges, p.tcp), append(c.HTTP, p.http)
		if err := c.ready(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// run starts a process.
func (c *Cluster) run(path, name string, args []string) error {
	file := filepath.Join(c.dir, name+".log")
	log, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("the log of %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// Should the load generator be killed, its servers go with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	c.cmds, c.logs = append(c.cmds, cmd), append(c.logs, file)
	c.Nodes = append(c.Nodes, load.Process{Name: name, PID: cmd.Process.Pid})
	go func() {
		err := cmd.Wait()
		c.ended <- fmt.Errorf("%s has ended: %v", name, err)
	}()
	return nil
}

// config is the configuration file of a member.
func (c *Cluster) config(members []member, i, stored int, raise Settings) string {
	p := &members[i]
	s := Server{Addr: p.tcp, HTTP: p.http, Data: filepath.Join(c.dir, p.Name), Issuer: c.Issuer}
	var b strings.Builder
	b.WriteString(s.config(raise))
	if len(p.Roles) == 0 {
		return b.String()
	}
	keys := filepath.Join(c.dir, "keys")
	fmt.Fprintf(&b, "cluster:\n  roles: [%s]\n  node_id: %q\n  key_file: %q\n  signing_keys: %q\n  rpc: {listen: %q}\n",
		strings.Join(p.Roles, ", "), p.Name, filepath.Join(keys, "cluster.key"), keys, p.rpc)
	if p.stored() && stored > 1 {
		// It is given others in their place.
		b.WriteString("  store: {kind: tikv, tikv: {pd: [\"127.0.0.1:1\"]}}\n  bus: {kind: rocketmq, rocketmq: {name_servers: [\"127.0.0.1:1\"], topic: none}}\n")
	}
	b.WriteString("  nodes:\n")
	for n := range members {
		o := &members[n]
		fmt.Fprintf(&b, "    - {id: %q, rpc: %q, roles: [%s], worker: %d}\n", o.Name, o.rpc, strings.Join(o.Roles, ", "), n+1)
	}
	return b.String()
}

// answers waits until somebody listens at each of the addresses.
func (c *Cluster) answers(ctx context.Context, addrs ...netip.AddrPort) error {
	return c.wait(ctx, func() error {
		for _, a := range addrs {
			conn, err := net.DialTimeout("tcp", a.String(), time.Second)
			if err != nil {
				return err
			}
			_ = conn.Close()
		}
		return nil
	})
}

// ready waits until an edge says that it is.
func (c *Cluster) ready(ctx context.Context, p *member) error {
	client := http.Client{Timeout: time.Second}
	err := c.wait(ctx, func() error {
		resp, err := client.Get("http://" + p.http.String() + "/readyz")
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s isn't ready: %w\n%s", p.Name, err, c.Log())
	}
	return nil
}

// wait asks again and again until the answer is yes.
func (c *Cluster) wait(ctx context.Context, ask func() error) error {
	for deadline := time.Now().Add(patience); ; {
		err := ask()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-c.ended:
			c.ended <- err
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Target is the cluster as a load sees it.
func (c *Cluster) Target(ws bool, users string) load.Target {
	edges := c.Edges
	if ws {
		edges = c.HTTP
	}
	return load.Target{
		Addr: edges[0], Also: edges[1:], WS: ws, Nodes: c.Nodes, Token: c.Issuer.Token, Issuer: c.Issuer.Name, Key: c.Issuer.SignFile, Users: users,
		Stats: func(ctx context.Context) (load.Stats, error) {
			return ReadMetrics(ctx, append([]netip.AddrPort{c.counts}, c.HTTP...)...)
		},
	}
}

// Running reports whether no process has ended.
func (c *Cluster) Running() bool { return len(c.ended) == 0 }

// Log returns the end of what each process wrote, if it wrote anything.
func (c *Cluster) Log() string {
	const most = 2 << 10
	var all strings.Builder
	for i, file := range c.logs {
		if b, err := os.ReadFile(file); err == nil && len(b) > 0 {
			fmt.Fprintf(&all, "%s:\n%s\n", c.Nodes[i].Name, b[max(0, len(b)-most):])
		}
	}
	return all.String()
}

// Stop ends the processes and removes what they had.
func (c *Cluster) Stop() {
	for _, cmd := range c.cmds {
		_ = cmd.Process.Kill() // what they hold is gone with them anyway
	}
	for range c.cmds {
		<-c.ended
	}
	_ = os.RemoveAll(c.dir)
}
