// Package config is what can be set of a node, and where it is read from.
package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"time"

	"github.com/gochat-im/gochat/edge/certs"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/relation"
	"github.com/gochat-im/gochat/services/session"
)

// Config is everything that can be set. Zero values mean the default that
// Default returns. The doc tags are printed by `gochat config print`.
type Config struct {
	Data      string    `koanf:"data" doc:"Directory of everything this server stores. Locked while the server runs."`
	Log       Log       `koanf:"log" doc:"What the server writes to standard error. Tokens and message bodies are never logged."`
	TCP       TCP       `koanf:"tcp" doc:"The binary protocol."`
	HTTP      HTTP      `koanf:"http" doc:"Registration, login, health and metrics."`
	Limits    Limits    `koanf:"limits" doc:"What one client may do, and how many clients there may be."`
	Accounts  Accounts  `koanf:"accounts" doc:"GoChat's own accounts."`
	Devices   Devices   `koanf:"devices" doc:"How many devices a user may have. The newest wins: one too many signs out, or disconnects, the one unused the longest, which is told so."`
	Contacts  Contacts  `koanf:"contacts" doc:"Who may write to whom."`
	Drain     Drain     `koanf:"drain" doc:"How this server leaves when it is told to end: clients are told when and where to come back."`
	Issuers   []Issuer  `koanf:"issuers" doc:"Other systems whose tokens are accepted: your users stay where they are."`
	Fanout    Fanout    `koanf:"fanout" doc:"How messages reach the members of groups who are connected."`
	Words     Words     `koanf:"words" doc:"Words that messages of type text may not have."`
	Rooms     Rooms     `koanf:"rooms" doc:"Live conversations in which nobody is a member."`
	Broadcast Broadcast `koanf:"broadcast" doc:"Telling everybody who is connected something."`
	Storage   Storage   `koanf:"storage" doc:"The embedded store."`
	Cluster   Cluster   `koanf:"cluster" doc:"Several processes that are one installation. Nothing of it is needed by a server that is alone."`
	Retention Retention `koanf:"retention" doc:"Messages older than this are removed, some time within the hour. 0: kept for ever."`
}

// Log says what is logged and how.
type Log struct {
	Level  string `koanf:"level" doc:"debug, info, warn or error."`
	Format string `koanf:"format" doc:"text or json."`

	Slow time.Duration `koanf:"slow" doc:"Sends and requests that take this long are logged, at most ten a second of each. 0: none."`
}

// TCP configures the listener of the binary protocol.
type TCP struct {
	Listen    string   `koanf:"listen" doc:"host:port. Loopback unless you change it: configure TLS here, or terminate it in front, before listening wider."`
	TLS       TLS      `koanf:"tls" doc:"A certificate: the binary protocol is then spoken over TLS alone."`
	ProxyFrom []string `koanf:"proxy_from" doc:"Addresses (CIDR) of load balancers that put a PROXY protocol header (v1 or v2) before each connection. Empty: nobody may."`
	Pollers   int      `koanf:"pollers" doc:"Event loops that wait for sockets. 0: chosen by the number of cores."`
}

// HTTP configures the HTTP listener.
type HTTP struct {
	Listen         string   `koanf:"listen" doc:"host:port."`
	TLS            TLS      `koanf:"tls" doc:"A certificate: the port then speaks HTTPS alone."`
	TrustedProxies []string `koanf:"trusted_proxies" doc:"Addresses (CIDR) whose X-Forwarded-For is believed."`
	Origins        []string `koanf:"origins" doc:"Pages of other sites that may use the API and open WebSockets, as https://example.org, or *. Pages of this server's own host always may."`
	CallsPerMinute int      `koanf:"calls_per_minute" doc:"Requests that one user, or one server key, may make in a minute, and as many at once."`
	AuthPerMinute  int      `koanf:"auth_per_minute" doc:"Registrations, logins and refreshes an address may try in a minute."`
}

// Retention says for how long messages are kept.
type Retention struct {
	Direct time.Duration `koanf:"direct" doc:"In direct conversations."`
	Group  time.Duration `koanf:"group" doc:"In groups."`
	Self   time.Duration `koanf:"self" doc:"In users' own timelines of account events."`
	Room   time.Duration `koanf:"room" doc:"In rooms."`
}

// TLS names a certificate. Without files there is no TLS.
type TLS struct {
	CertFile   string `koanf:"cert_file" doc:"PEM: the certificate, followed by those that lead to one clients trust. Read again when the configuration is reloaded."`
	KeyFile    string `koanf:"key_file" doc:"PEM: its private key."`
	MinVersion string `koanf:"min_version" doc:"The lowest version of TLS accepted: 1.2 or 1.3."`
}

// On reports whether there is TLS.
func (t TLS) On() bool { return t.CertFile != "" || t.KeyFile != "" }

// Certificate is t as edge/certs reads it.
func (t TLS) Certificate() certs.Config {
	return certs.Config{CertFile: t.CertFile, KeyFile: t.KeyFile, MinVersion: t.MinVersion}
}

// Limits bounds what clients may do.
type Limits struct {
	Connections           int           `koanf:"connections" doc:"Connections in all."`
	ConnectionsPerUser    int           `koanf:"connections_per_user" doc:"Devices of one user that may be connected at once. One more takes the place of the one that connected first."`
	ConnectionsPerAddress int           `koanf:"connections_per_address" doc:"Connections from one address."`
	ConnectsPerAddress    int           `koanf:"connects_per_address" doc:"New connections a second from one address, with bursts of ten times as many. Clients that come back with a resume token don't count."`
	Unauthenticated       int           `koanf:"unauthenticated" doc:"Connections in all that haven't logged in yet, nor shown a resume token that may be good; half of them from one address."`
	Handshake             time.Duration `koanf:"handshake" doc:"A connection that hasn't logged in after this is closed."`
	Heartbeat             time.Duration `koanf:"heartbeat" doc:"A client is told to be heard at least this often."`
	HeartbeatMin          time.Duration `koanf:"heartbeat_min" doc:"The shortest heartbeat that a client may ask for."`
	HeartbeatMax          time.Duration `koanf:"heartbeat_max" doc:"The longest heartbeat that a client may ask for."`
	SendsPerSecond        int           `koanf:"sends_per_second" doc:"Messages a second that one connection may send, with bursts of twice as many."`
	UserSendsPerSecond    int           `koanf:"user_sends_per_second" doc:"Messages a second that one user may send over all connections."`
	BytesPerSecond        Bytes         `koanf:"bytes_per_second" doc:"Bytes a second that one connection may send, with bursts of four times as many."`
	Inflight              int           `koanf:"inflight" doc:"Messages of one connection that may wait for their ack."`
	Frame                 Bytes         `koanf:"frame" doc:"The largest frame."`
	Content               Bytes         `koanf:"content" doc:"The largest message body; 64KiB is the most that may be set."`
	Outbound              Bytes         `koanf:"outbound" doc:"What may wait for a client that reads slowly, before it gets hints instead of messages."`
	Stalled               time.Duration `koanf:"stalled" doc:"A client that reads nothing for this long is closed."`
	GroupMembers          int           `koanf:"group_members" doc:"Members of one group."`
	ConversationsPerUser  int           `koanf:"conversations_per_user" doc:"Conversations that one user may be in before nobody can bring them into another group."`
	Conversations         int           `koanf:"conversations" doc:"Conversations kept in memory. Idle ones beyond it are read again when they are needed."`
}

// PacketLimits are the bounds of what clients send.
func (c *Config) PacketLimits() packet.Limits {
	lim := packet.DefaultLimits
	lim.MaxContent = int(c.Limits.Content)
	return lim
}

// Accounts configures GoChat's own accounts.
type Accounts struct {
	Registration bool          `koanf:"registration" doc:"Whether people may register here. Off by itself when an issuer without a prefix is configured: nobody may register another's id."`
	AccessToken  time.Duration `koanf:"access_token" doc:"How long an access token holds."`
	RefreshToken time.Duration `koanf:"refresh_token" doc:"How long a device stays signed in without being used."`
	Resume       time.Duration `koanf:"resume" doc:"How long after a connection was made the next one may resume it without an access token."`
	HashesAtOnce int           `koanf:"hashes_at_once" doc:"Password hashes computed at the same time, 19 MiB each, in processes of their own that step back (nice). 0: half the cores."`
}

// Devices is the policy for a user's devices.
type Devices struct {
	PerUser int `koanf:"per_user" doc:"Signed-in devices of a user. An outside issuer's users sign in elsewhere: for them only limits.connections_per_user counts."`
	PerKind int `koanf:"per_kind" doc:"Devices of one kind (phone, tablet, desktop, web, bot, and those that don't say), signed in and connected. 1: one phone, one desktop, …; 0: no limit but those for all kinds together."`
}

// Contacts says who may write to whom.
type Contacts struct {
	Write  string `koanf:"write" doc:"Who may begin a direct conversation: anyone with anyone; shared_group: people who are in a group together, who go on when they no longer are; nobody: there are none, and those that stand take no messages. Notes to oneself are always allowed."`
	Search string `koanf:"search" doc:"Who is found by the beginning of their name or user id over HTTP: anyone; shared_group: people who are in a group with who asks; nobody."`
	Blocks int    `koanf:"blocks" doc:"Users whom one user may block."`
}

// Drain says how clients are sent away.
type Drain struct {
	Deadline     time.Duration `koanf:"deadline" doc:"Clients that have not gone by then are closed. Where they have nowhere else to go they go at once, as soon as what is under way is answered; else as fast as others take them, all within two thirds of it. Nobody is waited for who hasn't gone when for 15s nobody has. 0: so long that the last of them is told in time at 250 a second, 10s to 1m; 3s where they have nowhere else to go."`
	Jitter       time.Duration `koanf:"jitter" doc:"Clients come back spread over this time, and go elsewhere in no less. 0: as long as it takes at 2,000 clients a second, 1s at least."`
	Alternatives []string      `koanf:"alternatives" doc:"host:port of other servers of this installation, to which clients go before they leave, beside the edges of the cluster (cluster.clients, cluster.http). None: this server comes back."`
}

// Fanout says how messages of groups are delivered.
type Fanout struct {
	LargeGroup          int           `koanf:"large_group" doc:"In groups of more members, until they have fewer than half as many, connected members are kept together in memory, so that a message costs nothing for those who are away; nobody sees who is typing, and how far devices have received isn't stored."`
	AudienceIdle        time.Duration `koanf:"audience_idle" doc:"Connected members of a large group without messages are forgotten after this, and looked up again for its next message."`
	DeliveriesPerSecond int           `koanf:"deliveries_per_second" doc:"Messages times connections that one group may be delivered a second, so that it can't take a server or an uplink from all others: 20 messages a second to 10,000 connections are 200,000. Above it members are told, once a second at most, that there is something new, and their clients fetch it as they need it. 0: any number."`
}

// Words says what becomes of messages that have words of a list.
type Words struct {
	File   string `koanf:"file" doc:"A list of words, one a line, read again when the configuration is reloaded; lines that begin with # count for nothing. Of a cluster each logic node has its own; lists for all nodes lie in etcd (gochat cluster settings set words/NAME). Empty: none."`
	Action string `koanf:"action" doc:"What becomes of a message with such a word: refuse (its sender is told forbidden) or mask (it is stored with asterisks in place of the word)."`
}

// What becomes of messages with words of a list.
const (
	WordsRefuse = "refuse"
	WordsMask   = "mask"
)

// Issuer is an outside system whose tokens are accepted.
type Issuer struct {
	Issuer    string `koanf:"issuer" doc:"The token's iss."`
	Audience  string `koanf:"audience" doc:"The token's aud; empty: not checked."`
	Algorithm string `koanf:"algorithm" doc:"HS256, RS256, ES256 or EdDSA. No other is accepted for this key."`
	JWKS      string `koanf:"jwks" doc:"Instead of key_file: the https address (http only on this machine), or the path, of the issuer's key set. Fetched when a token needs it, kept for ten minutes; while the issuer is away, for a day."`
	KeyFile   string `koanf:"key_file" doc:"The public key (PEM), or for HS256 the secret, at least 32 bytes."`
	Prefix    string `koanf:"prefix" doc:"Put before the token's sub to make the user id; nobody may register an id that begins with it."`
}

// Storage configures the embedded store.
type Storage struct {
	Cache       Bytes `koanf:"cache" doc:"Block cache."`
	Memtable    Bytes `koanf:"memtable" doc:"Size of a memtable; up to four are kept."`
	DiskReserve Bytes `koanf:"disk_reserve" doc:"Sends are refused, retryably, while less than this is free on the disk."`
}

// Default returns the configuration of a server that was told nothing.
func Default() Config {
	lim := packet.DefaultLimits
	return Config{
		Data: "./data",
		Log:  Log{Level: "info", Format: "text", Slow: time.Second},
		TCP:  TCP{Listen: "127.0.0.1:7070", TLS: TLS{MinVersion: "1.2"}},
		HTTP: HTTP{Listen: "127.0.0.1:8080", TLS: TLS{MinVersion: "1.2"}, AuthPerMinute: 30, CallsPerMinute: 1200},
		Limits: Limits{
			Connections: 100_000, ConnectionsPerUser: 20, ConnectionsPerAddress: 10_000, ConnectsPerAddress: 200, Unauthenticated: 4_000,
			Handshake: 10 * time.Second, Heartbeat: 60 * time.Second, HeartbeatMin: 15 * time.Second, HeartbeatMax: 10 * time.Minute,
			SendsPerSecond: 50, UserSendsPerSecond: 100, BytesPerSecond: 256 << 10, Inflight: 256,
			Frame: Bytes(128 << 10), Content: Bytes(lim.MaxContent), Outbound: 256 << 10, Stalled: 30 * time.Second, Conversations: 100_000, GroupMembers: 100_000, ConversationsPerUser: 10_000,
		},
		Accounts: Accounts{Registration: true, AccessToken: 15 * time.Minute, RefreshToken: 30 * 24 * time.Hour, Resume: 24 * time.Hour},
		Devices:  Devices{PerUser: 32},
		Contacts: Contacts{Write: "anyone", Search: "anyone", Blocks: 10_000},
		Fanout:   Fanout{LargeGroup: 500, AudienceIdle: 5 * time.Minute},
		Words:    Words{Action: WordsRefuse},
		Rooms:    defaultRooms(), Broadcast: Broadcast{PerSecond: 20_000, Every: 5 * time.Second},
		Storage: Storage{Cache: 64 << 20, Memtable: 32 << 20, DiskReserve: 256 << 20},
		Cluster: Cluster{
			Weight: 1, Etcd: Etcd{Prefix: "/gochat"}, Store: Store{Kind: StorePebble, TiKV: TiKV{Regions: 4}},
			Bus: Bus{Kind: BusEmbedded, RocketMQ: RocketMQ{Topic: "gochat-events", Queues: 16}},
		},
	}
}

// maxLimit is more than any limit of a number needs to be, and little enough to be reckoned with.
const maxLimit = 1 << 30

// maxConnections is how many connections an incarnation can tell apart.
const maxConnections = 1 << id.ConnPlaceBits

// Validate reports everything that is wrong with c, not only the first thing.
func (c *Config) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Data == "" {
		bad("data: a directory is needed")
	}
	switch c.Log.Level {
	case "debug", "info", "warn", "error":
	default:
		bad("log.level %q: want debug, info, warn or error", c.Log.Level)
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		bad("log.format %q: want text or json", c.Log.Format)
	}
	if c.Log.Slow < 0 {
		bad("log.slow %s: want 0 or more", c.Log.Slow)
	}
	for name, list := range map[string][]string{"tcp.proxy_from": c.TCP.ProxyFrom, "http.trusted_proxies": c.HTTP.TrustedProxies} {
		for _, s := range list {
			if _, err := netip.ParsePrefix(s); err != nil {
				bad("%s %q: want an address range such as 10.0.0.0/8", name, s)
			}
		}
	}
	for _, o := range c.HTTP.Origins {
		if u, err := url.Parse(o); o != "*" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || o != u.Scheme+"://"+u.Host) {
			bad("http.origins %q: want such as https://example.org, or *", o)
		}
	}
	for name, t := range map[string]TLS{"tcp.tls": c.TCP.TLS, "http.tls": c.HTTP.TLS} {
		if cfg := t.Certificate(); t.On() {
			if err := cfg.Validate(); err != nil {
				bad("%s: %w", name, err)
			}
		}
	}
	l := c.Limits
	for name, v := range map[string]int{
		"connections": l.Connections, "connections_per_user": l.ConnectionsPerUser, "connections_per_address": l.ConnectionsPerAddress,
		"connects_per_address": l.ConnectsPerAddress, "unauthenticated": l.Unauthenticated, "sends_per_second": l.SendsPerSecond,
		"user_sends_per_second": l.UserSendsPerSecond, "inflight": l.Inflight, "conversations": l.Conversations,
		"group_members": l.GroupMembers, "conversations_per_user": l.ConversationsPerUser,
	} {
		if v <= 0 || v > maxLimit {
			bad("limits.%s %d: want 1 to %d", name, v, maxLimit)
		}
	}
	if l.Connections > maxConnections {
		bad("limits.connections %d: at most %d", l.Connections, maxConnections)
	}
	if l.ConnectionsPerUser > session.MaxDevices {
		bad("limits.connections_per_user %d: at most %d", l.ConnectionsPerUser, session.MaxDevices)
	}
	if l.Content > 64<<10 {
		bad("limits.content %s: at most 64KiB", l.Content)
	}
	if l.Content <= 0 {
		bad("limits.content %s: want at least 1 byte", l.Content)
	}
	if l.Frame < l.Content+8<<10 || l.Frame > 1<<20 {
		bad("limits.frame %s: want at least limits.content and 8KiB, at most 1MiB", l.Frame)
	}
	if l.HeartbeatMin < time.Second || l.Heartbeat < l.HeartbeatMin || l.HeartbeatMax < l.Heartbeat {
		bad("limits.heartbeat: want 1s <= heartbeat_min <= heartbeat <= heartbeat_max, have %s, %s, %s", l.HeartbeatMin, l.Heartbeat, l.HeartbeatMax)
	}
	if l.Handshake <= 0 {
		bad("limits.handshake %s: want more than 0", l.Handshake)
	}
	if l.Stalled < time.Second {
		bad("limits.stalled %s: want at least 1s", l.Stalled)
	}
	if l.Outbound < 16<<10 {
		bad("limits.outbound %s: want at least 16KiB", l.Outbound)
	}
	if l.BytesPerSecond < 1<<10 || l.BytesPerSecond > maxLimit {
		bad("limits.bytes_per_second %s: want 1KiB to %d", l.BytesPerSecond, maxLimit)
	}
	if c.HTTP.AuthPerMinute < 1 {
		bad("http.auth_per_minute %d: want at least 1", c.HTTP.AuthPerMinute)
	}
	if c.TCP.Pollers < 0 || c.TCP.Pollers > 1024 {
		bad("tcp.pollers %d: want 0 (by the number of cores) to 1024", c.TCP.Pollers)
	}
	if c.Accounts.HashesAtOnce < 0 || c.Accounts.HashesAtOnce > 1024 {
		bad("accounts.hashes_at_once %d: want 0 (half the cores) to 1024", c.Accounts.HashesAtOnce)
	}
	if c.Storage.Cache < 1<<20 {
		bad("storage.cache %s: want at least 1MiB", c.Storage.Cache)
	}
	if c.Storage.Memtable > 1<<30 {
		bad("storage.memtable %s: want at most 1GiB", c.Storage.Memtable)
	}
	if c.Storage.DiskReserve < 16<<20 {
		bad("storage.disk_reserve %s: want at least 16MiB, or a full disk ends the server", c.Storage.DiskReserve)
	}
	if c.Accounts.AccessToken <= 0 || c.Accounts.RefreshToken <= 0 || c.Accounts.Resume <= 0 {
		bad("accounts.access_token, accounts.refresh_token and accounts.resume: want more than 0")
	}
	if c.Drain.Deadline < 0 || c.Drain.Jitter < 0 {
		bad("drain: neither the deadline nor the jitter can be negative, have %s, %s", c.Drain.Deadline, c.Drain.Jitter)
	}
	for _, a := range c.Drain.Alternatives {
		if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
			bad("drain.alternatives %q: want host:port", a)
		}
	}
	if c.Fanout.LargeGroup < 2 || c.Fanout.LargeGroup > maxLimit {
		bad("fanout.large_group %d: want 2 to %d", c.Fanout.LargeGroup, maxLimit)
	}
	if c.Fanout.AudienceIdle < time.Second {
		bad("fanout.audience_idle %s: want at least 1s", c.Fanout.AudienceIdle)
	}
	if c.Fanout.DeliveriesPerSecond < 0 {
		bad("fanout.deliveries_per_second %d: want 0 (any number) or more", c.Fanout.DeliveriesPerSecond)
	}
	if c.Devices.PerUser < 1 || c.Devices.PerUser > 1024 {
		bad("devices.per_user %d: want 1 to 1024", c.Devices.PerUser)
	}
	if c.Devices.PerKind < 0 {
		bad("devices.per_kind %d: want 0 or more", c.Devices.PerKind)
	}
	if _, err := relation.ParsePolicy(c.Contacts.Write); err != nil {
		bad("contacts.write %q: want anyone, shared_group or nobody", c.Contacts.Write)
	}
	if _, err := relation.ParsePolicy(c.Contacts.Search); err != nil {
		bad("contacts.search %q: want anyone, shared_group or nobody", c.Contacts.Search)
	}
	if c.HTTP.CallsPerMinute < 1 {
		bad("http.calls_per_minute %d: want at least 1", c.HTTP.CallsPerMinute)
	}
	if c.Contacts.Blocks < 1 {
		bad("contacts.blocks %d: want at least 1", c.Contacts.Blocks)
	}
	if a := c.Words.Action; a != WordsRefuse && a != WordsMask {
		bad("words.action %q: want refuse or mask", a)
	}
	errs = append(append(errs, c.Rooms.validate()...), c.Broadcast.validate()...)
	for name, d := range map[string]time.Duration{
		"direct": c.Retention.Direct, "group": c.Retention.Group, "self": c.Retention.Self, "room": c.Retention.Room,
	} {
		if d < 0 || d > 0 && d < time.Hour {
			bad("retention.%s %s: want 0 (for ever) or at least 1h", name, d)
		}
	}
	for i, is := range c.Issuers {
		if is.Issuer == "" || (is.KeyFile == "") == (is.JWKS == "") {
			bad("issuers[%d]: issuer, and either key_file or jwks, are needed", i)
		}
		switch is.Algorithm {
		case "HS256", "RS256", "ES256", "EdDSA":
		default:
			bad("issuers[%d].algorithm %q: want HS256, RS256, ES256 or EdDSA", i, is.Algorithm)
		}
	}
	if c.Storage.Memtable < 1<<20 {
		bad("storage.memtable %s: want at least 1MiB", c.Storage.Memtable)
	}
	c.Cluster.validate(bad)
	return errors.Join(errs...)
}
