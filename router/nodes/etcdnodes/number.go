package etcdnodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/router/nodes"
)

// ErrNoNumber is returned where all worker numbers are held, or rest.
var ErrNoNumber = fmt.Errorf("all worker numbers from 1 to %d are taken; those of nodes that died are free again when their lease has lapsed", nodes.MaxWorker)

// keptNumbers is how many numbers processes of one node that died may hold at a time. Behind that a
// start takes the oldest: a node that dies at each start must not use up everybody's.
const keptNumbers = 8

// number is a worker number and what proves that it is ours.
type number struct {
	n     uint32 // 0: none
	value string // of its record, which names this start of this node
	lease clientv3.LeaseID
}

// holder is the record of a number.
type holder struct {
	Node  string `json:"node"`
	Start uint64 `json:"start"`
	Level uint32 `json:"level,omitempty"` // that the process can read, as in nodes.Node
	Left  bool   `json:"left,omitempty"`  // in good order: the number is not used any more, and rests
}

func (h holder) String() string {
	b, _ := json.Marshal(h) // nothing in it can fail
	return string(b)
}

// claim takes a worker number for n. That no other process of the id lives is part of the
// transaction, as far as the registry knows, and so is that n can read what the others may write.
func (s *Source) claim(ctx context.Context, n nodes.Node) (number, error) {
	c, prefix := s.cfg.Client, s.key("workers", "")
	lease, err := c.Grant(ctx, int64(s.cfg.NumberLease/time.Second))
	if err != nil {
		return number{}, fmt.Errorf("claiming a worker number: %w", err)
	}
	value := holder{Node: n.ID, Start: n.Start, Level: n.Level}.String()
	alone := clientv3.Compare(clientv3.CreateRevision(s.key("nodes", n.ID)), "=", 0)
	for {
		level, err := s.admit(ctx, n)
		if err != nil {
			s.revoke(ctx, lease.ID)
			return number{}, err
		}
		r, err := c.Get(ctx, prefix, clientv3.WithPrefix())
		if err != nil {
			return number{}, fmt.Errorf("claiming a worker number: %w", err)
		}
		num, was := pick(r.Kvs, prefix, n.ID)
		if num == 0 {
			s.revoke(ctx, lease.ID)
			return number{}, ErrNoNumber
		}
		key := prefix + workerName(num)
		t, err := c.Txn(ctx).If(alone, s.sameLevel(level), clientv3.Compare(clientv3.ModRevision(key), "=", was)).
			Then(clientv3.OpPut(key, value, clientv3.WithLease(lease.ID))).
			Else(clientv3.OpGet(s.key("nodes", n.ID), clientv3.WithCountOnly())).Commit()
		switch {
		case err != nil:
			return number{}, fmt.Errorf("claiming worker number %d: %w", num, err)
		case t.Succeeded:
			return number{num, value, lease.ID}, nil
		case t.Responses[0].GetResponseRange().Count > 0:
			s.revoke(ctx, lease.ID)
			return number{}, fmt.Errorf("%w: node %q was started twice", ErrTaken, n.ID)
		}
		// Somebody was faster, or the level was raised.
	}
}

// pick chooses a number from what kvs leave free, and returns the revision that its record must
// still have: 0 for none; n is 0 if there is no number. The node's own is free when it left it in good
// order. A number that a process of the same node died with isn't: that it is dead is known to nobody here, it
// may just not reach etcd. The search begins at a place of the node's own, so that numbers are not fought over.
func pick(kvs []*mvccpb.KeyValue, prefix, name string) (n uint32, was int64) {
	taken := make(map[uint32]bool, len(kvs))
	own := 0
	for _, kv := range kvs {
		num, err := strconv.ParseUint(strings.TrimPrefix(string(kv.Key), prefix), 10, 32)
		if err != nil || num == 0 || num > nodes.MaxWorker {
			continue
		}
		taken[uint32(num)] = true
		var h holder
		if json.Unmarshal(kv.Value, &h) != nil || h.Node != name {
			continue
		}
		if h.Left {
			return uint32(num), kv.ModRevision
		}
		if own++; n == 0 || kv.ModRevision < was {
			n, was = uint32(num), kv.ModRevision
		}
	}
	if own >= keptNumbers {
		return n, was
	}
	first := xxhash.Sum64String(name) % nodes.MaxWorker
	for i := range uint64(nodes.MaxWorker) {
		if num := uint32((first+i)%nodes.MaxWorker) + 1; !taken[num] {
			return num, 0
		}
	}
	return 0, 0
}

// Valid reports whether this process may make ids with its worker number. It must be asked for each id or
// batch of them *after* their time was read from the clock: a process that was frozen before it asked hears that it no longer may,
// and one that is frozen behind it uses a time at which it still might.
//
// It says no while it isn't known whether the number is still ours: after the process stood
// still for more than a lease, until etcd has confirmed it, and when etcd was away for most of
// NumberLease. It allocates nothing and takes no lock.
func (s *Source) Valid() bool {
	now := s.now()
	return !s.self.gone.Load() && s.self.renewed.Load() != 0 &&
		now-time.Duration(s.self.awake.Load()) <= s.cfg.Lease &&
		now-time.Duration(s.self.renewed.Load()) <= s.cfg.NumberLease*5/6
}

// Lost is closed when the worker number is lost for good, or the node's id is another process's: Valid says no
// for ever, the node is no longer in the registry, and the process has to end and start again. Close closes it too.
func (s *Source) Lost() <-chan struct{} { return s.self.lost }

func (s *Source) lose() {
	if s.self.gone.CompareAndSwap(false, true) {
		close(s.self.lost)
	}
}

// confirm compares what etcd holds of the number with what we hold, and renews its lease when
// it is time. When the number is lost it takes the node out of the registry.
func (s *Source) confirm(ctx context.Context, num number, kvs []*mvccpb.KeyValue, asked time.Duration) error {
	if s.self.gone.Load() {
		return nil
	}
	since := asked - time.Duration(s.self.renewed.Load())
	switch {
	case len(kvs) > 0 && string(kvs[0].Value) == num.value:
		if since < s.cfg.NumberLease/20 {
			return nil
		}
		_, err := s.cfg.Client.KeepAliveOnce(ctx, clientv3.LeaseID(kvs[0].Lease))
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return fmt.Errorf("renewing the lease of worker number %d: %w", num.n, err)
		}
		if err == nil {
			s.self.renewed.Store(int64(asked))
		}
		return nil // without a lease there is no record any more: the next round sees that
	case len(kvs) == 0 && since <= s.cfg.NumberLease*5/6:
		return s.reclaim(ctx, num)
	}
	s.giveUp(ctx, "another process has its worker number, or may have had it")
	return nil
}

// giveUp loses the number and takes the node out of the registry.
func (s *Source) giveUp(ctx context.Context, why string) {
	s.log.Error("this process can't be a node any more: it has to be started again", "why", why)
	s.lose()
	s.mu.Lock()
	lease := s.self.lease
	s.self.lease, s.self.announced = 0, false
	if s.self.endRenews != nil {
		s.self.endRenews()
	}
	s.mu.Unlock()
	if lease != 0 {
		s.revoke(ctx, lease)
	}
}

// reclaim puts the number's record back. It went before its time, so etcd has lost what it
// held; had anybody been given the number since, there would be a record of that.
func (s *Source) reclaim(ctx context.Context, num number) error {
	asked := s.now()
	lease, err := s.cfg.Client.Grant(ctx, int64(s.cfg.NumberLease/time.Second))
	if err != nil {
		return fmt.Errorf("claiming worker number %d again: %w", num.n, err)
	}
	key := s.key("workers", workerName(num.n))
	t, err := s.cfg.Client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).Then(clientv3.OpPut(key, num.value, clientv3.WithLease(lease.ID))).Commit()
	if err != nil {
		return fmt.Errorf("claiming worker number %d again: %w", num.n, err)
	}
	if !t.Succeeded {
		s.revoke(ctx, lease.ID)
		return fmt.Errorf("claiming worker number %d again: somebody was faster", num.n) // the next round sees who
	}
	s.log.Warn("etcd had lost who holds the worker number; it is ours again", "worker", num.n)
	s.self.renewed.Store(int64(asked))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.self.number.lease = lease.ID
	return nil
}

// rest leaves a number that isn't used any more to nobody else for a while: the clock of who gets
// it next may be behind ours.
func (s *Source) rest(ctx context.Context, num number, n nodes.Node) error {
	lease, err := s.cfg.Client.Grant(ctx, int64(min(coolDown, s.cfg.NumberLease)/time.Second))
	if err != nil {
		return fmt.Errorf("giving worker number %d back: %w", num.n, err)
	}
	key := s.key("workers", workerName(num.n))
	left := holder{Node: n.ID, Start: n.Start, Level: n.Level, Left: true}.String()
	_, err = s.cfg.Client.Txn(ctx).If(clientv3.Compare(clientv3.Value(key), "=", num.value)).
		Then(clientv3.OpPut(key, left, clientv3.WithLease(lease.ID))).Commit()
	if err != nil {
		return fmt.Errorf("giving worker number %d back: %w", num.n, err)
	}
	s.revoke(ctx, num.lease)
	return nil
}
