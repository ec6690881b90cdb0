//go:build e2e

package e2e

import (
	"context"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv/tikv"
	"github.com/gochat-im/gochat/tools/cluster/local"
)

// everywhere runs a test against one server that has everything in itself, and against a cluster: two edges, two logic nodes, fan-out
// and a worker, on PD, the server of TiKV's API, RocketMQ and etcd. The server runs.
func everywhere(t *testing.T, test func(t *testing.T, s *server), env ...string) {
	t.Run("server", func(t *testing.T) {
		s := newServer(t, binary, env...)
		s.start()
		test(t, s)
	})
	t.Run("cluster", func(t *testing.T) { test(t, newCluster(t, env...)) })
}

// below is what all clusters of these tests stand on. The first one starts it, and it ends with the tests.
var below struct {
	once     sync.Once
	cluster  *local.Cluster
	dir      string
	err      error
	keyspace atomic.Int64
}

// startBelow starts it, building and fetching what isn't there.
func startBelow() {
	if below.dir, below.err = os.MkdirTemp("", "gochat-e2e-below-"); below.err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	below.cluster, below.err = local.Start(ctx, local.Config{Dir: below.dir, Binary: binary, Out: os.Stderr})
}

// endBelow ends it, if it was started.
func endBelow() {
	if below.cluster != nil {
		below.cluster.Kill()
	}
	if below.dir != "" {
		_ = os.RemoveAll(below.dir)
	}
}

// clusterTime is what nodes may take to be ready. One that was killed is waited for by the next one of its name until its lease has lapsed.
const clusterTime = 90 * time.Second

// newCluster starts nodes that a test takes for one server.
func newCluster(t *testing.T, env ...string) *server {
	t.Helper()
	below.once.Do(startBelow)
	if below.err != nil {
		t.Fatal(below.err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), clusterTime)
	defer cancel()
	c, err := local.Start(ctx, local.Config{
		Dir: t.TempDir(), Binary: binary, On: below.cluster, Keyspace: int(below.keyspace.Add(1)), Edges: 2, Logics: 2, Fanouts: 1, Workers: 1, Set: append(hurry(), env...),
	})
	if err != nil {
		t.Fatal(err)
	}
	edges := c.Nodes("edge")
	s := &server{t: t, bin: binary, nodes: c, tcp: edges[0].TCP, http: edges[0].HTTP, data: c.Process("logic-1").Data}
	t.Cleanup(func() {
		c.Kill()
		if t.Failed() {
			t.Logf("the nodes said:\n%s", s.output())
		}
	})
	return s
}

// at returns an address of the server for the next client: of a cluster, of its edges in turn.
func (s *server) at() (tcp, http string) {
	if s.nodes == nil {
		return s.tcp, s.http
	}
	edges := s.nodes.Nodes("edge")
	e := edges[s.next%len(edges)]
	s.next++
	return e.TCP, e.HTTP
}

// startNodes starts the nodes that don't run.
func (s *server) startNodes() error {
	ctx, cancel := context.WithTimeout(context.Background(), clusterTime)
	defer cancel()
	errs := make(chan error, 100)
	var wg sync.WaitGroup
	for _, p := range s.nodes.Processes() {
		if !p.Running() {
			wg.Go(func() { errs <- p.Start(ctx) })
		}
	}
	wg.Wait()
	for {
		select {
		case err := <-errs:
			if err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// nodesRun reports whether any node runs.
func (s *server) nodesRun() bool {
	for _, p := range s.nodes.Processes() {
		if p.Running() {
			return true
		}
	}
	return false
}

// killNodes is kill -9 of all nodes, one right after the other.
func (s *server) killNodes() {
	for _, p := range s.nodes.Processes() {
		p.Kill()
	}
}

// nodesOutput is what the nodes have logged.
func (s *server) nodesOutput() string {
	var b strings.Builder
	for _, p := range s.nodes.Processes() {
		text, err := os.ReadFile(p.Log)
		if err != nil {
			s.t.Error(err)
		}
		b.WriteString("--- " + p.Name + "\n")
		b.Write(text)
	}
	return b.String()
}

// checkShared runs the audit over what the cluster stored.
func (s *server) checkShared() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	store, err := tikv.Open(ctx, tikv.Config{PD: []string{below.cluster.Process("pd-1").Addr}})
	if err != nil {
		s.t.Fatal(err)
	}
	defer store.Close()
	if err := msgstore.Check(ctx, store, msgstore.Keys{Keyspace: uint16(s.nodes.Keyspace())}, func(f msgstore.Finding) {
		if f.Severity == msgstore.Error {
			s.t.Errorf("audit: %s", f)
		}
	}); err != nil {
		s.t.Errorf("audit: %v", err)
	}
}
