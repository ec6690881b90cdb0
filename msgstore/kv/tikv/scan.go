package tikv

import (
	"bytes"
	"context"
	"fmt"

	"github.com/tikv/client-go/v2/txnkv/txnsnapshot"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// reservedFrom is where the keys begin that nobody sees.
var reservedFrom = []byte{0xff, 0xff}

// scanBatch is how many pairs a scan without a smaller limit fetches at a time.
const scanBatch = 256

// Scan walks span as of one moment.
func (s *Store) Scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	return s.read(ctx, "scan", func(snap *txnsnapshot.KVSnapshot) error {
		return scan(ctx, snap, span, fn)
	})
}

func scan(ctx context.Context, snap *txnsnapshot.KVSnapshot, span kv.Span, fn func(key, value []byte) (bool, error)) error {
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
	snap.SetScanBatchSize(batch)
	open := snap.Iter
	from, to := start, end
	if span.Reverse {
		open, from, to = snap.IterReverse, end, start
	}
	it, err := open(from, to)
	if err != nil {
		return readError(ctx, "scan", err)
	}
	defer it.Close()
	for n := 0; it.Valid(); {
		if err := ctx.Err(); err != nil { // the client's scans don't know it
			return fmt.Errorf("scan: %w", err)
		}
		more, err := fn(it.Key(), it.Value())
		if err != nil {
			return err
		}
		if n++; !more || n == span.Limit {
			return nil
		}
		if err := it.Next(); err != nil {
			return readError(ctx, "scan", err)
		}
	}
	return nil
}

// View calls fn with what is committed now of the keys in [start, end).
func (s *Store) View(ctx context.Context, start, end []byte, fn func(v kv.View) error) error {
	return s.read(ctx, "view", func(snap *txnsnapshot.KVSnapshot) error {
		return fn(&view{ctx: ctx, snap: snap, start: bytes.Clone(start), end: bytes.Clone(end)})
	})
}

// view is a kv.View: reads at one timestamp.
type view struct {
	ctx        context.Context
	snap       *txnsnapshot.KVSnapshot
	start, end []byte
}

// Get implements kv.View.
func (v *view) Get(key []byte) ([]byte, error) {
	if bytes.Compare(key, v.start) < 0 || v.end != nil && bytes.Compare(key, v.end) >= 0 {
		return nil, nil
	}
	if err := v.ctx.Err(); err != nil {
		return nil, fmt.Errorf("get: %w", err)
	}
	return get(v.ctx, v.snap, key)
}

// Scan implements kv.View.
func (v *view) Scan(span kv.Span, fn func(key, value []byte) (bool, error)) error {
	if bytes.Compare(span.Start, v.start) < 0 {
		span.Start = v.start
	}
	if v.end != nil && (span.End == nil || bytes.Compare(span.End, v.end) > 0) {
		span.End = v.end
	}
	return scan(v.ctx, v.snap, span, fn)
}
