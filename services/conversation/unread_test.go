package conversation

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/faultkv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// counting counts the segments that are read.
type counting struct {
	kv.Store
	rows int
}

func (c *counting) Scan(ctx context.Context, span kv.Span, fn func(k, v []byte) (bool, error)) error {
	return c.Store.Scan(ctx, span, func(k, v []byte) (bool, error) {
		c.rows++
		return fn(k, v)
	})
}

// Somebody who sends a lot and reads nothing costs one long count, not one each time,
// and the numbers stay exact.
func TestUnreadOfThoseWhoOnlySend(t *testing.T) {
	store := &counting{Store: adapters["memory"](t)}
	w := newWorld(t, store)
	conv := w.say("user", "bot", 1).Conversation
	send := func(n int) {
		for range n / 250 {
			w.say("bot", "user", 250)
		}
	}
	look := func(want uint32, rows int) {
		t.Helper()
		store.rows = 0
		st, err := w.svc.State(w.ctx, alive("bot"), conv)
		if err != nil || st.Unread != want {
			t.Fatalf("%d unread, want %d, %v", st.GetUnread(), want, err)
		}
		if store.rows > rows {
			t.Fatalf("%d rows read, want at most %d", store.rows, rows)
		}
	}
	send(20_000)
	look(1, 1000)
	look(1, 20)
	send(1_000)
	look(1, 40)
	w.say("user", "bot", 2)
	look(3, 40)
	send(10_000)
	look(3, 200)
	look(3, 30)
	if _, n, err := w.svc.Read(w.ctx, alive("bot"), conv, 1); err != nil || n != 2 {
		t.Fatalf("%d unread, %v", n, err)
	}
	look(2, 200)
	look(2, 20)
	if _, n, err := w.svc.Read(w.ctx, alive("bot"), conv, 21_003); err != nil || n != 0 {
		t.Fatalf("%d unread, %v", n, err)
	}
	look(0, 20) // 10,000 of its own above
	send(5000)
	look(0, 200)
	look(0, 20)
	for range UnreadCap + 7 {
		w.say("user", "bot", 1)
	}
	look(UnreadCap, 300)
	w.serve()
	look(UnreadCap, 300)
	if read, n, err := w.svc.Read(w.ctx, alive("bot"), conv, 1<<40); err != nil || n != 0 || read != 36_003+UnreadCap+7 {
		t.Fatalf("read up to %d, %d unread, %v", read, n, err)
	}
	look(0, 1)
}

// Random senders in long runs against a plain count, with steps in between that only
// read.
func TestUnreadOfLongRuns(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 7))
	w := newWorld(t, adapters["memory"](t))
	conv := w.say("a", "b", 1).Conversation
	by := []id.UserID{"a"}
	for range 120 {
		u, n := id.UserID("a"), 1+rng.IntN(5)
		if rng.IntN(4) > 0 {
			u, n = "b", 100+rng.IntN(2000)
		}
		other := id.UserID("b")
		if u == "b" {
			other = "a"
		}
		for range n {
			by = append(by, u)
		}
		w.say(u, other, n)
		st, err := w.svc.State(w.ctx, alive("b"), conv)
		if err != nil {
			t.Fatal(err)
		}
		count := func(read uint64) (n uint32) {
			for _, s := range by[read:] {
				if s != "b" {
					n++
				}
			}
			return min(n, UnreadCap)
		}
		if want := count(st.ReadSeq); st.Unread != want {
			t.Fatalf("%d unread of %d, want %d", st.Unread, len(by), want)
		}
		if rng.IntN(5) == 0 {
			seq := rng.Uint64N(uint64(len(by)) + 1)
			read, n, err := w.svc.Read(w.ctx, alive("b"), conv, seq)
			if err != nil || read != max(seq, st.ReadSeq) || n != count(read) {
				t.Fatalf("read %d: %d, %d unread, want %d, %v", seq, read, n, count(read), err)
			}
		}
	}
}

// A recalled message is unread no more, for whoever has not read it.
func TestUnreadAfterRecall(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	conv := w.say("a", "b", 5).Conversation
	h, raw, err := w.seq.timeline.Head(w.ctx, conv)
	if err != nil {
		t.Fatal(err)
	}
	tx := new(kv.Tx)
	m := message("")
	if err := w.seq.timeline.Rewrite(w.ctx, tx, conv, 3, packet.AppendChanged(nil, 3, id.MakeMessageID(start, 1, 0), "a", 6, 0, m.Tail), false); err != nil {
		t.Fatal(err)
	}
	var b msgstore.SegmentBuilder
	b.Reset(6, h.Countable)
	change := packet.AppendChanged(nil, 6, id.MakeMessageID(start, 1, 0), "a", 0, 3, []byte{5 << 3, 64})
	b.Add(len(change), false)
	h.LastSeq = 6
	w.seq.timeline.Append(tx, conv, raw, &h, b.Segments(change), nil)
	w.commit(tx)
	for _, tc := range []struct {
		read   uint64
		unread uint32
	}{{0, 4}, {2, 2}, {3, 2}, {4, 1}, {5, 0}, {6, 0}} {
		read, n, err := w.svc.Read(w.ctx, alive("b"), conv, tc.read)
		if err != nil || read != tc.read || n != tc.unread {
			t.Errorf("read %d: %d, %d unread, want %d, %v", tc.read, read, n, tc.unread, err)
		}
	}
}

func TestCursorsBounds(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	conv := w.say("a", "b", 5).Conversation
	state := func(read, recv uint64) {
		t.Helper()
		for range 2 { // as announced, and as stored
			st, err := w.svc.State(w.ctx, alive("b"), conv)
			if err != nil || st.ReadSeq != read || st.RecvSeq != recv {
				t.Fatalf("read %d received %d, want %d and %d, %v", st.GetReadSeq(), st.GetRecvSeq(), read, recv, err)
			}
			peer, err := w.svc.State(w.ctx, alive("a"), conv)
			if err != nil || peer.PeerReadSeq != read || peer.PeerRecvSeq != recv {
				t.Fatalf("peer: read %d received %d, want %d and %d, %v", peer.GetPeerReadSeq(), peer.GetPeerRecvSeq(), read, recv, err)
			}
			if err := w.svc.Flush(w.ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	state(0, 0)
	w.svc.Received(alive("b"), conv, 0)
	w.svc.Received(alive("b"), conv, 3)
	state(0, 3)
	w.svc.Received(alive("b"), conv, 2)
	state(0, 3)
	w.svc.Seen(conv, "b", 4)
	state(4, 4)
	w.svc.Received(alive("b"), conv, 99)
	state(4, 5)
	w.svc.Seen(conv, "b", 1)
	state(4, 5)
	if read, _, err := w.svc.Read(w.ctx, alive("b"), conv, 2); err != nil || read != 4 {
		t.Fatalf("read %d %v", read, err)
	}
	w.say("a", "b", 3)
	if read, _, err := w.svc.Read(w.ctx, alive("b"), conv, 7); err != nil || read != 7 {
		t.Fatalf("read %d %v", read, err)
	}
	row, err := w.store.Get(w.ctx, keys.Cursor(nil, conv, "b"))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := msgstore.ParseCursor(row); err != nil || c != (msgstore.Cursor{ReadSeq: 7, ReadCountable: 7, RecvSeq: 7, Changed: start}) {
		t.Fatalf("stored: %+v %v", c, err)
	}
	// A stranger leaves nothing behind.
	w.svc.Received(alive("mallory"), conv, 3)
	w.svc.Received(alive("b"), id.NewGroup(), 3)
	if err := w.svc.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	if row, err := w.store.Get(w.ctx, keys.Cursor(nil, conv, "mallory")); err != nil || row != nil {
		t.Fatalf("mallory's cursor: %x %v", row, err)
	}
	// Who left a group can't move beyond that.
	group := w.group(9, map[id.UserID][]msgstore.Interval{"gone": {{Joined: 2, Left: 6}}})
	if read, n, err := w.svc.Read(w.ctx, alive("gone"), group, 4); err != nil || read != 4 || n != 2 {
		t.Fatalf("read %d, %d unread, %v", read, n, err)
	}
	if read, n, err := w.svc.Read(w.ctx, alive("gone"), group, 9); err != nil || read != 6 || n != 0 {
		t.Fatalf("read %d, %d unread, %v", read, n, err)
	}
}

// While cursors are being written, whoever looks sees where they are going.
func TestCursorsBeingWritten(t *testing.T) {
	faults := faultkv.Wrap(adapters["memory"](t), faultkv.Config{})
	w := newWorld(t, faults)
	conv := w.say("a", "b", 5).Conversation
	w.svc.Received(alive("b"), conv, 3)
	thaw := faults.Freeze()
	done := make(chan error)
	go func() { done <- w.svc.Flush(w.ctx) }()
	if err := faults.AwaitFrozen(w.ctx, 1); err != nil {
		t.Fatal(err)
	}
	w.svc.Seen(conv, "b", 2)
	if st, err := w.svc.State(w.ctx, alive("b"), conv); err != nil || st.RecvSeq != 3 || st.ReadSeq != 2 || st.Unread != 3 {
		t.Fatalf("%+v %v", st, err)
	}
	thaw()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if st, err := w.svc.State(w.ctx, alive("b"), conv); err != nil || st.RecvSeq != 3 || st.ReadSeq != 2 {
		t.Fatalf("%+v %v", st, err)
	}
}

// With too many positions waiting, the newest are dropped and a later one makes up for it.
func TestCursorsAreBounded(t *testing.T) {
	w := newWorld(t, adapters["memory"](t), func(c *Config) { c.Cursors = 4 * cursorShards })
	conv := w.say("a", "b", 5).Conversation
	for range 100 * cursorShards {
		w.svc.Received(alive("a"), id.NewGroup(), 1)
	}
	select {
	case <-w.svc.cursors.full:
	default:
		t.Fatal("nobody was told that it is getting full")
	}
	n := 0
	for i := range w.svc.cursors.shards {
		n += len(w.svc.cursors.shards[i].waiting)
	}
	if n > 4*cursorShards {
		t.Fatalf("%d wait", n)
	}
	if err := w.svc.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.svc.Received(alive("b"), conv, 5)
	if err := w.svc.Flush(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.serve()
	if st, err := w.svc.State(w.ctx, alive("b"), conv); err != nil || st.RecvSeq != 5 {
		t.Fatalf("%+v %v", st, err)
	}
}

// What can't be stored now waits; what Run was told is stored when it ends.
func TestRunWritesInTheEnd(t *testing.T) {
	base := adapters["memory"](t)
	faults := faultkv.Wrap(base, faultkv.Config{})
	w := newWorld(t, faults)
	conv := w.say("a", "b", 5).Conversation
	w.svc.Received(alive("b"), conv, 3)
	for _, f := range []faultkv.Fault{faultkv.Lost, faultkv.Conflict, faultkv.Unavailable, faultkv.Full} {
		again := f == faultkv.Lost || f == faultkv.Conflict // tried a number of times
		faults.Script(f)
		for range maxTurns - 1 {
			if again {
				faults.Script(f)
			}
		}
		if err := w.svc.Flush(w.ctx); again == (err != nil) {
			t.Fatalf("%v: %v", f, err)
		}
		if row, err := base.Get(w.ctx, keys.Cursor(nil, conv, "b")); err != nil || row != nil {
			t.Fatalf("%v: %x %v", f, row, err)
		}
	}
	faults.FailReads(1)
	if err := w.svc.Flush(w.ctx); err == nil {
		t.Fatal("flushed without reading")
	}
	if st, err := w.svc.State(w.ctx, alive("b"), conv); err != nil || st.RecvSeq < 3 {
		t.Fatalf("%+v %v", st, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.svc.Run(ctx) }()
	w.svc.Received(alive("b"), conv, 4)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	w.serve()
	if st, err := w.svc.State(w.ctx, alive("b"), conv); err != nil || st.RecvSeq != 4 {
		t.Fatalf("%+v %v", st, err)
	}
}

func TestErrorsAreCodes(t *testing.T) {
	base := adapters["memory"](t)
	w := newWorld(t, base)
	conv := w.say("a", "b", 5).Conversation
	if err := base.Close(); err != nil {
		t.Fatal(err)
	}
	o := alive("a")
	_, err := w.svc.Sync(w.ctx, o, conv, 1, 0, 0, nil)
	wantCode(t, err, code.Unavailable)
	_, err = w.svc.History(w.ctx, o, conv, 0, 0, nil)
	wantCode(t, err, code.Unavailable)
	_, err = w.svc.State(w.ctx, o, conv)
	wantCode(t, err, code.Unavailable)
	_, _, err = w.svc.Read(w.ctx, o, conv, 1)
	wantCode(t, err, code.Unavailable)
	_, _, _, err = w.svc.Inbox(w.ctx, o, 0, "", 0)
	wantCode(t, err, code.Unavailable)
	_, err = w.svc.OpenDirect(w.ctx, o, "c")
	wantCode(t, err, code.Unavailable)
	_, err = w.svc.Rules(w.ctx, id.NewGroup())
	wantCode(t, err, code.Unavailable)
	_, err = w.svc.Members(w.ctx, id.NewGroup())
	wantCode(t, err, code.Unavailable)
	_, err = w.svc.Users(w.ctx, id.NewGroup())
	wantCode(t, err, code.Unavailable)
	w.svc.Received(o, conv, 1)
	if err := w.svc.Flush(w.ctx); err == nil {
		t.Fatal("a closed store took cursors")
	}
}

func TestCorruptRows(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	conv := w.say("a", "b", 5).Conversation
	bad := func(key []byte) {
		tx := new(kv.Tx)
		tx.Set(key, []byte{1, 0xFF})
		w.commit(tx)
	}
	bad(keys.Cursor(nil, conv, "b"))
	_, err := w.svc.State(w.ctx, alive("b"), conv)
	wantCode(t, err, code.Internal)
	_, _, err = w.svc.Read(w.ctx, alive("b"), conv, 2)
	wantCode(t, err, code.Internal)
	_, _, _, err = w.svc.Inbox(w.ctx, alive("a"), uint64(w.clock.Add(1)), "", 0)
	wantCode(t, err, code.Internal)
	w.svc.Received(alive("b"), conv, 2)
	if err := w.svc.Flush(w.ctx); err != nil { // dropped: it would never go through
		t.Fatal(err)
	}
	bad(keys.Member(nil, conv, "b"))
	w.serve()
	_, err = w.svc.State(w.ctx, alive("a"), conv)
	wantCode(t, err, code.Internal)
	bad(keys.UserSide(nil, "a", conv))
	_, _, _, err = w.svc.Inbox(w.ctx, alive("a"), 0, "", 0)
	wantCode(t, err, code.Internal)
	bad(keys.Head(nil, conv))
	_, err = w.svc.OpenDirect(w.ctx, alive("a"), "b")
	wantCode(t, err, code.Internal)
}

func TestConfig(t *testing.T) {
	store := adapters["memory"](t)
	for _, c := range []Config{{}, {Store: store}, {Store: store, Users: &users{}, Conversations: -5}, {Store: store, Users: &users{}, Creators: -1}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	if _, err := New(Config{Store: store, Users: &users{}}); err != nil {
		t.Error(err)
	}
}
