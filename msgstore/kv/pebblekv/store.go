// Package pebblekv is the kv.Store of the embedded node: Pebble in a directory of its own.
//
// Commits from any number of goroutines are gathered in groups: one goroutine judges
// the requirements of each transaction, writes those that hold as one batch with one
// sync, and only then lets readers see them. The store is the only writer of its
// directory, so a requirement is judged against values kept in memory.
//
// Besides its users' keys the directory holds one of the store's own, under FF FF:
// the last stamp given out, written with every group that has stamps.
package pebblekv

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable/block"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// stampKey holds the last stamp, 8 bytes big-endian. Being reserved it is never a user's,
// and it sorts behind all of theirs but other reserved ones.
var stampKey = []byte{0xff, 0xff, 's', 't', 'a', 'm', 'p'}

// reservedFrom is where the keys begin that scans don't show.
var reservedFrom = []byte{0xff, 0xff}

// Store is a kv.Store on Pebble.
type Store struct {
	cfg   Config
	log   *slog.Logger
	lock  *pebble.Lock
	db    *pebble.DB
	views *views
	queue queue
	group group // the committing goroutine's

	recovery   chan error   // the first failure of background work
	complained atomic.Int64 // Unix ns of the last log line about it

	fatal  atomic.Pointer[fatalError]
	totals totals
}

type fatalError struct{ err error }

// Open opens the store in c.Dir, recovering what was committed. Whoever opened it closes it.
func Open(c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	if !c.ReadOnly {
		if err := c.FS.MkdirAll(c.Dir, 0o755); err != nil {
			return nil, fmt.Errorf("make directory of the store: %w", err)
		}
	} else if _, err := c.FS.Stat(c.Dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	lock, err := pebble.LockDirectory(c.Dir, c.FS)
	if err != nil {
		return nil, fmt.Errorf("lock directory %s (does another process use it?): %w", c.Dir, err)
	}
	s := &Store{cfg: c, log: c.Logger.With("component", "pebblekv"), lock: lock}
	if err := s.open(); errors.Is(err, errRecovery) { // the engine goes on trying: the lock stays
		return nil, fmt.Errorf("open store in %s: %w", c.Dir, err)
	} else if err != nil {
		return nil, errors.Join(fmt.Errorf("open store in %s: %w", c.Dir, err), lock.Close())
	}
	return s, nil
}

func (s *Store) open() (err error) {
	if s.db, err = s.openEngine(); err != nil {
		return err
	}
	stamp, err := s.readStamp()
	if err != nil {
		return errors.Join(err, s.db.Close())
	}
	s.views = newViews(s.db.NewSnapshot())
	s.group = newGroup(s, stamp)
	return nil
}

// openEngine opens the engine, which writes what its log holds to tables first. It tries
// that again and again without end when it fails, for want of space above all: the first
// failure ends the opening, and the process had better end, too.
func (s *Store) openEngine() (*pebble.DB, error) {
	if !s.cfg.ReadOnly {
		need := uint64(s.cfg.MemTableBytes)
		if usage, err := s.cfg.FS.GetDiskUsage(s.cfg.Dir); err == nil && usage.AvailBytes < need {
			return nil, fmt.Errorf("the disk has %d bytes left, and recovery may take %d (storage.memtable): %w", usage.AvailBytes, need, kv.ErrFull)
		}
	}
	type opened struct {
		db  *pebble.DB
		err error
	}
	done := make(chan opened, 1)
	s.recovery = make(chan error, 1)
	go func() {
		db, err := pebble.Open(s.cfg.Dir, s.options())
		done <- opened{db, err}
	}()
	select {
	case o := <-done:
		return o.db, o.err
	case err := <-s.recovery:
		return nil, fmt.Errorf("%w: %w", errRecovery, err)
	}
}

var errRecovery = errors.New("recovery")

// background hears of every failure of the engine's own work, which it tries again at once.
func (s *Store) background(err error) {
	select {
	case s.recovery <- err: // heard while opening
	default:
	}
	now := time.Now().UnixNano()
	if last := s.complained.Load(); now-last > int64(complainEvery) && s.complained.CompareAndSwap(last, now) {
		s.log.Error("background work failed and is tried again", "err", err.Error()) // without the stack that it carries
	}
}

const complainEvery = 5 * time.Second

// options are Pebble's for our load: many small rows written once, a few rewritten all
// the time, reads mostly of what was written last.
func (s *Store) options() *pebble.Options {
	o := &pebble.Options{
		FS:                 logFS{FS: s.cfg.FS, fail: s.fail},
		Lock:               s.lock,
		ReadOnly:           s.cfg.ReadOnly,
		Logger:             &engineLog{log: s.log, fail: s.fail},
		CacheSize:          s.cfg.CacheBytes,
		MaxOpenFiles:       s.cfg.MaxOpenFiles,
		FormatMajorVersion: pebble.FormatNewest,

		// Large memtables are flushed seldom, and heads that were rewritten a hundred times in one are written once.
		MemTableSize:                uint64(s.cfg.MemTableBytes),
		MemTableStopWritesThreshold: 4,

		// Tables gather before they are compacted, which makes each compaction rewrite less of what is
		// there, and a burst may run ahead of them: reads then look into more tables, most of
		// which their bloom filters rule out, and that costs less than senders who wait.
		L0CompactionThreshold: 12,
		L0StopWritesThreshold: 1000,
		LBaseMaxBytes:         256 << 20,
		CompactionConcurrencyRange: func() (int, int) {
			return 1, 2
		},

		// Every commit syncs the log, and as soon as the one before is through: no
		// smaller steps in between (WALBytesPerSync) and no pause (WALMinSyncInterval).
		WALBytesPerSync:    0,
		WALMinSyncInterval: nil,
	}
	o.TargetFileSizes[0] = 8 << 20
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].BlockSize = 16 << 10
		o.Levels[i].IndexBlockSize = 128 << 10
	}
	// What a flush writes is soon written again by a compaction, which compresses it.
	o.Levels[0].Compression = func() *block.CompressionProfile { return block.NoCompression }
	// Row blocks cost about a tenth less CPU an append than columnar ones, which Pebble would
	// write by itself at this format; each table says which it has, so this may change.
	o.Experimental.EnableColumnarBlocks = func() bool { return false }
	o.Experimental.ReadSamplingMultiplier = -1 // no compactions because of reads
	o.EventListener = &pebble.EventListener{
		BackgroundError: s.background,
		WriteStallBegin: func(i pebble.WriteStallBeginInfo) {
			s.totals.stalls.Add(1)
			s.log.Warn("commits wait for the engine", "reason", i.Reason)
		},
	}
	return o
}

func (s *Store) readStamp() (uint64, error) {
	v, closer, err := s.db.Get(stampKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read last stamp: %w", err)
	}
	defer closer.Close()
	if len(v) != kv.StampLen {
		return 0, fmt.Errorf("last stamp is %d bytes long instead of %d", len(v), kv.StampLen)
	}
	return binary.BigEndian.Uint64(v), nil
}

// fail ends the store: nothing more is committed.
func (s *Store) fail(err error) {
	if s.fatal.CompareAndSwap(nil, &fatalError{err}) {
		s.log.Error("the store can't go on", "dir", s.cfg.Dir, "err", err)
		s.cfg.OnFatal(err)
	}
}

// read runs fn on what is durable now.
func (s *Store) read(ctx context.Context, what string, fn func(snap *pebble.Snapshot) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	v, err := s.views.acquire()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer s.views.release(v)
	return fn(v.snap)
}

// Get returns a copy of key's value, nil if it has none.
func (s *Store) Get(ctx context.Context, key []byte) (value []byte, err error) {
	err = s.read(ctx, "get", func(snap *pebble.Snapshot) error {
		value, err = get(snap, key)
		return err
	})
	return value, err
}

// MultiGet returns copies of the values of keys as of one moment.
func (s *Store) MultiGet(ctx context.Context, keys [][]byte) ([][]byte, error) {
	values := make([][]byte, len(keys))
	err := s.read(ctx, "multi-get", func(snap *pebble.Snapshot) (err error) {
		for i, k := range keys {
			if values[i], err = get(snap, k); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return values, nil
}

type getter interface {
	Get(key []byte) ([]byte, io.Closer, error)
}

func get(r getter, key []byte) ([]byte, error) {
	if len(key) == 0 || kv.Reserved(key) {
		return nil, nil
	}
	v, closer, err := r.Get(key)
	if err != nil {
		if errors.Is(err, pebble.ErrNotFound) {
			return nil, nil
		}
		return nil, fmt.Errorf("get %x: %w", key, err)
	}
	out := bytes.Clone(v)
	if err := closer.Close(); err != nil {
		return nil, fmt.Errorf("get %x: %w", key, err)
	}
	return out, nil
}

// Stamps tells that SetStamped works here.
func (s *Store) Stamps() bool { return true }

// Checkpoint writes a copy of the store as it is now into dir, which must not exist. In the
// same file system its tables are linked, elsewhere they are copied. It is a store that Open takes.
func (s *Store) Checkpoint(dir string) error {
	v, err := s.views.acquire() // keeps Close away
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	defer s.views.release(v)
	if err := s.db.Checkpoint(dir, pebble.WithFlushedWAL()); err != nil {
		return fmt.Errorf("checkpoint into %s: %w", dir, err)
	}
	return nil
}

// Close ends the store when the commits and reads that are under way have ended. After a
// failure that the engine couldn't go on after, the directory stays locked until the
// process ends, since what is left of the engine may still write there.
func (s *Store) Close() error {
	if !s.queue.close() {
		return kv.ErrClosed
	}
	if s.fatal.Load() != nil { // Pebble's own locks may be held for good
		s.views.refuse()
		return nil
	}
	s.views.close()
	err := errors.Join(s.group.batch.Close(), s.group.stamps.Close(), s.db.Close(), s.lock.Close())
	if err != nil {
		return fmt.Errorf("close store in %s: %w", s.cfg.Dir, err)
	}
	return nil
}

var _ kv.Store = (*Store)(nil)
