package gochat

import (
	"slices"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

const (
	maxAside   = 256 // messages of one conversation that wait for earlier ones
	maxRanges  = 32  // of one SYNC, fewer while the server finds them too many
	maxPulls   = 4   // SYNCs under way
	acksAFrame = 256 // entries of one RECVACK
)

// conversation is where one conversation stands. Guarded by Client.mu.
type conversation struct {
	id   id.ConversationID
	peer id.UserID

	known   bool   // the numbers below hold
	asking  bool   // how it stands was asked, and is not answered yet
	applied uint64 // given to the Handler's queue, or will never come
	done    uint64 // the Handler has had it: what is stored, and what RECVACK tells
	acked   uint64
	head    uint64 // the last seq heard of
	told    uint64 // the last seq when the server last said how the conversation stands, or was asked to
	left    uint64 // where the user was taken out of it, or left; 0: is in, as far as is known

	aside   map[uint64]Message // above applied + 1
	gapAt   time.Time          // a hole is pulled then
	pulling bool
	wait    time.Time // the server wants no SYNC of it before

	nicknames map[id.UserID]string // of a group's members, as far as they are known
}

// pull is a SYNC under way: for these conversations, or for a search.
type pull struct {
	convs    map[id.ConversationID]*conversation
	answered int // ranges that could be read
	search   *search
}

func (c *Client) conversation(conv id.ConversationID) *conversation {
	v := c.convs[conv]
	if v == nil {
		v = &conversation{id: conv}
		c.convs[conv] = v
	}
	return v
}

// meet sets where a conversation begins for this device when it is heard of for the
// first time, by its message seq.
func (c *Client) meet(v *conversation, seq uint64) {
	v.known = true
	switch n := c.cfg.Backlog; {
	case n < 0:
		v.applied = seq - 1
	case n > 0 && seq > uint64(n):
		v.applied = seq - uint64(n)
	}
	v.done, v.acked = v.applied, v.applied
}

// encounter meets a conversation of which a message came, or was told of, before how it stands did: it is new, or it was
// hidden, or left, when the device came. What messages don't tell is asked for: what the user set, and has read, and of a
// group its name and the user's role. Of the first message of a direct conversation there is nothing to ask.
func (c *Client) encounter(v *conversation, seq uint64) {
	c.meet(v, seq)
	if k := v.id.Kind(); k == id.KindGroup || k == id.KindDirect && seq > 1 {
		c.askState(v.id)
		v.told = seq
	}
}

// forget drops all that is known of conversations: another epoch.
func (c *Client) forget() {
	for conv, v := range c.convs {
		c.convs[conv] = &conversation{id: conv, peer: v.peer}
	}
	clear(c.behind)
	clear(c.unacked)
	clear(c.people.by)
	c.forgetRooms()
	for _, o := range c.receipts {
		o.Base = 0
	}
	c.resetOwed = true
	clear(c.owed)
	if err := c.repayReset(); err != nil {
		c.log.Error("forgetting the cursors", "error", err)
	}
}

// look keeps v among those that miss something while it does.
func (c *Client) look(v *conversation) {
	if v.applied < v.head {
		c.behind[v.id] = v
		return
	}
	v.gapAt = time.Time{}
	delete(c.behind, v.id)
}

// settle stores v and has it told to the server.
func (c *Client) settle(v *conversation) {
	if err := c.keep(v); err != nil {
		c.log.Error("storing a cursor", "conversation", v.id.String(), "error", err)
	}
	if v.done > v.acked {
		c.unacked[v.id] = v
	}
}

// keep stores v's cursor, which is owed until that is done.
func (c *Client) keep(v *conversation) error {
	err := c.repayReset() // it would take the cursor away again
	if err == nil {
		err = c.store.SetCursor(v.id, Cursor{Applied: v.done, Head: v.head})
	}
	if err != nil {
		c.owed[v.id] = v
		return err
	}
	delete(c.owed, v.id)
	return nil
}

func (c *Client) repayReset() error {
	if !c.resetOwed {
		return nil
	}
	err := c.store.ResetCursors()
	c.resetOwed = err != nil
	return err
}

// repay stores what the store has refused so far, until it refuses again.
func (c *Client) repay() error {
	if err := c.repayReset(); err != nil {
		return err
	}
	for _, v := range c.owed {
		if err := c.keep(v); err != nil {
			return err
		}
	}
	return nil
}

// delivered acts on a DELIVER.
func (c *Client) delivered(body []byte) error {
	conv, users, messages, err := packet.DecodeDeliver(body)
	if err != nil {
		return err
	}
	v := c.conversation(conv)
	if len(users[0]) > 0 {
		v.peer = peerOf(c.me, []id.UserID{id.UserID(users[0]), id.UserID(users[1])})
	}
	for len(messages) > 0 {
		var m packet.MessageView
		if m, messages, err = packet.NextMessage(messages); err != nil {
			return err
		}
		if !v.known {
			c.encounter(v, m.Seq)
		}
		c.arrive(v, &m)
	}
	return nil
}

// claim ends the own message that this one is, if it waits for its ack: what is in the
// timeline is stored.
func (c *Client) claim(conv id.ConversationID, m *packet.MessageView) {
	if string(m.Sender) != string(c.me) {
		return
	}
	if o := c.receipts[m.ClientMsgID]; o != nil && o.Conversation == conv {
		c.stored(o, Ack{Conversation: conv, Seq: m.Seq, MessageID: m.ID})
	}
}

// arrive takes in a message that came by whatever way.
func (c *Client) arrive(v *conversation, m *packet.MessageView) {
	c.claim(v.id, m)
	v.head = max(v.head, m.Seq)
	defer c.look(v)
	if m.Seq <= v.applied || c.full() {
		return
	}
	if m.Seq > v.applied+1 {
		if v.gapAt.IsZero() {
			v.gapAt = time.Now().Add(c.cfg.GapWait)
		}
		if _, ok := v.aside[m.Seq]; !ok && len(v.aside) < maxAside {
			if msg, err := messageOf(m.Raw, v.id, c.me, v.peer); err == nil {
				if v.aside == nil {
					v.aside = map[uint64]Message{}
				}
				v.aside[m.Seq] = msg
			}
		}
		return
	}
	msg, err := messageOf(m.Raw, v.id, c.me, v.peer)
	if err != nil { // checked before
		c.log.Error("a message that can't be read", "conversation", v.id.String(), "seq", m.Seq, "error", err)
		c.skip(v, m.Seq)
		return
	}
	c.take(v, msg)
	c.takeAside(v)
}

func (c *Client) take(v *conversation, m Message) {
	v.applied = m.Seq
	c.pushMessage(v, m)
	if v.left != 0 && m.Seq > v.left { // back again
		v.left, v.told = 0, max(v.told, m.Seq)
		c.askState(v.id)
	}
	if w, ok := m.Membership(); ok && m.Seq > v.told {
		mine, out := slices.Contains(w.Users, c.me), w.Do == "leave" || w.Do == "remove"
		switch {
		case mine && out:
			v.left = m.Seq
		case mine:
			c.askState(v.id) // brought in, or given another role
			v.told = m.Seq
		case out && w.Count > len(w.Users) && c.link != nil:
			c.link.doubt(v.id, jitter(maxDoubt)) // one of those who aren't named?
		}
	}
	if nick, ok := m.Nickname(); ok {
		v.nicknamed(m.Sender, nick)
	}
}

// takeAside takes what follows without a hole.
func (c *Client) takeAside(v *conversation) {
	for len(v.aside) > 0 && !c.full() {
		m, ok := v.aside[v.applied+1]
		if !ok {
			break
		}
		delete(v.aside, m.Seq)
		c.take(v, m)
	}
	for seq := range v.aside {
		if seq <= v.applied {
			delete(v.aside, seq)
		}
	}
	if len(v.aside) == 0 {
		v.aside = nil
	}
}

// skip goes past seqs that will never come.
func (c *Client) skip(v *conversation, to uint64) {
	if to > v.applied {
		v.applied = to
		v.head = max(v.head, to)
		c.pushSkip(v, to)
	}
}

// pullDue asks for what is missing, as far as it is time, and returns when to look again.
func (c *Client) pullDue(l *link, now time.Time) (next time.Time) {
	next = now.Add(time.Hour)
	if c.waiting > c.cfg.Queue/2 || l.pulls >= maxPulls {
		return next // woken by the Handler's progress, or the answer
	}
	var ranges []*wire.SyncRange
	p := &pull{convs: map[id.ConversationID]*conversation{}}
	for conv, v := range c.behind {
		if v.pulling {
			continue
		}
		due := v.gapAt
		if v.wait.After(due) {
			due = v.wait
		}
		if now.Before(due) {
			if due.Before(next) {
				next = due
			}
			continue
		}
		if len(ranges) == l.ranges {
			next = now
			break
		}
		r := &wire.SyncRange{ConversationId: append([]byte(nil), conv[:]...), FromSeq: v.applied + 1}
		for seq := range v.aside {
			if r.ToSeq == 0 || seq <= r.ToSeq {
				r.ToSeq = seq - 1
			}
		}
		ranges = append(ranges, r)
		p.convs[conv] = v
		v.pulling = true
	}
	if len(ranges) == 0 {
		return next
	}
	b, err := packet.AppendBody(l.out, frame.Sync, frame.FlagRequestID, l.request(p), &wire.Sync{Ranges: ranges})
	if err == nil {
		l.out = b
		l.pulls++
	}
	return next
}

// synced acts on one range of a SYNC's answer.
func (c *Client) synced(l *link, f *frame.Frame) error {
	w, _ := c.answered(l, f).(*pull)
	if w == nil {
		return nil
	}
	p, refused, err := packet.DecodeSynced(f.Body)
	if err != nil {
		return err
	}
	if w.search != nil {
		for b := p.Messages; len(b) > 0; {
			m, rest, err := packet.NextMessage(b)
			if err != nil {
				return err
			}
			c.claim(w.search.conv, &m)
			b = rest
		}
		c.searched(w.search, &p, refused)
		return nil
	}
	if f.Flags&frame.FlagMore == 0 {
		l.pulls--
	}
	v := w.convs[p.Conversation]
	delete(w.convs, p.Conversation)
	if v == nil || c.convs[v.id] != v {
		return nil
	}
	v.pulling = false
	if refused != nil {
		if refused.Code == code.Overloaded {
			l.ranges = max(w.answered, 1)
		}
		c.unreadable(v, refused)
		return nil
	}
	w.answered++
	l.ranges = min(l.ranges+1, maxRanges)
	return c.page(v, &p)
}

// page takes in what a range holds: the seqs that it leaves out will never come.
func (c *Client) page(v *conversation, p *packet.Page) error {
	before := v.applied
	if p.FromSeq <= before+1 && p.FirstSeq > before+1 {
		c.push(MessagesGone{Conversation: v.id, FirstSeq: p.FirstSeq})
	}
	if len(p.Users) == 2 {
		v.peer = peerOf(c.me, p.Users)
	}
	for b := p.Messages; len(b) > 0; {
		m, rest, err := packet.NextMessage(b)
		if err != nil {
			return err
		}
		b = rest
		if c.full() {
			break
		}
		if p.FromSeq <= v.applied+1 && m.Seq > v.applied+1 {
			c.skip(v, m.Seq-1)
		}
		c.arrive(v, &m)
	}
	if !c.full() && p.FromSeq <= v.applied+1 {
		c.skip(v, p.ToSeq)
	}
	c.takeAside(v)
	v.gapAt = time.Time{} // what is still missing is asked for at once
	switch {
	case p.ToSeq < p.FromSeq: // nothing there: whoever told of a later head was wrong, or ahead of this answer
		v.head = max(v.applied, p.LastSeq)
		if v.applied == before && v.applied < v.head {
			v.wait = time.Now().Add(time.Second)
		}
	default:
		v.head = max(v.head, p.LastSeq)
	}
	c.look(v)
	return nil
}

// unreadable acts on a conversation that could not be synced.
func (c *Client) unreadable(v *conversation, e *code.Error) {
	if e.Code.Class() == code.Terminal { // not the user's any more
		c.log.Warn("a conversation can't be read", "conversation", v.id.String(), "error", e)
		v.head, v.aside = v.applied, nil
		c.look(v)
		c.settle(v)
		return
	}
	v.wait = time.Now().Add(max(retryAfter(e), time.Second/2))
}

// pullRefused acts on the ERROR that a SYNC got.
func (c *Client) pullRefused(l *link, p *pull, e *code.Error) {
	if p.search != nil {
		c.searched(p.search, &packet.Page{}, e)
		return
	}
	l.pulls--
	for _, v := range p.convs {
		v.pulling = false
		if c.convs[v.id] == v {
			c.unreadable(v, e)
		}
	}
}

// appendRecvAcks queues what the Handler has had since the last time.
func (c *Client) appendRecvAcks(l *link) {
	var body []byte
	n := 0
	flush := func() {
		if n > 0 {
			l.out = frame.Append(l.out, frame.RecvAck, 0, 0, body)
			body, n = body[:0], 0
		}
	}
	for conv, v := range c.unacked {
		body = packet.AppendConversationSeq(body, conv, v.done)
		v.acked = v.done
		l.acked[v] = struct{}{}
		if n++; n == acksAFrame {
			flush()
		}
	}
	flush()
	clear(c.unacked)
}
