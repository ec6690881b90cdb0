package tikv

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// holdFor is how long garbage of what is being read stays after the reader died, and a third of it how often the reader says that it lives.
const holdFor = 10 * time.Minute

// AsOfNow calls fn with the store as it is now, and stays while fn runs, whatever is written meanwhile: an audit that reads
// everything. past can't be written to, and is of no use after fn returned. Garbage collection is held back meanwhile; where
// PD doesn't take that, what was written before fn began can be read for as long as versions are kept.
func (s *Store) AsOfNow(ctx context.Context, fn func(past kv.Store) error) error {
	if !s.inside.enter() {
		return fmt.Errorf("read the past: %w", kv.ErrClosed)
	}
	defer s.inside.leave()
	ts, err := s.timestamp(ctx)
	if err != nil {
		return readError(ctx, "read the past", err)
	}
	release := s.holdBack(ctx, ts)
	defer release()
	return fn(past{s, ts})
}

// holdBack keeps old versions as of ts from being removed until release is called, or this process is dead for holdFor.
func (s *Store) holdBack(ctx context.Context, ts uint64) (release func()) {
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	service := "gochat-reader-" + hex.EncodeToString(random[:])
	tell := func(ctx context.Context, ttl time.Duration) {
		ctx, cancel := context.WithTimeout(ctx, holdFor/10)
		defer cancel()
		// With a TTL of 0 PD forgets the service.
		if _, err := s.pd.UpdateServiceGCSafePoint(ctx, service, int64(ttl/time.Second), ts); err != nil && ctx.Err() == nil {
			s.log.Warn("garbage collection isn't held back for a long read", "err", err)
		}
	}
	tell(ctx, holdFor)
	holding, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(holdFor / 3)
		defer tick.Stop()
		for {
			select {
			case <-holding.Done():
				return
			case <-tick.C:
				tell(holding, holdFor)
			}
		}
	}()
	return func() {
		stop()
		<-ended
		tell(context.WithoutCancel(ctx), 0)
	}
}

// past is the store as of one timestamp.
type past struct {
	store *Store
	ts    uint64
}

// reading returns what is read from for a single call: it keeps what it read, and isn't safe for concurrent use.
func (p past) reading(ctx context.Context, what string) (*reading, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return p.store.at(ctx, p.ts), nil
}

func (p past) Get(ctx context.Context, key []byte) ([]byte, error) {
	r, err := p.reading(ctx, "get")
	if err != nil {
		return nil, err
	}
	return r.get(key)
}

func (p past) MultiGet(ctx context.Context, keys [][]byte) ([][]byte, error) {
	r, err := p.reading(ctx, "multi-get")
	if err != nil {
		return nil, err
	}
	return r.multiGet(keys)
}

func (p past) Scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	r, err := p.reading(ctx, "scan")
	if err != nil {
		return err
	}
	return r.scan(span, fn)
}

func (p past) View(ctx context.Context, start, end []byte, fn func(v kv.View) error) error {
	r, err := p.reading(ctx, "view")
	if err != nil {
		return err
	}
	return fn(r.view(start, end))
}

// Commit refuses.
func (p past) Commit(_ context.Context, txs ...*kv.Tx) {
	refuse(txs, fmt.Errorf("commit to the past: %w", kv.ErrInvalid))
}

func (p past) Stamps() bool { return false }

// Close does nothing: the store goes on.
func (p past) Close() error { return nil }
