// Package node builds a running GoChat out of its parts. It is the only place
// where adapters are chosen.
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gochat-im/gochat/edge/admin"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/node/edge"
	"github.com/gochat-im/gochat/node/logic"
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/trace"
	"github.com/gochat-im/gochat/services/account"
	"github.com/gochat-im/gochat/services/conversation"
	"github.com/gochat-im/gochat/services/fanout"
	"github.com/gochat-im/gochat/services/hook"
	"github.com/gochat-im/gochat/services/session"
)

// Config is everything that can be set; Default, of a server that was told nothing.
type Config = config.Config

// Default returns the configuration of a server that was told nothing.
func Default() Config { return config.Default() }

// ErrStorage is what Run returns after a failed write: what was being stored is
// undetermined, and only a restart, which recovers from the log, finds out.
var ErrStorage = errors.New("the store failed")

// worker is an embedded node's number in MessageIDs and connection incarnations: it is the only one of its store.
const worker = 1

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
	inForce   Config // cfg with what was reloaded since; guarded by reloading

	// The parts, from the store up; nil: the node's roles don't have it.
	storage   *storage.Storage
	sessions  *session.Directory
	logic     *logic.Logic
	fanout    *fanout.Handler
	sweeper   *msgstore.Sweeper
	deletions *logic.Deletions
	edge      *edge.Edge
	admin     *admin.Server

	fatal chan error // the store's last word
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

	// Store and Bus, both or neither, stand in for what the configuration names. They are for tests,
	// in which several nodes share what no production store is; who made them closes them.
	Store kv.Store
	Bus   storage.Bus
}

// New opens the data directory and binds every listener. What it opened it closes again when it fails.
func New(cfg Config, in Program) (_ *Node, err error) {
	logger := slog.New(trace.Handler{Handler: in.Logger.Handler()})
	n := &Node{cfg: cfg, log: logger, load: in.Load, level: in.Level, inForce: cfg, fatal: make(chan error, 1)}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	m := newMetrics(prometheus.NewRegistry())
	events := m.timelineEvents()
	if n.storage, err = storage.Open(storage.Config{
		Config: cfg, Store: in.Store, Bus: in.Bus, Version: in.Version, Logger: logger, OnFatal: n.storeFailed, Group: m.group,
	}, &events); err != nil {
		return nil, err
	}
	if n.sessions, err = session.New(session.Config{DevicesPerUser: cfg.Limits.ConnectionsPerUser, PerKind: cfg.Devices.PerKind}); err != nil {
		return nil, err
	}
	crypt, err := account.LoadOrCreateKeys(cfg.Data)
	if err != nil {
		return nil, err
	}
	if n.logic, err = logic.New(logic.Config{
		Config: cfg, Storage: n.storage, Worker: worker, Crypt: crypt, Version: in.Version, Presence: n.sessions, Flush: n.flush, Revoked: n.revoked,
		Events: events, BeforeSend: in.BeforeSend, HashCommand: in.HashCommand, Logger: logger,
	}); err != nil {
		return nil, err
	}
	n.sweeper, n.deletions = n.logic.Sweeper(), n.logic.Deletions()
	routes, err := n.logic.Routes()
	if err != nil {
		return nil, err
	}
	signals := &lateSignals{}
	if n.edge, err = edge.New(edge.Config{
		Config: cfg, Worker: worker, StoreEpoch: n.storage.Epoch, MaxPage: conversation.MaxPage, Version: in.Version, Services: n.logic.Services(n.sessions, signals),
		Routes: routes, Identify: n.logic.Identify, Accounts: n.logic.SignIns(), Ready: n.storage.Ready, Web: in.Web, Metrics: m.reg, Observe: m.request, Logger: logger,
	}); err != nil {
		return nil, err
	}
	if n.fanout, err = fanout.New(fanout.Config{
		Members: n.logic.Conversations, Groups: n.logic.Groups, Sessions: n.sessions, Deliver: n.edge.Hub, Timeline: n.storage.Timeline, MaxFrame: int(cfg.Limits.Frame),
		Conversations: max(cfg.Limits.Conversations, 16), Logger: logger,
		Audiences: n.edge.Hub.Audiences(), LargeGroup: cfg.Fanout.LargeGroup, Idle: cfg.Fanout.AudienceIdle, Seats: audienceSeats(cfg.Limits.Connections), Budget: cfg.Fanout.DeliveriesPerSecond,
	}); err != nil {
		return nil, err
	}
	signals.Signals = n.logic.Signals(n.fanout)
	n.logic.Bind(n.fanout)
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

// TCPAddr and HTTPAddr are where the node listens.
func (n *Node) TCPAddr() net.Addr  { return n.edge.TCPAddr() }
func (n *Node) HTTPAddr() net.Addr { return n.edge.HTTPAddr() }

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
	if n.storage != nil {
		start(&lasts, last, "clock", n.storage.Clock.Run)
		start(&lasts, last, "conversations", n.logic.Conversations.Run)
		start(&backs, back, "sequencer", n.logic.Sequencer.Run)
		start(&backs, back, "profiles", n.logic.Relations.Run)
	}
	if n.fanout != nil {
		start(&backs, back, "fan-out", func(ctx context.Context) error { return n.storage.Bus.Subscribe(ctx, fanoutGroup, n.fanout.Handle) })
		start(&backs, back, "gaps", n.fanout.Run)
	}
	if n.sweeper != nil {
		start(&backs, back, "sweeps", n.sweeper.Run)
		start(&fronts, front, "deletions", n.deletions.Run)
	}
	if n.edge != nil {
		start(&backs, back, "connections", n.edge.Hub.Run)
		start(&fronts, front, "tcp", n.edge.TCP.Run)
		start(&fronts, web, "http", n.edge.API.Run)
	}
	start(&backs, back, "memory", n.trimMemory)
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
	if n.edge != nil {
		err = errors.Join(err, n.edge.Drain(context.WithoutCancel(ctx)))
	}
	stopWeb()
	if n.admin != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), edge.CloseTime)
		err = errors.Join(err, n.admin.Shutdown(closing))
		cancel()
	}
	fronts.Wait()
	if n.logic != nil {
		n.logic.Settle()
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
	if n.edge != nil {
		n.edge.Hub.CloseUserUntil(r.User, r.Device, r.At, code.Newf(code.SessionRevoked, "%s", r.Why))
	}
}

// flush writes what was given to connections.
func (n *Node) flush() {
	if n.edge != nil {
		n.edge.Hub.Flush()
	}
}

// audienceSeats is how many connections all audiences of large groups may hold together, each
// counted in every group: a user's groups that are busy at the same time are few.
func audienceSeats(connections int) int { return max(16*connections, 1<<16) }

// close closes what New opened, in the opposite order.
func (n *Node) close() {
	var errs []error
	if n.admin != nil {
		errs = append(errs, n.admin.Close())
	}
	if n.edge != nil {
		n.edge.Close()
	}
	if n.logic != nil {
		n.logic.Close()
	}
	if n.storage != nil {
		errs = append(errs, n.storage.Close())
	}
	if err := errors.Join(errs...); err != nil {
		n.log.Warn("closing", "err", err)
	}
}
