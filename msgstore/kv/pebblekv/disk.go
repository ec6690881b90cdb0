package pebblekv

import (
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// watermark tells whether free space has fallen below a reserve. It asks the file
// system again after an interval or an amount written, whichever comes first. Only the
// committing goroutine touches it.
type watermark struct {
	fs      vfs.FS
	dir     string
	reserve uint64 // bytes; 0: not watched
	every   time.Duration
	changed func(full bool, free uint64)

	full    bool
	asked   time.Time
	written int // bytes since asked
}

const (
	watermarkEvery = 100 * time.Millisecond
	watermarkBytes = 8 << 20
)

// check asks the file system if it is time to.
func (w *watermark) check(now time.Time) {
	if w.reserve == 0 || w.written < watermarkBytes && now.Sub(w.asked) < w.every {
		return
	}
	w.asked, w.written = now, 0
	usage, err := w.fs.GetDiskUsage(w.dir)
	if err != nil {
		if errors.Is(err, vfs.ErrUnsupported) {
			w.reserve = 0
		}
		return // the last answer stands
	}
	if full := usage.AvailBytes < w.reserve; full != w.full {
		w.full = full
		w.changed(full, usage.AvailBytes)
	}
}
