package relay

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gochat-im/gochat/router/nodes"
)

// Mark says that a pack of events came through a queue of the bus. A later one of the same
// publisher and queue says it of all before.
type Mark struct {
	Publisher uint64 // see PublisherOf
	Queue     uint32
	Number    uint64
}

// publisherBits are those of a publisher's number that are its node's worker number.
const publisherBits = 10

// PublisherOf names a node, and this start of it, to those who take what it publishes.
func PublisherOf(worker uint32, start uint64) uint64 {
	return start<<publisherBits | uint64(worker)&(1<<publisherBits-1)
}

// ReportsConfig is what Reports need; zero fields take their defaults.
type ReportsConfig struct {
	View View
	Call Caller // of a node that publishes, which reads the body with ReadMarks

	Timeout time.Duration // of one call; 0: 1 s
	Logger  *slog.Logger  // nil: none
}

// Reports tell those who publish to the bus what came through: a call at a time to each node, with what gathered
// while the last one was under way. What can't be told is dropped: publishers ask again.
type Reports struct {
	cfg  ReportsConfig
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	to      map[uint32]map[markOf]uint64 // by worker number, of those with a call under way
	closed  bool
	dropped uint64
}

type markOf struct {
	publisher uint64
	queue     uint32
}

// maxMarks bounds what waits for one node: queues, more or less.
const maxMarks = 4096

// NewReports returns Reports. Close ends them.
func NewReports(cfg ReportsConfig) (*Reports, error) {
	switch {
	case cfg.View == nil || cfg.Call == nil:
		return nil, errors.New("relay: View and Call are needed")
	case cfg.Timeout < 0:
		return nil, errors.New("relay: a time is below zero")
	}
	cfg.Timeout, cfg.Logger = cmp.Or(cfg.Timeout, time.Second), logger(cfg.Logger)
	r := &Reports{cfg: cfg, to: make(map[uint32]map[markOf]uint64)}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r, nil
}

// Take tells publishers of marks. It doesn't block; marks are the caller's again when it returns.
func (r *Reports) Take(marks []Mark) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	for _, m := range marks {
		worker := uint32(m.Publisher & (1<<publisherBits - 1))
		waiting, under := r.to[worker]
		if !under {
			waiting = make(map[markOf]uint64)
			r.to[worker] = waiting
			r.wg.Go(func() { r.tell(worker) })
		}
		k := markOf{m.Publisher, m.Queue}
		if _, ok := waiting[k]; !ok && len(waiting) >= maxMarks {
			r.dropped++
			continue
		}
		waiting[k] = max(waiting[k], m.Number)
	}
}

// tell calls one node until nothing waits for it.
func (r *Reports) tell(worker uint32) {
	for {
		r.mu.Lock()
		waiting := r.to[worker]
		if len(waiting) == 0 || r.closed {
			delete(r.to, worker)
			r.mu.Unlock()
			return
		}
		r.to[worker] = make(map[markOf]uint64)
		r.mu.Unlock()
		err := errors.New("no such node is known")
		if to := r.cfg.View.ByWorker(worker); to != nil {
			err = r.call(to, waiting)
		}
		if err == nil {
			continue
		}
		r.mu.Lock()
		r.dropped += uint64(len(waiting))
		r.mu.Unlock()
		if r.ctx.Err() == nil {
			r.cfg.Logger.Debug("a publisher can't be told what came through", "worker", worker, "err", err)
		}
	}
}

func (r *Reports) call(to *nodes.Node, waiting map[markOf]uint64) error {
	body := binary.AppendUvarint(nil, uint64(len(waiting)))
	for k, number := range waiting {
		body = binary.AppendUvarint(body, k.publisher)
		body = binary.AppendUvarint(body, uint64(k.queue))
		body = binary.AppendUvarint(body, number)
	}
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.Timeout)
	defer cancel()
	_, err := r.cfg.Call(ctx, to, body)
	return err
}

// ReadMarks returns the marks of a call.
func ReadMarks(body []byte) ([]Mark, error) {
	r := reader{b: body}
	marks := make([]Mark, 0, r.count(3))
	for range cap(marks) {
		m := Mark{r.number(), uint32(r.number()), r.number()}
		marks = append(marks, m)
	}
	if r.err != nil {
		return nil, fmt.Errorf("reading what came through the bus: %w", r.err)
	}
	return marks, nil
}

// ReportsStats are counts.
type ReportsStats struct {
	Dropped uint64 // marks that nobody could be told of
}

// Stats returns the counts.
func (r *Reports) Stats() ReportsStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return ReportsStats{r.dropped}
}

// Close ends the calls under way, and waits for them.
func (r *Reports) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.wg.Wait()
}
