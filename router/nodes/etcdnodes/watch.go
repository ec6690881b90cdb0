package etcdnodes

import (
	"context"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/router/nodes"
)

// whole takes in all records there are.
func (s *Source) whole(kvs []*mvccpb.KeyValue, rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	there := make(map[string]bool, len(kvs))
	changed := s.revision == 0
	for _, kv := range kvs {
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
	s.revision = rev
	if changed {
		s.publish()
	}
}

// changed takes in what happened to records.
func (s *Source) changed(events []*clientv3.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for _, ev := range events {
		if ev.Type == mvccpb.DELETE {
			changed = s.drop(strings.TrimPrefix(string(ev.Kv.Key), s.records.Prefix)) || changed
		} else if n := s.parse(ev.Kv.Key, ev.Kv.Value, ev.Kv.CreateRevision); n != nil {
			changed = s.put(n, ev.Kv.ModRevision) || changed
		}
		s.revision = max(s.revision, ev.Kv.ModRevision)
	}
	if changed {
		s.publish()
	}
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
	if name == s.self.node.ID && !e.gone {
		s.self.missing = true
		select {
		case s.self.hurry <- struct{}{}:
		default:
		}
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

// heard notes that etcd answered a question. We knew of its revision known when we asked, and
// it answered as of rev.
func (s *Source) heard(known, rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if now-s.contact > s.cfg.Lease/2 {
		s.grace = now + s.cfg.Lease
	}
	if s.records.Seen(known, rev) {
		s.log.Warn("etcd's revision went back; the nodes are read anew", "was", known, "is", rev)
		s.grace = now + s.cfg.Lease
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
