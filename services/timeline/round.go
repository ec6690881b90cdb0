package timeline

import (
	"context"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// outcome is what becomes of one message, once the transaction of its run is decided.
type outcome struct {
	p     *packet.Pending
	at    uint64 // arrival number
	burst uint64 // see lane
	seq   uint64
	mid   id.MessageID
	err   *code.Error // refused
	dup   bool        // stored before
	gated bool        // refused until it is sent again, and noted in its lane
}

// run is one conversation's part of a round.
type run struct {
	c          *conversation
	tx         *kv.Tx // nil: nothing to commit
	start, end int    // of round.outs
	bytes      int    // of these, by weight
	head       msgstore.Head
	stored     int // messages in tx
	refused    bool
	enlisted   bool
	marks      bool    // tx sets the outbox mark
	change     *change // the run is of this one and of no messages
	event      bus.Event
	cuts       []int        // where event may be cut: ends of messages in it, by eventBytes
	lanes      []laneChange // to be made when the outcomes are final
	ok         bool
}

// round is the memory of a round, used again for the next.
type round struct {
	now    int64 // Unix ms
	began  int64 // of trace.Now
	runs   []run
	outs   []outcome
	txs    []*kv.Tx // of runs, in order
	spare  []*kv.Tx
	events []bus.Event
	slab   []byte // encoded messages; what was given out is never written to again

	segments msgstore.SegmentBuilder
	ids      msgstore.IDBuilder
}

// runRound takes what is to be sequenced, commits it and tells everybody.
func (s *Sequencer) runRound(ctx context.Context) {
	r := &s.round
	if !s.workerHeld() {
		s.refuseTodo(code.New(code.Unavailable))
		return
	}
	r.now = s.cfg.Now()
	s.clock.begin(r.now)
	r.began = trace.Now()
	taken, bytes := 0, 0
	for taken < len(s.todo) && len(r.outs) < s.cfg.RoundMessages && bytes < s.cfg.RoundBytes {
		c := s.todo[taken]
		taken++
		bytes += s.sequence(c)
	}
	rest := copy(s.todo, s.todo[taken:])
	clear(s.todo[rest:])
	s.todo = s.todo[:rest]
	if s.cfg.Pace > 0 && rest == 0 {
		s.next.Store(r.began + int64(s.cfg.Pace))
	} else {
		s.next.Store(0)
	}

	stale := !s.commit(ctx)
	conversations, messages := 0, 0
	for i := range r.runs {
		ru := &r.runs[i]
		s.decide(ru, stale)
		if ru.ok && ru.stored > 0 {
			conversations++
			messages += ru.stored
			r.cut(ru)
		}
	}
	if f := s.cfg.Events.Committed; f != nil && messages > 0 {
		f(conversations, messages, time.Duration(trace.Now()-r.began))
	}
	if s.apart && messages > 0 {
		s.handOn(ctx)
	}
	answered := 0
	for i := range r.runs {
		ru := &r.runs[i]
		if !ru.ok {
			continue
		}
		outs := r.outs[ru.start:ru.end]
		if ru.change != nil {
			ru.c.current, ru.c.yield = nil, true
		}
		s.settle(ru.c, outs, ru.lanes, ru.bytes, r.now, ru.refused)
		s.answer(ru.c.id, outs, ru.head.LastSeq, r.began)
		if ru.change != nil {
			ru.change.end()
		}
		answered += len(outs)
	}
	if f := s.cfg.Events.Acked; f != nil && answered > 0 {
		f(answered)
	}
	if !s.apart && len(r.events) > 0 {
		if err := s.cfg.Bus.Publish(ctx, r.events); err != nil {
			s.log.Warn("the bus could not tell its consumers; they will find the events in its log", "err", err)
		}
	}
	s.after()
	r.clear()
	s.evictSome(r.now)
}

// clear ends the round. Events and the slab belong to the bus now.
func (r *round) clear() {
	for _, tx := range r.txs {
		if tx.Size() <= keepTx {
			tx.Reset()
			r.spare = append(r.spare, tx)
		}
	}
	clear(r.txs)
	clear(r.outs)
	for i := range r.runs {
		ru := &r.runs[i]
		*ru = run{cuts: ru.cuts[:0], lanes: ru.lanes[:0]}
	}
	r.txs, r.outs, r.runs, r.events = r.txs[:0], r.outs[:0], r.runs[:0], nil
}

func (r *round) newTx() *kv.Tx {
	if n := len(r.spare); n > 0 {
		tx := r.spare[n-1]
		r.spare = r.spare[:n-1]
		return tx
	}
	return new(kv.Tx)
}

func (r *round) newRun(c *conversation) *run {
	if len(r.runs) < cap(r.runs) {
		r.runs = r.runs[:len(r.runs)+1]
	} else {
		r.runs = append(r.runs, run{})
	}
	ru := &r.runs[len(r.runs)-1]
	ru.c, ru.start = c, len(r.outs)
	return ru
}

// room returns the slab with room for n bytes.
func (r *round) room(n int) []byte {
	if cap(r.slab)-len(r.slab) < n {
		r.slab = make([]byte, 0, max(n, slabBytes))
	}
	return r.slab
}

// cut adds the run's event to the round's, in parts that fit a frame.
func (r *round) cut(ru *run) {
	if r.events == nil {
		r.events = make([]bus.Event, 0, len(r.runs)+8)
	}
	ev := ru.event
	if ru.enlisted {
		ev.Offset = ru.tx.Stamp
	}
	last, messages, from := ev.LastSeq, ev.Messages, 0
	for i := 0; i+1 < len(ru.cuts); i += 2 {
		end, count := ru.cuts[i], ru.cuts[i+1]
		ev.LastSeq = ev.FirstSeq + uint64(count) - 1
		ev.Messages = messages[from:end:end]
		r.events = append(r.events, ev)
		ev.FirstSeq, from = ev.LastSeq+1, end
	}
	ev.LastSeq, ev.Messages = last, messages[from:]
	r.events = append(r.events, ev)
}

// sequence makes the run of a conversation, as far as it can without reading the store.
// It returns its bytes.
func (s *Sequencer) sequence(c *conversation) int {
	r := &s.round
	s.recent.touch(c)
	c.take()
	changing := c.changing() // asked once: what waits may be refused meanwhile
	switch {
	case len(c.work) == 0 && c.current == nil:
		c.failed, c.attempts = nil, 0
		s.settle(c, nil, nil, 0, r.now, false)
		return 0
	case c.failed != nil:
		s.loadFailed(c)
		return 0
	case !c.loaded, c.stale(), changing && !c.current.planned:
		s.load(c)
		return 0
	case changing:
		return s.buildChange(r.newRun(c))
	}
	c.yield = false
	n, bytes := s.prepare(c)
	if len(c.seconds) > 0 || len(c.mids) > 0 {
		s.load(c)
		return 0
	}
	ru := r.newRun(c)
	ru.bytes = bytes
	s.ids.hits.Add(int64(n))
	s.judge(ru, n, bytes)
	s.build(ru)
	return bytes
}

// prepare returns how many messages the next run has and what they weigh, and notes which
// ids have to be looked up for it.
func (s *Sequencer) prepare(c *conversation) (n, bytes int) {
	limit := runMessages
	if c.limit > 0 {
		limit = c.limit
	}
	c.inUse, c.seconds, c.mids = c.inUse[:0], c.seconds[:0], c.mids[:0]
	for b, i := range c.queued(limit) {
		p := &b.msgs[i]
		if n > 0 && bytes >= runBytes {
			break
		}
		if ms := p.ClientMsgID.UnixMilli(); ms < c.ids.complete && !c.absent && !c.want(p, ms) {
			break
		}
		n++
		bytes += weight(p)
	}
	return n, bytes
}

// want notes what must be read to tell whether p, whose id is older than what memory
// holds, is stored. It returns false when the run must end before p.
func (c *conversation) want(p *packet.Pending, ms int64) bool {
	second := msgstore.IDSecondOf(ms)
	table := c.ids.second(second)
	known := false
	for _, u := range c.inUse {
		known = known || u == second
	}
	if !known {
		if len(c.inUse) == maxSeconds {
			return false
		}
		c.inUse = append(c.inUse, second)
		if table == nil {
			c.seconds = append(c.seconds, second)
		}
	}
	if table != nil {
		if e := table.find(msgstore.IDHash(p.From.User, p.ClientMsgID)); e != nil && e.mid == 0 && e.body == p.BodyHash {
			c.mids = append(c.mids, e)
		}
	}
	return true
}

// judge decides on the first n messages of the work: new, stored before or refused.
// New ones are encoded and get their place.
func (s *Sequencer) judge(ru *run, n, bytes int) {
	c, r := ru.c, &s.round
	ru.head = c.head
	h := &ru.head
	r.segments.Reset(h.LastSeq+1, h.Countable)
	r.ids.Reset()
	slab := r.room(bytes)
	begin, cut, cutSeq := len(slab), len(slab), h.LastSeq
	ahead := r.now + maxAhead
	origin, mixed := uint64(0), false
	var lastStored *packet.Pending
	for b, i := range c.queued(n) {
		p := &b.msgs[i]
		r.outs = append(r.outs, outcome{p: p, at: b.at + uint64(i), burst: b.burst})
		o := &r.outs[len(r.outs)-1]
		if c.absent {
			o.err = code.New(code.NoSuchConversation)
			continue
		}
		ms := p.ClientMsgID.UnixMilli()
		hash := msgstore.IDHash(p.From.User, p.ClientMsgID)
		gated := c.gated != nil && blocked(c.gated[p.From.Conn], o.burst, o.at)
		if !gated || p.Resend {
			if e := c.ids.find(hash, ms); e != nil {
				if o.seq, o.mid, o.dup = e.seq, e.mid, true; e.body != p.BodyHash {
					o.dup, o.err = false, code.New(code.IDConflict)
				}
				continue
			}
		}
		if gated {
			ru.refuse(o, code.New(code.LaneBlocked))
			continue
		}
		if c.gated != nil && len(c.gated[p.From.Conn]) > 0 {
			ru.lanes = append(ru.lanes, laneChange{conn: p.From.Conn, burst: o.burst, passes: true, hash: hash})
		}
		if err := s.admit(c, p, ms, ahead); err != nil {
			if o.err = err; err.Code.Scope() == code.ScopeLane { // what follows in the lane is refused too
				ru.refuse(o, err)
			}
			continue
		}
		o.seq, o.mid = h.LastSeq+1, s.clock.next(c.floor)
		c.floor = o.mid.UnixMilli()
		size := len(slab)
		slab = packet.AppendMessage(slab, o.seq, o.mid, p.From.User, p.Tail)
		size = len(slab) - size
		if len(slab)-cut > eventBytes && o.seq-cutSeq > 1 {
			ru.cuts = append(ru.cuts, len(slab)-size-begin, int(o.seq-1-cutSeq))
			cut, cutSeq = len(slab)-size, o.seq-1
		}
		r.segments.Add(size, packet.Counts(p.Type, p.NoCount))
		r.ids.Add(ms, msgstore.IDEntry{Hash: hash, Seq: o.seq, Body: p.BodyHash})
		c.ids.add(ms, idEntry{hash: hash, seq: o.seq, body: p.BodyHash, mid: o.mid})
		if ru.stored == 0 {
			origin = p.From.Conn
		} else if origin != p.From.Conn {
			mixed = true
		}
		h.LastSeq = o.seq
		h.IDMax = max(h.IDMax, ms)
		lastStored = p
		ru.stored++
	}
	ru.end = len(r.outs)
	if ru.stored == 0 {
		return
	}
	r.slab = slab
	h.Countable = r.segments.Countable()
	h.LastTime = c.floor
	h.PreviewSeq, h.PreviewType, h.PreviewSender, h.PreviewText = h.LastSeq, lastStored.Type, lastStored.From.User, lastStored.Content
	if mixed {
		origin = 0
	}
	ru.event = bus.Event{
		Conversation: c.id, Epoch: s.cfg.Epoch, FirstSeq: c.head.LastSeq + 1, LastSeq: h.LastSeq,
		Messages: slab[begin:len(slab):len(slab)], Origin: origin,
	}
}

// refuse refuses a message until it is sent again, and with it what follows in its burst.
func (ru *run) refuse(o *outcome, err *code.Error) {
	c, conn := ru.c, o.p.From.Conn
	o.err, o.gated = err, true
	if c.gated == nil {
		c.gated = make(gates)
	}
	c.gated[conn] = addRefused(c.gated[conn], o.burst, o.at)
	ru.lanes = append(ru.lanes, laneChange{conn: conn, burst: o.burst, arrival: o.at})
}

// admit returns why p, whose id is not stored, may not be appended, or nil.
func (s *Sequencer) admit(c *conversation, p *packet.Pending, ms, ahead int64) *code.Error {
	switch {
	case s.cfg.WaitAtMost > 0 && s.round.began-p.At > int64(s.cfg.WaitAtMost):
		if c.doubt { // what it was in may still be stored
			return code.New(code.Undetermined)
		}
		return code.New(code.Unavailable)
	case ms < c.head.IDFloor:
		return code.New(code.IDUnknown)
	case ms > ahead:
		return code.New(code.IDInFuture)
	case c.refusal != nil:
		return c.refusal
	}
	if err := c.rules.Check(p); err != nil {
		return err
	}
	return p.Refusal
}

// build makes the run's transaction.
func (s *Sequencer) build(ru *run) {
	c, r := ru.c, &s.round
	if c.absent {
		return
	}
	if ru.stored == 0 {
		s.prove(ru)
		return
	}
	tx := r.newTx()
	h := &ru.head
	s.handed(c, h)
	s.timeline.Append(tx, c.id, c.raw, h, r.segments.Segments(ru.event.Messages), r.ids.Rows())
	c.next = h.Append(c.next[:0])
	for i := ru.start; i < ru.end; i++ {
		if o := &r.outs[i]; o.err == nil && !o.dup && (len(o.p.Mentions) > 0 || o.p.MentionAll) {
			s.mention(tx, c.id, o)
		}
	}
	s.publish(ru, tx)
	ru.tx = tx
	r.txs = append(r.txs, tx)
}

// handed notes in h, the next head of c, what the bus will have taken.
func (s *Sequencer) handed(c *conversation, h *msgstore.Head) {
	h.HandedSeq = c.handed
	if !s.apart {
		h.HandedSeq = h.LastSeq
	}
}

// publish adds to tx what hands on the run's event.
func (s *Sequencer) publish(ru *run, tx *kv.Tx) {
	switch {
	case !s.apart:
		ru.enlisted = s.cfg.Bus.Enlist(tx, &ru.event)
	case s.away.Load() && !ru.c.marked:
		s.mark(tx, ru.c, s.round.now)
		ru.marks = true
	}
}

// prove makes a transaction for a run that stores nothing but refuses for good. Such an
// answer rests on the cached state, so that must still be the stored one. And it must
// stay right: a transaction that was given up as undetermined, here or by another owner
// whom the sender asked before, could still store the message. Therefore, if anything is
// a resend or a transaction of ours is in doubt, the head is not only required but
// rewritten: what was built on the old one can never be stored then.
//
// The rewritten head differs in IDMax, which may be raised freely: it costs a look-up.
// No number in a head is ever lowered, so no head is ever the same as an earlier one.
func (s *Sequencer) prove(ru *run) {
	negative, fence := false, ru.c.doubt
	for i := ru.start; i < ru.end; i++ {
		o := &s.round.outs[i]
		if o.err != nil && o.err.Code.Class() != code.RetrySame && o.err.Code != code.IDConflict {
			negative = true
			fence = fence || o.p.Resend
		}
	}
	if negative {
		s.require(ru, fence)
	}
}

// require makes the run's transaction one that holds only if the cached head is the stored
// one; fence: it rewrites the head.
func (s *Sequencer) require(ru *run, fence bool) {
	c, r := ru.c, &s.round
	tx := r.newTx()
	if fence {
		h, err := msgstore.ParseHead(c.raw) // the cached head has no preview
		if err != nil {
			h = c.head
		}
		h.IDMax = max(h.IDMax, c.ids.latest) + 1
		s.timeline.Append(tx, c.id, c.raw, &h, nil, nil)
		c.next = h.Append(c.next[:0])
		ru.head = h
		c.ids.latest = h.IDMax
	} else {
		var key [msgstore.MaxKeyLen]byte
		tx.Require(s.cfg.Keys.Head(key[:0], c.id), c.raw)
		c.next = append(c.next[:0], c.raw...)
	}
	ru.tx = tx
	r.txs = append(r.txs, tx)
}

// mention adds a row for everybody that the message mentions.
func (s *Sequencer) mention(tx *kv.Tx, conv id.ConversationID, o *outcome) {
	for _, m := range o.p.Mentions {
		s.mentions.Put(tx, conv, id.UserID(m), o.seq)
	}
	if o.p.MentionAll {
		s.mentions.Put(tx, conv, "", o.seq)
	}
}
