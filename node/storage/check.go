package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/node/config"
)

// CheckSum is how an audit ended.
type CheckSum struct{ Errors, Warnings int }

// CheckShared audits the store that a cluster's nodes share as Check does a stopped one's, while they run, as of one moment.
func CheckShared(ctx context.Context, cfg config.Config, logger *slog.Logger, report func(severity, text string)) (sum CheckSum, err error) {
	store, keys, err := OpenTiKV(ctx, cfg, logger)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	err = store.AsOfNow(ctx, func(past kv.Store) error {
		fresh, err := msgstore.IsNew(ctx, past, keys)
		if err == nil && fresh {
			err = fmt.Errorf("there is no store in keyspace %d", keys.Keyspace)
		}
		if err != nil {
			return err
		}
		return sum.audit(ctx, past, keys, report)
	})
	return sum, err
}

// Check audits the data directory of a stopped node and reports each finding, whose text
// holds no message. The error is of reading, not of what was read.
func Check(ctx context.Context, cfg config.Config, logger *slog.Logger, report func(severity, text string)) (sum CheckSum, err error) {
	dir := filepath.Join(cfg.Data, storeDir)
	store, err := pebblekv.Open(pebblekv.Config{Dir: dir, Logger: logger, ReadOnly: true, CacheBytes: int64(cfg.Storage.Cache)})
	if err != nil {
		return sum, fmt.Errorf("opening the store: %w", err)
	}
	defer store.Close()
	err = sum.audit(ctx, store, msgstore.Keys{}, report)
	return sum, err
}

func (sum *CheckSum) audit(ctx context.Context, store kv.Store, keys msgstore.Keys, report func(severity, text string)) error {
	return msgstore.Check(ctx, store, keys, func(f msgstore.Finding) {
		switch f.Severity {
		case msgstore.Error:
			sum.Errors++
		case msgstore.Warning:
			sum.Warnings++
		}
		report(f.Severity.String(), f.String())
	})
}
