package kvtest

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
)

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
