package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/services/fanout"
	"github.com/gochat-im/gochat/services/words"
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
	n.reloading.Lock()
	defer n.reloading.Unlock()
	n.cfg = n.overlay.Config()
	return nil
}

// applySetting checks a setting from etcd and puts it in force; nil removes it. It is called by one
// goroutine at a time: New's, and then the one that follows etcd.
func (n *Node) applySetting(name string, value []byte) error {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	if list, ok := strings.CutPrefix(name, config.WordsPrefix); ok {
		return n.applyWords(list, value)
	}
	if value == nil {
		return n.overlay.Unset(name)
	}
	return n.overlay.Set(name, string(value))
}

// applyWords puts a list of words in force; nil removes it. n.reloading is held.
func (n *Node) applyWords(list string, value []byte) error {
	if list == "" {
		return errors.New("a list of words needs a name")
	}
	delete(n.badWords, list)
	if value == nil {
		n.useWords(n.words.Without(list))
		return nil
	}
	var err error
	next := n.words
	if n.judges() {
		next, err = n.words.With(list, string(value))
	} else {
		_, err = words.Check(string(value)) // so that all nodes refuse the same
	}
	if err != nil {
		n.badWords[list] = true
		return err
	}
	n.useWords(next)
	return nil
}

// judges reports whether messages come here to be stored.
func (n *Node) judges() bool { return n.cfg.Cluster.Has(config.RoleLogic) }

// readWords returns the lists with the one of cfg's file as it is now. It is the one without a name. n.reloading is held.
func (n *Node) readWords(cfg Config) (*words.Lists, error) {
	if cfg.Words.File == "" {
		return n.words.Without(""), nil
	}
	f, err := os.Open(cfg.Words.File)
	if err != nil {
		return nil, fmt.Errorf("words.file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, words.MaxText+1))
	if err != nil {
		return nil, fmt.Errorf("words.file: %w", err)
	}
	lists, err := n.words.With("", string(text))
	if err != nil {
		return nil, fmt.Errorf("words.file %s: %w", cfg.Words.File, err)
	}
	return lists, nil
}

// useWords puts lists in force, where messages are stored. n.reloading is held.
func (n *Node) useWords(lists *words.Lists) {
	n.words = lists
	if n.judges() && n.overlay.Try != nil { // all parts are there
		n.logic.Words.Use(lists.Matcher(), n.overlay.Config().Words.Action == config.WordsMask)
	}
}

// built says that all parts are there: from now on changes reach them, and so do those that came meanwhile.
func (n *Node) built() error {
	n.reloading.Lock()
	defer n.reloading.Unlock()
	cfg := n.overlay.Config()
	if err := n.adopt(cfg); err != nil {
		return err
	}
	n.overlay.Try = n.adopt
	return nil
}

// adopt puts in force what of cfg can be changed while clients are connected, but certificates.
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
	if n.judges() {
		n.logic.Words.Use(n.words.Matcher(), cfg.Words.Action == config.WordsMask)
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
	return settingsStats{refused: n.settings.Refused(), revision: n.settings.Revision(), differ: len(n.overlay.Refused()) + len(n.badWords)}
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
