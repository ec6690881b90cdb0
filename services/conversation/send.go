package conversation

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// Send takes over batch: messages of one connection to one target, in order. It never
// blocks. Messages to a user whose direct conversation isn't known to exist wait, in
// their order, until it was looked up or made.
func (s *Service) Send(batch []packet.Pending) {
	if len(batch) == 0 {
		return
	}
	p := &batch[0]
	if !p.Conversation.IsZero() {
		s.seq.Append(p.Conversation, batch)
		return
	}
	k := pairOf(p.From.User, p.ToUser)
	if conv, ok := s.pairs.get(k.hash(), k); ok {
		s.seq.Append(conv, batch)
		return
	}
	s.hold(k, batch)
}

// creations holds the messages of conversations that aren't known to exist, one entry a
// pair of users. A pool of goroutines, which ends when there is nothing to do, makes them.
type creations struct {
	mu      sync.Mutex
	byPair  map[pair]*creation
	queue   []*creation
	workers int
	waiting int // messages in all
	closed  bool
	ctx     context.Context
	cancel  context.CancelFunc
	idle    sync.Cond // workers went down to 0
	failed  trace.Pace
}

type creation struct {
	pair    pair
	batches [][]packet.Pending
	until   time.Time // when what waits is refused
}

func (c *creations) init() {
	c.byPair = make(map[pair]*creation)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.idle.L = &c.mu
}

// close refuses what comes, and returns when nothing is being made any more.
func (c *creations) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.cancel()
	for c.workers > 0 {
		c.idle.Wait()
	}
}

// createTime bounds how long messages wait for their conversation: for a goroutine that makes it, which are few, and
// for the store. Those that came first are made first, so whoever has to wait for a turn has one when the time
// of those before it is over. It is a node's lease, after which another node may be asked.
const createTime = 5 * time.Second

// hold queues batch behind what waits for the same conversation.
func (s *Service) hold(k pair, batch []packet.Pending) {
	m := &s.making
	m.mu.Lock()
	defer m.mu.Unlock()
	// What was refused under the lock while this was on its way holds it back.
	if l, ok := batch[0].Reply.(packet.Laned); ok && l.Shut(&batch[0]) {
		refuse(batch, code.New(code.LaneBlocked))
		return
	}
	// Looked up again under the lock: it is entered there, after what waited was handed on.
	if conv, ok := s.pairs.get(k.hash(), k); ok {
		s.seq.Append(conv, batch)
		return
	}
	switch {
	case m.closed:
		refuse(batch, code.New(code.Unavailable))
		return
	case m.waiting+len(batch) > s.cfg.Waiting:
		refuse(batch, code.New(code.Overloaded))
		return
	}
	m.waiting += len(batch)
	c := m.byPair[k]
	if c == nil {
		// The names outlive the frame that they came in.
		k = pair{id.UserID(strings.Clone(string(k.a))), id.UserID(strings.Clone(string(k.b)))}
		c = &creation{pair: k, until: time.Now().Add(createTime)}
		m.byPair[k] = c
		m.queue = append(m.queue, c)
		if m.workers < s.cfg.Creators {
			m.workers++
			go s.create()
		}
	}
	c.batches = append(c.batches, batch)
}

// create is one goroutine of the pool.
func (s *Service) create() {
	m := &s.making
	m.mu.Lock()
	for len(m.queue) > 0 {
		c := m.queue[0]
		m.queue[0] = nil
		if m.queue = m.queue[1:]; len(m.queue) == 0 {
			m.queue = nil
		}
		p := &c.batches[0][0]
		from, to := p.From.User, c.pair.b
		if from == c.pair.b {
			to = c.pair.a
		}
		m.mu.Unlock()
		ctx, cancel := context.WithDeadline(m.ctx, c.until)
		var r *roster
		err := ctx.Err() // its time may have passed before its turn came
		if err == nil {
			r, err = s.ensure(ctx, from, to)
		}
		cancel()
		m.mu.Lock()
		delete(m.byPair, c.pair)
		for _, b := range c.batches {
			m.waiting -= len(b)
		}
		// Under the lock, so that what comes meanwhile stays behind.
		if err != nil {
			refusal := msgstore.Refusal(err)
			if refusal.Cause != nil { // else it was its sender's
				if left, ok := m.failed.Allow(trace.Now()); ok {
					s.log.WarnContext(trace.With(m.ctx, p.Call()), "direct conversation could not be opened", "err", refusal, "left_out", left)
				}
			}
			for _, b := range c.batches {
				refuse(b, refusal)
			}
			if s.cfg.AfterBatch != nil {
				m.mu.Unlock()
				s.cfg.AfterBatch()
				m.mu.Lock()
			}
			continue
		}
		for _, b := range c.batches {
			s.seq.Append(r.conv, b)
		}
		s.pairs.put(c.pair.hash(), c.pair, r.conv)
	}
	if m.workers--; m.workers == 0 {
		m.idle.Broadcast()
	}
	m.mu.Unlock()
}

// refuse refuses batch. No sequencer has seen it, so its connection holds back what follows, if err may be tried again.
func refuse(batch []packet.Pending, err *code.Error) {
	for i := range batch {
		batch[i].Unlaned = true
		batch[i].Reply.Refused(&batch[i], err)
	}
}
