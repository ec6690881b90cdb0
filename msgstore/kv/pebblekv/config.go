package pebblekv

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Config configures a Store. Zero values mean the defaults.
type Config struct {
	// Dir is the directory of the store; it is made if it doesn't exist (its parents too). The store is its only user.
	Dir string

	// FS is the file system that Dir lies in; nil: the machine's.
	FS vfs.FS

	// Logger; nil: slog.Default().
	Logger *slog.Logger

	// ReadOnly opens an existing store for reading alone and changes nothing in Dir.
	ReadOnly bool

	// CacheBytes is the size of the cache of table blocks; 0: 64 MiB.
	CacheBytes int64

	// MemTableBytes is the size at which what was committed moves from memory (and the
	// log) to tables; 0: 64 MiB. Up to four of this size exist under load. Smaller ones are
	// flushed too often: each flush costs rewriting what lies below.
	MemTableBytes int

	// MaxOpenFiles bounds the table files that are kept open; 0: 512.
	MaxOpenFiles int

	// RecentKeys is for how many required keys the latest value is kept, so that the
	// next transaction that requires one costs no read; 0: 65,536, at 392 bytes each once used.
	RecentKeys int

	// DiskReserve is the free space in bytes of Dir's file system below which
	// transactions without Frees get kv.ErrFull; 0: 256 MiB, negative: not watched.
	DiskReserve int64

	// OnFatal is called once when the engine met an error that it can't go on after: a
	// failed write or sync of its log, a damaged manifest. What was being committed is undetermined
	// then, and so is every later commit. Only a restart, which recovers from the log, finds out.
	// Nil: os.Exit(3), after the error was logged. If it returns, the engine's goroutine that met the error ends.
	OnFatal func(error)

	// Observe is told what happens; nil functions are not called.
	Observe Observe
}

// Observe are callbacks from the committing goroutine: commits wait while one runs.
type Observe struct {
	// Group is called after each group of transactions that was written with one sync.
	Group func(Group)

	// Full is called when free space falls below the reserve, and when it is back.
	Full func(full bool, freeBytes uint64)
}

// Group tells about one group commit.
type Group struct {
	Txs       int // stored
	Conflicts int
	Refused   int           // for all other reasons
	Bytes     int           // written to the log
	Prepare   time.Duration // judging and encoding
	Apply     time.Duration // handing to the log, filling the memtable
	Sync      time.Duration // waiting for the disk after that
}

// Validate returns the first thing that is wrong with the configuration.
func (c *Config) Validate() error {
	switch {
	case c.Dir == "":
		return errors.New("pebblekv: Dir is empty")
	case c.CacheBytes < 0:
		return fmt.Errorf("pebblekv: CacheBytes is negative: %d", c.CacheBytes)
	case c.MemTableBytes < 0 || c.MemTableBytes > 1<<30:
		return fmt.Errorf("pebblekv: MemTableBytes must be at most 1 GiB: %d", c.MemTableBytes)
	case c.MaxOpenFiles < 0:
		return fmt.Errorf("pebblekv: MaxOpenFiles is negative: %d", c.MaxOpenFiles)
	case c.RecentKeys < 0 || c.RecentKeys > 1<<24:
		return fmt.Errorf("pebblekv: RecentKeys must be at most 16,777,216: %d", c.RecentKeys)
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = 64 << 20
	}
	if c.MemTableBytes == 0 {
		c.MemTableBytes = 64 << 20
	}
	if c.MaxOpenFiles == 0 {
		c.MaxOpenFiles = 512
	}
	if c.RecentKeys == 0 {
		c.RecentKeys = 1 << 16
	}
	if c.DiskReserve == 0 {
		c.DiskReserve = 256 << 20
	}
	if c.OnFatal == nil {
		c.OnFatal = func(error) { os.Exit(3) }
	}
	return c
}
