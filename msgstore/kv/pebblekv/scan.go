package pebblekv

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/cockroachdb/pebble/v2"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// scanCheck is after how many pairs a scan looks whether its context ended.
const scanCheck = 256

// Scan walks span as of one moment. The slices that fn gets are Pebble's.
func (s *Store) Scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	return s.iterate(ctx, span.Start, span.End, func(v *window) error { return v.Scan(span, fn) })
}

// View calls fn with what is durable now of the keys in [start, end). All of its reads go through
// one iterator: to make one costs more than to move it.
func (s *Store) View(ctx context.Context, start, end []byte, fn func(v kv.View) error) error {
	return s.iterate(ctx, start, end, func(v *window) error { return fn(v) })
}

func (s *Store) iterate(ctx context.Context, start, end []byte, fn func(v *window) error) error {
	if len(start) == 0 {
		start = nil // an empty bound is none to the engine
	}
	if end == nil || bytes.Compare(end, reservedFrom) > 0 {
		end = reservedFrom
	}
	return s.read(ctx, "scan", func(snap *pebble.Snapshot) (err error) {
		w := windows.Get().(*window)
		defer w.put()
		w.ctx, w.start, w.end = ctx, start, end
		if bytes.Compare(start, end) >= 0 {
			return fn(w) // without an iterator it is empty
		}
		w.opts.LowerBound, w.opts.UpperBound = start, end
		if w.it, err = snap.NewIter(&w.opts); err != nil {
			return fmt.Errorf("scan from %x: %w", start, err)
		}
		defer func() {
			if cerr := w.it.Close(); err == nil && cerr != nil {
				err = fmt.Errorf("scan from %x: %w", start, cerr)
			}
		}()
		return fn(w)
	})
}

// window is a kv.View: an iterator between bounds.
type window struct {
	ctx        context.Context
	start, end []byte
	it         *pebble.Iterator // nil: there is nothing between the bounds
	opts       pebble.IterOptions
	upward     bool // the iterator stands where a scan upward left it
}

// nearby is how many keys behind the end of a scan are looked at before a key is sought from above: a step
// costs a hundredth of that.
const nearby = 8

var windows = sync.Pool{New: func() any { return new(window) }}

func (w *window) put() {
	*w = window{}
	windows.Put(w)
}

// Get implements kv.View. The value is Pebble's.
func (w *window) Get(key []byte) ([]byte, error) {
	if w.it == nil || len(key) == 0 || bytes.Compare(key, w.start) < 0 || bytes.Compare(key, w.end) >= 0 {
		return nil, nil
	}
	if w.upward && bytes.Compare(w.it.Key(), key) <= 0 {
		for range nearby {
			switch order := bytes.Compare(w.it.Key(), key); {
			case order == 0:
				return w.value(key)
			case order > 0:
				return nil, nil
			}
			if w.upward = w.it.Next(); !w.upward {
				if err := w.it.Error(); err != nil {
					return nil, fmt.Errorf("get %x: %w", key, err)
				}
				return nil, nil // nothing follows
			}
		}
	}
	w.upward = false
	// A prefix is a whole key here, so the tables' filters are asked, and nothing behind the key is looked at.
	if !w.it.SeekPrefixGE(key) {
		if err := w.it.Error(); err != nil {
			return nil, fmt.Errorf("get %x: %w", key, err)
		}
		return nil, nil
	}
	return w.value(key)
}

// value is that of key, where the iterator stands.
func (w *window) value(key []byte) ([]byte, error) {
	value, err := w.it.ValueAndErr()
	if err != nil {
		return nil, fmt.Errorf("get %x: %w", key, err)
	}
	return value, nil
}

// Scan implements kv.View. The slices that fn gets are Pebble's.
func (w *window) Scan(span kv.Span, fn func(key, value []byte) (bool, error)) error {
	start, end := span.Start, span.End
	if bytes.Compare(start, w.start) < 0 {
		start = w.start
	}
	if end == nil || bytes.Compare(end, w.end) > 0 {
		end = w.end
	}
	if w.it == nil || bytes.Compare(start, end) >= 0 {
		return nil
	}
	it := w.it
	w.upward = false
	defer func() { w.upward = !span.Reverse && it.Valid() }()
	atStart, atEnd := bytes.Equal(start, w.start), bytes.Equal(end, w.end)
	var ok bool
	next := it.Next
	switch {
	case span.Reverse && atEnd:
		ok, next = it.Last(), it.Prev
	case span.Reverse:
		ok, next = it.SeekLT(end), it.Prev
	case atStart:
		ok = it.First()
	default:
		ok = it.SeekGE(start)
	}
	for n := 1; ok; n, ok = n+1, next() {
		switch { // the iterator keeps to its own bounds
		case span.Reverse && !atStart && bytes.Compare(it.Key(), start) < 0,
			!span.Reverse && !atEnd && bytes.Compare(it.Key(), end) >= 0:
			return nil
		}
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("scan at %x: %w", it.Key(), err)
		}
		if more, err := fn(it.Key(), value); err != nil || !more {
			return err
		}
		if n == span.Limit {
			return nil
		}
		if n%scanCheck == 0 && w.ctx.Err() != nil {
			return fmt.Errorf("scan: %w", w.ctx.Err())
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("scan from %x: %w", start, err)
	}
	return nil
}
