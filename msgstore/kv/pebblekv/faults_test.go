package pebblekv_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
)

var ctx = context.Background()

func setter(key, value string) *kv.Tx {
	tx := new(kv.Tx)
	tx.Set([]byte(key), []byte(value))
	return tx
}

func read(t *testing.T, s kv.Store, key string) string {
	t.Helper()
	v, err := s.Get(ctx, []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return string(v)
}

// disk is a file system whose operations on the log can be held or failed.
type disk struct {
	vfs.FS
	mem     *vfs.MemFS
	hold    atomic.Pointer[chan struct{}] // log syncs wait for it
	reached chan struct{}                 // one token a held sync
	fail    atomic.Pointer[func(op errorfs.Op) error]
}

func newDisk() *disk {
	d := &disk{mem: vfs.NewCrashableMem(), reached: make(chan struct{}, 100)}
	d.FS = errorfs.Wrap(d.mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if isLogSync(op) {
			if hold := d.hold.Load(); hold != nil {
				d.reached <- struct{}{}
				<-*hold
			}
		}
		if fail := d.fail.Load(); fail != nil {
			return (*fail)(op)
		}
		return nil
	}))
	return d
}

func isLogSync(op errorfs.Op) bool {
	return strings.HasSuffix(op.Path, ".log") && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData)
}

// holdSyncs makes syncs of the log wait until release is called.
func (d *disk) holdSyncs() (release func()) {
	hold := make(chan struct{})
	d.hold.Store(&hold)
	return func() {
		d.hold.Store(nil)
		close(hold)
	}
}

func (d *disk) failWhen(f func(op errorfs.Op) bool) {
	fail := func(op errorfs.Op) error {
		if f(op) {
			return syscall.EIO
		}
		return nil
	}
	d.fail.Store(&fail)
}

// TestNotVisibleBeforeDurable: while the log's sync is under way nobody sees what it is about.
func TestNotVisibleBeforeDurable(t *testing.T) {
	d := newDisk()
	s := open(t, pebblekv.Config{Dir: "store", FS: d})
	s.Commit(ctx, setter("a", "old"))

	release := d.holdSyncs()
	var wg sync.WaitGroup
	first := setter("a", "new")
	first.Set([]byte("b"), []byte("new"))
	wg.Go(func() { s.Commit(ctx, first) })
	<-d.reached // the batch is in Pebble's memtable by now, and visible to whoever reads Pebble itself
	if a, b := read(t, s, "a"), read(t, s, "b"); a != "old" || b != "" {
		t.Errorf("during the sync a is %q and b is %q", a, b)
	}
	values, err := s.MultiGet(ctx, [][]byte{[]byte("a"), []byte("b")})
	if err != nil || string(values[0]) != "old" || values[1] != nil {
		t.Errorf("during the sync: %q, %v", values, err)
	}
	n := 0
	err = s.Scan(ctx, kv.Span{}, func(k, v []byte) (bool, error) { n++; return true, nil })
	if err != nil || n != 1 {
		t.Errorf("during the sync a scan finds %d pairs, %v", n, err)
	}
	release()
	wg.Wait()
	if first.Err != nil || read(t, s, "a") != "new" || read(t, s, "b") != "new" {
		t.Errorf("after the commit: %v, %q, %q", first.Err, read(t, s, "a"), read(t, s, "b"))
	}
}

// TestOneGroup: calls that come while one is committing are committed together, each judged by itself.
func TestOneGroup(t *testing.T) {
	d := newDisk()
	var mu sync.Mutex
	var groups []pebblekv.Group
	s := open(t, pebblekv.Config{Dir: "store", FS: d, Observe: pebblekv.Observe{Group: func(g pebblekv.Group) {
		mu.Lock()
		groups = append(groups, g)
		mu.Unlock()
	}}})
	release := d.holdSyncs()
	var wg sync.WaitGroup
	wg.Go(func() { s.Commit(ctx, setter("first", "1")) })
	<-d.reached

	const rivals = 20
	var stored, conflicts, other atomic.Int32
	for i := range rivals {
		wg.Go(func() {
			create, mine, big := new(kv.Tx), setter(fmt.Sprint("mine", i), "1"), setter("", "1")
			create.Require([]byte("head"), nil)
			create.Set([]byte("head"), fmt.Append(nil, i))
			create.SetStamped([]byte("log/"), fmt.Append(nil, i))
			s.Commit(ctx, create, big, mine)
			switch {
			case create.Err == nil:
				stored.Add(1)
			case errors.Is(create.Err, kv.ErrConflict):
				conflicts.Add(1)
			default:
				other.Add(1)
			}
			if mine.Err != nil || !errors.Is(big.Err, kv.ErrInvalid) {
				t.Errorf("beside it: %v, %v", mine.Err, big.Err)
			}
		})
	}
	pebblekv.AwaitWaiting(s, rivals)
	release()
	wg.Wait()
	if stored.Load() != 1 || conflicts.Load() != rivals-1 || other.Load() != 0 {
		t.Errorf("of %d rivals %d stored, %d conflicted, %d neither", rivals, stored.Load(), conflicts.Load(), other.Load())
	}
	if len(groups) != 2 || groups[1].Txs != rivals+1 || groups[1].Conflicts != rivals-1 || groups[1].Refused != rivals || groups[1].Bytes == 0 {
		t.Errorf("groups: %+v", groups)
	}
	m := s.Metrics()
	if m.Groups != 2 || m.Txs != rivals+2 || m.Conflicts != rivals-1 || m.Refused != rivals || m.Bytes == 0 || m.LogBytes == 0 {
		t.Errorf("metrics: %+v", m)
	}
}

// TestGiantGroup: a group larger than a batch may be is written in parts, in order.
func TestGiantGroup(t *testing.T) {
	d := newDisk()
	s := open(t, pebblekv.Config{Dir: "store", FS: d, MemTableBytes: 1 << 20})
	release := d.holdSyncs()
	var wg sync.WaitGroup
	wg.Go(func() { s.Commit(ctx, setter("first", "1")) })
	<-d.reached
	const callers, each = 5, 20
	for c := range callers {
		wg.Go(func() {
			var txs []*kv.Tx
			for i := range each {
				tx := setter(fmt.Sprintf("%d/%02d", c, i), strings.Repeat("x", 100<<10))
				tx.Require(fmt.Appendf(nil, "%d", c), nilIfZero(i))
				tx.Set(fmt.Appendf(nil, "%d", c), fmt.Append(nil, i+1))
				txs = append(txs, tx)
			}
			s.Commit(ctx, txs...)
			for i, tx := range txs {
				if tx.Err != nil {
					t.Errorf("transaction %d/%d: %v", c, i, tx.Err)
				}
			}
		})
	}
	pebblekv.AwaitWaiting(s, callers)
	release()
	wg.Wait()
	n := 0
	if err := s.Scan(ctx, kv.Span{}, func(k, v []byte) (bool, error) { n++; return true, nil }); err != nil || n != 1+callers*(each+1) {
		t.Errorf("%d pairs, %v", n, err)
	}
}

func nilIfZero(n int) []byte {
	if n == 0 {
		return nil
	}
	return fmt.Append(nil, n)
}

// TestFatal: what the engine can't go on after ends the store, and nobody is told a lie about his commit.
func TestFatal(t *testing.T) {
	isLog := func(op errorfs.Op) bool { return strings.HasSuffix(op.Path, ".log") }
	isManifest := func(op errorfs.Op) bool { return strings.Contains(op.Path, "MANIFEST") }
	for _, c := range []struct {
		name string
		when func(op errorfs.Op) bool
	}{
		{"LogSync", isLogSync},
		{"LogWrite", func(op errorfs.Op) bool { return isLog(op) && op.Kind == errorfs.OpFileWrite }},
		{"ManifestSync", func(op errorfs.Op) bool { return isManifest(op) && op.Kind == errorfs.OpFileSync }},
		{"ManifestWrite", func(op errorfs.Op) bool { return isManifest(op) && op.Kind == errorfs.OpFileWrite }},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDisk()
			fatal := make(chan error, 10)
			s, err := pebblekv.Open(pebblekv.Config{
				Dir: "store", FS: d, MemTableBytes: 256 << 10, OnFatal: func(err error) { fatal <- err }, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			good := setter("good", "1")
			if s.Commit(ctx, good); good.Err != nil {
				t.Fatal(good.Err)
			}
			d.failWhen(c.when)
			acked := -1
			var failed *kv.Tx
			stuck := false
			for i := 0; failed == nil && !stuck; i++ { // until a log is full and the next or the manifest is written
				if i > 5000 {
					t.Fatal("nothing failed")
				}
				tx := setter(fmt.Sprintf("row%05d", i), strings.Repeat("x", 2000))
				done := make(chan struct{})
				go func() {
					defer close(done)
					s.Commit(ctx, tx)
				}()
				select {
				case <-done:
				case err := <-fatal:
					fatal <- err
					select {
					case <-done:
					case <-time.After(2 * time.Second):
						// The engine makes it wait for a flush, which has failed for good: with the process, it ends without an answer.
						stuck = true
						continue
					}
				}
				if tx.Err != nil {
					failed = tx
				} else {
					acked = i
				}
			}
			err = <-fatal
			if err == nil || len(fatal) != 0 {
				t.Errorf("OnFatal was told %v and %d more", err, len(fatal))
			}
			if !stuck {
				if !errors.Is(failed.Err, kv.ErrUndetermined) {
					t.Errorf("commit: %v", failed.Err)
				}
				later := setter("later", "1")
				if s.Commit(ctx, later); !errors.Is(later.Err, kv.ErrUndetermined) {
					t.Errorf("later commit: %v", later.Err)
				}
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				if _, err := s.Get(ctx, []byte("good")); !errors.Is(err, kv.ErrClosed) {
					t.Errorf("get after close: %v", err)
				}
			}

			// What was acked is there after a restart, and a power failure before it.
			s = open(t, pebblekv.Config{Dir: "store", FS: d.mem.CrashClone(vfs.CrashCloneCfg{})})
			if read(t, s, "good") != "1" {
				t.Error("an acked row is gone")
			}
			for i := range acked + 1 {
				if read(t, s, fmt.Sprintf("row%05d", i)) == "" {
					t.Fatalf("acked row %d of %d is gone", i, acked+1)
				}
			}
			if read(t, s, "later") != "" {
				t.Error("a commit after the failure was stored")
			}
		})
	}
}

// TestFatalWaiting: the calls that wait while the log fails are undetermined as well.
func TestFatalWaiting(t *testing.T) {
	d := newDisk()
	var fatal atomic.Int32
	s := open(t, pebblekv.Config{Dir: "store", FS: d, OnFatal: func(error) { fatal.Add(1) }})
	release := d.holdSyncs()
	d.failWhen(isLogSync)
	txs := make([]*kv.Tx, 10)
	var wg sync.WaitGroup
	for i := range txs {
		txs[i] = setter(fmt.Sprint("k", i), "1")
		wg.Go(func() { s.Commit(ctx, txs[i]) })
		if i == 0 {
			<-d.reached
		}
	}
	pebblekv.AwaitWaiting(s, len(txs)-1)
	release()
	wg.Wait()
	for i, tx := range txs {
		if !errors.Is(tx.Err, kv.ErrUndetermined) {
			t.Errorf("transaction %d: %v", i, tx.Err)
		}
		if v := read(t, s, fmt.Sprint("k", i)); v != "" {
			t.Errorf("what was never durable is read: %q", v)
		}
	}
	if fatal.Load() != 1 {
		t.Errorf("OnFatal was called %d times", fatal.Load())
	}
}

func TestDiskReserve(t *testing.T) {
	fs := vfs.NewMem()
	var told []string
	s := open(t, pebblekv.Config{Dir: "store", FS: fs, DiskReserve: 1000, Observe: pebblekv.Observe{Full: func(full bool, free uint64) {
		told = append(told, fmt.Sprint(full, free))
	}}})
	pebblekv.CheckDiskAlways(s)
	for _, step := range []struct {
		free uint64
		full bool
	}{{5000, false}, {1000, false}, {999, true}, {10, true}, {2000, false}, {0, true}, {1 << 40, false}} {
		fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: step.free, TotalBytes: 1 << 41, UsedBytes: 1})
		tx, sweep := setter("a", fmt.Sprint(step.free)), new(kv.Tx)
		sweep.Delete([]byte("b"))
		sweep.Frees = true
		s.Commit(ctx, tx, sweep)
		if step.full != errors.Is(tx.Err, kv.ErrFull) || !step.full && tx.Err != nil {
			t.Errorf("with %d bytes free: %v", step.free, tx.Err)
		}
		if sweep.Err != nil {
			t.Errorf("with %d bytes free, a sweep: %v", step.free, sweep.Err)
		}
		if m := s.Metrics(); m.Full != step.full {
			t.Errorf("with %d bytes free the metrics say %v", step.free, m.Full)
		}
	}
	if got := strings.Join(told, " "); got != "true 999 false 2000 true 0 false 1099511627776" {
		t.Errorf("told: %s", got)
	}
}

// TestDiskReserveOff: neither a store that doesn't watch nor a file system that can't tell is ever full.
func TestDiskReserveOff(t *testing.T) {
	for _, reserve := range []int64{-1, 1000} {
		fs := vfs.NewMem()
		s := open(t, pebblekv.Config{Dir: "store", FS: fs, DiskReserve: reserve})
		pebblekv.CheckDiskAlways(s)
		if reserve < 0 {
			fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1, TotalBytes: 2})
		}
		tx := setter("a", "1")
		if s.Commit(ctx, tx); tx.Err != nil {
			t.Errorf("reserve %d: %v", reserve, tx.Err)
		}
	}
}
