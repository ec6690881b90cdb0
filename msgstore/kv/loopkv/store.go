package loopkv

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// Store is a served store. What it can't reach is kv.ErrUnavailable; a commit whose answer was
// lost is kv.ErrUndetermined.
type Store struct {
	addr   string
	stamps bool

	mu     sync.Mutex
	idle   []*frames
	closed bool
}

var _ kv.Store = (*Store)(nil)

// connectTime bounds the opening of a connection.
const connectTime = 2 * time.Second

// Open returns the store that a Server serves at addr.
func Open(ctx context.Context, addr string) (*Store, error) {
	s := &Store{addr: addr}
	err := s.ask(ctx, func(f *frames) error {
		f.putByte(opStamps)
		if err := f.call(); err != nil {
			return err
		}
		s.stamps = f.bool()
		return f.ended()
	})
	if err != nil {
		return nil, fmt.Errorf("opening the store at %s: %w", addr, err)
	}
	return s, nil
}

// take returns a connection.
func (s *Store) take(ctx context.Context) (*frames, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("loopkv: %w", err)
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, kv.ErrClosed
	}
	if n := len(s.idle); n > 0 {
		f := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		return f, nil
	}
	s.mu.Unlock()
	d := net.Dialer{Timeout: connectTime}
	c, err := d.DialContext(ctx, "tcp", s.addr)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("loopkv: %w", ctx.Err())
		}
		return nil, fmt.Errorf("loopkv: %w: %w", kv.ErrUnavailable, err)
	}
	return newFrames(c), nil
}

func (s *Store) give(f *frames) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = f.Close()
		return
	}
	s.idle = append(s.idle, f)
}

// broken is an error of the connection, as opposed to one of the store behind it.
type broken struct {
	error
	midway bool // the caller has seen a part of the answer
}

func (b broken) Unwrap() error { return b.error }

// call sends the request and receives its answer.
func (f *frames) call() error {
	if err := f.send(); err != nil {
		return broken{error: err}
	}
	if err := f.receive(); err != nil {
		return broken{error: err}
	}
	return nil
}

// ask runs a request that only reads. It ends with ctx. A connection that broke is not used again; that an idle one has
// is noticed with the first request on it, which is then made again on a new one.
func (s *Store) ask(ctx context.Context, request func(f *frames) error) error {
	for again := true; ; again = false {
		f, err := s.take(ctx)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = f.Conn.Close() })
		err = request(f)
		var lost broken
		if !stop() || errors.As(err, &lost) || f.fail != nil {
			_ = f.Close()
		} else {
			s.give(f)
		}
		switch {
		case lost.error == nil:
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("loopkv: %w", ctx.Err())
		case !again || lost.midway:
			return fmt.Errorf("loopkv: %w: %w", kv.ErrUnavailable, lost.error)
		}
		s.forget()
	}
}

// forget closes the idle connections: what broke one broke the others.
func (s *Store) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.idle {
		_ = f.Close()
	}
	s.idle = nil
}

// Get implements kv.Store.
func (s *Store) Get(ctx context.Context, key []byte) (value []byte, err error) {
	err = s.ask(ctx, func(f *frames) error {
		value, err = f.get(key)
		value = clone(value)
		return err
	})
	return value, err
}

// get asks for a key; the value is valid until the next frame.
func (f *frames) get(key []byte) ([]byte, error) {
	f.putByte(opGet)
	f.putBytes(key)
	if err := f.call(); err != nil {
		return nil, err
	}
	err := f.error()
	value := f.value()
	return value, errors.Join(err, f.ended())
}

// MultiGet implements kv.Store.
func (s *Store) MultiGet(ctx context.Context, keys [][]byte) (values [][]byte, err error) {
	err = s.ask(ctx, func(f *frames) error {
		f.putByte(opMultiGet)
		f.putUint(uint64(len(keys)))
		for _, k := range keys {
			f.putBytes(k)
		}
		if err := f.call(); err != nil {
			return err
		}
		if err := f.error(); err != nil {
			return err
		}
		values = make([][]byte, len(keys))
		for i := range values {
			values[i] = clone(f.value())
		}
		return f.ended()
	})
	return values, err
}

// Scan implements kv.Store.
func (s *Store) Scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	return s.ask(ctx, func(f *frames) error { return f.scan(ctx, span, fn) })
}

// scan asks for a span.
func (f *frames) scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	f.putByte(opScan)
	f.putSpan(span)
	if err := f.call(); err != nil {
		return err
	}
	var failed error // fn's
	began, wanted := false, true
	for {
		switch f.byte() {
		case scanEnd:
			err := f.error()
			if err := f.ended(); err != nil {
				return err
			}
			if !wanted {
				err = failed
			}
			return err
		case scanPair:
			k, v := f.bytes(), f.bytes()
			if f.fail != nil {
				return f.fail
			}
			if wanted && ctx.Err() != nil {
				wanted, failed = false, fmt.Errorf("loopkv: %w", ctx.Err())
			}
			if wanted {
				began = true
				wanted, failed = fn(k, v)
				wanted = wanted && failed == nil
			}
		case scanMore:
			if err := f.ended(); err != nil {
				return err
			}
			f.putBool(wanted)
			if err := f.call(); err != nil {
				return broken{err, began}
			}
		default:
			f.fail = errFrame
			return f.fail
		}
	}
}

// View implements kv.Store.
func (s *Store) View(ctx context.Context, start, end []byte, fn func(v kv.View) error) error {
	return s.ask(ctx, func(f *frames) error {
		f.putByte(opView)
		f.putValue(start)
		f.putValue(end)
		if err := f.call(); err != nil {
			return err
		}
		err := f.error()
		if ended := f.ended(); err != nil || ended != nil {
			return errors.Join(err, ended)
		}
		if err := fn(&view{ctx, f}); err != nil {
			var lost broken
			if errors.As(err, &lost) {
				err = broken{lost.error, true}
			} else {
				f.endView()
			}
			return err
		}
		f.endView()
		return nil
	})
}

// endView gives the view of a connection up. A request may follow at once.
func (f *frames) endView() {
	f.putByte(opEnd)
	if f.send() != nil {
		f.fail = errFrame // it isn't used again
	}
}

// view is a kv.View.
type view struct {
	ctx context.Context
	f   *frames
}

// Get implements kv.View.
func (v *view) Get(key []byte) ([]byte, error) {
	if err := v.ctx.Err(); err != nil {
		return nil, fmt.Errorf("loopkv: %w", err)
	}
	return v.f.get(key)
}

// Scan implements kv.View.
func (v *view) Scan(span kv.Span, fn func(key, value []byte) (bool, error)) error {
	return v.f.scan(v.ctx, span, fn)
}

// Commit implements kv.Store.
func (s *Store) Commit(ctx context.Context, txs ...*kv.Tx) {
	var batch []*kv.Tx
	size := 0
	for _, tx := range txs {
		if tx.Err = tx.Check(s.stamps); tx.Err != nil {
			continue
		}
		if size+tx.Size() > maxBatch {
			s.commit(ctx, batch)
			batch, size = batch[:0], 0
		}
		batch, size = append(batch, tx), size+tx.Size()
	}
	if len(batch) > 0 {
		s.commit(ctx, batch)
	}
}

// commit asks for one batch, once: whoever gave it runs it again.
func (s *Store) commit(ctx context.Context, txs []*kv.Tx) {
	fail := func(err error) {
		for _, tx := range txs {
			tx.Err = err
		}
	}
	f, err := s.fresh(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", kv.ErrUnavailable, err)
		}
		fail(err)
		return
	}
	f.putByte(opCommit)
	f.putUint(uint64(len(txs)))
	for _, tx := range txs {
		f.putTx(tx)
	}
	stop := context.AfterFunc(ctx, func() { _ = f.Conn.Close() })
	err = f.call()
	if err == nil {
		for _, tx := range txs {
			tx.Err = f.error()
			tx.Stamp = f.uint()
		}
		err = f.ended()
	}
	if !stop() || err != nil {
		_ = f.Close()
	} else {
		s.give(f)
	}
	if err != nil {
		fail(fmt.Errorf("loopkv: the answer to a commit was lost: %w: %w", kv.ErrUndetermined, err))
	}
}

// fresh takes a connection that a request may be sent on once: one that the server has closed is
// found out first, so that most commits whose server is gone are known not to have been made.
func (s *Store) fresh(ctx context.Context) (*frames, error) {
	for {
		f, err := s.take(ctx)
		if err != nil {
			return nil, err
		}
		_ = f.SetReadDeadline(time.Now().Add(-time.Second))
		_, err = f.r.Peek(1)
		_ = f.SetReadDeadline(time.Time{})
		if errors.Is(err, os.ErrDeadlineExceeded) { // nothing to read, as it should be
			return f, nil
		}
		_ = f.Close()
	}
}

// Stamps implements kv.Store.
func (s *Store) Stamps() bool { return s.stamps }

// Close closes the connections; the server and what it serves stay.
func (s *Store) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	s.forget()
	if was {
		return kv.ErrClosed
	}
	return nil
}
