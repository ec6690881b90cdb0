package load

import (
	"fmt"
	"time"

	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// pair is a sender, a recipient and what is known about their conversation.
type pair struct {
	run   *pairsRun
	index int
	conv  id.ConversationID
	ends  [2]end // the sender, the recipient

	book    verify.Ledger
	refused uint64
	highest uint64  // seq of the latest ack
	told    uint64  // seq of the latest RECVACK
	sentAt  []int64 // when each number was (to be) sent; a ring
	waiting []int64 // with Rate: due, while as many are under way as the server allows

	sends template

	asking asking // what the recipient's SYNC under way is for
	again  bool   // something new called for a pull during one
	syncID uint32
	early  bool   // when the SYNC went out nothing had been acked
	from   uint64 // where that SYNC begins
	head   uint64 // as the last SYNCED told
}

type asking uint8

const (
	nothing asking = iota
	pull           // a gap or a hint
	walk           // the whole timeline
)

// end is the connection of one of the two.
type end struct {
	session
	p      *pair
	sender bool
}

func (p *pair) init(r *pairsRun, i int) {
	a, b := r.Target.user(2*i+1), r.Target.user(2*i+2)
	p.run, p.index, p.conv = r, i, conversation(a, b)
	p.book = verify.Ledger{Pair: i, Salt: r.salt, Sender: a, Body: r.Body}
	ring := 2048
	if r.Rate == 0 {
		for ring = 256; ring < 4*r.Window; ring *= 2 {
		}
	}
	p.sentAt = make([]int64, ring)
	p.ends[0] = end{session: session{user: a}, p: p, sender: true}
	p.ends[1] = end{session: session{user: b}, p: p}
	p.template(func(m *wire.Send) { m.ToUserId = b })
}

func (p *pair) sender() *end    { return &p.ends[0] }
func (p *pair) recipient() *end { return &p.ends[1] }

// outstanding returns how many messages have no answer yet.
func (p *pair) outstanding() uint64 { return p.book.Sent - p.book.AckedCount() - p.refused }

func (p *pair) template(address func(*wire.Send)) {
	t, err := newTemplate(p.run.Body, p.run.salt, p.index, address)
	if err != nil {
		p.run.fail(err)
		return
	}
	p.sends = t
}

// send puts the next message into the sender's buffer; at is the time its latency counts from.
func (p *pair) send(at int64) {
	r := p.run
	p.book.Sent++
	n := p.book.Sent
	p.sentAt[n&uint64(len(p.sentAt)-1)] = at
	c := p.sender()
	c.Out = p.sends.append(c.Out, uint32(n), r.millis(at), n)
	if r.counting {
		r.sent++
	}
}

// sendDue sends a message of the schedule, or keeps it until the server allows one more under way.
func (p *pair) sendDue(at int64) {
	if most := p.run.limits.MaxInflight; most > 0 && p.outstanding() >= uint64(most) {
		p.waiting = append(p.waiting, at)
		return
	}
	p.send(at)
}

// Connected implements loop.Handler.
func (c *end) Connected() {
	if err := c.connect(0); err != nil {
		c.p.run.fail(err)
	}
}

// Closed implements loop.Handler.
func (c *end) Closed(err error) {
	c.p.run.fail(fmt.Errorf("the connection of %s ended: %w", c.user, err))
}

// Input implements loop.Handler.
func (c *end) Input(b []byte) int {
	r := c.p.run
	now := r.loop.Now()
	used := 0
	delivered := false
	for {
		f, n, err := frame.Parse(b[used:], maxFrame)
		if err != nil {
			r.fail(fmt.Errorf("a frame to %s: %w", c.user, err))
			return len(b)
		}
		if n == 0 {
			break
		}
		used += n
		switch f.Type {
		case frame.SendAck:
			c.p.acked(&f, now)
		case frame.Deliver:
			c.p.delivered(&f, now)
			delivered = true
		default:
			c.other(&f, now)
		}
	}
	if delivered && r.RecvAck == 0 {
		c.p.recvAck() // one for all that this read brought
	}
	return used
}

// confirm sends the RECVACK that is due, if anything has come since the last one.
func (p *pair) confirm() {
	if p.told < p.book.Mark() {
		p.recvAck()
		p.recipient().Flush()
	}
}

func (p *pair) recvAck() {
	var ack [32]byte
	p.told = p.book.Mark()
	body := packet.AppendConversationSeq(ack[:0], p.conv, p.told)
	c := p.recipient()
	c.Out = frame.Append(c.Out, frame.RecvAck, 0, 0, body)
}

func (p *pair) acked(f *frame.Frame, now int64) {
	r := p.run
	ack, err := packet.DecodeSendAck(f.Body)
	number := uint64(f.ReqID)
	if err != nil || number == 0 || number > p.book.Sent {
		r.fail(fmt.Errorf("SENDACK %d of pair %d, which sent %d: %w", number, p.index, p.book.Sent, asError(err)))
		return
	}
	p.book.Acked(number, ack.Seq, ack.Duplicate)
	p.highest = max(p.highest, ack.Seq)
	r.progress++
	at := p.sentAt[number&uint64(len(p.sentAt)-1)]
	if at >= r.from && at < r.to {
		r.ack.Record(now - at)
		r.spans.acked(at, now)
	}
	if r.counting {
		r.acked++
	}
	switch {
	case r.phase == opening:
		if ack.Conversation != p.conv {
			r.fail(fmt.Errorf("the conversation of pair %d is %s, not %s", p.index, ack.Conversation, p.conv))
			return
		}
		p.template(func(m *wire.Send) { m.ConversationId = p.conv[:] })
	case r.phase != loading:
	case r.Rate == 0:
		p.send(now)
	case len(p.waiting) > 0:
		p.send(p.waiting[0])
		p.waiting = p.waiting[1:]
	}
}

// asError keeps a nil *code.Error from becoming an error that isn't nil.
func asError(err *code.Error) error {
	if err == nil {
		return nil
	}
	return err
}

func (p *pair) delivered(f *frame.Frame, now int64) {
	r := p.run
	conv, _, messages, err := packet.DecodeDeliver(f.Body)
	if err != nil {
		r.fail(fmt.Errorf("DELIVER to pair %d: %w", p.index, err))
		return
	}
	if conv != p.conv {
		r.fail(fmt.Errorf("DELIVER to pair %d: of conversation %s", p.index, conv))
		return
	}
	gap := false
	for len(messages) > 0 {
		v, rest, err := packet.NextMessage(messages)
		if err != nil {
			r.fail(fmt.Errorf("DELIVER to pair %d: %w", p.index, err))
			return
		}
		messages = rest
		number, g := p.book.Delivered(&v)
		gap = gap || g
		r.progress++
		if r.counting {
			r.received++
		}
		if number == 0 {
			continue
		}
		if p.book.Sent-number >= uint64(len(p.sentAt)) {
			r.untimed++
			continue
		}
		if at := p.sentAt[number&uint64(len(p.sentAt)-1)]; at >= r.from && at < r.to {
			r.delivery.Record(now - at)
			r.spans.delivered(at, now)
		}
	}
	if gap {
		p.pull()
	}
}

// other handles the frames that aren't hot.
func (c *end) other(f *frame.Frame, now int64) {
	r, p := c.p.run, c.p
	switch f.Type {
	case frame.Connack:
		ack, err := c.connack(f)
		if err != nil {
			r.fail(err)
			return
		}
		if r.limits == nil {
			r.limits = ack.Limits
			r.wallMS = int64(ack.ServerTime) - now/int64(time.Millisecond)
			r.silence = time.Duration(max(ack.HeartbeatSeconds, 3)) * time.Second
		}
		r.ready++
	case frame.Synced:
		p.synced(f)
	case frame.Hint:
		r.hints++
		p.pull()
	case frame.Error:
		if f.HasReqID() && c.ready {
			p.refusal(c, f, now)
			return
		}
		r.fail(c.ended(f))
	case frame.Drain, frame.Kick:
		r.fail(c.ended(f))
	}
}

// refusal handles the ERROR that answers a SEND or a SYNC.
func (p *pair) refusal(c *end, f *frame.Frame, now int64) {
	r := p.run
	e := c.refusal(f)
	r.spans.refuse()
	if c.sender {
		r.refusals[e.Code]++
		p.refused++
		return
	}
	if e.Code.Class() == code.Terminal {
		r.fail(fmt.Errorf("SYNC of pair %d: %w", p.index, e))
		return
	}
	r.again++
	r.retries = append(r.retries, retry{now + int64(max(e.RetryAfter, 50*time.Millisecond)), p})
}

// template is the body of a sender's SENDs, in which only id and content change. Both have
// a fixed length and stand where the generated codec puts them.
type template struct {
	body          []byte
	idAt, content int
	salt          uint16
	sender        int
}

// newTemplate makes one for contents of so many bytes; sender is the number in ids and contents.
func newTemplate(content int, salt uint16, sender int, address func(*wire.Send)) (template, error) {
	text := make([]byte, content)
	verify.FillBody(text, sender, 0)
	var mid [16]byte
	verify.PutID(&mid, 0, salt, sender, 0)
	m := wire.Send{ClientMsgId: mid[:], MsgType: 1, Content: string(text)}
	address(&m)
	body, err := m.Marshal(nil)
	if err != nil {
		return template{}, fmt.Errorf("encode a SEND: %w", err)
	}
	m.MsgType, m.Content = 0, ""
	before, err := m.Marshal(nil) // address and id alone: the id is its end
	if err != nil {
		return template{}, fmt.Errorf("encode a SEND: %w", err)
	}
	return template{body: body, idAt: len(before) - 16, content: len(body) - len(text), salt: salt, sender: sender}, nil
}

// append puts the SEND of a number, with an id of that Unix millisecond, behind out.
func (t *template) append(out []byte, reqID uint32, ms int64, number uint64) []byte {
	out = frame.AppendHeader(out, frame.Send, frame.FlagRequestID, reqID, len(t.body))
	i := len(out)
	out = append(out, t.body...)
	verify.PutID((*[16]byte)(out[i+t.idAt:]), ms, t.salt, t.sender, number)
	verify.FillBody(out[i+t.content:], t.sender, number)
	return out
}
