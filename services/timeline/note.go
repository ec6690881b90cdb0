package timeline

import (
	"context"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/trace"
)

// note logs what became of a message if it was slow, failed through no fault of its sender,
// or carries a trace id. began is when its round began, 0 if none did; both times are of
// trace.Now. A message's queue time is what passed before that: at the edge, in a hook, until
// its conversation was made or loaded, behind others.
func (s *Sequencer) note(conv id.ConversationID, o *outcome, began, now int64) {
	p := o.p
	slow := s.cfg.Slow > 0 && p.At > 0 && now-p.At >= int64(s.cfg.Slow)
	level, what, pace := slog.LevelDebug, "a send was decided", (*trace.Pace)(nil)
	switch {
	case o.err != nil && failure(o.err):
		level, what, pace = slog.LevelWarn, "a send failed", &s.failed
	case slow:
		level, what, pace = slog.LevelWarn, "a send was slow", &s.slow
	case p.Trace == nil:
		return
	}
	if !s.log.Enabled(context.Background(), level) {
		return
	}
	var left uint64
	if pace != nil {
		var ok bool
		if left, ok = pace.Allow(now); !ok {
			return
		}
	}
	attrs := []slog.Attr{slog.String("conversation", conv.String())}
	if o.err != nil {
		attrs = append(attrs, slog.String("refused", o.err.Code.String()), slog.Any("err", o.err.Cause))
	} else {
		attrs = append(attrs, slog.Uint64("seq", o.seq), slog.Bool("duplicate", o.dup))
	}
	if p.At > 0 {
		attrs = append(attrs, slog.Duration("took", time.Duration(now-p.At)))
		if began > 0 {
			attrs = append(attrs, slog.Duration("queued", time.Duration(began-p.At)), slog.Duration("stored_in", time.Duration(now-began)))
		}
	}
	if pace != nil {
		attrs = append(attrs, slog.Uint64("left_out", left))
	}
	s.log.LogAttrs(trace.With(context.Background(), p.Call()), level, what, attrs...)
}

// failure reports whether a message was refused for a reason that somebody who runs the
// server should know.
func failure(e *code.Error) bool {
	switch e.Code {
	case code.Unavailable, code.Undetermined, code.StorageFull, code.Internal:
		return true
	}
	return false
}
