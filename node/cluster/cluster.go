// Package cluster makes a process a node of its cluster: who it is, which others there are, and
// how they are called.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/router"
	"github.com/gochat-im/gochat/router/etcd"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
	"github.com/gochat-im/gochat/router/settings"
	"github.com/gochat-im/gochat/services/link"
	"github.com/gochat-im/gochat/services/remote"
)

// Config of a Cluster.
type Config struct {
	config.Config

	// Source stands in for what Config says of which nodes there are, this one among them: tests change it.
	// It stays its owner's.
	Source router.Source

	// Draining is called when somebody asks this node to leave, or with false to stay after all. It must not block.
	Draining func(on bool)

	Logger *slog.Logger
}

// Cluster is what a node knows of the others. Its fields don't change.
type Cluster struct {
	Self   nodes.Node // as this process has begun
	Keys   link.Keys
	Router *router.Router
	Pool   *remote.Pool

	registry *etcdnodes.Source // nil: the nodes are listed
	etcd     *clientv3.Client
	prefix   string // of the installation in etcd
	log      *slog.Logger
	away     atomic.Bool // etcd is
}

// joinTime is what a node has to be let in: a process that had its id before may have to lapse.
const joinTime = 30 * time.Second

// Open makes this process a node, which the others don't see before Announce. What it opened it closes again when it fails.
func Open(cfg Config) (_ *Cluster, err error) {
	c := &Cluster{log: cfg.Logger}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if c.Keys, err = config.ReadClusterKeys(cfg.Cluster.KeyFile); err != nil {
		return nil, err
	}
	roles, err := nodes.ParseRoles(cfg.Cluster.Roles)
	if err != nil {
		return nil, fmt.Errorf("cluster.roles: %w", err)
	}
	c.Self = nodes.Node{
		ID: cfg.Cluster.NodeID, RPC: cfg.Cluster.RPC.Advertise, Roles: roles, Weight: uint32(cfg.Cluster.Weight), Zone: cfg.Cluster.Zone,
		Clients: cfg.Cluster.Clients, HTTP: cfg.Cluster.HTTP, Level: msgstore.FeatureLevel, Start: nodes.NewStart(), Started: time.Now().UnixMilli(),
	}
	if c.Self.RPC == "" {
		c.Self.RPC = cfg.Cluster.RPC.Listen
	}
	source := cfg.Source
	switch {
	case source != nil:
		err = c.listed(source)
	case len(cfg.Cluster.Nodes) > 0:
		source, err = c.list(cfg.Cluster.Nodes)
	default:
		source, err = c.join(cfg)
	}
	if err != nil {
		return nil, err
	}
	if c.Router, err = router.New(router.Config{Source: source, Self: c.Self, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	if c.Pool, err = remote.NewPool(remote.PoolConfig{Self: c.Self.ID, Keys: c.Keys, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	c.Router.Subscribe(func(old, new *router.Snapshot) {
		for _, n := range old.View().Nodes() {
			if !n.Same(new.View().ByID(n.ID)) {
				c.Pool.Left(n.RPC)
			}
		}
	})
	return c, nil
}

// listed takes this node's number, and its start, from a list that it is in.
func (c *Cluster) listed(source router.Source) error {
	n := source.View().ByID(c.Self.ID)
	if n == nil {
		return fmt.Errorf("cluster: the node %q isn't among the nodes", c.Self.ID)
	}
	c.Self.Worker, c.Self.Start = n.Worker, n.Start
	return nil
}

// list makes a source of a list in the configuration. What starts another time is not known of the others there: they
// count as the same process for good.
func (c *Cluster) list(peers []config.Peer) (router.Source, error) {
	var all []nodes.Node
	for _, p := range peers {
		roles, err := nodes.ParseRoles(p.Roles)
		if err != nil {
			return nil, fmt.Errorf("cluster.nodes: %s: %w", p.ID, err)
		}
		n := nodes.Node{ID: p.ID, Worker: uint32(p.Worker), RPC: p.RPC, Roles: roles, Weight: uint32(p.Weight), Zone: p.Zone, Clients: p.Clients, HTTP: p.HTTP, Level: msgstore.FeatureLevel}
		if p.ID == c.Self.ID {
			if roles != c.Self.Roles {
				return nil, fmt.Errorf("cluster.nodes: %s has the roles %s there, and %s in cluster.roles", p.ID, roles, c.Self.Roles)
			}
			n.Start, c.Self.Worker = c.Self.Start, n.Worker
		}
		all = append(all, n)
	}
	return nodes.NewStatic(all...)
}

// join makes this process one of the nodes in etcd.
func (c *Cluster) join(cfg Config) (router.Source, error) {
	ctx, cancel := context.WithTimeout(context.Background(), joinTime)
	defer cancel()
	e := cfg.Cluster.Etcd
	defer config.Waiting(cfg.Logger, "etcd", e.Endpoints, joinTime)()
	dial := etcd.Config{Endpoints: e.Endpoints, User: e.User, TLS: etcd.TLS(e.TLS), Logger: cfg.Logger}
	if e.PasswordFile != "" {
		var err error
		if dial.Password, err = config.ReadSecret(e.PasswordFile); err != nil {
			return nil, fmt.Errorf("cluster.etcd.password_file: %w", err)
		}
	}
	var err error
	c.prefix = e.Prefix
	if c.etcd, err = etcd.Dial(ctx, dial); err != nil {
		return nil, err
	}
	if c.registry, err = etcdnodes.Open(ctx, etcdnodes.Config{Client: c.etcd, Prefix: e.Prefix, Logger: cfg.Logger, Events: etcdnodes.Events{Draining: cfg.Draining, Away: c.away.Store}}); err != nil {
		return nil, fmt.Errorf("reading the nodes in etcd: %w", err)
	}
	if c.Self, err = c.registry.Join(ctx, c.Self); err != nil {
		return nil, fmt.Errorf("joining the nodes in etcd: %w", err)
	}
	return c.registry, nil
}

// Settings follows what etcd has for all nodes, whoever calls closes it; nil: the nodes are listed, and there is nothing.
// apply is called for what there is before it returns. See settings.Config.
func (c *Cluster) Settings(ctx context.Context, apply func(name string, value []byte) error) (*settings.Settings, error) {
	if c.registry == nil {
		return nil, nil
	}
	return settings.Open(ctx, settings.Config{Client: c.etcd, Prefix: c.prefix, Apply: apply, Logger: c.log})
}

// Announce shows this node to the others: it serves.
func (c *Cluster) Announce(ctx context.Context) error {
	if c.registry == nil {
		return nil
	}
	return c.registry.Announce(ctx)
}

// Drain says that this node is about to leave: others take its slots while it still answers.
func (c *Cluster) Drain(ctx context.Context) error {
	if c.registry == nil {
		return nil
	}
	return c.registry.SetDraining(ctx, true)
}

// Listed reports whether the nodes are a list, which nobody can change while they run.
func (c *Cluster) Listed() bool { return c.registry == nil }

// Level returns the feature level in force: what takes a higher one to be read may not be sent to other nodes, since some may not know it,
// nor, before the store says that it has it (storage.Storage.Level), be stored. Ask each time; it grows while the node runs, and never falls. A list's is the lowest of its nodes', which are all of
// this release as far as it knows.
func (c *Cluster) Level() uint32 {
	if c.registry == nil {
		return c.Router.Snapshot().View().Level()
	}
	return c.registry.Level()
}

// Recall tells of a feature level that was in force: the store has it.
func (c *Cluster) Recall(level uint32) {
	if c.registry != nil {
		c.registry.Recall(level)
	}
}

// WorkerHeld reports whether this process may make ids with its number. See etcdnodes.Source.Valid.
func (c *Cluster) WorkerHeld() bool { return c.registry == nil || c.registry.Valid() }

// EtcdAway reports whether etcd can't be reached, so that the last view is in force.
func (c *Cluster) EtcdAway() bool { return c.away.Load() }

// EtcdBreaker returns the state of the breaker of requests to etcd, and how many it has kept back. See etcd.Breaker.
func (c *Cluster) EtcdBreaker() (state string, keptBack uint64) {
	if c.etcd == nil {
		return "closed", 0
	}
	return etcd.Breaker(c.etcd)
}

// Lost is closed when the number is lost for good, and the process has to end; nil where that can't be.
func (c *Cluster) Lost() <-chan struct{} {
	if c.registry == nil {
		return nil
	}
	return c.registry.Lost()
}

// leaveTime is what etcd has to hear of a node that goes.
const leaveTime = 3 * time.Second

// Close takes the node out, ends its calls and closes what Open opened.
func (c *Cluster) Close() {
	var errs []error
	if c.registry != nil {
		ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
		errs = append(errs, c.registry.Close(ctx))
		cancel()
	}
	if c.Router != nil {
		c.Router.Close()
	}
	if c.Pool != nil {
		c.Pool.Close()
	}
	if c.etcd != nil {
		errs = append(errs, c.etcd.Close())
	}
	if err := errors.Join(errs...); err != nil {
		c.log.Warn("leaving the cluster", "err", err)
	}
}
