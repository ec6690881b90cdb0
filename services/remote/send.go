package remote

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/router/nodes"
)

// sender takes SENDs to the nodes that own their conversations.
//
// A lane is what one connection sends to one conversation. It is at one node at a time: what is sent while a call with
// messages of it is under way waits here for their outcomes. So nothing of it is overtaken, wherever
// its owner moves to, and whatever is refused is known before the rest is sent. Lanes don't wait
// for one another: to each node there are two calls under way, each with as many lanes
// as were ready when it began, and while they are the next ones gather. A node that keeps a pace between
// its rounds says when the next may begin: what would only wait there gathers here until shortly before, in one call instead of many.
//
// Goroutines: one for each call under way, which ends when nothing is ready for its node, and its rest is over.
type sender struct {
	l   *Logic
	cfg *SendConfig

	mu      sync.Mutex
	lanes   map[laneKey]*lane  // with something under way
	targets map[string]*target // by address, with something waiting or under way
	free    []*lane
	handing sync.Pool // of *handed
	buffers sync.Pool // of *[]byte: requests
	closed  bool
	idle    sync.Cond // lanes went down to 0

	// The lanes in which something was refused retryably lately, by the first such message. Connections
	// hold their lanes shut by themselves; this is for what had passed there before it was known.
	shut, shutOld map[laneKey]id.ClientMsgID
	shutAt        time.Time // of the last turn of the two

	stats SendStats
}

// shutFor is how long a lane is remembered, once or twice as long.
const shutFor = 2 * time.Second

// SendConfig bounds what is under way to other nodes. Zero means the default that stands with each field.
type SendConfig struct {
	Calls    int // under way to one node, those that wait for stragglers aside; default 2: one is in a round while the next gathers
	Messages int // in one call; default 1,024
	Bytes    int // in one call, about; default 1 MiB

	Timeout time.Duration // of a call, after which nobody knows what became of its messages; default 4 s

	Waiting      int // messages that wait for one node; what comes beyond is refused as overloaded; default 16,384
	WaitingBytes int // of them; default 32 MiB
}

func (c *SendConfig) setDefaults() {
	num := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	num(&c.Calls, 2)
	num(&c.Messages, 1024)
	num(&c.Bytes, 1<<20)
	num(&c.Waiting, 16<<10)
	num(&c.WaitingBytes, 32<<20)
	if c.Timeout <= 0 {
		c.Timeout = sendTime
	}
}

// SendStats are counts of SENDs that went to other nodes.
type SendStats struct {
	Calls    uint64 // made
	Messages uint64 // in them
	Moved    uint64 // messages that came to a wrong node and went on to another one
	Refused  uint64 // messages that were refused here
	Lost     uint64 // of them: their outcome isn't known
	Waiting  int    // messages that wait now
}

type laneKey struct {
	from *packet.Origin // one for each connection
	conv id.ConversationID
}

// lane is guarded by the sender's mu.
type lane struct {
	key     laneKey
	waiting [][]packet.Pending // batches in order
	n       int                // messages in waiting
	bytes   int                // of them, about
	at      *target            // where waiting is counted; nil: nowhere
	sending [][]packet.Pending // in the call under way
	busy    bool               // ready at a target, in a call, or being handed to this process's services
	local   int                // batches that this process's services have

	wrong  string // address of the right node, as the one asked last said; empty: ask the router
	hops   int    // nodes asked for what stands first in waiting
	insist bool
}

// target is a node. It is guarded by the sender's mu.
type target struct {
	addr  string
	ready []*lane
	n     int // messages waiting in lanes that are here
	bytes int
	calls int // goroutines, each with a call under way or resting before the next
	late  int // calls that wait for stragglers

	pace    time.Duration // of its rounds, as it last said
	next    time.Time     // what leaves earlier would wait there
	resting int           // of calls: until then
}

func newSender(l *Logic, cfg *SendConfig) *sender {
	s := &sender{l: l, cfg: cfg, lanes: make(map[laneKey]*lane), targets: make(map[string]*target)}
	s.idle.L = &s.mu
	return s
}

// weight is about how many bytes a message holds.
func weight(p *packet.Pending) int { return len(p.Tail) + 256 }

// Send implements conn.Conversations. Outcomes come in the order of the lane. Where another node owns the conversation, what
// is refused retryably is refused Unlaned: the Replier holds back the rest of the lane from then on, and what had passed it before is refused here.
func (l *Logic) Send(batch []packet.Pending) {
	if len(batch) == 0 {
		return
	}
	if l.cfg.Pool == nil {
		l.cfg.Local.Conversations.Send(batch)
		return
	}
	l.sends.send(batch)
}

func (s *sender) send(batch []packet.Pending) {
	p := &batch[0]
	key := laneKey{p.From, p.Conversation}
	if p.Conversation.IsZero() {
		key.conv = id.Direct(p.From.User, p.ToUser)
	}
	s.mu.Lock()
	if s.closed {
		s.shuts(key, p.ClientMsgID)
		s.mu.Unlock()
		s.refuse(batch, code.New(code.Unavailable))
		return
	}
	if len(s.shut)+len(s.shutOld) > 0 && !s.opens(key, p) {
		s.mu.Unlock()
		s.refuse(batch, errLaneBlocked)
		return
	}
	ln := s.lanes[key]
	if ln != nil && ln.busy {
		full := !s.wait(ln, ln.at, batch)
		if full {
			s.shuts(key, p.ClientMsgID)
		}
		s.mu.Unlock()
		if full {
			s.refuse(batch, code.New(code.Overloaded))
		}
		return
	}
	owner := s.l.cfg.Router.Owner(key.conv.Slot())
	self := s.l.cfg.Local != nil && s.l.cfg.Router.IsSelf(owner)
	switch {
	case self && (ln == nil || len(ln.waiting) == 0): // what is there is here already, and stands before this
		if ln == nil {
			ln = s.open(key)
		}
		ln.local++
		s.mu.Unlock()
		s.hand(ln, batch)
		return
	case ln != nil: // this process's services have some of it still: it leaves when they are done
		full := !s.wait(ln, ln.at, batch)
		if full {
			s.shuts(key, p.ClientMsgID)
		}
		s.mu.Unlock()
		if full {
			s.refuse(batch, code.New(code.Overloaded))
		}
		return
	case owner == nil:
		s.shuts(key, p.ClientMsgID)
		s.mu.Unlock()
		s.refuse(batch, nobody())
		return
	}
	t := s.target(owner.RPC)
	ln = s.open(key)
	if !s.wait(ln, t, batch) {
		s.forget(ln)
		s.vacate(t)
		s.shuts(key, p.ClientMsgID)
		s.mu.Unlock()
		s.refuse(batch, code.New(code.Overloaded))
		return
	}
	s.ready(ln, t)
	s.mu.Unlock()
}

// open enters a lane. mu is held.
func (s *sender) open(key laneKey) *lane {
	var ln *lane
	if n := len(s.free); n > 0 {
		ln, s.free[n-1] = s.free[n-1], nil
		s.free = s.free[:n-1]
	} else {
		ln = new(lane)
	}
	ln.key = key
	s.lanes[key] = ln
	return ln
}

// forget takes a lane out. mu is held.
func (s *sender) forget(ln *lane) {
	delete(s.lanes, ln.key)
	waiting := ln.waiting[:0]
	if cap(waiting) > 8 {
		waiting = nil
	}
	*ln = lane{waiting: waiting}
	if len(s.free) < 1024 {
		s.free = append(s.free, ln)
	}
	if len(s.lanes) == 0 {
		s.idle.Broadcast()
	}
}

// target returns the target of an address. mu is held.
func (s *sender) target(addr string) *target {
	t := s.targets[addr]
	if t == nil {
		t = &target{addr: addr}
		s.targets[addr] = t
	}
	return t
}

// vacate forgets a target where nothing is left. mu is held.
func (s *sender) vacate(t *target) {
	if t.n == 0 && t.calls == 0 && t.late == 0 && len(t.ready) == 0 {
		delete(s.targets, t.addr)
	}
}

// wait has batch wait in ln, counted at t (nil: nowhere, for the moment), and reports false if there is no room. mu is held.
func (s *sender) wait(ln *lane, t *target, batch []packet.Pending) bool {
	heavy := 0
	for i := range batch {
		heavy += weight(&batch[i])
	}
	n, size := ln.n, ln.bytes // a lane that is nowhere is bounded by itself
	if t != nil {
		n, size = t.n, t.bytes
	}
	if n+len(batch) > s.cfg.Waiting || size+heavy > s.cfg.WaitingBytes {
		return false
	}
	ln.waiting = append(ln.waiting, batch)
	s.count(ln, t, len(batch), heavy)
	return true
}

// count adds to what waits in ln, which is counted at t. mu is held.
func (s *sender) count(ln *lane, t *target, n, heavy int) {
	ln.at = t
	ln.n += n
	ln.bytes += heavy
	s.stats.Waiting += n
	if t != nil {
		t.n += n
		t.bytes += heavy
	}
}

// move counts what waits in ln at t from now on. mu is held.
func (s *sender) move(ln *lane, t *target) {
	if old := ln.at; old != t {
		if old != nil {
			old.n -= ln.n
			old.bytes -= ln.bytes
			s.vacate(old)
		}
		if t != nil {
			t.n += ln.n
			t.bytes += ln.bytes
		}
		ln.at = t
	}
}

// ready puts ln, in which something waits, up for the next call of t. mu is held.
func (s *sender) ready(ln *lane, t *target) {
	ln.busy = true
	s.move(ln, t)
	t.ready = append(t.ready, ln)
	s.start(t)
}

// start has what is ready at t leave, in a call of its own if there is to be one more, unless somebody who rests will take it. mu is held.
func (s *sender) start(t *target) {
	if t.calls < s.cfg.Calls && (t.resting == 0 || t.n >= s.cfg.Messages || t.bytes >= s.cfg.Bytes) {
		t.calls++
		go s.work(t)
	}
}

// proceed sees to what is next in ln, of which nothing is under way any more at another node. mu is held, and
// let go while something is handed on or refused.
func (s *sender) proceed(ln *lane) {
	ln.busy = true
	for len(ln.waiting) > 0 {
		addr := ln.wrong
		if addr == "" {
			owner := s.l.cfg.Router.Owner(ln.key.conv.Slot())
			switch {
			case s.l.cfg.Local != nil && s.l.cfg.Router.IsSelf(owner):
				batch := s.take(ln)
				ln.local++
				s.mu.Unlock()
				s.hand(ln, batch)
				s.mu.Lock()
				continue
			case ln.local > 0: // handed's last answer goes on from here
				ln.busy = false
				return
			case owner == nil:
				batch := s.take(ln)
				behind := s.block(ln, batch[0].ClientMsgID)
				s.mu.Unlock()
				s.refuse(batch, nobody())
				s.refuseBehind(behind)
				s.mu.Lock()
				continue
			}
			addr = owner.RPC
		}
		s.ready(ln, s.target(addr))
		return
	}
	s.move(ln, nil)
	ln.busy = false
	if ln.local == 0 {
		s.forget(ln)
	}
}

// take returns the first batch that waits in ln. mu is held.
func (s *sender) take(ln *lane) []packet.Pending {
	batch := ln.waiting[0]
	copy(ln.waiting, ln.waiting[1:])
	ln.waiting[len(ln.waiting)-1] = nil
	ln.waiting = ln.waiting[:len(ln.waiting)-1]
	heavy := 0
	for i := range batch {
		heavy += weight(&batch[i])
	}
	s.count(ln, ln.at, -len(batch), -heavy)
	return batch
}

// turn forgets lanes that were shut long ago. mu is held.
func (s *sender) turn() {
	if now := time.Now(); now.Sub(s.shutAt) > shutFor {
		s.shutOld, s.shut, s.shutAt = s.shut, nil, now
	}
}

// shuts notes that m of a lane is refused retryably. mu is held.
func (s *sender) shuts(key laneKey, m id.ClientMsgID) {
	s.turn()
	if s.shut == nil {
		s.shut = make(map[laneKey]id.ClientMsgID)
	}
	if by, ok := s.shut[key]; !ok || bytes.Compare(m[:], by[:]) < 0 {
		s.shut[key] = m
	}
}

// opens reports whether p may pass its lane, which opens for a resend of what shut it, or of an earlier one. mu is held.
func (s *sender) opens(key laneKey, p *packet.Pending) bool {
	s.turn()
	for _, m := range [...]map[laneKey]id.ClientMsgID{s.shut, s.shutOld} {
		if by, ok := m[key]; ok && (!p.Resend || bytes.Compare(p.ClientMsgID[:], by[:]) > 0) {
			return false
		}
	}
	delete(s.shut, key)
	delete(s.shutOld, key)
	return true
}

// block shuts a lane because m is about to be refused, and returns what waits in it: it is behind m. mu is held.
func (s *sender) block(ln *lane, m id.ClientMsgID) (behind [][]packet.Pending) {
	s.shuts(ln.key, m)
	for len(ln.waiting) > 0 {
		behind = append(behind, s.take(ln))
	}
	return behind
}

// refuseBehind refuses what came behind a refusal.
func (s *sender) refuseBehind(behind [][]packet.Pending) {
	for _, batch := range behind {
		s.refuse(batch, errLaneBlocked)
	}
}

// refuse refuses messages, so that their lane is shut until it is sent again from the first of them.
func (s *sender) refuse(batch []packet.Pending, err *code.Error) {
	s.mu.Lock()
	s.stats.Refused += uint64(len(batch))
	if err.Code == code.Undetermined {
		s.stats.Lost += uint64(len(batch))
	}
	s.mu.Unlock()
	for i := range batch {
		refuseOne(&batch[i], err)
	}
	s.flush()
}

func (s *sender) flush() {
	if f := s.l.cfg.Flush; f != nil {
		f()
	}
}

func refuseOne(p *packet.Pending, err *code.Error) {
	p.Unlaned = true
	p.Reply.Refused(p, err)
}

// errLaneBlocked is shared.
var errLaneBlocked = code.New(code.LaneBlocked)

// handed is a batch that this process's services have: it is the Replier of its messages.
type handed struct {
	s     *sender
	ln    *lane
	reply packet.Replier
	mu    sync.Mutex
	left  int
}

// hand gives batch, which is counted in ln.local, to this process's services.
func (s *sender) hand(ln *lane, batch []packet.Pending) {
	h, _ := s.handing.Get().(*handed)
	if h == nil {
		h = new(handed)
	}
	h.s, h.ln, h.reply, h.left = s, ln, batch[0].Reply, len(batch)
	for i := range batch {
		batch[i].Reply = h
	}
	s.l.cfg.Local.Conversations.Send(batch)
}

// Acked implements packet.Replier.
func (h *handed) Acked(p *packet.Pending, ack packet.Ack) {
	p.Reply = h.reply
	h.reply.Acked(p, ack)
	h.answered()
}

// Refused implements packet.Replier.
func (h *handed) Refused(p *packet.Pending, err *code.Error) {
	p.Reply = h.reply
	var behind [][]packet.Pending
	if err.Code.Scope() == code.ScopeLane {
		p.Unlaned = true // the next of the lane may go to another node
		h.s.mu.Lock()
		behind = h.s.block(h.ln, p.ClientMsgID)
		h.s.mu.Unlock()
	}
	h.reply.Refused(p, err)
	h.s.refuseBehind(behind)
	h.answered()
}

// Shut implements packet.Laned.
func (h *handed) Shut(p *packet.Pending) bool {
	l, ok := h.reply.(packet.Laned)
	return ok && l.Shut(p)
}

func (h *handed) answered() {
	h.mu.Lock()
	h.left--
	last := h.left == 0
	h.mu.Unlock()
	if !last {
		return
	}
	s, ln := h.s, h.ln
	h.s, h.ln, h.reply = nil, nil, nil
	s.handing.Put(h)
	s.mu.Lock()
	defer s.mu.Unlock()
	if ln.local--; ln.local == 0 && !ln.busy {
		if len(ln.waiting) > 0 {
			go func() { // not on the goroutine of who answers: handing on may answer at once
				s.mu.Lock()
				defer s.mu.Unlock()
				s.proceed(ln)
			}()
			ln.busy = true
			return
		}
		s.forget(ln)
	}
}

// Stats returns the counts of SENDs that went to other nodes.
func (l *Logic) Stats() SendStats {
	if l.sends == nil {
		return SendStats{}
	}
	l.sends.mu.Lock()
	defer l.sends.mu.Unlock()
	return l.sends.stats
}

// Close has what comes from now on refused, and returns when everything that is under way was answered, or ctx has ended.
func (l *Logic) Close(ctx context.Context) error {
	if l.sends == nil {
		return nil
	}
	return l.sends.close(ctx)
}

func (s *sender) close(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.idle.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for len(s.lanes) > 0 && ctx.Err() == nil {
		s.idle.Wait()
	}
	return ctx.Err()
}

// owner is who owns ln now, maybe this node; nil: nobody does.
func (s *sender) owner(ln *lane) *nodes.Node { return s.l.cfg.Router.Owner(ln.key.conv.Slot()) }
