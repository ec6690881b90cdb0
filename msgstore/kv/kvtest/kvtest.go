// Package kvtest is the conformance suite of kv.Store: what every adapter does the same way.
package kvtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// Run runs the suite. open returns a new empty store; it sees to its closing, which
// the suite may have done before.
func Run(t *testing.T, open func(t *testing.T) kv.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s kv.Store)
	}{
		{"Empty", testEmpty},
		{"Get", testGet},
		{"Scan", testScan},
		{"ScanStops", testScanStops},
		{"OneMoment", testOneMoment},
		{"Atomic", testAtomic},
		{"OrderInTx", testOrderInTx},
		{"OrderInCommit", testOrderInCommit},
		{"Require", testRequire},
		{"RequireAbsent", testRequireAbsent},
		{"RequireLarge", testRequireLarge},
		{"Delete", testDelete},
		{"Counter", testCounter},
		{"TwoWriters", testTwoWriters},
		{"NothingToWrite", testNothingToWrite},
		{"Stamps", testStamps},
		{"StampsConcurrent", testStampsConcurrent},
		{"StampsRequired", testStampsRequired},
		{"Ownership", testOwnership},
		{"Limits", testLimits},
		{"Invalid", testInvalid},
		{"Canceled", testCanceled},
		{"Close", testClose},
		{"Model", func(t *testing.T, s kv.Store) { Model(t, s, 2000, func() uint64 { return 1 }) }},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

var ctx = context.Background()

// commit stores one transaction that must succeed.
func commit(t *testing.T, s kv.Store, fill func(tx *kv.Tx)) *kv.Tx {
	t.Helper()
	tx := try(s, fill)
	if tx.Err != nil {
		t.Fatalf("commit: %v", tx.Err)
	}
	return tx
}

func try(s kv.Store, fill func(tx *kv.Tx)) *kv.Tx {
	tx := new(kv.Tx)
	fill(tx)
	s.Commit(ctx, tx)
	return tx
}

func set(t *testing.T, s kv.Store, pairs ...string) {
	t.Helper()
	commit(t, s, func(tx *kv.Tx) {
		for i := 0; i < len(pairs); i += 2 {
			tx.Set([]byte(pairs[i]), []byte(pairs[i+1]))
		}
	})
}

func get(t *testing.T, s kv.Store, key string) string {
	t.Helper()
	v, err := s.Get(ctx, []byte(key))
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	if v != nil && len(v) == 0 {
		t.Fatalf("get %q: an empty value that isn't nil", key)
	}
	return string(v)
}

func want(t *testing.T, s kv.Store, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if v := get(t, s, pairs[i]); v != pairs[i+1] {
			t.Errorf("%q is %q, want %q", pairs[i], v, pairs[i+1])
		}
	}
}

func wantErr(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got %v, want %v", what, err, target)
	}
}

// scan returns the pairs of a span as "k=v k=v".
func scan(t *testing.T, s kv.Store, span kv.Span) string {
	t.Helper()
	var out []string
	err := s.Scan(ctx, span, func(k, v []byte) (bool, error) {
		out = append(out, string(k)+"="+string(v))
		return true, nil
	})
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	return strings.Join(out, " ")
}

func testEmpty(t *testing.T, s kv.Store) {
	want(t, s, "a", "")
	if got := scan(t, s, kv.Span{}); got != "" {
		t.Errorf("an empty store has %s", got)
	}
	if got := scan(t, s, kv.Span{Reverse: true}); got != "" {
		t.Errorf("an empty store has, from its end, %s", got)
	}
	values, err := s.MultiGet(ctx, nil)
	if err != nil || len(values) != 0 {
		t.Errorf("multi-get of nothing: %v, %v", values, err)
	}
	s.Commit(ctx)
}

func testGet(t *testing.T, s kv.Store) {
	set(t, s, "a", "1", "b", "2", "a\x00", "3")
	want(t, s, "a", "1", "b", "2", "a\x00", "3", "", "", "aa", "", "\xff\xff", "")
	values, err := s.MultiGet(ctx, [][]byte{[]byte("b"), []byte("x"), []byte("a"), []byte("b"), {}, []byte("\xff\xffstamp")})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%q", values); got != `["2" "" "1" "2" "" ""]` {
		t.Errorf("multi-get: %s", got)
	}
	if values[1] != nil {
		t.Error("an absent value is not nil")
	}
	set(t, s, "a", "4")
	want(t, s, "a", "4")
}

func testScan(t *testing.T, s kv.Store) {
	set(t, s, "a", "1", "b", "2", "b\x00", "3", "c", "4", "\xfe\xff", "5", "\xff\xfe\xff", "6")
	if s.Stamps() {
		commit(t, s, func(tx *kv.Tx) { tx.SetStamped([]byte("\x01s"), []byte("7")); tx.Set([]byte("d"), []byte("8")) })
		commit(t, s, func(tx *kv.Tx) {
			tx.Delete([]byte("\x01s\x00\x00\x00\x00\x00\x00\x00\x01"))
			tx.Delete([]byte("d"))
		})
	}
	b := func(s string) []byte { return []byte(s) }
	for _, c := range []struct {
		start, end []byte
		limit      int
		want       string
	}{
		{nil, nil, 0, "a=1 b=2 b\x00=3 c=4 \xfe\xff=5 \xff\xfe\xff=6"},
		{b("a"), b("c"), 0, "a=1 b=2 b\x00=3"},
		{b("a"), b("c\x00"), 0, "a=1 b=2 b\x00=3 c=4"},
		{b("a\x00"), b("c"), 0, "b=2 b\x00=3"},
		{b("b"), b("b"), 0, ""},
		{b("c"), b("a"), 0, ""},
		{b("d"), b("e"), 0, ""},
		{b("c"), nil, 0, "c=4 \xfe\xff=5 \xff\xfe\xff=6"},
		{b("c"), b("\xff\xff\xff"), 0, "c=4 \xfe\xff=5 \xff\xfe\xff=6"},
		{b("\xff\xff"), nil, 0, ""},
		{nil, b("b"), 0, "a=1"},
		{b("a"), b("z"), 100, "a=1 b=2 b\x00=3 c=4"},
	} {
		var pairs []string
		if c.want != "" {
			pairs = strings.Split(c.want, " ")
		}
		for limit := range 7 {
			span := kv.Span{Start: c.start, End: c.end, Limit: limit}
			w := pairs
			if limit > 0 && limit < len(w) {
				w = w[:limit]
			}
			if got := scan(t, s, span); got != strings.Join(w, " ") {
				t.Errorf("scan [%q, %q) limit %d: %q, want %q", c.start, c.end, limit, got, w)
			}
			w = slices.Clone(pairs)
			slices.Reverse(w)
			if limit > 0 && limit < len(w) {
				w = w[:limit]
			}
			span.Reverse = true
			if got := scan(t, s, span); got != strings.Join(w, " ") {
				t.Errorf("reverse scan [%q, %q) limit %d: %q, want %q", c.start, c.end, limit, got, w)
			}
		}
	}
}

func testScanStops(t *testing.T, s kv.Store) {
	set(t, s, "a", "1", "b", "2", "c", "3")
	oops := errors.New("oops")
	for _, reverse := range []bool{false, true} {
		n := 0
		err := s.Scan(ctx, kv.Span{Reverse: reverse}, func(k, v []byte) (bool, error) { n++; return n < 2, nil })
		if err != nil || n != 2 {
			t.Errorf("reverse %v: stopped after %d pairs, %v", reverse, n, err)
		}
		n = 0
		err = s.Scan(ctx, kv.Span{Reverse: reverse}, func(k, v []byte) (bool, error) { n++; return true, oops })
		if !errors.Is(err, oops) || n != 1 {
			t.Errorf("reverse %v: error %v after %d pairs", reverse, err, n)
		}
	}
}

// testOneMoment commits within a scan, whose pairs must stay those of its beginning.
func testOneMoment(t *testing.T, s kv.Store) {
	set(t, s, "a", "1", "b", "1", "c", "1", "d", "1")
	for _, reverse := range []bool{false, true} {
		first := ""
		err := s.Scan(ctx, kv.Span{Reverse: reverse}, func(k, v []byte) (bool, error) {
			if first == "" {
				first = string(v)
				set(t, s, "a", first+"1", "b", first+"1", "c", first+"1", "d", first+"1", "bb"+first, "1", "cc"+first, "1")
				commit(t, s, func(tx *kv.Tx) { tx.Delete([]byte("bb" + first)); tx.Delete([]byte("cc" + first)) })
			}
			if string(v) != first {
				t.Errorf("a scan that began with %q came to %q=%q", first, k, v)
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	// Two rows always written together are always read together.
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		defer close(stop)
		for i := range 300 {
			v := fmt.Sprint(i)
			if tx := try(s, func(tx *kv.Tx) { tx.Set([]byte("x"), []byte(v)); tx.Set([]byte("y"), []byte(v)) }); tx.Err != nil {
				t.Errorf("commit: %v", tx.Err)
			}
		}
	})
	for running := true; running; {
		select {
		case <-stop:
			running = false
		default:
		}
		values, err := s.MultiGet(ctx, [][]byte{[]byte("x"), []byte("y")})
		if err != nil || !bytes.Equal(values[0], values[1]) {
			t.Fatalf("multi-get: %q, %v", values, err)
		}
		var last []byte
		err = s.Scan(ctx, kv.Span{Start: []byte("x")}, func(k, v []byte) (bool, error) {
			if k[0] == 'y' && !bytes.Equal(v, last) {
				t.Errorf("scan: x=%s y=%s", last, v)
			}
			last = append(last[:0], v...)
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

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

func testNothingToWrite(t *testing.T, s kv.Store) {
	commit(t, s, func(tx *kv.Tx) {})
	commit(t, s, func(tx *kv.Tx) { tx.Require([]byte("a"), nil) })
	set(t, s, "a", "1")
	commit(t, s, func(tx *kv.Tx) { tx.Require([]byte("a"), []byte("1")) })
	tx := try(s, func(tx *kv.Tx) { tx.Require([]byte("a"), []byte("2")) })
	wantErr(t, "requirement alone", tx.Err, kv.ErrConflict)
}

func testOwnership(t *testing.T, s kv.Store) {
	key, value := []byte("key1"), []byte("value1")
	tx := new(kv.Tx)
	tx.Set(key, value)
	key[3], value[5] = '2', '2'
	s.Commit(ctx, tx)
	tx.Reset()
	tx.Set([]byte("kkkk"), []byte("vvvvvv")) // over the old memory
	want(t, s, "key1", "value1", "key2", "")

	lookup := []byte("key1")
	got, err := s.Get(ctx, lookup)
	if err != nil {
		t.Fatal(err)
	}
	lookup[0] = 'x'
	copy(got, "XXXXXX")
	_ = append(got, "YYYY"...)
	want(t, s, "key1", "value1")

	set(t, s, "key3", "value3")
	many, err := s.MultiGet(ctx, [][]byte{[]byte("key1"), []byte("key3")})
	if err != nil {
		t.Fatal(err)
	}
	copy(many[0], "XXXXXX")
	_ = append(many[0], "YYYYYYYY"...)
	if string(many[1]) != "value3" {
		t.Errorf("writing behind one result changed another: %q", many[1])
	}
	want(t, s, "key1", "value1", "key3", "value3")
	kept, err := s.Get(ctx, []byte("key1"))
	if err != nil {
		t.Fatal(err)
	}
	set(t, s, "key1", "other!")
	if string(kept) != "value1" {
		t.Errorf("a later commit changed what Get returned: %q", kept)
	}
	start, end := []byte("key1"), []byte("key9")
	n := 0
	err = s.Scan(ctx, kv.Span{Start: start, End: end}, func(k, v []byte) (bool, error) {
		start[0], end[0] = 'z', 'a' // even while it runs nothing depends on them staying
		start[0], end[0] = 'k', 'k'
		n++
		return true, nil
	})
	if err != nil || n != 2 {
		t.Errorf("scan found %d, %v", n, err)
	}
}

func testLimits(t *testing.T, s kv.Store) {
	key := bytes.Repeat([]byte("k"), kv.MaxKey)
	value := bytes.Repeat([]byte("v"), kv.MaxValue)
	commit(t, s, func(tx *kv.Tx) { tx.Set(key, value) })
	want(t, s, string(key), string(value))
	commit(t, s, func(tx *kv.Tx) {
		for i := range kv.MaxTx/kv.MaxValue - 1 {
			tx.Set(fmt.Appendf(nil, "big%d", i), value)
		}
	})
	for _, c := range []struct {
		name string
		fill func(tx *kv.Tx)
	}{
		{"key", func(tx *kv.Tx) { tx.Set(append(key, 'k'), []byte("1")) }},
		{"required key", func(tx *kv.Tx) { tx.Require(append(key, 'k'), nil) }},
		{"deleted key", func(tx *kv.Tx) { tx.Delete(append(key, 'k')) }},
		{"value", func(tx *kv.Tx) { tx.Set([]byte("a"), append(value, 'v')) }},
		{"required value", func(tx *kv.Tx) { tx.Require([]byte("a"), append(value, 'v')) }},
		{"transaction", func(tx *kv.Tx) {
			for i := range kv.MaxTx / kv.MaxValue {
				tx.Set(fmt.Appendf(nil, "big%d", i), value)
			}
		}},
	} {
		tx := try(s, func(tx *kv.Tx) { tx.Set([]byte("b"), []byte("1")); c.fill(tx) })
		wantErr(t, c.name, tx.Err, kv.ErrTooLarge)
		want(t, s, "a", "", "b", "")
	}
	if s.Stamps() {
		tx := try(s, func(tx *kv.Tx) { tx.SetStamped(key[:kv.MaxKey-kv.StampLen+1], []byte("1")) })
		wantErr(t, "stamped key", tx.Err, kv.ErrTooLarge)
		commit(t, s, func(tx *kv.Tx) { tx.SetStamped(key[:kv.MaxKey-kv.StampLen], []byte("1")) })
	}
}

func testInvalid(t *testing.T, s kv.Store) {
	for _, c := range []struct {
		name string
		fill func(tx *kv.Tx)
	}{
		{"empty key", func(tx *kv.Tx) { tx.Set(nil, []byte("1")) }},
		{"empty value", func(tx *kv.Tx) { tx.Set([]byte("a"), nil) }},
		{"reserved key", func(tx *kv.Tx) { tx.Set([]byte("\xff\xffa"), []byte("1")) }},
		{"require reserved key", func(tx *kv.Tx) { tx.Require([]byte("\xff\xffa"), nil) }},
		{"delete reserved key", func(tx *kv.Tx) { tx.Delete([]byte("\xff\xff")) }},
		{"stamp reserved key", func(tx *kv.Tx) { tx.SetStamped([]byte("\xff\xff"), []byte("1")) }},
		{"empty stamped value", func(tx *kv.Tx) { tx.SetStamped([]byte("a"), nil) }},
	} {
		good, bad := new(kv.Tx), new(kv.Tx)
		good.Set([]byte(c.name), []byte("1"))
		bad.Set([]byte("b"), []byte("1"))
		c.fill(bad)
		s.Commit(ctx, bad, good)
		wantErr(t, c.name, bad.Err, kv.ErrInvalid)
		if good.Err != nil {
			t.Errorf("%s: the transaction after it: %v", c.name, good.Err)
		}
		want(t, s, "b", "", c.name, "1")
	}
	if !s.Stamps() {
		tx := try(s, func(tx *kv.Tx) { tx.SetStamped([]byte("a"), []byte("1")) })
		wantErr(t, "stamp without stamps", tx.Err, kv.ErrInvalid)
	}
}

func testCanceled(t *testing.T, s kv.Store) {
	set(t, s, "a", "1")
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	_, err := s.Get(canceled, []byte("a"))
	wantErr(t, "get", err, context.Canceled)
	_, err = s.MultiGet(canceled, [][]byte{[]byte("a")})
	wantErr(t, "multi-get", err, context.Canceled)
	err = s.Scan(canceled, kv.Span{}, func(k, v []byte) (bool, error) { return true, nil })
	wantErr(t, "scan", err, context.Canceled)
	tx := new(kv.Tx)
	tx.Set([]byte("b"), []byte("1"))
	s.Commit(canceled, tx)
	wantErr(t, "commit", tx.Err, context.Canceled)
	wantErr(t, "commit", tx.Err, kv.ErrUnavailable)
	want(t, s, "a", "1", "b", "")

	big := new(kv.Tx)
	for i := range 2000 {
		big.Set(fmt.Appendf(nil, "many%05d", i), []byte("1"))
	}
	if s.Commit(ctx, big); big.Err != nil {
		t.Fatal(big.Err)
	}
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	n := 0
	err = s.Scan(during, kv.Span{}, func(k, v []byte) (bool, error) {
		if n++; n == 10 {
			cancel()
		}
		return true, nil
	})
	wantErr(t, "scan cancelled on its way", err, context.Canceled)
}

func testClose(t *testing.T, s kv.Store) {
	set(t, s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get(ctx, []byte("a"))
	wantErr(t, "get", err, kv.ErrClosed)
	_, err = s.MultiGet(ctx, [][]byte{[]byte("a")})
	wantErr(t, "multi-get", err, kv.ErrClosed)
	err = s.Scan(ctx, kv.Span{}, func(k, v []byte) (bool, error) { return true, nil })
	wantErr(t, "scan", err, kv.ErrClosed)
	tx := try(s, func(tx *kv.Tx) { tx.Set([]byte("a"), []byte("2")) })
	wantErr(t, "commit", tx.Err, kv.ErrClosed)
	wantErr(t, "close", s.Close(), kv.ErrClosed)
}
