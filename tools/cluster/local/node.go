package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gochat-im/gochat/tools/tikvlocal"
)

// makeKeys has the gochat program make what nodes share.
func (c *Cluster) makeKeys(ctx context.Context) error {
	if text, err := exec.CommandContext(ctx, c.cfg.Binary, "cluster", "keys", c.keys).CombinedOutput(); err != nil {
		return fmt.Errorf("local cluster: making keys: %w\n%s", err, text)
	}
	return nil
}

// newNode makes a node, not yet started.
func (c *Cluster) newNode(role string) (*Process, error) {
	if !slices.Contains(Roles, role) {
		return nil, fmt.Errorf("local cluster: role %q: want one of %s", role, strings.Join(Roles, ", "))
	}
	number := 1
	for _, p := range c.Nodes(role) {
		if p.number == number {
			number++
		}
	}
	p := &Process{Name: fmt.Sprintf("%s-%d", role, number), Role: role, number: number}
	dir := filepath.Join(c.cfg.Dir, p.Name)
	p.Data, p.Config, p.Log = filepath.Join(dir, "data"), filepath.Join(dir, "gochat.yaml"), c.log(p.Name)
	var err error
	if p.Addr, err = c.state.address(p.Name, 0, 0); err != nil {
		return nil, err
	}
	if role != "edge" {
		if p.HTTP, err = c.state.address(p.Name+" monitor", 0, 0); err != nil {
			return nil, err
		}
	} else {
		port := func(base int) int {
			if base == 0 {
				return 0
			}
			return base + number - 1
		}
		if p.TCP, err = c.state.address(p.Name+" tcp", port(c.cfg.TCP), 0); err != nil {
			return nil, err
		}
		if p.HTTP, err = c.state.address(p.Name+" http", port(c.cfg.HTTP), 0); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(p.Data, 0o700); err != nil {
		return nil, fmt.Errorf("local cluster: %w", err)
	}
	if err := os.WriteFile(p.Config, []byte(c.config(p)), 0o600); err != nil {
		return nil, fmt.Errorf("local cluster: %w", err)
	}
	p.command = func() (*exec.Cmd, error) {
		cmd := exec.Command(c.cfg.Binary, "serve", "--config", p.Config)
		if c.cfg.Stores == StoresTest {
			cmd = exec.Command(c.bin("testnode"), "-config", p.Config, "-store", c.via(p, Store), "-bus", c.via(p, Bus))
		}
		cmd.Env = append(os.Environ(), c.cfg.Set...)
		return cmd, nil
	}
	p.ready = func(ctx context.Context, since time.Time, _ []byte) bool {
		n := c.nodes.View().ByID(p.Name)
		return n != nil && n.Started >= since.UnixMilli() && tikvlocal.Answers(ctx, "http://"+p.HTTP+"/readyz")
	}
	return c.add(p), nil
}

// via is the address of a process that nodes stand on, as p is told.
func (c *Cluster) via(p *Process, to string) string {
	at := c
	if c.cfg.On != nil {
		at = c.cfg.On
	}
	return c.cfg.Via(p.Name, to, at.Process(to).Addr)
}

// config is a node's configuration: what differs from the defaults.
func (c *Cluster) config(p *Process) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	b.WriteString(c.cfg.More)
	line("data: %q", p.Data)
	if p.Role == "edge" {
		line("tcp: {listen: %q}", p.TCP)
		line("http: {listen: %q}", p.HTTP)
	}
	line("cluster:")
	line("  roles: [%s]", p.Role)
	line("  node_id: %s", p.Name)
	line("  key_file: %q", filepath.Join(c.keys, "cluster.key"))
	line("  signing_keys: %q", c.keys)
	line("  rpc: {listen: %q, advertise: %q}", p.Addr, c.cfg.Via("*", p.Name, p.Addr))
	line("  etcd: {endpoints: [%q], prefix: %s}", "http://"+c.via(p, Etcd), c.Prefix())
	if p.Role == "edge" { // it has no store
		line("  clients: [%q]", p.TCP)
		return b.String()
	}
	line("  monitor: %q", p.HTTP)
	var pds []string
	names := Name
	at := c
	if c.cfg.On != nil {
		at = c.cfg.On
	}
	for _, o := range at.Processes() {
		if strings.HasPrefix(o.Name, PD+"-") {
			pds = append(pds, fmt.Sprintf("%q", c.via(p, o.Name)))
		}
	}
	if c.cfg.Stores == StoresTest { // named, but the stand-ins are used
		pds, names = []string{fmt.Sprintf("%q", c.via(p, Store))}, Bus
	}
	// Everything shares one machine's processors: a round, a commit or a publish less is worth more here than one beside another.
	line("  pace: 22ms")
	line("  store: {kind: tikv, tikv: {pd: [%s], keyspace: %d, regions: 1}}", strings.Join(pds, ", "), c.cfg.Keyspace)
	line("  bus: {kind: rocketmq, rocketmq: {name_servers: [%q], topic: %s, queues: %d}}", c.via(p, names), c.Topic(), max(2, c.cfg.Fanouts))
	return b.String()
}
