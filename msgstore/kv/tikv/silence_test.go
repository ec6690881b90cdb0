package tikv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	tikverr "github.com/tikv/client-go/v2/error"
)

func TestJudgement(t *testing.T) {
	for _, c := range []struct {
		err  error
		want verdict
	}{
		{nil, answered},
		{&tikverr.ErrWriteConflict{WriteConflict: &kvrpcpb.WriteConflict{}}, answered},
		{&tikverr.ErrKeyExist{AlreadyExist: &kvrpcpb.AlreadyExist{}}, answered},
		{tikverr.ErrTiKVDiskFull, answered},
		{&tikverr.ErrEntryTooLarge{}, nothing},
		{&tikverr.ErrGCTooEarly{}, nothing},
		{context.Canceled, nothing},
		{context.DeadlineExceeded, failed},
		{tikverr.ErrResultUndetermined, failed},
		{tikverr.ErrRegionUnavailable, failed},
		{tikverr.ErrTiKVServerTimeout, failed},
		{tikverr.ErrTiKVServerBusy, failed},
		{tikverr.NewErrPDServerTimeout("slow"), failed},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("wrapped: %w", err)
		}
		if got := judgement(err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	ended, cancel := context.WithCancel(context.Background())
	if readJudgement(ended, errors.New("no answer")) != failed {
		t.Error("a read that failed by itself says nothing")
	}
	if cancel(); readJudgement(ended, errors.New("no answer")) != nothing || readJudgement(ended, nil) != answered {
		t.Error("a read whose caller gave up says something")
	}
}

// One region that is away doesn't open the breaker for the others: nothing else may have been answered for a while, either.
func TestBreakerNeedsSilence(t *testing.T) {
	shut := 0
	b := newBreaker(Breaker{Failures: 3, Patience: time.Hour, Open: time.Hour}, slog.New(slog.DiscardHandler), func(bool) { shut++ })
	end := func(v verdict) {
		t.Helper()
		p, err := b.enter(1)
		if err != nil {
			t.Fatal(err)
		}
		p.end(v)
	}
	for range 100 {
		end(failed)
	}
	if b.shut() {
		t.Fatal("open, while somebody was answered within the hour")
	}
	b.base = b.base.Add(-2 * time.Hour)
	end(answered)
	b.heard.Store(0)
	for range 2 {
		end(failed)
		end(nothing)
		if b.shut() {
			t.Fatal("open after two")
		}
	}
	if end(failed); !b.shut() || shut != 1 {
		t.Fatal("closed after three")
	}
}

// Operations that take too long count before they end, and if they are answered after all they don't; but not if it was this process that stood still.
func TestBreakerLate(t *testing.T) {
	b := newBreaker(Breaker{Failures: 3, Patience: time.Hour, Open: time.Hour}, slog.New(slog.DiscardHandler), func(bool) {})
	b.base = b.base.Add(-2 * time.Hour)
	enter := func() *passage {
		t.Helper()
		p, err := b.enter(1)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	inARow := func(want uint32) {
		t.Helper()
		if got := b.steps.Load().Counts().ConsecutiveFailures; got != want {
			t.Errorf("%d failures in a row, want %d", got, want)
		}
	}
	first, second, third, fourth := enter(), enter(), enter(), enter()
	first.late()
	inARow(1)
	first.end(failed) // which is known
	inARow(1)
	second.end(answered)
	inARow(0)
	third.begun = time.Now().Add(-3 * time.Hour)
	third.late()
	inARow(0)
	third.end(nothing)
	third.end(failed) // the first word counts
	inARow(0)
	enter().late()
	enter().late()
	enter().late()
	if b.shut() {
		t.Error("open, while somebody was answered within the hour")
	}
	b.heard.Store(0)
	if enter().late(); !b.shut() {
		t.Error("closed after four that take too long")
	}
	if _, err := b.enter(2); err == nil || b.keptBack.Load() != 2 {
		t.Errorf("%v, kept back %d", err, b.keptBack.Load())
	}
	fourth.late()
	if fourth.end(answered); b.shut() || b.steps.Load().State().String() != "closed" {
		t.Error("open, though one that was under way before has its answer")
	}
	inARow(0)
}

// Of those that try one that is late gives way to the next, fails for itself alone then, and closes the breaker when it is answered.
func TestBreakerHalfOpen(t *testing.T) {
	b := newBreaker(Breaker{Failures: 1, Patience: time.Hour, Open: time.Millisecond}, slog.New(slog.DiscardHandler), func(bool) {})
	b.base = b.base.Add(-2 * time.Hour)
	if p, err := b.enter(1); err == nil {
		p.end(failed)
	}
	b.cfg.Open = time.Hour // only the test calls late
	try := func() *passage {
		for {
			if p, err := b.enter(1); err == nil {
				return p
			}
			runtime.Gosched()
		}
	}
	first := try()
	if !first.trial {
		t.Fatal("it doesn't try")
	}
	if _, err := b.enter(1); err == nil {
		t.Fatal("two try at once")
	}
	first.late()
	second := try()
	second.late()
	second.end(failed)
	third := try()
	if third.end(nothing); b.steps.Load().State().String() != "half-open" {
		t.Errorf("%s after one that said nothing", b.steps.Load().State())
	}
	if first.end(answered); b.steps.Load().State().String() != "closed" || b.shut() {
		t.Errorf("%s after an answer", b.steps.Load().State())
	}
}
