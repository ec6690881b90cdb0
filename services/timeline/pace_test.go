package timeline

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
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

// Whoever asks between two rounds is told when the next may begin.
func TestRounds(t *testing.T) {
	for _, pace := range []time.Duration{0, time.Second} {
		cfg := config(newMemory(t))
		cfg.Pace = pace
		s, _ := start(t, cfg)
		alice, conv := newSender("alice", 1), id.Direct("alice", "bob")
		create(t, cfg.Store, conv, nowMs())
		began := time.Now()
		s.Append(conv, []packet.Pending{alice.text(id.NewClientMsgID(nowMs()), "hello")})
		alice.hear(t, 1)
		rest, told := s.Rounds()
		if told != pace || rest > pace || rest == 0 && time.Since(began) < pace {
			t.Errorf("with a pace of %s: %s until the next round, and a pace of %s", pace, rest, told)
		}
	}
}
