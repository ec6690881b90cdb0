// Package msgstore holds the stored format: the keys and rows that everything
// durable lies in, and small stores above the kv port that read and write them.
//
// # Keys
//
// Every key begins with a prefix of five bytes: keyspace u16, layout u8, slot u16.
// Integers in keys are big-endian, so the order of keys is the order of numbers. A
// user id or a name that something follows in a key is ended by a zero byte (neither
// may contain one), else the rows of "alice" would hold those of "alice0". Slot
// 0xFFFF holds the rows of the whole store.
//
//	00 name                    store        store rows: "meta", "clock"
//	01 partition u16 stamp u64 store        reference on the embedded bus
//	02 group 00 partition u16  store        position of a consumer of the embedded bus
//	01 conv                    conversation outbox mark
//	10 conv 10 user 00 seq     conversation mention; an empty user: everyone
//	10 conv 20 user            conversation cursor
//	10 conv 30 user            conversation member
//	10 conv 31 user            conversation the member's name in the group
//	10 conv 35 seq             conversation full list of a membership message
//	10 conv 40 lastSeq         conversation segment
//	10 conv 50                 conversation head
//	10 conv 51                 conversation what the group is
//	10 conv 52                 conversation how many members the group has
//	10 conv 70 ^second lastSeq conversation client message ids of one second
//	20 user 00 10 conv         user         the user's side of a conversation
//	20 user 00 20              user         profile
//	20 user 00 30 other        user         the user has blocked the other one
//
// conv is 16 bytes, seqs and seconds are u64. Seconds stand inverted, so that the
// newest ids lie next to the head and the newest segment: an append touches one small
// stretch of keys. In the row of ids, lastSeq is the seq of the row's last entry.
//
// # Rows
//
// A row begins with its version. A version that this code does not know is
// ErrVersion and never "absent". Numbers inside rows are unsigned varints in their
// shortest form unless said otherwise; a row has no bytes after its last field.
package msgstore

import (
	"context"
	"errors"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
)

var (
	// ErrVersion: a row, or the store, was written by a later version of GoChat.
	ErrVersion = errors.New("msgstore: written by a later version")

	// ErrCorrupt: what is stored contradicts itself. It is wrapped with the place.
	ErrCorrupt = errors.New("msgstore: stored data is corrupt")
)

// Refusal is err as clients see it: a *code.Error as it is, a full store as such, rows that can't be
// read or written as the server's fault, anything else as something that may work later.
func Refusal(err error) *code.Error {
	var e *code.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, kv.ErrFull):
		return code.Wrap(code.StorageFull, err)
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrVersion), errors.Is(err, kv.ErrInvalid), errors.Is(err, kv.ErrTooLarge):
		return code.Wrap(code.Internal, err)
	}
	return code.Wrap(code.Unavailable, err)
}

// Outcome is Refusal of a change that is not made again by itself: what may have been done after all is
// undetermined.
func Outcome(err error) *code.Error {
	var e *code.Error
	if !errors.As(err, &e) &&
		(errors.Is(err, kv.ErrUndetermined) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		return code.Wrap(code.Undetermined, err)
	}
	return Refusal(err)
}
