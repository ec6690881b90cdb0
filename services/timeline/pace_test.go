package timeline

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gochat-im/gochat/protocol/trace"
)

// What comes within the pace waits for it, and not where the last round left something, was longer, or none is to come.
func TestPace(t *testing.T) {
	const pace = 15 * time.Millisecond
	for _, c := range []struct {
		name   string
		pace   time.Duration
		took   time.Duration
		todo   int
		ended  bool
		waited time.Duration
	}{
		{name: "a short round", pace: pace, took: 2 * time.Millisecond, waited: 13 * time.Millisecond},
		{name: "a long round", pace: pace, took: 20 * time.Millisecond},
		{name: "a full round", pace: pace, took: 2 * time.Millisecond, todo: 1},
		{name: "no pace", took: 2 * time.Millisecond},
		{name: "the end", ended: true, pace: pace, took: 2 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Sequencer{cfg: Config{Pace: c.pace}, todo: make([]*conversation, c.todo)}
				began := time.Now()
				s.round.began = trace.Now()
				time.Sleep(c.took)
				ctx, end := context.WithCancel(context.Background())
				defer end()
				if c.ended {
					end()
				}
				s.rest(ctx)
				if waited := time.Since(began) - c.took; waited != c.waited {
					t.Errorf("it waited %s, want %s", waited, c.waited)
				}
			})
		})
	}
}
