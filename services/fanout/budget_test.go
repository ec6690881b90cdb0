package fanout

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
)

// Over its budget a group is told of messages, at most once a second, and once more when
// it is quiet; those who leave meanwhile are told on their way out. Large or small, it is the same.
func TestBudget(t *testing.T) {
	for name, large := range map[string]int{"looked up": 100, "audience": 2} {
		t.Run(name, func(t *testing.T) {
			w := newHall(t, 1)
			h := w.handler(func(c *Config) { c.LargeGroup, c.Budget = large, 6 })
			w.append([]id.UserID{"ann", "ben", "cat"}, nil) // 1
			ann, ben, cat := w.connect(h, "ann", 1), w.connect(h, "ben", 2), w.connect(h, "cat", 3)
			handle := func(seqs ...uint64) {
				t.Helper()
				for _, seq := range seqs {
					if err := h.Handle(t.Context(), []bus.Event{event(w.conv, seq, seq, 0)}); err != nil {
						t.Fatal(err)
					}
				}
			}
			stands := func(what string, d *device, hints int, pulled uint64, got ...uint64) {
				t.Helper()
				if d.hints != hints || d.pulled != pulled || !slices.Equal(d.got, got) {
					t.Errorf("%s: %s was sent %v and %d HINTs, the last of %d, want %v, %d, %d", what, d.user, d.got, d.hints, d.pulled, got, hints, pulled)
				}
			}
			for range 7 {
				w.append(nil, nil) // 2 to 8
			}
			handle(1, 2, 3, 4, 5) // three copies each: it holds two and is used up
			stands("a burst", ann, 1, 3, 1, 2)
			w.advance(400 * time.Millisecond) // 2.4 copies back
			handle(6, 7)
			stands("some of it is back", ann, 1, 3, 1, 2, 6)
			w.append(nil, []id.UserID{"ben"}) // 9
			handle(8, 9)
			stands("who leaves", ben, 2, 9, 1, 2, 6)
			stands("others wait", ann, 1, 3, 1, 2, 6)
			h.Heal(t.Context())
			stands("not within a second", ann, 1, 3, 1, 2, 6)
			w.advance(600 * time.Millisecond)
			h.Heal(t.Context())
			stands("after a second", ann, 2, 9, 1, 2, 6)
			stands("after a second", cat, 2, 9, 1, 2, 6)
			again := map[bool]int{true: 2, false: 3}[large == 2] // who left with the last message is one of those it was for
			stands("who left", ben, again, 9, 1, 2, 6)
			w.advance(time.Minute)
			h.Heal(t.Context())
			stands("once", ann, 2, 9, 1, 2, 6)
			if len(h.owe.byConv) != 0 {
				t.Error("the account of a quiet group is kept")
			}
			w.append(nil, nil) // 10
			handle(10)
			stands("later", ann, 2, 9, 1, 2, 6, 10)
			if s := h.Stats(); s.Hinted != 2 || (s.Opened > 0) != (large == 2) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Budgets and what makes a group large change between two events; a budget that ends owes nobody anything.
func TestThresholdsChange(t *testing.T) {
	w := newHall(t, 1)
	h := w.handler(func(c *Config) { c.LargeGroup = 100 })
	w.append([]id.UserID{"ann", "ben", "cat"}, nil) // 1
	ann := w.connect(h, "ann", 1)
	for range 9 {
		w.append(nil, nil) // 2 to 10
	}
	next := uint64(0)
	handle := func(n int, opened uint64, got ...uint64) {
		t.Helper()
		for range n {
			next++
			if err := h.Handle(t.Context(), []bus.Event{event(w.conv, next, next, 0)}); err != nil {
				t.Fatal(err)
			}
		}
		if s := h.Stats(); !slices.Equal(ann.got, got) || s.Opened != opened {
			t.Errorf("after %d: was sent %v, %d audiences were opened; want %v, %d", next, ann.got, s.Opened, got, opened)
		}
	}
	set := func(to Thresholds) {
		t.Helper()
		if err := h.SetThresholds(to); err != nil {
			t.Fatal(err)
		}
	}
	handle(2, 0, 1, 2)
	set(Thresholds{LargeGroup: 100, Budget: 1})
	handle(3, 0, 1, 2, 3) // one copy, then it is used up
	set(Thresholds{LargeGroup: 100})
	handle(1, 0, 1, 2, 3, 6)
	for range 2 { // it is told of what it wasn't sent, and forgotten
		w.advance(time.Minute)
		h.Heal(t.Context())
	}
	if len(h.owe.byConv) != 0 || ann.pulled != 5 {
		t.Errorf("%d accounts are kept though there is no budget; ann was told of %d", len(h.owe.byConv), ann.pulled)
	}
	set(Thresholds{LargeGroup: 2})
	handle(2, 1, 1, 2, 3, 6, 7, 8)
	for _, bad := range []Thresholds{{}, {LargeGroup: 1}, {LargeGroup: 2, Budget: -1}, {LargeGroup: 2, RoomBudget: -1}} {
		if h.SetThresholds(bad) == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// nobody is audiences that count.
type nobody struct{ delivered, frames int }

func (n *nobody) Open(id.ConversationID)               {}
func (n *nobody) Close(id.ConversationID)              {}
func (n *nobody) Join(id.ConversationID, []id.UserID)  {}
func (n *nobody) Leave(id.ConversationID, []id.UserID) {}
func (n *nobody) Seats() int                           { return 0 }
func (n *nobody) Deliver(_ id.ConversationID, _ uint64, _ []byte, ends []int, _ []uint64, _ bool) int {
	n.delivered++
	n.frames += len(ends)
	return 1
}

// steady is a large group in which nobody moves.
type steady struct{ users []id.UserID }

func (s *steady) Recipients(_ context.Context, _ id.ConversationID, _, last uint64) ([]id.UserID, uint64, error) {
	return s.users, last, nil
}

func (s *steady) Moves(context.Context, id.ConversationID, uint64, uint64, func(uint64, []id.UserID, []id.UserID)) (int, bool, error) {
	return len(s.users), true, nil
}

func (s *steady) Size(id.ConversationID) int { return 0 }

func (s *steady) Stays(context.Context, id.ConversationID, id.UserID, uint64) (bool, error) {
	return true, nil
}

func (s *steady) Has(context.Context, id.ConversationID, id.UserID) (bool, int, error) {
	return true, len(s.users), nil
}

// What gathers in a batch for a large group is one delivery: messages of one connection
// in one frame, in pieces that queues hold; and nothing is allocated for it.
func TestBatchesForAudiences(t *testing.T) {
	w := newWorld()
	ns := &nobody{}
	group := id.NewGroup()
	h := w.handler(t, func(c *Config) {
		c.Groups, c.Audiences, c.LargeGroup = &steady{make([]id.UserID, 10)}, ns, 5
	})
	seq := uint64(0)
	batch := func(origins ...uint64) (evs []bus.Event) {
		for _, o := range origins {
			seq++
			evs = append(evs, event(group, seq, seq, o))
		}
		return evs
	}
	handle := func(evs []bus.Event, delivered, frames int) {
		t.Helper()
		*ns = nobody{}
		if err := h.Handle(t.Context(), evs); err != nil {
			t.Fatal(err)
		}
		if ns.delivered != delivered || ns.frames != frames {
			t.Errorf("%d events: %d deliveries of %d frames, want %d of %d", len(evs), ns.delivered, ns.frames, delivered, frames)
		}
	}
	handle(batch(1), 1, 1)
	handle(batch(1, 1, 0, 0, 2, 1, 1), 1, 4)
	handle(batch(make([]uint64, 300)...), 1, 1)
	handle(batch(make([]uint64, 2000)...), 2, 2) // more than 48 KiB
	var mixed []uint64
	for i := range uint64(40) {
		mixed = append(mixed, i+1)
	}
	handle(batch(mixed...), 3, 40)

	evs := batch(1, 1, 0, 2, 2)
	if n := testing.AllocsPerRun(100, func() {
		for i := range evs {
			evs[i].FirstSeq, evs[i].LastSeq = seq+uint64(i)+1, seq+uint64(i)+1
		}
		seq += uint64(len(evs))
		if err := h.Handle(t.Context(), evs); err != nil {
			t.Error(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations for a batch", n)
	}
}

// crowded are audiences of three each.
type crowded struct {
	nobody
	seats int
}

func (c *crowded) Open(id.ConversationID)  { c.seats += 3 }
func (c *crowded) Close(id.ConversationID) { c.seats -= 3 }
func (c *crowded) Seats() int              { return c.seats }

// Seats are bounded: the audiences unused the longest make room, the busiest stays.
func TestAudiencesAreBounded(t *testing.T) {
	w := newWorld()
	h := w.handler(t, func(c *Config) {
		c.Groups, c.Audiences, c.LargeGroup, c.Seats = &steady{make([]id.UserID, 3)}, &crowded{}, 2, 7
	})
	groups := []id.ConversationID{id.NewGroup(), id.NewGroup(), id.NewGroup(), id.NewGroup()}
	say := func(i int, seq uint64) {
		t.Helper()
		w.now = w.now.Add(time.Second)
		if err := h.Handle(t.Context(), []bus.Event{event(groups[i], seq, seq, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	open := func(what string, want ...bool) {
		t.Helper()
		for i, g := range groups {
			if h.Large(g) != want[i] {
				t.Errorf("%s: group %d open: %v", what, i, !want[i])
			}
		}
	}
	for i := range 3 {
		say(i, 1)
	}
	open("nine seats", true, true, true, false)
	say(0, 2)
	say(3, 1)
	open("the oldest makes room", true, false, true, true)
	h.cfg.Seats = 2
	h.Heal(t.Context())
	open("the only one left is larger than the bound", false, false, false, true)
	w.now = w.now.Add(time.Hour)
	h.Heal(t.Context())
	open("idle", false, false, false, false)
	if s := h.Stats(); s.Opened != 4 || s.Audiences != 0 {
		t.Errorf("%+v", s)
	}
}

// three is a room that three listen in.
type three struct{ frames, longest int }

func (r *three) Deliver(_ id.ConversationID, _ []byte, ends []int, _ []uint64) int {
	from := 0
	for _, end := range ends {
		r.longest, from = max(r.longest, end-from), end
	}
	r.frames += len(ends)
	return 3
}

// What a room was brought while there was no budget isn't owed when there is one.
func TestABudgetOfRoomsBeginsAnew(t *testing.T) {
	w, r := newWorld(), &three{}
	h := w.handler(t, func(c *Config) { c.Rooms = r })
	conv := id.Named(id.KindRoom, "lobby")
	for seq := uint64(1); seq <= 104; seq++ {
		switch seq {
		case 101:
			if err := h.SetThresholds(Thresholds{LargeGroup: 2, RoomBudget: 6}); err != nil {
				t.Fatal(err)
			}
		case 104:
			w.now = w.now.Add(time.Second)
		}
		if err := h.Handle(t.Context(), []bus.Event{event(conv, seq, seq, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	if left := h.Stats().LeftOut; r.frames != 103 || left != 1 {
		t.Errorf("%d were delivered and %d left out, want 103 and 1", r.frames, left)
	}
}

// What is said in a room at once goes into frames that clients take.
func TestFramesOfARoomHaveASize(t *testing.T) {
	w, r := newWorld(), &three{}
	h := w.handler(t, func(c *Config) { c.Rooms, c.MaxFrame = r, 400 })
	conv := id.Named(id.KindRoom, "lobby")
	var evs []bus.Event
	for seq := uint64(1); seq <= 40; seq += 2 {
		evs = append(evs, event(conv, seq, seq+1, 0))
	}
	if err := h.Handle(t.Context(), evs); err != nil {
		t.Fatal(err)
	}
	if r.frames < 2 || r.longest > 400 {
		t.Errorf("%d frames of up to %d bytes", r.frames, r.longest)
	}
}

// A group pays for each message once, also if an event of many is cut into several frames.
func TestCutEventsArePaidForOnce(t *testing.T) {
	w := newHall(t, 1)
	h := w.handler(func(c *Config) { c.LargeGroup, c.Budget, c.MaxFrame = 100, 1000, 400 })
	w.append([]id.UserID{"ann", "ben", "cat"}, nil) // 1
	ann := w.connect(h, "ann", 1)
	w.connect(h, "ben", 2)
	for range 39 {
		w.append(nil, nil)
	}
	if err := h.Handle(t.Context(), []bus.Event{event(w.conv, 1, 40, 0)}); err != nil {
		t.Fatal(err)
	}
	if left := h.owe.byConv[w.conv].left; len(ann.got) != 40 || left != 1000-2*40 {
		t.Errorf("%d messages came, %v of the budget is left", len(ann.got), left)
	}
}
