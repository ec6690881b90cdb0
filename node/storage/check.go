package storage

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/node/config"
)

// CheckSum is how an audit ended.
type CheckSum struct{ Errors, Warnings int }

// Check audits the data directory of a stopped node and reports each finding, whose text
// holds no message. The error is of reading, not of what was read.
func Check(ctx context.Context, cfg config.Config, logger *slog.Logger, report func(severity, text string)) (sum CheckSum, err error) {
	dir := filepath.Join(cfg.Data, storeDir)
	store, err := pebblekv.Open(pebblekv.Config{Dir: dir, Logger: logger, ReadOnly: true, CacheBytes: int64(cfg.Storage.Cache)})
	if err != nil {
		return sum, fmt.Errorf("opening the store: %w", err)
	}
	defer store.Close()
	err = msgstore.Check(ctx, store, msgstore.Keys{}, func(f msgstore.Finding) {
		switch f.Severity {
		case msgstore.Error:
			sum.Errors++
		case msgstore.Warning:
			sum.Warnings++
		}
		report(f.Severity.String(), f.String())
	})
	return sum, err
}
