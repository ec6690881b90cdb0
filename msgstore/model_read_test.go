package msgstore_test

import (
	"bytes"
	"encoding/binary"
	"maps"
	"math"
	"reflect"
	"slices"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
)

func stampOf(key []byte) uint64 { return binary.BigEndian.Uint64(key[len(key)-8:]) }

// read compares one random read of a conversation with the model.
func (m *model) read(c id.ConversationID) {
	m.t.Helper()
	d := m.data[c]
	t := m.timeline()
	last := d.head.LastSeq
	limit, maxBytes := 0, 0
	if m.rng.IntN(3) > 0 {
		limit = 1 + m.rng.IntN(100)
	}
	if m.rng.IntN(3) == 0 {
		maxBytes = 1 + m.rng.IntN(20000)
	}
	seq := func() uint64 { return m.rng.Uint64N(last + 3) }
	switch m.rng.IntN(7) {
	case 0, 1:
		from, to := seq(), seq()
		if m.rng.IntN(4) == 0 {
			to = math.MaxUint64
		}
		got, first, end, err := t.Range(m.ctx, c, from, to, limit, maxBytes)
		m.must(err)
		want, wantEnd := d.rangeOf(max(from, 1), to, limit, maxBytes)
		if !bytes.Equal(got, want) || first != max(from, 1) || end != wantEnd {
			m.t.Errorf("range %d to %d of %d..%d, limit %d, %d bytes: %d bytes for %d to %d, want %d to %d",
				from, to, d.head.FirstSeq, last, limit, maxBytes, len(got), first, end, len(want), wantEnd)
		}
	case 2, 3:
		before := seq()
		if m.rng.IntN(4) == 0 {
			before = math.MaxUint64
		}
		got, first, end, err := t.Before(m.ctx, c, before, limit, maxBytes)
		m.must(err)
		want, wantFirst, wantEnd := d.before(before, limit, maxBytes)
		if !bytes.Equal(got, want) || first != wantFirst || end != wantEnd {
			m.t.Errorf("before %d of %d..%d, limit %d, %d bytes: %d bytes, %d to %d, want %d, %d to %d",
				before, d.head.FirstSeq, last, limit, maxBytes, len(got), first, end, len(want), wantFirst, wantEnd)
		}
	case 4:
		after, to, user := seq(), seq(), pick(m.rng, m.users)
		got, err := t.Unread(m.ctx, c, after, to, user, limit)
		m.must(err)
		want := 0
		for s := max(after+1, d.head.FirstSeq); s <= min(to, last) && (limit == 0 || want < limit); s++ {
			if msg := d.messages[s-1]; msg.counts && msg.sender != user {
				want++
			}
		}
		if got != want {
			m.t.Errorf("unread above %d up to %d: %d, want %d", after, to, got, want)
		}
	case 5:
		at := seq()
		got, err := t.CountableAt(m.ctx, c, at)
		m.must(err)
		// Never more than the truth; less only by the recalled ones.
		raised, recalled := uint64(0), uint64(0)
		for s := uint64(1); s <= min(at, last); s++ {
			raised += uint64(btoi(d.messages[s-1].raised))
			recalled += uint64(btoi(d.messages[s-1].raised && !d.messages[s-1].counts))
		}
		if at+1 >= d.head.FirstSeq && (got > raised || got+recalled < raised) {
			m.t.Errorf("countable at %d: %d, want %d less up to %d", at, got, raised, recalled)
		}
	case 6:
		if len(d.messages) == 0 {
			return
		}
		second := pick(m.rng, d.messages).cid.UnixMilli() / 1000
		got, err := t.IDs(m.ctx, c, second)
		m.must(err)
		var want []IDEntry
		for i, msg := range d.messages {
			if msg.cid.UnixMilli()/1000 == second && second >= m.floor {
				want = append(want, IDEntry{Hash: IDHash(msg.sender, msg.cid), Seq: uint64(i + 1), Body: msg.body})
			}
		}
		if !slices.Equal(got, want) {
			m.t.Errorf("ids of second %d: %v, want %v", second, got, want)
		}
	}
}

func (d *modelConversation) rangeOf(from, to uint64, limit, maxBytes int) (out []byte, end uint64) {
	end = from - 1
	to = min(to, d.head.LastSeq)
	n := 0
	for s := from; s <= to; s++ {
		if s >= d.head.FirstSeq {
			e := d.messages[s-1].element
			if limit > 0 && n == limit || maxBytes > 0 && n > 0 && len(out)+len(e) > maxBytes {
				break
			}
			out = append(out, e...)
			n++
		}
		end = s
	}
	return out, end
}

func (d *modelConversation) before(before uint64, limit, maxBytes int) (out []byte, first, end uint64) {
	top := min(before-1, d.head.LastSeq)
	var parts [][]byte
	size := 0
	for s := top; s >= d.head.FirstSeq && s > 0; s-- {
		e := d.messages[s-1].element
		if limit > 0 && len(parts) == limit || maxBytes > 0 && len(parts) > 0 && size+len(e) > maxBytes {
			break
		}
		parts = append(parts, e)
		size += len(e)
	}
	if len(parts) == 0 {
		return nil, 1, 0
	}
	slices.Reverse(parts)
	return bytes.Join(parts, nil), top + 1 - uint64(len(parts)), top
}

// compareAll compares all that is stored with the model, and audits the store.
func (m *model) compareAll() {
	m.t.Helper()
	m.flush()
	t := m.timeline()
	for _, c := range m.convs {
		d := m.data[c]
		h, _, err := t.Head(m.ctx, c)
		m.must(err)
		if h.Exists() != d.exists {
			m.t.Fatalf("conversation %s exists: %v, want %v", c, h.Exists(), d.exists)
		}
		if !d.exists {
			continue
		}
		if !bytes.Equal(h.Append(nil), d.head.Append(nil)) {
			m.t.Errorf("conversation %s: head\n%+v\nwant\n%+v", c, h, d.head)
		}
		want, _ := d.rangeOf(1, math.MaxUint64, 0, 0)
		got, _, _, err := t.Range(m.ctx, c, 1, math.MaxUint64, 0, 0)
		m.must(err)
		down, _, _, err := t.Before(m.ctx, c, 0, 0, 0)
		m.must(err)
		if !bytes.Equal(got, want) || !bytes.Equal(down, want) {
			m.t.Errorf("conversation %s: %d bytes up, %d down, want %d", c, len(got), len(down), len(want))
		}
		members := map[id.UserID]Member{}
		for after := id.UserID(""); ; {
			page, err := NewMembers(m.store, m.keys).Scan(m.ctx, c, after, 2)
			m.must(err)
			for _, row := range page {
				members[row.User] = row.Member
				after = row.User
			}
			if len(page) < 2 {
				break
			}
		}
		if !reflect.DeepEqual(members, d.members) {
			m.t.Errorf("conversation %s: members %v, want %v", c, members, d.members)
		}
		for _, u := range m.users {
			cursor, err := cursorOf(m.store, m.keys, c, u)
			m.must(err)
			if cursor != d.cursors[u] {
				m.t.Errorf("conversation %s: cursor of %s %+v, want %+v", c, u, cursor, d.cursors[u])
			}
			seqs, err := NewMentions(m.store, m.keys).Scan(m.ctx, c, u, 1, math.MaxUint64, 0)
			m.must(err)
			if !slices.Equal(seqs, d.mentions[u]) {
				m.t.Errorf("conversation %s: mentions of %s %v, want %v", c, u, seqs, d.mentions[u])
			}
		}
	}
	heads, err := t.Heads(m.ctx, m.convs)
	m.must(err)
	for i, c := range m.convs {
		if heads[i].LastSeq != m.data[c].head.LastSeq {
			m.t.Errorf("conversation %s: last %d, want %d", c, heads[i].LastSeq, m.data[c].head.LastSeq)
		}
	}
	sides := map[sideKey]UserSide{}
	for _, u := range m.users {
		for after := (id.ConversationID{}); ; {
			page, err := NewInbox(m.store, m.keys).Scan(m.ctx, u, after, 2)
			m.must(err)
			for _, row := range page {
				sides[sideKey{u, row.Conversation}] = row.UserSide
				after = row.Conversation
			}
			if len(page) < 2 {
				break
			}
		}
	}
	if !maps.Equal(sides, m.sides) {
		m.t.Errorf("users' sides %v, want %v", sides, m.sides)
	}
	m.must(CheckInParts(m.ctx, m.store, m.keys, 1+m.rng.IntN(5000), func(f Finding) {
		if f.Severity == Error {
			m.t.Error(f)
		}
	}))
}
