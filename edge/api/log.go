package api

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/cloudwego/hertz/pkg/common/hlog"
)

// hertzLog takes what Hertz logs over to slog. Hertz has one logger for the process, so it is
// set once and the last server's is used. Only format strings are passed on: the arguments
// may quote a request, and in a request there are passwords and tokens.
type hertzLog struct{ to atomic.Pointer[slog.Logger] }

var (
	hertzLogger  hertzLog
	hertzLogOnce sync.Once
)

func bridgeLogs(l *slog.Logger) {
	hertzLogger.to.Store(l)
	hertzLogOnce.Do(func() { hlog.SetLogger(&hertzLogger) })
}

// log passes a line on. What Hertz calls an error is mostly a client that went away or talked nonsense.
func (h *hertzLog) log(level slog.Level, format string) {
	if l := h.to.Load(); l != nil {
		l.Log(context.Background(), level, "http engine", "event", format)
	}
}

const unformatted = "(a message without a format)"

func (h *hertzLog) Trace(...any)                               {}
func (h *hertzLog) Debug(...any)                               {}
func (h *hertzLog) Info(...any)                                {}
func (h *hertzLog) Notice(...any)                              {}
func (h *hertzLog) Warn(...any)                                { h.log(slog.LevelDebug, unformatted) }
func (h *hertzLog) Error(...any)                               { h.log(slog.LevelDebug, unformatted) }
func (h *hertzLog) Fatal(...any)                               { h.log(slog.LevelError, unformatted) }
func (h *hertzLog) Tracef(string, ...any)                      {}
func (h *hertzLog) Debugf(string, ...any)                      {}
func (h *hertzLog) Infof(string, ...any)                       {}
func (h *hertzLog) Noticef(string, ...any)                     {}
func (h *hertzLog) Warnf(f string, _ ...any)                   { h.log(slog.LevelDebug, f) }
func (h *hertzLog) Errorf(f string, _ ...any)                  { h.log(slog.LevelDebug, f) }
func (h *hertzLog) Fatalf(f string, _ ...any)                  { h.log(slog.LevelError, f) }
func (h *hertzLog) CtxTracef(context.Context, string, ...any)  {}
func (h *hertzLog) CtxDebugf(context.Context, string, ...any)  {}
func (h *hertzLog) CtxInfof(context.Context, string, ...any)   {}
func (h *hertzLog) CtxNoticef(context.Context, string, ...any) {}
func (h *hertzLog) CtxWarnf(_ context.Context, f string, _ ...any) {
	h.log(slog.LevelDebug, f)
}
func (h *hertzLog) CtxErrorf(_ context.Context, f string, _ ...any) {
	h.log(slog.LevelDebug, f)
}
func (h *hertzLog) CtxFatalf(_ context.Context, f string, _ ...any) {
	h.log(slog.LevelError, f)
}
func (h *hertzLog) SetLevel(hlog.Level) {}
func (h *hertzLog) SetOutput(io.Writer) {}
