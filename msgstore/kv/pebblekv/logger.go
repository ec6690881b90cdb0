package pebblekv

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
)

// engineLog is Pebble's view of our logger. Its Fatalf is how Pebble reports what it can't go on after.
type engineLog struct {
	log  *slog.Logger
	fail func(error)
}

func (l *engineLog) Infof(format string, args ...any) {
	l.log.Debug("pebble: " + fmt.Sprintf(format, args...))
}

func (l *engineLog) Errorf(format string, args ...any) {
	l.log.Error("pebble: " + fmt.Sprintf(format, args...))
}

func (l *engineLog) Fatalf(format string, args ...any) {
	l.fail(fmt.Errorf("pebble: %s", fmt.Sprintf(format, args...)))
	if strings.HasPrefix(format, "pebble: fatal commit error") {
		return // on the committing goroutine, which looks at the failure next
	}
	// Pebble doesn't expect to come back from here, and what it would do next is not
	// defined. The process is about to end; until then this goroutine stays out of the way.
	runtime.Goexit()
}
