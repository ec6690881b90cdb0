package etcdnodes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/router/nodes"
)

// read reads all records and returns the revision they are of.
func (s *Source) read(ctx context.Context) (int64, error) {
	prefix := s.key("nodes", "")
	r, err := s.cfg.Client.Get(ctx, prefix, clientv3.WithPrefix())
	if err != nil {
		return 0, fmt.Errorf("reading the nodes from etcd: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	there := make(map[string]bool, len(r.Kvs))
	changed := s.revision == 0
	for _, kv := range r.Kvs {
		if n := s.parse(kv.Key, kv.Value, kv.CreateRevision); n != nil {
			there[n.ID] = true
			changed = s.put(n, kv.ModRevision) || changed
		}
	}
	for name := range s.known {
		if !there[name] {
			changed = s.drop(name) || changed
		}
	}
	s.revision = r.Header.Revision
	if changed {
		s.publish()
	}
	return r.Header.Revision, nil
}

// put takes a record in. It reports whether the view changes. s.mu is held.
func (s *Source) put(n *nodes.Node, modified int64) bool {
	if e := s.known[n.ID]; e != nil && e.modified == modified && !e.gone {
		return false
	}
	s.known[n.ID] = &entry{node: *n, modified: modified}
	s.self.seen(s, n)
	return true
}

// drop takes a node out whose record is gone, unless that doesn't count: while etcd was away
// nobody could renew a lease, and until one lease after its return everybody may still come back. A node
// that drains is let go at any time: it owns nothing. It reports whether the view changes. s.mu is held.
func (s *Source) drop(name string) bool {
	e := s.known[name]
	if e == nil {
		return false
	}
	now := s.now()
	if !e.node.Draining && (now-s.contact > s.cfg.Lease/2 || now < s.grace) {
		if !e.gone {
			s.log.Info("a node's lease lapsed while etcd was away; it stays for one lease", "node", name)
		}
		e.gone = true
		return false
	}
	delete(s.known, name)
	return true
}

// sweep drops those who haven't come back in time.
func (s *Source) sweep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for name, e := range s.known {
		if e.gone && s.drop(name) {
			s.log.Info("a node didn't come back", "node", name)
			changed = true
		}
	}
	if changed {
		s.publish()
	}
}

// watch follows the records from behind rev until ctx ends. Whenever the watch breaks (the
// events behind rev were compacted away, the members of etcd have no leader) it reads everything anew.
func (s *Source) watch(ctx context.Context, rev int64) {
	for {
		one, cancel := context.WithCancel(ctx)
		s.mu.Lock()
		s.resync = cancel
		s.mu.Unlock()
		s.follow(one, rev)
		cancel()
		for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
			if !sleep(ctx, wait/2+rand.N(wait/2)) {
				return
			}
			try, cancel := context.WithTimeout(ctx, s.cfg.Lease)
			next, err := s.read(try)
			cancel()
			if err == nil {
				rev = next
				break
			}
			s.log.Info("nodes", "err", err)
		}
	}
}

// follow applies what happens behind rev until the watch breaks.
func (s *Source) follow(ctx context.Context, rev int64) {
	prefix := s.key("nodes", "")
	for w := range s.cfg.Client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(rev+1)) {
		if err := w.Err(); err != nil {
			if ctx.Err() == nil {
				s.log.Info("the watch of the nodes is begun anew", "err", err)
			}
			return
		}
		s.apply(prefix, w.Events)
	}
}

func (s *Source) apply(prefix string, events []*clientv3.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for _, ev := range events {
		if ev.Type == mvccpb.DELETE {
			changed = s.drop(strings.TrimPrefix(string(ev.Kv.Key), prefix)) || changed
		} else if n := s.parse(ev.Kv.Key, ev.Kv.Value, ev.Kv.CreateRevision); n != nil {
			changed = s.put(n, ev.Kv.ModRevision) || changed
		}
		s.revision = max(s.revision, ev.Kv.ModRevision)
	}
	if changed {
		s.publish()
	}
}

// heard notes that etcd answered a question. We knew of its revision known when we asked, and
// it answered as of rev.
func (s *Source) heard(known, rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if now-s.contact > s.cfg.Lease/2 {
		s.grace = now + s.cfg.Lease
	}
	if rev < known && s.resync != nil {
		// Reads are linearizable, so etcd was restored from a copy or begins from nothing, and
		// what the watch waits for would come late or never.
		s.log.Warn("etcd's revision went back; the nodes are read anew", "was", known, "is", rev)
		s.revision, s.grace = rev, now+s.cfg.Lease
		s.resync()
	}
	if s.isAway {
		s.isAway = false
		s.log.Warn("etcd is back", "away_ms", (now - s.contact).Milliseconds())
		if f := s.cfg.Events.Away; f != nil {
			f(false)
		}
	}
	s.contact = now
}

// unheard notes that etcd didn't answer.
func (s *Source) unheard(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.isAway || s.now()-s.contact <= s.cfg.Lease/2 {
		return
	}
	s.isAway = true
	s.log.Warn("etcd is away; the last view of the nodes stays in force", "err", err)
	if f := s.cfg.Events.Away; f != nil {
		f(true)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
