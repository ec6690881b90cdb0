package msgstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// How far ahead of the time the clock's ceiling is stored, how often Run looks, and how
// little may be left before it stores another one. Well ahead, so that a store that is
// slow for seconds does not stop time.
const (
	clockAhead  = 10 * time.Second
	clockPeriod = 500 * time.Millisecond
	clockLeft   = 6 * time.Second

	// A clock that is ahead already, after a crash, goes less far: a server that crashes again
	// and again must not run away from the machine's time.
	clockAheadMore = 2 * time.Second
	clockLeftMore  = time.Second

	// Further ahead than this, a start waits as long as the crash before it may have gained.
	clockDrift = 30 * time.Second
)

// Clock gives out the node's time, which never runs back: not within the process, not
// over a restart, not when somebody sets the machine's clock. Every time it gives out lies
// below a ceiling that is stored before, and the next process begins at that ceiling.
//
// After a start within seconds of a crash, or after the machine's clock was set back, the
// node's time is ahead of the machine's; it then runs at half speed until they meet.
//
// Row "clock": version, the ceiling in Unix ms.
type Clock struct {
	store kv.Store
	keys  Keys
	wall  func() time.Time
	log   *slog.Logger

	mu      sync.Mutex
	last    int64     // Unix ms given out last
	seen    time.Time // wall() then
	owed    time.Duration
	ceiling int64
}

// ClockConfig says what a Clock runs on.
type ClockConfig struct {
	Store  kv.Store
	Keys   Keys
	Wall   func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default
}

// OpenClock starts the node's time at the machine's, or at the stored ceiling if that is
// later, and stores a new ceiling.
func OpenClock(ctx context.Context, cfg ClockConfig) (*Clock, error) {
	c := &Clock{store: cfg.Store, keys: cfg.Keys, wall: cfg.Wall, log: cfg.Logger}
	if c.wall == nil {
		c.wall = time.Now
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	stored, _, err := c.stored(ctx)
	if err != nil {
		return nil, err
	}
	if d := time.Duration(stored-c.wall().UnixMilli()) * time.Millisecond; d > clockDrift {
		c.log.Warn("clock: the stored time is ahead of the machine's", "by", d)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(min(d-clockDrift, clockAheadMore)):
		}
	}
	c.seen = c.wall()
	c.last = max(c.seen.UnixMilli(), stored)
	c.ceiling = c.last
	if err := c.raise(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Now returns the node's time in Unix milliseconds, never less than before. While no
// ceiling can be stored it stands still in the end. Safe for concurrent use.
func (c *Clock) Now() int64 {
	now := c.wall()
	c.mu.Lock()
	defer c.mu.Unlock()
	if ms := now.UnixMilli(); ms >= c.last {
		c.last, c.owed = ms, 0
	} else if d := now.Sub(c.seen); d > 0 { // by the monotonic clock
		c.owed += d
		step := c.owed.Milliseconds() / 2
		c.last += step
		c.owed -= time.Duration(2*step) * time.Millisecond
	}
	c.seen = now
	c.last = min(c.last, c.ceiling)
	return c.last
}

// Run keeps a ceiling stored ahead of the time until ctx ends.
func (c *Clock) Run(ctx context.Context) error {
	tick := time.NewTicker(clockPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := c.renew(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("clock: no later ceiling could be stored; time stops at the last one", "err", err)
		}
	}
}

// renew stores a new ceiling if little is left below the old one.
func (c *Clock) renew(ctx context.Context) error {
	now := c.Now()
	c.mu.Lock()
	left, enough := c.ceiling-max(now, c.seen.UnixMilli()), clockLeft
	if now > c.seen.UnixMilli() {
		enough = clockLeftMore
	}
	c.mu.Unlock()
	if left > enough.Milliseconds() {
		return nil
	}
	return c.raise(ctx)
}

// raise stores a ceiling ahead of the time and of the machine's clock.
func (c *Clock) raise(ctx context.Context) error {
	for {
		stored, raw, err := c.stored(ctx)
		if err != nil {
			return err
		}
		c.mu.Lock()
		ahead := clockAhead
		if c.last > c.seen.UnixMilli() {
			ahead = clockAheadMore
		}
		want := max(c.last, c.seen.UnixMilli()) + ahead.Milliseconds()
		c.mu.Unlock()
		var commit error
		if stored < want { // else another node's is further ahead, and serves as well
			var tx kv.Tx
			key := c.keys.StoreRow(nil, clockRowName)
			tx.Frees = true // reading goes on where there is no room for messages
			tx.Require(key, raw)
			tx.Set(key, binary.AppendUvarint([]byte{rowVersion}, uint64(want)))
			c.store.Commit(ctx, &tx)
			commit = tx.Err
		}
		switch {
		case commit == nil:
			c.mu.Lock()
			c.ceiling = max(c.ceiling, want)
			c.mu.Unlock()
			return nil
		case errors.Is(commit, kv.ErrConflict), errors.Is(commit, kv.ErrUndetermined):
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("store clock's ceiling: %w", err)
			}
		default:
			return fmt.Errorf("store clock's ceiling: %w", commit)
		}
	}
}

// stored returns the stored ceiling, 0 if there is none.
func (c *Clock) stored(ctx context.Context) (ms int64, raw []byte, err error) {
	raw, err = c.store.Get(ctx, c.keys.StoreRow(nil, clockRowName))
	if err == nil && raw != nil {
		ms, err = parseClock(raw)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("read clock's ceiling: %w", err)
	}
	return ms, raw, nil
}

func parseClock(b []byte) (int64, error) {
	r := reader{b: b}
	r.version()
	ms := r.time()
	if err := r.end(); err != nil {
		return 0, fmt.Errorf("clock row: %w", err)
	}
	return ms, nil
}
