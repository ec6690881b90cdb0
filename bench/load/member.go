package load

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// member is the connection of one member.
type member struct {
	session
	r      *groupRun
	index  int
	lane   *groupLane // nil: this one doesn't send
	copies *verify.Copies
	slow   bool

	got    verify.Received
	told   uint64 // seq of the latest RECVACK
	behind uint64 // got.Mark when it was last looked at; 0: it had everything then
	asking asking
	again  bool // something new called for a pull during one
	syncID uint32
	from   uint64 // where the SYNC under way begins

	gone  bool // a slow one's connection was ended by the server
	awake bool // a slow one reads again
	whole bool // and holds everything
}

// begin lets the member's books start above seq base.
func (m *member) begin(base uint64) { m.got.Mark, m.told = base, base }

// send puts the lane's next message into the buffer; at is the time its latency counts from.
func (l *groupLane) send(at int64) {
	r := l.m.r
	number := r.book.Send(l.index)
	l.sentAt[number&uint64(len(l.sentAt)-1)] = at
	l.m.Out = l.template.append(l.m.Out, uint32(number), r.wallMS+at/int64(time.Millisecond), number)
	l.unacked++
	r.under++
	if r.counting {
		r.sent++
	}
}

// sendDue sends a message of the schedule, or keeps it until the server allows one more under way.
func (l *groupLane) sendDue(at int64) {
	if most := l.m.r.limits.MaxInflight; most > 0 && l.unacked >= uint64(most) {
		l.waiting = append(l.waiting, at)
		return
	}
	l.send(at)
}

// Connected implements loop.Handler.
func (m *member) Connected() {
	if err := m.connect(0); err != nil {
		m.r.fail(err)
	}
}

// Closed implements loop.Handler.
func (m *member) Closed(err error) {
	if m.mayGo() {
		return
	}
	m.r.fail(fmt.Errorf("the connection of %s ended: %w", m.user, err))
}

// mayGo notes the end of a connection that the server is right to end: of somebody who didn't read.
func (m *member) mayGo() bool {
	if !m.slow || m.r.phase < loading || m.awake && m.gone {
		return false
	}
	if !m.gone {
		m.gone = true
		m.r.cut++
	}
	if m.awake {
		m.redial()
	}
	return true
}

// Input implements loop.Handler.
func (m *member) Input(b []byte) int {
	r := m.r
	now := r.loop.Now()
	used := 0
	delivered := false
	for {
		f, n, err := frame.Parse(b[used:], maxFrame)
		if err != nil {
			r.fail(fmt.Errorf("a frame to %s: %w", m.user, err))
			return len(b)
		}
		if n == 0 {
			break
		}
		used += n
		switch f.Type {
		case frame.Deliver:
			m.delivered(f.Body, now)
			delivered = true
		case frame.SendAck:
			m.acked(&f, now)
		default:
			m.other(&f, now)
		}
	}
	if delivered && r.RecvAck == 0 {
		m.recvAck()
	}
	return used
}

func (m *member) recvAck() {
	if m.told >= m.got.Mark || !m.Alive() {
		return
	}
	var ack [32]byte
	m.told = m.got.Mark
	m.Out = frame.Append(m.Out, frame.RecvAck, 0, 0, packet.AppendConversationSeq(ack[:0], m.r.conv, m.told))
}

// delivered takes one DELIVER.
func (m *member) delivered(body []byte, now int64) {
	r := m.r
	if r.base == 0 {
		return // of a change of the group that is being made
	}
	d := r.cache.slot(body)
	if !d.is(body) && !r.read(d, body) {
		return
	}
	if d.last <= r.base {
		return
	}
	first := max(d.first, r.base+1)
	n := int64(d.last - first + 1)
	r.progress++
	before := m.got.Mark
	due, _ := m.got.Missing()
	fresh := m.got.AddRange(first, d.last)
	m.copies.Delivered += fresh
	if r.counting {
		r.received += n
	}
	if fresh < uint64(n) {
		m.copies.Repeats += uint64(n) - fresh - m.own(first, d.last, before)
	}
	if t := r.now; t != nil && fresh > 0 && !m.slow && d.at >= t.from && d.at < t.to {
		t.delivery.RecordN(now-d.at, int64(fresh))
	}
	if m.got.Mark != before {
		m.moved(before, now)
	} else if due == 0 && fresh > 0 && m.lane == nil {
		// A sender's own messages may be left out, and their acks may come later.
		m.copies.Gaps++
		m.pull()
	}
}

// own returns how many of first..last this member itself sent and knew of by their acks:
// that their copies come, too, is no repeat.
func (m *member) own(first, last, mark uint64) (n uint64) {
	if m.lane == nil {
		return 0
	}
	for seq := first; seq <= last; seq++ {
		if s := &m.r.sends[seq&(reach-1)]; s.seq == seq && s.acked && s.sender == m.lane.index {
			n++
		}
	}
	return n
}

// delivery is what one DELIVER of the group says. All members get the same bytes, so each
// frame is read and checked once, and then compared.
type delivery struct {
	body        []byte
	first, last uint64 // seqs; without a hole
	at          int64  // when the first one was sent
}

// frames holds the deliveries seen lately.
type frames [256]delivery

// slot is where a DELIVER's body may be found: by the bytes in which its first seq lies.
func (f *frames) slot(body []byte) *delivery {
	const seqAt = 20 // behind the conversation's 18 bytes, the first message's tag and a byte of its length
	if len(body) < seqAt+8 {
		return &f[0]
	}
	return &f[binary.LittleEndian.Uint64(body[seqAt:])*0x9E3779B97F4A7C15>>56]
}

// is reports whether d was read from the same bytes.
func (d *delivery) is(body []byte) bool { return d.last != 0 && bytes.Equal(d.body, body) }

// read reads and checks a frame that is seen for the first time; false: it isn't one of the group's.
func (r *groupRun) read(d *delivery, body []byte) bool {
	conv, _, messages, err := packet.DecodeDeliver(body)
	if err != nil {
		r.fail(fmt.Errorf("DELIVER: %w", err))
		return false
	}
	if conv != r.conv {
		r.fail(fmt.Errorf("DELIVER of conversation %s", conv))
		return false
	}
	d.first, d.last, d.at = 0, 0, 0
	for len(messages) > 0 {
		v, rest, err := packet.NextMessage(messages)
		if err == nil && d.last != 0 && v.Seq != d.last+1 {
			err = fmt.Errorf("seq %d behind %d", v.Seq, d.last)
		}
		if err != nil {
			r.fail(fmt.Errorf("DELIVER: %w", err))
			return false
		}
		messages, d.last = rest, v.Seq
		if d.first == 0 {
			d.first = v.Seq
		}
		if v.Seq <= r.base {
			continue
		}
		if at := r.shown(&v); d.at == 0 {
			d.at = at
		}
	}
	d.body = append(d.body[:0], body...)
	return d.last != 0
}

// shown checks a message that somebody received and returns when it was sent.
func (r *groupRun) shown(v *packet.MessageView) (at int64) {
	sender, number := r.book.Shown(v)
	if number == 0 {
		return 0
	}
	l := &r.lanes[sender]
	if r.book.Sent(sender)-number < uint64(len(l.sentAt)) {
		at = l.sentAt[number&uint64(len(l.sentAt)-1)]
	}
	return at
}

// moved goes on after the member's mark has risen.
func (m *member) moved(before uint64, now int64) {
	r := m.r
	if m.slow {
		if m.awake {
			m.settled()
		}
		return
	}
	low := r.front.Low()
	rose, ok := r.front.Move(before, m.got.Mark)
	if !ok {
		r.fail(fmt.Errorf("%s has seq %d, another member only %d", m.user, m.got.Mark, low))
		return
	}
	if !rose {
		return
	}
	var last *groupLane
	for seq := low + 1; seq <= r.front.Low(); seq++ {
		s := &r.sends[seq&(reach-1)]
		if s.seq != seq || !s.acked {
			continue // it leaves with its ack
		}
		l := &r.lanes[s.sender]
		if last != nil && l != last {
			last.m.Flush()
		}
		last = l
		r.leave(s, now)
	}
	if last != nil {
		last.m.Flush()
	}
}

// leave ends a message: it is acked, and everybody who reads has it.
func (r *groupRun) leave(s *groupSend, now int64) {
	r.under--
	if t := r.now; t != nil && s.at >= t.from && s.at < t.to {
		t.whole.Record(now - s.at)
	}
	if r.phase == loading && r.Rate == 0 {
		r.lanes[s.sender].send(now)
	}
}

func (m *member) acked(f *frame.Frame, now int64) {
	r, l := m.r, m.lane
	ack, err := packet.DecodeSendAck(f.Body)
	number := uint64(f.ReqID)
	if err != nil || l == nil || number == 0 || number > r.book.Sent(l.index) || ack.Seq <= r.base {
		r.fail(fmt.Errorf("SENDACK %d of %s says seq %d: %w", number, m.user, ack.Seq, asError(err)))
		return
	}
	r.book.Acked(l.index, number, ack.Seq, ack.Duplicate)
	r.highest = max(r.highest, ack.Seq)
	r.progress++
	l.unacked--
	at := l.sentAt[number&uint64(len(l.sentAt)-1)]
	if t := r.now; t != nil && at >= t.from && at < t.to {
		t.ack.Record(now - at)
	}
	if r.counting {
		r.acked++
	}
	s := &r.sends[ack.Seq&(reach-1)]
	*s = groupSend{seq: ack.Seq, at: at, sender: l.index, acked: true}
	if ack.Seq <= r.front.Low() {
		r.leave(s, now) // everybody has had it already, its sender by DELIVER
	} else {
		before := m.got.Mark
		if m.got.AddRange(ack.Seq, ack.Seq) == 1 {
			m.copies.Delivered++
		}
		if m.got.Mark != before {
			m.moved(before, now)
		}
	}
	if len(l.waiting) > 0 {
		l.send(l.waiting[0])
		l.waiting = l.waiting[1:]
	}
}

// other handles the frames that aren't hot.
func (m *member) other(f *frame.Frame, now int64) {
	r := m.r
	switch f.Type {
	case frame.Connack:
		ack, err := m.connack(f)
		if err != nil {
			r.fail(err)
			return
		}
		if r.limits == nil {
			r.limits = ack.Limits
			r.wallMS = int64(ack.ServerTime) - now/int64(time.Millisecond)
			r.silence = time.Duration(max(ack.HeartbeatSeconds, 3)) * time.Second
		}
		if m.awake { // it came back
			m.pull()
			return
		}
		m.Shrink()
		r.ready++
	case frame.Synced:
		m.synced(f, now)
	case frame.Response:
		r.made(f)
	case frame.Hint:
		m.copies.Hints++
		if r.base != 0 {
			m.pull()
		}
	case frame.Error:
		if f.HasReqID() && m.ready {
			m.refused(f, now)
			return
		}
		fallthrough
	case frame.Drain, frame.Kick:
		if f.Type == frame.Error && m.ready && m.mayGo() {
			return
		}
		r.fail(m.ended(f))
	}
}

// refused handles the ERROR that answers a SEND, a SYNC or a REQUEST.
func (m *member) refused(f *frame.Frame, now int64) {
	r := m.r
	e := m.refusal(f)
	wait := now + int64(max(e.RetryAfter, 50*time.Millisecond))
	switch {
	case r.phase == making:
		if e.Code.Class() != code.RetrySame {
			r.fail(fmt.Errorf("making the group: %w", e))
			return
		}
		r.retries = append(r.retries, groupRetry{wait, r.ask})
	case m.asking != nothing && f.ReqID == m.syncID|syncIDs:
		if e.Code.Class() == code.Terminal {
			r.fail(fmt.Errorf("SYNC of %s: %w", m.user, e))
			return
		}
		r.retries = append(r.retries, groupRetry{wait, m.sync})
	default:
		r.refusals[e.Code]++
		r.refused++
		r.under--
		if m.lane != nil {
			m.lane.unacked--
		}
	}
}

// conversationOf is what the group's id is in an answer.
func conversationOf(b []byte) (conv id.ConversationID, ok bool) {
	return conv, copy(conv[:], b) == len(conv) && len(b) == len(conv)
}
