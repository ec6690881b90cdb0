package timeline

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
)

// Consumers knows who takes events from the queues of a bus that lies apart, and brings them to
// their recipients. It is safe for concurrent use.
type Consumers interface {
	// Queues is how many queues there are, at least one, and Queue which of them takes the events of conv, from 0
	// on. Neither changes. They don't block.
	Queues() int
	Queue(conv id.ConversationID) int

	// Alive reports whether somebody who holds a live lease takes from queue. It doesn't block.
	Alive(queue int) bool

	// Passed reports whether the bus has brought message seq of conv, which was published to queue,
	// to whoever takes from it. It is asked a few times a second for each queue that is handed over
	// directly and in which something was published, and for no other.
	Passed(ctx context.Context, queue int, conv id.ConversationID, epoch, seq uint64) (bool, error)
}

const (
	queuesEvery   = 250 * time.Millisecond // looks at queues that are handed over directly
	passedTimeout = 2 * time.Second
	probeFor      = 10 * time.Second // for so long is asked whether one event came through; then another one is taken
)

// queues knows which queues of the bus are handed over directly. All are at the start: what is
// published may lie behind anything.
type queues struct {
	consumers Consumers // nil: what the bus takes isn't handed over directly

	mu  sync.Mutex
	all []queue

	directly atomic.Int64 // how many are
}

type queue struct {
	direct bool
	probe  probe // the first event that was published since; seq 0: none was
}

type probe struct {
	conv       id.ConversationID
	epoch, seq uint64
	since      time.Time
}

func (q *queues) init(cfg *Config) {
	if q.consumers = cfg.Consumers; q.consumers == nil {
		return
	}
	q.all = make([]queue, q.consumers.Queues())
	for i := range q.all {
		q.all[i].direct = true
	}
	q.directly.Store(int64(len(q.all)))
}

// lost says that the bus has gone away.
func (q *queues) lost() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.all {
		q.handOver(i)
	}
}

// handOver has queue i handed over directly from now on. mu is held.
func (q *queues) handOver(i int) {
	if !q.all[i].direct {
		q.directly.Add(1)
	}
	q.all[i] = queue{direct: true}
}

// part parts evs into those that are handed over directly, and the rest; away: all of them are.
func (q *queues) part(evs []bus.Event, away bool) (direct, rest []bus.Event) {
	if away {
		return evs, nil
	}
	if q.consumers == nil {
		return nil, evs
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for i := range evs {
		if q.isDirect(q.consumers.Queue(evs[i].Conversation)) {
			n++
		}
	}
	switch n {
	case 0:
		return nil, evs
	case len(evs):
		return evs, nil
	}
	direct, rest = make([]bus.Event, 0, n), make([]bus.Event, 0, len(evs)-n)
	for i := range evs {
		if q.all[q.consumers.Queue(evs[i].Conversation)].direct {
			direct = append(direct, evs[i])
		} else {
			rest = append(rest, evs[i])
		}
	}
	return direct, rest
}

// isDirect reports whether queue i is handed over directly. mu is held.
func (q *queues) isDirect(i int) bool {
	if !q.all[i].direct && !q.consumers.Alive(i) {
		q.handOver(i)
	}
	return q.all[i].direct
}

// published notes that the bus has taken evs, which were handed over directly as well.
func (q *queues) published(evs []bus.Event) {
	if q.consumers == nil || len(evs) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range evs {
		ev := &evs[i]
		if x := &q.all[q.consumers.Queue(ev.Conversation)]; x.direct && x.probe.seq == 0 {
			x.probe = probe{ev.Conversation, ev.Epoch, ev.LastSeq, time.Now()}
		}
	}
}

// run ends the direct hand-over of queues that are found to bring what is published, until ctx ends.
func (q *queues) run(ctx context.Context, s *Sequencer) {
	tick := time.NewTicker(queuesEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for i := range q.all {
			w, ask := q.look(i)
			if !ask {
				continue
			}
			bounded, cancel := context.WithTimeout(ctx, passedTimeout)
			passed, err := q.consumers.Passed(bounded, i, w.conv, w.epoch, w.seq)
			cancel()
			if err != nil && ctx.Err() == nil {
				s.log.Debug("who takes from a queue of the bus doesn't say what came", "queue", i, "err", err)
			}
			q.judge(i, w, passed && err == nil)
		}
	}
}

// look returns the event of queue i to ask for.
func (q *queues) look(i int) (w probe, ask bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.isDirect(i) // a lease that lapses between two events counts, too
	w = q.all[i].probe
	return w, q.all[i].direct && w.seq != 0 && q.consumers.Alive(i)
}

// judge notes whether the event w has come through queue i.
func (q *queues) judge(i int, w probe, passed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch x := &q.all[i]; {
	case !x.direct || x.probe != w: // it was lost meanwhile
	case passed:
		*x = queue{}
		q.directly.Add(-1)
	case time.Since(w.since) > probeFor: // forgotten there, or it went another way
		x.probe = probe{}
	}
}

// DirectQueues returns how many queues of a bus that lies apart are handed over directly now.
func (s *Sequencer) DirectQueues() int { return int(s.queues.directly.Load()) }
