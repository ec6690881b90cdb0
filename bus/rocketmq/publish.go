package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/sony/gobreaker/v2"

	"github.com/gochat-im/gochat/bus"
)

// ErrClosed is the error of publishing after Close.
var ErrClosed = errors.New("rocketmq: closed")

// queueJobs bounds the calls of Publish that wait for a queue; further ones block.
const queueJobs = 64

// queue is one queue of the topic and what is published to it, one call at a time. run is
// its goroutine.
type queue struct {
	b       *Bus
	number  uint32
	mq      primitive.MessageQueue
	breaker *gobreaker.CircuitBreaker[struct{}]
	jobs    chan *job
}

// job is what one call of Publish gives to one queue. Without events it is a probe.
type job struct {
	evs  []bus.Event
	done chan<- error // has room
}

// Publish returns when the brokers have taken all of evs, or with the first error; then any of
// them may have been taken. It returns at once with an error while a breaker is open.
func (b *Bus) Publish(ctx context.Context, evs []bus.Event) error {
	if len(evs) == 0 {
		return nil
	}
	jobs := make([]*job, len(b.queues))
	some := 0
	for i := range evs {
		n := b.Queue(evs[i].Conversation)
		if jobs[n] == nil {
			jobs[n] = new(job)
			some++
		}
		jobs[n].evs = append(jobs[n].evs, evs[i])
	}
	done := make(chan error, some)
	for n, j := range jobs {
		if j == nil {
			continue
		}
		j.done = done
		if err := b.queues[n].put(ctx, j); err != nil {
			return err
		}
	}
	var first error
	for range some {
		select {
		case err := <-done:
			if first == nil {
				first = err
			}
		case <-ctx.Done():
			return fmt.Errorf("rocketmq: publish: %w", ctx.Err())
		case <-b.stopped:
			return ErrClosed
		}
	}
	return first
}

func (q *queue) put(ctx context.Context, j *job) error {
	select {
	case q.jobs <- j:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("rocketmq: publish to queue %d: %w", q.number, ctx.Err())
	case <-q.b.stopped:
		return ErrClosed
	}
}

// run publishes until the Bus is closed.
func (q *queue) run() {
	var jobs []*job
	var buf []byte
	for {
		jobs = jobs[:0]
		select {
		case <-q.b.stopped:
			return
		case j := <-q.jobs:
			jobs = append(jobs, j)
		}
		// Whatever came while the last call was under way goes with it.
		size := jobs[0].size()
	gather:
		for size < q.b.cfg.PackBytes {
			select {
			case j := <-q.jobs:
				jobs = append(jobs, j)
				size += j.size()
			default:
				break gather
			}
		}
		buf = q.publish(jobs, buf)
		clear(jobs)
	}
}

func (j *job) size() (n int) {
	for i := range j.evs {
		n += len(j.evs[i].Messages) + eventRoom
	}
	return n
}

// publish sends jobs in as many packs as they need and answers them. After an error the rest
// isn't tried: order within the queue is kept.
func (q *queue) publish(jobs []*job, buf []byte) []byte {
	cfg := &q.b.cfg
	var evs []bus.Event
	size := 0
	var err error
	flush := func() {
		if err == nil {
			buf, err = q.send(evs, buf)
		}
		evs, size = nil, 0
	}
	probe := true
	for _, j := range jobs {
		for i := range j.evs {
			n := min(len(j.evs[i].Messages), cfg.MaxEvent) + eventRoom
			if size > 0 && size+n > cfg.PackBytes {
				flush()
			}
			evs = append(evs, j.evs[i])
			size += n
			probe = false
		}
	}
	if len(evs) > 0 || probe {
		flush()
	}
	for _, j := range jobs {
		j.done <- err
	}
	return buf
}

// send publishes one pack. buf is reused: the library has written it when the call returns,
// unless it failed.
func (q *queue) send(evs []bus.Event, buf []byte) ([]byte, error) {
	h := q.b.watch.publishing(q.number, evs)
	buf = appendPackHeader(buf[:0], &h)
	for i := range evs {
		buf = appendEvent(buf, &evs[i], q.b.cfg.MaxEvent)
	}
	_, err := q.breaker.Execute(func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(context.Background(), q.b.cfg.SendTimeout)
		defer cancel()
		mq := q.mq
		m := primitive.NewMessage(q.b.cfg.Topic, buf)
		m.Queue = &mq
		res, err := q.b.producer.SendSync(ctx, m)
		if err == nil && res.Status != primitive.SendOK {
			err = fmt.Errorf("status %d: stored, but not as safely as configured", res.Status)
		}
		return struct{}{}, err
	})
	q.b.watch.published(q.number, &h, err)
	if err != nil {
		// A call that timed out may still be writing from it.
		return nil, fmt.Errorf("rocketmq: publish %d events to queue %d: %w", len(evs), q.number, err)
	}
	return buf, nil
}

// breakers has one breaker for each broker: after a few failures in a row it is asked no
// more, but once a second.
type breakers struct {
	log *slog.Logger

	mu sync.Mutex
	m  map[string]*gobreaker.CircuitBreaker[struct{}]
}

func newBreakers(log *slog.Logger) *breakers {
	return &breakers{log: log, m: make(map[string]*gobreaker.CircuitBreaker[struct{}])}
}

func (b *breakers) of(broker string) *gobreaker.CircuitBreaker[struct{}] {
	b.mu.Lock()
	defer b.mu.Unlock()
	cb := b.m[broker]
	if cb == nil {
		cb = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
			Name:        broker,
			Timeout:     time.Second,
			ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= 3 },
			OnStateChange: func(name string, from, to gobreaker.State) {
				level := slog.LevelDebug // while it is away it is tried once a second
				if from == gobreaker.StateClosed || to == gobreaker.StateClosed {
					level = slog.LevelWarn
				}
				b.log.Log(context.Background(), level, "a broker's breaker has changed", "broker", name, "from", from.String(), "to", to.String())
			},
		})
		b.m[broker] = cb
	}
	return cb
}

// Breakers returns the state of each broker's breaker by the broker's name: closed,
// half-open or open.
func (b *Bus) Breakers() map[string]string {
	b.breakers.mu.Lock()
	defer b.breakers.mu.Unlock()
	states := make(map[string]string, len(b.breakers.m))
	for name, cb := range b.breakers.m {
		states[name] = cb.State().String()
	}
	return states
}
