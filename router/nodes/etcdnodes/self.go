package etcdnodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/router/nodes"
)

// ErrTaken is returned where another process has the node's id.
var ErrTaken = errors.New("another process has this node's id")

// self is what a source knows of its own node. Fields without a comment on that are guarded by Source.mu.
type self struct {
	registering sync.Mutex // one registration at a time

	node      nodes.Node // as it is to be recorded; without an ID until Join
	announced bool
	lease     clientv3.LeaseID // of the record; 0: there is none
	missing   bool             // the record was seen gone
	number    number

	// The client renews the record's lease; it closes renewals when it no longer does.
	renewals  <-chan *clientv3.LeaseKeepAliveResponse
	endRenews context.CancelFunc

	hurry chan struct{} // has the next round begin at once

	awake   atomic.Int64 // Duration since base: the latest time for which we know that we weren't frozen before
	renewed atomic.Int64 // Duration since base: when the number's lease was last asked to be renewed with success
	gone    atomic.Bool  // the number is another's, or may be
	lost    chan struct{}
}

// Join makes this process a node: it gets a worker number. The others don't see it until Announce. n needs
// an ID and roles; its Worker is ignored. Join waits for a process that had the id before to
// be gone, two leases at most; if that one lives on, it fails with ErrTaken. If what the installation may write
// is beyond n's Level it fails with ErrOld. It is called once.
func (s *Source) Join(ctx context.Context, n nodes.Node) (nodes.Node, error) {
	n.Worker, n.Registration = 1, 0
	if n.Start == 0 {
		n.Start = nodes.NewStart()
	}
	if n.Started == 0 {
		n.Started = time.Now().UnixMilli()
	}
	if n.Weight == 0 {
		n.Weight = nodes.DefaultWeight
	}
	n.Level = max(n.Level, nodes.FirstLevel)
	if err := n.Validate(); err != nil {
		return n, err
	}
	if err := s.checkSlots(ctx, true); err != nil {
		return n, err
	}
	if _, err := s.admit(ctx, n); err != nil {
		return n, err
	}
	if err := s.awaitPredecessor(ctx, n.ID); err != nil {
		return n, err
	}
	asked := s.now()
	num, err := s.claim(ctx, n)
	if err != nil {
		return n, err
	}
	n.Worker = num.n
	s.self.awake.Store(int64(asked))
	s.self.renewed.Store(int64(asked))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.self.node, s.self.number = n, num
	s.log.Info("joined the cluster", "node", n.ID, "worker", n.Worker, "start", n.Start)
	return n, nil
}

// awaitPredecessor waits until no process has this id.
func (s *Source) awaitPredecessor(ctx context.Context, name string) error {
	for begun := s.now(); ; {
		r, err := s.cfg.Client.Get(ctx, s.key("nodes", name))
		if err != nil {
			return fmt.Errorf("looking for node %q in etcd: %w", name, err)
		}
		if len(r.Kvs) == 0 {
			return nil
		}
		if s.now()-begun > 2*s.cfg.Lease {
			return fmt.Errorf("%w: node %q lives; ids must differ", ErrTaken, name)
		}
		if !sleep(ctx, s.cfg.Lease/10) {
			return fmt.Errorf("waiting for the process that had the id %q before: %w", name, ctx.Err())
		}
	}
}

// Announce shows the node to the others: call it when it serves. From then on its record is kept in the registry
// until Close.
func (s *Source) Announce(ctx context.Context) error {
	s.mu.Lock()
	joined := s.self.node.ID != ""
	s.mu.Unlock()
	if !joined {
		return errors.New("announcing a node that hasn't joined")
	}
	if err := s.register(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.self.announced = true
	return nil
}

// register puts the node's record into the registry under a new lease. It fails with ErrOld if the feature level was raised
// past the node's, and with ErrTaken if another process has its id.
func (s *Source) register(ctx context.Context) error {
	s.self.registering.Lock()
	defer s.self.registering.Unlock()
	s.mu.Lock()
	n, num := s.self.node, s.self.number
	s.mu.Unlock()
	lease, err := s.cfg.Client.Grant(ctx, int64(s.cfg.Lease/time.Second))
	if err != nil {
		return fmt.Errorf("registering node %q: %w", n.ID, err)
	}
	rev, err := s.record(ctx, n, num, lease.ID)
	if err != nil {
		s.revoke(ctx, lease.ID)
		return fmt.Errorf("registering node %q: %w", n.ID, err)
	}
	if err := s.renew(lease.ID); err != nil {
		return fmt.Errorf("renewing the lease of node %q: %w", n.ID, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.self.missing = false
	s.log.Info("registered", "node", n.ID, "revision", rev)
	if f := s.cfg.Events.Registered; f != nil {
		f()
	}
	return nil
}

// record writes the node's record under a lease, if the number is still ours, nobody else's record is there and n can read
// what the others may write. It returns etcd's revision.
func (s *Source) record(ctx context.Context, n nodes.Node, num number, lease clientv3.LeaseID) (int64, error) {
	value, err := json.Marshal(n)
	if err != nil {
		return 0, fmt.Errorf("writing its record: %w", err)
	}
	key := s.key("nodes", n.ID)
	put := clientv3.OpPut(key, string(value), clientv3.WithLease(lease))
	ours := clientv3.Compare(clientv3.Value(s.key("workers", workerName(num.n))), "=", num.value)
	before, replaced := clientv3.Compare(clientv3.CreateRevision(key), "=", 0), false
	for {
		level, err := s.admit(ctx, n)
		if err != nil {
			return 0, err
		}
		t, err := s.cfg.Client.Txn(ctx).If(ours, s.sameLevel(level), before).Then(put).Else(clientv3.OpGet(key), clientv3.OpGet(s.key("level"))).Commit()
		if err != nil {
			return 0, err
		}
		if t.Succeeded {
			return t.Header.Revision, nil
		}
		var now int64
		if kvs := t.Responses[1].GetResponseRange().Kvs; len(kvs) > 0 {
			now = kvs[0].ModRevision
		}
		if now != level.modified {
			continue // raised meanwhile
		}
		// Our own record, if the answer to an earlier registration didn't reach us.
		var was nodes.Node
		kvs := t.Responses[0].GetResponseRange().Kvs
		if replaced || len(kvs) == 0 || json.Unmarshal(kvs[0].Value, &was) != nil || was.Start != n.Start {
			return 0, ErrTaken
		}
		before, replaced = clientv3.Compare(clientv3.ModRevision(key), "=", kvs[0].ModRevision), true
	}
}

// renew has the client renew the record's lease. All renewals go over one stream, which matters where nodes
// sign in: at each stream etcd checks the password, which takes it a tenth of a second of CPU.
func (s *Source) renew(lease clientv3.LeaseID) error {
	ctx, cancel := context.WithCancel(s.run)
	ch, err := s.cfg.Client.KeepAlive(ctx, lease)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.self.endRenews != nil {
		s.self.endRenews()
	}
	s.self.lease, s.self.renewals, s.self.endRenews = lease, ch, cancel
	return err
}

// renewing reports whether the client still renews the record's lease. It takes in the answers there are.
func (m *self) renewing() bool {
	for {
		select {
		case _, ok := <-m.renewals:
			if !ok {
				return false
			}
		default:
			return m.renewals != nil
		}
	}
}

// revoke gives a lease back that nothing depends on any more; otherwise it lapses by itself.
func (s *Source) revoke(ctx context.Context, lease clientv3.LeaseID) {
	if _, err := s.cfg.Client.Revoke(ctx, lease); err != nil {
		s.log.Debug("revoking a lease", "err", err)
	}
}

// seen takes note of what the registry holds of this node. Source.mu is held.
func (m *self) seen(s *Source, n *nodes.Node) {
	if n.ID != m.node.ID || n.Start != m.node.Start {
		return
	}
	m.missing = false
	if n.Draining == m.node.Draining {
		return
	}
	m.node.Draining = n.Draining // and it stays so if the node has to register again
	s.log.Info("somebody changed whether this node drains", "draining", n.Draining)
	if f := s.cfg.Events.Draining; f != nil {
		f(n.Draining)
	}
}

// SetDraining says that this node is about to leave, or that it stays after all. Events.Draining
// isn't told of it. It takes a lease's time at most.
func (s *Source) SetDraining(ctx context.Context, on bool) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Lease)
	defer cancel()
	s.self.registering.Lock()
	defer s.self.registering.Unlock()
	s.mu.Lock()
	s.self.node.Draining = on
	name, announced := s.self.node.ID, s.self.announced
	s.mu.Unlock()
	if !announced {
		return nil
	}
	err := Drain(ctx, s.cfg.Client, s.cfg.Prefix, name, on)
	if errors.Is(err, ErrUnknown) {
		return nil // its lease lapsed: it is in the record when the node registers again
	}
	return err
}

// keep renews leases and asks whether etcd is there, until ctx ends.
func (s *Source) keep(ctx context.Context) {
	t := time.NewTicker(s.cfg.Lease / 5)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-s.self.hurry:
		case <-ctx.Done():
			return
		}
		err := s.round(ctx)
		if err == nil {
			err = s.followLevel(ctx)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Debug("asking etcd", "err", err)
		}
	}
}

// round is one pass of keep. Its time is bounded, so that within a lease there is a second.
func (s *Source) round(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Lease*2/5)
	defer cancel()
	s.mu.Lock()
	num, lease, announced := s.self.number, s.self.lease, s.self.announced
	fine := s.self.renewing() && !s.self.missing
	s.mu.Unlock()
	known, asked := s.records.Revision(), s.now()
	stalled := asked-time.Duration(s.self.awake.Load()) > s.cfg.Lease

	// While etcd is away this fails before anything below is tried. The client repeats KeepAliveOnce
	// in a loop without a pause.
	key := s.key("slots")
	if num.n != 0 {
		key = s.key("workers", workerName(num.n))
	}
	r, err := s.cfg.Client.Get(ctx, key)
	if err != nil {
		s.unheard(err)
		if !stalled {
			s.self.awake.Store(int64(asked)) // etcd is away, but we are not
		}
		return err
	}
	s.heard(known, r.Header.Revision)
	s.sweep()
	if num.n == 0 {
		return nil
	}
	if err := s.confirm(ctx, num, r.Kvs, asked); err != nil || s.self.gone.Load() {
		return err
	}
	s.self.awake.Store(int64(asked))
	if !announced || fine {
		return nil
	}
	if lease != 0 {
		// The client also gives up when etcd was away for a lease's time. Then the lease may live.
		l, err := s.cfg.Client.TimeToLive(ctx, lease)
		if err != nil {
			return fmt.Errorf("asking for the lease of this node: %w", err)
		}
		s.mu.Lock()
		missing := s.self.missing
		s.mu.Unlock()
		if l.TTL > 0 && !missing {
			return s.renew(lease)
		}
		s.log.Warn("this node's record is gone: its lease lapsed; the others saw it leave")
	}
	err = s.register(ctx)
	if errors.Is(err, ErrTaken) {
		s.giveUp(ctx, "another process was started with this node's id while it was gone")
	}
	if errors.Is(err, ErrOld) {
		s.giveUp(ctx, err.Error())
	}
	return err
}

// leave takes the node out of the registry and lets its number rest.
func (s *Source) leave(ctx context.Context) error {
	s.mu.Lock()
	n, num, lease := s.self.node, s.self.number, s.self.lease
	s.self.lease, s.self.announced = 0, false
	s.mu.Unlock()
	if num.n == 0 || s.self.gone.Load() {
		return nil
	}
	s.lose()
	if lease != 0 {
		if _, err := s.cfg.Client.Revoke(ctx, lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return fmt.Errorf("taking the node out of etcd: %w", err)
		}
	}
	return s.rest(ctx, num, n)
}
