// Package etcdtest runs real etcd servers for tests, on loopback, in their own process.
package etcdtest

import (
	"context"
	"net/url"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/gochat-im/gochat/router/etcd"
)

// Server is an etcd of one member that can be stopped and started again with what it holds.
type Server struct {
	t      testing.TB
	dir    string
	client url.URL
	peer   url.URL
	etcd   *embed.Etcd // nil: stopped
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir(), client: url.URL{Scheme: "http", Host: "127.0.0.1:0"}, peer: url.URL{Scheme: "http", Host: "127.0.0.1:0"}}
	s.Restart()
	t.Cleanup(s.Stop)
	return s
}

// Restart stops the server if it runs and starts it again on the same directory and port.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	cfg := embed.NewConfig()
	cfg.Dir = s.dir
	cfg.LogLevel, cfg.LogOutputs = "error", []string{"/dev/null"}
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.UnsafeNoFsync = true
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{s.client}, []url.URL{s.client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{s.peer}, []url.URL{s.peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		s.t.Fatalf("starting etcd: %v", err)
	}
	s.etcd = e
	select {
	case <-e.Server.ReadyNotify():
	case <-time.After(30 * time.Second):
		s.t.Fatal("etcd isn't ready after 30 s")
	}
	s.client.Host = e.Clients[0].Addr().String()
}

// Stop closes the server; what it holds stays.
func (s *Server) Stop() {
	if s.etcd != nil {
		s.etcd.Close()
		s.etcd = nil
	}
}

// URL is the endpoint, the same after each restart.
func (s *Server) URL() string { return s.client.String() }

// Client returns a client that is closed when the test ends.
func (s *Server) Client() *clientv3.Client {
	s.t.Helper()
	return Client(s.t, s.URL())
}

// Client returns a client of the etcd at url, which is closed when the test ends.
func Client(t testing.TB, url string) *clientv3.Client {
	t.Helper()
	c, err := etcd.Dial(context.Background(), etcd.Config{Endpoints: []string{url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}
