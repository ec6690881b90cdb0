package msgstore_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// segments are those of c: first to last seq and the bits of each.
func (w *world) segments(c id.ConversationID) string {
	w.Helper()
	var list []string
	prefix := w.keys.Segments(nil, c)
	w.must(w.Scan(ctx, kv.Span{Start: prefix, End: append(bytes.Clone(prefix), 0xFF)}, func(_, v []byte) (bool, error) {
		s, err := ParseSegment(v)
		list = append(list, fmt.Sprintf("%d-%d", s.FirstSeq, s.LastSeq()))
		return true, err
	}))
	return strings.Join(list, " ")
}

func (w *world) merge(since, before int64) (n int) {
	w.Helper()
	s := NewSweeper(SweeperConfig{Store: w.Store, Keys: w.keys, Logger: quiet})
	for {
		k, done, err := s.SweepSmall(ctx, since, before, 1)
		w.must(err)
		if n += k; done {
			return n
		}
	}
}

// A long conversation is merged in portions, which go on where the one before ended, and what is young in it isn't read through.
func TestLongOnesInPortions(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	const step = 512 // segments that one step reads
	const old, young = 3 * step, 2 * step
	for range old {
		w.append(conv, "x")
	}
	end := w.ms
	for range young {
		w.append(conv, "y")
	}
	read := 0
	s := NewSweeper(SweeperConfig{Store: counting{w.Store, &read}, Keys: w.keys, Logger: quiet})
	merged, portions := 0, 0
	for done := false; !done; portions++ {
		var n int
		var err error
		n, done, err = s.SweepSmall(ctx, 0, end, 1)
		w.must(err)
		merged += n
	}
	if want := old - old/MaxSegmentMessages; merged != want || portions < 3 {
		t.Errorf("%d rows fewer in %d portions, want %d in three or more", merged, portions, want)
	}
	if most := old + 64; read > most {
		t.Errorf("%d rows were read, want at most %d of %d", read, most, old+young)
	}
	read = 0
	if n, done, err := s.SweepSmall(ctx, 0, 1, 10); n != 0 || !done || err != nil || read > 32 {
		t.Errorf("where everything is young %d rows were read: %d rows fewer, %v, %v", read, n, done, err)
	}
}

// counting counts the rows of scans.
type counting struct {
	kv.Store
	rows *int
}

func (s counting) Scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	return s.Store.Scan(ctx, span, func(key, value []byte) (bool, error) {
		*s.rows++
		return fn(key, value)
	})
}

func TestSmallSegmentsAreMerged(t *testing.T) {
	w := newWorld(t)
	for _, c := range []id.ConversationID{conv, group} {
		w.create(c)
	}
	for range 300 {
		w.append(conv, "x")
	}
	end := w.ms
	w.append(conv, "young")
	w.append(group, "alone")
	before, _, _, err := w.Range(ctx, conv, 1, 301, 0, 0)
	w.must(err)
	if n := w.merge(0, end); n != 298 {
		t.Errorf("%d rows fewer, want 298", n)
	}
	if got := w.segments(conv); got != "1-256 257-300 301-301" {
		t.Error(got)
	}
	after, _, last, err := w.Range(ctx, conv, 1, 301, 0, 0)
	if err != nil || last != 301 || !bytes.Equal(before, after) {
		t.Errorf("up to %d, %v: other bytes than before", last, err)
	}
	if n, err := w.Unread(ctx, conv, 250, 300, "bob", 0); n != 50 || err != nil {
		t.Errorf("%d unread, %v", n, err)
	}
	if n := w.merge(0, end); n != 0 {
		t.Errorf("the next pass finds %d rows", n)
	}
	// What follows joins the last, once it is worth it: 1 to 44 isn't, 50 to 44 is.
	if n := w.merge(end, end+1e6); n != 0 {
		t.Errorf("%d rows fewer, for one message", n)
	}
	for range 49 {
		w.append(conv, "x")
	}
	if n := w.merge(end, w.ms); n != 50 {
		t.Errorf("%d rows fewer, want 50", n)
	}
	if got := w.segments(conv); got != "1-256 257-350" {
		t.Error(got)
	}
	// Large messages stay within a segment's size.
	for range 6 {
		w.append(conv, strings.Repeat("x", 5000))
	}
	if w.merge(w.ms-6, w.ms); w.segments(conv) != "1-256 257-350 351-352 353-354 355-356" {
		t.Error(w.segments(conv))
	}
	w.audit()
}

// A merge and whatever else touches the same segments exclude each other, in either order.
func TestMergeIsFenced(t *testing.T) {
	change := func(w *world, tx *kv.Tx) {
		raw, _, _, err := w.Range(ctx, conv, 2, 2, 0, 0)
		w.must(err)
		v, _, verr := packet.NextMessage(raw)
		if verr != nil {
			t.Fatal(verr)
		}
		element := packet.AppendChanged(nil, 2, v.ID, "alice", 4, 0, makeTail(v.ClientMsgID, 1, []byte("changed")))
		w.must(w.Rewrite(ctx, tx, conv, 2, element, true))
	}
	trim := func(w *world, tx *kv.Tx) {
		h, raw, err := w.Head(ctx, conv)
		w.must(err)
		_, err = w.Trim(ctx, tx, conv, raw, &h, 3, 10)
		w.must(err)
	}
	for name, other := range map[string]func(*world, *kv.Tx){"a change": change, "retention": trim} {
		w := newWorld(t)
		w.create(conv)
		for range 4 {
			w.append(conv, "x")
		}
		var tx kv.Tx
		other(w, &tx)
		w.merge(0, w.ms)
		if w.Commit(ctx, &tx); tx.Err == nil {
			t.Errorf("%s went through after a merge", name)
		}
		w.audit()

		w = newWorld(t)
		w.create(conv)
		for range 4 {
			w.append(conv, "x")
		}
		f := &late{Store: w.Store, run: func() {
			var tx kv.Tx
			other(w, &tx)
			w.Commit(ctx, &tx)
			w.must(tx.Err)
		}}
		s := NewSweeper(SweeperConfig{Store: f, Keys: w.keys, Logger: quiet})
		if n, done, err := s.SweepSmall(ctx, 0, w.ms, 10); n != 0 || !done || err != nil {
			t.Errorf("after %s: %d rows fewer, %v, %v", name, n, done, err)
		}
		w.audit()
	}
}

// late runs something right before a commit.
type late struct {
	kv.Store
	run func()
}

func (l *late) Commit(c context.Context, txs ...*kv.Tx) {
	l.run()
	l.Store.Commit(c, txs...)
}
