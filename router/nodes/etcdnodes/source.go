// Package etcdnodes keeps the nodes of a cluster in etcd. Below the installation's prefix lie
//
//	slots         how keys become slots: a node that counts otherwise is refused
//	level         the feature level in force: a node that can't read it is refused
//	nodes/ID      one node's record (nodes.Node as JSON), under a lease that the node renews
//	workers/N     who holds worker number N, under a long lease of its own
//
// Nothing depends on etcd's clock or on that of any other machine: leases run for a time
// since their last renewal, and what a node concludes from them it counts on its own monotonic clock.
package etcdnodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/etcd"
	"github.com/gochat-im/gochat/router/nodes"
)

// Config is what a Source needs. Zero values mean defaults.
type Config struct {
	// Client is the connection to etcd. It stays the caller's, who closes it after the Source.
	Client *clientv3.Client

	// Prefix is what all keys of the installation begin with. Default: /gochat.
	Prefix string

	// Lease is how long a node is still there after the last that was heard of it. Whole
	// seconds, the same on all nodes. Default: 5 s.
	Lease time.Duration

	// NumberLease is how long a worker number stays its node's after the last that etcd heard of
	// it, and so how long a node goes on without etcd. Longer, too, than clocks of two nodes are
	// apart: a number's next holder must not make ids of times that the last one used. Default: 1 h.
	NumberLease time.Duration

	Logger *slog.Logger // nil: none
	Events Events
}

// Events are called on the source's own goroutines, one at a time. They must not block or call
// the source. Any may be nil.
type Events struct {
	// Draining says that this node shall leave, or, with false, stay after all: somebody changed its record.
	Draining func(on bool)

	// Registered says that this node is in the registry, for the first time or again after its lease lapsed.
	Registered func()

	// Away says that etcd can't be reached, or can be again. The last view stays in force.
	Away func(away bool)
}

// Defaults.
const (
	DefaultPrefix      = "/gochat"
	DefaultLease       = 5 * time.Second
	DefaultNumberLease = time.Hour
)

// coolDown is how long a number rests whose holder went in good order.
const coolDown = time.Minute

func (c *Config) setDefaults() {
	if c.Prefix == "" {
		c.Prefix = DefaultPrefix
	}
	c.Prefix = strings.TrimRight(c.Prefix, "/")
	if c.Lease == 0 {
		c.Lease = DefaultLease
	}
	if c.NumberLease == 0 {
		c.NumberLease = DefaultNumberLease
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate checks c.
func (c *Config) Validate() error {
	var errs []error
	if c.Client == nil {
		errs = append(errs, errors.New("it needs a client"))
	}
	if c.Prefix != "" && (!strings.HasPrefix(c.Prefix, "/") || strings.Trim(c.Prefix, "/") == "") {
		errs = append(errs, fmt.Errorf("prefix %q: want one that begins with a slash", c.Prefix))
	}
	if c.Lease < 0 || c.Lease%time.Second != 0 || c.NumberLease < 0 || c.NumberLease%time.Second != 0 {
		errs = append(errs, errors.New("leases are whole seconds"))
	}
	if c.NumberLease != 0 && c.NumberLease < 2*max(c.Lease, time.Second) {
		errs = append(errs, errors.New("the lease of numbers must be twice that of nodes at least"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("nodes in etcd: %w", err)
	}
	return nil
}

// ErrSlots is returned where the installation's slots are not ours.
var ErrSlots = errors.New("the installation counts slots otherwise than this release")

// layout is what all nodes must agree on to agree on owners: how many slots there are, and the
// hash and its bits that choose one.
var layout = fmt.Sprintf("%d xxh64/52", id.SlotCount)

// Source knows the nodes in etcd, and, once Join was called, is one of them. It follows etcd
// with two goroutines until Close: one watches the records, the other renews leases and notices when etcd is away.
type Source struct {
	nodes.Feed
	cfg  Config
	log  *slog.Logger
	run  context.Context // until Close
	stop context.CancelFunc
	done sync.WaitGroup
	base time.Time // monotonic times are counted from here

	records etcd.Watch    // of nodes/
	level   atomic.Uint32 // the feature level in force; 0: none was ever raised

	mu       sync.Mutex
	known    map[string]*entry // by node id
	revision int64             // of etcd, as of which known is; 0: nothing was read
	contact  time.Duration     // when etcd last answered, since base
	grace    time.Duration     // until then nobody is dropped, since base
	isAway   bool              // Events.Away was told so

	self self
}

// entry is one node's record.
type entry struct {
	node     nodes.Node
	modified int64
	gone     bool // the record isn't there any more, which doesn't count yet
}

// Open reads the nodes and begins to follow them. It fails when etcd doesn't answer before ctx
// ends, or when the installation below the prefix counts slots otherwise.
func Open(ctx context.Context, cfg Config) (*Source, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	run, stop := context.WithCancel(context.Background())
	s := &Source{cfg: cfg, log: cfg.Logger, run: run, stop: stop, base: time.Now(), known: make(map[string]*entry)}
	s.self.lost, s.self.hurry = make(chan struct{}), make(chan struct{}, 1)
	if err := s.checkSlots(ctx, false); err != nil {
		stop()
		return nil, err
	}
	if r, err := s.readLevel(ctx); err != nil {
		stop()
		return nil, err
	} else {
		s.raised(r.level)
	}
	s.records = etcd.Watch{Client: cfg.Client, Prefix: s.key("nodes", ""), Whole: s.whole, Changed: s.changed, Logger: s.log}
	if err := s.records.Read(ctx); err != nil {
		stop()
		return nil, err
	}
	s.contact = s.now()
	s.done.Go(func() { s.records.Run(run) })
	s.done.Go(func() { s.keep(run) })
	return s, nil
}

func (s *Source) now() time.Duration { return time.Since(s.base) }

func (s *Source) key(parts ...string) string {
	return s.cfg.Prefix + "/" + strings.Join(parts, "/")
}

// checkSlots compares how slots are counted with what is recorded, and records it if nothing is and create is set.
func (s *Source) checkSlots(ctx context.Context, create bool) error {
	key := s.key("slots")
	r, err := s.cfg.Client.Get(ctx, key)
	if err == nil && len(r.Kvs) == 0 && create {
		_, err = s.cfg.Client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, layout)).Commit()
		if err == nil {
			r, err = s.cfg.Client.Get(ctx, key)
		}
	}
	if err != nil {
		return fmt.Errorf("reading %s from etcd: %w", key, err)
	}
	if len(r.Kvs) > 0 && string(r.Kvs[0].Value) != layout {
		return fmt.Errorf("%w: %s is %q, ours is %q", ErrSlots, key, r.Kvs[0].Value, layout)
	}
	return nil
}

// parse reads a record. It returns nil, and says so in the log, if there is no node in it: one bad record doesn't
// cost the others.
func (s *Source) parse(key, value []byte, created int64) *nodes.Node {
	n := new(nodes.Node)
	err := json.Unmarshal(value, n)
	if err == nil {
		err = n.Validate()
	}
	if err == nil && s.key("nodes", n.ID) != string(key) {
		err = errors.New("the record is another node's")
	}
	if err != nil {
		s.log.Warn("a node's record in etcd is passed over", "key", string(key), "err", err)
		return nil
	}
	n.Registration = created
	return n
}

// publish puts what is known in force. s.mu is held, so that views follow each other in order.
func (s *Source) publish() {
	byWorker := make(map[uint32]*entry, len(s.known))
	for _, e := range s.known {
		// Two of one number: one of them isn't there any more, which doesn't count yet.
		if o := byWorker[e.node.Worker]; o == nil || o.node.Registration < e.node.Registration {
			byWorker[e.node.Worker] = e
		}
	}
	ns := make([]nodes.Node, 0, len(byWorker))
	for _, e := range byWorker {
		ns = append(ns, e.node)
	}
	v, err := nodes.NewView(s.revision, ns)
	if err != nil {
		s.log.Error("the view of the nodes stays as it is", "err", err) // records and numbers were checked
		return
	}
	s.Publish(v)
}

// Close takes the node out of the registry, if it is in it, and ends the source. The last view
// stays. It returns an error if etcd didn't hear of it: then the lease lapses by itself.
func (s *Source) Close(ctx context.Context) error {
	s.stop()
	s.done.Wait()
	return s.leave(ctx)
}

func workerName(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
