package node

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/services/fanout"
)

// settingsTime is what etcd has to answer when a node starts.
const settingsTime = 10 * time.Second

// openSettings reads what etcd has for all nodes. What is to be changed of this node it changes
// in n.cfg, of which the node is then built; what comes later waits until it is.
func (n *Node) openSettings() error {
	ctx, cancel := context.WithTimeout(context.Background(), settingsTime)
	defer cancel()
	var err error
	if n.settings, err = n.peers.Settings(ctx, n.applySetting); err != nil {
		return fmt.Errorf("reading the settings of all nodes in etcd: %w", err)
	}
	n.cfg = n.current()
	return nil
}

// applySetting checks a setting from etcd and puts it in force; nil removes it. It is called by one
// goroutine at a time: New's, and then the one that follows etcd.
func (n *Node) applySetting(name string, value []byte) error {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	if value == nil {
		return n.overlay.Unset(name)
	}
	return n.overlay.Set(name, string(value))
}

// built says that all parts are there: from now on changes reach them, and so do those that came meanwhile.
func (n *Node) built() error {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	if err := n.adopt(n.overlay.Config()); err != nil {
		return err
	}
	n.overlay.Try = n.adopt
	return nil
}

// adopt puts in force what of cfg can be changed while clients are connected, but certificates. With an error nothing changes.
// n.reloading is held.
func (n *Node) adopt(cfg Config) error {
	thresholds := fanout.Thresholds{LargeGroup: cfg.Fanout.LargeGroup, Budget: cfg.Fanout.DeliveriesPerSecond, RoomBudget: cfg.Rooms.DeliveriesPerSecond}
	if n.edge != nil {
		if err := n.edge.Limit(cfg, n.cfg.Limits.ConnectionsPerUser); err != nil {
			return err
		}
	}
	if n.fanout != nil {
		if err := n.fanout.SetThresholds(thresholds); err != nil {
			return err
		}
	}
	if n.sweeper != nil {
		n.sweeper.SetRetention(msgstore.Retention(cfg.Retention))
	}
	if n.level != nil && cfg.Log.Level != n.logged {
		var l slog.Level
		if err := l.UnmarshalText([]byte(cfg.Log.Level)); err == nil {
			n.level.Set(l)
			n.logged = cfg.Log.Level
		}
	}
	return nil
}

// current returns the configuration in force.
func (n *Node) current() Config {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	return n.overlay.Config()
}

// settingsStats are how this node stands to the settings of all nodes; without etcd there are none.
func (n *Node) settingsStats() (s settingsStats) {
	if n.settings == nil {
		return s
	}
	n.reloading.Lock()
	defer n.reloading.Unlock()
	return settingsStats{refused: n.settings.Refused(), revision: n.settings.Revision(), differ: len(n.overlay.Refused())}
}

type settingsStats struct {
	refused  uint64 // times that one was
	revision int64
	differ   int // of which the latest value isn't in force
}

// newOverlay lays the settings of all nodes above own.
func (n *Node) newOverlay(own Config) *config.Overlay {
	o := config.NewOverlay(own)
	o.Late = func(name string) {
		n.log.Info("a setting from etcd that was refused before is in force now", "key", name)
	}
	return o
}
