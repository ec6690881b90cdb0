package rocketmq

import (
	"context"
	"sync"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
)

// watch knows, queue by queue, how far what this process published has been seen coming
// through.
type watch struct {
	cfg *Config
	on  bool
	now func() time.Time

	mu     sync.Mutex
	queues []watched
	bytes  int           // of messages kept, all queues together
	wake   chan struct{} // something is to be watched
}

// watched is a queue's state. It starts in direct: nothing has been seen yet.
type watched struct {
	number uint64 // of the last pack
	seen   uint64
	direct bool
	since  uint64 // in direct: what has this number or a higher one ends it when it is seen

	asked   uint64    // the first pack that a report was asked for and hasn't come; 0: none
	askedAt time.Time // also the last time that one was asked for
	probing bool      // a probe is in the queue's goroutine
	unseen  []unseen  // packs that may have to be handed over, ascending

	awaited event  // what Passed was asked about last
	through uint64 // pack with which it has passed
}

type event struct {
	conv       id.ConversationID
	epoch, seq uint64
}

type unseen struct {
	number uint64
	at     time.Time
	bytes  int
	evs    []bus.Event
}

func newWatch(c *Config, queues int) *watch {
	w := &watch{cfg: c, on: c.Watched != "", now: time.Now, queues: make([]watched, queues), wake: make(chan struct{}, 1)}
	for i := range w.queues {
		w.queues[i].direct, w.queues[i].since = w.on, 1
	}
	return w
}

// publishing gives a pack of evs its number, and decides whether to ask for a report.
func (w *watch) publishing(number uint32, evs []bus.Event) packHeader {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := &w.queues[number]
	q.number++
	h := packHeader{Mark: Mark{w.cfg.Publisher, number, q.number}}
	if !w.on {
		return h
	}
	now := w.now()
	if q.asked == 0 && now.Sub(q.askedAt) >= w.cfg.EchoEvery || q.direct || len(evs) == 0 {
		h.echo = true
		q.askedAt = now
		if q.asked == 0 {
			q.asked = q.number
		}
	}
	if q.direct || len(evs) == 0 {
		return h // who published it hands it over
	}
	bytes := 0
	for i := range evs {
		bytes += len(evs[i].Messages)
	}
	q.unseen = append(q.unseen, unseen{q.number, now, bytes, evs})
	w.bytes += bytes
	for w.bytes > w.cfg.UnseenBytes && len(q.unseen) > 0 {
		w.forget(q, 1) // it still comes, only late
	}
	return h
}

// forget drops the first n packs of what is kept of q.
func (w *watch) forget(q *watched, n int) {
	for i := range q.unseen[:n] {
		w.bytes -= q.unseen[i].bytes
	}
	clear(q.unseen[:n])
	if q.unseen = q.unseen[n:]; len(q.unseen) == 0 {
		q.unseen = nil
	}
}

// published tells how the call with the pack of h ended.
func (w *watch) published(number uint32, h *packHeader, err error) {
	if !w.on {
		return
	}
	w.mu.Lock()
	q := &w.queues[number]
	if err != nil && !q.direct {
		q.direct, q.since = true, h.Number+1
	}
	if err != nil {
		q.asked = 0
	}
	w.mu.Unlock()
	w.rouse()
}

// Saw tells that packs were handled by a consumer of the watched group. Marks of other
// publishers, or of an earlier start of this one, are ignored.
func (b *Bus) Saw(marks []Mark) { b.watch.saw(marks) }

func (w *watch) saw(marks []Mark) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range marks {
		if m.Publisher != w.cfg.Publisher || int(m.Queue) >= len(w.queues) {
			continue
		}
		q := &w.queues[m.Queue]
		if m.Number > q.number {
			continue
		}
		q.seen = max(q.seen, m.Number)
		if q.asked != 0 && q.seen >= q.asked {
			q.asked = 0
		}
		if q.direct && q.seen >= q.since {
			q.direct = false
		}
		n := 0
		for n < len(q.unseen) && q.unseen[n].number <= q.seen {
			n++
		}
		w.forget(q, n)
	}
}

// Alive reports whether what is published to queue has lately been seen coming through. While
// it hasn't, who publishes hands events to fan-out directly as well. It doesn't block.
func (b *Bus) Alive(queue int) bool { return !b.watch.isDirect(queue) }

// Passed reports whether message seq of conv, which was published to queue before the first
// time that this is asked, has come through it. It doesn't block.
func (b *Bus) Passed(_ context.Context, queue int, conv id.ConversationID, epoch, seq uint64) (bool, error) {
	return b.watch.passed(queue, event{conv, epoch, seq}), nil
}

func (w *watch) passed(queue int, ev event) bool {
	if !w.on {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	q := &w.queues[queue]
	if q.awaited != ev {
		q.awaited, q.through = ev, q.number // it is in that pack or one before
		w.rouse()
	}
	return q.seen >= q.through
}

// rouse ends the sleep of who watches.
func (w *watch) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watch) isDirect(queue int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.queues[queue].direct
}

// DirectQueues returns how many queues events are handed past.
func (b *Bus) DirectQueues() (n int) {
	b.watch.mu.Lock()
	defer b.watch.mu.Unlock()
	for i := range b.watch.queues {
		if b.watch.queues[i].direct {
			n++
		}
	}
	return n
}

// look finds what has to be done now: packs overdue, in their order, and queues to probe.
// idle: nothing is awaited any more.
func (w *watch) look() (overdue []bus.Event, late []int, probe []int, idle bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	idle = true
	for i := range w.queues {
		q := &w.queues[i]
		if !q.direct && q.asked != 0 && now.Sub(q.askedAt) >= w.cfg.SeenWithin {
			q.direct, q.since = true, q.number+1
			late = append(late, i)
		}
		if q.direct && len(q.unseen) > 0 { // it went direct now, or its publishing failed
			for j := range q.unseen {
				overdue = append(overdue, q.unseen[j].evs...)
			}
			w.forget(q, len(q.unseen))
		}
		switch {
		case q.direct:
			idle = false
			if !q.probing && now.Sub(q.askedAt) >= w.cfg.SeenWithin {
				probe = append(probe, i)
			}
		case q.asked == 0 && (len(q.unseen) > 0 || q.seen < q.through):
			idle = false
			if !q.probing && now.Sub(q.askedAt) >= w.cfg.EchoEvery {
				probe = append(probe, i)
			}
		case q.asked != 0:
			idle = false
		}
	}
	for _, i := range probe {
		w.queues[i].probing = true
	}
	return overdue, late, probe, idle
}

// runWatch asks for reports where traffic doesn't, and hands over what is overdue, until the
// Bus is closed. While nothing is awaited it sleeps.
func (b *Bus) runWatch() {
	every := min(b.cfg.EchoEvery, b.cfg.SeenWithin) / 4
	for {
		overdue, late, probe, idle := b.watch.look()
		if len(late) > 0 {
			b.log.Warn("what is published doesn't come through; it is handed over directly", "queues", late, "events", len(overdue))
		}
		if len(overdue) > 0 && b.cfg.Overdue != nil {
			b.cfg.Overdue(overdue)
		}
		for _, i := range probe {
			b.probe(i)
		}
		if idle {
			select {
			case <-b.stopped:
				return
			case <-b.watch.wake:
			}
		}
		select {
		case <-b.stopped:
			return
		case <-time.After(every):
		}
	}
}

// probe has a queue publish a pack without events.
func (b *Bus) probe(i int) {
	done := make(chan error, 1)
	end := func() {
		b.watch.mu.Lock()
		b.watch.queues[i].probing = false
		b.watch.mu.Unlock()
	}
	select {
	case b.queues[i].jobs <- &job{done: done}:
	default: // it is busy with events, which ask by themselves
		end()
		return
	}
	b.wg.Go(func() {
		defer end()
		select {
		case <-done: // an error is the breaker's business
		case <-b.stopped:
		}
	})
}
