package etcd

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Watch follows all keys that begin with a prefix: it reads them, and then hears of each change behind
// that, without a gap. Where events are no longer to be had (they were compacted away while etcd was out of reach) it reads
// everything anew. Callbacks come one at a time.
type Watch struct {
	Client *clientv3.Client
	Prefix string

	// Whole is called with all keys there are, as of revision rev: first, and whenever everything was read anew.
	Whole func(kvs []*mvccpb.KeyValue, rev int64)

	// Changed is called with what happened since, in order.
	Changed func(events []*clientv3.Event)

	Logger *slog.Logger // nil: none

	mu       sync.Mutex
	revision int64              // the latest that we know etcd had
	again    context.CancelFunc // ends the watch that is under way, to read everything anew
}

// Read reads everything. It is called before Run, by whom wants to know that it worked.
func (w *Watch) Read(ctx context.Context) error {
	r, err := w.Client.Get(ctx, w.Prefix, clientv3.WithPrefix())
	if err != nil {
		return fmt.Errorf("reading %s from etcd: %w", w.Prefix, err)
	}
	w.mu.Lock()
	w.revision = r.Header.Revision
	w.mu.Unlock()
	w.Whole(r.Kvs, r.Header.Revision)
	return nil
}

// Run follows until ctx ends.
func (w *Watch) Run(ctx context.Context) {
	for {
		w.follow(ctx)
		for wait := 50 * time.Millisecond; ; wait = min(2*wait, time.Second) {
			t := time.NewTimer(wait/2 + rand.N(wait/2))
			select {
			case <-t.C:
			case <-ctx.Done():
				t.Stop()
				return
			}
			try, cancel := context.WithTimeout(ctx, 5*time.Second)
			err := w.Read(try)
			cancel()
			if err == nil {
				break
			}
			w.say("reading anew", err)
		}
	}
}

// follow hands on what happens behind the revision until the watch breaks or Seen ends it.
func (w *Watch) follow(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.mu.Lock()
	w.again = cancel
	from := w.revision + 1
	w.mu.Unlock()
	for r := range w.Client.Watch(clientv3.WithRequireLeader(ctx), w.Prefix, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if err := r.Err(); err != nil {
			if ctx.Err() == nil {
				w.say("the watch broke", err)
			}
			return
		}
		if len(r.Events) == 0 {
			continue
		}
		w.mu.Lock()
		w.revision = max(w.revision, r.Events[len(r.Events)-1].Kv.ModRevision)
		w.mu.Unlock()
		w.Changed(r.Events)
	}
}

func (w *Watch) say(what string, err error) {
	if w.Logger != nil {
		w.Logger.Info("watching etcd: "+what, "prefix", w.Prefix, "err", err)
	}
}

// Revision returns the latest revision of etcd that is known here.
func (w *Watch) Revision() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.revision
}

// Seen compares the revision rev of a linearizable read with what Revision returned before the
// read was asked for. If it went back, etcd was restored from a copy or begins from nothing, and what
// the watch waits for would come late or never: Seen has everything read anew, and reports it.
func (w *Watch) Seen(before, rev int64) bool {
	if rev >= before {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if rev >= w.revision {
		return false // read anew meanwhile
	}
	w.revision = rev
	if w.again != nil {
		w.again()
	}
	return true
}
