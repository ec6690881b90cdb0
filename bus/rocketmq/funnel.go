package rocketmq

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/gochat-im/gochat/bus"
)

// funnel brings packs that the library hands out in many goroutines to a handler that is
// called from one: run's. What waits gathers into one call, each queue's in its order.
type funnel struct {
	cfg    *Config
	handle bus.Handler
	log    *slog.Logger
	seen   func([]Mark) // may be nil; the slice is the funnel's

	in      chan *unit
	stopped chan struct{} // closed when run has ended

	// of run
	waiting map[primitive.MessageQueue]*line
	count   int // of units that wait
	evs     []bus.Event
	batch   []*unit
	marks   []Mark
}

// unit is a pack on its way through.
type unit struct {
	queue  primitive.MessageQueue // zero: in no order
	offset int64
	mark   Mark
	echo   bool
	evs    []bus.Event
	at     time.Time
	done   chan error // has room for one
}

// line is what waits of one queue.
type line struct {
	next  int64 // offset behind the last that was taken, -1: none was
	units []*unit
}

var errStopped = errors.New("rocketmq: the consumer is ending")

const (
	// holdGap is how long a pack waits for the one before it, which is in another goroutine.
	holdGap = 20 * time.Millisecond

	retryMin = 20 * time.Millisecond
	retryMax = time.Second
)

func newFunnel(cfg *Config, h bus.Handler, log *slog.Logger) *funnel {
	return &funnel{
		cfg: cfg, handle: h, log: log, in: make(chan *unit), stopped: make(chan struct{}),
		waiting: make(map[primitive.MessageQueue]*line),
	}
}

// pass waits until u was handled, and returns why it wasn't.
func (f *funnel) pass(u *unit) error {
	select {
	case f.in <- u:
	case <-f.stopped:
		return errStopped
	}
	select {
	case err := <-u.done:
		return err
	case <-f.stopped:
		return errStopped
	}
}

// run handles what comes until ctx ends.
func (f *funnel) run(ctx context.Context) {
	defer close(f.stopped)
	for ctx.Err() == nil {
		var hold <-chan time.Time
		if f.count > 0 {
			hold = time.After(holdGap)
		}
		select {
		case <-ctx.Done():
			return
		case u := <-f.in:
			f.put(u)
			runtime.Gosched() // what was pulled together comes together, if each in a goroutine of its own
		case <-hold:
		}
		for ctx.Err() == nil {
			f.gather()
			if f.take(); len(f.batch) == 0 {
				break
			}
			f.act(ctx)
			clear(f.batch)
			clear(f.evs)
		}
	}
}

// gather takes in what stands at the door.
func (f *funnel) gather() {
	for {
		select {
		case u := <-f.in:
			f.put(u)
		default:
			return
		}
	}
}

func (f *funnel) put(u *unit) {
	l := f.waiting[u.queue]
	if l == nil {
		l = &line{next: -1}
		f.waiting[u.queue] = l
	}
	u.at = time.Now()
	i, _ := slices.BinarySearchFunc(l.units, u.offset, func(v *unit, o int64) int { return int(v.offset - o) })
	l.units = slices.Insert(l.units, i, u)
	f.count++
}

// take makes a batch of what may be handled now: each queue's packs without gaps, or after
// they have waited for what may be in one.
func (f *funnel) take() {
	f.batch = f.batch[:0]
	events := 0
	now := time.Now()
	for q, l := range f.waiting {
		n := 0
		for n < len(l.units) && events < f.cfg.Batch {
			u := l.units[n]
			if q.Topic != "" && l.next >= 0 && u.offset > l.next && now.Sub(u.at) < holdGap {
				break
			}
			l.next = max(l.next, u.offset+1)
			events += len(u.evs)
			f.batch = append(f.batch, u)
			n++
		}
		l.units = slices.Delete(l.units, 0, n)
		f.count -= n
	}
}

// act handles the batch. What fails is tried again for a while, pack by pack; what fails
// while others don't, or for too long, is given back and comes again later.
func (f *funnel) act(ctx context.Context) {
	if f.call(ctx, f.batch) == nil {
		f.settle(f.batch)
		return
	}
	end := time.Now().Add(f.cfg.InPlace)
	left := slices.Clone(f.batch)
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		var failed []*unit
		var err error
		for _, u := range left {
			if ctx.Err() != nil {
				return
			}
			if e := f.call(ctx, []*unit{u}); e != nil {
				failed, err = append(failed, u), e
			} else {
				f.settle([]*unit{u})
			}
		}
		if len(failed) < len(left) || time.Now().After(end) {
			if ctx.Err() != nil {
				return
			}
			for _, u := range failed {
				u.done <- err
			}
			return
		}
		f.log.Warn("the handler failed; its events come again", "packs", len(failed), "err", err)
		left = failed
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait/2 + rand.N(wait)):
		}
	}
}

func (f *funnel) call(ctx context.Context, units []*unit) error {
	f.evs = f.evs[:0]
	for _, u := range units {
		f.evs = append(f.evs, u.evs...)
	}
	if len(f.evs) == 0 {
		return nil
	}
	return f.handle(ctx, f.evs)
}

// settle reports units that were handled, and answers them.
func (f *funnel) settle(units []*unit) {
	f.marks = f.marks[:0]
	for _, u := range units {
		if u.echo {
			f.marks = append(f.marks, u.mark)
		}
	}
	if len(f.marks) > 0 && f.seen != nil {
		f.seen(f.marks)
	}
	for _, u := range units {
		u.done <- nil
	}
}
