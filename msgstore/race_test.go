package msgstore_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"testing"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
)

// between runs a function right before the read of a given number, counted from 1.
type between struct {
	kv.Store
	reads, at int
	run       func()
}

func (b *between) tick() {
	if b.reads++; b.reads == b.at {
		b.run()
	}
}

func (b *between) Get(ctx context.Context, key []byte) ([]byte, error) {
	b.tick()
	return b.Store.Get(ctx, key)
}

func (b *between) Scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	b.tick()
	return b.Store.Scan(ctx, span, fn)
}

func (b *between) View(ctx context.Context, start, end []byte, fn func(v kv.View) error) error {
	b.tick()
	return b.Store.View(ctx, start, end, func(v kv.View) error { return fn(betweenView{v, b}) })
}

type betweenView struct {
	kv.View
	b *between
}

func (v betweenView) Get(key []byte) ([]byte, error) {
	v.b.tick()
	return v.View.Get(key)
}

func (v betweenView) Scan(span kv.Span, fn func(key, value []byte) (bool, error)) error {
	v.b.tick()
	return v.View.Scan(span, fn)
}

// What others store between the reads that a page is made of neither shows as a hole nor
// brings anything outside of what was asked for.
func TestReadsBetweenWrites(t *testing.T) {
	appendMore := func(w *world) {
		for i := range 20 {
			w.append(conv, fmt.Sprint("more", i))
		}
	}
	trim := func(w *world) {
		h, raw, err := w.Head(ctx, conv)
		w.must(err)
		w.commit(func(tx *kv.Tx) {
			_, err := w.Trim(ctx, tx, conv, raw, &h, 7, 100)
			w.must(err)
		})
	}
	merge := func(w *world) { // of the segments 5-6 and 7-8
		var s [2]Segment
		for i, last := range []uint64{6, 8} {
			raw, err := w.Get(ctx, w.keys.Segment(nil, conv, last))
			w.must(err)
			s[i], err = ParseSegment(raw)
			w.must(err)
		}
		s[0].Count, s[0].Countable = 4, []byte{0xF}
		s[0].Messages = append(s[0].Messages[:len(s[0].Messages):len(s[0].Messages)], s[1].Messages...)
		w.commit(func(tx *kv.Tx) {
			tx.Delete(w.keys.Segment(nil, conv, 6))
			tx.SetFunc(w.keys.Segment(nil, conv, 8), s[0].Append)
		})
	}
	for name, write := range map[string]func(w *world){"append": appendMore, "trim": trim, "merge": merge} {
		for at := 1; at <= 6; at++ {
			for _, before := range []uint64{0, 3, 6, 8, 9, 11, 15, 40} {
				for _, limit := range []int{2, 100} {
					w := newWorld(t)
					w.create(conv)
					for i := range 5 {
						w.append(conv, fmt.Sprint("a", i), fmt.Sprint("b", i))
					}
					page := NewTimeline(&between{Store: w.Store, at: at, run: func() { write(w) }}, w.keys)
					what := fmt.Sprintf("%s before read %d: %d before %d", name, at, limit, before)
					ms, first, last, err := page.Before(ctx, conv, before, limit, 0)
					if err != nil || before != 0 && last >= before || last-first+1 > uint64(limit) {
						t.Errorf("%s: %d to %d, %v", what, first, last, err)
					}
					w.expectSeqs(what, ms, first, last)

					w2 := newWorld(t)
					w2.create(conv)
					for i := range 5 {
						w2.append(conv, fmt.Sprint("a", i), fmt.Sprint("b", i))
					}
					page = NewTimeline(&between{Store: w2.Store, at: at, run: func() { write(w2) }}, w2.keys)
					what = fmt.Sprintf("%s before read %d: %d from %d", name, at, limit, before)
					ms, _, last, err = page.Range(ctx, conv, before, math.MaxUint64, limit, 0)
					if err != nil {
						t.Errorf("%s: %v", what, err)
					}
					if n := w2.countOf(ms); n > 0 {
						w2.expectSeqs(what, ms, last+1-uint64(n), last)
					}
				}
			}
		}
	}
}

func (w *world) countOf(messages []byte) (n int) {
	for s := w.contents(messages); s != ""; n++ {
		i := 0
		for i < len(s) && s[i] != ' ' {
			i++
		}
		s = s[min(i+1, len(s)):]
	}
	return n
}

// expectSeqs compares messages with the seqs that they are said to be of.
func (w *world) expectSeqs(what string, messages []byte, first, last uint64) {
	w.Helper()
	n := uint64(w.countOf(messages))
	if n != last+1-first {
		w.Errorf("%s: %d messages for %d to %d", what, n, first, last)
	}
	var seq uint64
	if s := w.contents(messages); s != "" {
		if _, err := fmt.Sscanf(s, "%d:", &seq); err != nil || seq != first {
			w.Errorf("%s: begins with %d, want %d", what, seq, first)
		}
	}
}

// A rewrite of a segment that somebody rewrote meanwhile, without an append, conflicts:
// it would put the old messages back.
func TestRewriteFence(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	w.append(conv, "one", "two")
	raw, err := w.Get(ctx, w.keys.Segment(nil, conv, 2))
	w.must(err)
	s, err := ParseSegment(raw)
	w.must(err)
	var tx kv.Tx
	w.must(w.Rewrite(ctx, &tx, conv, 1, s.Messages[:len(s.Messages)/2], true))
	s.Countable = []byte{1}
	w.commit(func(tx *kv.Tx) { tx.SetFunc(w.keys.Segment(nil, conv, 2), s.Append) })
	w.Commit(ctx, &tx)
	if !errors.Is(tx.Err, kv.ErrConflict) {
		t.Errorf("rewrite of what has changed: %v", tx.Err)
	}
}

// A cursor never gets a countable number of messages above it, which would hide them.
func TestCountableBetweenWrites(t *testing.T) {
	for at := 1; at <= 3; at++ {
		w := newWorld(t)
		w.create(conv)
		w.append(conv, "a", "b")
		tl := NewTimeline(&between{Store: w.Store, at: at, run: func() { w.append(conv, "c", "d", "e") }}, w.keys)
		if n, err := tl.CountableAt(ctx, conv, 2); err != nil || n > 2 {
			t.Errorf("append before read %d: countable at 2 is %d, %v", at, n, err)
		}
	}
	w := newWorld(t)
	w.create(conv)
	w.append(conv, "a", "b")
	tl := NewTimeline(&between{Store: w.Store, at: 2, run: func() { w.append(conv, "c", "d", "e") }}, w.keys)
	if n, err := tl.CountableAt(ctx, conv, 4); err != nil || n > 4 {
		t.Errorf("above the end, append before the head is read: countable at 4 is %d, %v", n, err)
	}
}
