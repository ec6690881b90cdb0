package pebblekv_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/kvtest"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
)

// open opens a store that a failing engine doesn't end the test process with, and closes it after the test.
func open(t testing.TB, c pebblekv.Config) *pebblekv.Store {
	t.Helper()
	if c.OnFatal == nil {
		c.OnFatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s, err := pebblekv.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && !errors.Is(err, kv.ErrClosed) {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestConformance(t *testing.T) {
	t.Run("InMemory", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) kv.Store {
			return open(t, pebblekv.Config{Dir: "store", FS: vfs.NewMem()})
		})
	})
	t.Run("OnDisk", func(t *testing.T) {
		kvtest.Run(t, func(t *testing.T) kv.Store {
			return open(t, pebblekv.Config{Dir: t.TempDir()})
		})
	})
	t.Run("Tight", func(t *testing.T) { // flushes, evictions and giant batches all the time
		kvtest.Run(t, func(t *testing.T) kv.Store {
			return open(t, pebblekv.Config{Dir: "store", FS: vfs.NewMem(), MemTableBytes: 256 << 10, RecentKeys: 8, CacheBytes: 1 << 20})
		})
	})
}

func TestModel(t *testing.T) {
	seed := func() uint64 { return uint64(time.Now().UnixNano()) }
	for _, c := range []struct {
		name   string
		config pebblekv.Config
		steps  int
	}{
		{"Roomy", pebblekv.Config{}, 3000},
		{"Tight", pebblekv.Config{MemTableBytes: 64 << 10, RecentKeys: 8, CacheBytes: 1 << 20}, 3000},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.config.Dir, c.config.FS = "store", vfs.NewMem()
			kvtest.Model(t, open(t, c.config), c.steps, seed)
		})
	}
}

// TestRestart: what was committed is there again, stamps go on, and the store's own row stays out of sight.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	var last uint64
	for round := range 4 {
		s := open(t, pebblekv.Config{Dir: dir})
		for i := range 3 {
			tx := setter(fmt.Sprintf("%d/%d", round, i), "1")
			tx.SetStamped([]byte("log/"), []byte("1"))
			if s.Commit(ctx, tx); tx.Err != nil || tx.Stamp != last+1 {
				t.Fatalf("round %d: %v, stamp %d after %d", round, tx.Err, tx.Stamp, last)
			}
			last = tx.Stamp
			drop := new(kv.Tx) // a trimmed log must not make stamps begin anew
			drop.Delete(binary.BigEndian.AppendUint64([]byte("log/"), last))
			if s.Commit(ctx, drop); drop.Err != nil {
				t.Fatal(drop.Err)
			}
		}
		n := 0
		if err := s.Scan(ctx, kv.Span{}, func(k, v []byte) (bool, error) { n++; return true, nil }); err != nil || n != 3*(round+1) {
			t.Errorf("round %d: %d pairs, %v", round, n, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	s := open(t, pebblekv.Config{Dir: dir})
	for _, readOnly := range []bool{false, true} {
		_, err := pebblekv.Open(pebblekv.Config{Dir: dir, ReadOnly: readOnly})
		if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "another process") {
			t.Errorf("second open, read-only %v: %v", readOnly, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	open(t, pebblekv.Config{Dir: dir})
}

// TestCheckpoint copies a store under load; the copy holds everything committed before, and nothing in half.
func TestCheckpoint(t *testing.T) {
	root := t.TempDir()
	s := open(t, pebblekv.Config{Dir: filepath.Join(root, "live"), MemTableBytes: 256 << 10})
	var wg sync.WaitGroup
	var committed atomic.Int64
	stop := make(chan struct{})
	wg.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			tx := setter("x", fmt.Sprint(i))
			tx.Set([]byte("y"), fmt.Append(nil, i))
			tx.Set(fmt.Appendf(nil, "row%06d", i), bytes.Repeat([]byte("x"), 1000))
			if s.Commit(ctx, tx); tx.Err != nil {
				t.Error(tx.Err)
				return
			}
			committed.Store(int64(i))
		}
	})
	for round := range 3 {
		dir := filepath.Join(root, fmt.Sprint("copy", round))
		for committed.Load() < int64(100*(round+1)) {
			runtime.Gosched()
		}
		before := committed.Load()
		if err := s.Checkpoint(dir); err != nil {
			t.Fatal(err)
		}
		c := open(t, pebblekv.Config{Dir: dir, ReadOnly: round > 0})
		x, y := read(t, c, "x"), read(t, c, "y")
		n, err := strconv.ParseInt(x, 10, 64)
		if err != nil || x != y || n < before {
			t.Errorf("x=%s y=%s in a copy made after %d", x, y, before)
		}
		rows := int64(0)
		if err := c.Scan(ctx, kv.Span{Start: []byte("row"), End: []byte("rox")}, func(k, v []byte) (bool, error) { rows++; return true, nil }); err != nil || rows != n {
			t.Errorf("%d rows of %d, %v", rows, n, err)
		}
		if err := s.Checkpoint(dir); err == nil {
			t.Error("a checkpoint went into a directory that exists")
		}
	}
	close(stop)
	wg.Wait()
}

func TestReadOnly(t *testing.T) {
	fs := vfs.NewMem()
	if _, err := pebblekv.Open(pebblekv.Config{Dir: "store", FS: fs, ReadOnly: true}); err == nil {
		t.Error("opened what doesn't exist for reading")
	}
	s := open(t, pebblekv.Config{Dir: "store", FS: fs})
	s.Commit(ctx, setter("a", "1"))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, pebblekv.Config{Dir: "store", FS: fs, ReadOnly: true})
	if read(t, s, "a") != "1" {
		t.Error("can't read")
	}
	tx := setter("a", "2")
	if s.Commit(ctx, tx); !errors.Is(tx.Err, kv.ErrUnavailable) {
		t.Errorf("commit: %v", tx.Err)
	}
}

func TestOpenErrors(t *testing.T) {
	for _, c := range []pebblekv.Config{
		{},
		{Dir: "x", CacheBytes: -1},
		{Dir: "x", MemTableBytes: -1},
		{Dir: "x", MaxOpenFiles: -1},
		{Dir: "x", RecentKeys: -1},
	} {
		if _, err := pebblekv.Open(c); err == nil || !strings.HasPrefix(err.Error(), "pebblekv: ") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pebblekv.Open(pebblekv.Config{Dir: file}); err == nil {
		t.Error("opened a file as a directory")
	}
	dir := t.TempDir()
	open(t, pebblekv.Config{Dir: dir}).Close()
	if err := os.WriteFile(filepath.Join(dir, "CURRENT"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	manifests, err := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range manifests {
		if err := os.WriteFile(m, []byte("damaged"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the lock is given back
		_, err = pebblekv.Open(pebblekv.Config{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "lock") {
			t.Errorf("open of a damaged store: %v", err)
		}
	}
}

// TestReadsDuringClose: reads that began end, and those that come later are refused.
func TestReadsDuringClose(t *testing.T) {
	s := open(t, pebblekv.Config{Dir: "store", FS: vfs.NewMem()})
	s.Commit(ctx, setter("a", "1"), setter("b", "1"))
	closed := make(chan error, 1)
	err := s.Scan(ctx, kv.Span{}, func(k, v []byte) (bool, error) {
		if string(k) == "a" {
			go func() { closed <- s.Close() }()
			for { // until it refuses
				if _, err := s.Get(ctx, []byte("a")); errors.Is(err, kv.ErrClosed) {
					break
				}
				runtime.Gosched()
			}
		}
		return true, nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if m := s.Metrics(); m.Txs != 2 || m.DiskBytes != 0 {
		t.Errorf("metrics after close: %+v", m)
	}
	if err := s.Checkpoint("copy"); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("checkpoint after close: %v", err)
	}
}

// TestAllocations holds what a commit costs in allocations: the snapshot, its view, now and
// then their closing, and what the in-memory file system needs; nothing for a transaction.
func TestAllocations(t *testing.T) {
	for _, n := range []int{1, 100} {
		s := open(t, pebblekv.Config{Dir: "store", FS: vfs.NewMem()})
		a := newAppends(n, 2)
		got := testing.AllocsPerRun(100, func() {
			a.next()
			s.Commit(ctx, a.txs...)
		})
		t.Logf("%v allocations for %d transactions", got, n)
		if got > 12 && !raceEnabled {
			t.Errorf("%v allocations for a commit of %d transactions", got, n)
		}
		for _, tx := range a.txs {
			if tx.Err != nil {
				t.Fatal(tx.Err)
			}
		}
	}
}

// Relax gives memory back and changes nothing that is stored, while others commit.
func TestRelax(t *testing.T) {
	s := open(t, pebblekv.Config{Dir: "store", FS: vfs.NewMem()})
	key := func(i int) []byte { return fmt.Appendf(nil, "key %04d", i) }
	write := func(from, to int) {
		for i := from; i < to; i++ {
			tx := new(kv.Tx)
			tx.Require(key(i), nil)
			tx.Set(key(i), bytes.Repeat([]byte{byte(i)}, 4096))
			if s.Commit(t.Context(), tx); tx.Err != nil {
				t.Errorf("commit %d: %v", i, tx.Err)
			}
		}
	}
	write(0, 1000)
	var wg sync.WaitGroup
	wg.Go(func() { write(1000, 1500) })
	for range 100 {
		if err := s.Relax(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	for s.Metrics().L0Tables == 0 { // the flush is through
		if err := s.Relax(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	for i := range 1500 {
		v, err := s.Get(t.Context(), key(i))
		if err != nil || !bytes.Equal(v, bytes.Repeat([]byte{byte(i)}, 4096)) {
			t.Fatalf("key %d: %d bytes, %v", i, len(v), err)
		}
		tx := new(kv.Tx)
		tx.Require(key(i), nil) // what is stored is remembered, or looked up again
		if s.Commit(t.Context(), tx); !errors.Is(tx.Err, kv.ErrConflict) {
			t.Fatalf("key %d is taken for absent: %v", i, tx.Err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Relax(); err != nil {
		t.Errorf("of a closed store: %v", err)
	}
}

// Settle leaves no tables that lie over one another, and changes nothing that is stored, while others commit.
func TestSettle(t *testing.T) {
	s := open(t, pebblekv.Config{Dir: "store", FS: vfs.NewMem(), MemTableBytes: 1 << 20})
	const keys, size = 2000, 1024
	value := func(i, round int) []byte { return bytes.Repeat([]byte{byte(i), byte(round)}, size/2) }
	write := func(from, to, round int) {
		for i := from; i < to; i++ {
			tx := new(kv.Tx)
			tx.Set(fmt.Appendf(nil, "key %04d", i), value(i, round))
			if s.Commit(t.Context(), tx); tx.Err != nil {
				t.Errorf("commit %d: %v", i, tx.Err)
			}
		}
	}
	// How soon tables are made of what is written, and merged, is the machine's affair.
	rounds := 0
	for rounds < 5 || s.Metrics().L0Tables < 2 && rounds < 100 {
		write(0, keys, rounds)
		rounds++
	}
	if n := s.Metrics().L0Tables; n < 2 {
		t.Fatalf("%d tables in the uppermost level: nothing to do", n)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := s.Settle(ended); err != nil {
		t.Errorf("when it is too late: %v", err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { write(keys, keys+100, 0) })
	if err := s.Settle(t.Context()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	for again := 0; s.Metrics().L0Tables > 1; again++ { // what was written before may have become a table since
		if again == 20 {
			t.Fatalf("%d tables are left in the uppermost level", s.Metrics().L0Tables)
		}
		if err := s.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range keys + 100 {
		round := rounds - 1
		if i >= keys {
			round = 0
		}
		v, err := s.Get(t.Context(), fmt.Appendf(nil, "key %04d", i))
		if err != nil || !bytes.Equal(v, value(i, round)) {
			t.Fatalf("key %d: %d bytes, %v", i, len(v), err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Settle(t.Context()); !errors.Is(err, kv.ErrClosed) {
		t.Errorf("of a closed store: %v", err)
	}
}

// Recovery writes tables. On a disk without room the engine tries that without end; opening must not.
func TestOpenWithoutRoom(t *testing.T) {
	mem := vfs.NewMem()
	s := open(t, pebblekv.Config{Dir: "store", FS: mem, DiskReserve: -1})
	tx := new(kv.Tx)
	tx.Set([]byte("key"), []byte("value"))
	if s.Commit(t.Context(), tx); tx.Err != nil {
		t.Fatal(tx.Err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	full := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") || op.Kind == errorfs.OpFileWrite && strings.HasSuffix(op.Path, ".sst") {
			return syscall.ENOSPC
		}
		return nil
	}))
	if _, err := pebblekv.Open(pebblekv.Config{Dir: "store", FS: full, DiskReserve: -1}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("opened without room: %v", err)
	}
	small := smallDisk{FS: mem, left: 1 << 20}
	if _, err := pebblekv.Open(pebblekv.Config{Dir: "other", FS: small}); !errors.Is(err, kv.ErrFull) {
		t.Errorf("opened with 1 MiB left: %v", err)
	}
}

// smallDisk is a file system with so many bytes left.
type smallDisk struct {
	vfs.FS
	left uint64
}

func (d smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: d.left, TotalBytes: 1 << 40}, nil
}
