// Package node builds a running GoChat out of its parts. It is the only place
// where adapters are chosen.
package node

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gochat-im/gochat/edge/admin"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/node/edge"
	"github.com/gochat-im/gochat/node/logic"
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/trace"
	"github.com/gochat-im/gochat/router"
	"github.com/gochat-im/gochat/router/settings"
	"github.com/gochat-im/gochat/services/account"
	"github.com/gochat-im/gochat/services/conversation"
	"github.com/gochat-im/gochat/services/fanout"
	"github.com/gochat-im/gochat/services/hook"
	"github.com/gochat-im/gochat/services/relay"
	"github.com/gochat-im/gochat/services/session"
	"github.com/gochat-im/gochat/services/timeline"
	"github.com/gochat-im/gochat/services/words"
)

// Config is everything that can be set; Default, of a server that was told nothing.
type Config = config.Config

// Default returns the configuration of a server that was told nothing.
func Default() Config { return config.Default() }

// ErrStorage is what Run returns after a failed write: what was being stored is
// undetermined, and only a restart, which recovers from the log, finds out.
var ErrStorage = errors.New("the store failed")

// aloneWorker is the number of a node that is the only one of its store.
const aloneWorker = 1

// maxPushes is how many cursors that moved may wait for their users to be looked up at other nodes.
const maxPushes = 16 << 10

// fanoutGroup is the bus group of fan-out.
const fanoutGroup = "fanout"

// socketFile is the operator's door, in the data directory.
const socketFile = "admin.sock"

// Node is one process of GoChat. New opens and binds, Run serves, and ends when its
// context does.
type Node struct {
	cfg Config
	log *slog.Logger

	load      func() (Config, error)
	level     *slog.LevelVar
	reloading sync.Mutex
	overlay   *config.Overlay    // cfg with what was reloaded since, and the settings of all nodes above it; guarded by reloading
	logged    string             // the level that was set last; guarded by reloading
	settings  *settings.Settings // nil: there is no etcd
	words     *words.Lists       // guarded by reloading
	badWords  map[string]bool    // lists that were refused; guarded by reloading

	// The parts, from the store up; nil: the node's roles don't have it.
	crypt     *account.Keys
	storage   *storage.Storage
	sessions  *session.Directory
	logic     *logic.Logic
	fanout    *fanout.Handler
	direct    *fanout.Direct // past a bus that lies apart
	monitor   *monitor       // nil: metrics are where clients are
	sweeper   *msgstore.Sweeper
	deletions *logic.Deletions
	edge      *edge.Edge
	admin     *admin.Server

	roomReports *relay.RoomReports // of an edge
	cast        caster

	peers *peers // the other nodes; nil: there are none

	ending atomic.Bool // the node was told to end
	away   staying     // whether fan-out is to leave the bus alone
	left   staying     // whether it does

	worker uint32     // of this process in MessageIDs and connection incarnations
	fatal  chan error // the store's last word
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

	// Store and Bus, both or neither, and Nodes stand in for what the configuration names. They are for tests,
	// in which several nodes share what no production store is, and come and go as the test likes; who made them closes them.
	// Consumers are Bus's; nil: it is taken for one whose consumers are always there.
	Store     kv.Store
	Bus       storage.Bus
	Consumers timeline.Consumers
	Nodes     router.Source
}

// New opens the data directory and binds every listener. What it opened it closes again when it fails. An edge without
// the role logic waits for a node that has it, half a minute at most.
func New(cfg Config, in Program) (_ *Node, err error) {
	logger := slog.New(trace.Handler{Handler: in.Logger.Handler()})
	n := &Node{cfg: cfg, log: logger, load: in.Load, level: in.Level, fatal: make(chan error, 1), worker: aloneWorker}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	n.overlay, n.badWords = n.newOverlay(cfg), map[string]bool{}
	m := newMetrics(prometheus.NewRegistry())
	if n.judges() { // before etcd's lists: what doesn't fit beside it is refused as it is while the node runs
		n.words, err = n.readWords(cfg)
	}
	if err == nil && cfg.Cluster.On() {
		if err = n.join(in); err == nil {
			err = n.openSettings()
		}
		cfg = n.cfg
	}
	if err == nil && cfg.Cluster.Stored() {
		err = n.openLogic(in, m)
	}
	signals, sessions := &lateSignals{}, &lateSessions{}
	if err == nil && cfg.Cluster.On() {
		err = n.openRemote(signals)
	}
	if err == nil && cfg.Cluster.Has(config.RoleEdge) {
		err = n.openEdge(in, m, signals, sessions)
	}
	if err == nil && n.peers != nil {
		err = n.openRelay(sessions)
	}
	if err == nil && cfg.Cluster.Stored() {
		err = n.openFanout(signals)
	}
	if err == nil && n.peers != nil {
		err = n.listen()
	}
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Data, 0o700); err != nil {
		return nil, fmt.Errorf("making the data directory: %w", err)
	}
	if n.admin, err = admin.New(admin.Config{
		Path: filepath.Join(cfg.Data, socketFile), Stats: n.stats, Level: in.Level, Routes: n.routes(), Logger: logger,
	}); err != nil {
		// A deep directory makes a path that no socket can have. Chatting goes on without the operator's door.
		logger.Warn("no administration socket", "err", err)
		n.admin, err = nil, nil
	}
	if err := n.built(); err != nil {
		return nil, err
	}
	m.watch(n)
	if cfg.Cluster.Monitor != "" {
		if n.monitor, err = newMonitor(cfg.Cluster.Monitor, n.metrics(m), n.ready(n.able), logger); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// openLogic opens the store, and the services on it.
func (n *Node) openLogic(in Program, m *metrics) (err error) {
	cfg := n.cfg
	events := m.timelineEvents()
	opened := storage.Config{Config: cfg, Store: in.Store, Bus: in.Bus, Consumers: in.Consumers, Version: in.Version, Logger: n.log, OnFatal: n.storeFailed, Group: m.group}
	n.direct = fanout.NewDirect(fanout.DirectConfig{Logger: n.log})
	if n.peers != nil {
		opened.Worker = n.worker
		if opened.Beside, err = n.peers.besideBus(n.direct); err != nil {
			return err
		}
	}
	if n.storage, err = storage.Open(opened, &events); err != nil {
		return err
	}
	if err := n.agreeOnLevel(); err != nil {
		return err
	}
	if err := n.readKeys(); err != nil {
		return err
	}
	directory := session.Config{DevicesPerUser: cfg.Limits.ConnectionsPerUser, PerKind: cfg.Devices.PerKind}
	built := logic.Config{
		Config: cfg, Storage: n.storage, Worker: n.worker, Version: in.Version, Crypt: n.crypt, Flush: n.flush, Revoked: n.revoked, Direct: n.direct.Take, Broadcast: n.broadcast,
		Events: events, BeforeSend: in.BeforeSend, HashCommand: in.HashCommand, Logger: n.log,
	}
	var mine func(id.Slot) bool
	if n.peers == nil {
		if n.sessions, err = session.New(directory); err != nil {
			return err
		}
		built.Presence = n.sessions
	} else {
		if err := n.peers.openDirectory(cfg, directory); err != nil {
			return err
		}
		built.Presence, built.WorkerHeld, mine = n.peers.lookUps, n.peers.WorkerHeld, n.peers.sweeps
	}
	if n.logic, err = logic.New(built); err != nil {
		return err
	}
	if cfg.Cluster.Has(config.RoleWorker) {
		n.sweeper = n.logic.Sweeper(mine)
	}
	n.deletions = n.logic.Deletions(mine)
	return nil
}

// readKeys reads the keys of tokens: an edge without a store has them to see who comes back.
func (n *Node) readKeys() (err error) {
	if n.peers == nil {
		n.crypt, err = account.LoadOrCreateKeys(n.cfg.Data)
	} else {
		n.crypt, err = account.ReadKeys(n.cfg.Cluster.SigningKeys)
	}
	return err
}

// openEdge binds what clients connect to.
func (n *Node) openEdge(in Program, m *metrics, signals conn.Signals, sessions *lateSessions) (err error) {
	c := edge.Config{
		Config: n.cfg, Worker: n.worker, MaxPage: conversation.MaxPage, Version: in.Version, Web: in.Web, Metrics: n.metrics(m), Observe: m.request, Logger: n.log,
	}
	if n.storage != nil {
		c.StoreEpoch, c.Ready = n.storage.Epoch, n.storage.Ready
	}
	if n.peers == nil {
		c.Services, c.Identify, c.Accounts = n.logic.Services(n.sessions, signals), n.logic.Identify, n.logic.SignIns()
		if c.Routes, err = n.logic.Routes(n.logic.Conversations, n.logic.Methods()); err != nil {
			return err
		}
	} else if err := n.serve(&c, sessions); err != nil {
		return err
	}
	if n.crypt == nil {
		if err := n.readKeys(); err != nil {
			return err
		}
	}
	c.Services.Resumes = func(token string, device id.DeviceID) (id.UserID, bool) {
		return n.crypt.Resumes(token, device, time.Now())
	}
	c.Ready = n.ready(c.Ready)
	rooms := &lateRooms{}
	c.Services.Methods = rooms.enter(c.Services.Methods)
	if n.edge, err = edge.New(c); err != nil {
		return err
	}
	rooms.Rooms = n.edge.Hub.Rooms()
	return n.openRooms()
}

// openFanout builds what brings messages and signals to connections.
func (n *Node) openFanout(signals *lateSignals) (err error) {
	cfg := n.cfg
	c := fanout.Config{
		Members: n.logic.Conversations, Groups: n.logic.Groups, Timeline: n.storage.Timeline, MaxFrame: int(cfg.Limits.Frame),
		Conversations: max(cfg.Limits.Conversations, 16), Logger: n.log,
		LargeGroup: cfg.Fanout.LargeGroup, Idle: cfg.Fanout.AudienceIdle, Seats: audienceSeats(cfg.Limits.Connections), Budget: cfg.Fanout.DeliveriesPerSecond,
	}
	if n.peers == nil {
		c.Sessions, c.Deliver, c.Audiences = n.sessions, n.edge.Hub, n.edge.Hub.Audiences()
	} else {
		c.Sessions, c.Deliver, c.Audiences, c.Pushes = n.peers.lookUps, n.peers.edges, n.peers.edges.Audiences(), maxPushes
		c.Shared = true
	}
	c.Rooms, c.RoomBudget = n.halls(), cfg.Rooms.DeliveriesPerSecond
	if n.fanout, err = fanout.New(c); err != nil {
		return err
	}
	if n.peers != nil {
		n.peers.edges.Audiences().Bind(n.fanout.Fill)
	}
	signals.Signals = n.logic.Signals(n.fanout)
	n.logic.Bind(n.fanout)
	n.logic.BindRooms(n.fanout, n.halls())
	return nil
}

// TCPAddr and HTTPAddr are where the node listens for clients; nil: it has not the role edge.
func (n *Node) TCPAddr() net.Addr {
	if n.edge == nil {
		return nil
	}
	return n.edge.TCPAddr()
}

// HTTPAddr is TCPAddr of the HTTP listener.
func (n *Node) HTTPAddr() net.Addr {
	if n.edge == nil {
		return nil
	}
	return n.edge.HTTPAddr()
}
