package fanout

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// world is everything around a Handler, in plain maps.
type world struct {
	mu       sync.Mutex
	members  map[id.ConversationID][]id.UserID
	sessions map[id.UserID][]uint64
	unknown  map[id.UserID]bool // may have others than those

	everywhere map[id.UserID][]uint64 // which are these
	gathered   int                    // look-ups
	stored     map[id.ConversationID]stored
	fail       error // of Members
	failRead   error // of Range
	got        map[uint64][]byte
	flushes    int
	now        time.Time
}

type stored struct{ first, last uint64 }

func newWorld() *world {
	return &world{
		members: map[id.ConversationID][]id.UserID{}, sessions: map[id.UserID][]uint64{},
		stored: map[id.ConversationID]stored{}, got: map[uint64][]byte{}, now: time.Unix(1_800_000_000, 0),
	}
}

func (w *world) Members(_ context.Context, conv id.ConversationID) ([]id.UserID, error) {
	return w.members[conv], w.fail
}

func (w *world) Gather(_ context.Context, users []id.UserID, conns []uint64, ends []int) ([]uint64, []int) {
	for _, u := range users {
		conns = append(conns, w.sessions[u]...)
		if w.unknown[u] {
			conns = append(conns, 0)
		}
		ends = append(ends, len(conns))
	}
	w.gathered++
	return conns, ends
}

func (w *world) DeliverUsers(users []id.UserID, f []byte, but uint64) {
	for _, u := range users {
		for _, c := range append(w.everywhere[u], w.sessions[u]...) {
			if c != but {
				w.Deliver(c, f)
			}
		}
	}
}

func (w *world) Deliver(conn uint64, f []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got[conn] = append(w.got[conn], f...)
}

func (w *world) DeliverLazily(conn uint64, f []byte) { w.Deliver(conn, f) }

func (w *world) Flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushes++
}

func (w *world) Range(_ context.Context, conv id.ConversationID, from, to uint64, limit, maxBytes int) ([]byte, uint64, uint64, error) {
	if w.failRead != nil {
		return nil, from, from - 1, w.failRead
	}
	s := w.stored[conv]
	to = min(to, s.last)
	if to < from {
		return nil, from, from - 1, nil
	}
	first := max(from, s.first)
	if first > to {
		return nil, from, to, nil
	}
	to = min(to, first+uint64(limit)-1, first+9) // short pages, so that there are several
	return messages(conv, first, to), from, to, nil
}

// messages encodes from..to as they are stored.
func messages(conv id.ConversationID, from, to uint64) []byte {
	var out []byte
	for seq := from; seq <= to; seq++ {
		text := fmt.Sprintf("%x:%d", conv[14:], seq)
		tail := append([]byte{5 << 3, 1, 6<<3 | 2, byte(len(text))}, text...)
		out = packet.AppendMessage(out, seq, id.MakeMessageID(1_800_000_000_000, 1, uint32(seq)), "alice", tail)
	}
	return out
}

func event(conv id.ConversationID, from, to, origin uint64) bus.Event {
	return bus.Event{Conversation: conv, Epoch: 1, FirstSeq: from, LastSeq: to, Messages: messages(conv, from, to), Origin: origin}
}

func (w *world) handler(t testing.TB, change ...func(*Config)) *Handler {
	t.Helper()
	cfg := Config{Members: w, Sessions: w, Deliver: w, Timeline: w, Now: func() time.Time { return w.now }, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// take returns the seqs that conn was sent since the last call, after checking frames and bodies.
func (w *world) take(t testing.TB, conn uint64) []uint64 {
	t.Helper()
	w.mu.Lock()
	b := w.got[conn]
	delete(w.got, conn)
	w.mu.Unlock()
	var out []uint64
	for len(b) > 0 {
		f, n, err := frame.Parse(b, frame.DefaultMax)
		if err != nil || n == 0 || f.Type != frame.Deliver {
			t.Fatalf("frame %v: %d %v", f.Type, n, err)
		}
		b = b[n:]
		conv, users, ms, err := packet.DecodeDeliver(f.Body)
		if err != nil {
			t.Fatal(err)
		}
		want := w.members[conv]
		if conv.Kind() == id.KindDirect && (string(users[0]) != string(want[0]) || string(users[1]) != string(want[len(want)-1])) ||
			conv.Kind() != id.KindDirect && users[0] != nil {
			t.Fatalf("users %q, members %q", users, want)
		}
		for len(ms) > 0 {
			v, rest, err := packet.NextMessage(ms)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(ms[:len(ms)-len(rest)], messages(conv, v.Seq, v.Seq)) {
				t.Fatalf("message %d was changed", v.Seq)
			}
			out, ms = append(out, v.Seq), rest
		}
	}
	return out
}

var direct = id.Direct("alice", "bob")

// chat is alice on two devices and bob on one.
func chat() *world {
	w := newWorld()
	w.members[direct] = []id.UserID{"alice", "bob"}
	w.sessions["alice"], w.sessions["bob"] = []uint64{1, 2}, []uint64{3}
	w.stored[direct] = stored{1, 1000}
	return w
}

func TestDelivers(t *testing.T) {
	w := chat()
	h := w.handler(t)
	group := id.NewGroup()
	w.members[group] = []id.UserID{"alice", "bob", "carol"}
	w.sessions["carol"] = []uint64{9}
	self := id.Direct("alice", "alice")
	w.members[self] = []id.UserID{"alice"}
	do := func(evs ...bus.Event) {
		t.Helper()
		if err := h.Handle(t.Context(), evs); err != nil {
			t.Fatal(err)
		}
	}
	want := func(conn uint64, seqs ...uint64) {
		t.Helper()
		if got := w.take(t, conn); !slices.Equal(got, seqs) {
			t.Fatalf("connection %d got %v, want %v", conn, got, seqs)
		}
	}
	do(event(direct, 1, 2, 1), event(direct, 3, 3, 3), event(group, 1, 1, 0))
	want(1, 3, 1) // not what it sent itself
	want(2, 1, 2, 3, 1)
	want(3, 1, 2, 1)
	want(9, 1)
	if w.flushes != 1 {
		t.Fatalf("%d flushes for one batch", w.flushes)
	}
	do(event(self, 1, 1, 1), event(id.NewGroup(), 1, 1, 0))
	want(1)
	want(2, 1)
	do(event(direct, 1, 3, 0), event(self, 1, 1, 0)) // all of it again
	want(2)
	if w.flushes != 2 {
		t.Fatal("nothing was delivered, but it was flushed")
	}
	do(bus.Event{Conversation: direct, Epoch: 1}, bus.Event{Conversation: direct, Epoch: 1, FirstSeq: 5, LastSeq: 4, Messages: []byte{1}})
	want(3)
	s := h.Stats()
	if s.Events != 5 || s.Repeats != 2 || s.GivenUp != 2 || s.Gaps != 0 || s.Delivered != 3+6 {
		t.Fatalf("%+v", s)
	}
}

func TestSeen(t *testing.T) {
	type step struct {
		epoch       uint64
		first, last uint64
		want        []uint64 // delivered
	}
	one := func(f, l uint64, want ...uint64) step { return step{1, f, l, want} }
	last := uint64(2*maxAbove + 3)
	var many []step // every other one, and then some that were missing: the lowest was given up
	for seq := uint64(1); seq <= last; seq += 2 {
		many = append(many, one(seq, seq, seq))
	}
	many = append(many, one(2, 2), one(4, 4, 4), one(last-1, last-1, last-1), one(last, last+1, last+1))
	for _, tc := range []struct {
		name  string
		steps []step
		gaps  uint64
	}{
		{"in order", []step{one(1, 2, 1, 2), one(3, 3, 3), one(1, 3)}, 0},
		{"begins anywhere", []step{one(50, 50, 50), one(51, 52, 51, 52), one(49, 49, 49), one(49, 50)}, 0},
		{"overlaps", []step{one(1, 4, 1, 2, 3, 4), one(3, 6, 5, 6), one(2, 7, 7)}, 0},
		{"a gap that closes", []step{one(1, 1, 1), one(3, 3, 3), one(3, 3), one(2, 2, 2), one(1, 3), one(4, 4, 4)}, 1},
		{"gaps over gaps", []step{one(1, 1, 1), one(5, 5, 5), one(3, 3, 3), one(9, 9, 9), one(1, 9, 2, 4, 6, 7, 8), one(1, 9)}, 2},
		{"older than the first", []step{one(50, 50, 50), one(10, 12, 10, 11, 12), one(48, 52, 48, 49, 51, 52), one(48, 50)}, 0},
		{"more gaps than are kept", many, maxAbove + 1},
		{"another epoch begins anew", []step{one(7, 8, 7, 8), {2, 3, 4, []uint64{3, 4}}, {2, 5, 5, []uint64{5}}, {1, 9, 9, nil}, {2, 4, 5, nil}}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := chat()
			h := w.handler(t)
			for i, s := range tc.steps {
				ev := event(direct, s.first, s.last, 0)
				ev.Epoch = s.epoch
				if err := h.Handle(t.Context(), []bus.Event{ev}); err != nil {
					t.Fatal(err)
				}
				if got := w.take(t, 3); !slices.Equal(got, s.want) {
					t.Fatalf("step %d: %v delivered, want %v", i, got, s.want)
				}
			}
			if h.Stats().Gaps != tc.gaps {
				t.Fatalf("%d gaps, want %d", h.Stats().Gaps, tc.gaps)
			}
		})
	}
}

// Many gaps don't wait for their age.
func TestManyGapsHealAtOnce(t *testing.T) {
	w := chat()
	h := w.handler(t)
	for seq := uint64(1); seq <= 2*soonAbove+3; seq += 2 {
		if err := h.Handle(t.Context(), []bus.Event{event(direct, seq, seq, 0)}); err != nil {
			t.Fatal(err)
		}
		h.Heal(t.Context())
	}
	if s := h.Stats(); s.Gaps != soonAbove+1 || s.Healed != s.Gaps || s.GivenUp != 0 {
		t.Errorf("%+v", s)
	}
	if got := w.take(t, 3); len(got) != 2*soonAbove+3 {
		t.Errorf("%v", got)
	}
}

func TestGapsHeal(t *testing.T) {
	w := chat()
	h := w.handler(t)
	handle := func(first, last uint64, want ...uint64) {
		t.Helper()
		if err := h.Handle(t.Context(), []bus.Event{event(direct, first, last, 0)}); err != nil {
			t.Fatal(err)
		}
		if got := w.take(t, 3); !slices.Equal(got, want) {
			t.Fatalf("%v delivered, want %v", got, want)
		}
	}
	heal := func(want ...uint64) {
		t.Helper()
		h.Heal(t.Context())
		if got := w.take(t, 3); !slices.Equal(got, want) {
			t.Fatalf("%v healed, want %v", got, want)
		}
	}
	handle(1, 1, 1)
	handle(30, 30, 30)
	w.now = w.now.Add(4 * time.Second)
	handle(35, 35, 35)
	heal() // too young
	w.now = w.now.Add(2 * time.Second)
	w.failRead = errors.New("no store")
	heal()
	w.failRead = nil
	var hole []uint64
	for s := uint64(2); s < 30; s++ {
		hole = append(hole, s)
	}
	heal(hole...)
	heal()
	handle(2, 30)
	w.now = w.now.Add(6 * time.Second)
	heal(31, 32, 33, 34)
	handle(36, 36, 36)
	if len(h.seen.gapped) != 1 {
		t.Fatalf("%d marks with gaps", len(h.seen.gapped))
	}
	heal()
	if len(h.seen.gapped) != 0 {
		t.Fatal("a healed conversation is still looked at")
	}
	// What retention took will not come.
	w.stored[direct] = stored{43, 1000}
	handle(45, 45, 45)
	w.now = w.now.Add(6 * time.Second)
	heal(43, 44)
	handle(37, 42)
	w.stored[direct] = stored{60, 1000}
	handle(55, 55, 55)
	w.now = w.now.Add(6 * time.Second)
	heal()
	handle(46, 54)
	if s := h.Stats(); s.Healed != 4 || s.GivenUp != 0 {
		t.Fatalf("%+v", s)
	}
}

// An append whose recipients can't be found holds up no other, and is tried again.
func TestMembersAway(t *testing.T) {
	w := chat()
	h := w.handler(t)
	group := id.NewGroup()
	w.members[group] = []id.UserID{"bob"}
	w.stored[group] = stored{1, 100}
	if err := h.Handle(t.Context(), []bus.Event{event(direct, 1, 1, 0)}); err != nil {
		t.Fatal(err)
	}
	w.fail = errors.New("no members")
	if err := h.Handle(t.Context(), []bus.Event{event(group, 1, 2, 0), event(direct, 2, 2, 0), event(group, 5, 5, 0)}); err != nil {
		t.Fatal(err)
	}
	if got := w.take(t, 3); !slices.Equal(got, []uint64{1, 2}) {
		t.Fatalf("%v delivered", got)
	}
	h.Heal(t.Context())
	w.fail = nil
	if err := h.Handle(t.Context(), []bus.Event{event(group, 3, 4, 0)}); err != nil {
		t.Fatal(err)
	}
	h.Heal(t.Context())
	got := w.take(t, 3)
	if !slices.Equal(got, []uint64{3, 4, 1, 2, 5}) {
		t.Fatalf("%v delivered", got)
	}
	w.fail = fmt.Errorf("no members: %w", kv.ErrUnavailable)
	if err := h.Handle(t.Context(), []bus.Event{event(group, 6, 6, 0)}); err != nil {
		t.Fatal(err)
	}
	for range maxTries + 1 {
		h.Heal(t.Context())
	}
	if s := h.Stats(); s.GivenUp != 0 || len(h.retry) != 1 {
		t.Fatalf("while the store is away: %+v, %d wait", s, len(h.retry))
	}
	w.fail = errors.New("no members")
	for range maxTries + 1 {
		h.Heal(t.Context())
	}
	if s := h.Stats(); s.GivenUp != 1 || len(h.retry) != 0 {
		t.Fatalf("%+v, %d wait", s, len(h.retry))
	}
	for i := range uint64(maxRetry + 5) {
		if err := h.Handle(t.Context(), []bus.Event{event(group, 10+i, 10+i, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	if s := h.Stats(); s.GivenUp != 6 || len(h.retry) != maxRetry {
		t.Fatalf("%+v, %d wait", s, len(h.retry))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Handle(ctx, []bus.Event{event(group, 6, 6, 0)}); err == nil {
		t.Fatal("done with an event that nobody was told of, though it is only the end")
	}
	h.Heal(ctx)
	if err := h.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestRunHeals(t *testing.T) {
	w := chat()
	h := w.handler(t, func(c *Config) { c.GapAfter = time.Nanosecond; c.Now = time.Now })
	if err := h.Handle(t.Context(), []bus.Event{event(direct, 1, 1, 0), event(direct, 3, 3, 0)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	for h.Stats().Healed == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := w.take(t, 3); !slices.Equal(got, []uint64{1, 3, 2}) {
		t.Fatalf("%v delivered", got)
	}
}

// An event larger than a frame is cut between messages; a message larger than a frame is dropped.
func TestFramesHaveASize(t *testing.T) {
	w := chat()
	h := w.handler(t, func(c *Config) { c.MaxFrame = 400 })
	if err := h.Handle(t.Context(), []bus.Event{event(direct, 1, 40, 0)}); err != nil {
		t.Fatal(err)
	}
	for b := w.got[3]; len(b) > 0; {
		f, n, err := frame.Parse(b, 400)
		if err != nil || n == 0 {
			t.Fatalf("%v %v", f.Type, err)
		}
		b = b[n:]
	}
	if got := w.take(t, 3); len(got) != 40 || got[0] != 1 || got[39] != 40 {
		t.Fatalf("%v delivered", got)
	}
	huge := packet.AppendMessage(nil, 41, 1, "alice", append([]byte{6<<3 | 2, 0xF4, 0x03}, make([]byte, 500)...))
	ev := bus.Event{Conversation: direct, Epoch: 1, FirstSeq: 41, LastSeq: 41, Messages: huge}
	if err := h.Handle(t.Context(), []bus.Event{ev, event(direct, 42, 42, 0)}); err != nil {
		t.Fatal(err)
	}
	if got := w.take(t, 3); !slices.Equal(got, []uint64{42}) {
		t.Fatalf("%v delivered", got)
	}
	// Broken bytes among good ones end their event, and nothing else.
	ev = event(direct, 42, 43, 0)
	ev.Messages = append(messages(direct, 42, 42), 0xFF)
	if err := h.Handle(t.Context(), []bus.Event{ev, event(direct, 44, 44, 0)}); err != nil {
		t.Fatal(err)
	}
	if got := w.take(t, 3); !slices.Equal(got, []uint64{44}) {
		t.Fatalf("%v delivered", got)
	}
}

// The memory of what was seen is bounded, and what is used stays.
func TestSeenIsBounded(t *testing.T) {
	w := newWorld()
	h := w.handler(t, func(c *Config) { c.Conversations = 300 })
	conv := func(i int) id.ConversationID { return id.Direct("alice", id.UserID(fmt.Sprint("u", i))) }
	for i := range 2000 {
		c := conv(i)
		u := id.UserID(fmt.Sprint("u", i))
		w.members[c], w.sessions[u] = []id.UserID{"alice", u}, []uint64{uint64(i + 1)}
		if err := h.Handle(t.Context(), []bus.Event{event(c, 1, 1, 0), event(conv(0), 1, 1, 0), event(conv(0), 5, 5, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(h.seen.byConv); n != 300 || len(h.seen.gapped) != 1 {
		t.Fatalf("%d remembered, %d with gaps", n, len(h.seen.gapped))
	}
	if got := w.take(t, 1); !slices.Equal(got, []uint64{1, 5}) {
		t.Fatalf("%v delivered of a conversation that is always busy", got)
	}
}

// TestModel brings appends repeated, split otherwise, late and not at all, and expects
// that every message is delivered, once.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	for round := range 30 {
		w := newWorld()
		h := w.handler(t)
		var convs []id.ConversationID
		for i := range 5 {
			u := id.UserID(fmt.Sprint("u", i))
			c := id.Direct("alice", u)
			w.members[c], w.sessions[u] = []id.UserID{"alice", u}, []uint64{uint64(i + 1)}
			convs = append(convs, c)
		}
		type part struct{ conv, first, last uint64 }
		var late []part
		count := make([]map[uint64]int, len(convs))
		firsts := make([]uint64, len(convs))
		for i := range convs {
			count[i] = map[uint64]int{}
			firsts[i] = 1 + rng.Uint64N(20)
			w.stored[convs[i]] = stored{1, firsts[i] - 1}
		}
		bring := func(p part) {
			if err := h.Handle(t.Context(), []bus.Event{event(convs[p.conv], p.first, p.last, 0)}); err != nil {
				t.Fatal(err)
			}
		}
		for range 200 {
			w.now = w.now.Add(time.Duration(rng.IntN(1000)) * time.Millisecond)
			i := rng.Uint64N(5)
			s := w.stored[convs[i]]
			p := part{i, s.last + 1, s.last + 1 + rng.Uint64N(6)}
			begun := s.last >= firsts[i]
			s.last = p.last
			w.stored[convs[i]] = s
			switch k := rng.IntN(10); {
			case k == 0 && begun: // never
			case k <= 2 && begun:
				late = append(late, p)
			case k == 3:
				bring(p)
				bring(p)
			case k == 4 && p.last > p.first:
				mid := p.first + (p.last-p.first)/2
				bring(part{i, p.first, mid})
				late = append(late, p)
				bring(part{i, mid + 1, p.last})
			default:
				bring(p)
			}
			if len(late) > 0 && rng.IntN(3) == 0 {
				j := rng.IntN(len(late))
				bring(late[j])
				late = slices.Delete(late, j, j+1)
			}
			if rng.IntN(10) == 0 {
				h.Heal(t.Context())
			}
		}
		for i, c := range convs { // one more each, so that the last gap shows
			s := w.stored[c]
			s.last++
			w.stored[c] = s
			bring(part{uint64(i), s.last, s.last})
		}
		for range 12 {
			w.now = w.now.Add(6 * time.Second)
			h.Heal(t.Context())
		}
		for i, c := range convs {
			for _, seq := range w.take(t, uint64(i+1)) {
				count[i][seq]++
			}
			for seq := firsts[i]; seq <= w.stored[c].last; seq++ {
				if n := count[i][seq]; n != 1 {
					t.Fatalf("round %d conversation %d: message %d was delivered %d times", round, i, seq, n)
				}
			}
		}
	}
}

func TestConfig(t *testing.T) {
	w := newWorld()
	good := Config{Members: w, Sessions: w, Deliver: w, Timeline: w}
	for _, change := range []func(*Config){
		func(c *Config) { c.Members = nil }, func(c *Config) { c.Timeline = nil }, func(c *Config) { c.Conversations = 3 }, func(c *Config) { c.MaxFrame = -1 },
	} {
		c := good
		change(&c)
		if _, err := New(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%v, want ErrConfig", err)
		}
	}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
}
