package msgstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/faultkv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func TestOpenMeta(t *testing.T) {
	store := memory.New(memory.Config{})
	keys := Keys{Keyspace: 3}
	for _, fresh := range []bool{true, false} {
		if got, err := IsNew(ctx, store, keys); got != fresh || err != nil {
			t.Errorf("new %v, %v, want %v", got, err, fresh)
		}
		if _, err := OpenMeta(ctx, store, keys, testNow); err != nil {
			t.Fatal(err)
		}
	}
	m, err := OpenMeta(ctx, store, keys, testNow)
	want := Meta{Epoch: testNow, SlotCount: id.SlotCount, Hash: SlotHash, FeatureLevel: FeatureLevel, Created: testNow}
	if err != nil || m != want {
		t.Fatalf("%+v, %v", m, err)
	}
	if m, err = OpenMeta(ctx, store, keys, testNow+9); err != nil || m != want {
		t.Errorf("again: %+v, %v", m, err)
	}
	// Another installation on the same store.
	if m, err = OpenMeta(ctx, store, Keys{Keyspace: 4}, testNow+9); err != nil || m.Created != testNow+9 {
		t.Errorf("another keyspace: %+v, %v", m, err)
	}
	for _, c := range []struct{ now, want int64 }{{testNow - 5, testNow + 1}, {testNow + 50, testNow + 50}, {0, testNow + 51}} {
		if m, err = NewEpoch(ctx, store, keys, c.now); err != nil || m.Epoch != uint64(c.want) {
			t.Errorf("epoch at %d: %d, want %d, %v", c.now, m.Epoch, c.want, err)
		}
	}
	if m, err = OpenMeta(ctx, store, keys, 1); err != nil || m.Epoch != testNow+51 {
		t.Errorf("after new epochs: %+v, %v", m, err)
	}
}

// raced is a store that another node makes, and begins to fill, between what this one finds and looks at next.
type raced struct {
	kv.Store
	made bool
}

func (r *raced) Get(ctx context.Context, key []byte) ([]byte, error) {
	raw, err := r.Store.Get(ctx, key)
	if raw != nil || err != nil || r.made {
		return raw, err
	}
	r.made = true
	if _, err := OpenMeta(ctx, r.Store, Keys{}, testNow); err != nil {
		return nil, err
	}
	_, err = OpenClock(ctx, ClockConfig{Store: r.Store, Worker: 7, Logger: quiet})
	return nil, err
}

func TestOpenMetaOfSeveralNodes(t *testing.T) {
	store := &raced{Store: memory.New(memory.Config{})}
	if m, err := OpenMeta(ctx, store, Keys{}, testNow+1); err != nil || m.Epoch != testNow {
		t.Errorf("%+v, %v: want what the other node made", m, err)
	}
}

func TestOpenMetaRefuses(t *testing.T) {
	keys := Keys{Keyspace: 3}
	row := func(change func(*Meta)) []byte {
		m := Meta{Epoch: 1, SlotCount: id.SlotCount, Hash: SlotHash, FeatureLevel: FeatureLevel, Created: 1}
		change(&m)
		return m.Append(nil)
	}
	metaKey := keys.StoreRow(nil, "meta")
	otherLayout := slices.Clone(metaKey)
	otherLayout[2]++
	for _, c := range []struct {
		name       string
		key, value []byte
		want       error
	}{
		{"slot count", metaKey, row(func(m *Meta) { m.SlotCount = 1024 }), ErrSlots},
		{"hash", metaKey, row(func(m *Meta) { m.Hash = "fnv" }), ErrSlots},
		{"feature level", metaKey, row(func(m *Meta) { m.FeatureLevel = FeatureLevel + 1 }), ErrFeatureLevel},
		{"no feature level", metaKey, row(func(m *Meta) { m.FeatureLevel = 0 }), ErrCorrupt},
		{"later row", metaKey, []byte{2}, ErrVersion},
		{"cut row", metaKey, row(func(*Meta) {})[:4], ErrCorrupt},
		{"layout", otherLayout, row(func(*Meta) {}), ErrLayout},
		{"rows without meta", keys.Head(nil, conv), (&Head{FirstSeq: 1}).Append(nil), ErrCorrupt},
	} {
		store := memory.New(memory.Config{})
		var tx kv.Tx
		tx.Set(c.key, c.value)
		store.Commit(ctx, &tx)
		if _, err := OpenMeta(ctx, store, keys, testNow); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	store := faultkv.Wrap(memory.New(memory.Config{}), faultkv.Config{})
	store.Script(faultkv.Lost, faultkv.Applied)
	if m, err := OpenMeta(ctx, store, keys, testNow); err != nil || m.Epoch != testNow {
		t.Errorf("undetermined: %+v, %v", m, err)
	}
	store = faultkv.Wrap(memory.New(memory.Config{}), faultkv.Config{})
	store.Script(faultkv.Full)
	if m, err := OpenMeta(ctx, store, keys, testNow); err != nil || m.Epoch != testNow {
		t.Errorf("where there is no room for messages: %+v, %v", m, err)
	}
	store.FailReads(1)
	if _, err := OpenMeta(ctx, store, keys, testNow); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("unavailable: %v", err)
	}
}

// machine is a machine's clock that tests set.
type machine struct {
	mu   sync.Mutex
	wall time.Time // without a monotonic part: setting it back is seen as time that stands still
}

func (m *machine) now() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wall
}

func (m *machine) add(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wall = m.wall.Add(d)
}

func TestClock(t *testing.T) {
	store := memory.New(memory.Config{})
	m := &machine{wall: time.UnixMilli(testNow)}
	open := func() *Clock {
		t.Helper()
		c, err := OpenClock(ctx, ClockConfig{Store: store, Wall: m.now, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	expect := func(c *Clock, want int64) {
		t.Helper()
		if got := c.Now(); got != testNow+want {
			t.Errorf("time is %d, want %d", got-testNow, want)
		}
	}
	c := open()
	expect(c, 0)
	m.add(5 * time.Millisecond)
	expect(c, 5)
	// Set back by a minute: the time goes on at half speed.
	m.add(-time.Minute)
	expect(c, 5)
	m.add(time.Second)
	expect(c, 505)
	m.add(time.Millisecond)
	m.add(time.Millisecond)
	expect(c, 506)
	m.add(58998 * time.Millisecond)
	expect(c, 10000) // the ceiling: nobody has stored another one
	m.add(time.Hour)
	expect(c, 10000)
	// The next process begins where this one can have come to.
	m.add(-time.Hour - time.Minute)
	c = open()
	expect(c, 10000)
	m.add(2 * time.Second)
	expect(c, 11000)
	// One that starts later than any ceiling begins at the machine's time.
	m.add(time.Hour)
	c = open()
	expect(c, m.now().UnixMilli()-testNow)
}

// Run keeps the ceiling ahead, through a store that fails for a while.
func TestClockRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := faultkv.Wrap(memory.New(memory.Config{}), faultkv.Config{})
		c, err := OpenClock(t.Context(), ClockConfig{Store: store, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		runCtx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(runCtx) }()
		last := c.Now()
		for i := range 100 {
			switch i {
			case 30:
				store.Script(faultkv.Lost, faultkv.Applied, faultkv.Conflict)
			case 50:
				store.Script(faultkv.Unavailable, faultkv.Unavailable)
			case 70:
				store.FailReads(2)
			}
			time.Sleep(time.Second)
			if now := c.Now(); now != time.Now().UnixMilli() || now < last {
				t.Fatalf("second %d: %d, want %d", i, now, time.Now().UnixMilli())
			} else {
				last = now
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if c, err = OpenClock(t.Context(), ClockConfig{Store: store}); err != nil || c.Now() < last || c.Now() > last+10_000 {
			t.Errorf("next process: %d after %d, %v", c.Now(), last, err)
		}
		// Two processes on one store: both have ceilings that are stored.
		other, err := OpenClock(t.Context(), ClockConfig{Store: store, Wall: func() time.Time { return time.Now().Add(-time.Hour) }})
		if err != nil || other.Now() < c.Now() {
			t.Errorf("other process: %d, %v", other.Now(), err)
		}
	})
}

func TestOpenClockFails(t *testing.T) {
	store := faultkv.Wrap(memory.New(memory.Config{}), faultkv.Config{})
	store.Script(faultkv.Unavailable)
	if _, err := OpenClock(ctx, ClockConfig{Store: store}); !errors.Is(err, kv.ErrUnavailable) {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := OpenClock(ended, ClockConfig{Store: store}); err == nil {
		t.Error("opened with an ended context")
	}
	var tx kv.Tx
	tx.Set(Keys{}.StoreRow(nil, "clock"), []byte{1})
	store.Commit(ctx, &tx)
	if _, err := OpenClock(ctx, ClockConfig{Store: store}); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

// A tombstone never covers what was written by somebody who knew of the leaving.
func TestInboxLeave(t *testing.T) {
	w := newWorld(t)
	inbox := NewInbox(w.Store, w.keys)
	leave := func(raw []byte, left uint64) error {
		var tx kv.Tx
		ok, err := inbox.Leave(&tx, "alice", conv, raw, left, testNow)
		w.must(err)
		if !ok {
			if len(tx.Ops()) != 0 {
				t.Error("nothing to write, and written")
			}
			return errors.New("nothing")
		}
		w.Commit(ctx, &tx)
		return tx.Err
	}
	if err := leave(nil, 5); err == nil {
		t.Error("a tombstone of nothing")
	}
	w.commit(func(tx *kv.Tx) { inbox.Replace(tx, "alice", conv, nil, &UserSide{AsOfSeq: 4, Pinned: true}) })
	_, raw, err := inbox.Get(ctx, "alice", conv)
	w.must(err)
	// A join that comes between reading and writing wins.
	w.commit(func(tx *kv.Tx) { inbox.Replace(tx, "alice", conv, raw, &UserSide{AsOfSeq: 9}) })
	if err := leave(raw, 5); !errors.Is(err, kv.ErrConflict) {
		t.Errorf("late tombstone: %v", err)
	}
	row, raw, err := inbox.Get(ctx, "alice", conv)
	if err != nil || row.Tombstone || row.AsOfSeq != 9 {
		t.Errorf("%+v, %v", row, err)
	}
	for left, want := range map[uint64]bool{5: false, 9: false} {
		if err := leave(raw, left); (err == nil) != want {
			t.Errorf("left at %d: %v", left, err)
		}
	}
	if err := leave(raw, 10); err != nil {
		t.Error(err)
	}
	row, _, err = inbox.Get(ctx, "alice", conv)
	if err != nil || row != (UserSide{AsOfSeq: 10, Changed: testNow, Tombstone: true}) {
		t.Errorf("%+v, %v", row, err)
	}
	if row, raw, err = inbox.Get(ctx, "bob", conv); err != nil || raw != nil || row != (UserSide{}) {
		t.Errorf("a row of nobody: %+v, %v", row, err)
	}
}

func TestMembersGet(t *testing.T) {
	w := newWorld(t)
	members := NewMembers(w.Store, w.keys)
	want := Member{Role: 3, MutedUntil: 9, Intervals: []Interval{{Joined: 1}}}
	w.commit(func(tx *kv.Tx) { members.Put(tx, conv, "alice", &want) })
	if m, ok, err := members.Get(ctx, conv, "alice"); err != nil || !ok || !bytes.Equal(m.Append(nil), want.Append(nil)) {
		t.Errorf("%+v, %v, %v", m, ok, err)
	}
	if m, ok, err := members.Get(ctx, conv, "alic"); err != nil || ok {
		t.Errorf("%+v, %v, %v", m, ok, err)
	}
	w.commit(func(tx *kv.Tx) { putCursor(tx, w.keys, conv, "alice", &Cursor{RecvSeq: 7}) })
	if c, err := cursorOf(w.Store, w.keys, conv, "alice"); err != nil || c.RecvSeq != 7 {
		t.Errorf("%+v, %v", c, err)
	}
}

func (w *world) idRows(c id.ConversationID) (n int) {
	prefix := w.keys.IDRows(nil, c)
	w.must(w.Scan(ctx, kv.Span{Start: prefix, End: append(slices.Clone(prefix), bytes.Repeat([]byte{0xFF}, 20)...)}, func(_, _ []byte) (bool, error) {
		n++
		return true, nil
	}))
	return n
}

func TestSweepIDs(t *testing.T) {
	w := newWorld(t)
	convs := []id.ConversationID{conv, group, id.Self("alice"), id.Self("bob")}
	const rows = 600 // more than one transaction removes
	for _, c := range convs[:3] {
		w.create(c)
		w.ms = testNow
		for range rows {
			w.append(c, "x")
			w.ms += 1000 - 1
		}
	}
	w.commit(func(tx *kv.Tx) { // rows of other kinds between them
		tx.Set(w.keys.OutboxMark(nil, convs[3]), (&OutboxMark{FromSeq: 1}).Append(nil))
		tx.Set(w.keys.UserSide(nil, "alice", conv), (&UserSide{}).Append(nil))
		tx.Set(w.keys.IDs(nil, convs[3], 5, 1), AppendIDs(nil, []IDEntry{{1, 1, 1}})) // and ids without a head
	})
	s := NewSweeper(SweeperConfig{Store: w.Store, Keys: w.keys, Logger: quiet})
	if n, done, err := s.SweepIDs(ctx, 0, 10); err != nil || n != 0 || !done {
		t.Errorf("before the beginning: %d, %v, %v", n, done, err)
	}
	// One conversation a call.
	removed, calls := 0, 0
	for done := false; !done; calls++ {
		n, d, err := s.SweepIDs(ctx, testNow+500*1000+999, 1)
		w.must(err)
		removed, done = removed+n, d
	}
	if removed != 3*500 || calls != 5 {
		t.Errorf("%d rows removed by %d calls", removed, calls)
	}
	for _, c := range convs[:3] {
		h, _, err := w.Head(ctx, c)
		if n := w.idRows(c); err != nil || n != rows-500 || h.IDFloor != testNow+500*1000 {
			t.Errorf("%d rows left, floor %d, %v", n, h.IDFloor-testNow, err)
		}
	}
	if n, done, err := s.SweepIDs(ctx, testNow+500*1000, 99); err != nil || n != 0 || !done {
		t.Errorf("again: %d, %v, %v", n, done, err)
	}
	headless := "error: conversation " + convs[3].String() + ": "
	w.audit(headless+"it has rows but no head", headless+"an outbox mark from seq 1 on", headless+"an id of second 5 is said to be of message 1")
}

// Ids are removed only over the head that was read: an owner that appends meanwhile makes
// the sweep read again, or leave the conversation alone.
func TestSweepIDsFence(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	w.append(conv, "x")
	fault := faultkv.Wrap(w.Store, faultkv.Config{})
	s := NewSweeper(SweeperConfig{Store: fault, Keys: w.keys, Logger: quiet})
	fault.Script(faultkv.Conflict, faultkv.Lost, faultkv.Conflict)
	if n, done, err := s.SweepIDs(ctx, testNow+9000, 9); err != nil || n != 0 || !done || w.idRows(conv) != 1 {
		t.Errorf("always beaten: %d, %v, %v", n, done, err)
	}
	fault.Script(faultkv.Unavailable)
	if _, _, err := s.SweepIDs(ctx, testNow+9000, 9); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("unavailable: %v", err)
	}
	for done := false; !done; {
		_, d, err := s.SweepIDs(ctx, testNow+9000, 9)
		w.must(err)
		done = d
	}
	fault.Script(faultkv.Full, faultkv.Conflict)
	if n, _, err := s.SweepIDs(ctx, testNow+9000, 9); err != nil || w.idRows(conv) != 0 {
		t.Errorf("full, then beaten once: %d, %v", n, err)
	}
	fault.FailReads(50)
	if _, _, err := s.SweepIDs(ctx, testNow+9000, 9); !errors.Is(err, kv.ErrUnavailable) {
		t.Errorf("unreadable: %v", err)
	}
}

func TestSweepBusLog(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	for range 3000 {
		w.commit(func(tx *kv.Tx) {
			ref := BusRef{Conversation: conv, Epoch: 1, FirstSeq: 1, Count: 1}
			tx.SetStamped(w.keys.BusRefs(nil, 0), ref.Append(nil))
		})
	}
	w.commit(func(tx *kv.Tx) { tx.SetStamped(w.keys.BusRefs(nil, 1), []byte{1}) })
	var stamps []uint64
	refs := func() []uint64 {
		stamps = stamps[:0]
		prefix := w.keys.BusRefs(nil, 0)
		w.must(w.Scan(ctx, kv.Span{Start: prefix, End: w.keys.BusRefs(nil, 1)}, func(key, _ []byte) (bool, error) {
			stamps = append(stamps, stampOf(key))
			return true, nil
		}))
		return stamps
	}
	first := refs()[0]
	position := func(group string, partition uint16, stamp uint64) {
		w.commit(func(tx *kv.Tx) { tx.Set(w.keys.BusPosition(nil, group, partition), AppendBusPosition(nil, stamp)) })
	}
	s := NewSweeper(SweeperConfig{Store: w.Store, Keys: w.keys, BusKeep: 100})
	sweep := func(want int) {
		t.Helper()
		if n, err := s.SweepBusLog(ctx, 0); err != nil || n != want {
			t.Errorf("removed %d, want %d, %v", n, want, err)
		}
	}
	sweep(0) // nobody consumes
	position("fanout", 0, first+1999)
	position("push", 0, first+49)
	position("push", 1, first)
	sweep(50)
	if got := refs(); got[0] != first+50 {
		t.Errorf("first reference %d, want %d", got[0], first+50)
	}
	// A group that is dead holds only so much.
	bounded := NewSweeper(SweeperConfig{Store: w.Store, Keys: w.keys, BusKeep: 100, BusMost: 2900})
	if n, err := bounded.SweepBusLog(ctx, 0); err != nil || n != 50 {
		t.Errorf("removed %d of a dead group's, %v", n, err)
	}
	position("push", 0, first+5000)
	sweep(1900)
	position("fanout", 0, first+5000)
	sweep(900) // the newest are kept
	sweep(0)
	if got := refs(); len(got) != 100 || got[0] != first+2900 {
		t.Errorf("%d references left from %d", len(got), got[0]-first)
	}
	w.commit(func(tx *kv.Tx) { tx.Set(w.keys.BusPosition(nil, "broken", 0), []byte{1}) })
	if _, err := s.SweepBusLog(ctx, 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("over a position that can't be read: %v", err)
	}
}

func TestSweeperRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.create(conv)
		for range 50 {
			w.append(conv, "x")
			w.commit(func(tx *kv.Tx) { tx.Set(w.keys.BusPosition(nil, "fanout", 0), AppendBusPosition(nil, math.MaxUint32)) })
		}
		fault := faultkv.Wrap(w.Store, faultkv.Config{})
		s := NewSweeper(SweeperConfig{
			Store: fault, Keys: w.keys, Logger: quiet, BusKeep: 10,
			Now: func() int64 { return testNow + IDWindow.Milliseconds() + 10_000 },
		})
		runCtx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(runCtx) }()
		time.Sleep(9 * time.Second)
		fault.FailReads(1) // warns, and comes again
		time.Sleep(3 * time.Hour)
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		refs := 0
		w.must(w.Scan(ctx, kv.Span{Start: w.keys.BusRefs(nil, 0), End: w.keys.BusRefs(nil, 1)}, func(_, _ []byte) (bool, error) {
			refs++
			return true, nil
		}))
		if n := w.idRows(conv); n != 0 || refs != 10 {
			t.Errorf("%d rows of ids, %d references left", n, refs)
		}
	})
	if s := NewSweeper(SweeperConfig{}); s == nil {
		t.Error("no defaults")
	}
}

func TestUnread(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	for range 30 {
		w.append(conv, "a", "b", "c")
	}
	for _, c := range []struct {
		after, to uint64
		user      id.UserID
		limit     int
		want      int
	}{
		{0, 90, "bob", 0, 90}, {0, 90, "alice", 0, 0}, {0, 90, "bob", 7, 7}, {88, 90, "bob", 9, 2}, {90, 90, "bob", 9, 0},
		{90, 200, "bob", 9, 0}, {1, 2, "bob", 0, 1}, {10, 5, "bob", 0, 0}, {0, math.MaxUint64, "bob", 100, 90},
	} {
		if n, err := w.Unread(ctx, conv, c.after, c.to, c.user, c.limit); err != nil || n != c.want {
			t.Errorf("above %d up to %d, %s: %d, want %d, %v", c.after, c.to, c.user, n, c.want, err)
		}
	}
	for seq, want := range map[uint64]uint64{0: 0, 1: 1, 45: 45, 90: 90, 91: 90, 1000: 90} {
		if n, err := w.CountableAt(ctx, conv, seq); err != nil || n != want {
			t.Errorf("countable at %d: %d, want %d, %v", seq, n, want, err)
		}
	}
	w.commit(func(tx *kv.Tx) { tx.Delete(w.keys.Segment(nil, conv, 45)) })
	if n, err := w.Unread(ctx, conv, 0, 90, "bob", 0); !errors.Is(err, ErrCorrupt) {
		t.Errorf("over a hole: %d, %v", n, err)
	}
}

// Who is mentioned where: one's own messages, recalled ones and those that retention removed are no mentions.
func TestMentioning(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	mentions := NewMentions(w.Store, w.keys)
	var want, everyone []uint64
	for i := range uint64(700) {
		w.append(conv, "a", "b") // by alice
		seq := 2*i + 1 + i%2
		user := id.UserID("bob")
		if i%3 == 0 {
			user = ""
			everyone = append(everyone, seq)
		}
		want = append(want, seq)
		w.commit(func(tx *kv.Tx) {
			mentions.Put(tx, conv, user, seq)
			if i%9 == 0 { // by name, too
				mentions.Put(tx, conv, "bob", seq)
			}
		})
	}
	check := func(user id.UserID, from, to uint64, unread bool, limit int, want []uint64) {
		t.Helper()
		got, err := w.Mentioning(ctx, conv, user, from, to, unread, limit)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s, %d to %d: %d of %d, %v", user, from, to, len(got), len(want), err)
		}
	}
	check("bob", 1, 2000, true, 0, want)
	check("bob", 1, 2000, true, 300, want[:300])
	check("bob", want[7], want[600], false, 0, want[7:601])
	check("carol", 1, 1400, true, 0, everyone)
	check("alice", 1, 1400, true, 0, nil) // her own
	check("bob", 9, 8, true, 0, nil)
	check("bob", 1401, 1500, true, 0, nil)
	recalled := packet.AppendChanged(nil, want[1], id.MakeMessageID(testNow, 0, 1), "alice", 9, 0, makeTail(w.cid(testNow), 1, nil))
	w.commit(func(tx *kv.Tx) { w.must(w.Rewrite(ctx, tx, conv, want[1], recalled, false)) })
	rest := slices.Delete(slices.Clone(want), 1, 2)
	check("bob", 1, 2000, true, 0, rest)
	check("bob", 1, 2000, false, 0, rest)
	h, raw, err := w.Head(ctx, conv)
	w.must(err)
	w.commit(func(tx *kv.Tx) {
		_, err := w.Trim(ctx, tx, conv, raw, &h, 101, 1000)
		w.must(err)
	})
	check("bob", 1, 2000, true, 0, slices.DeleteFunc(rest, func(seq uint64) bool { return seq <= 100 }))
}

func ExampleFinding() {
	fmt.Println(Finding{Severity: Warning, Conversation: id.ConversationID{2, 1}, User: "alice", Text: "the user's list has a conversation that does not exist"})
	fmt.Println(Finding{Severity: Info, Text: "nothing"})
	// Output:
	// warning: conversation 02010000000000000000000000000000: user "alice": the user's list has a conversation that does not exist
	// info: nothing
}
