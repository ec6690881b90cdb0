package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestPrintedConfigurationReadsBack(t *testing.T) {
	want := Default()
	want.Limits.Heartbeat = 90 * time.Second
	want.Storage.Cache = 1<<20 + 1
	want.TCP.ProxyFrom = []string{"10.0.0.0/8", "192.168.0.0/16"}
	want.HTTP.TrustedProxies, want.HTTP.Origins = []string{}, []string{}
	want.Issuers = []Issuer{{Issuer: "https://example.com", Algorithm: "HS256", KeyFile: "/k", Prefix: "ex:"}}
	want.Drain.Alternatives = []string{"other:7070"}
	want.Cluster = cluster()
	var b bytes.Buffer
	if err := Print(&b, want); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "gochat.yaml")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := Load(path, nil, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read back:\n%+v\nwant:\n%+v", got, want)
	}
}

func TestSourcesOfConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gochat.yaml")
	if err := os.WriteFile(path, []byte("tcp: {listen: '127.0.0.1:1'}\nhttp: {listen: '127.0.0.1:2'}\ndata: /from/file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path, []string{"GOCHAT_HTTP__LISTEN=127.0.0.1:22", "GOCHAT_DATA=/from/env", "GOCHAT_LIMITS__HANDSHAKE=3s", "GOCHAT_STORAGE__CACHE=8MiB", "HOME=/x"},
		map[string]any{"data": "/from/flag"})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.TCP.Listen != "127.0.0.1:1" || cfg.HTTP.Listen != "127.0.0.1:22" || cfg.Data != "/from/flag" || cfg.Limits.Handshake != 3*time.Second || cfg.Storage.Cache != 8<<20 {
		t.Errorf("the later source must win: %+v", cfg)
	}
	if cfg.Limits.Heartbeat != Default().Limits.Heartbeat {
		t.Errorf("what nobody sets keeps its default: %v", cfg.Limits.Heartbeat)
	}
}

func TestWrongConfigurationIsRefused(t *testing.T) {
	for _, c := range []struct{ yaml, want string }{
		{"nonsense: 1", "nonsense"},
		{"tcp: {lisen: 'x'}", "lisen"},
		{"limits: {handshake: soon}", "handshake"},
		{"limits: {content: 1MiB}", "limits.content"},
		{"limits: {frame: 4KiB}", "limits.frame"},
		{"log: {level: loud}", "log.level"},
		{"limits: {connections: -1}", "limits.connections"},
		{"storage: {cache: huge}", "size"},
		{"tcp: {proxy_from: ['10.0.0.1']}", "tcp.proxy_from"},
		{"issuers: [{issuer: x, key_file: k, algorithm: none}]", "algorithm"},
		{"issuers: [{algorithm: HS256}]", "key_file"},
		{"limits: {heartbeat_min: 5m}", "heartbeat"},
		{"devices: {per_user: 0}", "devices.per_user"},
		{"fanout: {large_group: 1}", "fanout.large_group"},
		{"fanout: {audience_idle: 0s}", "fanout.audience_idle"},
		{"fanout: {deliveries_per_second: -1}", "fanout.deliveries_per_second"},
		{"devices: {per_kind: -1}", "devices.per_kind"},
		{"drain: {deadline: -1s}", "drain"},
		{"drain: {alternatives: [nowhere]}", "drain.alternatives"},
		{"cluster: {node_id: a}", "no cluster.roles"},
		{"cluster: {roles: [chef]}", `cluster.roles "chef"`},
		{"cluster: {roles: [edge, edge]}", "twice"},
		{"cluster: {roles: [edge], node_id: 'a b'}", "cluster.node_id"},
		{"cluster: {roles: [edge], weight: 0}", "cluster.weight"},
		{"cluster: {roles: [edge], rpc: {listen: here}}", "cluster.rpc.listen"},
		{"cluster: {roles: [edge], rpc: {advertise: ':1'}}", "cluster.rpc.advertise"},
		{"cluster: {roles: [edge], etcd: {endpoints: ['10.0.0.1:2379']}}", "cluster.etcd.endpoints"},
		{"cluster: {roles: [edge], etcd: {endpoints: ['http://a:1'], prefix: x}}", "cluster.etcd.prefix"},
		{"cluster: {roles: [edge], etcd: {endpoints: ['http://a:1'], tls: {cert_file: c}}}", "belong together"},
		{"cluster: {roles: [edge], etcd: {endpoints: ['http://a:1']}, nodes: [{id: a, rpc: 'a:1', roles: [edge], worker: 1}]}", "not both"},
		{"cluster: {roles: [edge], nodes: [{id: a}]}", "id, rpc and roles"},
		{"cluster: {roles: [edge], nodes: [{id: a, rpc: 'a:1', roles: [edge], worker: 1023}]}", "cluster.nodes[0].worker"},
		{"cluster: {roles: [edge], nodes: [{id: a, rpc: 'a:1', roles: [edge], worker: 1}, {id: b, rpc: 'b:1', roles: [edge], worker: 1}]}", "another node's already"},
		{"cluster: {roles: [edge], node_id: x, nodes: [{id: a, rpc: 'a:1', roles: [edge], worker: 1}]}", "isn't in the list"},
		{"cluster: {roles: [edge], nodes: [{id: a, rpc: 'a:1', roles: [cook], worker: 1}]}", `cluster.nodes[0].roles "cook"`},
		{"cluster: {roles: [logic], store: {kind: paper}}", "cluster.store.kind"},
		{"cluster: {roles: [logic], bus: {kind: bicycle}}", "cluster.bus.kind"},
		{"cluster: {roles: [logic], store: {tikv: {keyspace: 65535}}}", "keyspace"},
		{"a: [", "reading configuration"},
	} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(c.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path, nil, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want one that names %q", c.yaml, err, c.want)
		}
	}
}

// cluster is the section of a node that lacks nothing.
func cluster() Cluster {
	c := Default().Cluster
	c.Roles, c.NodeID, c.KeyFile, c.SigningKeys, c.RPC.Listen = []string{"logic", "worker"}, "logic-1", "/k/cluster.key", "/k", "10.0.0.1:7400"
	c.Etcd.Endpoints, c.Nodes, c.Clients = []string{}, []Peer{
		{ID: "logic-1", RPC: "10.0.0.1:7400", Roles: []string{"logic", "worker"}, Worker: 1, Clients: []string{}},
		{ID: "edge-1", RPC: "10.0.0.2:7400", Roles: []string{"edge"}, Worker: 2, Weight: 2, Zone: "b", Clients: []string{"10.0.0.2:7070"}},
	}, []string{}
	c.Store.Kind, c.Store.TiKV.PD = StoreTiKV, []string{"10.0.0.9:2379"}
	c.Bus.Kind, c.Bus.RocketMQ.NameServers = BusRocketMQ, []string{"10.0.0.8:9876"}
	return c
}

func TestWhatANodeLacksIsNamedAtOnce(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Cluster)
		want   []string // none: nothing is missing
		not    []string
	}{
		{name: "complete", change: func(*Cluster) {}},
		{name: "nothing but roles", change: func(c *Cluster) { *c = Default().Cluster; c.Roles = []string{"logic"} },
			want: []string{"cluster.node_id", "cluster.key_file", "cluster.signing_keys", "cluster.rpc.listen", "cluster.etcd.endpoints", "cluster.store.kind tikv"}},
		{name: "an edge needs no store", change: func(c *Cluster) { *c = Default().Cluster; c.Roles = []string{"edge"} },
			want: []string{"cluster.node_id", "cluster.key_file"}, not: []string{"store", "bus"}},
		{name: "all of the store in one process", change: func(c *Cluster) {
			c.Roles, c.Store, c.Bus = []string{"logic", "fanout", "worker"}, Default().Cluster.Store, Default().Cluster.Bus
		}},
		{name: "no placement drivers", change: func(c *Cluster) { c.Store.TiKV.PD = nil }, want: []string{"cluster.store.tikv.pd"}},
		{name: "tikv holds no log", change: func(c *Cluster) { c.Bus.Kind = BusEmbedded }, want: []string{"cluster.bus.kind rocketmq"}},
		{name: "no name servers", change: func(c *Cluster) { c.Bus.RocketMQ = RocketMQ{Queues: 1} }, want: []string{"name_servers", "topic"}},
		{name: "no regions", change: func(c *Cluster) { c.Store.TiKV.Regions = 0 }, want: []string{"cluster.store.tikv.regions 0"}},
		{name: "more queues than any cluster has nodes", change: func(c *Cluster) { c.Bus.RocketMQ.Queues = 257 }, want: []string{"cluster.bus.rocketmq.queues 257"}},
		{name: "all addresses", change: func(c *Cluster) { c.RPC.Listen = ":7400" }, want: []string{"cluster.rpc.advertise"}},
	} {
		cfg := Default()
		cfg.Cluster = cluster()
		c.change(&cfg.Cluster)
		err := cfg.Validate()
		if (err == nil) != (len(c.want) == 0) {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q doesn't name %s", c.name, err, w)
			}
		}
		for _, w := range c.not {
			if strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q names %s", c.name, err, w)
			}
		}
		if err != nil && strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("%s: more than one message: %q", c.name, err)
		}
	}
}

func TestClusterKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "cluster.key")
	if err := CreateClusterKey(path); err != nil {
		t.Fatal(err)
	}
	key, err := ReadClusterKeys(path)
	if err != nil || len(key) != 1 || len(key[0]) != 32 {
		t.Fatalf("%d keys, %v", len(key), err)
	}
	if err := CreateClusterKey(path); err == nil {
		t.Error("a key was written over another one")
	}
	if again, err := ReadClusterKeys(path); err != nil || !reflect.DeepEqual(again, key) {
		t.Errorf("another key: %v", err)
	}
	for mode, want := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o622: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadClusterKeys(path); (err == nil) != want {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	for text, why := range map[string]string{"": "short", strings.Repeat("ab", 31): "short", strings.Repeat("xy", 32): "not hexadecimal", strings.Repeat("a", 3000): "long"} {
		p := filepath.Join(t.TempDir(), "k")
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadClusterKeys(p); err == nil || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", why, err)
		}
	}
	two := filepath.Join(t.TempDir(), "two")
	if err := os.WriteFile(two, []byte(strings.Repeat("ab", 32)+"\n"+strings.Repeat("cd", 40)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if keys, err := ReadClusterKeys(two); err != nil || len(keys) != 2 || len(keys[0]) != 32 || len(keys[1]) != 40 {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	if _, err := ReadClusterKeys(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a key that isn't there was read")
	}
}
