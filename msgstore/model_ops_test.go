package msgstore_test

import (
	"bytes"
	"slices"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// trim removes the oldest messages.
func (m *model) trim(c id.ConversationID) {
	d := m.data[c]
	stored := d.head.LastSeq + 1 - d.head.FirstSeq
	if stored < 40 {
		return
	}
	keep := d.head.FirstSeq + m.rng.Uint64N(stored/2)
	h, raw, err := m.timeline().Head(m.ctx, c)
	m.must(err)
	p := &prepared{owner: 0, c: c, old: raw, h: h, apply: func(*modelConversation) {}}
	_, err = m.timeline().Trim(m.ctx, &p.tx, c, raw, &p.h, keep, 1+m.rng.IntN(20))
	m.must(err)
	if len(p.tx.Ops()) == 0 {
		return
	}
	p.raw = p.h.Append(nil)
	m.commit(p)
	if p.tx.Err == nil {
		if p.h.FirstSeq > keep || p.h.FirstSeq <= h.FirstSeq {
			m.t.Errorf("trimmed to %d, to keep %d", p.h.FirstSeq, keep)
		}
		if msgs, _, _, err := m.timeline().Before(m.ctx, c, p.h.FirstSeq, 1, 0); err != nil || msgs != nil {
			m.t.Errorf("below the first: %x, %v", msgs, err)
		}
	}
}

// merge puts small segments together, which changes nothing that anybody reads.
func (m *model) merge() {
	s := NewSweeper(SweeperConfig{Store: m.store, Keys: m.keys, Now: func() int64 { return m.now }, Logger: quiet})
	since := m.now - m.rng.Int64N(1000*3_600_000)
	for range 100 {
		_, done, err := s.SweepSmall(m.ctx, since, m.now-m.rng.Int64N(3_600_000), 1+m.rng.IntN(5))
		if err != nil {
			m.allowed(err)
		}
		m.flush()
		if done {
			return
		}
	}
}

// recall appends a message that changes an earlier one.
func (m *model) recall(owner int, c id.ConversationID) {
	o := m.cached(owner, c)
	d := m.data[c]
	if o.h.LastSeq != d.head.LastSeq || o.h.FirstSeq != d.head.FirstSeq || o.h.LastSeq < o.h.FirstSeq {
		return // the rewrite of what a stale owner believes in is another test's
	}
	target := o.h.FirstSeq + m.rng.Uint64N(o.h.LastSeq+1-o.h.FirstSeq)
	old := d.messages[target-1]
	v, _, err := packet.NextMessage(old.element)
	m.must(err)
	counts := old.counts && m.rng.IntN(2) == 0
	content := bytes.Repeat([]byte("y"), m.rng.IntN(6000))
	element := packet.AppendChanged(nil, target, v.ID, old.sender, o.h.LastSeq+1, 0, makeTail(old.cid, v.Type, content))
	p := m.prepareAppend(owner, c, 1, func(p *prepared) {
		m.must(m.timeline().Rewrite(m.ctx, &p.tx, c, target, element, counts))
	})
	apply := p.apply
	p.apply = func(d *modelConversation) {
		d.messages[target-1].element, d.messages[target-1].counts = element, counts
		apply(d)
	}
	m.commit(p)
}

// join makes a user a member, or takes the membership away: the user's side first, the
// conversation after.
func (m *model) join(owner int, c id.ConversationID) {
	user := pick(m.rng, m.users)
	d := m.data[c]
	member := d.members[user]
	member.Intervals = slices.Clone(member.Intervals)
	o := m.cached(owner, c)
	leaving := member.Active()
	last := o.h.LastSeq + 1 // the message of the change
	if leaving {
		iv := &member.Intervals[len(member.Intervals)-1]
		if iv.Left = last; iv.Left < iv.Joined {
			return
		}
	} else {
		if n := len(member.Intervals); n > 0 && last <= member.Intervals[n-1].Left || n > 20 {
			return
		}
		member.Intervals = append(member.Intervals, Interval{Joined: last})
		m.putSide(user, c, UserSide{AsOfSeq: min(o.h.LastSeq, d.head.LastSeq), Changed: m.now})
	}
	p := m.prepareAppend(owner, c, 1, func(p *prepared) {
		NewMembers(m.store, m.keys).Put(&p.tx, c, user, &member)
	})
	apply := p.apply
	done := false
	p.apply = func(d *modelConversation) {
		d.members[user] = member
		apply(d)
		done = true
	}
	m.commit(p)
	if done && leaving {
		m.leave(user, c, last)
	}
}

func (m *model) putSide(user id.UserID, c id.ConversationID, row UserSide) {
	m.retry(func(tx *kv.Tx) { NewInbox(m.store, m.keys).Put(tx, user, c, &row) })
	m.sides[sideKey{user, c}] = row
}

// retry commits what is safe to repeat.
func (m *model) retry(fill func(tx *kv.Tx)) {
	m.t.Helper()
	for {
		var tx kv.Tx
		fill(&tx)
		if len(tx.Ops()) == 0 {
			return
		}
		m.store.Commit(m.ctx, &tx)
		if tx.Err == nil {
			m.flush()
			return
		}
		m.allowed(tx.Err)
	}
}

// flush has commits that would come later come now: for rows that nothing fences.
func (m *model) flush() {
	if m.faults != nil {
		m.faults.Settle()
	}
}

func (m *model) leave(user id.UserID, c id.ConversationID, left uint64) {
	inbox := NewInbox(m.store, m.keys)
	want := m.sides[sideKey{user, c}]
	for {
		_, raw, err := inbox.Get(m.ctx, user, c)
		m.must(err)
		var tx kv.Tx
		ok, err := inbox.Leave(&tx, user, c, raw, left, m.now)
		m.must(err)
		if ok != (raw != nil && want.AsOfSeq < left) {
			m.t.Errorf("tombstone at %d over a row as of %d: %v", left, want.AsOfSeq, ok)
		}
		if !ok {
			return
		}
		m.store.Commit(m.ctx, &tx)
		if tx.Err == nil {
			break
		}
		m.allowed(tx.Err)
		m.flush()
		if row, _, err := inbox.Get(m.ctx, user, c); err == nil && row.Tombstone {
			break
		}
	}
	m.flush()
	want.AsOfSeq, want.Changed, want.Tombstone = left, m.now, true
	m.sides[sideKey{user, c}] = want
}

func (m *model) side(c id.ConversationID) {
	user := pick(m.rng, m.users)
	row, ok := m.sides[sideKey{user, c}]
	if !ok || row.Tombstone {
		return
	}
	last := m.data[c].head.LastSeq
	row.Pinned, row.Muted, row.Changed = m.rng.IntN(2) == 0, m.rng.IntN(2) == 0, m.now
	row.HiddenSeq = m.rng.Uint64N(last + 1)
	m.putSide(user, c, row)
}

func (m *model) cursor(c id.ConversationID) {
	d := m.data[c]
	user := pick(m.rng, m.users)
	cur := d.cursors[user]
	cur.ReadSeq += m.rng.Uint64N(d.head.LastSeq + 1 - cur.ReadSeq)
	cur.RecvSeq = max(cur.RecvSeq, cur.ReadSeq)
	cur.RecvSeq += m.rng.Uint64N(d.head.LastSeq + 1 - cur.RecvSeq)
	n, err := m.timeline().CountableAt(m.ctx, c, cur.ReadSeq)
	m.must(err)
	cur.ReadCountable = min(n, cur.ReadSeq)
	cur.Changed = m.now
	m.retry(func(tx *kv.Tx) { putCursor(tx, m.keys, c, user, &cur) })
	d.cursors[user] = cur
}

// sweep removes old ids, and references that a consumer is done with.
func (m *model) sweep() {
	m.flush()
	before := m.now - IDWindow.Milliseconds()
	// Passes that fail leave work and no damage to the one that doesn't.
	if m.faults != nil {
		_, _, err := m.sweeper.SweepIDs(m.ctx, before, 6)
		if err != nil {
			m.allowed(err)
		}
		m.flush()
	}
	calm := NewSweeper(SweeperConfig{Store: m.inner, Keys: m.keys})
	for done := false; !done; {
		var err error
		_, done, err = calm.SweepIDs(m.ctx, before, 1+m.rng.IntN(5))
		m.must(err)
	}
	m.floor = max(m.floor, before/1000)
	for c, d := range m.data {
		if !d.exists {
			continue
		}
		h, _, err := m.timeline().Head(m.ctx, c)
		m.must(err)
		if h.IDFloor < d.head.IDFloor || h.IDFloor > (before/1000)*1000 {
			m.t.Errorf("ids swept up to %d, before %d", h.IDFloor, before)
		}
		d.head.IDFloor = h.IDFloor
	}
	if !m.store.Stamps() {
		return
	}
	var at uint64
	prefix := m.keys.BusRefs(nil, 0)
	m.must(m.store.Scan(m.ctx, kv.Span{Start: prefix, End: append(bytes.Clone(prefix), 0xFF), Reverse: true, Limit: 2}, func(key, _ []byte) (bool, error) {
		at = stampOf(key)
		return true, nil
	}))
	m.retry(func(tx *kv.Tx) { tx.Set(m.keys.BusPosition(nil, "fanout", 0), AppendBusPosition(nil, at)) })
	if _, err := m.sweeper.SweepBusLog(m.ctx, 0); err != nil {
		m.allowed(err)
	}
}

// cursorOf reads a cursor as its row is; without one it is zero.
func cursorOf(store kv.Store, keys Keys, c id.ConversationID, user id.UserID) (Cursor, error) {
	raw, err := store.Get(ctx, keys.Cursor(nil, c, user))
	if err != nil || raw == nil {
		return Cursor{}, err
	}
	return ParseCursor(raw)
}

func putCursor(tx *kv.Tx, keys Keys, c id.ConversationID, user id.UserID, cur *Cursor) {
	tx.Set(keys.Cursor(nil, c, user), cur.Append(nil))
}
