// Package local runs a whole cluster on this machine, over loopback: nodes of the built gochat program as processes of their own,
// and what they stand on: PD and a server of TiKV's API, RocketMQ and etcd, or, for tests that need Go alone, a store and a
// bus in memory. It builds and fetches what it needs.
//
// What a cluster is and what it ran on lies in one directory. Processes that outlive whoever started them are found again by
// a mark in their environment, and ended by Down.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/router/etcd"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
)

// Kinds of what nodes keep everything in.
const (
	StoresReal = "real" // PD, the server of TiKV's API, RocketMQ
	StoresTest = "test" // a store and a bus in one process's memory each; nodes are tools/cluster/testnode
)

// Roles of nodes, in the order of their start and, backwards, of their end.
var Roles = []string{"logic", "worker", "fanout", "edge"}

// Names of the processes that aren't nodes. A node's name is its role, a dash and a number from 1.
const (
	Etcd   = "etcd"
	PD     = "pd" // with a dash and a number from 1
	TiKV   = "tikv"
	Name   = "namesrv"
	Broker = "broker"
	Store  = "store" // with StoresTest, as Bus
	Bus    = "bus"
)

// Config of a Cluster. Zero values mean the defaults; of nodes, none.
type Config struct {
	Dir   string // of the cluster: what it holds, configurations, logs. Default: Root/.cache/cluster
	Root  string // the repository. Default: the one around the working directory
	Cache string // where what is built and fetched for all clusters is kept. Default: Root/.cache

	// Binary is the gochat program that nodes run. Default: it is built from Root into Dir/bin.
	Binary string
	Tags   string // build tags of what is built here, as faultpoints

	Stores string // StoresReal (the default) or StoresTest

	PDs                             int // default 1
	Edges, Logics, Fanouts, Workers int // how many nodes of each role

	// TCP and HTTP are the ports of edge-1, those of edge-2 being one higher, and so on. Default: any that are free.
	TCP, HTTP int

	// Set is put into the environment of every node: GOCHAT_LIMITS__INFLIGHT=64.
	Set []string

	// More is put into every node's configuration, as it stands: issuers, which Set can't name.
	More string

	// On is another cluster, with StoresReal, on whose etcd, store and bus this one stands, with a part of its own of each: it has nodes alone.
	// Keyspace, 1 to 65535, is another one for each.
	On       *Cluster
	Keyspace int

	// Sync has the server of TiKV's API and the broker write what they take to the disk before they say so.
	Sync bool

	// Via returns the address that one process is told of another's, in the place of the true one: a proxy's. From is "*" where all are
	// told the same: of a node's calls, and of TiKV. Broker's may have another host, but not another port. Nil: the true ones.
	Via func(from, to, address string) string

	// Detach has the processes go on when the one that started them ends. Otherwise they end with it, whatever ends it.
	Detach bool

	Out io.Writer // is told what goes on. Default: nobody is
}

func (c *Config) setDefaults() error {
	if c.Root == "" {
		root, err := findRoot()
		if err != nil {
			return err
		}
		c.Root = root
	}
	if c.Cache == "" {
		c.Cache = filepath.Join(c.Root, ".cache")
	}
	if c.Dir == "" {
		c.Dir = filepath.Join(c.Root, ".cache", "cluster")
	}
	for _, dir := range []*string{&c.Root, &c.Cache, &c.Dir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return fmt.Errorf("local cluster: %w", err)
		}
		*dir = abs
	}
	if c.Stores == "" {
		c.Stores = StoresReal
	}
	c.PDs = max(c.PDs, 1)
	if c.Out == nil {
		c.Out = io.Discard
	}
	if c.Via == nil {
		c.Via = func(_, _, address string) string { return address }
	}
	return c.validate()
}

func (c *Config) validate() error {
	switch {
	case c.Stores != StoresReal && c.Stores != StoresTest:
		return fmt.Errorf("local cluster: stores %q: want %s or %s", c.Stores, StoresReal, StoresTest)
	case c.On != nil && (c.Stores != StoresReal || c.On.cfg.Stores != StoresReal || c.Keyspace < 1 || c.Keyspace > 1<<16-1):
		return errors.New("local cluster: on another one: want a keyspace of 1 to 65535, and real stores")
	case min(c.Edges, c.Logics, c.Fanouts, c.Workers) < 0:
		return errors.New("local cluster: less than no node of a role")
	case c.PDs > 9 || max(c.Edges, c.Logics, c.Fanouts, c.Workers) > 99:
		return errors.New("local cluster: more processes than one machine is for")
	}
	return nil
}

// Cluster is a cluster that runs. Its methods may be called at any time, by any goroutine.
type Cluster struct {
	cfg   Config
	state *state
	spawn *spawner
	keys  string // directory of the keys that nodes share

	client *clientv3.Client
	nodes  *etcdnodes.Source // what etcd knows of the nodes

	mu    sync.Mutex
	procs []*Process // in the order of their start
}

// Start builds and fetches what isn't there, starts a cluster, and returns when all of it is ready. What the directory
// holds of a cluster that ran there before is used again. When it fails nothing goes on running.
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, keys: filepath.Join(cfg.Dir, "keys")}
	if c.state, err = claim(cfg.Dir); err != nil {
		return nil, err
	}
	c.spawn = newSpawner(cfg.Detach)
	defer func() {
		if err != nil {
			c.Kill()
		}
	}()
	if err := c.build(ctx); err != nil {
		return nil, err
	}
	if cfg.On == nil {
		if err := c.startBelow(ctx); err != nil {
			return nil, err
		}
	}
	if c.client, err = etcd.Dial(ctx, etcd.Config{Endpoints: []string{c.EtcdURL()}}); err != nil {
		return nil, err
	}
	if c.nodes, err = etcdnodes.Open(ctx, etcdnodes.Config{Client: c.client, Prefix: c.Prefix(), Logger: slog.New(slog.DiscardHandler)}); err != nil {
		return nil, fmt.Errorf("local cluster: reading the nodes in etcd: %w", err)
	}
	if err := c.makeKeys(ctx); err != nil {
		return nil, err
	}
	var started []*Process
	for _, of := range []struct {
		role  string
		count int
	}{{"logic", cfg.Logics}, {"worker", cfg.Workers}, {"fanout", cfg.Fanouts}, {"edge", cfg.Edges}} {
		for range of.count {
			p, err := c.newNode(of.role)
			if err != nil {
				return nil, err
			}
			started = append(started, p)
		}
	}
	if err := together(started, func(p *Process) error { return p.Start(ctx) }); err != nil {
		return nil, err
	}
	return c, nil
}

// together calls fn for all at once and returns all errors.
func together(ps []*Process, fn func(*Process) error) error {
	errs := make([]error, len(ps))
	var wg sync.WaitGroup
	for i, p := range ps {
		wg.Go(func() { errs[i] = fn(p) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Process returns a process of the cluster, not of one that it stands on, by its name; nil: there is none.
func (c *Cluster) Process(name string) *Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.procs {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// Processes returns all, in the order of their start; nodes of a role by number. The slice is the caller's.
func (c *Cluster) Processes() []*Process {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := slices.Clone(c.procs)
	slices.SortStableFunc(all, func(a, b *Process) int {
		if n := slices.Index(Roles, a.Role) - slices.Index(Roles, b.Role); n != 0 || a.Role == "" {
			return n
		}
		return a.number - b.number
	})
	return all
}

// Nodes returns the nodes of a role, by number.
func (c *Cluster) Nodes(role string) []*Process {
	var some []*Process
	for _, p := range c.Processes() {
		if p.Role == role {
			some = append(some, p)
		}
	}
	return some
}

// View returns which nodes etcd knows of, as this process was told last.
func (c *Cluster) View() *nodes.View { return c.nodes.View() }

// Subscribe has fn called with each change of the nodes that etcd knows of, in order, as router.Source says: a router can be made of a Cluster.
func (c *Cluster) Subscribe(fn func(old, new *nodes.View)) (now *nodes.View, cancel func()) {
	return c.nodes.Subscribe(fn)
}

// EtcdURL is the endpoint of etcd.
func (c *Cluster) EtcdURL() string {
	if c.cfg.On != nil {
		return c.cfg.On.EtcdURL()
	}
	return "http://" + c.Process(Etcd).Addr
}

// Prefix is what the keys of this cluster begin with in etcd.
func (c *Cluster) Prefix() string {
	if c.cfg.On != nil {
		return fmt.Sprintf("%s-%d", etcdnodes.DefaultPrefix, c.cfg.Keyspace)
	}
	return etcdnodes.DefaultPrefix
}

// Topic is that of its bus.
func (c *Cluster) Topic() string {
	if c.cfg.On != nil {
		return fmt.Sprintf("gochat-events-%d", c.cfg.Keyspace)
	}
	return "gochat-events"
}

// Keyspace is that of its rows in the store.
func (c *Cluster) Keyspace() int { return c.cfg.Keyspace }

// Keys is the directory of the keys that the nodes share.
func (c *Cluster) Keys() string { return c.keys }

// Binary is the gochat program.
func (c *Cluster) Binary() string { return c.cfg.Binary }

// Dir is the cluster's directory.
func (c *Cluster) Dir() string { return c.cfg.Dir }

// AddNode starts one more node of a role and returns when it is ready. Its number is the lowest that is free: a node that takes
// the place of one that was removed is that one started again.
func (c *Cluster) AddNode(ctx context.Context, role string) (*Process, error) {
	p, err := c.newNode(role)
	if err != nil {
		return nil, err
	}
	if err := p.Start(ctx); err != nil {
		c.forget(p)
		return nil, err
	}
	return p, nil
}

// AddNodes starts count more nodes of a role at once and returns when all are ready; if it fails none of them is left.
func (c *Cluster) AddNodes(ctx context.Context, role string, count int) (added []*Process, err error) {
	for range count {
		var p *Process
		if p, err = c.newNode(role); err != nil {
			break
		}
		added = append(added, p)
	}
	if err == nil {
		err = together(added, func(p *Process) error { return p.Start(ctx) })
	}
	if err != nil {
		for _, p := range added {
			c.forget(p)
		}
		return nil, err
	}
	return added, nil
}

// RemoveNodes is RemoveNode of several at once.
func (c *Cluster) RemoveNodes(ctx context.Context, names ...string) error {
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { errs[i] = c.RemoveNode(ctx, name) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// RemoveNode ends a node in good order, and returns when it has ended.
func (c *Cluster) RemoveNode(ctx context.Context, name string) error {
	p := c.Process(name)
	if p == nil || p.Role == "" {
		return fmt.Errorf("local cluster: there is no node %q", name)
	}
	err := p.Term(ctx)
	c.forget(p)
	return err
}

// forget has p no longer be one of the cluster's.
func (c *Cluster) forget(p *Process) {
	p.Kill()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.procs = slices.DeleteFunc(c.procs, func(o *Process) bool { return o == p })
}

// Stop ends everything in good order, nodes before what they stand on, and what doesn't end is killed. What the cluster holds stays.
// The error names what didn't end by itself or not in good order.
func (c *Cluster) Stop(ctx context.Context) error {
	var errs []error
	for _, role := range slices.Backward(Roles) {
		errs = append(errs, together(c.Nodes(role), func(p *Process) error { return p.Term(ctx) }))
	}
	// What was started last stands on what was started before it.
	for _, p := range slices.Backward(c.Processes()) {
		if p.Role == "" {
			errs = append(errs, p.Term(ctx))
		}
	}
	c.close()
	return errors.Join(errs...)
}

// Kill ends everything at once.
func (c *Cluster) Kill() {
	for _, p := range c.Processes() {
		p.Kill()
	}
	c.close()
}

func (c *Cluster) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if c.nodes != nil {
		_ = c.nodes.Close(ctx)
	}
	if c.client != nil {
		_ = c.client.Close()
	}
	c.spawn.close()
}

// Release leaves a detached cluster to itself: it goes on until Down.
func (c *Cluster) Release() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.nodes.Close(ctx)
	_ = c.client.Close()
	c.spawn.close()
}

// findRoot returns the directory of this module, which the working directory is in.
func findRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("local cluster: %w", err)
	}
	for d := dir; ; d = filepath.Dir(d) {
		text, err := os.ReadFile(filepath.Join(d, "go.mod"))
		if err == nil && strings.HasPrefix(string(text), "module github.com/gochat-im/gochat\n") {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("local cluster: %s is not in gochat's repository", dir)
		}
	}
}
