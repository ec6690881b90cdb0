package pebblekv

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// engineLog is Pebble's view of our logger. Its Fatalf is how Pebble reports what it can't go on after.
type engineLog struct {
	log  *slog.Logger
	fail func(error)
}

func (l *engineLog) Infof(format string, args ...any) {
	if l.log.Enabled(context.Background(), slog.LevelDebug) {
		l.log.Debug("pebble: " + fmt.Sprintf(format, args...))
	}
}

func (l *engineLog) Errorf(format string, args ...any) {
	l.log.Error("pebble: " + fmt.Sprintf(format, args...))
}

func (l *engineLog) Fatalf(format string, args ...any) {
	l.fail(fmt.Errorf("pebble: %s", strings.TrimPrefix(fmt.Sprintf(format, args...), "pebble: ")))
	if strings.HasPrefix(format, "pebble: fatal commit error") {
		return // on the committing goroutine, which looks at the failure next
	}
	// Pebble doesn't expect to come back from here, and what it would do next is not
	// defined. The process is about to end; until then this goroutine stays out of the way.
	runtime.Goexit()
}

// logFS tells when another log can't be begun: Pebble panics then while it holds its
// locks, so badly that the process ends without a word about the disk.
type logFS struct {
	vfs.FS
	fail func(error)
}

func (f logFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	f.see(name, err)
	return file, err
}

func (f logFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(oldname, newname, category)
	f.see(newname, err)
	return file, err
}

func (f logFS) see(name string, err error) {
	if err != nil && strings.HasSuffix(name, ".log") {
		f.fail(fmt.Errorf("begin another log: %w", err))
	}
}

func (f logFS) Unwrap() vfs.FS { return f.FS }
