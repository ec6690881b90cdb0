package cluster

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
)

// A node asks for the feature level in force, and doesn't start where it can't read it.
func TestLevel(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cfg := Config{Config: config.Default(), Logger: slog.New(slog.DiscardHandler)}
	cfg.Cluster.NodeID, cfg.Cluster.Roles = "a", []string{"edge"}
	cfg.Cluster.RPC.Listen = "127.0.0.1:1"
	cfg.Cluster.KeyFile = filepath.Join(t.TempDir(), "cluster.key")
	if err := config.CreateClusterKey(cfg.Cluster.KeyFile); err != nil {
		t.Fatal(err)
	}
	listed := cfg
	listed.Cluster.Nodes = []config.Peer{
		{ID: "a", RPC: "127.0.0.1:1", Roles: []string{"edge"}, Worker: 1},
		{ID: "b", RPC: "127.0.0.1:2", Roles: []string{"logic"}, Worker: 2},
	}
	cfg.Cluster.Etcd.Endpoints, cfg.Cluster.Etcd.Prefix = []string{srv.URL()}, "/test"
	for name, c := range map[string]Config{"a list": listed, "etcd": cfg} {
		n, err := Open(c)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := uint32(msgstore.FeatureLevel)
		if name == "etcd" {
			want = nodes.FirstLevel // nobody has raised it
		}
		if n.Level() != want || n.Self.Level != msgstore.FeatureLevel {
			t.Errorf("%s: level %d in force, want %d; the node reads %d", name, n.Level(), want, n.Self.Level)
		}
		n.Close()
	}

	source, err := nodes.NewStatic(nodes.Node{ID: "a", Worker: 1, Roles: nodes.Edge, Level: 4}, nodes.Node{ID: "b", Worker: 2, Roles: nodes.Logic, Level: 3})
	if err != nil {
		t.Fatal(err)
	}
	given := cfg
	given.Source = source
	n, err := Open(given)
	if err != nil {
		t.Fatal(err)
	}
	if n.Level() != 3 {
		t.Errorf("the lowest of the nodes is 3, level %d is in force", n.Level())
	}
	n.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if _, err := srv.Client().Put(ctx, "/test/level", "99"); err != nil {
		t.Fatal(err)
	}
	n, err = Open(cfg)
	if !errors.Is(err, etcdnodes.ErrOld) || !strings.Contains(err.Error(), "feature level 99 is in force") {
		t.Errorf("started below the level in force: %v, %v", n, err)
	}
}
