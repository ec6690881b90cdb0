package gochat

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// maxStamps is how often a message gets a new id before it is given up.
const maxStamps = 3

// maxAhead is by how many milliseconds ids may run ahead of the server's clock, so that they
// grow though a clock was set back: half of what a server takes.
const maxAhead = 30_000

// anySize is for messages whose limits aren't known, or were checked before.
var anySize = packet.Limits{MaxContent: packet.HardMaxContent, MaxExt: packet.HardMaxContent, MaxMentions: 1 << 12}

// outgoing is a message that waits to be stored. done is closed, after ack or err was
// set, when its outcome is known; the rest is guarded by Client.mu.
type outgoing struct {
	Outgoing
	user   id.UserID // that Body names, if it does
	lane   *laneState
	first  id.ClientMsgID // the id that Send returned
	stamps int
	sent   bool   // on this connection, and not answered
	req    uint32 // the request of the last try
	tried  bool   // maybe stored
	trace  trace.ID

	done chan struct{}
	ack  Ack
	err  error
}

func (o *outgoing) finish(ack Ack, err error) {
	select {
	case <-o.done:
	default:
		o.ack, o.err = ack, err
		close(o.done)
	}
}

// Receipt is a message's way to the server.
type Receipt struct {
	ID id.ClientMsgID // also in MessageSent and SendFailed
	o  *outgoing
}

// Wait waits for the outcome: where the message was stored, or a *code.Error if it was
// refused for good, or ErrClosed or ErrStopped if the client won't tell any more; then the message is
// still in the outbox.
func (r *Receipt) Wait(ctx context.Context) (Ack, error) {
	select {
	case <-r.o.done:
		return r.o.ack, r.o.err
	case <-ctx.Done():
		return Ack{}, fmt.Errorf("waiting for the ack of a message: %w", ctx.Err())
	}
}

// Done is closed when Wait wouldn't wait.
func (r *Receipt) Done() <-chan struct{} { return r.o.done }

// lane is what a conversation's messages are ordered by.
type lane struct {
	conv id.ConversationID
	user id.UserID // while the client doesn't know who it is itself
}

// laneState is the messages that wait in one lane, in order.
type laneState struct {
	key     lane
	queue   []*outgoing
	blocked time.Time // nothing is sent before
	search  *search   // looking for a message whose id the server doesn't know any more
	listed  bool      // in Client.order
}

// search is a walk through a conversation, from a seq up to its head.
type search struct {
	o    *outgoing
	conv id.ConversationID
	next uint64
	busy bool
	wait time.Time
}

// reset forgets what was under way on a connection that ended.
func (s *laneState) reset() {
	for _, o := range s.queue {
		o.sent = false
	}
	s.blocked = time.Time{}
	if s.search != nil {
		s.search.busy, s.search.wait = false, time.Time{}
	}
}

// Send stores a message in the outbox and returns; the client then sends it, in the order
// of the calls, until the server has answered. It works without a connection. An error
// means that the message isn't in the outbox.
func (c *Client) Send(ctx context.Context, to Target, m Content) (*Receipt, error) {
	return c.send(ctx, to, m, 0, false)
}

// SendInteractive is Send for a person who has read the conversation up to seen.
func (c *Client) SendInteractive(ctx context.Context, to Target, m Content, seen uint64) (*Receipt, error) {
	return c.send(ctx, to, m, seen, true)
}

func (c *Client) send(ctx context.Context, to Target, m Content, seen uint64, interactive bool) (*Receipt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c.sendMu.Lock()
	defer c.sendMu.Unlock()
	c.mu.Lock()
	if c.stopped != nil {
		c.mu.Unlock()
		return nil, c.stopped
	}
	o := &outgoing{done: make(chan struct{}), user: to.User, trace: traceOf(ctx)}
	o.ID, o.Interactive, o.Conversation = c.newID(), interactive, to.Conversation
	if to.User != "" && to.Conversation.IsZero() && c.me != "" {
		o.Conversation = id.Direct(c.me, to.User)
	}
	if v := c.convs[o.Conversation]; v != nil {
		o.Base = v.applied
	}
	limits := anySize
	if c.link != nil && c.link.limits.MaxContent > 0 {
		l := c.link.limits
		limits = packet.Limits{MaxContent: int(l.MaxContent), MaxExt: int(l.MaxExt), MaxMentions: int(l.MaxMentions)}
	}
	c.mu.Unlock()

	w := m.wire()
	w.ClientMsgId, w.SeenSeq, w.ToUserId = o.ID[:], seen, string(to.User)
	if !to.Conversation.IsZero() {
		w.ConversationId = to.Conversation[:]
	}
	body, err := w.Marshal(nil)
	if err != nil {
		return nil, fmt.Errorf("encoding a message: %w", err)
	}
	var check packet.Send
	if err := packet.DecodeSend(&check, body, &limits); err != nil {
		return nil, err
	}
	o.Body = body
	if err := c.store.PutOutgoing(o.Outgoing); err != nil {
		return nil, fmt.Errorf("storing a message in the outbox: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.user != "" && o.Conversation.IsZero() && c.me != "" { // the first CONNACK came meanwhile
		o.Conversation = id.Direct(c.me, o.user)
	}
	c.queue(o)
	if c.stopped != nil {
		o.finish(Ack{}, c.stopped)
	}
	if c.link != nil {
		c.link.wakeWriter()
	}
	return &Receipt{ID: o.ID, o: o}, nil
}

func (m *Content) wire() *wire.Send {
	w := &wire.Send{
		MsgType: m.Type, Content: m.Text, Data: m.Data, Mentions: m.Mentions, MentionAll: m.MentionAll, ReplyToSeq: m.ReplyToSeq, ThreadSeq: m.ThreadSeq,
		NoCount: m.NoCount, NoPush: m.NoPush, OriginDevice: string(m.OriginDevice), Ext: m.Ext, Encryption: m.Encryption,
	}
	if w.MsgType == 0 {
		w.MsgType = packet.TypeText
	}
	if !m.ExpiresAt.IsZero() {
		w.ExpiresAt = uint64(m.ExpiresAt.UnixMilli())
	}
	return w
}

// newID returns an id on server time that is above all earlier ones: the 12 bits behind
// the milliseconds count. The caller holds mu.
func (c *Client) newID() id.ClientMsgID {
	ms := time.Now().Add(c.offset).UnixMilli()
	n := id.NewClientMsgID(ms)
	count := 0
	if last := c.lastID.UnixMilli(); ms <= last && last-ms < maxAhead {
		if count = (int(c.lastID[6]&0xF)<<8 | int(c.lastID[7])) + 1; count > 0xFFF {
			last, count = last+1, 0
		}
		n = id.NewClientMsgID(last)
	}
	n[6], n[7] = 0x70|byte(count>>8), byte(count)
	c.lastID = n
	return n
}

// queue puts a message behind those of its lane. The caller holds mu, or is alone.
func (c *Client) queue(o *outgoing) {
	if o.first == (id.ClientMsgID{}) {
		o.first = o.ID
	}
	if o.user == "" && o.Conversation.IsZero() {
		var s packet.Send
		if packet.DecodeSend(&s, o.Body, &anySize) == nil {
			o.user = id.UserID(strings.Clone(string(s.ToUser)))
		}
	}
	key := lane{conv: o.Conversation}
	if key.conv.IsZero() {
		key.user = o.user
	}
	s := c.lanes[key]
	if s == nil {
		s = &laneState{key: key}
		c.lanes[key] = s
	}
	o.lane = s
	s.queue = append(s.queue, o)
	c.receipts[o.ID] = o
	c.list(s)
}

func (c *Client) list(s *laneState) {
	if !s.listed {
		s.listed = true
		c.order = append(c.order, s)
	}
}

// adoptLanes gives the lanes that were named by user their conversation, now that the
// client knows who it is. Those lanes are all older than any of the conversation's own.
func (c *Client) adoptLanes() {
	for key, s := range c.lanes {
		if key.user == "" {
			continue
		}
		delete(c.lanes, key)
		conv := id.Direct(c.me, key.user)
		for _, o := range s.queue {
			o.Conversation = conv
		}
		if to := c.lanes[lane{conv: conv}]; to != nil {
			to.queue = append(s.queue, to.queue...)
			for _, o := range s.queue {
				o.lane = to
			}
			s.queue = nil
			c.list(to)
			continue
		}
		s.key = lane{conv: conv}
		c.lanes[s.key] = s
	}
}

// pump sends what may be sent, and returns when to look again. The caller holds mu.
func (c *Client) pump(l *link, now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	kept := c.order[:0]
	turn, late := 0, false // behind the last lane that sent something; the pace held one back
	for _, s := range c.order {
		if len(s.queue) == 0 {
			s.listed = false
			if c.lanes[s.key] == s && s.search == nil {
				delete(c.lanes, s.key)
			}
			continue
		}
		kept = append(kept, s)
		if s.search != nil {
			if t := c.searchDue(l, s.search, now); t.Before(next) {
				next = t
			}
			continue
		}
		if now.Before(s.blocked) {
			if s.blocked.Before(next) {
				next = s.blocked
			}
			continue
		}
		for _, o := range s.queue {
			if l.inflight >= int(l.limits.MaxInflight) {
				break
			}
			if o.sent {
				continue
			}
			if t := l.mayAt(); now.Before(t) {
				if late = true; t.Before(next) {
					next = t
				}
				break
			}
			flags := frame.FlagRequestID
			if o.tried {
				flags |= frame.FlagResend
			}
			if o.Interactive {
				flags |= frame.FlagInteractive
			}
			o.req = l.request(o)
			before := len(l.out)
			l.out = withTrace(frame.Append(l.out, frame.Send, flags, o.req, o.Body), before, o.trace)
			l.sends.spend(now, 1)
			l.bytes.spend(now, len(l.out)-before)
			l.inflight++
			o.sent, o.tried = true, true
			turn = len(kept)
		}
	}
	clear(c.order[len(kept):])
	c.order = kept
	if late && turn > 0 && turn < len(kept) { // the next lane's turn: a long one must not hold up the others
		c.order = append(slices.Clone(kept[turn:]), kept[:turn]...)
	}
	return next
}

// mayAt is when the pace lets the next SEND go.
func (l *link) mayAt() time.Time {
	if b := l.bytes.next(); b.After(l.sends.next()) {
		return b
	}
	return l.sends.next()
}

// acked takes in a SENDACK: the message is stored, and has arrived here too.
func (c *Client) acked(l *link, o *outgoing, ack packet.Ack) {
	l.inflight--
	if !c.waits(o) {
		return
	}
	conv := ack.Conversation
	if conv.IsZero() {
		conv = o.Conversation
	}
	c.stored(o, Ack{Conversation: conv, Seq: ack.Seq, MessageID: ack.MessageID, Duplicate: ack.Duplicate})
	var v *conversation
	if conv.Kind() != id.KindRoom {
		if v = c.conversation(conv); !v.known {
			c.encounter(v, ack.Seq)
		}
		if v.peer == "" {
			v.peer = o.user
		}
	}
	var s packet.Send
	if err := packet.DecodeSend(&s, o.Body, &anySize); err != nil {
		return // checked when it was made; if not, it comes by SYNC
	}
	if m, _, err := packet.NextMessage(packet.AppendMessage(nil, ack.Seq, ack.MessageID, c.me, s.Tail)); err == nil {
		if v == nil {
			c.ownLive(conv, &m)
			return
		}
		c.arrive(v, &m)
	}
}

// waits reports whether o is still to be answered.
func (c *Client) waits(o *outgoing) bool { return c.receipts[o.ID] == o }

// stored ends a message that the server has. The caller holds mu.
func (c *Client) stored(o *outgoing, ack Ack) {
	c.remove(o)
	o.finish(ack, nil)
	c.push(MessageSent{ID: o.first, Ack: ack})
}

// failed ends a message that was refused for good. The caller holds mu.
func (c *Client) failed(o *outgoing, e *code.Error) {
	c.remove(o)
	o.finish(Ack{}, e)
	c.push(SendFailed{ID: o.first, Err: e})
	c.roomSettled(o.Conversation)
}

// remove takes a message out of its lane and the store.
func (c *Client) remove(o *outgoing) {
	delete(c.receipts, o.ID)
	q := o.lane.queue
	for i := range q {
		if q[i] == o {
			o.lane.queue = append(q[:i], q[i+1:]...)
			break
		}
	}
	if s := o.lane.search; s != nil && s.o == o {
		o.lane.search = nil
	}
	if err := c.store.DropOutgoing(o.ID); err != nil {
		c.log.Error("removing a message from the outbox", "error", err)
	}
}

// sendRefused acts on the ERROR that a SEND got.
func (c *Client) sendRefused(l *link, o *outgoing, req uint32, e *code.Error) {
	l.inflight--
	if !c.waits(o) || !o.sent || o.req != req {
		return // an answer to a try that was given up
	}
	s := o.lane
	switch {
	case e.Code.Scope() == code.ScopeLane || e.Code.Class() == code.RetrySame:
		// The rest of the lane is refused too: all of it goes again, from here on, in order.
		from := false
		for _, p := range s.queue {
			if from = from || p == o; from {
				p.sent = false
			}
		}
		wait := retryAfter(e)
		if s.queue[0] == o {
			wait = max(wait, 50*time.Millisecond)
		}
		until := time.Now().Add(wait + jitter(wait/2))
		if until.After(s.blocked) {
			s.blocked = until
		}
		if e.Code == code.RateLimited { // the rates are of all lanes together
			l.sends.hold(until)
		}
		c.list(s)
	case e.Code == code.IDInFuture:
		o.sent = false
		c.restamp(o, e)
	case e.Code == code.IDUnknown:
		o.sent = false
		for _, p := range s.queue {
			p.sent = false // nothing may overtake it; those on their way come back by their ids
		}
		s.search = &search{o: o, conv: o.Conversation, next: o.Base + 1}
	default:
		c.failed(o, e)
	}
}

// restamp gives a message that is surely not stored a new id, because of e.
func (c *Client) restamp(o *outgoing, e *code.Error) {
	old := o.ID
	if o.stamps++; o.stamps > maxStamps {
		c.failed(o, e)
		return
	}
	var w wire.Send
	err := w.Unmarshal(o.Body)
	next := o.Outgoing
	next.ID = c.newID()
	if err == nil {
		w.ClientMsgId = next.ID[:]
		next.Body, err = w.Marshal(nil)
	}
	if err == nil {
		err = c.store.ReplaceOutgoing(old, next)
	}
	if err != nil {
		c.log.Error("giving a message a new id", "error", err)
		o.lane.blocked = time.Now().Add(time.Second)
		return
	}
	delete(c.receipts, old)
	o.Outgoing, o.tried = next, false
	c.receipts[o.ID] = o
	c.list(o.lane)
}

// searchDue asks for the next stretch of a search.
func (c *Client) searchDue(l *link, s *search, now time.Time) time.Time {
	if s.busy {
		return now.Add(time.Hour)
	}
	if now.Before(s.wait) {
		return s.wait
	}
	s.busy = true
	r := &wire.SyncRange{ConversationId: s.conv[:], FromSeq: s.next}
	b, err := packet.AppendBody(l.out, frame.Sync, frame.FlagRequestID, l.request(&pull{search: s}), &wire.Sync{Ranges: []*wire.SyncRange{r}})
	if err == nil {
		l.out = b
	}
	return now.Add(time.Hour)
}

// searched takes in a stretch: own messages in it were found by their ids already.
func (c *Client) searched(s *search, p *packet.Page, refused *code.Error) {
	s.busy = false
	if !c.waits(s.o) || s.o.lane.search != s {
		return
	}
	switch {
	case refused != nil && (refused.Retryable() || refused.Code.Scope() == code.ScopeLane):
		s.wait = time.Now().Add(max(refused.RetryAfter, time.Second))
		return
	case refused == nil && p.ToSeq >= p.FromSeq && p.ToSeq < p.LastSeq:
		s.next = p.ToSeq + 1
		return
	}
	// The whole conversation was looked through, or there is none: it isn't stored.
	s.o.lane.search = nil
	c.restamp(s.o, code.New(code.IDUnknown))
}

// Outbox returns the ids of the messages that wait for their ack, oldest first in each conversation.
func (c *Client) Outbox() []id.ClientMsgID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []id.ClientMsgID
	for _, s := range c.order {
		for _, o := range s.queue {
			ids = append(ids, o.first)
		}
	}
	return ids
}

var errLost = errors.New("the connection was lost")

// pace spaces what is sent so that it keeps to a rate that the server announced: some at
// once, the rest evenly. The zero value is no limit.
type pace struct {
	each  time.Duration // what one costs; 0: nothing
	burst time.Duration // how much may be spent ahead
	spent time.Time     // when all that was sent will have been earned
}

// Seconds' worth that the client sends at once: half of what servers allow, so that what a slow
// network holds back and then hands over in one piece is no breach.
const (
	burstSends = time.Second
	burstBytes = 2 * time.Second
)

func newPace(perSecond uint32, burst time.Duration) pace {
	if perSecond == 0 { // the server doesn't tell
		return pace{}
	}
	return pace{each: time.Second / time.Duration(perSecond), burst: burst}
}

// next is when something may be sent again.
func (p *pace) next() time.Time { return p.spent.Add(-p.burst) }

// spend counts n as sent.
func (p *pace) spend(now time.Time, n int) {
	if p.each == 0 {
		return
	}
	if p.spent.Before(now) {
		p.spent = now
	}
	p.spent = p.spent.Add(time.Duration(n) * p.each)
}

// hold lets nothing be sent until then, and no burst after.
func (p *pace) hold(until time.Time) {
	if t := until.Add(p.burst); t.After(p.spent) {
		p.spent = t
	}
}

// WithTrace returns a context whose calls tell the server a trace id, 16 bytes that mean
// something to who chose them: methods that ask the server, and Send, whose message has it
// each time that it is sent until this Client is closed. The server's log names it.
func WithTrace(ctx context.Context, id [16]byte) context.Context {
	return trace.With(ctx, trace.Call{Trace: id})
}

// traceOf is the trace id of ctx; zero: none.
func traceOf(ctx context.Context) trace.ID {
	if c := trace.From(ctx); c != nil {
		return c.Trace
	}
	return trace.ID{}
}

// withTrace puts t, unless it is zero, into the frame that begins at b[at].
func withTrace(b []byte, at int, t trace.ID) []byte {
	if t.IsZero() {
		return b
	}
	return frame.AddTrace(b, at, t)
}
