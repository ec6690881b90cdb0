package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gochat-im/gochat/bus/log"
	"github.com/gochat-im/gochat/edge/admin"
	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/certs"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/sse"
	"github.com/gochat-im/gochat/edge/tcp"
	"github.com/gochat-im/gochat/edge/ws"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
	"github.com/gochat-im/gochat/services/account"
	"github.com/gochat-im/gochat/services/account/pwhash"
	"github.com/gochat-im/gochat/services/apikey"
	"github.com/gochat-im/gochat/services/conversation"
	"github.com/gochat-im/gochat/services/fanout"
	"github.com/gochat-im/gochat/services/group"
	"github.com/gochat-im/gochat/services/hook"
	"github.com/gochat-im/gochat/services/relation"
	"github.com/gochat-im/gochat/services/self"
	"github.com/gochat-im/gochat/services/session"
	"github.com/gochat-im/gochat/services/timeline"
)

// ErrStorage is what Run returns after a failed write: what was being stored is
// undetermined, and only a restart, which recovers from the log, finds out.
var ErrStorage = errors.New("the store failed")

// worker is this node's number in MessageIDs and connection incarnations; an embedded
// node is the only one of its store.
const worker = 1

// fanoutGroup is the bus group of fan-out.
const fanoutGroup = "fanout"

// closeTime is what requests of HTTP and the operator have to end.
const closeTime = 3 * time.Second

// Node is one process of GoChat. New opens and binds, Run serves, and ends when its
// context does.
type Node struct {
	cfg     Config
	log     *slog.Logger
	version string
	epoch   uint64     // the store's
	backing sync.Mutex // held while a backup is written

	load      func() (Config, error)
	level     *slog.LevelVar
	reloading sync.Mutex
	inForce   Config // cfg with what was reloaded since; guarded by reloading

	store     *pebblekv.Store
	clock     *msgstore.Clock
	sweeper   *msgstore.Sweeper
	accounts  *account.Service
	apiKeys   *apikey.Service
	hasher    *pwhash.Pool // nil: passwords are hashed in this process
	convs     *conversation.Service
	relations *relation.Service
	groups    *group.Service
	gate      *hook.Gate // nil: messages aren't judged
	seq       *timeline.Sequencer
	self      *self.Service
	bus       *log.Log
	fanout    *fanout.Handler
	sessions  *session.Directory
	hub       *hub.Hub
	tcpCert   *certs.Source // nil: no TLS
	httpCert  *certs.Source
	tcp       *tcp.Server
	ws        *ws.Server
	sse       *sse.Server
	api       *api.Server
	admin     *admin.Server

	fatal     chan error    // the store's last word
	deletions chan struct{} // a deletion was begun
}

// Program is what a Node has to know of the program that it runs in.
type Program struct {
	Version     string
	Logger      *slog.Logger
	Level       *slog.LevelVar // of Logger, to be changed while the node runs; may be nil
	BeforeSend  hook.Hook      // judges messages before they are stored; nil: none does
	Web         fs.FS          // the web app's files, served at /; nil: there is none
	HashCommand []string       // starts a process that calls pwhash.Serve; none: passwords are hashed in this one

	// Load reads the configuration again, for the operator who asks for that; nil: it can't be.
	Load func() (Config, error)
}

// New opens the data directory and binds every listener. What it opened it closes again when it fails.
func New(cfg Config, in Program) (_ *Node, err error) {
	logger := slog.New(trace.Handler{Handler: in.Logger.Handler()})
	n := &Node{cfg: cfg, log: logger, version: in.Version, load: in.Load, level: in.Level, inForce: cfg, fatal: make(chan error, 1), deletions: make(chan struct{}, 1)}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	if n.tcpCert, err = openCert("tcp.tls", cfg.TCP.TLS); err != nil {
		return nil, err
	}
	if n.httpCert, err = openCert("http.tls", cfg.HTTP.TLS); err != nil {
		return nil, err
	}
	keys := msgstore.Keys{}
	reg := prometheus.NewRegistry()
	m := newMetrics(reg)

	if err := privateDirs(cfg.Data); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(cfg.Data, backupFile)); err == nil {
		// Serving it would give out seqs that clients know already, under the same epoch.
		return nil, fmt.Errorf("%s is a backup: make a data directory of it with `gochat restore`", cfg.Data)
	}
	storeCfg := pebblekv.Config{
		Dir: filepath.Join(cfg.Data, storeDir), Logger: logger,
		CacheBytes: int64(cfg.Storage.Cache), MemTableBytes: int(cfg.Storage.Memtable), DiskReserve: int64(cfg.Storage.DiskReserve),
		OnFatal: n.storeFailed, Observe: pebblekv.Observe{Group: m.group},
	}
	events := m.timelineEvents()
	if err := plantFaults(&storeCfg, &events); err != nil {
		return nil, err
	}
	if n.store, err = pebblekv.Open(storeCfg); err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	ctx := context.Background()
	meta, err := msgstore.OpenMeta(ctx, n.store, keys, time.Now().UnixMilli())
	if err != nil {
		return nil, err
	}
	n.epoch = meta.Epoch
	if n.clock, err = msgstore.OpenClock(ctx, msgstore.ClockConfig{Store: n.store, Keys: keys, Logger: logger}); err != nil {
		return nil, err
	}
	n.sweeper = msgstore.NewSweeper(msgstore.SweeperConfig{
		Store: n.store, Keys: keys, Now: n.clock.Now, Retention: msgstore.Retention(cfg.Retention), Logger: logger,
	})

	if n.sessions, err = session.New(session.Config{DevicesPerUser: cfg.Limits.ConnectionsPerUser, PerKind: cfg.Devices.PerKind}); err != nil {
		return nil, err
	}
	crypt, err := account.LoadOrCreateKeys(cfg.Data)
	if err != nil {
		return nil, err
	}
	hashes := hashesAtOnce(cfg.Accounts)
	derive := account.Argon.Key
	if len(in.HashCommand) > 0 {
		n.hasher = pwhash.NewPool(pwhash.PoolConfig{Command: in.HashCommand, Children: hashes, Logger: logger})
		derive = n.hasher.Key
	}
	if n.accounts, err = account.New(account.Config{
		Store: n.store, Keys: keys, Crypt: crypt, Issuers: issuers(cfg.Issuers), Derive: derive,
		AccessTTL: cfg.Accounts.AccessToken, RefreshTTL: cfg.Accounts.RefreshToken, ResumeTTL: cfg.Accounts.Resume,
		RegistrationOff: !cfg.Accounts.Registration, HashesAtOnce: hashes, OnRevoke: n.revoked, Logger: logger,
		DevicesPerUser: cfg.Devices.PerUser, DevicesPerKind: cfg.Devices.PerKind, Presence: n.sessions, Record: n.record,
	}); err != nil {
		return nil, err
	}

	tl := msgstore.NewTimeline(n.store, keys)
	if n.bus, err = log.New(log.Config{
		Store: n.store, Rows: busRows{keys}, Logger: logger,
		Read: func(ctx context.Context, conv id.ConversationID, from, to uint64) ([]byte, uint64, error) {
			messages, _, last, err := tl.Range(ctx, conv, from, to, 0, busReadBytes)
			return messages, last, err
		},
	}); err != nil {
		return nil, err
	}
	policy, err := relation.ParsePolicy(cfg.Contacts.Write)
	if err != nil {
		return nil, err
	}
	search, err := relation.ParsePolicy(cfg.Contacts.Search)
	if err != nil {
		return nil, err
	}
	if n.relations, err = relation.New(relation.Config{
		Store: n.store, Keys: keys, Users: n.accounts, Gone: n.accounts.Gone, Write: policy, Search: search, MaxBlocks: cfg.Contacts.Blocks, Now: n.clock.Now, Logger: logger,
	}); err != nil {
		return nil, err
	}
	if n.groups, err = group.New(group.Config{
		Store: n.store, Keys: keys, Users: n.accounts, Contacts: n.relations, Now: n.clock.Now, Logger: logger,
		Members: cfg.Limits.GroupMembers, Conversations: cfg.Limits.ConversationsPerUser,
	}); err != nil {
		return nil, err
	}
	if n.convs, err = conversation.New(conversation.Config{
		Store: n.store, Keys: keys, Users: n.accounts, Groups: n.groups, Writers: n.relations, Conversations: cfg.Limits.Conversations, Logger: logger, Now: n.clock.Now,
		AfterBatch: func() { n.hub.Flush() },
	}); err != nil {
		return nil, err
	}
	if n.seq, err = timeline.New(timeline.Config{
		Store: n.store, Keys: keys, Bus: n.bus, Guard: guard{n.convs}, Epoch: meta.Epoch, Worker: worker, Now: n.clock.Now, Logger: logger,
		AfterBatch: func() { n.hub.Flush() }, Seen: n.convs.Seen, Slow: cfg.Log.Slow, Events: events, MaxConversations: cfg.Limits.Conversations,
	}); err != nil {
		return nil, err
	}
	n.convs.Bind(n.seq)
	n.groups.Bind(changes{n.seq})
	if n.self, err = self.New(self.Config{Store: n.store, Keys: keys, Sequencer: selfTimelines{n.seq}, Now: n.clock.Now}); err != nil {
		return nil, err
	}
	if in.BeforeSend != nil {
		if n.gate, err = hook.New(hook.Config{Hook: in.BeforeSend, Next: n.seq, Logger: logger}); err != nil {
			return nil, err
		}
		n.convs.Bind(n.gate)
	}

	lim := packet.DefaultLimits
	lim.MaxContent = int(cfg.Limits.Content)
	signals := &lateSignals{}
	if n.hub, err = hub.New(hub.Config{
		Worker: worker, Connections: cfg.Limits.Connections, PerUser: perUser(cfg.Limits.ConnectionsPerUser), PerAddress: cfg.Limits.ConnectionsPerAddress,
		ConnectsPerAddress: cfg.Limits.ConnectsPerAddress, Strangers: cfg.Limits.Unauthenticated,
		StrangersPerAddress: strangersPerAddress(cfg.Limits), Logger: logger,
		DrainJitter: cfg.Drain.Jitter, Alternatives: cfg.Drain.Alternatives,
		Conn: conn.Config{
			Server: "gochat " + in.Version, StoreEpoch: meta.Epoch, Packet: lim, MaxFrame: int(cfg.Limits.Frame), MaxPage: conversation.MaxPage,
			Handshake: cfg.Limits.Handshake, Heartbeat: cfg.Limits.Heartbeat, HeartbeatMin: cfg.Limits.HeartbeatMin, HeartbeatMax: cfg.Limits.HeartbeatMax,
			Resume: cfg.Accounts.Resume, SendsPerSecond: cfg.Limits.SendsPerSecond, UserSendsPerSecond: cfg.Limits.UserSendsPerSecond,
			BytesPerSecond: int(cfg.Limits.BytesPerSecond), MaxInflight: cfg.Limits.Inflight, QueueBytes: int(cfg.Limits.Outbound), Stalled: cfg.Limits.Stalled,
			Slow: cfg.Log.Slow, Logger: logger,
		},
	}, conn.Services{Authenticator: n.accounts, Conversations: n.convs, Sessions: n.sessions, Signals: signals, Methods: n.methods()}); err != nil {
		return nil, err
	}
	if n.fanout, err = fanout.New(fanout.Config{
		Members: n.convs, Groups: n.groups, Sessions: n.sessions, Deliver: n.hub, Timeline: tl, MaxFrame: int(cfg.Limits.Frame),
		Conversations: max(cfg.Limits.Conversations, 16), Logger: logger,
		Audiences: n.hub.Audiences(), LargeGroup: cfg.Fanout.LargeGroup, Idle: cfg.Fanout.AudienceIdle, Seats: audienceSeats(cfg.Limits.Connections), Budget: cfg.Fanout.DeliveriesPerSecond,
	}); err != nil {
		return nil, err
	}
	signals.Signals = heardSignals{n.fanout, n.convs, n.relations}
	n.convs.BindDevices(n.fanout)
	n.convs.BindAudiences(n.fanout)
	n.relations.Bind(fence{n.seq}, n.fanout)

	if n.tcp, err = tcp.New(tcp.Config{Listen: cfg.TCP.Listen, TLS: listenerTLS(n.tcpCert), Hub: n.hub, Pollers: cfg.TCP.Pollers, ProxyFrom: prefixes(cfg.TCP.ProxyFrom), Logger: logger}); err != nil {
		return nil, fmt.Errorf("%w (tcp.listen, flag --tcp)", err)
	}
	if n.ws, err = ws.New(ws.Config{Hub: n.hub, Origins: cfg.HTTP.Origins, Logger: logger}); err != nil {
		return nil, err
	}
	if n.sse, err = sse.New(sse.Config{Hub: n.hub, Page: n.ws.Allowed, Logger: logger}); err != nil {
		return nil, err
	}
	routes, err := n.httpRoutes(lim, in.Web)
	if err != nil {
		return nil, err
	}
	if n.api, err = api.New(api.Config{
		Routes: routes, Identify: n.identify, CallsPerMinute: cfg.HTTP.CallsPerMinute,
		WebSocket: n.ws, Events: n.sse, Origins: cfg.HTTP.Origins,
		Listen: cfg.HTTP.Listen, TLS: listenerTLS(n.httpCert), Accounts: signIns{n}, Ready: n.ready, Metrics: reg, Observe: m.request,
		TrustedProxies: prefixes(cfg.HTTP.TrustedProxies), AuthPerMinute: cfg.HTTP.AuthPerMinute, Logger: logger,
	}); err != nil {
		return nil, fmt.Errorf("%w (http.listen, flag --http)", err)
	}
	if n.admin, err = admin.New(admin.Config{
		Path: filepath.Join(cfg.Data, socketFile), Stats: n.stats, Level: in.Level, Routes: n.routes(), Logger: logger,
	}); err != nil {
		// A deep directory makes a path that no socket can have. Chatting goes on without the operator's door.
		logger.Warn("no administration socket", "err", err)
		n.admin, err = nil, nil
	}
	m.watch(n)
	return n, nil
}

// busReadBytes bounds what the bus reads of one append at once.
const busReadBytes = 256 << 10

// TCPAddr and HTTPAddr are where the node listens.
func (n *Node) TCPAddr() net.Addr  { return n.tcp.Addr() }
func (n *Node) HTTPAddr() net.Addr { return n.api.Addr() }

// Run serves until ctx ends, then drains and closes everything. It returns ErrStorage,
// at once, if the store fails.
func (n *Node) Run(ctx context.Context) error {
	// What serves clients ends first, what it stands on last.
	front, stopFront := context.WithCancel(ctx)
	defer stopFront()
	// WebSockets and streams of events are on the HTTP listener, and drained like any connection before it ends.
	web, stopWeb := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWeb()
	back, stopBack := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBack()
	// The sequencer's last acks move cursors: those who write them end after it.
	last, stopLast := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLast()
	failed := make(chan error, 16)
	var fronts, backs, lasts sync.WaitGroup
	start := func(wg *sync.WaitGroup, ctx context.Context, what string, run func(context.Context) error) {
		wg.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		})
	}
	start(&lasts, last, "clock", n.clock.Run)
	start(&lasts, last, "conversations", n.convs.Run)
	start(&backs, back, "sequencer", n.seq.Run)
	start(&backs, back, "fan-out", func(ctx context.Context) error { return n.bus.Subscribe(ctx, fanoutGroup, n.fanout.Handle) })
	start(&backs, back, "gaps", n.fanout.Run)
	start(&backs, back, "profiles", n.relations.Run)
	start(&backs, back, "sweeps", n.sweeper.Run)
	start(&backs, back, "connections", n.hub.Run)
	start(&fronts, front, "deletions", n.runDeletions)
	start(&backs, back, "memory", n.trimMemory)
	start(&fronts, front, "tcp", n.tcp.Run)
	start(&fronts, web, "http", n.api.Run)
	if n.admin != nil {
		start(&fronts, front, "admin", n.admin.Run)
	}

	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-n.fatal:
		return err // nothing may be answered any more
	}
	n.log.Info("shutting down")
	stopFront()
	// The deadline is the clients'; those that stay get the reason, and some time to read it.
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.cfg.Drain.Deadline+n.hub.Edge().Config().Linger)
	defer cancel()
	err = errors.Join(err, n.hub.Shutdown(drain))
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
	defer cancel()
	err = errors.Join(err, n.api.Shutdown(closing))
	stopWeb()
	if n.admin != nil {
		err = errors.Join(err, n.admin.Shutdown(closing))
	}
	fronts.Wait()
	if n.gate != nil {
		n.gate.Close()
	}
	stopBack()
	backs.Wait()
	stopLast()
	lasts.Wait()
	n.close()
	select {
	case fatal := <-n.fatal:
		err = errors.Join(err, fatal)
	default:
	}
	return err
}

// storeFailed is called by the store when it can't go on.
func (n *Node) storeFailed(err error) {
	select {
	case n.fatal <- fmt.Errorf("%w: %w", ErrStorage, err):
	default:
	}
}

// revoked closes what a revoked device has open.
func (n *Node) revoked(r account.Revocation) {
	if n.hub != nil {
		n.hub.CloseUserUntil(r.User, r.Device, r.At, code.Newf(code.SessionRevoked, "%s", r.Why))
	}
}

// perUser is how many connections of a user the hub holds where the directory keeps n: the
// newest wins there, and what it took the place of may still be closing.
func perUser(n int) int { return 2*n + 4 }

// audienceSeats is how many connections all audiences of large groups may hold together, each
// counted in every group: a user's groups that are busy at the same time are few.
func audienceSeats(connections int) int { return max(16*connections, 1<<16) }

// ready reports whether clients can be served.
func (n *Node) ready(ctx context.Context) error {
	if _, err := n.store.Get(ctx, []byte{0}); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// close closes what New opened, in the opposite order.
func (n *Node) close() {
	var errs []error
	if n.admin != nil {
		errs = append(errs, n.admin.Close())
	}
	if n.api != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = n.api.Shutdown(ended) // after a Run it has been already
	}
	if n.tcp != nil {
		n.tcp.Close()
	}
	if n.accounts != nil {
		n.accounts.Close()
	}
	if n.hasher != nil {
		n.hasher.Close()
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	if err := errors.Join(errs...); err != nil {
		n.log.Warn("closing", "err", err)
	}
}

// privateDirs makes the data directory, or takes one that is there, and closes to others what messages lie in.
func privateDirs(data string) error {
	store := filepath.Join(data, storeDir)
	if err := os.MkdirAll(store, 0o700); err != nil {
		return err
	}
	return os.Chmod(store, 0o700)
}

func hashesAtOnce(a Accounts) int {
	if a.HashesAtOnce > 0 {
		return a.HashesAtOnce
	}
	return max(1, runtime.GOMAXPROCS(0)/2)
}

func issuers(list []Issuer) []account.Issuer {
	out := make([]account.Issuer, len(list))
	for i, is := range list {
		out[i] = account.Issuer{Issuer: is.Issuer, Audience: is.Audience, Algorithm: is.Algorithm, Key: is.KeyFile, JWKS: is.JWKS, Prefix: is.Prefix}
	}
	return out
}

// prefixes parses what Validate has checked.
func prefixes(list []string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p)
		}
	}
	return out
}
