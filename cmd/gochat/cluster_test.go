package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
)

// runCluster runs "gochat cluster" and returns what it printed.
func runCluster(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var out bytes.Buffer
	cmd := clusterCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

func TestClusterCommands(t *testing.T) {
	srv := etcdtest.Start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	told := make(chan bool, 2)
	for _, n := range []nodes.Node{
		{ID: "edge-1", Roles: nodes.Edge, RPC: "10.0.0.9:7000", Clients: []string{"chat.example.org:7070"}},
		{ID: "logic-1", Roles: nodes.Logic, RPC: "10.0.0.1:7000", Zone: "a"},
		{ID: "logic-2", Roles: nodes.Logic | nodes.Worker, RPC: "10.0.0.2:7000", Weight: 3},
	} {
		s, err := etcdnodes.Open(ctx, etcdnodes.Config{Client: srv.Client(), Events: etcdnodes.Events{Draining: func(on bool) { told <- on }}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(ctx)
		if _, err := s.Join(ctx, n); err != nil {
			t.Fatal(err)
		}
		if err := s.Announce(ctx); err != nil {
			t.Fatal(err)
		}
	}
	at := "--etcd=" + srv.URL()
	match := func(pattern string, args ...string) {
		t.Helper()
		out, err := runCluster(t, append(args, at)...)
		if err != nil || !regexp.MustCompile("(?s)^"+pattern+"$").MatchString(out) {
			t.Errorf("%q prints\n%s\n%v, want\n%s", args, out, err, pattern)
		}
	}
	match(`3 nodes, feature level 0, revision \d+
NODE     ROLES         WORKER  RPC            ZONE  WEIGHT  SLOTS  AGE\s+STATE
edge-1   edge          \d+\s+10.0.0.9:7000  -     1       -      \d+s\s+up
logic-1  logic         \d+\s+10.0.0.1:7000  a     1       \d+\s+\d+s\s+up
logic-2  logic,worker  \d+\s+10.0.0.2:7000  -     3       \d+\s+\d+s\s+up
`, "status")
	match(`{"id":"edge-1",.*"clients":\["chat.example.org:7070"\].*"slots":0}\n{"id":"logic-1",.*}\n{.*"weight":3,.*"slots":\d+}\n`, "status", "--json")
	match(`NODE     WEIGHT  SLOTS  SHARE   STATE
logic-1  1       \d+\s+2\d.\d %  up
logic-2  3       \d+\s+7\d.\d %  up
`, "ring")
	match(`slot 17: logic-[12] \(10.0.0.[12]:7000\)\n`, "ring", "--slot=17")
	conv := id.Direct("1001", "1002")
	match(fmt.Sprintf(`conversation %s, slot %d: logic-[12] .*\n`, conv, conv.Slot()), "ring", "--conversation", conv.String())
	match(fmt.Sprintf(`user bob, slot %d: logic-[12] .*\n`, id.UserID("bob").Slot()), "ring", "--user=bob")

	match(`logic-2 drains; [23]\d\d\d slots go to others\n`, "drain", "logic-2")
	if !<-told {
		t.Error("the node was told to stay")
	}
	match(`.*logic-2  .*  0      \S+\s+draining\n`, "status")
	match(`NODE.*logic-1  1       4096   100.0 %  up\nlogic-2  3       0      0.0 %    draining\n`, "ring")
	match("logic-2 stays\n", "drain", "--undo", "logic-2")
	if <-told {
		t.Error("the node was told to drain")
	}

	// Where etcd is may come from a node's configuration, too.
	file := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "cluster: {roles: [edge], node_id: x, key_file: k, signing_keys: s, rpc: {listen: '127.0.0.1:7000'}, etcd: {endpoints: ['%s']}}", srv.URL()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := runCluster(t, "ring", "--config", file); err != nil || !strings.HasPrefix(out, "NODE") {
		t.Errorf("with a configuration: %s, %v", out, err)
	}
	match("0 nodes.*no node is registered below /other\n", "status", "--etcd-prefix=/other")

	for want, args := range map[string][]string{
		"there are: edge-1, logic-1, logic-2": {"drain", "logic-9", at},
		"where is etcd?":                      {"status"},
		"want 0 to 4095":                      {"ring", "--slot=4096", at},
		"--conversation":                      {"ring", "--conversation=x", at},
		"no name of a user":                   {"ring", "--user=\n", at},
		"want a URL":                          {"status", "--etcd=localhost"},
		"nobody owns anything":                {"ring", at, "--etcd-prefix=/other"},
	} {
		_, err := runCluster(t, args...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", args, err, want)
		}
		if want != "nobody owns anything" && !errors.As(err, new(usageError)) {
			t.Errorf("%q: %v is not the command line's fault", args, err)
		}
	}
}
