package pebblekv_test

import (
	"encoding/binary"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
)

// TestCrash cuts the power at random moments under load: of the file system stays what
// was synced, and of the rest nothing or a random part. Every transaction that was
// acked must be there, whole, and nothing that a reader had seen may be gone.
func TestCrash(t *testing.T) {
	for _, c := range []struct {
		name     string
		unsynced int // percent of unsynced blocks that survive; -1: drawn for each crash
		memTable int
	}{
		{"OnlySynced", 0, 64 << 10},
		{"RandomRest", -1, 64 << 10},
		{"OneLog", -1, 16 << 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			fs := vfs.NewCrashableMem()
			for range 3 { // a store that came out of a crash is crashed again
				fs = crashes(t, fs, c.memTable, rng, c.unsynced, 8)
			}
		})
	}
}

const crashWriters = 6

// crashes runs load on the store in fs and checks several crashes of it, of which it returns the last.
func crashes(t *testing.T, fs *vfs.MemFS, memTable int, rng *rand.Rand, unsynced, n int) (crashed *vfs.MemFS) {
	s := open(t, pebblekv.Config{Dir: "store", FS: fs, MemTableBytes: memTable})
	var known [crashWriters]atomic.Uint64 // the highest that was acked or read of each writer
	stop := make(chan struct{})
	var load sync.RWMutex // held while a crash is checked, so that the store grows no faster than it is checked
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(stop)
	for w := range crashWriters {
		raise(&known[w], crashHead(t, s, w))
		wg.Go(func() { crashWrite(t, s, w, &known[w], rand.New(rand.NewPCG(uint64(w), 1)), &load, stop) })
	}
	for range 2 {
		wg.Go(func() { crashRead(t, s, &known, &load, stop) })
	}
	for range n {
		// Between a hundredth of a commit and a few of them.
		for spin := rng.IntN(20000); spin > 0; spin-- {
			known[0].Load()
		}
		time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
		var before [crashWriters]uint64
		for w := range before {
			before[w] = known[w].Load()
		}
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rng}
		if unsynced < 0 {
			cfg.UnsyncedDataPercent = rng.IntN(101)
		}
		crashed = fs.CrashClone(cfg)
		load.Lock()
		checkCrashed(t, crashed, memTable, before)
		load.Unlock()
	}
	return crashed
}

func raise(to *atomic.Uint64, n uint64) {
	for {
		old := to.Load()
		if n <= old || to.CompareAndSwap(old, n) {
			return
		}
	}
}

func headKey(w int) []byte { return fmt.Appendf(nil, "conv%d/head", w) }

func rowKey(w int, n uint64) []byte {
	return binary.BigEndian.AppendUint64(fmt.Appendf(nil, "conv%d/row/", w), n)
}

// rowValue is a value whose first bytes tell whether it is whole.
func rowValue(n uint64, size int) []byte {
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(n + uint64(i))
	}
	return append(binary.BigEndian.AppendUint64(nil, crc64.Checksum(body, crc64.MakeTable(crc64.ECMA))), body...)
}

func whole(v []byte) bool {
	return len(v) >= 8 && binary.BigEndian.Uint64(v) == crc64.Checksum(v[8:], crc64.MakeTable(crc64.ECMA))
}

func crashHead(t *testing.T, s kv.Store, w int) uint64 {
	v, err := s.Get(ctx, headKey(w))
	if err != nil {
		t.Error(err)
	}
	if v == nil {
		return 0
	}
	return binary.BigEndian.Uint64(v)
}

// crashWrite appends rows under a head, as appends to a conversation do.
func crashWrite(t *testing.T, s kv.Store, w int, known *atomic.Uint64, rng *rand.Rand, load *sync.RWMutex, stop chan struct{}) {
	n := crashHead(t, s, w)
	tx := new(kv.Tx)
	for {
		select {
		case <-stop:
			return
		default:
		}
		tx.Reset()
		if n == 0 {
			tx.Require(headKey(w), nil)
		} else {
			tx.Require(headKey(w), binary.BigEndian.AppendUint64(nil, n))
		}
		n++
		tx.Set(headKey(w), binary.BigEndian.AppendUint64(nil, n))
		tx.Set(rowKey(w, n), rowValue(n, rng.IntN(3000)))
		tx.SetStamped([]byte("log/"), rowKey(w, n))
		load.RLock()
		s.Commit(ctx, tx)
		load.RUnlock()
		if tx.Err != nil {
			t.Errorf("commit: %v", tx.Err)
			return
		}
		raise(known, n)
	}
}

// crashRead notes what readers see.
func crashRead(t *testing.T, s kv.Store, known *[crashWriters]atomic.Uint64, load *sync.RWMutex, stop chan struct{}) {
	keys := make([][]byte, crashWriters)
	for w := range keys {
		keys[w] = headKey(w)
	}
	for {
		select {
		case <-stop:
			return
		default:
		}
		load.RLock()
		heads, err := s.MultiGet(ctx, keys)
		load.RUnlock()
		if err != nil {
			t.Error(err)
			return
		}
		for w, h := range heads {
			if h != nil {
				raise(&known[w], binary.BigEndian.Uint64(h))
			}
		}
	}
}

// checkCrashed opens what is left and looks whether it holds all that was known before, whole.
func checkCrashed(t *testing.T, fs *vfs.MemFS, memTable int, before [crashWriters]uint64) {
	t.Helper()
	// A clone of the clone is opened: the caller goes on with the untouched one.
	s := open(t, pebblekv.Config{Dir: "store", FS: fs.CrashClone(vfs.CrashCloneCfg{}), MemTableBytes: memTable})
	defer s.Close()
	total := uint64(0)
	for w, least := range before {
		head := crashHead(t, s, w)
		if head < least {
			t.Errorf("writer %d: %d is left of %d that were acked or read", w, head, least)
		}
		n := uint64(0)
		err := s.Scan(ctx, kv.Span{Start: rowKey(w, 0), End: rowKey(w, 1<<63)}, func(k, v []byte) (bool, error) {
			n++
			if got := binary.BigEndian.Uint64(k[len(k)-8:]); got != n || !whole(v) {
				return false, fmt.Errorf("row %d where %d was due, whole: %v", got, n, whole(v))
			}
			return true, nil
		})
		if err != nil || n != head {
			t.Errorf("writer %d: %d rows under head %d, %v", w, n, head, err)
		}
		total += head
	}
	stamps := uint64(0)
	err := s.Scan(ctx, kv.Span{Start: []byte("log/"), End: []byte("log0")}, func(k, v []byte) (bool, error) {
		stamps++
		if got := binary.BigEndian.Uint64(k[4:]); got != stamps {
			return false, fmt.Errorf("stamp %d where %d was due", got, stamps)
		}
		return true, nil
	})
	if err != nil || stamps != total {
		t.Errorf("%d stamped rows for %d appends, %v", stamps, total, err)
	}
	tx := new(kv.Tx)
	tx.SetStamped([]byte("log/"), []byte("after"))
	if s.Commit(ctx, tx); tx.Err != nil || tx.Stamp != stamps+1 {
		t.Errorf("after the crash: %v, stamp %d after %d", tx.Err, tx.Stamp, stamps)
	}
}
