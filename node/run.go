package node

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/node/edge"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/services/account"
	"github.com/gochat-im/gochat/services/relay"
)

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
				select {
				case failed <- fmt.Errorf("%s: %w", what, err):
				default: // there is a reason to end already
					n.log.Error("failed as well", "what", what, "err", err)
				}
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
		start(&backs, back, "gaps", n.fanout.Run)
		start(&lasts, last, "hand-over", func(ctx context.Context) error { return n.direct.Run(ctx, n.fanout) })
		if n.cfg.Cluster.Has(config.RoleFanout) {
			start(&backs, back, "fan-out", n.consume)
		}
	}
	if p := n.peers; p != nil {
		if p.part != nil {
			start(&backs, back, "directory", p.part.Run)
		}
		if p.sessions != nil {
			start(&backs, back, "sessions", p.sessions.Run)
			start(&backs, back, "hints", p.hints.Run)
		}
		if n.storage != nil {
			start(&backs, back, "feature level", func(ctx context.Context) error { return n.storage.FollowLevel(ctx, p.Level) })
		}
		start(&backs, back, "nodes", n.follow)
		start(&backs, back, "calls", p.server.Run)
	}
	if n.sweeper != nil {
		start(&backs, back, "sweeps", n.sweeper.Run)
		start(&fronts, front, "deletions", n.deletions.Run)
		if n.peers != nil {
			start(&backs, back, "versions", func(ctx context.Context) error {
				return n.storage.CollectGarbage(ctx, func() bool { return n.peers.sweeps(0) })
			})
			start(&backs, back, "dead letters", n.storage.CountDeadLetters)
		}
	}
	if n.logic != nil && n.cfg.Cluster.Has(config.RoleLogic) {
		start(&backs, back, "rooms", n.logic.Rooms.Run)
	}
	if n.edge != nil {
		start(&backs, back, "who is in rooms", n.roomReports.Run)
		start(&backs, back, "connections", n.edge.Hub.Run)
		start(&fronts, front, "tcp", n.edge.TCP.Run)
		start(&fronts, web, "http", n.edge.API.Run)
	}
	start(&backs, back, "memory", n.trimMemory)
	if n.monitor != nil {
		start(&lasts, last, "metrics", n.monitor.run)
	}
	if n.admin != nil {
		start(&fronts, front, "admin", n.admin.Run)
	}

	var err error
	var obeying sync.WaitGroup
	obey, stopObeying := context.WithCancel(context.WithoutCancel(ctx))
	defer stopObeying()
	if n.peers != nil {
		start(&obeying, obey, "draining", n.obey)
		if err = n.peers.Announce(ctx); err != nil {
			err = fmt.Errorf("showing this node to the others: %w", err)
			failed <- err
		}
	}
	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-n.fatal:
		return err // nothing may be answered any more
	}
	n.log.Info("shutting down")
	n.ending.Store(true)
	var to hub.Elsewhere
	if n.peers != nil {
		stopObeying()
		obeying.Wait()
		err = errors.Join(err, n.announceLeave(context.WithoutCancel(ctx)))
		to = n.peers.elsewhere()
	}
	stopFront()
	if n.edge != nil {
		err = errors.Join(err, n.edge.Drain(context.WithoutCancel(ctx), to))
	}
	stopWeb()
	if n.peers != nil {
		err = errors.Join(err, n.handOver(context.WithoutCancel(ctx)))
	}
	if n.admin != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), edge.CloseTime)
		err = errors.Join(err, n.admin.Shutdown(closing))
		cancel()
	}
	fronts.Wait()
	if n.peers != nil {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), handOverTime)
		if n.peers.logic != nil {
			err = errors.Join(err, n.peers.logic.Close(closing))
		}
		err = errors.Join(err, n.peers.server.Shutdown(closing))
		cancel()
	}
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
	switch {
	case n.peers != nil:
		n.peers.revoke(relay.Revocation{User: r.User, Device: r.Device, Until: r.At, Why: r.Why})
	case n.edge != nil:
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
	if n.settings != nil {
		n.settings.Close()
	}
	if n.monitor != nil {
		errs = append(errs, n.monitor.close())
	}
	if n.admin != nil {
		errs = append(errs, n.admin.Close())
	}
	if n.edge != nil {
		n.edge.Close()
	}
	if n.peers != nil {
		n.peers.close()
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
