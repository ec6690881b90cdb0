package config

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Role is a part that a process takes in a cluster.
type Role string

// The roles. A process has any of them.
const (
	RoleEdge   Role = "edge"   // clients' connections and HTTP; needs no store
	RoleLogic  Role = "logic"  // conversations and users of the slots that the ring gives to the node
	RoleFanout Role = "fanout" // brings stored messages from the bus to the edges
	RoleWorker Role = "worker" // sweeps, deletions, timers
)

// Roles are all of them, in the order in which a process starts them from the store up.
var Roles = []Role{RoleWorker, RoleLogic, RoleFanout, RoleEdge}

// Kinds of stores and of buses.
const (
	StorePebble = "pebble"
	StoreTiKV   = "tikv"
	BusEmbedded = "embedded"
	BusRocketMQ = "rocketmq"
)

// Cluster says what this process is to the others of its installation. Without roles there are no others.
type Cluster struct {
	Roles       []string      `koanf:"roles" doc:"What this process does, any of: edge (clients and HTTP), logic (conversations and users), fanout (messages from the bus to the edges), worker (sweeps, deletions, timers). Empty: everything, and there is no cluster."`
	NodeID      string        `koanf:"node_id" doc:"This process's name, which no other node has: letters, digits, dots, dashes and underscores, at most 63."`
	KeyFile     string        `koanf:"key_file" doc:"The key by which nodes know each other, the same on all of them: at least 32 bytes in hexadecimal, readable by the server's user alone. gochat cluster keys makes one. Of several, a line each, the first is shown and all are accepted."`
	SigningKeys string        `koanf:"signing_keys" doc:"Directory of the keys that tokens are signed with, the same on all nodes (gochat cluster keys makes them). Of a cluster they are never made by a server itself."`
	RPC         RPC           `koanf:"rpc" doc:"Calls from the other nodes."`
	Etcd        Etcd          `koanf:"etcd" doc:"Where nodes find each other."`
	Nodes       []Peer        `koanf:"nodes" doc:"All nodes, this one too, where there is no etcd: the same list on each of them."`
	Store       Store         `koanf:"store" doc:"Where logic, fanout and worker keep everything."`
	Bus         Bus           `koanf:"bus" doc:"What carries stored messages to those who act on them."`
	Weight      int           `koanf:"weight" doc:"How much of the conversations and users a logic node takes, beside others of weight 1."`
	Pace        time.Duration `koanf:"pace" doc:"The least time between two rounds of a logic node (a round is a commit and a publish), which edges hear from it, and between two requests of a fan-out node for what stands in one queue, up to 1s. What comes in less gathers: it takes up to so much longer and costs less of all processors, where single messages keep them busy. 0: the next one begins when the last is through."`
	Monitor     string        `koanf:"monitor" doc:"host:port of an HTTP listener for /metrics, /healthz and /readyz, for nodes that aren't edges, which have them on http.listen. It asks nobody who they are: let nobody but your monitoring reach it. Empty: there is none."`
	Zone        string        `koanf:"zone" doc:"Where this node stands (a data center, a rack): told to the others."`
	Clients     []string      `koanf:"clients" doc:"host:port under which clients reach this edge, told to clients of an edge that drains. Empty: they aren't sent here."`
	HTTP        string        `koanf:"http" doc:"host:port under which browsers reach this edge, told to WebSockets and streams of events of an edge that drains. Empty: they aren't sent here."`
}

// RPC is the listener for other nodes.
type RPC struct {
	Listen    string `koanf:"listen" doc:"host:port where the other nodes call this one. They prove the cluster's key; still, let nobody else reach it."`
	Advertise string `koanf:"advertise" doc:"host:port under which the other nodes reach it. Empty: rpc.listen, which must then name an address."`
}

// Etcd says where etcd is.
type Etcd struct {
	Endpoints    []string  `koanf:"endpoints" doc:"URLs, as http://10.0.0.1:2379."`
	Prefix       string    `koanf:"prefix" doc:"What all keys of this installation begin with."`
	User         string    `koanf:"user" doc:"Whom to sign in as. Empty: nobody."`
	PasswordFile string    `koanf:"password_file" doc:"The user's password, in a file that only the server's user may read."`
	TLS          ClientTLS `koanf:"tls" doc:"Certificates for etcd."`
}

// ClientTLS is TLS towards a server of the cluster's.
type ClientTLS struct {
	CAFile   string `koanf:"ca_file" doc:"PEM: who signs the server's certificate. Empty, and no certificate of ours: no TLS."`
	CertFile string `koanf:"cert_file" doc:"PEM: our certificate. Empty: we show none."`
	KeyFile  string `koanf:"key_file" doc:"PEM: its private key."`
}

// Peer is one node of a static list.
type Peer struct {
	ID      string   `koanf:"id" doc:"Its cluster.node_id."`
	RPC     string   `koanf:"rpc" doc:"host:port of its calls."`
	Roles   []string `koanf:"roles" doc:"Its roles."`
	Worker  int      `koanf:"worker" doc:"Its number in ids, 1 to 1022, no other node's, now or in the last hour."`
	Weight  int      `koanf:"weight" doc:"As cluster.weight; 0: 1."`
	Zone    string   `koanf:"zone" doc:"As cluster.zone."`
	Clients []string `koanf:"clients" doc:"As cluster.clients."`
	HTTP    string   `koanf:"http" doc:"As cluster.http."`
}

// Store chooses the store.
type Store struct {
	Kind string `koanf:"kind" doc:"pebble: in the data directory, for one process that is logic, fanout and worker at once; tikv: shared by all nodes."`
	TiKV TiKV   `koanf:"tikv" doc:"The TiKV cluster."`
}

// TiKV says where TiKV is.
type TiKV struct {
	PD       []string  `koanf:"pd" doc:"host:port of its placement drivers."`
	Keyspace int       `koanf:"keyspace" doc:"Tells installations apart that share one TiKV, 0 to 65534."`
	TLS      ClientTLS `koanf:"tls" doc:"Certificates for TiKV and its placement drivers."`
	Regions  int       `koanf:"regions" doc:"Into how many regions each TiKV server cuts a new installation, 1 to 256. Regions are written side by side; what gathers for one of them is written together."`
}

// Bus chooses the bus.
type Bus struct {
	Kind     string   `koanf:"kind" doc:"embedded: a log in the store, which has to be pebble; rocketmq."`
	RocketMQ RocketMQ `koanf:"rocketmq" doc:"The RocketMQ cluster."`
}

// RocketMQ says where RocketMQ is.
type RocketMQ struct {
	NameServers []string `koanf:"name_servers" doc:"host:port of its name servers."`
	Topic       string   `koanf:"topic" doc:"The topic of stored messages, made by the first start if it is missing. Each installation has its own."`
	Queues      int      `koanf:"queues" doc:"Queues of the topic on each broker, 1 to 256, for the start that makes it. Fan-out nodes share them out: more than there will be nodes. Of what is stored together each queue takes its part by itself."`
	AccessKey   string   `koanf:"access_key" doc:"Whom to sign requests as. Empty: they aren't signed."`
	SecretFile  string   `koanf:"secret_file" doc:"The access key's secret, in a file that only the server's user may read."`
}

// On reports whether this process is a node of a cluster.
func (c *Cluster) On() bool { return len(c.Roles) > 0 }

// Has reports whether this process has a role: outside of a cluster all.
func (c *Cluster) Has(r Role) bool { return !c.On() || slices.Contains(c.Roles, string(r)) }

// Stored reports whether this process needs the store.
func (c *Cluster) Stored() bool { return c.Has(RoleLogic) || c.Has(RoleFanout) || c.Has(RoleWorker) }

// MaxWorker is the highest number of a node in ids: the ones above it are imported messages'.
const MaxWorker = 1022

// maxNodeID is the longest node id in bytes.
const maxNodeID = 63

func validNodeID(s string) bool {
	return s != "" && len(s) <= maxNodeID && !strings.ContainsFunc(s, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(".-_", r)
	})
}

// validate reports what is wrong, and in one sentence all that is missing.
func (c *Cluster) validate(bad func(format string, args ...any)) {
	if !c.On() {
		if c.NodeID != "" || c.RPC.Listen != "" || len(c.Nodes) > 0 || len(c.Etcd.Endpoints) > 0 || c.Store.Kind != StorePebble || c.Bus.Kind != BusEmbedded {
			bad("cluster: settings of a cluster, but no cluster.roles: name the roles of this process (edge, logic, fanout, worker), or remove the rest")
		}
		return
	}
	if missing := c.missing(); len(missing) > 0 {
		bad("cluster: a process with the roles %s needs these too: %s", strings.Join(c.Roles, ", "), strings.Join(missing, "; "))
	}
	roles := func(name string, list []string) {
		for i, r := range list {
			if !slices.Contains(Roles, Role(r)) {
				bad("%s %q: want edge, logic, fanout or worker", name, r)
			} else if slices.Contains(list[:i], r) {
				bad("%s: %s is named twice", name, r)
			}
		}
	}
	roles("cluster.roles", c.Roles)
	if c.NodeID != "" && !validNodeID(c.NodeID) {
		bad("cluster.node_id %q: want at most %d letters, digits, dots, dashes and underscores", c.NodeID, maxNodeID)
	}
	if c.Weight < 1 || c.Weight > 10_000 {
		bad("cluster.weight %d: want 1 to 10000", c.Weight)
	}
	addresses := func(name string, list ...string) {
		for _, a := range list {
			if host, port, err := net.SplitHostPort(a); a != "" && (err != nil || port == "" || host == "" && name != "cluster.rpc.listen" && name != "cluster.monitor") {
				bad("%s %q: want host:port", name, a)
			}
		}
	}
	addresses("cluster.rpc.listen", c.RPC.Listen)
	addresses("cluster.rpc.advertise", c.RPC.Advertise)
	addresses("cluster.monitor", c.Monitor)
	addresses("cluster.clients", c.Clients...)
	addresses("cluster.http", c.HTTP)
	addresses("cluster.store.tikv.pd", c.Store.TiKV.PD...)
	addresses("cluster.bus.rocketmq.name_servers", c.Bus.RocketMQ.NameServers...)
	for name, t := range map[string]ClientTLS{"cluster.etcd.tls": c.Etcd.TLS, "cluster.store.tikv.tls": c.Store.TiKV.TLS} {
		if (t.CertFile == "") != (t.KeyFile == "") {
			bad("%s: cert_file and key_file belong together", name)
		}
	}
	for _, e := range c.Etcd.Endpoints {
		if !strings.HasPrefix(e, "http://") && !strings.HasPrefix(e, "https://") {
			bad("cluster.etcd.endpoints %q: want a URL such as http://10.0.0.1:2379", e)
		}
	}
	if len(c.Etcd.Endpoints) > 0 && !strings.HasPrefix(c.Etcd.Prefix, "/") {
		bad("cluster.etcd.prefix %q: want one that begins with a slash", c.Etcd.Prefix)
	}
	if len(c.Etcd.Endpoints) > 0 && len(c.Nodes) > 0 {
		bad("cluster: either cluster.etcd.endpoints or cluster.nodes says which nodes there are, not both")
	}
	if k := c.Store.Kind; k != StorePebble && k != StoreTiKV {
		bad("cluster.store.kind %q: want pebble or tikv", k)
	}
	if k := c.Bus.Kind; k != BusEmbedded && k != BusRocketMQ {
		bad("cluster.bus.kind %q: want embedded or rocketmq", k)
	}
	if k := c.Store.TiKV.Keyspace; k < 0 || k > 1<<16-2 { // nothing lies above the last
		bad("cluster.store.tikv.keyspace %d: want 0 to 65534", k)
	}
	if r := c.Store.TiKV.Regions; r < 1 || r > 256 {
		bad("cluster.store.tikv.regions %d: want 1 to 256", r)
	}
	if q := c.Bus.RocketMQ.Queues; q < 1 || q > 256 {
		bad("cluster.bus.rocketmq.queues %d: want 1 to 256", q)
	}
	if c.Pace < 0 || c.Pace > time.Second {
		bad("cluster.pace %s: want 0 to 1s", c.Pace)
	}
	c.validateNodes(bad, roles, addresses)
}

// validateNodes reports what is wrong with the static list.
func (c *Cluster) validateNodes(bad func(format string, args ...any), roles func(string, []string), addresses func(string, ...string)) {
	ids, workers, self := map[string]bool{}, map[int]bool{}, false
	for i, p := range c.Nodes {
		name := fmt.Sprintf("cluster.nodes[%d]", i)
		switch {
		case !validNodeID(p.ID) || p.RPC == "" || len(p.Roles) == 0:
			bad("%s: id, rpc and roles are needed", name)
		case p.Worker < 1 || p.Worker > MaxWorker:
			bad("%s.worker %d: want 1 to %d", name, p.Worker, MaxWorker)
		case ids[p.ID] || workers[p.Worker]:
			bad("%s: the id %q or the worker %d is another node's already", name, p.ID, p.Worker)
		case p.Weight < 0 || p.Weight > 10_000:
			bad("%s.weight %d: want 0 to 10000", name, p.Weight)
		}
		ids[p.ID], workers[p.Worker] = true, true
		self = self || p.ID == c.NodeID
		roles(name+".roles", p.Roles)
		addresses(name+".rpc", p.RPC)
		addresses(name+".clients", p.Clients...)
		addresses(name+".http", p.HTTP)
	}
	if len(c.Nodes) > 0 && c.NodeID != "" && !self {
		bad("cluster.nodes: this node, %q, isn't in the list", c.NodeID)
	}
}

// missing are the settings that a process with c's roles can't do without.
func (c *Cluster) missing() (names []string) {
	need := func(missing bool, name string) {
		if missing {
			names = append(names, name)
		}
	}
	need(c.NodeID == "", "cluster.node_id")
	need(c.KeyFile == "", "cluster.key_file (the cluster's key)")
	need(c.SigningKeys == "", "cluster.signing_keys (the keys of tokens)")
	need(c.RPC.Listen == "", "cluster.rpc.listen")
	if c.RPC.Listen != "" && c.RPC.Advertise == "" {
		host, _, _ := net.SplitHostPort(c.RPC.Listen)
		ip := net.ParseIP(host)
		need(host == "" || ip != nil && ip.IsUnspecified(), "cluster.rpc.advertise (rpc.listen names no address that others could call)")
	}
	need(len(c.Etcd.Endpoints) == 0 && len(c.Nodes) == 0, "cluster.etcd.endpoints (or cluster.nodes)")
	if !c.Stored() {
		return names
	}
	together := c.Has(RoleLogic) && c.Has(RoleFanout) && c.Has(RoleWorker)
	switch c.Store.Kind {
	case StoreTiKV:
		need(len(c.Store.TiKV.PD) == 0, "cluster.store.tikv.pd")
		need(c.Bus.Kind == BusEmbedded, "cluster.bus.kind rocketmq (the embedded bus lies in pebble)")
	case StorePebble:
		need(!together, "cluster.store.kind tikv (pebble is for one process that is logic, fanout and worker at once)")
	}
	if c.Bus.Kind == BusRocketMQ {
		need(len(c.Bus.RocketMQ.NameServers) == 0, "cluster.bus.rocketmq.name_servers")
		need(c.Bus.RocketMQ.Topic == "", "cluster.bus.rocketmq.topic")
		need(c.Bus.RocketMQ.AccessKey != "" && c.Bus.RocketMQ.SecretFile == "", "cluster.bus.rocketmq.secret_file")
	}
	return names
}
