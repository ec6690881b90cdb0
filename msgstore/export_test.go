package msgstore

import (
	"context"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// CheckInParts is Check with parts of chunk ids, or conversations of the bus log.
func CheckInParts(ctx context.Context, store kv.Store, keys Keys, chunk int, report func(Finding)) error {
	a := auditor{ctx: ctx, store: store, keys: keys, report: report, chunk: chunk}
	return a.run()
}
