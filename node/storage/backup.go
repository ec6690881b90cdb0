package storage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/protocol/code"
)

// The parts of a data directory; a backup has the same, so that it can be audited like one.
const (
	storeDir   = "store"
	keysDir    = "keys"
	backupFile = "backup.json" // marks a backup: a server doesn't start on one
)

// backupFormat is the version of backup.json and of what lies beside it.
const backupFormat = 1

// BackupInfo tells what a backup holds.
type BackupInfo struct {
	Format  int       `json:"format"`
	Server  string    `json:"server"` // the program's version
	Epoch   uint64    `json:"epoch"`  // the store's when it was written
	Created time.Time `json:"created"`
	Bytes   int64     `json:"bytes"` // of all files
}

// Backup writes a copy of everything that an embedded store holds and of its keys into dir, an absolute
// path where nothing is yet. Whatever was acked before the call is in it; clients are served
// meanwhile. On one file system with the data tables are linked rather than copied, which takes
// a moment and little room. dir appears when it is complete. One runs at a time.
func (s *Storage) Backup(ctx context.Context, dir string) (info BackupInfo, err error) {
	if s.pebble == nil {
		return info, code.Newf(code.BadRequest, "the store isn't in this server's data directory: back it up by its own means")
	}
	if !filepath.IsAbs(dir) {
		return info, code.Newf(code.BadRequest, "backup directory %q: want an absolute path", dir)
	}
	if !s.backing.TryLock() {
		return info, code.Newf(code.Overloaded, "another backup is being written")
	}
	defer s.backing.Unlock()
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return info, code.Newf(code.BadRequest, "backup directory %s exists already", dir)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return info, fmt.Errorf("making the directory above the backup: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".gochat-backup-*") // mode 0700
	if err != nil {
		return info, fmt.Errorf("making a directory for the backup: %w", err)
	}
	defer os.RemoveAll(tmp)
	info = BackupInfo{Format: backupFormat, Server: s.cfg.Version, Epoch: s.Epoch, Created: time.Now().UTC()}
	if err := s.pebble.Checkpoint(filepath.Join(tmp, storeDir)); err != nil {
		return info, err
	}
	if err := copyTree(ctx, s.keys(), filepath.Join(tmp, keysDir)); err != nil {
		return info, fmt.Errorf("copying the keys: %w", err)
	}
	if info.Bytes, err = treeBytes(tmp); err != nil {
		return info, fmt.Errorf("measuring the backup: %w", err)
	}
	text, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return info, fmt.Errorf("describing the backup: %w", err)
	}
	if err := writeFile(filepath.Join(tmp, backupFile), append(text, '\n')); err != nil {
		return info, fmt.Errorf("describing the backup: %w", err)
	}
	if err = syncDir(tmp); err == nil {
		err = replace(tmp, dir)
	}
	if err != nil {
		return info, fmt.Errorf("completing the backup: %w", err)
	}
	s.log.Info("backup written", "dir", dir, "bytes", info.Bytes, "took", time.Since(info.Created).Round(time.Millisecond))
	return info, nil
}

// keys is the directory of the keys that tokens are signed with.
func (s *Storage) keys() string {
	if dir := s.cfg.Cluster.SigningKeys; dir != "" {
		return dir
	}
	return filepath.Join(s.cfg.Data, keysDir)
}

// ReadBackup says what lies in dir; fs.ErrNotExist, wrapped, if that is no backup.
func ReadBackup(dir string) (info BackupInfo, err error) {
	text, err := os.ReadFile(filepath.Join(dir, backupFile))
	if err != nil {
		return info, fmt.Errorf("reading a backup: %w", err)
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return info, fmt.Errorf("reading a backup: %s: %w", filepath.Join(dir, backupFile), err)
	}
	if info.Format != backupFormat {
		return info, fmt.Errorf("reading a backup: %s has format %d, and this program knows %d", dir, info.Format, backupFormat)
	}
	return info, nil
}

// Restore makes a data directory of the backup in dir, which stays as it is. data must hold no
// store. The store gets an epoch that it never had, by which clients know to fetch everything
// again: seqs given out after the backup will be given to other messages. A restore that
// is interrupted is begun again. It returns the backup with the new epoch.
func Restore(ctx context.Context, dir, data string, logger *slog.Logger) (info BackupInfo, err error) {
	if info, err = ReadBackup(dir); err != nil {
		return info, err
	}
	if _, err := os.Lstat(filepath.Join(data, storeDir)); !errors.Is(err, fs.ErrNotExist) {
		return info, fmt.Errorf("%s holds a store already: move it away, or restore into another directory", data)
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return info, fmt.Errorf("making the data directory: %w", err)
	}
	tmp := filepath.Join(data, ".restoring")
	if err := os.RemoveAll(tmp); err != nil {
		return info, fmt.Errorf("removing what an interrupted restore left: %w", err)
	}
	defer os.RemoveAll(tmp)
	for _, part := range []string{keysDir, storeDir} {
		if err := copyTree(ctx, filepath.Join(dir, part), filepath.Join(tmp, part)); err != nil {
			return info, fmt.Errorf("copying the backup: %w", err)
		}
	}
	store, err := pebblekv.Open(pebblekv.Config{Dir: filepath.Join(tmp, storeDir), Logger: logger})
	if err != nil {
		return info, fmt.Errorf("opening the copied store: %w", err)
	}
	meta, err := msgstore.NewEpoch(ctx, store, msgstore.Keys{}, time.Now().UnixMilli())
	if err := errors.Join(err, store.Close()); err != nil {
		return info, fmt.Errorf("giving the store a new epoch: %w", err)
	}
	info.Epoch = meta.Epoch
	// The store comes last: without it the directory doesn't count as restored.
	keys := filepath.Join(data, keysDir)
	if err := os.RemoveAll(keys); err != nil {
		return info, fmt.Errorf("replacing the keys: %w", err)
	}
	for _, part := range []string{keysDir, storeDir} {
		if err := os.Rename(filepath.Join(tmp, part), filepath.Join(data, part)); err != nil {
			return info, fmt.Errorf("moving the copy into place: %w", err)
		}
	}
	if err := syncDir(data); err != nil {
		return info, fmt.Errorf("moving the copy into place: %w", err)
	}
	return info, nil
}

// copyTree copies the directories and regular files under from to to, which must not exist.
// Each is synced. Nothing else belongs into a data directory, so anything else is an error.
func copyTree(ctx context.Context, from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		src, dst := filepath.Join(from, e.Name()), filepath.Join(to, e.Name())
		switch {
		case e.IsDir():
			err = copyTree(ctx, src, dst)
		case e.Type().IsRegular():
			err = copyFile(src, dst)
		default:
			err = fmt.Errorf("%s is neither a file nor a directory", src)
		}
		if err != nil {
			return err
		}
	}
	return syncDir(to)
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

func writeFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// replace puts what is whole at tmp at path, for good.
func replace(tmp, path string) error {
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func treeBytes(dir string) (sum int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		st, err := e.Info()
		if err == nil {
			sum += st.Size()
		}
		return err
	})
	return sum, err
}
