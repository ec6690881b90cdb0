package msgstore_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/faultkv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/msgstore/kv/tikv/tikvtest"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of the model test; 0: by time")
	stepsFlag = flag.Int("steps", 600, "operations of the model test on each store")
)

// The stores that the tests run on.
var adapters = []struct {
	name string
	open func(t testing.TB, seed uint64) kv.Store
}{
	{"memory", func(_ testing.TB, seed uint64) kv.Store { return memory.New(memory.Config{Seed: seed}) }},
	{"pebble", func(t testing.TB, _ uint64) kv.Store {
		s, err := pebblekv.Open(pebblekv.Config{
			Dir: "store", FS: vfs.NewMem(), DiskReserve: -1, CacheBytes: 1 << 20, MemTableBytes: 1 << 20,
			OnFatal: func(err error) { t.Errorf("pebble: %v", err) },
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}},
	{"tikv", func(t testing.TB, _ uint64) kv.Store {
		return tikvtest.Open(t, Keys{}.SlotBounds(4)...)
	}},
}

// TestModel runs random operations of two owners and of readers on each store and on a
// plain model, and compares everything that can be read. Replay: -run TestModel/memory -seed N.
func TestModel(t *testing.T) {
	for _, a := range adapters {
		for _, faults := range []bool{false, true} {
			name := a.name
			if faults {
				name += "-faults"
			}
			t.Run(name, func(t *testing.T) {
				seed := *seedFlag
				if seed == 0 {
					seed = uint64(time.Now().UnixNano())
				}
				t.Logf("seed %d", seed)
				store := a.open(t, seed)
				defer store.Close()
				m := newModel(t, store, seed)
				if faults {
					m.faults = faultkv.Wrap(store, faultkv.Config{
						Seed:  seed,
						Rates: faultkv.Rates{Applied: 0.05, Lost: 0.05, Late: 0.08, Conflict: 0.05, Unavailable: 0.03, Full: 0.03},
					})
					m.store = m.faults
				}
				m.sweeper = NewSweeper(SweeperConfig{Store: m.store, Keys: m.keys, BusKeep: 3})
				for i := range *stepsFlag {
					m.step()
					if t.Failed() {
						t.Fatalf("after step %d", i)
					}
					if i%100 == 99 {
						m.compareAll()
					}
				}
				m.compareAll()
			})
		}
	}
}

// Plain data that the store is compared with.
type (
	modelMessage struct {
		element []byte
		sender  id.UserID
		cid     id.ClientMsgID
		counts  bool // the bit
		raised  bool
		body    uint64
	}
	modelConversation struct {
		exists   bool
		head     Head
		messages []modelMessage // of seq i+1; those below FirstSeq are kept for their ids
		members  map[id.UserID]Member
		cursors  map[id.UserID]Cursor
		mentions map[id.UserID][]uint64
	}
	sideKey struct {
		user id.UserID
		conv id.ConversationID
	}
	ownerHead struct {
		h   Head
		raw []byte
	}
)

type model struct {
	t      *testing.T
	ctx    context.Context
	rng    *rand.Rand
	store  kv.Store
	inner  kv.Store       // without faults
	faults *faultkv.Store // nil: none
	keys   Keys
	now    int64
	count  uint32 // of MessageIDs

	convs  []id.ConversationID
	data   map[id.ConversationID]*modelConversation
	sides  map[sideKey]UserSide
	users  []id.UserID
	owners [2]map[id.ConversationID]ownerHead
	floor  int64 // of the ids swept, in seconds

	sweeper  *Sweeper
	segments SegmentBuilder
	ids      IDBuilder
}

func newModel(t *testing.T, store kv.Store, seed uint64) *model {
	m := &model{
		t: t, ctx: context.Background(), rng: rand.New(rand.NewPCG(seed, 2)), store: store, inner: store, keys: Keys{Keyspace: 7},
		now:   1_750_000_000_000,
		users: []id.UserID{"alice", "alice0", "bob", "好", "a"},
		data:  map[id.ConversationID]*modelConversation{},
		sides: map[sideKey]UserSide{},
	}
	for i := range 6 {
		m.convs = append(m.convs, id.Named(id.KindGroup, fmt.Sprint("group ", i)))
	}
	for _, c := range m.convs {
		m.data[c] = &modelConversation{members: map[id.UserID]Member{}, cursors: map[id.UserID]Cursor{}, mentions: map[id.UserID][]uint64{}}
	}
	for i := range m.owners {
		m.owners[i] = map[id.ConversationID]ownerHead{}
	}
	if _, err := OpenMeta(m.ctx, store, m.keys, m.now); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *model) timeline() *Timeline { return NewTimeline(m.store, m.keys) }

func (m *model) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func pick[T any](rng *rand.Rand, s []T) T { return s[rng.IntN(len(s))] }

func (m *model) step() {
	m.now += m.rng.Int64N(3_600_000)
	c := pick(m.rng, m.convs)
	d := m.data[c]
	owner := m.rng.IntN(2)
	if !d.exists {
		m.create(c)
		return
	}
	switch m.rng.IntN(20) {
	case 0, 1, 2, 3, 4:
		m.commit(m.prepare(owner, c))
	case 5, 6:
		m.race(c)
	case 7:
		// Several conversations in one commit, by both owners.
		var ps []*prepared
		for _, i := range m.rng.Perm(len(m.convs))[:3] {
			if m.data[m.convs[i]].exists {
				ps = append(ps, m.prepare(m.rng.IntN(2), m.convs[i]))
			}
		}
		m.commit(ps...)
	case 8:
		m.trim(c)
	case 9, 10:
		m.recall(owner, c)
	case 11:
		m.join(owner, c)
	case 12:
		m.cursor(c)
	case 13:
		m.side(c)
	case 14:
		m.sweep()
	case 15:
		m.merge()
	default:
		m.read(c)
	}
}

func (m *model) create(c id.ConversationID) {
	var tx kv.Tx
	m.timeline().Create(&tx, c, m.now)
	m.store.Commit(m.ctx, &tx)
	if tx.Err != nil {
		m.allowed(tx.Err)
		m.fence(c)
	}
	h, raw, err := m.timeline().Head(m.ctx, c)
	m.must(err)
	if raw == nil {
		m.t.Fatal("the conversation was created and does not exist")
	}
	m.data[c].exists, m.data[c].head = true, h
}

// allowed ends the test on errors that nobody injected.
func (m *model) allowed(err error) {
	m.t.Helper()
	for _, e := range []error{kv.ErrUndetermined, kv.ErrConflict, kv.ErrUnavailable, kv.ErrFull} {
		if m.faults != nil && errors.Is(err, e) {
			return
		}
	}
	m.t.Fatal(err)
}

// prepared is a transaction and what it does to the model.
type prepared struct {
	tx    kv.Tx
	owner int
	c     id.ConversationID
	old   []byte
	h     Head
	raw   []byte
	first []byte // its first message; nil: it has none
	apply func(d *modelConversation)
}

// cached is the owner's idea of the head, maybe a stale one.
func (m *model) cached(owner int, c id.ConversationID) ownerHead {
	o, ok := m.owners[owner][c]
	if !ok {
		h, raw, err := m.timeline().Head(m.ctx, c)
		m.must(err)
		o = ownerHead{h, raw}
		m.owners[owner][c] = o
	}
	return o
}

func (m *model) tail() (tail []byte, cid id.ClientMsgID, counts bool) {
	age := int64(m.rng.ExpFloat64() * float64(24*time.Hour/time.Millisecond))
	cid = id.NewClientMsgID(max(m.now-age, (m.floor+1)*1000))
	for i := 6; i < 16; i++ { // the same with the same seed
		if i != 6 && i != 8 {
			cid[i] = byte(m.rng.Uint32())
		}
	}
	typ := pick(m.rng, []uint32{1, 1, 1, 2, 64, 1000})
	size := m.rng.IntN(60)
	switch m.rng.IntN(30) {
	case 0:
		size = 3000 + m.rng.IntN(3000)
	case 1:
		size = MaxSegmentBytes + m.rng.IntN(3000)
	}
	return makeTail(cid, typ, bytes.Repeat([]byte("x"), size)), cid, packet.Counts(typ, false)
}

// makeTail is the sender's part of a message.
func makeTail(cid id.ClientMsgID, typ uint32, content []byte) []byte {
	b := append([]byte{4<<3 | 2, 16}, cid[:]...)
	b = append(b, 5<<3)
	b = appendUvarint(b, uint64(typ))
	b = append(b, 6<<3|2)
	b = appendUvarint(b, uint64(len(content)))
	return append(b, content...)
}

func appendUvarint(b []byte, v uint64) []byte {
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

func (m *model) messageID() id.MessageID {
	m.count++
	return id.MakeMessageID(m.now, 1, m.count)
}

// prepare makes the append of some messages.
func (m *model) prepare(owner int, c id.ConversationID) *prepared {
	n := 1 + m.rng.IntN(8)
	if m.rng.IntN(20) == 0 {
		n = 200 + m.rng.IntN(400)
	}
	return m.prepareAppend(owner, c, n, nil)
}

func (m *model) prepareAppend(owner int, c id.ConversationID, n int, more func(p *prepared)) *prepared {
	o := m.cached(owner, c)
	p := &prepared{owner: owner, c: c, old: o.raw, h: o.h}
	var ms []modelMessage
	var mentioned []id.UserID
	var buf []byte
	m.segments.Reset(p.h.LastSeq+1, p.h.Countable)
	m.ids.Reset()
	for i := range n {
		tail, cid, counts := m.tail()
		sender := pick(m.rng, m.users)
		start := len(buf)
		seq := p.h.LastSeq + 1 + uint64(i)
		buf = packet.AppendMessage(buf, seq, m.messageID(), sender, tail)
		m.segments.Add(len(buf)-start, counts)
		body := m.rng.Uint64()
		m.ids.Add(cid.UnixMilli(), IDEntry{Hash: IDHash(sender, cid), Seq: seq, Body: body})
		p.h.IDMax = max(p.h.IDMax, cid.UnixMilli())
		p.h.PreviewSeq, p.h.PreviewSender, p.h.PreviewType, p.h.PreviewText = seq, sender, 1, []byte("preview")
		ms = append(ms, modelMessage{element: bytes.Clone(buf[start:]), sender: sender, cid: cid, counts: counts, raised: counts, body: body})
		user := id.UserID("")
		if m.rng.IntN(4) == 0 {
			user = pick(m.rng, m.users)
			NewMentions(m.store, m.keys).Put(&p.tx, c, user, seq)
		} else {
			user = "-"
		}
		mentioned = append(mentioned, user)
	}
	first := p.h.LastSeq + 1
	p.h.HandedSeq = p.h.LastSeq
	p.h.LastSeq += uint64(n)
	p.h.Countable = m.segments.Countable()
	p.h.LastTime = m.now
	m.timeline().Append(&p.tx, c, o.raw, &p.h, m.segments.Segments(buf), m.ids.Rows())
	ref := BusRef{Conversation: c, Epoch: 1, FirstSeq: first, Count: uint32(n)}
	if m.store.Stamps() { // elsewhere the bus is apart
		p.tx.SetStamped(m.keys.BusRefs(nil, 0), ref.Append(nil))
	}
	p.first = ms[0].element
	p.apply = func(d *modelConversation) {
		d.messages = append(d.messages, ms...)
		for i, u := range mentioned {
			if u != "-" {
				d.mentions[u] = append(d.mentions[u], first+uint64(i))
			}
		}
	}
	if more != nil {
		more(p)
	}
	p.raw = p.h.Append(nil)
	return p
}

// commit commits and takes over into the model what was stored.
func (m *model) commit(ps ...*prepared) {
	m.t.Helper()
	txs := make([]*kv.Tx, len(ps))
	for i, p := range ps {
		txs[i] = &p.tx
	}
	m.store.Commit(m.ctx, txs...)
	m.settle(ps...)
}

func (m *model) settle(ps ...*prepared) {
	m.t.Helper()
	for _, p := range ps {
		if p.tx.Err == nil {
			m.applied(p)
		}
	}
	// Of those whose outcome is unknown: write the head, so that they are seen now or never
	// stored, and look.
	var unknown []*prepared
	for _, p := range ps {
		if errors.Is(p.tx.Err, kv.ErrUndetermined) {
			unknown = append(unknown, p)
			m.fence(p.c)
		}
	}
	for _, p := range unknown {
		if m.stored(p) {
			m.applied(p)
		}
	}
	for _, p := range unknown {
		m.refresh(p.c)
		delete(m.owners[p.owner], p.c)
	}
	for _, p := range ps {
		switch {
		case p.tx.Err == nil || errors.Is(p.tx.Err, kv.ErrUndetermined):
		case errors.Is(p.tx.Err, kv.ErrConflict):
			if m.faults == nil && bytes.Equal(p.old, m.data[p.c].head.Append(nil)) {
				m.t.Errorf("conversation %s: a conflict though nothing changed", p.c)
			}
			delete(m.owners[p.owner], p.c)
		default:
			m.allowed(p.tx.Err)
		}
	}
}

// stored reports whether p's first message, or what p trimmed to, is what is stored.
func (m *model) stored(p *prepared) bool {
	m.t.Helper()
	if p.first == nil {
		h, _, err := m.timeline().Head(m.ctx, p.c)
		m.must(err)
		return h.FirstSeq == p.h.FirstSeq
	}
	seq := m.data[p.c].head.LastSeq + 1
	got, _, _, err := m.timeline().Range(m.ctx, p.c, seq, seq, 0, 0)
	m.must(err)
	return bytes.Equal(got, p.first)
}

// applied takes p over into the model.
func (m *model) applied(p *prepared) {
	m.t.Helper()
	d := m.data[p.c]
	if d.exists && !bytes.Equal(p.old, d.head.Append(nil)) {
		m.t.Errorf("conversation %s: an append over a head that was not the last", p.c)
	}
	p.apply(d)
	d.head = p.h
	m.owners[p.owner][p.c] = ownerHead{p.h, p.raw}
}

// fence writes the conversation's head, so that an earlier transaction of unknown outcome
// is either seen or never stored.
func (m *model) fence(c id.ConversationID) {
	m.t.Helper()
	for {
		h, raw, err := m.timeline().Head(m.ctx, c)
		m.must(err)
		var tx kv.Tx
		if raw == nil {
			m.timeline().Create(&tx, c, m.now)
		} else {
			h.StateVersion += 1 + m.rng.Uint64N(1<<32) // unlike that of any other try
			m.timeline().Append(&tx, c, raw, &h, nil, nil)
		}
		m.store.Commit(m.ctx, &tx)
		if tx.Err == nil {
			return
		}
		m.allowed(tx.Err)
	}
}

// refresh takes over what a fence changes: the state version alone.
func (m *model) refresh(c id.ConversationID) {
	m.t.Helper()
	h, _, err := m.timeline().Head(m.ctx, c)
	m.must(err)
	d := m.data[c]
	d.head.StateVersion = h.StateVersion
	if !bytes.Equal(h.Append(nil), d.head.Append(nil)) {
		m.t.Errorf("conversation %s: head\n%+v\nwant\n%+v", c, h, d.head)
	}
}

// race lets both owners append to one conversation at the same time.
func (m *model) race(c id.ConversationID) {
	ps := []*prepared{m.prepare(0, c), m.prepare(1, c)}
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(func() { m.store.Commit(m.ctx, &p.tx) })
	}
	wg.Wait()
	if ps[0].tx.Err == nil && ps[1].tx.Err == nil && bytes.Equal(ps[0].old, ps[1].old) {
		m.t.Errorf("conversation %s: both owners appended to one head", c)
	}
	m.settle(ps...)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
