package fanout

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the model tests; 0: any")

// hall is a group and everybody's devices: its log, who was in it when, who is connected,
// the audience, and what each connection was sent.
type hall struct {
	t    testing.TB
	conv id.ConversationID

	mu       sync.Mutex
	rnd      *rand.Rand
	log      []move // by seq-1; a message moves nobody
	stays    map[id.UserID][][2]uint64
	size     int
	sessions map[id.UserID][]*device
	conns    map[uint64]*device
	open     bool
	audience map[uint64]*device
	closed   int // times that the audience was
	looked   int // sessions looked up one by one
	forget   int // chance in 100 that memory doesn't reach back
	flaky    int // chance in 100 that members can't be read
	now      time.Time
}

// device is one connection and what came over it.
type device struct {
	user   id.UserID
	conn   uint64
	synced uint64   // head that was read after registering: up to here it pulled what is the user's
	got    []uint64 // seqs delivered
	pulled uint64   // highest HINT
	hints  int
	sent   map[uint64]bool
}

func newHall(t testing.TB, seed uint64) *hall {
	return &hall{
		t: t, conv: id.NewGroup(), rnd: rand.New(rand.NewPCG(seed, 1)), stays: map[id.UserID][][2]uint64{},
		sessions: map[id.UserID][]*device{}, conns: map[uint64]*device{}, audience: map[uint64]*device{}, now: time.Unix(1_800_000_000, 0),
	}
}

// within reports whether user sees seq. w.mu is held, as in all that follow.
func (w *hall) within(user id.UserID, seq uint64) bool {
	for _, iv := range w.stays[user] {
		if seq >= iv[0] && (iv[1] == 0 || seq <= iv[1]) {
			return true
		}
	}
	return false
}

func (w *hall) member(user id.UserID) bool {
	iv := w.stays[user]
	return len(iv) > 0 && iv[len(iv)-1][1] == 0
}

func (w *hall) append(joined, left []id.UserID) uint64 {
	seq := uint64(len(w.log) + 1)
	w.log = append(w.log, move{seq, joined, left})
	for _, u := range joined {
		w.stays[u] = append(w.stays[u], [2]uint64{seq, 0})
	}
	for _, u := range left {
		w.stays[u][len(w.stays[u])-1][1] = seq
	}
	w.size += len(joined) - len(left)
	return seq
}

func (w *hall) fails() error {
	if w.flaky > 0 && w.rnd.IntN(100) < w.flaky {
		return fmt.Errorf("the store is away")
	}
	return nil
}

// What a Handler asks.

func (w *hall) Members(context.Context, id.ConversationID) ([]id.UserID, error) {
	panic("not of a group")
}

func (w *hall) Recipients(_ context.Context, _ id.ConversationID, first, last uint64) (users []id.UserID, to uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	to = last
	for seq := first; seq <= to; seq++ {
		if mv := w.log[seq-1]; len(mv.joined) > 0 && seq > first {
			to = seq - 1
		} else if len(mv.left) > 0 {
			to = seq
		}
	}
	for u := range w.stays {
		if w.within(u, first) {
			users = append(users, u)
		}
	}
	return users, to, w.fails()
}

func (w *hall) Moves(_ context.Context, _ id.ConversationID, first, last uint64, fn func(seq uint64, joined, left []id.UserID)) (int, bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.fails(); err != nil {
		return 0, false, err
	}
	if w.forget > 0 && w.rnd.IntN(100) < w.forget {
		return w.size, false, nil
	}
	for _, mv := range w.log[first-1 : min(last, uint64(len(w.log)))] {
		if len(mv.joined)+len(mv.left) > 0 {
			fn(mv.seq, mv.joined, mv.left)
		}
	}
	return w.size, true, nil
}

func (w *hall) Stays(_ context.Context, _ id.ConversationID, user id.UserID, seq uint64) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, iv := range w.stays[user] {
		if iv[0] <= seq && (iv[1] == 0 || iv[1] > seq) {
			return true, nil
		}
	}
	return false, nil
}

func (w *hall) Has(_ context.Context, _ id.ConversationID, user id.UserID) (bool, int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.member(user), w.size, nil
}

func (w *hall) Size(id.ConversationID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size
}

func (w *hall) Gather(_ context.Context, users []id.UserID, conns []uint64, ends []int) ([]uint64, []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range users {
		w.looked++
		for _, d := range w.sessions[u] {
			conns = append(conns, d.conn)
		}
		ends = append(ends, len(conns))
	}
	return conns, ends
}

func (w *hall) DeliverUsers([]id.UserID, []byte, uint64) { w.t.Error("everybody is known") }

func (w *hall) Deliver(conn uint64, f []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d := w.conns[conn]; d != nil {
		w.take(d, f)
	}
}

func (w *hall) DeliverLazily(conn uint64, f []byte) { w.Deliver(conn, f) }

func (w *hall) Flush() {}

func (w *hall) take(d *device, b []byte) {
	f, n, err := frame.Parse(b, frame.DefaultMax)
	if err != nil || n != len(b) {
		w.t.Errorf("a frame of %d bytes: %d, %v", len(b), n, err)
		return
	}
	if f.Type == frame.Hint {
		h, err := packet.DecodeHint(f.Body)
		if err != nil || len(h.Heads) != 1 {
			w.t.Errorf("HINT %+v, %v", h, err)
			return
		}
		d.hints++
		d.pulled = max(d.pulled, h.Heads[0].Seq)
		return
	}
	conv, _, ms, err := packet.DecodeDeliver(f.Body)
	if err != nil || conv != w.conv {
		w.t.Errorf("DELIVER of %s: %v", conv, err)
		return
	}
	for len(ms) > 0 {
		v, rest, err := packet.NextMessage(ms)
		if err != nil {
			w.t.Error(err)
			return
		}
		d.got, ms = append(d.got, v.Seq), rest
	}
}

func (w *hall) Range(_ context.Context, conv id.ConversationID, from, to uint64, limit, _ int) ([]byte, uint64, uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	to = min(to, uint64(len(w.log)), from+uint64(limit)-1)
	return messages(conv, from, to), from, to, w.fails()
}

// hallAudiences is the audience of a hall.
type hallAudiences struct{ *hall }

func (a hallAudiences) Open(id.ConversationID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open = true
}

func (a hallAudiences) Close(id.ConversationID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open = false
	a.closed++
	clear(a.audience)
}

func (a hallAudiences) Join(_ id.ConversationID, users []id.UserID) {
	for _, u := range users {
		a.mu.Lock() // one by one: others come in between
		for _, d := range a.sessions[u] {
			if a.open {
				a.audience[d.conn] = d
			}
		}
		a.mu.Unlock()
	}
}

func (a hallAudiences) Leave(_ id.ConversationID, users []id.UserID) {
	for _, u := range users {
		a.mu.Lock()
		for _, d := range a.sessions[u] {
			delete(a.audience, d.conn)
		}
		a.mu.Unlock()
	}
}

func (a hallAudiences) Deliver(_ id.ConversationID, last uint64, frames []byte, ends []int, but []uint64, _ bool) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.audience {
		from := 0
		for i, end := range ends {
			if but[i] != d.conn {
				a.take(d, frames[from:end])
			}
			from = end
		}
	}
	return len(a.audience)
}

func (a hallAudiences) Seats() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.audience)
}

// What happens in it.

func (w *hall) handler(change ...func(*Config)) *Handler {
	w.t.Helper()
	cfg := Config{
		Members: w, Sessions: w, Deliver: w, Timeline: w, Groups: w, Audiences: hallAudiences{w}, LargeGroup: 8, Idle: time.Minute,
		Now:    func() time.Time { w.mu.Lock(); defer w.mu.Unlock(); return w.now },
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(&cfg)
	}
	h, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	return h
}

// connect is what a CONNECT does, in its order: register, say so, read the head.
func (w *hall) connect(h *Handler, user id.UserID, conn uint64) *device {
	d := &device{user: user, conn: conn, sent: map[uint64]bool{}}
	w.mu.Lock()
	w.sessions[user] = append(w.sessions[user], d)
	w.conns[conn] = d
	w.mu.Unlock()
	if err := h.Connected(context.Background(), user, []id.ConversationID{id.Direct("a", "b"), w.conv, id.NewGroup()}); err != nil {
		w.t.Error(err)
	}
	w.mu.Lock()
	d.synced = uint64(len(w.log))
	w.mu.Unlock()
	return d
}

func (w *hall) disconnect(d *device) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sessions[d.user] = slices.DeleteFunc(w.sessions[d.user], func(o *device) bool { return o == d })
	delete(w.conns, d.conn)
	delete(w.audience, d.conn)
}

// advance moves the clock.
func (w *hall) advance(by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(by)
}

// events cuts from..to at random, as appends are, some of them with the connection that sent them.
func (w *hall) events(from, to uint64) (evs []bus.Event) {
	for from <= to {
		last := min(to, from+uint64(w.rnd.IntN(4)))
		ev := event(w.conv, from, last, 0)
		if w.rnd.IntN(2) == 0 {
			for conn, d := range w.conns { // any will do
				if conn%3 == 0 {
					ev.Origin = conn
					for seq := from; seq <= last; seq++ {
						d.sent[seq] = true
					}
					break
				}
			}
		}
		evs, from = append(evs, ev), last+1
	}
	return evs
}

// check compares what d has with what it should have, all events having been handled.
// It may have been sent some of what it pulled when it connected, too. pulls: it pulls what lies in a gap.
func (w *hall) check(d *device, ordered, pulls bool) {
	w.t.Helper()
	had := map[uint64]bool{}
	last := uint64(0)
	for _, seq := range d.got {
		switch {
		case !w.within(d.user, seq):
			w.t.Errorf("%s was sent %d, stays %v", d.user, seq, w.stays[d.user])
		case ordered && (had[seq] || d.sent[seq]): // what is healed goes to whoever sent it, too
			w.t.Errorf("%s (%d) was sent %d again", d.user, d.conn, seq)
		case ordered && seq < last:
			w.t.Errorf("%s was sent %d after %d", d.user, seq, last)
		}
		had[seq], last = true, max(seq, last)
	}
	if pulls {
		d.pulled = max(d.pulled, last)
	}
	for seq := d.synced + 1; seq <= uint64(len(w.log)); seq++ {
		if w.within(d.user, seq) && !had[seq] && !d.sent[seq] && seq > d.pulled {
			w.t.Errorf("%s (%d, connected at %d) misses %d, stays %v; a HINT told of %d", d.user, d.conn, d.synced, seq, w.stays[d.user], d.pulled)
		}
	}
}

// Groups grow and shrink across the threshold while people write, come, go, come again,
// connect and disconnect, at the same time as events are handled. Each device has exactly
// the messages of its user's stays.
func TestLargeGroupsModel(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	for _, tc := range []struct {
		name          string
		forget, flaky int
		lossy         bool
		budget        int
	}{
		{name: "as it should be"},
		{name: "memory that forgets", forget: 20},
		{name: "members that can't be read", flaky: 15, forget: 5},
		{name: "a bus that loses, repeats and reorders", lossy: true, forget: 5},
		{name: "a budget", budget: 40},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for round := range uint64(12) {
				play(t, seed+round, func(w *hall) { w.forget, w.flaky = tc.forget, tc.flaky }, tc.lossy, tc.budget)
				if t.Failed() {
					t.Fatalf("round %d", round)
				}
			}
		})
	}
}

func play(t *testing.T, seed uint64, set func(*hall), lossy bool, budget int) {
	w := newHall(t, seed)
	set(w)
	h := w.handler(func(c *Config) { c.Budget = budget })
	const people = 24
	user := func(i int) id.UserID { return id.UserID(fmt.Sprint("u", i)) }
	var devices []*device
	var all []*device
	next := uint64(1)
	handled := uint64(0)
	ctx := t.Context()
	rnd := rand.New(rand.NewPCG(seed, 2))
	for i := range 10 {
		w.append([]id.UserID{user(i)}, nil)
	}
	for step := range 60 {
		// What is stored meanwhile: the group grows in the first half of each 20 steps and shrinks in the second.
		w.mu.Lock()
		for range rnd.IntN(6) {
			var joined, left []id.UserID
			for range rnd.IntN(3) {
				u := user(rnd.IntN(people))
				switch in := w.member(u); {
				case slices.Contains(joined, u) || slices.Contains(left, u):
				case !in && (step%20 < 10 || rnd.IntN(4) == 0):
					joined = append(joined, u)
				case in && w.size > 2 && (step%20 >= 10 || rnd.IntN(4) == 0):
					left = append(left, u)
				}
			}
			if rnd.IntN(3) > 0 {
				joined, left = nil, nil // a message
			}
			w.append(joined, left)
		}
		to := handled + uint64(rnd.IntN(len(w.log)-int(handled)+1)) // lags behind
		evs := w.events(handled+1, to)
		w.mu.Unlock()
		handled = to
		if lossy {
			evs = slices.DeleteFunc(evs, func(bus.Event) bool { return rnd.IntN(8) == 0 })
			for i := range evs {
				if rnd.IntN(6) == 0 && i > 0 {
					evs[i], evs[i-1] = evs[i-1], evs[i]
				}
				if rnd.IntN(8) == 0 {
					evs = append(evs, evs[i])
				}
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for len(evs) > 0 {
				n := min(1+int(step%5), len(evs))
				if err := h.Handle(ctx, evs[:n]); err != nil {
					t.Error(err)
				}
				evs = evs[n:]
			}
			if step%7 == 0 {
				w.advance(500 * time.Millisecond)
				h.Heal(ctx)
			}
		})
		if step%3 == 0 { // an edge asks who belongs to it
			wg.Go(func() {
				fill := func(users []id.UserID) { hallAudiences{w}.Join(w.conv, users) }
				if err := h.Fill(ctx, w.conv, fill); err != nil && w.flaky == 0 {
					t.Error(err)
				}
			})
		}
		var mu sync.Mutex
		for range rnd.IntN(5) {
			u, conn := user(rnd.IntN(people)), next
			next++
			wg.Go(func() {
				d := w.connect(h, u, conn)
				mu.Lock()
				defer mu.Unlock()
				devices, all = append(devices, d), append(all, d)
			})
		}
		mu.Lock()
		if n := len(devices); n > 10 {
			i := rnd.IntN(n)
			d := devices[i]
			devices = slices.Delete(devices, i, i+1)
			wg.Go(func() { w.disconnect(d) })
		}
		mu.Unlock()
		wg.Wait()
		if step == 45 { // quiet for long
			w.advance(2 * time.Minute)
			h.Heal(ctx)
		}
	}
	w.mu.Lock()
	ordered := !lossy && w.flaky == 0 && budget == 0
	w.flaky, w.forget = 0, 0
	evs := w.events(handled+1, uint64(len(w.log)))
	w.append(nil, nil) // so that the last gap shows
	evs = append(evs, w.events(uint64(len(w.log)), uint64(len(w.log)))...)
	w.mu.Unlock()
	if err := h.Handle(ctx, evs); err != nil {
		t.Fatal(err)
	}
	for range 12 {
		w.advance(6 * time.Second)
		h.Heal(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range devices {
		w.check(d, ordered, lossy)
	}
	for _, d := range all {
		for _, seq := range d.got {
			if !w.within(d.user, seq) {
				t.Errorf("%s was sent %d, stays %v", d.user, seq, w.stays[d.user])
			}
		}
	}
	if s := h.Stats(); s.GivenUp > 0 {
		t.Errorf("gave up %d times", s.GivenUp)
	}
	if s := h.Stats(); s.Opened == 0 || w.closed == 0 || s.Audiences > 1 {
		t.Errorf("the group was not large and small again: %+v", s)
	}
}

// Where a group is fanned out elsewhere its size tells that it is large.
func TestLargeBySize(t *testing.T) {
	w := newHall(t, 1)
	h := w.handler()
	for _, c := range []struct {
		size int
		want bool
	}{{0, false}, {8, false}, {9, true}} {
		if w.size = c.size; h.Large(w.conv) != c.want {
			t.Errorf("with %d members large is %v", c.size, !c.want)
		}
	}
}
