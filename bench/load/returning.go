package load

import (
	"container/heap"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// How a client comes back, as SPEC.md says.
const (
	firstBackoff = 500 * time.Millisecond // the bound of the first random wait; it doubles
	mostBackoff  = 30 * time.Second
	dialPatience = 10 * time.Second // for a connection to stand and its CONNACK to come
)

// returning is the client of one user of a pair, who keeps coming back: with the resume token
// and the sync mark of the last CONNACK, after a random time, and with an outbox of what isn't acked.
type returning struct {
	*line  // that serves the client, or is about to
	r      *restartRun
	index  int
	source netip.Addr
	addr   netip.AddrPort // where it connects

	resume   string
	mark     uint64
	failures int
	retry    time.Duration // at least, as the server's last ERROR said
	due      bool          // it is in the queue
	departure

	gone, stood, back int64 // in the loop's time: when the connection ended, a session stood elsewhere, the client was connected again; first

	// Of the sender.
	peer   string
	outbox []unacked // oldest first
	fresh  int       // of outbox, up to here under way
	again  int64     // not 0: when the lane goes again after a refusal

	// Of the recipient.
	conv   id.ConversationID
	book   verify.Ledger // of what the other one sends
	told   uint64
	head   uint64
	asking asking
	asked  uint32
	from   uint64
	more   bool // something called for a pull during one
}

// unacked is a message of the outbox.
type unacked struct {
	number uint64
	ms     int64
}

func (c *returning) sender() bool { return c.index%2 == 0 }

// other is the other one of the pair.
func (c *returning) other() *returning { return &c.r.clients[c.index^1] }

// queue is when clients connect again.
type queue []later

type later struct {
	at int64
	c  *returning
}

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].at < q[j].at }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(later)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

// dialAt connects, or begins to move, at the time.
func (c *returning) dialAt(at int64) {
	if !c.due {
		c.due = true
		heap.Push(&c.r.waiting, later{at, c})
	}
}

// dial connects now: where the client was, and while that fails to those that its server named, in turn.
func (c *returning) dial(now int64) {
	c.leaving, c.moving = false, false
	addr := c.addr
	if n := len(c.places); n > 0 && c.failures%2 == 1 {
		addr = c.places[c.failures/2%n]
	}
	if err := c.dialLine(c.line, addr, now); err != nil {
		c.lost(now) // refused at once, most likely
	}
}

// dialLine begins to connect l.
func (c *returning) dialLine(l *line, addr netip.AddrPort, now int64) error {
	r := c.r
	r.attempt(now)
	l.ready, l.dialed, l.addr, l.token = false, now, addr, ""
	if c.resume == "" {
		token, err := r.Target.Token(c.user)
		if err != nil {
			r.fail(fmt.Errorf("token of %s: %w", c.user, err))
			return nil
		}
		l.token = token
	}
	return r.loop.Dial(&l.Conn, r.Target.over(&l.Conn, l), addr, c.source)
}

// lost plans the way back after a connection ended, or didn't come about. A client on its way elsewhere is on it.
func (c *returning) lost(now int64) {
	c.cutOff(now)
	if c.next != nil {
		return
	}
	wait := time.Duration(0)
	if c.leaving {
		wait = randomly(c.jitter)
	} else {
		wait = max(c.backoff(), c.retry)
		c.failures++
	}
	c.leaving, c.moving, c.retry = false, false, 0
	c.dialAt(now + int64(wait))
}

// backoff is a random time below a bound that doubles.
func (c *returning) backoff() time.Duration {
	return randomly(min(firstBackoff<<min(c.failures, 16), mostBackoff))
}

// cutOff notes that the client isn't served any more.
func (c *returning) cutOff(now int64) {
	if c.ready {
		c.r.up--
		if c.gone == 0 && c.r.began != 0 {
			c.gone = now
		}
	}
	c.ready, c.asking, c.more, c.again = false, nothing, false, 0
	c.fresh = 0 // what was under way goes again
}

func randomly(bound time.Duration) time.Duration {
	if bound <= 0 {
		return 0
	}
	return rand.N(bound)
}

func (c *returning) connected(f *frame.Frame, now int64) {
	r := c.r
	ack, err := c.connack(f)
	if err != nil {
		r.fail(err)
		return
	}
	switch {
	case r.epoch == 0:
		r.epoch = ack.StoreEpoch
		r.wallMS = int64(ack.ServerTime) - now/int64(time.Millisecond)
		r.silence = time.Duration(max(ack.HeartbeatSeconds, 3)) * time.Second
	case ack.StoreEpoch != r.epoch:
		r.fail(fmt.Errorf("the store's epoch was %d and is %d", r.epoch, ack.StoreEpoch))
		return
	}
	if c.resume != "" && !ack.Resumed {
		r.unresumed++
	}
	c.resume, c.mark, c.failures, c.retry = ack.ResumeToken, ack.SyncMark, 0, 0
	c.addr, c.departure = c.line.addr, departure{}
	r.up++
	if c.gone != 0 && c.back == 0 {
		c.back = now
		r.returned++
	}
	if c.sender() {
		c.flushOutbox()
		return
	}
	for _, s := range ack.Conversations {
		if string(s.ConversationId) == string(c.conv[:]) && s.LastSeq > c.book.Mark() {
			c.pull()
		}
	}
}

// compose puts the next message into the outbox, and sends it if the client can.
func (c *returning) compose(now int64) {
	book := &c.other().book
	book.Sent++
	c.outbox = append(c.outbox, unacked{book.Sent, c.r.millis(now)})
	c.flushOutbox()
}

// flushOutbox sends what of the outbox isn't under way.
func (c *returning) flushOutbox() {
	r := c.r
	if !c.ready || c.leaving || c.again != 0 {
		return
	}
	for ; c.fresh < len(c.outbox) && c.fresh < maxUnderWay; c.fresh++ {
		m := c.outbox[c.fresh]
		pair := c.index / 2
		text := make([]byte, r.Body)
		verify.FillBody(text, pair, m.number)
		var mid [16]byte
		verify.PutID(&mid, m.ms, r.salt, pair, m.number)
		flags := frame.FlagRequestID
		if m.number <= c.told { // of a sender: the highest number that was ever sent
			flags |= frame.FlagResend
			r.resent++
		} else {
			c.told = m.number
		}
		out, err := packet.AppendBody(c.Out, frame.Send, flags, uint32(m.number), &wire.Send{
			ToUserId: c.peer, ClientMsgId: mid[:], MsgType: 1, Content: string(text)})
		if err != nil {
			r.fail(fmt.Errorf("encode a SEND: %w", err))
			return
		}
		c.Out = out
	}
	c.Flush()
}

// maxUnderWay is how many messages of a client wait for their acks.
const maxUnderWay = 64

func (c *returning) acked(f *frame.Frame) {
	r := c.r
	ack, err := packet.DecodeSendAck(f.Body)
	if err != nil {
		r.fail(fmt.Errorf("SENDACK to %s: %w", c.user, err))
		return
	}
	if len(c.outbox) == 0 || uint64(f.ReqID) < c.outbox[0].number {
		return // it was sent again meanwhile, and acked
	}
	if uint64(f.ReqID) != c.outbox[0].number {
		r.fail(fmt.Errorf("SENDACK %d to %s, before that of %d", f.ReqID, c.user, c.outbox[0].number))
		return
	}
	o := c.other()
	o.book.Acked(c.outbox[0].number, ack.Seq, ack.Duplicate)
	o.head = max(o.head, ack.Seq)
	c.outbox = append(c.outbox[:0], c.outbox[1:]...)
	c.fresh = max(c.fresh-1, 0)
	r.progress++
	c.flushOutbox()
}

// refused acts on an ERROR: of a SEND, of a SYNC, or of the whole connection.
func (c *returning) refused(f *frame.Frame, now int64) {
	r := c.r
	e := c.refusal(f)
	if e.Code == code.Replaced && len(c.places) > 0 {
		c.replaced = true // by itself
		return
	}
	wait := max(e.RetryAfter, e.Code.RetryAfter(), 10*time.Millisecond)
	r.refusals[e.Code.String()]++
	if e.Code.Class() == code.Terminal {
		r.fail(fmt.Errorf("the server refused %s: %w", c.user, e))
		return
	}
	if !f.HasReqID() || !c.ready {
		if e.Code != code.Draining || len(c.places) == 0 {
			c.retry = e.RetryAfter
		}
		return // and closes
	}
	if c.sender() {
		c.fresh, c.again = 0, now+int64(wait) // the lane goes again from its oldest
		return
	}
	c.again = now + int64(wait)
}

// retryDue does again what was refused.
func (c *returning) retryDue(now int64) {
	if c.again == 0 || now < c.again {
		return
	}
	c.again = 0
	if c.sender() {
		c.flushOutbox()
	} else if c.asking != nothing {
		c.ask()
	}
}

func (c *returning) delivered(f *frame.Frame) {
	r := c.r
	conv, _, messages, err := packet.DecodeDeliver(f.Body)
	if err == nil && conv != c.conv {
		err = fmt.Errorf("it is of %s", conv)
	}
	if err != nil {
		r.fail(fmt.Errorf("DELIVER to %s: %w", c.user, err))
		return
	}
	if c.sender() {
		return // what its other devices sent: it has none
	}
	gap := false
	for len(messages) > 0 {
		v, rest, err := packet.NextMessage(messages)
		if err != nil {
			r.fail(fmt.Errorf("DELIVER to %s: %w", c.user, err))
			return
		}
		messages = rest
		_, g := c.book.Delivered(&v)
		gap = gap || g
		r.progress++
	}
	if gap {
		c.pull()
	}
}

// confirm sends the RECVACK that is due.
func (c *returning) confirm() {
	if c.sender() || !c.ready || c.told >= c.book.Mark() {
		return
	}
	c.told = c.book.Mark()
	var ack [32]byte
	c.Out = frame.Append(c.Out, frame.RecvAck, 0, 0, packet.AppendConversationSeq(ack[:0], c.conv, c.told))
	c.Flush()
}

// pull asks for what is missing above the mark.
func (c *returning) pull() {
	if c.asking != nothing {
		c.more = true
		return
	}
	if c.sender() || !c.ready || c.leaving {
		return
	}
	c.r.pulls++
	c.asking, c.more = pull, false
	c.ask()
}

func (c *returning) ask() {
	c.from = c.book.Mark() + 1
	if c.asking == walk {
		c.from = c.book.Walked() + 1
	}
	c.asked++
	out, err := packet.AppendBody(c.Out, frame.Sync, frame.FlagRequestID, c.asked, &wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: c.conv[:], FromSeq: c.from}}})
	if err != nil {
		c.r.fail(fmt.Errorf("encode a SYNC: %w", err))
		return
	}
	c.Out = out
	c.Flush()
}

func (c *returning) synced(f *frame.Frame) {
	r := c.r
	page, refused, err := packet.DecodeSynced(f.Body)
	switch {
	case err != nil:
		r.fail(fmt.Errorf("SYNCED to %s: %w", c.user, err))
		return
	case refused != nil && refused.Code == code.NoSuchConversation && c.asking == pull && c.head == 0:
		c.asking, c.more = nothing, false // a HINT about everything, before anybody had an ack for it
		return
	case refused != nil:
		r.refusals[refused.Code.String()]++
		if refused.Code.Class() == code.Terminal {
			r.fail(fmt.Errorf("SYNC of %s: %w", c.user, refused))
		}
		c.again = r.loop.Now() + int64(max(refused.RetryAfter, 50*time.Millisecond))
		return
	case f.ReqID != c.asked || page.Conversation != c.conv:
		return // of a pull that was asked again
	}
	for messages := page.Messages; len(messages) > 0; {
		v, rest, err := packet.NextMessage(messages)
		if err != nil {
			r.fail(fmt.Errorf("SYNCED to %s: %w", c.user, err))
			return
		}
		messages = rest
		r.progress++
		if c.asking == walk {
			c.book.Stored(&v)
		} else {
			c.book.Pulled(&v)
		}
	}
	if f.Flags&frame.FlagMore != 0 {
		return
	}
	if c.asking == walk {
		if page.ToSeq >= page.FromSeq {
			c.book.Answered(page.ToSeq)
		}
		c.head = page.LastSeq
		if c.book.Walked() < c.head && c.book.Walked() >= c.from {
			c.ask()
			return
		}
		c.asking = nothing
		r.walked++
		return
	}
	c.asking = nothing
	unfinished := page.ToSeq >= page.FromSeq && page.ToSeq < page.LastSeq
	if from, _ := c.book.Missing(); from != 0 || c.more || unfinished {
		c.pull()
	}
}

// poll handles what has arrived, and what is due.
func (r *restartRun) poll(ctx context.Context, wait time.Duration) error {
	if len(r.waiting) > 0 {
		wait = min(wait, max(time.Duration(r.waiting[0].at-r.loop.Now()), 0))
	}
	if _, err := r.loop.Poll(wait); err != nil {
		return err
	}
	now := r.loop.Now()
	for len(r.waiting) > 0 && r.waiting[0].at <= now {
		c := heap.Pop(&r.waiting).(later).c
		if c.due = false; c.moving && c.ready {
			c.move(now)
		} else {
			c.dial(now)
		}
	}
	r.round.Turn(now, func(i int) {
		c := &r.clients[i]
		c.retryDue(now)
		switch {
		case !c.Alive():
		case !c.ready && now-c.dialed > int64(dialPatience):
			c.Close()
			c.lost(now)
		case c.ready:
			c.confirm()
		}
		if c.next != nil && now-c.next.dialed > int64(dialPatience) {
			c.next.Close()
			c.notMoved(now)
		}
	})
	if r.silence > 0 {
		if r.heart.Due() == 0 {
			r.heart = loop.NewRound(now, len(r.clients), r.silence/3)
		}
		r.heart.Turn(now, func(i int) {
			if c := &r.clients[i]; c.ready {
				c.Out = append(c.Out, ping...)
				c.Flush()
			}
		})
	}
	if r.failed != nil {
		return r.failed
	}
	return ctx.Err()
}
