package link

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cloudwego/kitex/pkg/klog"
)

// kitexLog takes what Kitex logs over to slog. Kitex has one logger for the process, so it is set once
// and the last node's is used. Only format strings are passed on: the arguments may quote a request.
type kitexLog struct{ to atomic.Pointer[slog.Logger] }

var (
	kitexLogger kitexLog
	bridgeOnce  sync.Once
)

// BridgeLogs sends what Kitex logs to l, at debug level: what fails is answered, and counted, by this house.
func BridgeLogs(l *slog.Logger) {
	kitexLogger.to.Store(l)
	bridgeOnce.Do(func() { klog.SetLogger(&kitexLogger) })
}

func (k *kitexLog) log(level slog.Level, format string) {
	if l := k.to.Load(); l != nil {
		l.Log(context.Background(), level, "rpc engine", "event", format)
	}
}

const unformatted = "(a message without a format)"

func (k *kitexLog) Trace(...any)                               {}
func (k *kitexLog) Debug(...any)                               {}
func (k *kitexLog) Info(...any)                                {}
func (k *kitexLog) Notice(...any)                              {}
func (k *kitexLog) Warn(...any)                                { k.log(slog.LevelDebug, unformatted) }
func (k *kitexLog) Error(...any)                               { k.log(slog.LevelDebug, unformatted) }
func (k *kitexLog) Fatal(...any)                               { k.log(slog.LevelError, unformatted) }
func (k *kitexLog) Tracef(string, ...any)                      {}
func (k *kitexLog) Debugf(string, ...any)                      {}
func (k *kitexLog) Infof(string, ...any)                       {}
func (k *kitexLog) Noticef(string, ...any)                     {}
func (k *kitexLog) Warnf(f string, _ ...any)                   { k.log(slog.LevelDebug, f) }
func (k *kitexLog) Errorf(f string, _ ...any)                  { k.log(slog.LevelDebug, f) }
func (k *kitexLog) Fatalf(f string, _ ...any)                  { k.log(slog.LevelError, f) }
func (k *kitexLog) CtxTracef(context.Context, string, ...any)  {}
func (k *kitexLog) CtxDebugf(context.Context, string, ...any)  {}
func (k *kitexLog) CtxInfof(context.Context, string, ...any)   {}
func (k *kitexLog) CtxNoticef(context.Context, string, ...any) {}
func (k *kitexLog) CtxWarnf(_ context.Context, f string, _ ...any) {
	k.log(slog.LevelDebug, f)
}
func (k *kitexLog) CtxErrorf(_ context.Context, f string, _ ...any) {
	k.log(slog.LevelDebug, f)
}
func (k *kitexLog) CtxFatalf(_ context.Context, f string, _ ...any) {
	k.log(slog.LevelError, f)
}
func (k *kitexLog) SetLevel(klog.Level) {}
func (k *kitexLog) SetOutput(io.Writer) {}
