package migration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
)

// part is a range of the source's keys, and how far its copy is. One worker at a time has it.
type part struct {
	msgstore.CopyPart
	number     int
	start, end []byte // of the source's keys
	raw        []byte // the target's row about it; nil: there is none
}

// pair is one row, by the source's key.
type pair struct{ key, value []byte }

// openParts reads how far the parts are.
func (r *run) openParts(ctx context.Context) error {
	spans := r.From.Portable(parts)
	keys := make([][]byte, len(spans))
	for i, span := range spans {
		r.parts = append(r.parts, &part{number: i, start: span[0], end: span[1]})
		keys[i] = r.To.CopyPart(nil, i)
	}
	var raws [][]byte
	err := r.again(ctx, func() (err error) {
		raws, err = r.Target.MultiGet(ctx, keys)
		return err
	})
	for i, p := range r.parts {
		if err == nil && raws[i] != nil {
			p.raw = raws[i]
			p.CopyPart, err = msgstore.ParseCopyPart(raws[i])
		}
	}
	if err != nil {
		return fmt.Errorf("read how far the copy is: %w", err)
	}
	return nil
}

// each does something with every part, several at a time, and returns the first error.
func (r *run) each(ctx context.Context, do func(context.Context, *part) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan *part)
	var workers sync.WaitGroup
	for range r.Workers {
		workers.Go(func() {
			for p := range next {
				if err := do(ctx, p); err != nil {
					cancel(err) // the first one counts
				}
			}
		})
	}
	for _, p := range r.parts {
		select {
		case next <- p:
		case <-ctx.Done():
		}
	}
	close(next)
	workers.Wait()
	return context.Cause(ctx)
}

// count finds out how much there is.
func (r *run) count(ctx context.Context, p *part) error {
	if p.State == msgstore.PartVerified {
		r.Progress.counted(p.Rows, p.Bytes)
		r.Progress.copied(p.Rows, p.Bytes)
		r.Progress.verified(p.Rows, p.Bytes)
		return nil
	}
	r.Progress.copied(p.Rows, p.Bytes)
	for from := p.start; from != nil; {
		var err error
		if from, err = r.read(ctx, p, from, nil, func(rows int, bytes int) { r.Progress.counted(uint64(rows), uint64(bytes)) }); err != nil {
			return fmt.Errorf("read the source: %w", err)
		}
	}
	return nil
}

// read reads rows of a part from the source key from on, a transaction's worth of them, into batch (nil: they are only
// counted) and tells their number and bytes. next nil: that was all.
func (r *run) read(ctx context.Context, p *part, from []byte, batch *[]pair, told func(rows, bytes int)) (next []byte, err error) {
	var rows, size int
	var last []byte
	err = r.again(ctx, func() error {
		rows, size, next = 0, 0, nil
		if batch != nil {
			*batch = (*batch)[:0]
		}
		return r.Source.Scan(ctx, kv.Span{Start: from, End: p.end}, func(key, value []byte) (bool, error) {
			if r.From.Own(key) {
				return true, nil
			}
			rows++
			size += len(key) + len(value)
			if batch != nil {
				*batch = append(*batch, pair{bytes.Clone(key), bytes.Clone(value)})
			}
			if rows < maxRows && size < r.BatchBytes {
				return true, nil
			}
			last = append(last[:0], key...)
			next = append(bytes.Clone(last), 0)
			return false, nil
		})
	})
	if err == nil {
		told(rows, size)
	}
	return next, err
}

// target appends the target's key of a row of the source.
func (r *run) target(dst, key []byte) []byte {
	start, _ := r.To.Whole()
	return append(append(dst, start...), key[msgstore.KeyspaceLen:]...)
}

// copy brings a part over.
func (r *run) copy(ctx context.Context, p *part) error {
	if p.State >= msgstore.PartCopied {
		return nil
	}
	from := p.start
	if len(p.Cursor) > 0 {
		start, _ := r.From.Whole()
		from = append(append(start, p.Cursor...), 0)
	}
	var batch []pair
	now, unsaved := p.CopyPart, 0
	for from != nil {
		var size int
		var err error
		if from, err = r.read(ctx, p, from, &batch, func(_, bytes int) { size = bytes }); err != nil {
			return fmt.Errorf("read the source: %w", err)
		}
		if len(batch) == 0 {
			break
		}
		if err := r.put(ctx, batch); err != nil {
			return fmt.Errorf("write the target: %w", err)
		}
		r.Progress.copied(uint64(len(batch)), uint64(size))
		now.Rows += uint64(len(batch))
		now.Bytes += uint64(size)
		now.Cursor = batch[len(batch)-1].key[msgstore.KeyspaceLen:]
		if unsaved += size; unsaved >= r.SaveBytes && from != nil {
			if err := r.save(ctx, p, now); err != nil {
				return err
			}
			unsaved = 0
		}
	}
	now.State, now.Cursor = msgstore.PartCopied, nil
	return r.save(ctx, p, now)
}

// put writes rows that the target doesn't have. Those that it has must be the same.
func (r *run) put(ctx context.Context, batch []pair) error {
	var tx kv.Tx
	var key []byte
	for {
		tx.Reset()
		for _, row := range batch {
			key = r.target(key[:0], row.key)
			tx.Require(key, nil)
			tx.Set(key, row.value)
		}
		err := r.commit(ctx, &tx)
		if !errors.Is(err, kv.ErrConflict) && !errors.Is(err, kv.ErrUndetermined) {
			return err
		}
		// An earlier run, or this one, was here.
		keys, values := make([][]byte, len(batch)), [][]byte(nil)
		for i, row := range batch {
			keys[i] = r.target(nil, row.key)
		}
		if err := r.again(ctx, func() (err error) {
			values, err = r.Target.MultiGet(ctx, keys)
			return err
		}); err != nil {
			return err
		}
		left := make([]pair, 0, len(batch))
		for i, row := range batch {
			if values[i] == nil {
				left = append(left, row)
			} else if !bytes.Equal(values[i], row.value) {
				return fmt.Errorf("key %x has another value: %w", keys[i], ErrDiffers)
			}
		}
		if len(left) == 0 {
			return nil
		}
		batch = left
	}
}

// save stores how far a part is.
func (r *run) save(ctx context.Context, p *part, now msgstore.CopyPart) error {
	key, raw := r.To.CopyPart(nil, p.number), now.Append(nil)
	var tx kv.Tx
	for {
		tx.Reset()
		tx.Require(key, p.raw)
		tx.Set(key, raw)
		err := r.commit(ctx, &tx)
		if errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrUndetermined) {
			var there []byte
			if err = r.again(ctx, func() (err error) {
				there, err = r.Target.Get(ctx, key)
				return err
			}); err == nil && !bytes.Equal(there, raw) {
				if bytes.Equal(there, p.raw) {
					continue
				}
				err = errors.New("another run is at it")
			}
		}
		if err != nil {
			return fmt.Errorf("note how far the copy is: %w", err)
		}
		p.CopyPart, p.raw = now, raw
		return nil
	}
}

// verify compares every row of a part with the target's.
func (r *run) verify(ctx context.Context, p *part) error {
	if p.State == msgstore.PartVerified {
		return nil
	}
	var batch []pair
	var rows, sum uint64
	start, end := r.target(nil, p.start), r.target(nil, p.end)
	for from := p.start; from != nil; {
		var size int
		var err error
		if from, err = r.read(ctx, p, from, &batch, func(_, bytes int) { size = bytes }); err != nil {
			return fmt.Errorf("read the source: %w", err)
		}
		until := end
		if from != nil {
			until = r.target(nil, from)
		}
		if err := r.same(ctx, batch, start, until); err != nil {
			return fmt.Errorf("compare: %w", err)
		}
		start = until
		rows += uint64(len(batch))
		sum += uint64(size)
		r.Progress.verified(uint64(len(batch)), uint64(size))
	}
	if rows != p.Rows || sum != p.Bytes {
		return fmt.Errorf("the source has %d rows of %d bytes where %d of %d were copied, so it has changed: %w", rows, sum, p.Rows, p.Bytes, ErrDiffers)
	}
	now := p.CopyPart
	now.State = msgstore.PartVerified
	return r.save(ctx, p, now)
}

// same compares rows with those that the target has in [start, end).
func (r *run) same(ctx context.Context, batch []pair, start, end []byte) error {
	return r.again(ctx, func() error {
		i := 0
		var want []byte
		err := r.Target.Scan(ctx, kv.Span{Start: start, End: end}, func(key, value []byte) (bool, error) {
			if r.To.Own(key) {
				return true, nil
			}
			if i < len(batch) {
				want = r.target(want[:0], batch[i].key)
			}
			switch {
			case i == len(batch) || bytes.Compare(key, want) < 0:
				return false, fmt.Errorf("key %x isn't in the source: %w", key, ErrDiffers)
			case !bytes.Equal(key, want):
				return false, fmt.Errorf("key %x is missing: %w", want, ErrDiffers)
			case !bytes.Equal(value, batch[i].value):
				return false, fmt.Errorf("key %x has another value: %w", key, ErrDiffers)
			}
			i++
			return true, nil
		})
		if err == nil && i < len(batch) {
			err = fmt.Errorf("key %x is missing: %w", r.target(nil, batch[i].key), ErrDiffers)
		}
		return err
	})
}

// commit commits a transaction, again and again while the store is away or full.
func (r *run) commit(ctx context.Context, tx *kv.Tx) error {
	return r.again(ctx, func() error {
		r.Target.Commit(ctx, tx)
		return tx.Err
	})
}

// certain commits a transaction that may be stored twice until it is stored.
func (r *run) certain(ctx context.Context, tx *kv.Tx) error {
	for {
		if err := r.commit(ctx, tx); !errors.Is(err, kv.ErrUndetermined) {
			return err
		}
	}
}

// again does something that changes nothing when it fails with ErrUnavailable or ErrFull until it does something else, or
// Patience is over.
func (r *run) again(ctx context.Context, do func() error) error {
	pause, begun := r.Pause, time.Now()
	for {
		err := do()
		if err == nil || !errors.Is(err, kv.ErrUnavailable) && !errors.Is(err, kv.ErrFull) {
			return err
		}
		if e := context.Cause(ctx); e != nil {
			return e
		}
		if time.Since(begun) > r.Patience {
			return err
		}
		r.log.Debug("a store doesn't answer, and is asked again", "err", err)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		pause = min(2*pause, 64*r.Pause)
	}
}
