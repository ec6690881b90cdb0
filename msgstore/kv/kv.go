// Package kv is the port to the ordered, transactional key-value store that
// everything durable in GoChat lies in.
//
// Adapters: kv/memory and kv/loopkv (tests), kv/pebblekv (the embedded engine), kv/tikv (what
// the nodes of a cluster share) and, wrapping any of them, kv/faultkv. kv/kvtest is the conformance suite that each of them
// passes.
package kv

import (
	"context"
	"errors"
)

// Errors that a Store returns, wrapped with what was being done. Test with errors.Is.
var (
	// ErrConflict: a key that the transaction required or wrote was changed by
	// somebody else. Nothing of the transaction was stored. Read again, run again.
	ErrConflict = errors.New("kv: conflict")

	// ErrUndetermined: the transaction may have been stored, may be stored later,
	// or may never be. Whoever runs it again must be safe against all three: a
	// later transaction that writes a key which this one required fences it.
	ErrUndetermined = errors.New("kv: commit outcome undetermined")

	// ErrFull: the store is close to its capacity and takes only transactions that
	// free space (Tx.Frees). Nothing was stored; it may be tried again later.
	ErrFull = errors.New("kv: store is nearly full")

	// ErrTooLarge: a key, a value or the transaction is over the store's limits.
	// Nothing was stored and trying again is of no use.
	ErrTooLarge = errors.New("kv: entry or transaction too large")

	// ErrInvalid: the transaction is not one that a store can take: an empty or
	// reserved key, an empty value, a stamped key where there are no stamps.
	// Nothing was stored and trying again is of no use.
	ErrInvalid = errors.New("kv: invalid transaction")

	// ErrUnavailable: the store can't be reached now. Nothing was stored.
	ErrUnavailable = errors.New("kv: store unavailable")

	// ErrClosed: the store was closed.
	ErrClosed = errors.New("kv: store is closed")
)

// Limits that every adapter enforces, so that what one store takes another takes too.
const (
	MaxKey   = 1 << 10   // bytes a key
	MaxValue = 256 << 10 // bytes a value
	MaxTx    = 4 << 20   // bytes of keys and values a transaction
)

// Span is the half-open range of keys [Start, End) and how to walk it.
type Span struct {
	Start, End []byte // End nil: to the end of the store
	Reverse    bool   // from the last key to the first
	Limit      int    // at most so many pairs; 0: no limit
}

// View shows the pairs of a span as of one moment, until the function that it was given to
// returns. Keys outside of the span are as good as absent. It does one thing at a time: the callback of
// its Scan doesn't use it.
type View interface {
	// Get returns the value of key, or nil if it has none. The value is valid until the
	// View is used again.
	Get(key []byte) ([]byte, error)

	// Scan is Store.Scan.
	Scan(span Span, fn func(key, value []byte) (more bool, err error)) error
}

// Store is an ordered key-value store with optimistic transactions.
//
// Reads see only what is durable: a pair that a crash could still take back is
// never returned. A read that begins after a Commit returned sees what it stored.
// The pairs of one MultiGet, Scan or View belong to one moment.
//
// Slices passed in are the caller's again when the call returns. Slices returned
// by Get and MultiGet are the caller's to keep; those given to a Scan callback
// are valid only until it returns.
//
// Keys that begin with the bytes FF FF are the adapters' own: a transaction that
// names one gets ErrInvalid, and reads never return one.
//
// A Store is safe for concurrent use. Whoever opened it closes it, after every
// call has returned.
type Store interface {
	// Get returns the value of key, or nil if it has none (values are never empty).
	Get(ctx context.Context, key []byte) ([]byte, error)

	// MultiGet returns the values of keys, in their order, nil for the absent.
	MultiGet(ctx context.Context, keys [][]byte) ([][]byte, error)

	// Scan calls fn for each pair of span in key order (or its reverse) until fn
	// returns false or an error, which Scan returns.
	Scan(ctx context.Context, span Span, fn func(key, value []byte) (more bool, err error)) error

	// View calls fn with a view of the keys in [start, end), as of one moment, and returns fn's
	// error; end nil: to the end of the store. It is for several reads that lie close together: they
	// cost less than by themselves, and agree. fn may use the Store, too.
	View(ctx context.Context, start, end []byte, fn func(v View) error) error

	// Commit runs each transaction by itself (atomic, and isolated from the others)
	// and sets its Err; it returns when all are decided. The store commits together
	// what it can commit at the price of one (Pebble: all of them, with one sync),
	// which is why many are given at once (TiKV: those of a region). Those that share keys are
	// applied in their order; others may not be, on a store that commits several at once. One
	// that conflicts does not stop those after it. A transaction with a nil Err is durable.
	//
	// A transaction may be given again, unchanged, after ErrConflict,
	// ErrUndetermined, ErrFull or ErrUnavailable.
	Commit(ctx context.Context, txs ...*Tx)

	// Stamps tells whether Tx.SetStamped works here.
	Stamps() bool

	Close() error
}
