// Package tikvtest opens a tikv.Store for tests: the client as it is, on the cluster in memory
// that the client's library tests itself with. That one knows neither one-phase nor asynchronous commits: all
// take two phases here.
package tikvtest

import (
	"log/slog"
	"testing"

	"github.com/tikv/client-go/v2/testutils"
	clienttikv "github.com/tikv/client-go/v2/tikv"

	"github.com/gochat-im/gochat/msgstore/kv/tikv"
)

// Config configures a store of tests. The zero value is good.
type Config struct {
	// Splits are the bounds of the cluster's regions, in order.
	Splits [][]byte

	// Wrap goes between the client and the cluster; nil: nothing does.
	Wrap func(clienttikv.Client) clienttikv.Client

	// Store is the store's own configuration; its PD, Keyspace and TLS don't count. A nil Logger discards.
	Store tikv.Config
}

// Open returns an empty store. It is closed with the test, if it isn't before.
func Open(t testing.TB, c Config) *tikv.Store {
	t.Helper()
	rpc, cluster, pdClient, err := testutils.NewMockTiKV("", nil)
	if err != nil {
		t.Fatalf("mock cluster: %v", err)
	}
	if len(c.Splits) > 0 {
		testutils.BootstrapWithMultiRegions(cluster, c.Splits...)
	} else {
		testutils.BootstrapWithSingleStore(cluster)
	}
	var client clienttikv.Client = rpc
	if c.Wrap != nil {
		client = c.Wrap(client)
	}
	store, err := clienttikv.NewTestTiKVStore(client, pdClient, nil, nil, 0)
	if err != nil {
		t.Fatalf("client of the mock cluster: %v", err)
	}
	if c.Store.Logger == nil {
		c.Store.Logger = slog.New(slog.DiscardHandler)
	}
	s := tikv.New(store, c.Store)
	t.Cleanup(func() { s.Close() })
	return s
}
