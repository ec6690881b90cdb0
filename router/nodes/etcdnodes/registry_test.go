package etcdnodes_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
)

const prefix = "/test"

// config is what the tests' sources have: leases as short as etcd grants them.
func config(url string, t testing.TB) etcdnodes.Config {
	return etcdnodes.Config{Client: etcdtest.Client(t, url), Prefix: prefix, Lease: time.Second, Logger: logger(t)}
}

// logger writes to the test's log as long as the test runs.
func logger(t testing.TB) *slog.Logger {
	w := &testLog{t: t}
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.t = nil
	})
	return slog.New(slog.NewTextHandler(w, nil))
}

type testLog struct {
	mu sync.Mutex
	t  testing.TB
}

func (w *testLog) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(string(bytes.TrimSpace(p)))
	}
	return len(p), nil
}

func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, cfg etcdnodes.Config) *etcdnodes.Source {
	t.Helper()
	s, err := etcdnodes.Open(limit(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_ = s.Close(ctx)
	})
	return s
}

func join(t testing.TB, s *etcdnodes.Source, name string) nodes.Node {
	t.Helper()
	n, err := s.Join(limit(t), nodes.Node{ID: name, Roles: nodes.Logic, RPC: "127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// started is a source of a node that is announced.
func started(t testing.TB, cfg etcdnodes.Config, name string) *etcdnodes.Source {
	t.Helper()
	s := open(t, cfg)
	join(t, s, name)
	if err := s.Announce(limit(t)); err != nil {
		t.Fatal(err)
	}
	return s
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after 2 minutes: %s", what)
		}
	}
}

func names(v *nodes.View) string {
	var s []string
	for _, n := range v.Nodes() {
		s = append(s, n.ID)
	}
	return strings.Join(s, " ")
}

func sees(t testing.TB, s *etcdnodes.Source, want string) {
	t.Helper()
	eventually(t, "the nodes are "+want, func() bool { return names(s.View()) == want })
}

// history gathers what a source's views were.
type history struct {
	mu    sync.Mutex
	views []string
}

func follow(s *etcdnodes.Source) *history {
	h := new(history)
	now, _ := s.Subscribe(func(_, v *nodes.View) { h.add(names(v)) })
	h.add(names(now))
	return h
}

func (h *history) add(v string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.views = append(h.views, v)
}

func (h *history) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.views)
}
