// Package tikvtest opens a tikv.Store for tests: the client as it is, on the cluster in memory
// that the client's library tests itself with. That one knows neither one-phase nor asynchronous commits: all
// take two phases here.
package tikvtest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tikv/client-go/v2/testutils"
	clienttikv "github.com/tikv/client-go/v2/tikv"
	"github.com/tikv/client-go/v2/tikvrpc"
	pd "github.com/tikv/pd/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gochat-im/gochat/msgstore/kv/tikv"
)

// Cluster is a cluster in memory, whose regions begin at the keys that New was given.
type Cluster struct {
	rpc *shared
	pd  pd.Client
}

// New makes a cluster that ends with the test.
func New(t testing.TB, splits ...[]byte) *Cluster {
	t.Helper()
	rpc, cluster, pdClient, err := testutils.NewMockTiKV("", nil)
	if err != nil {
		t.Fatalf("mock cluster: %v", err)
	}
	var server uint64
	if len(splits) > 0 {
		server, _, _ = testutils.BootstrapWithMultiRegions(cluster, splits...)
	} else {
		server, _, _ = testutils.BootstrapWithSingleStore(cluster)
	}
	cluster.UpdateStoreAddr(server, healthy(t))
	c := &Cluster{rpc: &shared{MockClient: rpc}, pd: pdClient}
	t.Cleanup(c.rpc.end)
	return c
}

// healthy returns an address where the client hears that the server lives: after a lost reply it asks, past the cluster
// in memory.
func healthy(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	healthpb.RegisterHealthServer(g, health.NewServer())
	go g.Serve(listener)
	t.Cleanup(g.Stop)
	return listener.Addr().String()
}

// Open returns a store of the cluster. It is closed with the test, if it isn't before. Of c its PD, Keyspace and
// TLS don't count, and a nil Logger discards. Faults go between the client and the cluster; nil: none do.
func (c *Cluster) Open(t testing.TB, cfg tikv.Config, faults *Faults) *tikv.Store {
	t.Helper()
	var client clienttikv.Client = c.rpc
	placement := c.pd
	if faults != nil {
		client, placement = &faultClient{Client: client, faults: faults}, &faultPD{Client: placement, faults: faults}
	}
	store, err := clienttikv.NewTestTiKVStore(client, placement, nil, nil, 0)
	if err != nil {
		t.Fatalf("client of the mock cluster: %v", err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := tikv.New(store, cfg)
	t.Cleanup(func() { s.Close() })
	return s
}

// Open returns an empty store on a cluster of its own.
func Open(t testing.TB, splits ...[]byte) *tikv.Store {
	t.Helper()
	return New(t, splits...).Open(t, tikv.Config{}, nil)
}

// shared is the cluster's side of several clients: none closes it. They resolve locks in goroutines that nobody
// waits for, and the cluster has nothing to answer with once it has ended.
type shared struct {
	*testutils.MockClient
	mu    sync.RWMutex // held by requests
	ended bool
}

// Close leaves the cluster as it is.
func (*shared) Close() error { return nil }

// end ends the cluster when the requests under way are answered.
func (s *shared) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.MockClient.Close()
}

// SendRequest implements the client's interface.
func (s *shared) SendRequest(ctx context.Context, addr string, req *tikvrpc.Request, timeout time.Duration) (*tikvrpc.Response, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.ended {
		return nil, errors.New("the cluster has ended")
	}
	return s.MockClient.SendRequest(ctx, addr, req, timeout)
}
