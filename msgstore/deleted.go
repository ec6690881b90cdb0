package msgstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Deleting is the key of the row that says that the user is being deleted; an empty user: the
// beginning of them all. It lies with the store's rows, so that a start finds what to go on with.
func (k Keys) Deleting(dst []byte, u id.UserID) []byte {
	return append(append(k.prefix(dst, id.SlotStore), storeDeleting), u...)
}

// AppendDeleting appends the row of a user who is being deleted since the Unix ms since to dst.
//
// Row: version, since.
func AppendDeleting(dst []byte, since int64) []byte {
	return binary.AppendUvarint(append(dst, rowVersion), uint64(since))
}

// ParseDeleting reads the row of a user who is being deleted.
func ParseDeleting(b []byte) (since int64, err error) {
	r := reader{b: b}
	r.version()
	since = r.time()
	if err := r.end(); err != nil {
		return 0, fmt.Errorf("row of a user who is being deleted: %w", err)
	}
	return since, nil
}

// Deletion is a user who is being deleted.
type Deletion struct {
	User  id.UserID
	Since int64 // Unix ms
}

// Deletions returns up to limit users who are being deleted.
func Deletions(ctx context.Context, store kv.Store, keys Keys, limit int) ([]Deletion, error) {
	var all []Deletion
	start := keys.Deleting(nil, "")
	err := store.Scan(ctx, kv.Span{Start: start, End: prefixEnd(bytes.Clone(start)), Limit: limit}, func(key, value []byte) (bool, error) {
		since, err := ParseDeleting(value)
		all = append(all, Deletion{id.UserID(key[len(start):]), since})
		return err == nil, err
	})
	if err != nil {
		return nil, fmt.Errorf("read which users are being deleted: %w", err)
	}
	return all, nil
}

// closedDeleted is the state, in the second byte of the row of a closed account, of one that was deleted.
const closedDeleted = 2

// Deleted reports whether raw, the row of a closed account (nil: none), says that it was deleted.
func Deleted(raw []byte) bool { return len(raw) > 1 && raw[0] == rowVersion && raw[1] == closedDeleted }
