package timeline

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var dm = id.Direct("alice", "bob")

// stage is a conversation of alice and bob on a store that can be made to fail, and a
// clock that a test moves.
type stage struct {
	t     *testing.T
	store *hookStore
	bus   *storeBus
	cfg   Config
	now   atomic.Int64
	seq   *Sequencer
	stop  func()
	a, b  *sender
}

func newStage(t *testing.T, set func(c *Config)) *stage {
	st := &stage{t: t, store: &hookStore{Store: newMemory(t)}, a: newSender("alice", 1), b: newSender("bob", 2)}
	st.now.Store(1_800_000_000_000)
	create(t, st.store, dm, st.now.Load())
	st.cfg = config(st.store)
	st.bus = st.cfg.Bus.(*storeBus)
	st.cfg.Now = st.now.Load
	if set != nil {
		set(&st.cfg)
	}
	st.seq, st.stop = start(t, st.cfg)
	return st
}

// restart is another owner on the same store.
func (st *stage) restart() {
	st.stop()
	st.seq, st.stop = start(st.t, st.cfg)
}

func (st *stage) id(ago time.Duration) id.ClientMsgID {
	return id.NewClientMsgID(st.now.Load() - ago.Milliseconds())
}

func (st *stage) send(ps ...packet.Pending) { st.seq.Append(dm, ps) }

func (st *stage) head() (msgstore.Head, []byte) {
	st.t.Helper()
	h, raw, err := msgstore.NewTimeline(st.store.Store, keys).Head(context.Background(), dm)
	if err != nil {
		st.t.Fatal(err)
	}
	return h, raw
}

// setHead rewrites the head as somebody else would.
func (st *stage) setHead(change func(h *msgstore.Head)) {
	st.t.Helper()
	h, raw := st.head()
	change(&h)
	tx := new(kv.Tx)
	msgstore.NewTimeline(st.store.Store, keys).Append(tx, dm, raw, &h, nil, nil)
	if st.store.Store.Commit(context.Background(), tx); tx.Err != nil {
		st.t.Fatal(tx.Err)
	}
}

func TestIDs(t *testing.T) {
	st := newStage(t, nil)
	old, recent := st.id(time.Hour), st.id(0)
	m1, m2 := st.a.text(old, "old"), st.a.text(recent, "recent")
	st.send(m1, m2)
	st.a.expect(t, "1:seq=1", "2:seq=2")

	// In one batch: the same id again, and with another body.
	x := st.id(0)
	st.send(st.a.text(x, "x"), resend(st.a.text(x, "x")), st.a.text(x, "y"))
	st.a.expect(t, "3:seq=3", "4:dup=3", "5:id_conflict")

	// Another sender's equal id is another id.
	st.send(st.b.text(x, "x"))
	st.b.expect(t, "1:seq=4")

	// A new owner knows nothing from memory.
	st.restart()
	st.send(resend(m1), resend(m2), resend(st.a.text(x, "y")), st.a.text(st.id(time.Hour-time.Second), "new, of an old second"))
	got := st.a.expect(t, "1:dup=1", "2:dup=2", "6:id_conflict", "7:seq=5")
	ms := messages(t, st.store, dm)
	if got[0].ack.MessageID != ms[0].ID || got[1].ack.MessageID != ms[1].ID {
		t.Errorf("acks of repeats carry %v, stored are %d, %d", got[:2], ms[0].ID, ms[1].ID)
	}
	st.send(st.a.text(st.id(time.Hour-time.Second), "new, of an old second that is in memory"))
	st.a.expect(t, "8:seq=6")

	// By time, after the look-up.
	st.send(st.a.text(st.id(-61*time.Second), "future"), st.a.text(st.id(-59*time.Second), "nearly"))
	st.a.expect(t, "9:id_in_future", "10:seq=7")
	st.setHead(func(h *msgstore.Head) { h.IDFloor = st.now.Load() - (30 * time.Minute).Milliseconds() })
	st.send(resend(m1), resend(st.a.text(st.id(time.Hour), "never stored, too old to tell")))
	st.a.expect(t, "1:dup=1", "11:id_unknown")
	if h, _ := st.head(); h.LastSeq != 7 || h.HandedSeq != 7 {
		t.Errorf("head: %+v", h)
	}
}

// Ids of many seconds, more than are kept at once.
func TestManySeconds(t *testing.T) {
	st := newStage(t, nil)
	var ps []packet.Pending
	for i := range 100 {
		ps = append(ps, st.a.text(st.id(time.Duration(i)*time.Second), fmt.Sprint(i)))
	}
	st.send(append([]packet.Pending(nil), ps...)...)
	first := st.a.hear(t, 100)
	st.restart()
	for i := range ps {
		ps[i].Resend = true
	}
	st.send(ps...)
	for i, got := range st.a.hear(t, 100) {
		if !got.ack.Duplicate || got.ack.Seq != first[i].ack.Seq || got.ack.MessageID != first[i].ack.MessageID {
			t.Fatalf("%d: %v after %v", i, got, first[i])
		}
	}
	if n := len(messages(t, st.store, dm)); n != 100 {
		t.Fatalf("%d stored", n)
	}
}

func TestNoSuchConversation(t *testing.T) {
	st := newStage(t, nil)
	st.seq.Append(id.Self("nobody"), []packet.Pending{st.a.text(st.id(0), "x"), resend(st.a.text(st.id(time.Minute), "y"))})
	st.a.expect(t, "1:no_such_conversation", "2:no_such_conversation")
	create(t, st.store, id.Self("nobody"), st.now.Load())
	st.seq.Append(id.Self("nobody"), []packet.Pending{st.a.text(st.id(0), "x")})
	st.a.expect(t, "3:seq=1")
}

func TestTimes(t *testing.T) {
	var reserved atomic.Int64
	st := newStage(t, func(c *Config) {
		c.Reserve = func(_ context.Context, at int64) (int64, error) {
			reserved.Store(at)
			return at, nil
		}
	})
	ahead := st.now.Load() + 5000
	st.setHead(func(h *msgstore.Head) { h.LastTime = ahead }) // the last owner's clock was ahead
	st.send(st.a.text(st.id(0), "1"), st.a.text(st.id(0), "2"))
	got := st.a.hear(t, 2)
	if got[0].ack.MessageID.UnixMilli() <= ahead || got[1].ack.MessageID <= got[0].ack.MessageID {
		t.Errorf("ids %d, %d after %d", got[0].ack.MessageID.UnixMilli(), got[1].ack.MessageID.UnixMilli(), ahead)
	}
	other := id.Self("alice")
	create(t, st.store, other, st.now.Load()-1)
	st.seq.Append(other, []packet.Pending{st.a.text(st.id(0), "3")})
	if at := st.a.hear(t, 1)[0].ack.MessageID.UnixMilli(); at != st.now.Load() {
		t.Errorf("another conversation's message is of %d, not of now, %d", at, st.now.Load())
	}
	if reserved.Load() != ahead+1 {
		t.Errorf("reserved up to %d, want %d", reserved.Load(), ahead+1)
	}
	if h, _ := st.head(); h.LastTime != ahead+1 {
		t.Errorf("head's last time %d", h.LastTime)
	}
}

// A process that was frozen between making an append and storing it makes it again.
func TestFrozen(t *testing.T) {
	st := newStage(t, nil)
	var calls atomic.Int32
	st.stop()
	st.cfg.Now = func() int64 {
		if calls.Add(1) == 2 { // the look at the clock before the commit
			st.now.Add(25_000)
		}
		return st.now.Load()
	}
	st.seq, st.stop = start(t, st.cfg)
	st.send(st.a.text(st.id(0), "x"))
	got := st.a.expect(t, "1:seq=1")
	if at := got[0].ack.MessageID.UnixMilli(); at != st.now.Load() {
		t.Errorf("stored as of %d, now is %d", at, st.now.Load())
	}
}

func TestRules(t *testing.T) {
	var closed atomic.Bool
	guard := rulesFunc(func(p *packet.Pending) *code.Error {
		switch {
		case strings.HasPrefix(string(p.Content), "slow"):
			return code.New(code.RateLimited)
		case strings.HasPrefix(string(p.Content), "bad"), closed.Load():
			return code.New(code.Forbidden)
		}
		return nil
	})
	st := newStage(t, func(c *Config) { c.Guard = guard })
	ok1, bad := st.a.text(st.id(0), "ok"), st.a.text(st.id(0), "bad")
	st.send(ok1, bad, st.a.text(st.id(0), "ok"))
	st.a.expect(t, "1:seq=1", "2:forbidden", "3:seq=2")

	// What is stored is acked, whatever the rules say by now.
	closed.Store(true)
	st.send(resend(ok1), resend(st.a.text(st.id(0), "late")))
	st.a.expect(t, "1:dup=1", "4:forbidden")
	closed.Store(false)

	// A refusal that may be tried again shuts the lane: of this connection only.
	slow := st.a.text(st.id(0), "slow")
	later := st.a.text(st.id(0), "later")
	st.send(slow, later, st.b.text(st.id(0), "other lane"))
	st.a.expect(t, "5:rate_limited", "6:lane_blocked")
	st.b.expect(t, "1:seq=3")
	st.send(st.a.text(st.id(0), "later still"))
	st.a.expect(t, "7:lane_blocked")

	// A burst of resends whose first is refused once more is refused as a whole.
	st.send(resend(slow), resend(later))
	st.a.expect(t, "5:rate_limited", "6:lane_blocked")
	slow.Content = []byte("fast")
	st.send(resend(slow), resend(later))
	st.a.expect(t, "5:seq=4", "6:seq=5")
	st.send(st.a.text(st.id(0), "open"))
	st.a.expect(t, "8:seq=6")
}

// A sender that gives up the message its lane is shut by begins with another one.
func TestGivesUpTheRefusedMessage(t *testing.T) {
	st := newStage(t, func(c *Config) {
		c.Guard = rulesFunc(func(p *packet.Pending) *code.Error {
			if string(p.Content) == "slow" {
				return code.New(code.RateLimited)
			}
			return nil
		})
	})
	x, y := st.a.text(st.id(0), "x"), st.a.text(st.id(0), "y")
	st.send(st.a.text(st.id(0), "slow"), x, y)
	st.a.expect(t, "3:rate_limited", "1:lane_blocked", "2:lane_blocked")
	st.send(resend(x), resend(y), st.a.text(st.id(0), "z"))
	st.a.expect(t, "1:seq=1", "2:seq=2", "4:seq=3")
}

type versionGuard struct {
	calls   atomic.Int32
	refuse  atomic.Pointer[code.Error]
	trouble atomic.Bool
}

func (g *versionGuard) Rules(context.Context, id.ConversationID) (Rules, error) {
	g.calls.Add(1)
	if g.trouble.Load() {
		return nil, errors.New("trouble")
	}
	if e := g.refuse.Load(); e != nil {
		return nil, e
	}
	return allowAll, nil
}

func TestRulesAreReadAgainWhenTheStateChanged(t *testing.T) {
	g := &versionGuard{}
	st := newStage(t, func(c *Config) { c.Guard = g; c.MaxAttempts = 2 })
	st.send(st.a.text(st.id(0), "x"))
	st.a.expect(t, "1:seq=1")
	st.setHead(func(h *msgstore.Head) { h.IDFloor = 1 }) // somebody wrote the head, the state is the same
	st.send(st.a.text(st.id(0), "x"))
	st.a.expect(t, "2:seq=2")
	if n := g.calls.Load(); n != 1 {
		t.Errorf("rules read %d times", n)
	}
	g.refuse.Store(code.New(code.Forbidden))
	st.setHead(func(h *msgstore.Head) { h.StateVersion++ })
	st.send(st.a.text(st.id(0), "x"))
	st.a.expect(t, "3:forbidden")
	g.trouble.Store(true)
	st.setHead(func(h *msgstore.Head) { h.StateVersion++ })
	y := st.a.text(st.id(0), "y")
	st.send(y)
	st.a.expect(t, "4:unavailable")
	g.trouble.Store(false)
	g.refuse.Store(nil)
	st.send(resend(y))
	st.a.expect(t, "4:seq=3")
}

// An owner whose cached state is behind must not refuse for good because of it.
func TestStaleOwnerDoesNotRefuse(t *testing.T) {
	var now atomic.Pointer[code.Error]
	now.Store(code.New(code.Forbidden))
	g := &switchGuard{now: &now}
	st := newStage(t, func(c *Config) { c.Guard = g })
	st.send(st.a.text(st.id(0), "x"))
	st.a.expect(t, "1:forbidden")
	now.Store(nil)
	st.setHead(func(h *msgstore.Head) { h.StateVersion++ })
	st.send(st.a.text(st.id(0), "x"))
	st.a.expect(t, "2:seq=1")
}

type switchGuard struct{ now *atomic.Pointer[code.Error] }

func (g *switchGuard) Rules(context.Context, id.ConversationID) (Rules, error) {
	e := g.now.Load()
	return rulesFunc(func(*packet.Pending) *code.Error { return e }), nil
}

// After an undetermined commit, what is refused for good is refused only when that commit can't happen any more.
func TestNegativeAnswersAreFenced(t *testing.T) {
	var refuse atomic.Bool
	st := newStage(t, func(c *Config) {
		c.Guard = rulesFunc(func(*packet.Pending) *code.Error {
			if refuse.Load() {
				return code.New(code.Forbidden)
			}
			return nil
		})
	})
	var kept []*kv.Tx
	st.store.failNext(1, kv.ErrUndetermined, &kept)
	refuse.Store(false)
	x := st.a.text(st.id(0), "x")
	// The rules change between the first run and the second.
	st.store.onCommit(func(ctx context.Context, next kv.Store, txs []*kv.Tx) {
		if len(kept) == 0 {
			refuse.Store(true)
			kept = append(kept, copyTx(txs[0]))
			txs[0].Err = kv.ErrUndetermined
			return
		}
		next.Commit(ctx, txs...)
	})
	_, before := st.head()
	st.send(x)
	st.a.expect(t, "1:forbidden")
	if _, after := st.head(); string(after) == string(before) {
		t.Error("the head was not rewritten")
	}
	st.store.Store.Commit(context.Background(), kept...)
	if !errors.Is(kept[0].Err, kv.ErrConflict) {
		t.Errorf("the given up transaction came to %v", kept[0].Err)
	}

	// A resend that another owner may have under way is fenced too, a first attempt only checked.
	_, before = st.head()
	st.send(st.a.text(st.id(0), "y"))
	st.a.expect(t, "2:forbidden")
	if _, after := st.head(); string(after) != string(before) {
		t.Error("the head was rewritten for a message that was never sent before")
	}
	st.send(resend(st.a.text(st.id(0), "z")))
	st.a.expect(t, "3:forbidden")
	if _, after := st.head(); string(after) == string(before) {
		t.Error("the head was not rewritten for a resend")
	}
	if h, _ := st.head(); h.LastSeq != 0 || h.PreviewSeq != 0 {
		t.Errorf("head %+v", h)
	}
	refuse.Store(false)
	st.send(st.a.text(st.id(0), "z"))
	st.a.expect(t, "4:seq=1")
}

func TestEventsAndSeen(t *testing.T) {
	type seen struct {
		user id.UserID
		seq  uint64
	}
	seens := make(chan seen, 10)
	var committed, acked, dups atomic.Int64
	st := newStage(t, func(c *Config) {
		c.Seen = func(_ id.ConversationID, u id.UserID, seq uint64) { seens <- seen{u, seq} }
		c.Events = Events{
			Committed:  func(_, m int, _ time.Duration) { committed.Add(int64(m)) },
			Acked:      func(m int) { acked.Add(int64(m)) },
			Duplicates: func(n int) { dups.Add(int64(n)) },
		}
	})
	x := st.a.text(st.id(0), "x")
	st.send(x)
	st.a.expect(t, "1:seq=1")
	y := st.b.text(st.id(0), "y")
	y.Interactive, y.SeenSeq = true, 1
	z := st.b.text(st.id(0), "z")
	z.Interactive, z.SeenSeq = true, 99
	st.send(y, z, resend(x))
	st.b.expect(t, "1:seq=2", "2:seq=3")
	st.a.expect(t, "1:dup=1")
	if s := <-seens; s != (seen{"bob", 1}) {
		t.Errorf("seen %v", s)
	}
	if s := <-seens; s != (seen{"bob", 3}) {
		t.Errorf("seen %v", s)
	}
	st.stop()
	if committed.Load() != 3 || acked.Load() != 4 || dups.Load() != 1 {
		t.Errorf("committed %d, acked %d, repeats %d", committed.Load(), acked.Load(), dups.Load())
	}
	evs := st.bus.events()
	if len(evs) != 2 {
		t.Fatalf("%d events", len(evs))
	}
	for i, want := range []bus.Event{{FirstSeq: 1, LastSeq: 1, Origin: 1, Offset: 1}, {FirstSeq: 2, LastSeq: 3, Origin: 2, Offset: 2}} {
		got := evs[i]
		if got.FirstSeq != want.FirstSeq || got.LastSeq != want.LastSeq || got.Origin != want.Origin || got.Offset != want.Offset ||
			got.Conversation != dm || got.Epoch != 7 {
			t.Errorf("event %d: %+v", i, got)
		}
	}
}

// One large append: several segments, several events, one reference, mentions.
func TestLargeAppend(t *testing.T) {
	st := newStage(t, nil)
	var ps []packet.Pending
	for i := range 1500 {
		p := st.a.text(st.id(0), strings.Repeat("m", 100))
		if i == 700 {
			p.Mentions, p.MentionAll = []string{"bob"}, true
		}
		ps = append(ps, p)
	}
	st.send(ps...)
	st.a.hear(t, 1500)
	ms := messages(t, st.store, dm)
	if len(ms) != 1500 {
		t.Fatalf("%d stored", len(ms))
	}
	next, mentions := uint64(1), msgstore.NewMentions(st.store.Store, keys)
	for _, ev := range st.bus.events() {
		if ev.FirstSeq != next || len(ev.Messages) > eventBytes || ev.Offset != 1 {
			t.Fatalf("event %d to %d of %d bytes at %d, expected %d", ev.FirstSeq, ev.LastSeq, len(ev.Messages), ev.Offset, next)
		}
		next = ev.LastSeq + 1
	}
	if next != 1501 {
		t.Errorf("events end at %d", next-1)
	}
	for _, user := range []id.UserID{"bob", ""} {
		if got, err := mentions.Scan(context.Background(), dm, user, 1, 2000, 10); err != nil || len(got) != 1 || got[0] != 701 {
			t.Errorf("mentions of %q: %v %v", user, got, err)
		}
	}
	audit(t, st.store.Store, dm)
	if h, _ := st.head(); h.PreviewSeq != 1500 || h.PreviewSender != "alice" || !strings.HasPrefix(string(h.PreviewText), "mmm") || h.Countable != 1500 {
		t.Errorf("head %+v", h)
	}
	if h, err := st.seq.Head(context.Background(), dm); err != nil || h.LastSeq != 1500 {
		t.Errorf("cached head %+v %v", h, err)
	}
	if h, err := st.seq.Head(context.Background(), id.Self("nobody")); err != nil || h.Exists() {
		t.Errorf("head of nothing %+v %v", h, err)
	}
}

func TestEviction(t *testing.T) {
	var evicted atomic.Int64
	st := newStage(t, func(c *Config) {
		c.MaxConversations = 10
		c.Events.Evicted = func(n int) { evicted.Add(int64(n)) }
	})
	var convs []id.ConversationID
	for i := range 50 {
		convs = append(convs, id.Self(id.UserID(fmt.Sprint("u", i))))
		create(t, st.store, convs[i], st.now.Load())
	}
	for round := range 3 {
		for _, c := range convs {
			st.seq.Append(c, []packet.Pending{st.a.text(st.id(0), "x")})
		}
		for _, got := range st.a.hear(t, 50) {
			if got.ack.Seq != uint64(round+1) {
				t.Fatalf("round %d: %v", round, got)
			}
		}
		// The answers come before the round makes room, which spares what is appended to: one
		// more round says that it has.
		st.send(st.a.text(st.id(0), "x"))
		st.a.hear(t, 1)
	}
	st.stop()
	if st.seq.recent.n > 11 || evicted.Load() < 100 {
		t.Errorf("%d in memory, %d evicted", st.seq.recent.n, evicted.Load())
	}
	st.now.Add(time.Hour.Milliseconds())
	st.seq.evict(st.now.Load())
	if st.seq.recent.n != 0 || st.seq.recent.oldest != nil {
		t.Errorf("%d in memory after an hour", st.seq.recent.n)
	}
}

func TestConfig(t *testing.T) {
	store := newMemory(t)
	for name, set := range map[string]func(c *Config){
		"no store":      func(c *Config) { c.Store = nil },
		"no bus":        func(c *Config) { c.Bus = nil },
		"no guard":      func(c *Config) { c.Guard = nil },
		"worker":        func(c *Config) { c.Worker = 1024 },
		"rebuild after": func(c *Config) { c.RebuildAfter = time.Minute },
		"limit":         func(c *Config) { c.Loaders = -1 },
		"duration":      func(c *Config) { c.IdleAfter = -1 },
	} {
		c := config(store)
		set(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAppendAndResend(t *testing.T) {
	store := newMemory(t)
	conv := id.Direct("alice", "bob")
	create(t, store, conv, nowMs())
	s, _ := start(t, config(store))
	a := newSender("alice", 1)
	var batch []packet.Pending
	now := nowMs()
	for i := range 40 {
		batch = append(batch, a.text(id.NewClientMsgID(now), fmt.Sprint("hello ", i)))
	}
	first, again := batch[0], resend(batch[7])
	s.Append(conv, batch)
	for i, got := range a.hear(t, 40) {
		if want := fmt.Sprintf("%d:seq=%d", i+1, i+1); got.String() != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	s.Append(conv, []packet.Pending{again})
	a.expect(t, "8:dup=8")
	other := a.text(first.ClientMsgID, "something else")
	s.Append(conv, []packet.Pending{other})
	a.expect(t, "41:id_conflict")
	if n := len(messages(t, store, conv)); n != 40 {
		t.Fatalf("%d messages stored", n)
	}
}
