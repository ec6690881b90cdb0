package kvtest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
)

func testAtomic(t *testing.T, s kv.Store) {
	set(t, s, "a", "1")
	tx := try(s, func(tx *kv.Tx) {
		tx.Set([]byte("x"), []byte("1"))
		tx.Delete([]byte("a"))
		tx.Require([]byte("a"), []byte("2"))
		tx.Set([]byte("y"), []byte("1"))
	})
	wantErr(t, "wrong requirement", tx.Err, kv.ErrConflict)
	want(t, s, "a", "1", "x", "", "y", "")
	tx = try(s, func(tx *kv.Tx) {
		tx.Require([]byte("a"), []byte("1"))
		tx.Require([]byte("x"), nil)
		tx.Require([]byte("a"), []byte("0"))
		tx.Set([]byte("x"), []byte("1"))
	})
	wantErr(t, "last of three requirements", tx.Err, kv.ErrConflict)
	want(t, s, "x", "")
}

func testOrderInTx(t *testing.T, s kv.Store) {
	commit(t, s, func(tx *kv.Tx) {
		tx.Set([]byte("a"), []byte("1"))
		tx.Set([]byte("a"), []byte("2"))
		tx.Set([]byte("b"), []byte("1"))
		tx.Delete([]byte("b"))
		tx.Delete([]byte("c"))
		tx.Set([]byte("c"), []byte("1"))
		tx.Require([]byte("a"), nil) // judged before the writes
		tx.Require([]byte("c"), nil)
	})
	want(t, s, "a", "2", "b", "", "c", "1")
}

func testOrderInCommit(t *testing.T, s kv.Store) {
	step := func(key, old, next string) *kv.Tx {
		tx := new(kv.Tx)
		tx.Require([]byte(key), nilIfEmpty(old))
		if next == "" {
			tx.Delete([]byte(key))
		} else {
			tx.Set([]byte(key), []byte(next))
		}
		return tx
	}
	for round, k := range []string{"a", "b"} { // b isn't known to caches when it comes
		if round == 1 {
			set(t, s, "b", "0")
			commit(t, s, func(tx *kv.Tx) { tx.Delete([]byte("b")) })
		}
		txs := []*kv.Tx{step(k, "", "1"), step(k, "1", "2"), step(k, "1", "3"), step(k, "2", ""), step(k, "", "4"), step(k, "", "5")}
		s.Commit(ctx, txs...)
		for i, conflict := range []bool{false, false, true, false, false, true} {
			if got := txs[i].Err; errors.Is(got, kv.ErrConflict) != conflict || !conflict && got != nil {
				t.Errorf("transaction %d on %s: %v, want conflict %v", i, k, got, conflict)
			}
		}
		want(t, s, k, "4")
	}

	// A write without a requirement is seen by the requirement of a later transaction.
	blind, other := new(kv.Tx), new(kv.Tx)
	blind.Set([]byte("c"), []byte("1"))
	blind.Set([]byte("d"), []byte("1"))
	other.Delete([]byte("d"))
	txs := []*kv.Tx{blind, other, step("c", "", "2"), step("c", "1", "3"), step("d", "1", "4"), step("d", "", "5")}
	s.Commit(ctx, txs...)
	for i, conflict := range []bool{false, false, true, false, true, false} {
		if got := txs[i].Err; errors.Is(got, kv.ErrConflict) != conflict || !conflict && got != nil {
			t.Errorf("transaction %d after blind writes: %v, want conflict %v", i, got, conflict)
		}
	}
	want(t, s, "c", "3", "d", "5")
}

func nilIfEmpty(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

func testRequire(t *testing.T, s kv.Store) {
	set(t, s, "a", "1")
	for i, c := range []struct {
		value []byte
		ok    bool
	}{{[]byte("1"), true}, {[]byte("2"), false}, {[]byte("11"), false}, {[]byte{}, false}, {nil, false}, {[]byte("1"), true}} {
		tx := try(s, func(tx *kv.Tx) { tx.Require([]byte("a"), c.value); tx.Set([]byte("b"), []byte(fmt.Sprint(i))) })
		if ok := tx.Err == nil; ok != c.ok {
			t.Errorf("require %q: %v", c.value, tx.Err)
		}
	}
	want(t, s, "b", "5")
	tx := new(kv.Tx) // the same transaction again after a conflict
	tx.Require([]byte("r"), []byte("1"))
	tx.Set([]byte("r"), []byte("2"))
	s.Commit(ctx, tx)
	wantErr(t, "first try", tx.Err, kv.ErrConflict)
	set(t, s, "r", "1")
	if s.Commit(ctx, tx); tx.Err != nil {
		t.Errorf("second try: %v", tx.Err)
	}
	want(t, s, "r", "2")
}

func testRequireAbsent(t *testing.T, s kv.Store) {
	create := func(v string) error {
		return try(s, func(tx *kv.Tx) { tx.Require([]byte("a"), nil); tx.Set([]byte("a"), []byte(v)) }).Err
	}
	if err := create("1"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "create what exists", create("2"), kv.ErrConflict)
	commit(t, s, func(tx *kv.Tx) { tx.Delete([]byte("a")) })
	if err := create("3"); err != nil {
		t.Fatal(err)
	}
	want(t, s, "a", "3")
	tx := try(s, func(tx *kv.Tx) { tx.Require([]byte("b"), []byte{}); tx.Set([]byte("c"), []byte("1")) })
	wantErr(t, "an empty value is not absence", tx.Err, kv.ErrConflict)
}

// testRequireLarge lets one key's value grow and shrink across the sizes that caches may treat apart.
func testRequireLarge(t *testing.T, s kv.Store) {
	key := append([]byte("key-"), bytes.Repeat([]byte("k"), 40)...)
	var old []byte
	for i, n := range []int{1, 100, 255, 300, 400, 5000, 400, 20, 2000, kv.MaxValue, 330, 340, 339, 1} {
		value := bytes.Repeat([]byte{byte('a' + i)}, n)
		tx := try(s, func(tx *kv.Tx) { tx.Require(key, old); tx.Set(key, value) })
		if tx.Err != nil {
			t.Fatalf("to %d bytes: %v", n, tx.Err)
		}
		tx = try(s, func(tx *kv.Tx) { tx.Require(key, old); tx.Set(key, []byte("wrong")) })
		wantErr(t, fmt.Sprintf("stale requirement at %d bytes", n), tx.Err, kv.ErrConflict)
		old = value
	}
	want(t, s, string(key), string(old))
	long := bytes.Repeat([]byte("L"), kv.MaxKey)
	for i := range 3 {
		old := nilIfEmpty([]string{"", "0", "1"}[i])
		commit(t, s, func(tx *kv.Tx) { tx.Require(long, old); tx.Set(long, []byte(fmt.Sprint(i))) })
	}
}

func testDelete(t *testing.T, s kv.Store) {
	set(t, s, "a", "1", "b", "2", "c", "3")
	commit(t, s, func(tx *kv.Tx) {
		tx.Require([]byte("b"), []byte("2"))
		tx.Delete([]byte("b"))
		tx.Delete([]byte("nothing"))
	})
	want(t, s, "a", "1", "b", "")
	if got := scan(t, s, kv.Span{}); got != "a=1 c=3" {
		t.Errorf("after delete: %s", got)
	}
	set(t, s, "b", "4")
	if got := scan(t, s, kv.Span{Reverse: true}); got != "c=3 b=4 a=1" {
		t.Errorf("after writing again: %s", got)
	}
}

func testNothingToWrite(t *testing.T, s kv.Store) {
	commit(t, s, func(tx *kv.Tx) {})
	commit(t, s, func(tx *kv.Tx) { tx.Require([]byte("a"), nil) })
	set(t, s, "a", "1")
	commit(t, s, func(tx *kv.Tx) { tx.Require([]byte("a"), []byte("1")) })
	tx := try(s, func(tx *kv.Tx) { tx.Require([]byte("a"), []byte("2")) })
	wantErr(t, "requirement alone", tx.Err, kv.ErrConflict)
}

// testCounter has many goroutines increment counters by Require and Set: no step is lost.
func testCounter(t *testing.T, s kv.Store) {
	const workers, steps = 8, 60
	keys := [][]byte{[]byte("n0"), []byte("n1")}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			tx := new(kv.Tx)
			for i := range steps {
				for k := keys[(w+i)%2]; ; {
					old, err := s.Get(ctx, k)
					if err != nil {
						t.Error(err)
						return
					}
					var n uint64
					if old != nil {
						n = binary.BigEndian.Uint64(old)
					}
					tx.Reset()
					tx.Require(k, old)
					tx.Set(k, binary.BigEndian.AppendUint64(nil, n+1))
					if s.Commit(ctx, tx); tx.Err == nil {
						break
					}
					if !errors.Is(tx.Err, kv.ErrConflict) {
						t.Error(tx.Err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if v := get(t, s, string(k)); len(v) != 8 || binary.BigEndian.Uint64([]byte(v)) != workers*steps/2 {
			t.Errorf("%s is %x, want %d", k, v, workers*steps/2)
		}
	}
}

// testTwoWriters has pairs of goroutines create the same key: exactly one gets it.
func testTwoWriters(t *testing.T, s kv.Store) {
	for i := range 100 {
		key := fmt.Appendf(nil, "k%d", i)
		var txs [2]kv.Tx
		var wg sync.WaitGroup
		for w := range txs {
			tx := &txs[w]
			tx.Require(key, nil)
			tx.Set(key, []byte{byte('0' + w)})
			wg.Go(func() { s.Commit(ctx, tx) })
		}
		wg.Wait()
		if (txs[0].Err == nil) == (txs[1].Err == nil) {
			t.Fatalf("round %d: %v and %v", i, txs[0].Err, txs[1].Err)
		}
		winner := "0"
		if txs[1].Err == nil {
			winner = "1"
		}
		want(t, s, string(key), winner)
	}
}
