package load

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Connected implements loop.Handler.
func (m *roomer) Connected() {
	if err := m.connect(0); err != nil {
		m.r.fail(err)
	}
}

// Closed implements loop.Handler.
func (m *roomer) Closed(err error) {
	m.r.fail(fmt.Errorf("the connection of %s ended: %w", m.user, err))
}

// Input implements loop.Handler.
func (m *roomer) Input(b []byte) int {
	r := m.r
	now := r.loop.Now()
	for used := 0; ; {
		f, n, err := frame.Parse(b[used:], maxFrame)
		if err == nil && n == 0 {
			return used
		}
		used += n
		if err == nil && f.Type == frame.Deliver {
			err = m.deliver(&f, now)
		} else if err == nil {
			err = m.other(&f, now)
		}
		if err != nil {
			r.fail(fmt.Errorf("a frame to %s: %w", m.user, err))
			return len(b)
		}
	}
}

// deliver takes one DELIVER.
func (m *roomer) deliver(f *frame.Frame, now int64) error {
	r := m.r
	if m.lane != nil {
		return nil
	}
	d := &r.cache[maphash.Bytes(r.seed, f.Body)%uint64(len(r.cache))]
	if d.last == 0 || !bytes.Equal(d.body, f.Body) {
		if err := r.read(d, f); err != nil {
			return err
		}
	}
	if d.last <= m.mark {
		r.books.Repeats += uint64(len(d.at))
		return nil
	}
	if d.first <= m.mark { // a part of it again
		r.books.Repeats += m.mark - d.first + 1
	}
	first := max(d.first, m.mark+1)
	m.missed(first-m.mark-1, d.out)
	m.mark = d.last
	n := d.last - first + 1
	r.moved += n
	r.books.Delivered += n
	some := int64(0)
	for _, at := range d.at[first-d.first:] {
		if r.within(at) {
			r.delivered.Record(now - at)
			some++
		}
	}
	if r.copies += some; some > 0 {
		r.frames++
	}
	return nil
}

// missed notes that n messages didn't come, and how many were said to be left out.
func (m *roomer) missed(n, told uint64) {
	b := &m.r.books
	b.Declared += min(n, told)
	b.Skipped += n - min(n, told)
	b.Overtold += told - min(n, told)
}

// read reads and checks a frame that is seen for the first time.
func (r *roomRun) read(d *roomFrame, f *frame.Frame) error {
	conv, _, messages, err := packet.DecodeDeliver(f.Body)
	if err != nil {
		return fmt.Errorf("DELIVER: %w", err)
	}
	if conv != r.conv || f.Flags&frame.FlagNeverPull == 0 {
		return fmt.Errorf("DELIVER of conversation %s with flags %#x", conv, f.Flags)
	}
	d.first, d.last, d.at, d.out = 0, 0, d.at[:0], packet.DeliverLeftOut(f.Body)
	for len(messages) > 0 {
		v, rest, err := packet.NextMessage(messages)
		if err == nil && d.last != 0 && v.Seq != d.last+1 {
			err = fmt.Errorf("seq %d behind %d", v.Seq, d.last)
		}
		if err != nil {
			return fmt.Errorf("DELIVER: %w", err)
		}
		if messages, d.last = rest, v.Seq; d.first == 0 {
			d.first = v.Seq
		}
		at := int64(0)
		if sender, number := r.book.Shown(&v); number > 0 {
			at = r.lanes[sender].sentAt[number%uint64(len(r.lanes[sender].sentAt))]
		}
		d.at = append(d.at, at)
	}
	if d.last == 0 {
		return fmt.Errorf("DELIVER without messages")
	}
	d.body = append(d.body[:0], f.Body...)
	return nil
}

// other handles the frames that aren't hot.
func (m *roomer) other(f *frame.Frame, now int64) error {
	r := m.r
	switch f.Type {
	case frame.Connack:
		ack, err := m.connack(f)
		if err != nil {
			return err
		}
		if r.limits == nil {
			r.limits = ack.Limits
			r.wallMS = int64(ack.ServerTime) - now/int64(time.Millisecond)
			r.heart, r.beating = loop.NewRound(now, r.Members, time.Duration(max(ack.HeartbeatSeconds, 3))*time.Second/3), true
		}
		m.Shrink()
		r.ready++
	case frame.Response:
		return m.entered(f)
	case frame.SendAck:
		return m.acked(f, now)
	case frame.Signal:
		return m.news(f)
	case frame.Hint:
		return m.hinted(f)
	case frame.Synced:
		return r.synced(f)
	case frame.Error:
		if f.HasReqID() && m.ready {
			return m.refused(f, now)
		}
		return m.ended(f)
	case frame.Drain, frame.Kick:
		return m.ended(f)
	}
	return nil
}

// hinted takes a HINT. One without the room in it makes nobody pull of the room, which all of the user's other conversations may ask for.
func (m *roomer) hinted(f *frame.Frame) error {
	h, err := packet.DecodeHint(f.Body)
	if err != nil {
		return err
	}
	for _, head := range h.Heads {
		if bytes.Equal(head.ConversationId, m.r.conv[:]) {
			m.r.books.Hints++
			return nil
		}
	}
	m.r.books.Others++
	return nil
}

// entered takes the answer to ROOM_CREATE or ROOM_JOIN.
func (m *roomer) entered(f *frame.Frame) error {
	r := m.r
	method, inner, err := packet.DecodeResponse(f.Body)
	ans := new(wire.Room)
	if err == nil {
		err = packet.DecodeAnswer(method, inner, ans)
	}
	if err != nil {
		return fmt.Errorf("the answer about the room: %w", asError(err))
	}
	conv, ok := conversationOf(ans.ConversationId)
	if !ok {
		return fmt.Errorf("the answer about the room names none")
	}
	r.base = max(r.base, ans.LastSeq)
	if r.conv = conv; f.ReqID == roomJoin && !m.in {
		m.in = true
		r.inside++
		m.Shrink()
	}
	return nil
}

func (m *roomer) acked(f *frame.Frame, now int64) error {
	r := m.r
	ack, err := packet.DecodeSendAck(f.Body)
	number := uint64(f.ReqID &^ sendIDs)
	if err != nil || m.lane == nil || number == 0 || number > r.book.Sent(m.lane.index) {
		return fmt.Errorf("SENDACK %d: %w", number, asError(err))
	}
	r.book.Acked(m.lane.index, number, ack.Seq, ack.Duplicate)
	r.highest = max(r.highest, ack.Seq)
	r.open--
	r.moved++
	if at := m.lane.sentAt[number%uint64(len(m.lane.sentAt))]; r.within(at) {
		r.ack.Record(now - at)
		r.acked++
	}
	return nil
}

// news takes what a signal says was left out.
func (m *roomer) news(f *frame.Frame) error {
	r := m.r
	s, ce := packet.DecodeSignal(f.Body)
	if ce != nil {
		return fmt.Errorf("SIGNAL: %w", ce)
	}
	if s.Kind != packet.SignalRoom || m.lane != nil {
		return nil
	}
	var news wire.RoomNews
	if err := news.Unmarshal(s.Data); err != nil {
		return fmt.Errorf("the room's news: %w", err)
	}
	if news.Code != 0 {
		return fmt.Errorf("put out of the room with code %d", news.Code)
	}
	if news.LastSeq > m.mark {
		m.missed(news.LastSeq-m.mark, news.LeftOut)
		m.mark = news.LastSeq
		r.moved++
	}
	return nil
}

// refused handles the ERROR that answers a request.
func (m *roomer) refused(f *frame.Frame, now int64) error {
	r := m.r
	e := m.refusal(f)
	switch {
	case f.ReqID&sendIDs != 0 && f.ReqID&syncIDs == 0:
		r.refusals[e.Code]++
		r.refused++
		r.open--
		return nil
	case e.Code.Class() == code.Terminal && f.ReqID == roomCreate:
		return &Refused{fmt.Sprintf("the room can't be made: %v (rooms.create)", e)}
	case e.Code.Class() == code.Terminal:
		return e
	}
	do := m.join
	if f.ReqID == roomCreate {
		do = r.create
	} else if f.ReqID&syncIDs != 0 {
		do = r.sync
	}
	r.retries = append(r.retries, groupRetry{now + int64(max(e.RetryAfter, 50*time.Millisecond)), do})
	return nil
}

// synced takes one part of the history.
func (r *roomRun) synced(f *frame.Frame) error {
	page, refused, err := packet.DecodeSynced(f.Body)
	if err != nil || refused != nil {
		return fmt.Errorf("SYNCED: %w, %v", asError(err), refused)
	}
	for messages := page.Messages; len(messages) > 0; {
		v, rest, err := packet.NextMessage(messages)
		if err != nil {
			return fmt.Errorf("SYNCED: %w", err)
		}
		messages = rest
		if r.moved++; v.Seq > r.base {
			r.book.Stored(&v)
		}
	}
	if f.Flags&frame.FlagMore != 0 {
		return nil
	}
	if page.ToSeq >= page.FromSeq {
		r.book.Answered(page.ToSeq)
	}
	if r.head = page.LastSeq; r.book.Walked() < r.head && page.ToSeq >= page.FromSeq {
		r.sync()
		return nil
	}
	r.walked = true
	return nil
}
