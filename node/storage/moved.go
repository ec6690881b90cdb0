package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/msgstore/kv/tikv"
	"github.com/gochat-im/gochat/node/config"
)

// movedFile marks a data directory that is, or is being, copied into a cluster's store: a server doesn't start on one.
const movedFile = "moved.json"

// movedFormat is the version of movedFile.
const movedFormat = 1

// Moved says where what a data directory holds is served now.
type Moved struct {
	Format int       `json:"format"`
	ID     string    `json:"id"`     // of the migration, 32 hexadecimal digits
	Target string    `json:"target"` // for people
	Begun  time.Time `json:"begun"`
	Done   time.Time `json:"done,omitzero"`   // zero: the copy isn't complete
	Epoch  uint64    `json:"epoch,omitempty"` // of the target when it was complete
}

// ReadMoved says whether, and where to, the data directory was moved; fs.ErrNotExist, wrapped, if it wasn't.
func ReadMoved(data string) (m Moved, err error) {
	path := filepath.Join(data, movedFile)
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err == nil && m.Format != movedFormat {
		err = fmt.Errorf("format %d, and this program knows %d", m.Format, movedFormat)
	}
	if err != nil {
		return m, fmt.Errorf("reading %s: %w", path, err)
	}
	return m, nil
}

// Write marks the data directory; whatever happens, it has the old mark or the new one.
func (m Moved) Write(data string) error {
	m.Format = movedFormat
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("marking %s: %w", data, err)
	}
	path := filepath.Join(data, movedFile)
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("marking %s: %w", data, err)
	}
	if err = writeFile(tmp, append(text, '\n')); err == nil {
		err = replace(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("marking %s: %w", data, err)
	}
	return nil
}

// notMoved returns an error if the data directory was moved.
func notMoved(data string) error {
	m, err := ReadMoved(data)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case m.Done.IsZero():
		return fmt.Errorf("%s is being moved to %s since %s: go on with `gochat migrate`, or give it up with `gochat migrate --back`", data, m.Target, m.Begun.Format(time.DateTime))
	}
	return fmt.Errorf("%s was moved to %s on %s, where it is served now: to serve it here again, without all that was stored there, run `gochat migrate --back`", data, m.Target, m.Done.Format(time.DateTime))
}

// MoveBack makes a data directory that was moved one that is served again. If the copy was complete, clients may know it:
// the store gets an epoch that neither ever had, so that they fetch everything again. It returns what the directory said.
func MoveBack(ctx context.Context, data string, logger *slog.Logger) (m Moved, err error) {
	if m, err = ReadMoved(data); err != nil {
		return m, err
	}
	store, err := pebblekv.Open(pebblekv.Config{Dir: filepath.Join(data, storeDir), Logger: logger})
	if err != nil {
		return m, fmt.Errorf("opening the store: %w", err)
	}
	if !m.Done.IsZero() {
		_, err = msgstore.NewEpoch(ctx, store, msgstore.Keys{}, max(time.Now().UnixMilli(), int64(m.Epoch)+1))
	}
	if err := errors.Join(err, store.Close()); err != nil {
		return m, fmt.Errorf("giving the store a new epoch: %w", err)
	}
	if err := errors.Join(os.Remove(filepath.Join(data, movedFile)), syncDir(data)); err != nil {
		return m, fmt.Errorf("removing the mark: %w", err)
	}
	return m, nil
}

// OpenStopped opens the store of a data directory that no server uses, or of a backup, for reading. Whoever opened it closes it.
func OpenStopped(cfg config.Config, logger *slog.Logger) (*pebblekv.Store, error) {
	store, err := pebblekv.Open(pebblekv.Config{Dir: filepath.Join(cfg.Data, storeDir), Logger: logger, ReadOnly: true, CacheBytes: int64(cfg.Storage.Cache)})
	if err != nil {
		return nil, fmt.Errorf("opening the store: %w", err)
	}
	return store, nil
}

// Shared reports whether what the configuration describes is a process that keeps everything in a store that others share.
func Shared(cfg *config.Config) bool {
	return cfg.Cluster.On() && cfg.Cluster.Stored() && cfg.Cluster.Store.Kind == config.StoreTiKV
}

// OpenTiKV opens the store that the cluster's nodes share, for something else than a node. Whoever opened it closes it.
func OpenTiKV(ctx context.Context, cfg config.Config, logger *slog.Logger) (*tikv.Store, msgstore.Keys, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	c := cfg.Cluster.Store.TiKV
	keys := msgstore.Keys{Keyspace: uint16(c.Keyspace)}
	store, err := tikv.Open(ctx, tikvConfig(&c, logger))
	if err != nil {
		return nil, keys, fmt.Errorf("opening TiKV: %w", err)
	}
	return store, keys, nil
}
