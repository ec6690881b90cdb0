package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	rocketmq "github.com/gochat-im/gochat/tools/rocketmq/local"
	"github.com/gochat-im/gochat/tools/tikvlocal"
)

// build builds and fetches what the cluster needs and isn't there.
func (c *Cluster) build(ctx context.Context) error {
	bin := c.bin("")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("local cluster: %w", err)
	}
	var programs []string
	if c.cfg.On == nil {
		programs = append(programs, "./tools/cluster")
	} else if c.cfg.Binary == "" {
		c.cfg.Binary = c.cfg.On.Binary()
	}
	if c.cfg.Binary == "" {
		c.cfg.Binary = c.bin("gochat")
		programs = append(programs, "./cmd/gochat")
	}
	if c.cfg.Stores == StoresTest {
		programs = append(programs, "./tools/cluster/testnode")
	}
	if len(programs) > 0 {
		fmt.Fprintf(c.cfg.Out, "building %s\n", strings.Join(programs, ", "))
		// All at once, each under its own name: they are linked side by side.
		cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-tags", c.cfg.Tags, "-o", bin + string(filepath.Separator)}, programs...)...)
		cmd.Dir = c.cfg.Root
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("local cluster: building %s: %w\n%s", strings.Join(programs, ", "), err, text)
		}
	}
	if c.cfg.Stores == StoresTest || c.cfg.On != nil {
		return nil
	}
	for _, program := range []string{"java", "mvn"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("local cluster: RocketMQ needs Java 17, and Maven to fetch it: %w", err)
		}
	}
	if err := tikvlocal.Build(ctx, c.cfg.Root, filepath.Join(c.cfg.Cache, "tikv"), c.cfg.Out); err != nil {
		return err
	}
	_, err := rocketmq.Fetch(ctx, c.cfg.Cache, c.cfg.Out)
	return err
}

// bin is where a program lies that was built for this cluster.
func (c *Cluster) bin(name string) string { return filepath.Join(c.cfg.Dir, "bin", name) }

// below makes a process that nodes stand on, which is ready when it listens, unless it has another way to tell.
func (c *Cluster) below(name, addr string, command func() (*exec.Cmd, error)) *Process {
	return c.add(&Process{
		Name: name, Addr: addr, Data: filepath.Join(c.cfg.Dir, name), Log: c.log(name), command: command,
		ready: func(context.Context, time.Time, []byte) bool { return listens(addr) },
	})
}

func (c *Cluster) log(name string) string { return filepath.Join(c.cfg.Dir, name+".log") }

// own makes a process that is a sub-command of the program of this tool.
func (c *Cluster) own(name, addr string, args ...string) *Process {
	return c.below(name, addr, func() (*exec.Cmd, error) { return exec.Command(c.bin("cluster"), args...), nil })
}

// startBelow starts what nodes stand on.
func (c *Cluster) startBelow(ctx context.Context) error {
	addr := map[string]string{}
	for _, what := range []string{Etcd, Etcd + " peers", TiKV, Name, Store, Bus} {
		var err error
		if addr[what], err = c.state.address(what, 0, 0); err != nil {
			return err
		}
	}
	etcd := c.own(Etcd, addr[Etcd], "etcd", "-addr", addr[Etcd], "-peers", addr[Etcd+" peers"], "-data", filepath.Join(c.cfg.Dir, Etcd, "data"))
	etcd.ready = func(ctx context.Context, _ time.Time, _ []byte) bool {
		return tikvlocal.Answers(ctx, "http://"+addr[Etcd]+"/health")
	}
	if c.cfg.Stores == StoresTest {
		store := c.own(Store, addr[Store], "store", "-addr", addr[Store])
		bus := c.own(Bus, addr[Bus], "bus", "-addr", addr[Bus])
		return together([]*Process{etcd, store, bus}, func(p *Process) error { return p.Start(ctx) })
	}
	pds, err := c.placementDrivers()
	if err != nil {
		return err
	}
	broker, err := c.state.address(Broker, 0, 2)
	if err != nil {
		return err
	}
	shown, _, _ := strings.Cut(c.cfg.Via("*", Broker, broker), ":")
	mq := rocketmq.Config{
		Dir: filepath.Join(c.cfg.Dir, "rocketmq"), Lib: filepath.Join(c.cfg.Cache, "rocketmq-"+rocketmq.Version),
		NameServer: addr[Name], Broker: broker, BrokerHost: shown, Sync: c.cfg.Sync,
	}
	up := func(_ context.Context, _ time.Time, said []byte) bool {
		return strings.Contains(string(said), rocketmq.UpText)
	}
	ns := c.below(Name, addr[Name], func() (*exec.Cmd, error) { return rocketmq.NameServerCommand(mq) })
	ns.ready = up
	if err := together(append(pds, etcd, ns), func(p *Process) error { return p.Start(ctx) }); err != nil {
		return err
	}
	b := c.below(Broker, broker, func() (*exec.Cmd, error) { return rocketmq.BrokerCommand(mq) })
	b.ready = up
	return together([]*Process{c.server(addr[TiKV], pds), b}, func(p *Process) error { return p.Start(ctx) })
}

// placementDrivers makes the processes of PD.
func (c *Cluster) placementDrivers() ([]*Process, error) {
	type member struct{ name, clients, peers string }
	var members []member
	var initial []string
	for i := range c.cfg.PDs {
		m := member{name: fmt.Sprintf("%s-%d", PD, i+1)}
		var err error
		if m.clients, err = c.state.address(m.name, 0, 0); err != nil {
			return nil, err
		}
		if m.peers, err = c.state.address(m.name+" peers", 0, 0); err != nil {
			return nil, err
		}
		members = append(members, m)
		initial = append(initial, m.name+"=http://"+m.peers)
	}
	var pds []*Process
	for i, m := range members {
		p := c.below(m.name, m.clients, func() (*exec.Cmd, error) {
			return exec.Command(filepath.Join(c.cfg.Cache, "tikv", "pdserver"), "--name", m.name, "--data-dir", filepath.Join(c.cfg.Dir, m.name, "data"),
				"--client-urls", "http://"+m.clients, "--advertise-client-urls", "http://"+c.cfg.Via("*", m.name, m.clients), "--peer-urls", "http://"+m.peers,
				"--initial-cluster", strings.Join(initial, ",")), nil
		})
		p.number = i + 1
		p.ready = func(ctx context.Context, _ time.Time, _ []byte) bool {
			return tikvlocal.Answers(ctx, "http://"+m.clients+"/pd/api/v1/health")
		}
		pds = append(pds, p)
	}
	return pds, nil
}

// server makes the process of the server of TiKV's API.
func (c *Cluster) server(addr string, pds []*Process) *Process {
	var at []string
	for _, p := range pds {
		at = append(at, c.cfg.Via(TiKV, p.Name, p.Addr))
	}
	data := filepath.Join(c.cfg.Dir, TiKV, "data")
	args := []string{"-pd", strings.Join(at, ","), "-addr", addr, "-advertise", c.cfg.Via("*", TiKV, addr), "-data", data}
	if c.cfg.Sync {
		args = append(args, "-sync")
	}
	p := c.below(TiKV, addr, func() (*exec.Cmd, error) {
		return exec.Command(filepath.Join(c.cfg.Cache, "tikv", "tikvserver"), args...), nil
	})
	// It listens before it has registered: PD knows the leader of a region when its first heartbeat has come.
	p.ready = func(ctx context.Context, _ time.Time, said []byte) bool {
		return strings.Contains(string(said), "ready "+addr) && tikvlocal.Leads(ctx, pds[0].Addr)
	}
	return p
}
