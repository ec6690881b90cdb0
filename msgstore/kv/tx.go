package kv

import "fmt"

// OpKind says what an Op of a transaction does.
type OpKind uint8

const (
	OpRequire OpKind = iota // conflict unless Key has Value (nil Value: is absent)
	OpSet                   // Key gets Value
	OpDelete                // Key goes
	OpStamped               // Key with the commit's stamp appended gets Value
)

// Op is one step of a transaction. Key and Value point into the transaction's own memory.
type Op struct {
	Kind   OpKind
	Absent bool // OpRequire: the key must have no value
	Key    []byte
	Value  []byte
}

// Tx is an optimistic transaction: what must still hold of what was read, and
// what is written then. It is plain memory, filled by one goroutine, given to
// Store.Commit and reusable after Reset.
//
// Requirements are judged before any write of the same transaction, whatever the order of
// the steps; of two writes of one key the later one stands.
//
// Isolation is snapshot isolation with required values: a transaction is decided
// against one moment at which every required key had its required value, and it
// conflicts if a key that it writes changes between that moment and its commit.
// A required key that the transaction does not write may change in between (write
// skew, on the stores that have it), so no decision may rest on such a key: require
// the key that you write. Two transactions that each require and write one common
// key never both commit on the same value of it.
type Tx struct {
	// Frees marks a transaction that makes room (a sweep), or a few bytes without which nothing
	// could be served (the clock's ceiling); it is taken when the store is nearly full.
	Frees bool

	// Err is the outcome, set by Store.Commit: nil (durable), ErrConflict, ErrUndetermined, ErrFull, ErrTooLarge, ErrInvalid, ErrUnavailable or ErrClosed, wrapped.
	Err error

	// Stamp is the commit's stamp, set by Store.Commit where it stored a transaction with
	// stamped keys. The stores here give stamps to those alone, counting by one from 1, so
	// the stamps of what was stored have no gaps but those that deletes leave.
	Stamp uint64

	ops   []Op
	arena []byte
	size  int
}

// Require makes the commit conflict unless key has exactly value then; nil: unless key is absent.
func (t *Tx) Require(key, value []byte) {
	t.add(Op{Kind: OpRequire, Absent: value == nil}, key, value)
}

// Set stores value (not empty) under key.
func (t *Tx) Set(key, value []byte) { t.add(Op{Kind: OpSet}, key, value) }

// SetFunc stores under key what fill appends to the slice it is given: a value of
// several parts is put together in the transaction's own memory, without a copy. fill
// only appends, at least one byte, and does not use the transaction.
func (t *Tx) SetFunc(key []byte, fill func(dst []byte) []byte) {
	n := len(t.arena)
	v := n + len(key)
	t.arena = fill(append(t.arena, key...))
	t.ops = append(t.ops, Op{
		Kind:  OpSet,
		Key:   t.arena[n:v:v],
		Value: t.arena[v:len(t.arena):len(t.arena)],
	})
	t.size += len(t.arena) - n
}

// Delete removes key; an absent key is no error.
func (t *Tx) Delete(key []byte) { t.add(Op{Kind: OpDelete}, key, nil) }

// SetStamped stores value under prefix followed by the commit's stamp, 8 bytes
// big-endian. Stamps grow in commit order over the whole store and its restarts, and
// a reader that sees a stamped key sees every one with a lower stamp that was ever
// stored: there are no holes that fill up later. All stamped keys of one transaction
// share its stamp. Only for stores whose Stamps() is true.
func (t *Tx) SetStamped(prefix, value []byte) { t.add(Op{Kind: OpStamped}, prefix, value) }

func (t *Tx) add(op Op, key, value []byte) {
	// The arena may move when it grows; older ops keep pointing at the old array, which stays valid.
	n := len(t.arena)
	t.arena = append(t.arena, key...)
	t.arena = append(t.arena, value...)
	op.Key = t.arena[n : n+len(key) : n+len(key)]
	op.Value = t.arena[n+len(key) : len(t.arena) : len(t.arena)]
	t.ops = append(t.ops, op)
	t.size += len(key) + len(value)
}

// Ops returns the steps in the order they were added. They are the transaction's, until Reset.
func (t *Tx) Ops() []Op { return t.ops }

// Size returns the bytes of all keys and values.
func (t *Tx) Size() int { return t.size }

// Reset empties the transaction and keeps its memory.
func (t *Tx) Reset() {
	t.ops, t.arena, t.size = t.ops[:0], t.arena[:0], 0
	t.Frees, t.Err, t.Stamp = false, nil, 0
}

// Check returns nil if the transaction is within the limits that every store enforces,
// else ErrTooLarge or ErrInvalid, wrapped. Stores call it; stamps tells whether theirs are to be had.
func (t *Tx) Check(stamps bool) error {
	if t.size > MaxTx {
		return fmt.Errorf("transaction of %d bytes: %w", t.size, ErrTooLarge)
	}
	for i := range t.ops {
		op := &t.ops[i]
		max := MaxKey
		if op.Kind == OpStamped {
			max -= StampLen
			if !stamps {
				return fmt.Errorf("stamped key in a store without stamps: %w", ErrInvalid)
			}
		}
		switch {
		case len(op.Key) > max:
			return fmt.Errorf("key of %d bytes: %w", len(op.Key), ErrTooLarge)
		case len(op.Value) > MaxValue:
			return fmt.Errorf("value of %d bytes: %w", len(op.Value), ErrTooLarge)
		case len(op.Key) == 0:
			return fmt.Errorf("empty key: %w", ErrInvalid)
		case Reserved(op.Key):
			return fmt.Errorf("reserved key %x: %w", op.Key, ErrInvalid)
		case len(op.Value) == 0 && (op.Kind == OpSet || op.Kind == OpStamped):
			return fmt.Errorf("empty value of key %x: %w", op.Key, ErrInvalid)
		}
	}
	return nil
}

// StampLen is the length in bytes of what SetStamped appends to its prefix.
const StampLen = 8

// Reserved tells whether key lies in the range that adapters keep for themselves.
func Reserved(key []byte) bool { return len(key) >= 2 && key[0] == 0xff && key[1] == 0xff }
