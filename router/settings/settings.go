// Package settings brings values that an operator changes while nodes run (limits, thresholds, lists
// of words) from etcd to each node. It knows keys and bytes, not what they mean.
package settings

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/router/etcd"
)

// MaxValue is the longest value in bytes that is looked at.
const MaxValue = 1 << 20

// Config is what Settings need.
type Config struct {
	// Client is the connection to etcd. It stays the caller's, who closes it after the Settings.
	Client *clientv3.Client

	// Prefix is what all keys of the installation begin with; the settings lie below settings/
	// under it. Default: /gochat.
	Prefix string

	// Apply checks a value and puts it in force, or returns an error and leaves in force what
	// was. key is without the prefix. A nil value says that the key was removed: its default holds again. It is
	// called by one goroutine at a time, once for each change as far as this node hears of it (of
	// several changes of a key in a short time it may hear of the last alone), and must not
	// keep value. The error goes into the log: it must not quote what is secret.
	Apply func(key string, value []byte) error

	// Outcome is told of each value that Apply was asked for, with its error. May be nil.
	Outcome func(key string, err error)

	Logger *slog.Logger // nil: none
}

// Settings follow etcd with two goroutines until Close. While etcd is away what was last known stays in force.
type Settings struct {
	cfg     Config
	log     *slog.Logger
	records etcd.Watch
	stop    context.CancelFunc
	done    sync.WaitGroup
	known   map[string]known // by key; of whoever calls the watch's callbacks
	refused atomic.Uint64
	inForce atomic.Int64
}

// known is what was last read of a key. value tells the same revision of a restored etcd apart.
type known struct {
	modified int64
	value    []byte
	applied  bool
}

// Open reads the settings, has each applied, and follows them from then on. It fails when etcd doesn't
// answer before ctx ends; a value that is refused is no reason to fail: the default stays in force.
func Open(ctx context.Context, cfg Config) (*Settings, error) {
	switch {
	case cfg.Client == nil || cfg.Apply == nil:
		return nil, errors.New("settings: a client and Apply are needed")
	case cfg.Prefix == "":
		cfg.Prefix = "/gochat"
	case !strings.HasPrefix(cfg.Prefix, "/"):
		return nil, fmt.Errorf("settings: prefix %q: want one that begins with a slash", cfg.Prefix)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	run, stop := context.WithCancel(context.Background())
	s := &Settings{cfg: cfg, log: cfg.Logger, stop: stop, known: make(map[string]known)}
	s.records = etcd.Watch{Client: cfg.Client, Prefix: Key(cfg.Prefix, ""), Whole: s.whole, Changed: s.changed, Logger: s.log}
	if err := s.records.Read(ctx); err != nil {
		stop()
		return nil, err
	}
	s.done.Go(func() { s.records.Run(run) })
	s.done.Go(func() { s.compare(run) })
	return s, nil
}

// Key returns where in etcd a setting of the installation lies.
func Key(prefix, key string) string { return strings.TrimRight(prefix, "/") + "/settings/" + key }

// Close ends the following. What is in force stays.
func (s *Settings) Close() {
	s.stop()
	s.done.Wait()
}

// Refused counts the values that were refused.
func (s *Settings) Refused() uint64 { return s.refused.Load() }

// Revision returns the revision of etcd that the latest change has which is in force here: nodes that
// follow have the same, but one that was started after a setting was removed doesn't know when that was.
func (s *Settings) Revision() int64 { return s.inForce.Load() }

func (s *Settings) whole(kvs []*mvccpb.KeyValue, rev int64) {
	if rev < s.inForce.Load() {
		s.inForce.Store(0) // another history than the one that we know
	}
	there := make(map[string]bool, len(kvs))
	for _, kv := range kvs {
		there[string(kv.Key)] = true
		s.take(kv)
		if k := s.known[string(kv.Key)]; k.applied {
			s.inForce.Store(max(s.inForce.Load(), k.modified))
		}
	}
	for key := range s.known {
		if !there[key] {
			s.remove(key, rev)
		}
	}
}

func (s *Settings) changed(events []*clientv3.Event) {
	for _, ev := range events {
		if ev.Type == mvccpb.DELETE {
			s.remove(string(ev.Kv.Key), ev.Kv.ModRevision)
		} else {
			s.take(ev.Kv)
		}
	}
}

func (s *Settings) take(kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	if k, ok := s.known[key]; ok && k.modified == kv.ModRevision && bytes.Equal(k.value, kv.Value) {
		return
	}
	var err error
	if len(kv.Value) > MaxValue {
		err = fmt.Errorf("it has %d bytes, more than %d", len(kv.Value), MaxValue)
	}
	applied := s.apply(key, append([]byte{}, kv.Value...), kv.ModRevision, err) // never nil
	s.known[key] = known{kv.ModRevision, bytes.Clone(kv.Value), applied}
}

func (s *Settings) remove(key string, rev int64) {
	if _, ok := s.known[key]; !ok {
		return
	}
	delete(s.known, key)
	s.apply(key, nil, rev, nil)
}

// apply reports whether the value is in force.
func (s *Settings) apply(key string, value []byte, rev int64, err error) bool {
	name := strings.TrimPrefix(key, s.records.Prefix)
	if err == nil {
		err = s.try(name, value)
	}
	if err != nil {
		s.refused.Add(1)
		s.log.Error("a setting from etcd is refused; what was in force stays", "key", name, "bytes", len(value), "revision", rev, "err", err)
	} else {
		s.inForce.Store(max(s.inForce.Load(), rev))
		s.log.Info("a setting from etcd is in force", "key", name, "bytes", len(value), "removed", value == nil, "revision", rev)
	}
	if f := s.cfg.Outcome; f != nil {
		f(name, err)
	}
	return err == nil
}

// try calls Apply. A value that makes it panic would do so on all nodes at once: it is refused like others.
func (s *Settings) try(key string, value []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("checking it panicked: %v", p)
		}
	}()
	return s.cfg.Apply(key, value)
}

// compare looks every few seconds whether etcd's revision went back, which the watch can't notice.
func (s *Settings) compare(ctx context.Context) {
	const every = 3 * time.Second
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		before := s.records.Revision()
		try, cancel := context.WithTimeout(ctx, every)
		r, err := s.cfg.Client.Get(try, s.records.Prefix, clientv3.WithCountOnly())
		cancel()
		if err == nil && s.records.Seen(before, r.Header.Revision) {
			s.log.Warn("etcd's revision went back; the settings are read anew", "was", before, "is", r.Header.Revision)
		}
	}
}
