// Package storage opens what a node keeps everything in: the store, its clock and the bus.
package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/bus/log"
	"github.com/gochat-im/gochat/bus/rocketmq"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/msgstore/kv/tikv"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/relay"
	"github.com/gochat-im/gochat/services/timeline"
)

// Bus is both sides of a bus.
type Bus interface {
	bus.Publisher
	bus.Subscriber
}

// Config of a Storage.
type Config struct {
	config.Config

	// Store and Bus stand in for what Config names, both or neither: tests give processes a
	// store to share. They are closed by whoever made them. Consumers are Bus's; nil: they are always there.
	Store     kv.Store
	Bus       Bus
	Consumers timeline.Consumers

	Worker  uint32 // the node's number; 0: it is the only one
	Version string // of the program, for backups
	Beside  Beside
	Logger  *slog.Logger

	// OnFatal is called, once, with the last word of a store that can't go on.
	OnFatal func(error)

	// Group is told of each group of transactions that an embedded store wrote with one sync.
	Group func(pebblekv.Group)
}

// Beside is what a bus that lies apart needs of the cluster around it.
type Beside struct {
	Publisher uint64                // this node and this start of it: relay.PublisherOf
	Group     string                // of the bus, that events have to come through
	Live      func() []string       // ids of the nodes that take part in it
	Seen      func([]relay.Mark)    // tells other publishers what came through; it must not block, nor keep the marks
	Direct    func(evs []bus.Event) // takes what didn't come through in time; it must not block
}

// Storage is what was opened. Its fields don't change.
type Storage struct {
	Store    kv.Store
	Keys     msgstore.Keys
	Epoch    uint64 // the store's
	Clock    *msgstore.Clock
	Timeline *msgstore.Timeline
	Bus      Bus

	// Consumers know what becomes of what is published; nil: the bus lies in the store.
	Consumers timeline.Consumers

	cfg     Config
	log     *slog.Logger
	backing sync.Mutex // held while a backup is written

	// What was opened here, as what it is; nil: something else is in its place.
	pebble   *pebblekv.Store
	tikv     *tikv.Store
	rocketmq *rocketmq.Bus

	dead  deadLetters
	level atomic.Uint32
}

// Open opens the store and the bus. events, of the sequencer that will write to the store, are given what
// fault points test builds have. What was opened is closed again when it fails.
func Open(cfg Config, events *timeline.Events) (_ *Storage, err error) {
	s := &Storage{cfg: cfg, log: cfg.Logger, Store: cfg.Store, Bus: cfg.Bus, Consumers: cfg.Consumers}
	defer func() {
		if err != nil {
			_ = s.Close()
		}
	}()
	switch {
	case s.Store != nil:
	case cfg.Cluster.On() && cfg.Cluster.Store.Kind == config.StoreTiKV:
		err = s.openTiKV()
	default:
		err = s.openEmbedded(events)
	}
	if err != nil {
		return nil, err
	}
	ctx := context.Background()
	meta, err := msgstore.OpenMeta(ctx, s.Store, s.Keys, time.Now().UnixMilli())
	if err != nil {
		return nil, err
	}
	s.Epoch = meta.Epoch
	s.level.Store(meta.FeatureLevel)
	if s.Clock, err = msgstore.OpenClock(ctx, msgstore.ClockConfig{Store: s.Store, Keys: s.Keys, Worker: cfg.Worker, Logger: s.log}); err != nil {
		return nil, err
	}
	s.Timeline = msgstore.NewTimeline(s.Store, s.Keys)
	switch {
	case s.Bus != nil:
	case cfg.Cluster.On() && cfg.Cluster.Bus.Kind == config.BusRocketMQ:
		if err := s.openRocketMQ(); err != nil {
			return nil, err
		}
	default:
		if s.Bus, err = log.New(log.Config{
			Store: s.Store, Rows: busRows{s.Keys}, Logger: s.log,
			Read: func(ctx context.Context, conv id.ConversationID, from, to uint64) ([]byte, uint64, error) {
				messages, _, last, err := s.Timeline.Range(ctx, conv, from, to, 0, busReadBytes)
				return messages, last, err
			},
		}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// busReadBytes bounds what the bus reads of one append at once.
const busReadBytes = 256 << 10

// openEmbedded opens the store in the data directory.
func (s *Storage) openEmbedded(events *timeline.Events) error {
	cfg := &s.cfg
	if err := privateDirs(cfg.Data); err != nil {
		return fmt.Errorf("making the data directory: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(cfg.Data, backupFile)); err == nil {
		// Serving it would give out seqs that clients know already, under the same epoch.
		return fmt.Errorf("%s is a backup: make a data directory of it with `gochat restore`", cfg.Data)
	}
	if err := notMoved(cfg.Data); err != nil {
		return err
	}
	c := pebblekv.Config{
		Dir: filepath.Join(cfg.Data, storeDir), Logger: s.log,
		CacheBytes: int64(cfg.Config.Storage.Cache), MemTableBytes: int(cfg.Config.Storage.Memtable), DiskReserve: int64(cfg.Config.Storage.DiskReserve),
		OnFatal: cfg.OnFatal, Observe: pebblekv.Observe{Group: cfg.Group},
	}
	if err := plantFaults(&c, events); err != nil {
		return err
	}
	store, err := pebblekv.Open(c)
	if err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	s.Store, s.pebble = store, store
	return nil
}

// privateDirs makes the data directory, or takes one that is there, and closes to others what messages lie in.
func privateDirs(data string) error {
	store := filepath.Join(data, storeDir)
	if err := os.MkdirAll(store, 0o700); err != nil {
		return err
	}
	return os.Chmod(store, 0o700)
}

// Ready reports whether the store answers.
func (s *Storage) Ready(ctx context.Context) error {
	if _, err := s.Store.Get(ctx, []byte{0}); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

// Embedded returns the counts of an embedded store; ok is false where there is none.
func (s *Storage) Embedded() (m pebblekv.Metrics, ok bool) {
	if s.pebble == nil {
		return m, false
	}
	return s.pebble.Metrics(), true
}

// Relax has an embedded store give memory back after a busy time, and put itself in order.
func (s *Storage) Relax(ctx context.Context) error {
	if s.pebble == nil {
		return nil
	}
	return errors.Join(s.pebble.Relax(), s.pebble.Settle(ctx))
}

// Close closes what Open opened.
func (s *Storage) Close() error {
	if s.pebble == nil {
		return s.closeShared()
	}
	return errors.Join(s.closeShared(), s.pebble.Close())
}
