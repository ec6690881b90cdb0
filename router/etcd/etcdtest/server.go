// Package etcdtest runs real etcd servers for tests, on loopback, in the test's own process.
package etcdtest

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/gochat-im/gochat/router/etcd"
)

// Server is an etcd of one member that can be stopped and started again with what it holds.
// Clients reach it through a proxy, under one address for all its life.
type Server struct {
	t     testing.TB
	dir   string
	front *Proxy
	tls   etcd.TLS    // zero: none
	etcd  *embed.Etcd // nil: stopped
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, dir: filepath.Join(t.TempDir(), "etcd"), front: newProxy(t, "")}
	t.Cleanup(s.Stop)
	s.Restart()
	return s
}

// Restart stops the server if it runs and starts it again on what it holds.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	any := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	forClients := any
	cfg := embed.NewConfig()
	cfg.Dir = s.dir
	cfg.LogLevel, cfg.LogOutputs = "panic", []string{"/dev/null"}
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.UnsafeNoFsync = true
	cfg.BcryptCost = 4 // passwords are cheap to check
	if s.tls != (etcd.TLS{}) {
		forClients.Scheme = "https"
		cfg.ClientTLSInfo = transport.TLSInfo{CertFile: s.tls.CertFile, KeyFile: s.tls.KeyFile, TrustedCAFile: s.tls.CAFile, ClientCertAuth: true}
	}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{forClients}, []url.URL{forClients}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{any}, []url.URL{any}
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
	s.front.heal(e.Clients[0].Addr().String())
}

// Stop ends the server at once, as clients see it; what it holds stays.
func (s *Server) Stop() {
	s.front.Cut() // a server that closes in good order goes on telling watches for seconds
	if s.etcd != nil {
		s.etcd.Close()
		s.etcd = nil
	}
}

// Wipe is Restart with an empty directory: etcd has lost everything.
func (s *Server) Wipe() {
	s.t.Helper()
	s.Stop()
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Fatal(err)
	}
	s.Restart()
}

// URL is the endpoint.
func (s *Server) URL() string {
	if s.tls != (etcd.TLS{}) {
		return "https://" + s.front.ln.Addr().String()
	}
	return s.front.URL()
}

// Proxy starts a proxy to s, which is closed when the test ends: some clients' own way to it.
func (s *Server) Proxy() *Proxy {
	s.t.Helper()
	return newProxy(s.t, s.front.ln.Addr().String())
}

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
