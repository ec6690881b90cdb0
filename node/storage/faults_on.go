//go:build faultpoints

package storage

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/services/timeline"
)

// plantFaults reads GOCHAT_FAULT=POINT:N and makes the process fail there the Nth time:
//
//	committed  kill -9 after a commit of messages, before anybody hears of it
//	acked      kill -9 after the acks were given out, before fan-out is told
//	flushed    the same, 2 ms later: the acks have left, fan-out may be under way
//	write      writes to the store's log fail from then on
//	sync       syncs of the store's log fail from then on
func plantFaults(store *pebblekv.Config, events *timeline.Events) error {
	fault := os.Getenv(config.EnvPrefix + "FAULT")
	if fault == "" {
		return nil
	}
	point, times, _ := strings.Cut(fault, ":")
	n, err := strconv.ParseInt(times, 10, 64)
	if err != nil || n < 1 {
		return fmt.Errorf("%sFAULT %q: want POINT:N", config.EnvPrefix, fault)
	}
	var left atomic.Int64
	left.Store(n)
	die := func() {
		if left.Add(-1) == 0 {
			fmt.Fprintln(os.Stderr, "fault point:", point)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			time.Sleep(time.Minute) // nothing more runs on this goroutine
		}
	}
	switch point {
	case "committed":
		next := events.Committed
		events.Committed = func(conversations, messages int, took time.Duration) {
			die()
			if next != nil {
				next(conversations, messages, took)
			}
		}
	case "acked":
		next := events.Acked
		events.Acked = func(messages int) {
			die()
			if next != nil {
				next(messages)
			}
		}
	case "flushed":
		next := events.Acked
		events.Acked = func(messages int) {
			if left.Add(-1) == 0 {
				go func() {
					time.Sleep(2 * time.Millisecond)
					fmt.Fprintln(os.Stderr, "fault point:", point)
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				}()
			}
			if next != nil {
				next(messages)
			}
		}
	case "write", "sync":
		store.FS = errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
			hit := op.Kind == errorfs.OpFileWrite && point == "write" || point == "sync" && (op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData)
			if hit && strings.HasSuffix(op.Path, ".log") && left.Add(-1) <= 0 {
				return errInjected
			}
			return nil
		}))
	default:
		return fmt.Errorf("%sFAULT: no fault point %q", config.EnvPrefix, point)
	}
	return nil
}

var errInjected = errors.New("injected fault")
