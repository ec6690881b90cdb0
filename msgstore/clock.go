package msgstore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
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

	// How far above what is asked for a ceiling is stored: those who ask once ask again.
	clockMargin = 2 * time.Second
)

// Clock gives out the node's time, which never runs back: not within the process, not
// over a restart, not when somebody sets the machine's clock. Every time it gives out lies
// below a ceiling that is stored before, and the next process begins at that ceiling.
//
// After a start within seconds of a crash, or after the machine's clock was set back, the
// node's time is ahead of the machine's; it then runs at half speed until they meet.
//
// Each node of a cluster has a ceiling of its own, by its worker number: MessageIDs hold time and
// worker, so whoever has the number next must begin above every time that was used under it. What
// other nodes use doesn't matter.
//
// Row "clock", in a cluster "clock:" and the worker number in decimal: version, the ceiling in Unix ms.
type Clock struct {
	store kv.Store
	keys  Keys
	row   string // its name
	wall  func() time.Time
	log   *slog.Logger

	mu      sync.Mutex
	last    int64     // Unix ms given out last
	seen    time.Time // wall() then
	owed    time.Duration
	ceiling int64
	asked   int64 // by Reserve: a ceiling is to be no lower
}

// ClockConfig says what a Clock runs on.
type ClockConfig struct {
	Store  kv.Store
	Keys   Keys
	Worker uint32           // the node's number, held by no other node; 0: the only node of its store
	Wall   func() time.Time // nil: time.Now
	Logger *slog.Logger     // nil: slog.Default
}

// OpenClock starts the node's time at the machine's, or at the stored ceiling if that is
// later, and stores a new ceiling. A node with a number begins above the row of a store that had
// one node, too: that one had some number.
func OpenClock(ctx context.Context, cfg ClockConfig) (*Clock, error) {
	c := &Clock{store: cfg.Store, keys: cfg.Keys, row: clockRowName, wall: cfg.Wall, log: cfg.Logger}
	if cfg.Worker != 0 {
		c.row = clockRows + strconv.FormatUint(uint64(cfg.Worker), 10)
	}
	if c.wall == nil {
		c.wall = time.Now
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	stored, _, err := c.stored(ctx, c.row)
	if err != nil {
		return nil, err
	}
	if c.row != clockRowName {
		alone, _, err := c.stored(ctx, clockRowName)
		if err != nil {
			return nil, err
		}
		stored = max(stored, alone)
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

// Reserve has a ceiling stored that is no lower than the Unix ms at, and returns the one that
// holds. Whoever uses a time that Now hasn't given out, such as that of a conversation whose last
// message another node stamped with a faster clock, asks before anybody sees it: the next process with
// this node's number begins above it then. Nearly always it reads nothing and writes nothing.
func (c *Clock) Reserve(ctx context.Context, at int64) (ceiling int64, err error) {
	c.mu.Lock()
	ceiling = c.ceiling
	if at > ceiling {
		c.asked = max(c.asked, at+clockMargin.Milliseconds())
	}
	c.mu.Unlock()
	if at <= ceiling {
		return ceiling, nil
	}
	if err := c.raise(ctx); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ceiling, nil
}

// raise stores a ceiling ahead of the time and of the machine's clock.
func (c *Clock) raise(ctx context.Context) error {
	for {
		stored, raw, err := c.stored(ctx, c.row)
		if err != nil {
			return err
		}
		c.mu.Lock()
		ahead := clockAhead
		if c.last > c.seen.UnixMilli() {
			ahead = clockAheadMore
		}
		want := max(max(c.last, c.seen.UnixMilli())+ahead.Milliseconds(), c.asked)
		c.mu.Unlock()
		var commit error
		if stored < want { // else one is further ahead, and serves as well
			var tx kv.Tx
			key := c.keys.StoreRow(nil, c.row)
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

// stored returns the ceiling in the row of that name, 0 if there is none.
func (c *Clock) stored(ctx context.Context, name string) (ms int64, raw []byte, err error) {
	raw, err = c.store.Get(ctx, c.keys.StoreRow(nil, name))
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
