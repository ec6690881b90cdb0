package tikv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	tikverr "github.com/tikv/client-go/v2/error"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// Breaker says when operations are refused at once, because neither TiKV nor PD answers. Zero values mean the defaults.
type Breaker struct {
	// Failures is after how many operations in a row that brought no answer; 0: 2.
	Failures uint32

	// Patience is how long an operation may take before it counts as one of those, however it ends, and for how long no other one may have
	// been answered: the client tries for 15 to 40 s by itself, and one region that is away is no reason to
	// refuse what the others still take. 0: 3 s.
	Patience time.Duration

	// Open is how long nothing is tried then; afterwards one operation may, and another one each time that so long has passed
	// without an answer. 0: 500 ms.
	Open time.Duration
}

func (c Breaker) withDefaults() Breaker {
	if c.Failures == 0 {
		c.Failures = 2
	}
	if c.Patience == 0 {
		c.Patience = 3 * time.Second
	}
	if c.Open == 0 {
		c.Open = 500 * time.Millisecond
	}
	return c
}

// breaker is that of a store: one for reads and commits, for TiKV and PD, since each operation needs both.
//
// A timestamp alone is no success: PD may give them while no TiKV server lives. So an operation passes once, before its
// timestamp, and what counts is what becomes of its first request. Several requests of a View, or
// of a scan's batches, pass one by one: between them runs code of the caller's, which may wait, and use the store.
type breaker struct {
	cfg     Breaker
	log     *slog.Logger
	base    time.Time       // monotonic times are counted from here
	changed func(shut bool) // under locks: it must not come back here

	steps atomic.Pointer[steps]
	mu    sync.Mutex   // taken under gobreaker's lock
	state atomic.Int32 // gobreaker.State: what steps told last; written under mu

	heard    atomic.Int64 // when a TiKV server last answered, since base
	keptBack atomic.Uint64
}

type steps = gobreaker.TwoStepCircuitBreaker[struct{}]

// What an operation that ended says of the servers.
type verdict int

const (
	answered verdict = iota // they are there, whatever they said
	failed                  // no answer came
	nothing                 // the operation ended before that was known
)

var (
	errOpen    = errors.New("neither TiKV nor PD has answered lately")
	errNothing = errors.New("nothing was learned") // what gobreaker leaves out
)

func newBreaker(cfg Breaker, log *slog.Logger, changed func(shut bool)) *breaker {
	b := &breaker{cfg: cfg, log: log, base: time.Now(), changed: changed}
	b.steps.Store(b.closed())
	return b
}

// closed returns a breaker that is.
func (b *breaker) closed() (s *steps) {
	s = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name: "tikv", MaxRequests: 1, Timeout: b.cfg.Open,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.ConsecutiveFailures >= b.cfg.Failures && b.silence() >= b.cfg.Patience
		},
		IsExcluded: func(err error) bool { return errors.Is(err, errNothing) },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.steps.Load() == s {
				b.change(from, to)
			}
		},
	})
	return s
}

// change takes note of another state. b.mu is held.
func (b *breaker) change(from, to gobreaker.State) {
	b.state.Store(int32(to))
	level := slog.LevelDebug // while they are away it is tried again and again
	if from == gobreaker.StateClosed || to == gobreaker.StateClosed {
		level = slog.LevelWarn
		b.changed(to != gobreaker.StateClosed)
	}
	b.log.Log(context.Background(), level, "the store's breaker has changed", "breaker", to.String(), "was", from.String(), "last_answer_ms", b.silence().Milliseconds())
}

// hear notes that a TiKV server answered, which closes the breaker. Gobreaker itself listens to the one that tries alone, and for so long
// as nobody else is let through: but those who were under way when it opened, and those who have been trying for a while, are as likely to be
// the first whom servers answer.
func (b *breaker) hear() {
	b.heard.Store(int64(time.Since(b.base)))
	if !b.shut() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shut() {
		b.steps.Store(b.closed())
		b.change(gobreaker.State(b.state.Load()), gobreaker.StateClosed)
	}
}

func (b *breaker) silence() time.Duration { return time.Since(b.base) - time.Duration(b.heard.Load()) }

// shut reports whether operations are refused, but for those that try.
func (b *breaker) shut() bool { return b.state.Load() != int32(gobreaker.StateClosed) }

// enter lets an operation of n reads or transactions through, or refuses it with ErrUnavailable. Who is let through ends the passage.
func (b *breaker) enter(n int) (*passage, error) {
	done, err := b.steps.Load().Allow()
	if err != nil {
		return nil, b.refusal(n)
	}
	p := &passage{b: b, done: done, wait: b.cfg.Patience}
	if p.trial = b.state.Load() == int32(gobreaker.StateHalfOpen); p.trial {
		p.wait = b.cfg.Open
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun = time.Now()
	p.timer = time.AfterFunc(p.wait, p.late)
	return p, nil
}

// refusal is the error of n reads or transactions that are kept back.
func (b *breaker) refusal(n int) error {
	b.keptBack.Add(uint64(n))
	return fmt.Errorf("%w: %w", kv.ErrUnavailable, errOpen)
}

// passage is an operation that was let through.
type passage struct {
	b     *breaker
	trial bool // while the others are refused
	wait  time.Duration

	mu    sync.Mutex
	done  func(error) // gobreaker's; called once
	begun time.Time
	timer *time.Timer
	told  bool // that its time is up
	ended bool
}

// late is called when the operation has taken its time. It goes on. It counts as failed from now on, without waiting until the client
// gives it up; but one that tries makes place for the next one to do so: the client may be in one of its pauses
// of seconds, and a slow answer is an answer.
func (p *passage) late() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	if since := time.Since(p.begun); since > p.wait+max(p.wait/4, 100*time.Millisecond) { // this process stood still itself
		p.begun = time.Now()
		p.timer.Reset(p.wait)
		return
	}
	p.told = true
	if p.trial {
		p.done(errNothing)
	} else {
		p.done(errOpen)
	}
}

// end tells how the operation ended; only the first time counts.
func (p *passage) end(v verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.ended = true
	p.timer.Stop()
	if !p.told { // else what was said stays
		p.done([...]error{answered: nil, failed: errOpen, nothing: errNothing}[v])
	}
	if v == answered {
		p.b.hear()
	}
}

// tell is for what was done without a passage.
func (b *breaker) tell(v verdict) {
	if p, err := b.enter(0); err == nil {
		p.end(v)
	}
}

// judgement is what an error of the client's says of the servers, nil for answered. What isn't known to be an answer is none: it takes
// several in a row, and nothing else that is answered, before anybody is refused for it.
func judgement(err error) verdict {
	var tooLate *tikverr.ErrGCTooEarly
	switch kind := outcome(err); {
	case kind == nil, errors.Is(kind, kv.ErrConflict), errors.Is(kind, kv.ErrFull):
		return answered
	case errors.Is(kind, kv.ErrTooLarge), errors.As(err, &tooLate), errors.Is(err, context.Canceled): // the client's own
		return nothing
	}
	return failed
}

// readJudgement is judgement where ctx is the caller's: that it ended says nothing, however soon it did. What has been waiting
// for long by then was counted when it was late.
func readJudgement(ctx context.Context, err error) verdict {
	if err != nil && ctx.Err() != nil {
		return nothing
	}
	return judgement(err)
}
