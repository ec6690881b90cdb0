package kv_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
)

func TestTx(t *testing.T) {
	tx := new(kv.Tx)
	key, value := []byte("key"), []byte("value")
	tx.Require(key, value)
	tx.Require(key, nil)
	tx.Require(key, []byte{})
	tx.Set(key, value)
	tx.Delete(key)
	tx.SetStamped(key, value)
	copy(key, "xxx") // the memory is the transaction's own
	copy(value, "xxxxx")
	for i, want := range []kv.Op{
		{Kind: kv.OpRequire, Key: []byte("key"), Value: []byte("value")},
		{Kind: kv.OpRequire, Absent: true, Key: []byte("key")},
		{Kind: kv.OpRequire, Key: []byte("key")},
		{Kind: kv.OpSet, Key: []byte("key"), Value: []byte("value")},
		{Kind: kv.OpDelete, Key: []byte("key")},
		{Kind: kv.OpStamped, Key: []byte("key"), Value: []byte("value")},
	} {
		got := tx.Ops()[i]
		if got.Kind != want.Kind || got.Absent != want.Absent || !bytes.Equal(got.Key, want.Key) || !bytes.Equal(got.Value, want.Value) {
			t.Errorf("step %d is %+v, want %+v", i, got, want)
		}
	}
	if tx.Size() != 6*3+3*5 {
		t.Errorf("size %d", tx.Size())
	}
	_ = append(tx.Ops()[0].Key, "behind"...) // can't reach the value that lies behind it
	if string(tx.Ops()[0].Value) != "value" {
		t.Errorf("writing behind a key changed its value: %q", tx.Ops()[0].Value)
	}
	tx.Frees, tx.Stamp, tx.Err = true, 1, kv.ErrConflict
	tx.Reset()
	if len(tx.Ops()) != 0 || tx.Size() != 0 || tx.Frees || tx.Stamp != 0 || tx.Err != nil {
		t.Errorf("after reset: %+v", tx)
	}
	fill := func() {
		tx.Reset()
		for range 20 {
			tx.Set(key, value)
		}
	}
	fill()
	if n := testing.AllocsPerRun(10, fill); n != 0 {
		t.Errorf("filling it again allocates %v times", n)
	}
}

func TestSetFunc(t *testing.T) {
	tx := new(kv.Tx)
	tx.Set([]byte("a"), []byte("1"))
	big := bytes.Repeat([]byte("x"), 5000)
	tx.SetFunc([]byte("b"), func(dst []byte) []byte { return append(append(dst, "2"...), big...) })
	tx.Set([]byte("c"), []byte("3"))
	if op := tx.Ops()[1]; op.Kind != kv.OpSet || string(op.Key) != "b" || string(op.Value) != "2"+string(big) {
		t.Errorf("%+v", op)
	}
	if op := tx.Ops()[0]; string(op.Key) != "a" || string(op.Value) != "1" {
		t.Errorf("the step before: %+v", op)
	}
	if tx.Size() != 2+2+1+5001 {
		t.Errorf("size %d", tx.Size())
	}
}

func TestCheck(t *testing.T) {
	long := func(n int) []byte { return bytes.Repeat([]byte("x"), n) }
	for _, c := range []struct {
		name   string
		fill   func(tx *kv.Tx)
		stamps bool
		want   error
	}{
		{"nothing", func(tx *kv.Tx) {}, false, nil},
		{"largest", func(tx *kv.Tx) { tx.Set(long(kv.MaxKey), long(kv.MaxValue)) }, false, nil},
		{"long key", func(tx *kv.Tx) { tx.Delete(long(kv.MaxKey + 1)) }, false, kv.ErrTooLarge},
		{"long value", func(tx *kv.Tx) { tx.Require(long(1), long(kv.MaxValue+1)) }, false, kv.ErrTooLarge},
		{"all", func(tx *kv.Tx) {
			for range 17 {
				tx.Set(long(1), long(kv.MaxValue))
			}
		}, false, kv.ErrTooLarge},
		{"longest stamped", func(tx *kv.Tx) { tx.SetStamped(long(kv.MaxKey-kv.StampLen), long(1)) }, true, nil},
		{"long stamped", func(tx *kv.Tx) { tx.SetStamped(long(kv.MaxKey-kv.StampLen+1), long(1)) }, true, kv.ErrTooLarge},
		{"no stamps", func(tx *kv.Tx) { tx.SetStamped(long(1), long(1)) }, false, kv.ErrInvalid},
		{"empty key", func(tx *kv.Tx) { tx.Require(nil, nil) }, false, kv.ErrInvalid},
		{"empty value", func(tx *kv.Tx) { tx.Set(long(1), nil) }, false, kv.ErrInvalid},
		{"required empty value", func(tx *kv.Tx) { tx.Require(long(1), []byte{}) }, false, nil},
		{"reserved", func(tx *kv.Tx) { tx.Delete([]byte{0xff, 0xff}) }, false, kv.ErrInvalid},
		{"nearly reserved", func(tx *kv.Tx) { tx.Delete([]byte{0xff}); tx.Delete([]byte{0xff, 0xfe, 0xff}) }, false, nil},
	} {
		tx := new(kv.Tx)
		c.fill(tx)
		if err := tx.Check(c.stamps); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}
