// Package migration copies a store that nobody writes to into an empty keyspace of another one: an embedded
// store into a cluster's. It may be killed at any moment; the next run goes on.
//
// The target's meta row comes first, and says that the store is a copy that isn't complete, so no node opens it.
// It is one key that both a node which makes a new store and a migration require to be absent: only one of
// them gets it. Rows go over in parts, each with a row in the target that says how far it is. A row is written only where
// there is none, so a transaction of a killed run that is stored late changes nothing. Then every row of both sides
// is compared, and one last transaction gives the target its meta row, with an epoch that neither store ever had.
package migration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Why a migration is refused, wrapped with what was found. All but ErrDiffers come before anything is written.
var (
	ErrNoSource  = errors.New("migration: the source holds no store")
	ErrForeign   = errors.New("migration: the source has keys that this release doesn't know")
	ErrInUse     = errors.New("migration: the target holds data already")
	ErrOtherCopy = errors.New("migration: the target holds the incomplete copy of another source")
	ErrDiffers   = errors.New("migration: the target isn't a copy of the source")
)

// parts is into how many ranges of slots the source is cut; those of whole stores come on top. It
// is stored, by the parts' numbers, as long as a migration lasts.
const parts = 64

// Config of a migration. Zero values mean the defaults, where there are any.
type Config struct {
	Source, Target kv.Store // the source is only read, and must not change
	From, To       msgstore.Keys

	// ID is that of the source's state: a run goes on with what one with the same ID began. Not zero.
	ID [16]byte

	// Restart removes an incomplete copy from the target and begins anew.
	Restart bool

	Workers    int           // parts at the same time; 0: 8
	BatchBytes int           // keys and values of a transaction, but for one row that exceeds them; 0: 256 KiB
	SaveBytes  int           // so much may have to be copied again after a kill, for each worker; 0: 4 MiB
	Patience   time.Duration // for how long a store that is away, or full, is tried again; 0: 2 minutes
	Pause      time.Duration // the first one before that, doubled each time up to 64 times as long; 0: 50 ms

	Now    func() int64 // Unix ms; nil: the machine's
	Logger *slog.Logger // nil: slog.Default()

	// Progress is kept up to date while the migration runs; nil: nobody looks.
	Progress *Progress
}

// Result is how a migration ended.
type Result struct {
	Rows, Bytes uint64 // of the source that are in the target
	Epoch       uint64 // the target's
	Resumed     bool   // an earlier run had begun it
	Earlier     bool   // an earlier run had completed it, too: nothing was left to do
}

// maxRows is how many rows a transaction writes.
const maxRows = 2048

// Validate returns the first thing that is wrong with the configuration.
func (c *Config) Validate() error {
	switch {
	case c.Source == nil || c.Target == nil:
		return errors.New("migration: Source or Target is nil")
	case c.ID == [16]byte{}:
		return errors.New("migration: ID is zero")
	case c.Workers < 0 || c.Workers > 256:
		return fmt.Errorf("migration: Workers must be at most 256: %d", c.Workers)
	case c.BatchBytes < 0 || c.BatchBytes > kv.MaxTx/2:
		return fmt.Errorf("migration: BatchBytes must be at most %d: %d", kv.MaxTx/2, c.BatchBytes)
	case c.SaveBytes < 0 || c.Patience < 0 || c.Pause < 0:
		return errors.New("migration: SaveBytes, Patience or Pause is negative")
	}
	return nil
}

// run is one run of a migration.
type run struct {
	Config
	log *slog.Logger

	meta    msgstore.Meta // the source's
	copying msgstore.Copy
	metaRaw []byte // the target's rows, as they stand
	copyRaw []byte
	parts   []*part
}

// Run copies the source into the target and returns when the copy is complete and compared. After an error, or when ctx
// ends, the next run goes on where this one was.
func Run(ctx context.Context, c Config) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, err
	}
	if c.Workers == 0 {
		c.Workers = 8
	}
	if c.BatchBytes == 0 {
		c.BatchBytes = 256 << 10
	}
	if c.SaveBytes == 0 {
		c.SaveBytes = 4 << 20
	}
	if c.Patience == 0 {
		c.Patience = 2 * time.Minute
	}
	if c.Pause == 0 {
		c.Pause = 50 * time.Millisecond
	}
	if c.Now == nil {
		c.Now = func() int64 { return time.Now().UnixMilli() }
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Progress == nil {
		c.Progress = new(Progress)
	}
	r := &run{Config: c, log: c.Logger.With("component", "migration")}
	if err := r.readSource(ctx); err != nil {
		return Result{}, fmt.Errorf("look at the source: %w", err)
	}
	res, err := r.claim(ctx)
	if err != nil {
		return res, fmt.Errorf("prepare the target: %w", err)
	}
	if res.Earlier {
		return res, nil
	}
	if err := r.openParts(ctx); err != nil {
		return res, err
	}
	for _, step := range []struct {
		phase Phase
		do    func(context.Context, *part) error
	}{{Counting, r.count}, {Copying, r.copy}, {Verifying, r.verify}} {
		r.Progress.enter(step.phase)
		if err := r.each(ctx, step.do); err != nil {
			return res, err
		}
	}
	res.Epoch = r.copying.Epoch
	for _, p := range r.parts {
		res.Rows += p.Rows
		res.Bytes += p.Bytes
	}
	if err := r.finish(ctx, res); err != nil {
		return res, fmt.Errorf("complete the target: %w", err)
	}
	r.Progress.enter(Complete)
	return res, nil
}

// readSource refuses a source that this code doesn't know all of.
func (r *run) readSource(ctx context.Context) (err error) {
	var raw []byte
	if err = r.again(ctx, func() error {
		r.meta, raw, err = msgstore.ReadMeta(ctx, r.Source, r.From)
		return err
	}); err != nil {
		return err
	}
	if raw == nil {
		return ErrNoSource
	}
	for _, span := range r.From.Foreign() {
		key, err := r.first(ctx, r.Source, span[0], span[1])
		if err != nil {
			return err
		}
		if key != nil {
			return fmt.Errorf("key %x: %w", key, ErrForeign)
		}
	}
	return nil
}

// first returns the first key of [start, end), nil if there is none.
func (r *run) first(ctx context.Context, store kv.Store, start, end []byte) (key []byte, err error) {
	if end != nil && bytes.Compare(start, end) >= 0 {
		return nil, nil
	}
	err = r.again(ctx, func() error {
		key = nil
		return store.Scan(ctx, kv.Span{Start: start, End: end, Limit: 1}, func(k, _ []byte) (bool, error) {
			key = bytes.Clone(k)
			return false, nil
		})
	})
	return key, err
}

// claim makes the target this migration's, or finds that it is.
func (r *run) claim(ctx context.Context) (Result, error) {
	for restarted := false; ; {
		var meta msgstore.Meta
		var raw, copyRaw []byte
		var refused error
		err := r.again(ctx, func() (err error) {
			meta, raw, refused = msgstore.ReadMeta(ctx, r.Target, r.To)
			if refused != nil && raw == nil {
				return refused
			}
			copyRaw, err = r.Target.Get(ctx, r.To.Copy(nil))
			return err
		})
		if err != nil {
			return Result{}, err
		}
		if raw == nil {
			claimed, err := r.begin(ctx)
			if err != nil || claimed {
				return Result{}, err
			}
			continue // somebody was first, perhaps this run
		}
		if refused != nil && !errors.Is(refused, msgstore.ErrCopying) {
			return Result{}, refused
		}
		var c msgstore.Copy
		if copyRaw != nil {
			if c, err = msgstore.ParseCopy(copyRaw); err != nil {
				return Result{}, err
			}
		}
		switch {
		case refused == nil && c.ID == r.ID && c.Done != 0:
			return Result{Rows: c.Rows, Bytes: c.Bytes, Epoch: c.Epoch, Resumed: true, Earlier: true}, nil
		case refused == nil:
			return Result{}, fmt.Errorf("a store with epoch %d: %w", meta.Epoch, ErrInUse)
		case r.Restart && !restarted:
			if err := r.wipe(ctx, raw); err != nil {
				return Result{}, fmt.Errorf("remove an incomplete copy: %w", err)
			}
			restarted = true
		case c.ID != r.ID || c.From != r.meta.Epoch || c.FeatureLevel != r.meta.FeatureLevel:
			return Result{}, fmt.Errorf("begun %s: %w", time.UnixMilli(c.Begun).UTC().Format(time.DateTime), ErrOtherCopy)
		default:
			r.copying, r.metaRaw, r.copyRaw = c, raw, copyRaw
			return Result{Resumed: !restarted}, nil
		}
	}
}

// begin makes an empty target this migration's. Not claimed, and no error: the target has to be looked at again.
func (r *run) begin(ctx context.Context) (claimed bool, err error) {
	start, end := r.To.Whole()
	key, err := r.first(ctx, r.Target, start, end)
	if err != nil {
		return false, err
	}
	if key != nil {
		if bytes.Equal(key, r.To.Meta(nil)) {
			return false, nil // made since we looked
		}
		return false, fmt.Errorf("key %x, and no row that says what it is: %w", key, ErrInUse)
	}
	now := r.Now()
	r.copying = msgstore.Copy{ID: r.ID, From: r.meta.Epoch, Epoch: max(r.meta.Epoch+1, uint64(max(now, 0))), FeatureLevel: r.meta.FeatureLevel, Begun: now}
	meta := msgstore.Meta{Epoch: r.copying.Epoch, SlotCount: id.SlotCount, Hash: msgstore.SlotHash, FeatureLevel: msgstore.LevelCopying, Created: r.meta.Created}
	r.metaRaw, r.copyRaw = meta.Append(nil), r.copying.Append(nil)
	var tx kv.Tx
	tx.Require(r.To.Meta(nil), nil)
	tx.Require(r.To.Copy(nil), nil)
	tx.Set(r.To.Meta(nil), r.metaRaw)
	tx.Set(r.To.Copy(nil), r.copyRaw)
	err = r.commit(ctx, &tx)
	if errors.Is(err, kv.ErrConflict) || errors.Is(err, kv.ErrUndetermined) {
		return false, nil
	}
	return err == nil, err
}

// finish makes the target a store.
func (r *run) finish(ctx context.Context, res Result) error {
	done := r.copying
	done.Done, done.Rows, done.Bytes = max(r.Now(), 1), res.Rows, res.Bytes
	meta := msgstore.Meta{Epoch: done.Epoch, SlotCount: r.meta.SlotCount, Hash: r.meta.Hash, FeatureLevel: r.meta.FeatureLevel, Created: r.meta.Created}
	metaKey, copyKey := r.To.Meta(nil), r.To.Copy(nil)
	var tx kv.Tx
	tx.Require(metaKey, r.metaRaw)
	tx.Require(copyKey, r.copyRaw)
	tx.SetFunc(metaKey, meta.Append)
	tx.SetFunc(copyKey, done.Append)
	for _, p := range r.parts {
		tx.Delete(r.To.CopyPart(nil, p.number))
	}
	for {
		err := r.commit(ctx, &tx)
		if !errors.Is(err, kv.ErrConflict) && !errors.Is(err, kv.ErrUndetermined) {
			return err
		}
		var raws [][]byte
		if err := r.again(ctx, func() (err error) {
			raws, err = r.Target.MultiGet(ctx, [][]byte{metaKey, copyKey})
			return err
		}); err != nil {
			return err
		}
		switch {
		case bytes.Equal(raws[0], meta.Append(nil)) && bytes.Equal(raws[1], done.Append(nil)):
			return nil
		case !bytes.Equal(raws[0], r.metaRaw) || !bytes.Equal(raws[1], r.copyRaw):
			return fmt.Errorf("somebody else changed it meanwhile: %w", ErrDiffers)
		}
	}
}

// wipe removes an incomplete copy, and the row that says that there is one last.
func (r *run) wipe(ctx context.Context, metaRaw []byte) error {
	// Whoever goes on with that copy, and whoever doesn't want it removed, finds that it is nobody's any more.
	nobody := msgstore.Copy{Begun: r.Now()}
	var tx kv.Tx
	tx.Require(r.To.Meta(nil), metaRaw)
	tx.Set(r.To.Meta(nil), metaRaw)
	tx.SetFunc(r.To.Copy(nil), nobody.Append)
	if err := r.certain(ctx, &tx); err != nil {
		return err
	}
	start, end := r.To.Whole()
	for more := true; more; {
		more = false
		tx.Reset()
		tx.Frees = true
		if err := r.again(ctx, func() error {
			tx.Reset()
			tx.Frees = true
			more = false
			return r.Target.Scan(ctx, kv.Span{Start: start, End: end}, func(key, _ []byte) (bool, error) {
				if bytes.Equal(key, r.To.Meta(nil)) || bytes.Equal(key, r.To.Copy(nil)) {
					return true, nil
				}
				tx.Delete(key)
				more = len(tx.Ops()) == maxRows
				return !more, nil
			})
		}); err != nil {
			return err
		}
		if n := len(tx.Ops()); n > 0 {
			start = append(bytes.Clone(tx.Ops()[n-1].Key), 0)
			if err := r.certain(ctx, &tx); err != nil {
				return err
			}
		}
	}
	tx.Reset()
	tx.Frees = true
	tx.Delete(r.To.Meta(nil))
	tx.Delete(r.To.Copy(nil))
	return r.certain(ctx, &tx)
}
