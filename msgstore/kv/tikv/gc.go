package tikv

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tikv/client-go/v2/config"
	"github.com/tikv/client-go/v2/oracle"
	clienttikv "github.com/tikv/client-go/v2/tikv"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// ErrOtherCollector: somebody else, a TiDB, collects the garbage of this cluster, wrapped with who it is. It
// must stay the only one: what it still reads is unknown here.
var ErrOtherCollector = errors.New("tikv: somebody else collects the cluster's garbage")

// TiKV keeps every version of every value until it is told up to when nobody reads the past any more, the safe
// point. PD keeps that, and servers drop older versions when they compact. Without a TiDB nobody moves it.
const (
	// gcPrefix is where in PD's etcd this store's own safe point lies, under the name that the client knows: its
	// readers refuse to go on at a timestamp below it, instead of missing what was dropped.
	gcPrefix    = "/gochat"
	gcSafePoint = gcPrefix + clienttikv.GcSavedSafePoint
)

// Where a TiDB tells PD's etcd and PD of itself.
var tidbKeys = []string{"/tidb/server/info/", "/topology/tidb/", clienttikv.GcSavedSafePoint}

const tidbService = "gc_worker"

// GCConfig configures RunGC. Zero values mean the defaults.
type GCConfig struct {
	// Leader tells whether this process is the one that collects now. Not nil. Two that do at once harm
	// nobody: the safe point only rises, and both keep Retain. They only do the work twice.
	Leader func(ctx context.Context) bool

	// Every is how often; 0: 10 minutes.
	Every time.Duration

	// Retain is for how long old versions stay, which bounds how long a Scan or View may take; 0: 1 hour, at least 10 minutes.
	Retain time.Duration
}

func (c GCConfig) withDefaults() (GCConfig, error) {
	if c.Every == 0 {
		c.Every = 10 * time.Minute
	}
	if c.Retain == 0 {
		c.Retain = time.Hour
	}
	switch {
	case c.Leader == nil:
		return c, errors.New("tikv: Leader is nil")
	case c.Every < 0:
		return c, fmt.Errorf("tikv: Every is negative: %v", c.Every)
	case c.Retain < minRetain:
		return c, fmt.Errorf("tikv: Retain must be at least %v: %v", minRetain, c.Retain)
	}
	return c, nil
}

const minRetain = 10 * time.Minute

// RunGC collects garbage again and again, while this process is the leader, until ctx ends (nil) or the store is
// closed (kv.ErrClosed). Failures are logged, and tried again the next time; so is that the cluster has another collector
// (ErrOtherCollector): somebody has to see to that, while everything else goes on.
func (s *Store) RunGC(ctx context.Context, c GCConfig) error {
	c, err := c.withDefaults()
	if err != nil {
		return err
	}
	tick := time.NewTicker(c.Every)
	defer tick.Stop()
	for {
		if c.Leader(ctx) {
			point, err := s.CollectGarbage(ctx, c.Retain)
			switch {
			case errors.Is(err, kv.ErrClosed):
				return err
			case errors.Is(err, ErrOtherCollector):
				s.log.Error("garbage is not collected, and must not be by somebody else", "err", err)
			case err != nil && ctx.Err() == nil:
				s.log.Warn("garbage was not collected", "err", err)
			case err == nil:
				s.log.Debug("garbage collected", "safe_point", point)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// CollectGarbage moves the safe point to retain (at least 10 minutes) before now, after it ended the transactions that
// began before and never did, and returns it. Whoever holds it back in PD, as a backup does, is heeded. It takes
// seconds for each million regions.
func (s *Store) CollectGarbage(ctx context.Context, retain time.Duration) (point time.Time, err error) {
	if !s.inside.enter() {
		return time.Time{}, fmt.Errorf("collect garbage: %w", kv.ErrClosed)
	}
	defer s.inside.leave()
	s.totals.garbageRuns.Add(1)
	if point, err = s.collect(ctx, max(retain, minRetain)); err != nil {
		s.totals.garbageFailures.Add(1)
		return time.Time{}, fmt.Errorf("collect garbage: %w", err)
	}
	s.totals.safePoint.Store(uint64(point.UnixMilli()))
	return point, nil
}

func (s *Store) collect(ctx context.Context, retain time.Duration) (time.Time, error) {
	now, err := s.timestamp(ctx)
	if err != nil {
		return time.Time{}, err
	}
	target := oracle.GoTimeToTS(oracle.GetTimeFromTS(now).Add(-retain))
	etcd, err := s.etcd()
	if err != nil {
		return time.Time{}, err
	}
	defer etcd.Close()
	ours, err := readSafePoint(ctx, etcd)
	if err != nil {
		return time.Time{}, err
	}
	if target, err = s.allowed(ctx, etcd, ours.ts, target); err != nil {
		return time.Time{}, err
	}
	if target > ours.ts {
		if err := ours.raise(ctx, etcd, target); err != nil {
			return time.Time{}, err
		}
	} else {
		target = ours.ts // PD may not have got it
	}
	if target == 0 {
		return time.Time{}, errors.New("a service holds PD's safe point at the beginning")
	}
	// Readers know; what they refuse from now on may go.
	got, err := s.client.GC(ctx, target)
	if err != nil {
		return time.Time{}, fmt.Errorf("end old transactions and move PD's safe point: %w", err)
	}
	if got > target {
		return time.Time{}, fmt.Errorf("%w: PD's safe point is at %v, which nobody here set", ErrOtherCollector, oracle.GetTimeFromTS(got))
	}
	return oracle.GetTimeFromTS(target), nil
}

// etcd opens PD's own, where servers of the cluster tell of themselves.
func (s *Store) etcd() (*clientv3.Client, error) {
	security := config.GetGlobalConfig().Security
	tlsConfig, err := security.ToTLSConfig()
	if err != nil {
		return nil, fmt.Errorf("TLS files: %w", err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: s.cfg.PD, TLS: tlsConfig, DialTimeout: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("reach PD's etcd: %w", err)
	}
	return c, nil
}

// savedPoint is the store's own safe point as it was read.
type savedPoint struct {
	ts       uint64 // 0: none
	revision int64  // of its row in etcd
}

func readSafePoint(ctx context.Context, etcd *clientv3.Client) (savedPoint, error) {
	res, err := etcd.Get(ctx, gcSafePoint)
	if err != nil {
		return savedPoint{}, fmt.Errorf("read safe point: %w", err)
	}
	if len(res.Kvs) == 0 {
		return savedPoint{}, nil
	}
	row := res.Kvs[0]
	ts, err := strconv.ParseUint(string(row.Value), 10, 64)
	if err != nil {
		return savedPoint{}, fmt.Errorf("read safe point: %w", err)
	}
	return savedPoint{ts: ts, revision: row.ModRevision}, nil
}

// raise stores a later one, unless somebody else stored one since it was read: whoever was stopped in between must not lower it.
func (p savedPoint) raise(ctx context.Context, etcd *clientv3.Client, ts uint64) error {
	res, err := etcd.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(gcSafePoint), "=", p.revision)).
		Then(clientv3.OpPut(gcSafePoint, strconv.FormatUint(ts, 10))).Commit()
	if err != nil {
		return fmt.Errorf("store safe point: %w", err)
	}
	if !res.Succeeded {
		return errors.New("another process moved the safe point meanwhile")
	}
	return nil
}

// allowed returns how far towards target the safe point may go, or ErrOtherCollector.
func (s *Store) allowed(ctx context.Context, etcd *clientv3.Client, ours, target uint64) (uint64, error) {
	for _, prefix := range tidbKeys {
		res, err := etcd.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithLimit(1), clientv3.WithKeysOnly())
		if err != nil {
			return 0, fmt.Errorf("look for a TiDB: %w", err)
		}
		if len(res.Kvs) > 0 {
			return 0, fmt.Errorf("%w: a TiDB, by its key %q in PD's etcd", ErrOtherCollector, res.Kvs[0].Key)
		}
	}
	api := s.client.GetPDHTTPClient()
	if api == nil {
		return 0, errors.New("no HTTP client of PD")
	}
	points, err := api.GetGCSafePoint(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the safe points of PD: %w", err)
	}
	if points.GCSafePoint > ours {
		return 0, fmt.Errorf("%w: PD's safe point is at %v, which nobody here set", ErrOtherCollector, oracle.GetTimeFromTS(points.GCSafePoint))
	}
	for _, p := range points.ServiceGCSafepoints {
		switch {
		case p.ServiceID == tidbService && p.SafePoint > 0:
			return 0, fmt.Errorf("%w: service %q of PD, a TiDB's", ErrOtherCollector, p.ServiceID)
		case p.ServiceID == tidbService || strings.HasPrefix(p.ServiceID, tidbService+"@"): // PD's own placeholder
		case p.ExpiredAt > time.Now().Unix():
			if p.SafePoint < target {
				s.log.Info("a service holds garbage collection back", "service", p.ServiceID, "at", oracle.GetTimeFromTS(p.SafePoint))
			}
			target = min(target, p.SafePoint)
		}
	}
	return target, nil
}
