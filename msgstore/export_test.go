package msgstore

import (
	"context"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// CheckInParts is Check with parts of chunk ids, or conversations of the bus log.
func CheckInParts(ctx context.Context, store kv.Store, keys Keys, chunk int, report func(Finding)) error {
	a := auditor{ctx: ctx, store: store, keys: keys, report: report, chunk: chunk}
	return a.run()
}

// Before is Log.Before in a log of its own.
func (t *Timeline) Before(ctx context.Context, c id.ConversationID, before uint64, limit, maxBytes int) (messages []byte, first, last uint64, err error) {
	first = 1
	err = t.Read(ctx, c, func(l *Log) (err error) {
		messages, first, last, err = l.Before(nil, before, limit, maxBytes)
		return err
	})
	return messages, first, last, err
}

// RaiseLevelOf is RaiseLevel of code that reads up to known.
func RaiseLevelOf(ctx context.Context, store kv.Store, keys Keys, level, known uint32) (uint32, error) {
	return raiseLevel(ctx, store, keys, level, known)
}
