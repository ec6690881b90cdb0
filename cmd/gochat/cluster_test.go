package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
)

// runCluster runs "gochat cluster" and returns what it printed.
func runCluster(t *testing.T, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
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
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
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
	match(`3 nodes, feature level 1, revision \d+
NODE     ROLES         WORKER  RPC            ZONE  WEIGHT  LEVEL  SLOTS  AGE\s+STATE
edge-1   edge          \d+\s+10.0.0.9:7000  -     1       1      -      \d+s\s+up
logic-1  logic         \d+\s+10.0.0.1:7000  a     1       1      \d+\s+\d+s\s+up
logic-2  logic,worker  \d+\s+10.0.0.2:7000  -     3       1      \d+\s+\d+s\s+up
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

	match(`edge-1 drains; its clients are told to leave, but there is no other edge for them: gochat_connections .* says how many are left\n`, "drain", "edge-1")
	if !<-told {
		t.Error("the edge was told to stay")
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

// Asked with the configuration of an edge on its machine, the command says how many connections it still has.
func TestDrainingAnEdge(t *testing.T) {
	srv := etcdtest.Start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, name := range []string{"edge-1", "edge-2"} {
		s, err := etcdnodes.Open(ctx, etcdnodes.Config{Client: srv.Client()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(ctx)
		if _, err := s.Join(ctx, nodes.Node{ID: name, Roles: nodes.Edge | nodes.Fanout, RPC: "10.0.0.1:7000"}); err != nil {
			t.Fatal(err)
		}
		if err := s.Announce(ctx); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "gc") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "node.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, "data: '%s'\ncluster: {roles: [edge], node_id: edge-1, key_file: k, signing_keys: s, rpc: {listen: '127.0.0.1:7000'}, etcd: {endpoints: ['%s']}}", dir, srv.URL()), 0o600); err != nil {
		t.Fatal(err)
	}
	drain := func(node, want string) {
		t.Helper()
		if out, err := runCluster(t, "drain", node, "--config", file); err != nil || out != want {
			t.Errorf("draining %s prints %q, %v; want %q", node, out, err, want)
		}
	}
	unknown := "gochat_connections of its metrics, or \"gochat admin stats\" there, says how many are left; it leaves the bus to others\n"
	drain("edge-1", "edge-1 drains; its clients are told to go to edge-2: "+unknown) // it doesn't run here
	ln, err := net.Listen("unix", filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/vars", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"edge":{"Connections":17}}`))
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(ln) }() // ends when the server is closed
	t.Cleanup(func() { _ = server.Close() })
	drain("edge-1", "edge-1 drains; its clients are told to go to edge-2: 17 connections are left; it leaves the bus to others\n")
	drain("edge-2", "edge-2 drains; its clients are told to leave, but there is no other edge for them: "+unknown)
}

func TestClusterLevel(t *testing.T) {
	srv := etcdtest.Start(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	start := func(name string, level uint32) (*etcdnodes.Source, error) {
		t.Helper()
		s, err := etcdnodes.Open(ctx, etcdnodes.Config{Client: srv.Client()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close(ctx) })
		if _, err := s.Join(ctx, nodes.Node{ID: name, Roles: nodes.Logic, RPC: "10.0.0.1:7000", Level: level}); err != nil {
			return nil, err
		}
		return s, s.Announce(ctx)
	}
	at := "--etcd=" + srv.URL()
	match := func(pattern string, args ...string) {
		t.Helper()
		out, err := runCluster(t, append(args, at)...)
		if err != nil || !regexp.MustCompile("(?s)^"+pattern+"$").MatchString(out) {
			t.Errorf("%q prints\n%s\n%v, want\n%s", args, out, err, pattern)
		}
	}
	wrong := func(want string, args ...string) {
		t.Helper()
		if out, err := runCluster(t, append(args, at)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %s, %v, want an error with %q", args, out, err, want)
		}
	}
	match("feature level 1 is in force\nno node is registered below /gochat\n", "level")
	if _, err := start("new", 2); err != nil {
		t.Fatal(err)
	}
	old, err := start("old", 1)
	if err != nil {
		t.Fatal(err)
	}
	match("feature level 1 is in force\nsome nodes can read more; these can't yet: old\n", "level")
	match(`.*new  .*  1       2      \d+ .*old  .*  1       1      \d+ .*`, "status")
	match(`{"id":"new",.*"level":2,.*"level_in_force":1,.*}\n{"id":"old",.*}\n`, "status", "--json")
	wrong("--gone new: the node is there", "level", "raise", "--gone=new,old")
	wrong("no name of a node", "level", "raise", "--gone=a/b")
	wrong("feature level 1 stays in force: these nodes can't read more: old", "level", "raise")
	if err := old.Close(ctx); err != nil {
		t.Fatal(err)
	}
	match(`feature level 1 is in force\nall nodes can read level 2: "gochat cluster level raise" puts it in force\n`, "level")
	if _, err := srv.Client().Put(ctx, "/gochat/workers/7", `{"node":"killed","start":1,"level":1}`); err != nil {
		t.Fatal(err)
	}
	wrong(`node "killed" isn't registered, but may run`, "level", "raise")
	match("feature level 2 is in force; it was 1\n", "level", "raise", "--gone=killed")
	match("feature level 2 is in force, and no node can read more\n", "level", "raise")
	match("feature level 2 is in force\nno node can read more\n", "level")
	match("1 nodes, feature level 2, .*", "status")
	if _, err := start("old", 1); !errors.Is(err, etcdnodes.ErrOld) {
		t.Errorf("an older node starts: %v", err)
	}
}

func TestClusterSettings(t *testing.T) {
	srv := etcdtest.Start(t)
	at := "--etcd=" + srv.URL()
	match := func(pattern string, args ...string) {
		t.Helper()
		out, err := runCluster(t, append([]string{"settings", at}, args...)...)
		if err != nil || !regexp.MustCompile("(?s)^"+pattern+"$").MatchString(out) {
			t.Errorf("%q prints\n%s\n%v, want\n%s", args, out, err, pattern)
		}
	}
	wrong := func(want string, args ...string) {
		t.Helper()
		out, err := runCluster(t, append([]string{"settings"}, args...)...)
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, new(usageError)) {
			t.Errorf("%q: %s, %v, want an error with %q that is the command line's fault", args, out, err, want)
		}
	}
	match(`0 settings in etcd below /gochat/settings/
KEY +BY DEFAULT +IN ETCD.*
limits.inflight +256 +- *
.*`, "get")
	match("limits.inflight: 256 by default; nothing in etcd\n", "get", "limits.inflight")
	match(`limits.inflight: 70 on all nodes \(256 by default\)`+"\n", "set", "limits.inflight", "70")
	match(`limits.inflight: 71 on all nodes \(256 by default\)`+"\n", "set", "limits.inflight", "71")
	match(`limits.inflight: 71 in etcd, since revision \d+; 256 by default`+"\n", "get", "limits.inflight")

	// What nodes would refuse is refused here, and nothing is written.
	wrong("nodes would refuse it", at, "set", "limits.inflight", "0")
	wrong("nodes would refuse it", at, "set", "limits.inflight", "many")
	wrong("can't be changed while nodes run", at, "set", "limits.frame", "1MiB")
	wrong("no setting", at, "set", "limits.nothing", "1")
	wrong("no setting", at, "get", "limits.nothing")
	wrong("isn't set", at, "unset", "log.level")
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := srv.Client()
	if r, err := c.Get(ctx, "/gochat/settings/", clientv3.WithPrefix()); err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "71" {
		t.Errorf("etcd has %v, %v", r, err)
	}

	// What somebody else has written, and nodes refuse, is shown, hinders nothing and can be removed.
	for key, value := range map[string]string{"limits.nothing": "1", "log.level": "loud"} {
		if _, err := c.Put(ctx, "/gochat/settings/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	match(`3 settings .*log.level +info +"loud" +refused: log.level "loud": want debug, .*limits.nothing +- +"1" +refused: there is no setting "limits.nothing"\n`, "get")
	match("log.level: loud in etcd, since revision .*; info by default; refused: .*\n", "get", "log.level")
	match("retention.group: 48h on all nodes .*\n", "set", "retention.group", "48h")
	match("limits.nothing: removed\n", "unset", "limits.nothing")
	match("log.level: each node's own value again .*\n", "unset", "log.level")

	// Lists of words.
	list := filepath.Join(t.TempDir(), "words.txt")
	if err := os.WriteFile(list, []byte("# rude\ndamn\n傻瓜\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	match("words/rude: 2 words on all nodes\n", "set", "words/rude", "--file", list)
	match(`.*words.action +refuse +-.*words/rude +- +2 words *`+"\n", "get")
	match("words/rude: # rude\ndamn\n傻瓜\n in etcd, since .*\n", "get", "words/rude")
	wrong("needs a name", at, "set", "words/", "x")
	wrong("control character", at, "set", "words/rude", "a\x00b")
	wrong("either a value or --file", at, "set", "words/rude", "x", "--file", list)
	wrong("no list", at, "get", "words/other")
	match("words/rude: removed\n", "unset", "words/rude")

	file := filepath.Join(t.TempDir(), "node.yaml")
	node := "limits: {inflight: 9}\ncluster: {roles: [edge], node_id: x, key_file: k, signing_keys: s, rpc: {listen: '127.0.0.1:7000'}, "
	if err := os.WriteFile(file, fmt.Appendf(nil, "%setcd: {endpoints: ['%s']}}", node, srv.URL()), 0o600); err != nil {
		t.Fatal(err)
	}
	match("limits.inflight: 71 in etcd, since revision .*; 9 in .*node.yaml\n", "get", "limits.inflight", "--config", file)
	match(".*KEY +IN "+regexp.QuoteMeta(file)+" +IN ETCD.*", "get", "--config", file)
	if err := os.WriteFile(file, []byte(node+"nodes: [{id: x, rpc: '127.0.0.1:7000', roles: [edge], worker: 1}]}"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong("there is no etcd that settings could lie in", "set", "limits.inflight", "7", "--config", file)
}

// A node's own rotation would have it sign what the others don't accept.
func TestKeysOfAClusterArentRotatedAtOneNode(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("GOCHAT_CLUSTER__SIGNING_KEYS", dir)
	cmd := keysCommand()
	cmd.SetArgs([]string{"rotate", "--data", t.TempDir()})
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "two rounds") {
		t.Errorf("rotating: %v", err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("it left %v, %v", files, err)
	}
}
