package kvtest

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
)

func stampedKey(prefix string, stamp uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(prefix), stamp))
}

func testStamps(t *testing.T, s kv.Store) {
	if !s.Stamps() {
		return
	}
	for i := uint64(1); i <= 3; i++ {
		set(t, s, "plain", fmt.Sprint(i)) // takes no stamp
		tx := commit(t, s, func(tx *kv.Tx) {
			tx.SetStamped([]byte("p"), []byte("x"))
			tx.SetStamped([]byte("p"), []byte("1"))
			tx.SetStamped([]byte("q"), []byte("2"))
		})
		if tx.Stamp != i {
			t.Errorf("stamp %d, want %d", tx.Stamp, i)
		}
		want(t, s, stampedKey("p", i), "1", stampedKey("q", i), "2")
	}
	// In one call each transaction has its own, and those that aren't stored have none.
	txs := make([]*kv.Tx, 4)
	for i := range txs {
		txs[i] = new(kv.Tx)
		if i == 1 {
			txs[i].Require([]byte("plain"), []byte("other"))
		}
		txs[i].SetStamped([]byte("p"), fmt.Append(nil, i))
	}
	s.Commit(ctx, txs...)
	wantErr(t, "the second", txs[1].Err, kv.ErrConflict)
	if a, b, c := txs[0].Stamp, txs[2].Stamp, txs[3].Stamp; a != 4 || b != 5 || c != 6 {
		t.Errorf("stamps %d, %d, %d, want 4, 5, 6", a, b, c)
	}
	want(t, s, stampedKey("p", 4), "0", stampedKey("p", 5), "2", stampedKey("p", 6), "3", stampedKey("p", 7), "")
}

func testStampsRequired(t *testing.T, s kv.Store) {
	if !s.Stamps() {
		return
	}
	stamp := new(kv.Tx)
	stamp.SetStamped([]byte("p"), []byte("1"))
	no, yes := new(kv.Tx), new(kv.Tx)
	no.Require([]byte(stampedKey("p", 1)), nil)
	no.Set([]byte("no"), []byte("1"))
	yes.Require([]byte(stampedKey("p", 1)), []byte("1"))
	yes.Set([]byte("yes"), []byte("1"))
	yes.Delete([]byte(stampedKey("p", 1)))
	s.Commit(ctx, stamp, no, yes)
	wantErr(t, "requirement of absence", no.Err, kv.ErrConflict)
	if stamp.Err != nil || yes.Err != nil {
		t.Errorf("stamped: %v, required: %v", stamp.Err, yes.Err)
	}
	want(t, s, "no", "", "yes", "1", stampedKey("p", 1), "")
}

// testStampsConcurrent has readers look while many commit: what they see never has a hole, and never shrinks.
func testStampsConcurrent(t *testing.T, s kv.Store) {
	if !s.Stamps() {
		return
	}
	const workers, each = 6, 80
	var running atomic.Int32
	running.Store(workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			defer running.Add(-1)
			var last uint64
			for i := range each {
				tx := try(s, func(tx *kv.Tx) { tx.SetStamped([]byte("log/"), fmt.Appendf(nil, "%d/%d", w, i)) })
				if tx.Err != nil || tx.Stamp <= last {
					t.Errorf("commit: %v, stamp %d after %d", tx.Err, tx.Stamp, last)
					return
				}
				last = tx.Stamp
			}
		})
	}
	var seen uint64
	for done := false; !done; {
		done = running.Load() == 0
		n := uint64(0)
		err := s.Scan(ctx, kv.Span{Start: []byte("log/"), End: []byte("log0")}, func(k, v []byte) (bool, error) {
			n++
			if stamp := binary.BigEndian.Uint64(k[4:]); stamp != n {
				return false, fmt.Errorf("stamp %d where %d was due", stamp, n)
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if n < seen {
			t.Fatalf("%d stamped keys after %d", n, seen)
		}
		seen = n
	}
	wg.Wait()
	if seen != workers*each {
		t.Errorf("%d stamped keys, want %d", seen, workers*each)
	}
}
