package tikv

import (
	"bytes"
	"context"
	"fmt"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// reservedFrom is where the keys begin that nobody sees.
var reservedFrom = []byte{0xff, 0xff}

// scanBatch is how many pairs a scan without a smaller limit fetches at a time.
const scanBatch = 256

// Scan walks span as of one moment.
func (s *Store) Scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	return s.read(ctx, "scan", func(r *reading) error {
		return r.scan(span, fn)
	})
}

// iterator is the client's, whose package is internal.
type iterator interface {
	Valid() bool
	Key() []byte
	Value() []byte
	Next() error
	Close()
}

func (r *reading) scan(span kv.Span, fn func(key, value []byte) (bool, error)) error {
	start, end := bytes.Clone(span.Start), bytes.Clone(span.End)
	if span.End == nil || bytes.Compare(end, reservedFrom) > 0 {
		end = reservedFrom
	}
	if bytes.Compare(start, end) >= 0 {
		return nil
	}
	batch := scanBatch
	if span.Limit > 0 {
		batch = min(batch, max(span.Limit, 2)) // the client takes 1 for its default
	}
	r.snap.SetScanBatchSize(batch)
	open := r.snap.Iter
	from, to := start, end
	if span.Reverse {
		open, from, to = r.snap.IterReverse, end, start
	}
	it, err := ask(r, func() (iterator, error) { return open(from, to) }) // and the first batch
	if err != nil {
		return readError(r.ctx, "scan", err)
	}
	defer it.Close()
	for n := 0; it.Valid(); {
		if err := r.ctx.Err(); err != nil { // the client's scans don't know it
			return fmt.Errorf("scan: %w", err)
		}
		more, err := fn(it.Key(), it.Value())
		if err != nil {
			return err
		}
		if n++; !more || n == span.Limit {
			return nil
		}
		if err := it.Next(); err != nil { // few ask the servers, so they pass without being asked themselves
			r.s.breaker.tell(readJudgement(r.ctx, err))
			return readError(r.ctx, "scan", err)
		}
	}
	return nil
}

// View calls fn with what is committed now of the keys in [start, end).
func (s *Store) View(ctx context.Context, start, end []byte, fn func(v kv.View) error) error {
	return s.read(ctx, "view", func(r *reading) error {
		r.release() // fn may use the store first, and take its time
		return fn(r.view(start, end))
	})
}

// view is a kv.View: reads at one timestamp.
type view struct {
	r          *reading
	start, end []byte
}

func (r *reading) view(start, end []byte) *view {
	return &view{r: r, start: bytes.Clone(start), end: bytes.Clone(end)}
}

// Get implements kv.View.
func (v *view) Get(key []byte) ([]byte, error) {
	if bytes.Compare(key, v.start) < 0 || v.end != nil && bytes.Compare(key, v.end) >= 0 {
		return nil, nil
	}
	if err := v.r.ctx.Err(); err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	return v.r.get(key)
}

// Scan implements kv.View.
func (v *view) Scan(span kv.Span, fn func(key, value []byte) (bool, error)) error {
	if bytes.Compare(span.Start, v.start) < 0 {
		span.Start = v.start
	}
	if v.end != nil && (span.End == nil || bytes.Compare(span.End, v.end) > 0) {
		span.End = v.end
	}
	return v.r.scan(span, fn)
}
