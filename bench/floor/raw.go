package floor

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"golang.org/x/sys/unix"

	"github.com/gochat-im/gochat/bench/measure"
)

// Raw is what one synced write of 200 bytes costs, one after the other.
type Raw struct {
	Fdatasync measure.Quantiles `json:"fdatasync"` // an append to a file
	Pebble    measure.Quantiles `json:"pebble"`    // a commit of one row
	Rate      float64           `json:"rate"`      // writes a second; 0: as fast as it goes
}

// rawSize is about what a stored message of 100 bytes takes with its rows' keys.
const rawSize = 200

// RunRaw measures synced writes in a temporary directory for d each: as fast as
// they go, or rate a second, since a machine that is mostly asleep answers later.
func RunRaw(d time.Duration, rate float64) (*Raw, error) {
	dir, err := os.MkdirTemp("", "gochat-raw")
	if err != nil {
		return nil, fmt.Errorf("directory for raw commits: %w", err)
	}
	defer os.RemoveAll(dir)
	r := &Raw{Rate: rate}

	f, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, fmt.Errorf("raw commits: %w", err)
	}
	defer f.Close()
	data := make([]byte, rawSize)
	r.Fdatasync, err = paced(d, rate, func(int) error {
		if _, err := f.Write(data); err != nil {
			return err
		}
		return unix.Fdatasync(int(f.Fd()))
	})
	if err != nil {
		return nil, fmt.Errorf("append and fdatasync: %w", err)
	}

	db, err := pebble.Open(filepath.Join(dir, "store"), &pebble.Options{MemTableSize: 64 << 20, Logger: silent{}})
	if err != nil {
		return nil, fmt.Errorf("open a store for raw commits: %w", err)
	}
	defer db.Close()
	r.Pebble, err = paced(d, rate, func(i int) error {
		return db.Set(fmt.Appendf(nil, "%016d", i), data, pebble.Sync)
	})
	if err != nil {
		return nil, fmt.Errorf("synced commit: %w", err)
	}
	return r, nil
}

// paced calls write for d and returns how long each call took.
func paced(d time.Duration, rate float64, write func(i int) error) (measure.Quantiles, error) {
	lat := measure.NewLatency()
	start := time.Now()
	for i := 0; ; i++ {
		if rate > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(float64(i) / rate * float64(time.Second)))))
		}
		t := time.Now()
		if t.Sub(start) >= d {
			return lat.Quantiles(), nil
		}
		if err := write(i); err != nil {
			return measure.Quantiles{}, err
		}
		lat.Record(int64(time.Since(t)))
	}
}
