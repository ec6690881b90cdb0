package timeline

import (
	"context"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// Sequencer appends to conversations. Its methods are safe for concurrent use.
type Sequencer struct {
	cfg      Config
	log      *slog.Logger
	timeline *msgstore.Timeline
	mentions *msgstore.Mentions
	apart    bool // the bus lies apart from the store
	queues   queues
	away     atomic.Bool // the bus (apart) is away

	drained slotSet // refused
	due     slotSet // outbox marks may stand there

	shards [64]shard

	mu     sync.Mutex
	ready  []*conversation // held, for the sequencer goroutine
	leaves []*leave
	closed bool
	wake   chan struct{}
	loads  loadQueue
	waits  waits

	pending      atomic.Int64 // messages waiting
	pendingBytes atomic.Int64

	next atomic.Int64 // of trace.Now: when the next round may begin; 0: at once

	ids          struct{ hits, misses, kept atomic.Int64 } // see Caches
	slow, failed trace.Pace                                // lines about sends

	// The sequencer goroutine's.
	clock    clock
	reserved int64           // Unix ms up to which the clock's times are
	todo     []*conversation // taken from ready
	delayed  []delayed
	round    round
	recent   lru
}

type shard struct {
	mu    sync.Mutex
	convs map[id.ConversationID]*conversation

	hits, misses uint64 // of what was appended to: conversations that were here, and not
}

// delayed is a conversation whose append is tried again later.
type delayed struct {
	c  *conversation
	at time.Time
}

// New returns a Sequencer; Run makes it work.
func New(cfg Config) (*Sequencer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	s := &Sequencer{
		cfg:      cfg,
		log:      cfg.Logger,
		timeline: msgstore.NewTimeline(cfg.Store, cfg.Keys),
		mentions: msgstore.NewMentions(cfg.Store, cfg.Keys),
		wake:     make(chan struct{}, 1),
		clock:    clock{worker: cfg.Worker},
	}
	for i := range s.shards {
		s.shards[i].convs = make(map[id.ConversationID]*conversation)
	}
	s.loads.init()
	s.waits.some = make(chan struct{}, 1)
	// Which kind of bus this is shows in what it does with a transaction that is thrown away.
	s.apart = !cfg.Bus.Enlist(new(kv.Tx), &bus.Event{FirstSeq: 1, LastSeq: 1})
	s.queues.init(&s.cfg)
	if !cfg.Assigned {
		for slot := range id.Slot(id.SlotCount) {
			s.due.add(slot)
		}
	}
	return s, nil
}

// Append hands over messages of one conversation, in their order; the slice is the
// Sequencer's from then on. It does not block: each message's Reply hears the outcome,
// possibly before Append returns. Every message has a From and a Reply.
func (s *Sequencer) Append(conv id.ConversationID, msgs []packet.Pending) {
	if len(msgs) == 0 {
		return
	}
	if s.drained.has(conv) {
		s.refuseForeign(msgs)
		return
	}
	bytes := 0
	for i := range msgs {
		bytes += weight(&msgs[i])
		if msgs[i].At == 0 && s.cfg.WaitAtMost > 0 {
			msgs[i].At = trace.Now()
		}
	}
	c := s.lock(conv)
	if s.drained.has(conv) { // since just now: Drain may have passed by before c was there
		s.pass(c)
		s.refuseForeign(msgs)
		return
	}
	if c.count+len(msgs) > s.cfg.ConvPending || c.bytes+bytes > s.cfg.ConvPendingBytes ||
		int(s.pending.Load())+len(msgs) > s.cfg.MaxPending || int(s.pendingBytes.Load())+bytes > s.cfg.MaxPendingBytes {
		s.overload(c, msgs)
		return
	}
	if len(c.lanes) == 0 {
		c.waiting = append(c.waiting, batch{msgs, c.arrivals + 1, 0})
	} else {
		c.waiting = c.split(c.waiting, msgs, c.arrivals+1)
	}
	s.watch(c)
	c.arrivals += uint64(len(msgs))
	c.count += len(msgs)
	c.bytes += bytes
	s.pending.Add(int64(len(msgs)))
	s.pendingBytes.Add(int64(bytes))
	s.handOver(c)
}

// handOver sees to it that what waits in c is worked on: by whoever holds c, or, once it is
// loaded, by the sequencer goroutine. It is given c locked and unlocks it.
func (s *Sequencer) handOver(c *conversation) {
	held, cold := c.held, c.raw == nil
	c.held = true
	c.mu.Unlock()
	switch {
	case held:
	case cold:
		s.load(c)
	default:
		s.enqueue(c)
	}
}

// overload refuses msgs, for which there is no room; it is given c locked and unlocks it.
func (s *Sequencer) overload(c *conversation, msgs []packet.Pending) {
	behind := make([]bool, len(msgs)) // one of its burst was refused before
	now := s.cfg.Now()
	for i := range msgs {
		p := &msgs[i]
		c.arrivals++
		l := c.lane(p.From.Conn)
		burst := c.arrive(l, p, c.arrivals)
		behind[i] = blocked(l.refused, burst, c.arrivals)
		l.refused, l.at = addRefused(l.refused, burst, c.arrivals), now
	}
	s.pass(c)
	n := 0
	for i := range msgs {
		if behind[i] {
			msgs[i].Reply.Refused(&msgs[i], code.New(code.LaneBlocked))
			continue
		}
		n++
		msgs[i].Reply.Refused(&msgs[i], code.New(code.Overloaded))
	}
	s.refused(code.Overloaded, n)
	s.refused(code.LaneBlocked, len(msgs)-n)
}

// pass gives c, which is locked, to the sequencer goroutine if nobody holds it, so that it is
// among those that are evicted one day. It unlocks c.
func (s *Sequencer) pass(c *conversation) {
	held := c.held
	c.held = true
	c.mu.Unlock()
	if !held {
		s.enqueue(c)
	}
}

func (s *Sequencer) refused(c code.Code, n int) {
	if f := s.cfg.Events.Refused; f != nil && n > 0 {
		f(c, n)
	}
}

// lock returns the conversation's cache entry, which it makes if there is none, locked.
func (s *Sequencer) lock(conv id.ConversationID) *conversation {
	sh := s.shard(conv)
	for {
		sh.mu.Lock()
		c := sh.convs[conv]
		if c == nil {
			c = &conversation{id: conv}
			sh.convs[conv] = c
			sh.misses++
		} else {
			sh.hits++
		}
		sh.mu.Unlock()
		c.mu.Lock()
		if !c.dead {
			return c
		}
		c.mu.Unlock()
	}
}

func (s *Sequencer) shard(conv id.ConversationID) *shard {
	return &s.shards[conv[15]%uint8(len(s.shards))]
}

// enqueue gives c, which the caller holds, to the sequencer goroutine.
func (s *Sequencer) enqueue(c *conversation) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.refuseAll(c, code.New(code.Unavailable))
		return
	}
	s.ready = append(s.ready, c)
	first := len(s.ready) == 1
	s.mu.Unlock()
	if first {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// Head returns the conversation's head as it is durable: from memory if the
// conversation is loaded, else from the store. A head from memory lags where another
// process appends too. A conversation that doesn't exist has the zero Head.
func (s *Sequencer) Head(ctx context.Context, conv id.ConversationID) (msgstore.Head, error) {
	sh := s.shard(conv)
	sh.mu.Lock()
	c := sh.convs[conv]
	sh.mu.Unlock()
	if c != nil {
		c.mu.Lock()
		raw := append([]byte(nil), c.raw...)
		c.mu.Unlock()
		if len(raw) > 0 {
			return msgstore.ParseHead(raw)
		}
	}
	h, _, err := s.timeline.Head(ctx, conv)
	return h, err
}

// Run sequences until ctx ends. It finishes the commit under way and refuses what
// waits as unavailable, also what comes later. Run is called once.
func (s *Sequencer) Run(ctx context.Context) error {
	loading, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var wg sync.WaitGroup
	for range s.cfg.Loaders {
		wg.Go(func() { s.runLoader(loading) })
	}
	if s.cfg.WaitAtMost > 0 {
		wg.Go(func() { s.runWaits(loading) }) // until the last commit is through
	}
	if s.apart {
		wg.Go(func() { s.runSweep(ctx) })
		if s.cfg.Consumers != nil {
			wg.Go(func() { s.queues.run(ctx, s) })
		}
	}
	tick := time.NewTicker(idleTick)
	defer tick.Stop()
	for s.wait(ctx, tick.C) {
		s.runRound(ctx)
		s.rest(ctx)
	}
	s.mu.Lock()
	s.closed = true
	s.todo = append(s.todo, s.ready...)
	s.ready = nil
	leaves := s.leaves
	s.leaves = nil
	s.mu.Unlock()
	stop()
	for _, c := range s.loads.close() {
		s.refuseAll(c, code.New(code.Unavailable))
	}
	for _, d := range s.delayed {
		s.refuseAll(d.c, code.New(code.Unavailable))
	}
	for _, c := range s.todo {
		s.refuseAll(c, code.New(code.Unavailable))
	}
	s.todo, s.delayed = nil, nil
	for _, l := range leaves {
		close(l.done)
	}
	wg.Wait()
	s.after()
	return nil
}

// rest waits until the next round may begin, which is at once if the last one was full.
func (s *Sequencer) rest(ctx context.Context) {
	if s.cfg.Pace == 0 || len(s.todo) > 0 {
		return
	}
	t := time.NewTimer(s.cfg.Pace - time.Duration(trace.Now()-s.round.began)) // at once, if it took longer
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Rounds returns how long it is until the next round may begin, which is 0 while there is more than fits into one, and Config.Pace.
func (s *Sequencer) Rounds() (rest, pace time.Duration) {
	if next := s.next.Load(); next > 0 {
		rest = max(0, time.Duration(next-trace.Now()))
	}
	return rest, s.cfg.Pace
}

// wait returns true when there is something to sequence, false when ctx has ended.
func (s *Sequencer) wait(ctx context.Context, tick <-chan time.Time) bool {
	for {
		if ctx.Err() != nil {
			return false
		}
		next := s.wakeDelayed()
		s.letGo()
		s.mu.Lock()
		s.todo = append(s.todo, s.ready...)
		clear(s.ready)
		s.ready = s.ready[:0]
		s.mu.Unlock()
		if len(s.todo) > 0 {
			return true
		}
		var timer <-chan time.Time
		if next > 0 {
			timer = time.After(next)
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-timer:
		case <-tick:
			s.evict(s.cfg.Now())
		}
	}
}

// wakeDelayed gives the conversations whose time has come to the loaders and returns
// how long the next of the others has to wait; 0: there is none.
func (s *Sequencer) wakeDelayed() time.Duration {
	if len(s.delayed) == 0 {
		return 0
	}
	now := time.Now()
	var next time.Duration
	kept := s.delayed[:0]
	for _, d := range s.delayed {
		left := d.at.Sub(now)
		if left <= 0 {
			s.load(d.c)
			continue
		}
		if next == 0 || left < next {
			next = left
		}
		kept = append(kept, d)
	}
	clear(s.delayed[len(kept):])
	s.delayed = kept
	return next
}

// again has c, whose cached state was dropped, loaded once more and what stands in its
// work run again; after MaxAttempts it refuses that with e.
func (s *Sequencer) again(c *conversation, e *code.Error) {
	c.attempts++
	if c.attempts >= s.cfg.MaxAttempts {
		s.refuseAll(c, e)
		return
	}
	if c.attempts == 1 && e.Code != code.Undetermined {
		s.load(c)
		return
	}
	wait := min(2*time.Millisecond<<c.attempts, maxBackoff)
	wait = wait/2 + rand.N(wait)
	c.giveBack()
	s.delayed = append(s.delayed, delayed{c, time.Now().Add(wait)})
}

// refuseAll refuses everything that waits for c, which the caller holds, with e, which
// is one that may be tried again, and lets c go. While a transaction of ours is in doubt what waits may have been in it.
func (s *Sequencer) refuseAll(c *conversation, e *code.Error) {
	if c.doubt && e.Code != code.Undetermined {
		e = code.Wrap(code.Undetermined, e)
	}
	c.take()
	c.refuseChanges(e)
	c.attempts = 0
	var outs []outcome
	bytes := 0
	for b, i := range c.queued(math.MaxInt) {
		p := &b.msgs[i]
		outs = append(outs, outcome{p: p, at: b.at + uint64(i), burst: b.burst, err: e})
		bytes += weight(p)
	}
	s.settle(c, outs, nil, bytes, s.cfg.Now(), true)
	s.answer(c.id, outs, 0, 0)
}

// settle ends a run: outs are the outcomes of the first messages of the work, bytes by
// weight, which no longer wait; lanes is what it did to lanes. c goes back to the queue
// if there is more, else is let go. refused says that some of outs are to be tried again,
// which is made to hold for the rest of their lanes.
func (s *Sequencer) settle(c *conversation, outs []outcome, lanes []laneChange, bytes int, now int64, refused bool) {
	s.countIDs(c)
	c.mu.Lock()
	c.change(lanes, now)
	if refused {
		c.shutLanes(outs, now)
	}
	c.openLanes(lanes, !refused)
	c.done(len(outs))
	c.count -= len(outs)
	c.bytes -= bytes
	s.pending.Add(int64(-len(outs)))
	s.pendingBytes.Add(int64(-bytes))
	more := len(c.waiting) > 0 || len(c.work) > 0 || len(c.changes) > 0 || c.current != nil
	sweep, cold := c.swept != nil, c.raw == nil
	c.held = more || sweep
	c.mu.Unlock()
	c.lastUse.Store(now)
	switch {
	case sweep || more && cold:
		s.load(c)
	case more:
		s.enqueue(c)
	}
}

// answer tells the senders of outs. The round of their messages began at began, of
// trace.Now; 0: there was none.
func (s *Sequencer) answer(conv id.ConversationID, outs []outcome, last uint64, began int64) {
	dups, now, slow := 0, trace.Now(), int64(s.cfg.Slow)
	if slow == 0 {
		slow = math.MaxInt64
	}
	for i := range outs {
		o := &outs[i]
		p := o.p
		if p.Trace != nil || now-p.At >= slow || o.err != nil {
			s.note(conv, o, began, now)
		}
		if o.err != nil {
			p.Reply.Refused(p, o.err)
			s.refused(o.err.Code, 1)
			continue
		}
		p.Reply.Acked(p, packet.Ack{Conversation: conv, Seq: o.seq, MessageID: o.mid, Duplicate: o.dup})
		if o.dup {
			dups++
		}
		if p.Interactive && p.SeenSeq > 0 && s.cfg.Seen != nil {
			s.cfg.Seen(conv, p.From.User, min(p.SeenSeq, last))
		}
	}
	if f := s.cfg.Events.Duplicates; f != nil && dups > 0 {
		f(dups)
	}
}

func (s *Sequencer) after() {
	if s.cfg.AfterBatch != nil {
		s.cfg.AfterBatch()
	}
}
