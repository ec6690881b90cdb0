package tikv

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// Config configures a Store. Zero values mean the defaults.
type Config struct {
	// PD are the addresses of the placement drivers, host:port.
	PD []string

	// Keyspace is the name of one of TiKV's keyspaces, which must exist and needs API V2 of
	// the TiKV servers; empty: the cluster's plain keys (API V1). Installations that share a cluster without
	// keyspaces are told apart by their keys, see msgstore.Keys.
	Keyspace string

	// TLS are the files by which this process and the cluster know each other.
	TLS TLS

	// Logger takes what the store and the client's library have to say; nil: slog.Default().
	// The library logs through one logger of the whole process: that of the store opened last.
	Logger *slog.Logger

	// GroupTxs and GroupBytes bound the transactions of one region that are committed as one:
	// their number, and their keys and values in bytes. A larger transaction stands alone.
	// 0: 256 and 512 KiB; at most kv.MaxTx.
	GroupTxs, GroupBytes int

	// Parallel is how many groups are committed at the same time, each of a region of its own; 0: 32.
	Parallel int

	// CommitTimeout is for how long the store tries to decide a group, once it has begun; what is not
	// decided then is kv.ErrUndetermined, or kv.ErrUnavailable if its writing hadn't begun. 0: 15 s.
	CommitTimeout time.Duration

	// RegionsPerStore is into how many regions a TiKV server PreSplit cuts; more regions make
	// smaller groups. 0: 4.
	RegionsPerStore int

	// Breaker says when operations are refused because the store doesn't answer.
	Breaker Breaker

	// Observe is told what happens; nil functions are not called.
	Observe Observe
}

// TLS names PEM files; all three or none. The client's library has one set for the whole process.
type TLS struct {
	CA, Cert, Key string
}

// Observe are callbacks from the committing goroutines, several at once: the transactions of a region wait while one runs.
type Observe struct {
	// Group is called after each group that was stored.
	Group func(Group)
}

// Mode is how a group was committed.
type Mode string

// What client-go calls them.
const (
	OnePhase Mode = "1pc"          // one round trip
	Async    Mode = "async_commit" // prewritten everywhere, committed behind the caller's back
	TwoPhase Mode = "2pc"
)

// Group tells about one commit.
type Group struct {
	Txs       int // stored by it
	Conflicts int // transactions whose requirements didn't hold
	Bytes     int // keys and values of the stored
	Mode      Mode
	Read      time.Duration // getting a timestamp and what is required
	Commit    time.Duration
}

// Validate returns the first thing that is wrong with the configuration.
func (c *Config) Validate() error {
	tls := 0
	for _, f := range []string{c.TLS.CA, c.TLS.Cert, c.TLS.Key} {
		if f != "" {
			tls++
		}
	}
	switch {
	case len(c.PD) == 0:
		return errors.New("tikv: PD names no address")
	case tls != 0 && tls != 3:
		return errors.New("tikv: TLS needs all of CA, Cert and Key")
	}
	for _, a := range c.PD {
		if a == "" {
			return errors.New("tikv: PD has an empty address")
		}
	}
	return c.validateLimits()
}

func (c *Config) validateLimits() error {
	switch {
	case c.GroupTxs < 0 || c.GroupTxs > 1<<16:
		return fmt.Errorf("tikv: GroupTxs must be at most 65,536: %d", c.GroupTxs)
	case c.GroupBytes < 0 || c.GroupBytes > kv.MaxTx:
		return fmt.Errorf("tikv: GroupBytes must be at most %d: %d", kv.MaxTx, c.GroupBytes)
	case c.Parallel < 0 || c.Parallel > 1<<12:
		return fmt.Errorf("tikv: Parallel must be at most 4,096: %d", c.Parallel)
	case c.CommitTimeout < 0:
		return fmt.Errorf("tikv: CommitTimeout is negative: %v", c.CommitTimeout)
	case c.RegionsPerStore < 0 || c.RegionsPerStore > 64:
		return fmt.Errorf("tikv: RegionsPerStore must be at most 64: %d", c.RegionsPerStore)
	case c.Breaker.Patience < 0 || c.Breaker.Open < 0:
		return fmt.Errorf("tikv: Breaker has a negative time: %+v", c.Breaker)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.GroupTxs == 0 {
		c.GroupTxs = 256
	}
	if c.GroupBytes == 0 {
		c.GroupBytes = 512 << 10
	}
	if c.Parallel == 0 {
		c.Parallel = 32
	}
	if c.CommitTimeout == 0 {
		c.CommitTimeout = 15 * time.Second
	}
	if c.RegionsPerStore == 0 {
		c.RegionsPerStore = 4
	}
	c.Breaker = c.Breaker.withDefaults()
	return c
}
