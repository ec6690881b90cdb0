// Package migrate moves an installation from a data directory into the store of a cluster.
package migrate

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/migration"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/router/etcd"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
	"github.com/gochat-im/gochat/services/account"
)

// Config of a move.
type Config struct {
	config.Config // of a node of the cluster that has a store

	From      string // the data directory of a stopped server, or a backup
	Restart   bool   // remove an incomplete copy from the cluster's store and begin anew
	OtherKeys bool   // the cluster signs tokens with other keys: everybody signs in again

	Progress *migration.Progress // nil: nobody looks
	Logger   *slog.Logger

	// Store stands in for the store that the configuration names, in tests. It stays its owner's.
	Store kv.Store
}

// Report is how a move ended.
type Report struct {
	migration.Result
	Target string // for people
	Backup bool   // From is a backup, and was not marked
}

// ErrLive: nodes of the cluster are running, wrapped with which.
var ErrLive = errors.New("nodes of the cluster are running: stop all of them first")

// Run moves what From holds into the cluster's store and returns when it is complete and compared. From is marked first, so
// that no server starts on it from then on; a backup isn't, since none does anyway. A run that was killed, or failed, is
// gone on with by the next.
func Run(ctx context.Context, c Config) (r Report, err error) {
	target := c.Cluster.Store.TiKV
	switch {
	case c.Store != nil:
		r.Target = "a store of a test"
	case !storage.Shared(&c.Config):
		return r, errors.New("the configuration names no store to move to: give that of a node with the role logic, fanout or worker, and cluster.store.kind tikv")
	default:
		r.Target = fmt.Sprintf("TiKV at %s, keyspace %d", strings.Join(target.PD, ","), target.Keyspace)
	}
	if err := c.sameKeys(); err != nil {
		return r, err
	}
	if err := c.nobodyLives(ctx); err != nil {
		return r, err
	}
	from := c.Config
	from.Data = c.From
	source, err := storage.OpenStopped(from, c.Logger)
	if err != nil {
		return r, fmt.Errorf("%w (does a server run on it? Stop it first)", err)
	}
	defer func() { err = errors.Join(err, source.Close()) }()

	mark, id, err := c.identify(r.Target)
	if err != nil {
		return r, err
	}
	r.Backup = mark == nil
	move := migration.Config{Source: source, Target: c.Store, ID: id, Restart: c.Restart, Progress: c.Progress, Logger: c.Logger}
	if c.Store == nil {
		store, keys, err := storage.OpenTiKV(ctx, c.Config, c.Logger)
		if err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		move.Target, move.To = store, keys
		fresh, err := msgstore.IsNew(ctx, store, keys)
		if err != nil {
			return r, fmt.Errorf("looking at the target: %w", err)
		}
		if fresh {
			if err := store.PreSplit(ctx, keys.SlotBounds); err != nil {
				c.Logger.Warn("TiKV was not split beforehand, and splits by itself as it grows", "err", err)
			}
		}
	}
	if mark != nil && !mark.Done.IsZero() {
		// Elsewhere it would be a second installation with the same messages, and both would be served.
		if fresh, err := msgstore.IsNew(ctx, move.Target, move.To); err != nil {
			return r, fmt.Errorf("looking at the target: %w", err)
		} else if fresh {
			return r, fmt.Errorf("%s was moved to %s already, on %s", c.From, mark.Target, mark.Done.Format(time.DateTime))
		}
	} else if mark != nil {
		if err := mark.Write(c.From); err != nil {
			return r, err
		}
	}
	if r.Result, err = migration.Run(ctx, move); err != nil {
		return r, err
	}
	if mark != nil && mark.Done.IsZero() {
		mark.Done, mark.Epoch = time.Now().UTC().Truncate(time.Second), r.Epoch
		if err := mark.Write(c.From); err != nil {
			return r, fmt.Errorf("the copy is complete, but: %w", err)
		}
	}
	return r, nil
}

// identify tells what the migration's ID is, and what mark From gets; nil: none.
func (c *Config) identify(target string) (*storage.Moved, [16]byte, error) {
	var id [16]byte
	backup, err := storage.ReadBackup(c.From)
	if err == nil {
		sum := sha256.Sum256(fmt.Appendf(nil, "backup %d %d %d", backup.Epoch, backup.Created.UnixNano(), backup.Bytes))
		return nil, [16]byte(sum[:16]), nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, id, err
	}
	mark, err := storage.ReadMoved(c.From)
	if errors.Is(err, fs.ErrNotExist) {
		_, _ = rand.Read(id[:]) // never fails
		return &storage.Moved{ID: hex.EncodeToString(id[:]), Target: target, Begun: time.Now().UTC().Truncate(time.Second)}, id, nil
	}
	if err == nil {
		var raw []byte
		if raw, err = hex.DecodeString(mark.ID); err == nil && len(raw) != len(id) {
			err = errors.New("its id isn't one")
		}
		copy(id[:], raw)
	}
	if err != nil {
		return nil, id, fmt.Errorf("reading the mark of %s: %w", c.From, err)
	}
	if mark.Done.IsZero() {
		mark.Target = target
	}
	return &mark, id, nil
}

// sameKeys refuses a cluster in which everybody would have to sign in again.
func (c *Config) sameKeys() error {
	theirs, err := account.ReadKeys(c.Cluster.SigningKeys)
	if err != nil {
		return fmt.Errorf("reading cluster.signing_keys: %w", err)
	}
	if c.OtherKeys {
		return nil
	}
	ours, err := account.LoadKeys(c.From)
	if errors.Is(err, account.ErrNoKeys) {
		return nil // a process whose keys lay elsewhere
	}
	if err != nil {
		return err
	}
	if !theirs.Accepts(ours) {
		return fmt.Errorf("%s doesn't hold the keys of %s, so everybody would have to sign in again: make it with `gochat cluster keys DIRECTORY --from %s`, or say --other-keys",
			c.Cluster.SigningKeys, c.From, c.From)
	}
	return nil
}

// askTime is what etcd, or a listed node, has to answer.
const askTime = 10 * time.Second

// nobodyLives refuses a cluster whose nodes run: they would have made a store of the target, or tell clients an epoch that
// isn't its.
func (c *Config) nobodyLives(ctx context.Context) error {
	live, err := LiveNodes(ctx, c.Config, c.Logger)
	if err == nil && len(live) > 0 {
		err = fmt.Errorf("%s: %w", strings.Join(live, ", "), ErrLive)
	}
	return err
}

// LiveNodes returns the ids of the nodes that run: those in etcd, or those of a list that take calls. It is an error if
// that isn't known of a listed one: if its machine doesn't say that nobody listens there.
func LiveNodes(ctx context.Context, cfg config.Config, logger *slog.Logger) (live []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	dialed := make([]error, len(cfg.Cluster.Nodes))
	var wg sync.WaitGroup
	for i, p := range cfg.Cluster.Nodes {
		wg.Go(func() {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", p.RPC)
			if dialed[i] = err; err == nil {
				_ = conn.Close()
			}
		})
	}
	wg.Wait()
	for i, p := range cfg.Cluster.Nodes {
		switch err := dialed[i]; {
		case err == nil:
			live = append(live, p.ID)
		case !errors.Is(err, syscall.ECONNREFUSED):
			return nil, fmt.Errorf("whether node %s runs isn't known, take it out of cluster.nodes if it doesn't: %w", p.ID, err)
		}
	}
	e := cfg.Cluster.Etcd
	if len(e.Endpoints) == 0 {
		return live, nil
	}
	dial := etcd.Config{Endpoints: e.Endpoints, User: e.User, TLS: etcd.TLS(e.TLS), Logger: logger}
	if e.PasswordFile != "" {
		if dial.Password, err = config.ReadSecret(e.PasswordFile); err != nil {
			return nil, fmt.Errorf("cluster.etcd.password_file: %w", err)
		}
	}
	client, err := etcd.Dial(ctx, dial)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	source, err := etcdnodes.Open(ctx, etcdnodes.Config{Client: client, Prefix: e.Prefix, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("reading the nodes in etcd: %w", err)
	}
	defer source.Close(ctx)
	for _, n := range source.View().Nodes() {
		live = append(live, n.ID)
	}
	return live, nil
}

// Back makes a data directory that was moved one that is served again, see storage.MoveBack.
func Back(ctx context.Context, dir string, logger *slog.Logger) (storage.Moved, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return storage.Moved{}, fmt.Errorf("finding %s: %w", dir, err)
	}
	m, err := storage.MoveBack(ctx, dir, logger)
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("%s was not moved anywhere: %w", dir, err)
	}
	return m, err
}

// NewEpoch gives the store of a cluster an epoch that it never had, and returns it: what a restore by TiKV's own means needs. No
// node may run.
func NewEpoch(ctx context.Context, cfg config.Config, logger *slog.Logger) (epoch uint64, err error) {
	if !storage.Shared(&cfg) {
		return 0, errors.New("the configuration names no store of a cluster: cluster.store.kind is not tikv, or the node needs none")
	}
	c := Config{Config: cfg, Logger: logger}
	if err := c.nobodyLives(ctx); err != nil {
		return 0, err
	}
	store, keys, err := storage.OpenTiKV(ctx, cfg, logger)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if fresh, err := msgstore.IsNew(ctx, store, keys); err != nil || fresh {
		return 0, errors.Join(err, fmt.Errorf("there is no store in keyspace %d", keys.Keyspace))
	}
	meta, err := msgstore.NewEpoch(ctx, store, keys, time.Now().UnixMilli())
	return meta.Epoch, err
}
