package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gochat-im/gochat/bus/rocketmq"
	"github.com/gochat-im/gochat/msgstore/kv/tikv"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/relay"
)

// openTime is what TiKV and RocketMQ have to answer when a node starts.
const openTime = 30 * time.Second

// openTiKV opens the store that the cluster's nodes share.
func (s *Storage) openTiKV() error {
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	defer cancel()
	c := s.cfg.Cluster.Store.TiKV
	defer config.Waiting(s.log, "TiKV", c.PD, openTime)()
	store, err := tikv.Open(ctx, tikvConfig(&c, s.log))
	if err != nil {
		return fmt.Errorf("opening TiKV: %w", err)
	}
	s.Store, s.tikv = store, store
	s.Keys.Keyspace = uint16(c.Keyspace)
	// Cutting where a region begins already changes nothing, so each node may ask for it at each start.
	if err := store.PreSplit(ctx, s.Keys.SlotBounds); err != nil {
		s.log.Warn("TiKV was not split beforehand, and splits by itself as it grows", "err", err)
	}
	return nil
}

func tikvConfig(c *config.TiKV, log *slog.Logger) tikv.Config {
	return tikv.Config{
		PD: c.PD, TLS: tikv.TLS{CA: c.TLS.CAFile, Cert: c.TLS.CertFile, Key: c.TLS.KeyFile}, Logger: log, RegionsPerStore: c.Regions,
	}
}

// CollectGarbage has old versions of what TiKV holds removed, again and again until ctx ends, while leads says that
// it is this node that does so. Any other store needs none. What keeps it from that is logged.
func (s *Storage) CollectGarbage(ctx context.Context, leads func() bool) error {
	if s.tikv == nil {
		<-ctx.Done()
		return nil
	}
	return s.tikv.RunGC(ctx, tikv.GCConfig{Leader: func(context.Context) bool { return leads() }})
}

// openRocketMQ opens the bus that lies apart.
func (s *Storage) openRocketMQ() error {
	ctx, cancel := context.WithTimeout(context.Background(), openTime)
	defer cancel()
	c := s.cfg.Cluster.Bus.RocketMQ
	opened := rocketmq.Config{
		NameServers: c.NameServers, AccessKey: c.AccessKey, Topic: c.Topic, Queues: c.Queues, Node: s.cfg.Cluster.NodeID, Logger: s.log, Pace: s.cfg.Cluster.Pace,
		Publisher: s.cfg.Beside.Publisher, Watched: s.cfg.Beside.Group, Live: s.cfg.Beside.Live, Overdue: s.cfg.Beside.Direct,
		Read: func(ctx context.Context, conv id.ConversationID, from, to uint64) ([]byte, uint64, error) {
			messages, _, last, err := s.Timeline.Range(ctx, conv, from, to, 0, busReadBytes)
			return messages, last, err
		},
	}
	if tell := s.cfg.Beside.Seen; tell != nil {
		opened.Seen = func(marks []rocketmq.Mark) {
			seen := make([]relay.Mark, len(marks))
			for i, m := range marks {
				seen[i] = relay.Mark(m)
			}
			tell(seen)
		}
	}
	if c.AccessKey != "" {
		var err error
		if opened.SecretKey, err = config.ReadSecret(c.SecretFile); err != nil {
			return fmt.Errorf("cluster.bus.rocketmq.secret_file: %w", err)
		}
	}
	defer config.Waiting(s.log, "RocketMQ", c.NameServers, openTime)()
	bus, err := rocketmq.Open(ctx, opened)
	if err != nil {
		return fmt.Errorf("opening RocketMQ: %w", err)
	}
	s.Bus, s.Consumers, s.rocketmq = bus, bus, bus
	return nil
}

// Saw tells the bus what of this node's was seen coming through, by another node.
func (s *Storage) Saw(seen []relay.Mark) {
	if s.rocketmq == nil {
		return
	}
	marks := make([]rocketmq.Mark, len(seen))
	for i, m := range seen {
		marks[i] = rocketmq.Mark(m)
	}
	s.rocketmq.Saw(marks)
}

// RocketMQ returns the state of the bus on RocketMQ; ok is false where there is none.
func (s *Storage) RocketMQ() (breakers map[string]string, ok bool) {
	if s.rocketmq == nil {
		return nil, false
	}
	return s.rocketmq.Breakers(), true
}

// deadLetters is how many events a consumer of the bus failed at, as it was last counted.
type deadLetters struct {
	last atomic.Int64 // and one more; 0: never counted
}

// deadEvery is how often dead letters are counted: they come two hours after what failed, and each time takes
// a few questions to every broker.
const deadEvery = time.Minute

// CountDeadLetters counts the events that the bus's consumer failed at for good, once a minute until ctx ends, where
// the bus is RocketMQ. While a broker is away what was counted last stays.
func (s *Storage) CountDeadLetters(ctx context.Context) error {
	if s.rocketmq == nil || s.cfg.Beside.Group == "" {
		<-ctx.Done()
		return nil
	}
	t := time.NewTicker(deadEvery)
	defer t.Stop()
	s.dead.run(ctx, t.C, s.log, func(ctx context.Context) (int64, error) {
		return s.rocketmq.DeadLetters(ctx, s.cfg.Beside.Group)
	})
	return nil
}

// run counts now and at each tick until ctx ends.
func (d *deadLetters) run(ctx context.Context, tick <-chan time.Time, log *slog.Logger, count func(context.Context) (int64, error)) {
	for {
		try, cancel := context.WithTimeout(ctx, deadEvery/2)
		n, err := count(try)
		cancel()
		switch {
		case err == nil:
			if n > 0 && n+1 > d.last.Load() {
				log.Warn("a consumer of the bus has dead letters", "letters", n)
			}
			d.last.Store(n + 1)
		case ctx.Err() == nil:
			log.Debug("counting dead letters", "err", err)
		}
		select {
		case <-tick:
		case <-ctx.Done():
			return
		}
	}
}

// DeadLetters returns how many dead letters of Beside.Group there were when they were last counted; ok is false if they never
// were: see CountDeadLetters.
func (s *Storage) DeadLetters() (group string, n int64, ok bool) {
	last := s.dead.last.Load()
	return s.cfg.Beside.Group, max(last-1, 0), last > 0
}

// TiKV returns the counts of a store on TiKV; ok is false where there is none.
func (s *Storage) TiKV() (m tikv.Metrics, ok bool) {
	if s.tikv == nil {
		return m, false
	}
	return s.tikv.Metrics(), true
}

// ClientMetrics are what the libraries of TiKV count.
func ClientMetrics() prometheus.Gatherer { return tikv.ClientMetrics() }

// closeShared closes what was opened here.
func (s *Storage) closeShared() error {
	var errs []error
	if s.rocketmq != nil {
		errs = append(errs, s.rocketmq.Close())
	}
	if s.tikv != nil {
		errs = append(errs, s.tikv.Close())
	}
	return errors.Join(errs...)
}
