package storage

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
)

// Dead letters are counted at once and at each tick. What fails leaves the last count, and what is new is told once.
func TestCountDeadLetters(t *testing.T) {
	var log bytes.Buffer
	var s Storage
	s.cfg.Beside.Group = "fanout"
	answers := []struct {
		n    int64
		err  error
		want int64
	}{{0, errors.New("away"), -1}, {0, nil, 0}, {3, nil, 3}, {3, nil, 3}, {0, errors.New("away"), 3}, {1, nil, 1}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tick := make(chan time.Time)
	asked := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		i := 0
		s.dead.run(ctx, tick, slog.New(slog.NewTextHandler(&log, nil)), func(context.Context) (int64, error) {
			if i == len(answers) {
				cancel()
				return 0, ctx.Err()
			}
			a := answers[i]
			i++
			asked <- struct{}{}
			return a.n, a.err
		})
	}()
	for i, a := range answers {
		<-asked
		tick <- time.Time{} // taken when the answer before it was
		group, n, ok := s.DeadLetters()
		if group != "fanout" || ok != (a.want >= 0) || n != max(a.want, 0) {
			t.Errorf("after answer %d: %q %d %v, want %d", i, group, n, ok, a.want)
		}
	}
	<-done
	if n := strings.Count(log.String(), "dead letters"); n != 1 || !strings.Contains(log.String(), "letters=3") {
		t.Errorf("told %d times:\n%s", n, log.String())
	}

	embedded, end := context.WithCancel(t.Context())
	end()
	if err := new(Storage).CountDeadLetters(embedded); err != nil {
		t.Error(err)
	}
	if _, _, ok := new(Storage).DeadLetters(); ok {
		t.Error("a bus that has no dead letters has some")
	}
}

// The store follows the level in force, when it can. (There is one level yet: so the store is at none.)
func TestFollowLevel(t *testing.T) {
	var told bytes.Buffer
	store := memory.New(memory.Config{})
	s := &Storage{Store: store, log: slog.New(slog.NewTextHandler(&told, nil))}
	tick, done := make(chan time.Time), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(done)
		s.followLevel(ctx, tick, func() uint32 { return msgstore.FeatureLevel })
	}()
	for range 3 {
		tick <- time.Time{} // the store has no meta row yet
	}
	if _, err := msgstore.OpenMeta(ctx, store, s.Keys, 1); err != nil {
		t.Fatal(err)
	}
	tick <- time.Time{}
	tick <- time.Time{}
	if s.Level() != msgstore.FeatureLevel {
		t.Errorf("level %d", s.Level())
	}
	tick <- time.Time{}
	cancel()
	<-done
	if n := strings.Count(told.String(), "feature level stays"); n != 1 {
		t.Errorf("told %d times:\n%s", n, told.String())
	}
	if n := strings.Count(told.String(), "was raised"); n != 1 {
		t.Errorf("raised %d times:\n%s", n, told.String())
	}
	if err := s.RaiseLevel(t.Context(), msgstore.FeatureLevel+1); !errors.Is(err, msgstore.ErrFeatureLevel) {
		t.Errorf("beyond what this release reads: %v", err)
	}
}
