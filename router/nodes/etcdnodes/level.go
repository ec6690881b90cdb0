package etcdnodes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/router/nodes"
)

// Errors about feature levels.
var (
	// ErrOld is returned to a node that can't read everything that the installation may write.
	ErrOld = errors.New("this release is too old for the installation")

	// ErrBehind is returned where the feature level can't be raised, because some node can't, or may not be able to,
	// read the next one.
	ErrBehind = errors.New("the feature level stays as it is")
)

// recorded is the feature level in etcd.
type recorded struct {
	level    uint32 // 0: none was ever raised
	modified int64  // the key's revision; 0: there is no key
}

// readLevel reads the recorded feature level.
func (s *Source) readLevel(ctx context.Context) (recorded, error) {
	r, err := s.cfg.Client.Get(ctx, s.key("level"))
	if err != nil {
		return recorded{}, fmt.Errorf("reading %s from etcd: %w", s.key("level"), err)
	}
	return s.parseLevel(r.Kvs)
}

func (s *Source) parseLevel(kvs []*mvccpb.KeyValue) (recorded, error) {
	if len(kvs) == 0 {
		return recorded{}, nil
	}
	n, err := strconv.ParseUint(string(kvs[0].Value), 10, 32)
	if err != nil || n < nodes.FirstLevel {
		return recorded{}, fmt.Errorf("%s in etcd is %q, which is no feature level", s.key("level"), kvs[0].Value)
	}
	return recorded{uint32(n), kvs[0].ModRevision}, nil
}

// sameLevel is the condition that the feature level is still r.
func (s *Source) sameLevel(r recorded) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(s.key("level")), "=", r.modified)
}

// admit is readLevel for a node that is about to be let in: it fails with ErrOld if n can't read that level.
func (s *Source) admit(ctx context.Context, n nodes.Node) (recorded, error) {
	r, err := s.readLevel(ctx)
	if err == nil && n.Level < r.level {
		err = fmt.Errorf("%w: feature level %d is in force, and node %q reads up to %d; start it with a later release", ErrOld, r.level, n.ID, n.Level)
	}
	if err == nil {
		s.raised(r.level)
	}
	return r, err
}

// Level returns the feature level in force: nothing may be written that takes a higher one to be read. It
// never falls while the process runs, and a raise is known within a fifth of a lease. While etcd is away it stays.
func (s *Source) Level() uint32 { return max(s.level.Load(), nodes.FirstLevel) }

// Recall tells of a level that was in force once, which rows of the store need: if etcd has lost it, with all that it held
// and while no node ran that knew, it is recorded again. It isn't above what the node itself reads.
func (s *Source) Recall(level uint32) { s.raised(level) }

// raised takes note of a level in force.
func (s *Source) raised(to uint32) {
	for was := s.level.Load(); to > was; was = s.level.Load() {
		if s.level.CompareAndSwap(was, to) {
			if was != 0 || to > nodes.FirstLevel {
				s.log.Info("feature level", "level", to, "was", max(was, nodes.FirstLevel))
			}
			return
		}
	}
}

// followLevel learns of a raise, and, if etcd has lost the level, puts back the one that it had: rows of it are
// written. A node that can't read what the others may write by now gives up.
func (s *Source) followLevel(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Lease*2/5)
	defer cancel()
	r, err := s.readLevel(ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	n := s.self.node
	s.mu.Unlock()
	if n.ID == "" {
		s.raised(r.level)
		return nil
	}
	switch {
	case s.self.gone.Load():
	case n.Level < r.level:
		s.giveUp(ctx, fmt.Sprintf("feature level %d is in force, and this release reads up to %d", r.level, n.Level))
	case r.level < s.level.Load():
		known := s.level.Load()
		put := clientv3.OpPut(s.key("level"), strconv.FormatUint(uint64(known), 10))
		done, err := s.cfg.Client.Txn(ctx).If(s.sameLevel(r)).Then(put).Commit()
		if err != nil {
			return fmt.Errorf("recording feature level %d again: %w", known, err)
		}
		if !done.Succeeded { // it was raised, or recorded again, since it was read
			return nil
		}
		s.log.Warn("etcd had lost the feature level; it is recorded again", "level", known, "was", r.level)
	default:
		s.raised(r.level)
	}
	return nil
}

// steady reports whether every node that lives and reaches etcd has had a lease's time to be seen here.
func (s *Source) steady() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	return now >= s.cfg.Lease && now >= s.grace && now-s.contact <= s.cfg.Lease/2
}

// behind names those that may not be able to read a level. The key is the node's name.
type behind map[string]string

func (b behind) String() string {
	var all []string
	for _, why := range b {
		all = append(all, why)
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// Raise raises the feature level to the highest that all nodes can read, and returns the one in force before and
// the one now; they are the same where all nodes are of the level in force. It fails with ErrBehind if some can read more than that and others
// can't. Those include nodes that etcd has lost sight of, which may still run: the holders of worker numbers that
// weren't given back in good order, for NumberLease after they were last heard of. gone names such nodes of which
// the caller knows that they ended. Raise waits until etcd was there for a whole lease, so that after an outage everybody is back
// who comes back. A node that is let in while it decides has it decide again.
func (s *Source) Raise(ctx context.Context, gone ...string) (from, to uint32, err error) {
	for {
		if !s.steady() {
			if !sleep(ctx, s.cfg.Lease/20) {
				level := s.Level()
				return level, level, fmt.Errorf("raising the feature level: etcd wasn't there for a whole lease of %s: %w", s.cfg.Lease, ctx.Err())
			}
			continue
		}
		from, to, done, err := s.tryRaise(ctx, gone)
		if err != nil {
			return from, from, fmt.Errorf("raising the feature level: %w", err)
		}
		if done {
			s.raised(to)
			return from, to, nil
		}
		// Somebody came, went or was faster.
	}
}

// tryRaise is Raise if nothing changes meanwhile; done reports whether nothing has.
func (s *Source) tryRaise(ctx context.Context, gone []string) (from, to uint32, done bool, err error) {
	known, all, numbers := s.records.Revision(), s.key("nodes", ""), s.key("workers", "")
	t, err := s.cfg.Client.Txn(ctx).Then(clientv3.OpGet(all, clientv3.WithPrefix()), clientv3.OpGet(numbers, clientv3.WithPrefix()), clientv3.OpGet(s.key("level"))).Commit()
	if err != nil {
		return 0, 0, false, err
	}
	if t.Header.Revision < known { // etcd lost what it held: everybody has to have the time to come back
		s.heard(known, t.Header.Revision)
		return 0, 0, false, nil
	}
	now, err := s.parseLevel(t.Responses[2].GetResponseRange().Kvs)
	if err != nil {
		return 0, 0, false, err
	}
	from = max(now.level, nodes.FirstLevel)
	levels, unknown := s.levels(t.Responses[0].GetResponseRange().Kvs, t.Responses[1].GetResponseRange().Kvs, gone)
	if len(unknown) > 0 {
		return from, from, false, fmt.Errorf("%w: %v", ErrBehind, unknown)
	}
	if len(levels) == 0 {
		return from, from, false, fmt.Errorf("%w: no node is registered", ErrBehind)
	}
	low, high := uint32(0), from
	for _, l := range levels {
		high = max(high, l.level)
		if low == 0 || l.level < low {
			low = l.level
		}
	}
	if low <= from {
		if high == from {
			return from, from, true, nil
		}
		slow := behind{}
		for name, l := range levels {
			if l.level <= from {
				slow[name] = fmt.Sprintf("node %q %s %d", name, l.how, l.level)
			}
		}
		return from, from, false, fmt.Errorf("%w: %v", ErrBehind, slow)
	}
	rev := t.Header.Revision + 1
	raise, err := s.cfg.Client.Txn(ctx).If(
		s.sameLevel(now),
		clientv3.Compare(clientv3.ModRevision(all), "<", rev).WithPrefix(),
		clientv3.Compare(clientv3.ModRevision(numbers), "<", rev).WithPrefix(),
	).Then(clientv3.OpPut(s.key("level"), strconv.FormatUint(uint64(low), 10))).Commit()
	if err != nil {
		return from, from, false, err
	}
	return from, low, raise.Succeeded, nil
}

// reader is what one node can read, and how that is known.
type reader struct {
	level uint32
	how   string // with the level behind it
}

// levels gathers what each process can read that lives, or may live. unknown are records that say nothing about it.
func (s *Source) levels(records, numbers []*mvccpb.KeyValue, gone []string) (map[string]reader, behind) {
	all, unknown := make(map[string]reader), behind{}
	registered := make(map[string]bool)
	add := func(name string, n uint32, how string) {
		n = max(n, nodes.FirstLevel)
		if l, ok := all[name]; !ok || n < l.level {
			all[name] = reader{n, how}
		}
	}
	for _, kv := range records {
		n := s.parse(kv.Key, kv.Value, kv.CreateRevision)
		if n == nil {
			unknown[string(kv.Key)] = fmt.Sprintf("the record %s can't be read", kv.Key)
			continue
		}
		registered[n.ID] = true
		add(n.ID, n.Level, "can read up to")
	}
	for _, kv := range numbers {
		var h holder
		if err := json.Unmarshal(kv.Value, &h); err != nil || h.Node == "" {
			unknown[string(kv.Key)] = fmt.Sprintf("the record %s can't be read", kv.Key)
			continue
		}
		// One process at a time has a node's name: a later one was let in when the earlier one was gone.
		if !h.Left && !registered[h.Node] && !slices.Contains(gone, h.Node) {
			add(h.Node, h.Level, fmt.Sprintf("isn't registered, but may run without etcd (for %s after it was last heard of) or be about to start; it can read up to", s.cfg.NumberLease))
		}
	}
	return all, unknown
}
