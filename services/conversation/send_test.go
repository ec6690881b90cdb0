package conversation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func TestFirstMessageMakesTheConversation(t *testing.T) {
	for name, open := range adapters {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, open(t))
			ack := w.say("bob", "alice", 3)
			conv := id.Direct("alice", "bob")
			if ack.Conversation != conv || ack.Seq != 3 {
				t.Fatalf("ack %+v", ack)
			}
			if ack = w.say("alice", "bob", 1); ack.Seq != 4 {
				t.Fatalf("ack %+v", ack)
			}
			for _, u := range []id.UserID{"alice", "bob"} {
				side, raw, err := w.svc.inbox.Get(w.ctx, u, conv)
				if err != nil || raw == nil || side.Changed != start {
					t.Fatalf("side of %s: %+v %v", u, side, err)
				}
			}
			members, err := w.svc.Members(w.ctx, conv)
			if err != nil || !slices.Equal(members, []id.UserID{"alice", "bob"}) {
				t.Fatalf("members %v %v", members, err)
			}
			w.serve() // a new process finds all of it
			if ack = w.say("alice", "bob", 1); ack.Seq != 5 {
				t.Fatalf("after a restart: %+v", ack)
			}
			if users, err := w.svc.Users(w.ctx, conv); err != nil || !slices.Equal(users, []id.UserID{"alice", "bob"}) {
				t.Fatalf("users %v %v", users, err)
			}
			if w.users.asked != 1 {
				t.Fatalf("asked for the user %d times, want once", w.users.asked)
			}
		})
	}
}

func TestNotesToOneself(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	w.say("alice", "alice", 2)
	conv := id.Direct("alice", "alice")
	if m, _ := w.svc.Members(w.ctx, conv); !slices.Equal(m, []id.UserID{"alice"}) {
		t.Fatalf("members %v", m)
	}
	st, err := w.svc.State(w.ctx, alive("alice"), conv)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(st.Users, []string{"alice", "alice"}) || st.LastSeq != 2 || st.Unread != 0 || st.PeerReadSeq != 0 {
		t.Fatalf("state %+v", st)
	}
	if w.users.asked != 0 {
		t.Fatal("the sender exists: nobody needs to be asked")
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	w.users.gone["ghost"] = true
	w.say("alice", "bob", 1)
	one := func(p packet.Pending) *code.Error {
		t.Helper()
		a := newAnswers()
		p.Reply = a
		w.svc.Send([]packet.Pending{p})
		return a.wait(1)[0].err
	}
	from := func(u id.UserID, fill func(p *packet.Pending)) packet.Pending {
		p := message("x")
		p.From = alive(u)
		fill(&p)
		return p
	}
	direct := id.Direct("alice", "bob")
	for _, tc := range []struct {
		name string
		p    packet.Pending
		want code.Code // 0: acked
	}{
		{"nobody of that name", from("alice", func(p *packet.Pending) { p.ToUser = "ghost" }), code.NoSuchUser},
		{"a conversation that isn't there", from("alice", func(p *packet.Pending) { p.Conversation = id.NewGroup() }), code.NoSuchConversation},
		{"a stranger's conversation", from("mallory", func(p *packet.Pending) { p.Conversation = direct }), code.NoSuchConversation},
		{"one's own", from("bob", func(p *packet.Pending) { p.Conversation = direct }), 0},
		{"another device claimed", from("bob", func(p *packet.Pending) { p.Conversation, p.OriginDevice = direct, []byte("desk") }), code.BadRequest},
		{"one's device claimed", from("bob", func(p *packet.Pending) { p.Conversation, p.OriginDevice = direct, []byte("phone") }), 0},
	} {
		err := one(tc.p)
		switch {
		case tc.want == 0 && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.want != 0 && (err == nil || err.Code != tc.want):
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
	w.users.fail = errors.New("accounts are away")
	if err := one(from("alice", func(p *packet.Pending) { p.ToUser = "carol" })); err == nil || err.Code != code.Unavailable {
		t.Errorf("accounts away: %v", err)
	}
	w.users.fail = nil
	if err := one(from("alice", func(p *packet.Pending) { p.ToUser = "carol" })); err != nil {
		t.Errorf("accounts back: %v", err)
	}
	w.svc.Send(nil)
}

// While a conversation is being made, what is sent to it waits in its order, and what
// is sent to others does not.
func TestLaneKeepsItsOrder(t *testing.T) {
	w := newWorld(t, adapters["memory"](t), func(c *Config) { c.Waiting = 40 })
	w.say("alice", "carol", 1)
	gate := make(chan struct{})
	w.users.set(func() { w.users.gate = gate })
	a := newAnswers()
	o := alive("alice")
	for i := range 10 {
		w.svc.Send(batchTo(o, "bob", a, uint32(i*4), 4))
	}
	if ack := w.say("alice", "carol", 1); ack.Seq != 2 {
		t.Fatalf("a known conversation: %+v", ack)
	}
	over := newAnswers()
	w.svc.Send(batchTo(o, "bob", over, 0, 1))
	if err := over.wait(1)[0].err; err == nil || err.Code != code.Overloaded {
		t.Fatalf("one too many: %v", err)
	}
	w.users.set(func() { w.users.gate = nil })
	close(gate)
	for i, x := range a.wait(40) {
		if x.err != nil || x.req != uint32(i) || x.ack.Seq != uint64(i+1) {
			t.Fatalf("answer %d: %+v", i, x)
		}
	}
}

// Whoever waits for a turn behind conversations that take long to be made is refused when its time is over, and
// nothing is looked up for it any more.
func TestTurnThatComesTooLate(t *testing.T) {
	w := newWorld(t, adapters["memory"](t), func(c *Config) { c.Creators = 1 })
	gate := make(chan struct{})
	w.users.set(func() { w.users.gate = gate })
	first, late, next := newAnswers(), newAnswers(), newAnswers()
	w.svc.Send(batchTo(alive("alice"), "bob", first, 0, 1))
	w.svc.Send(batchTo(alive("alice"), "carol", late, 0, 2))
	m := &w.svc.making
	m.mu.Lock()
	c := m.byPair[pairOf("alice", "carol")]
	if c == nil || len(m.queue) == 0 || m.queue[len(m.queue)-1] != c {
		t.Fatal("it has its turn already")
	}
	c.until = c.until.Add(-2 * createTime)
	m.mu.Unlock()
	w.users.set(func() { w.users.gate = nil })
	close(gate)
	if x := first.wait(1)[0]; x.err != nil {
		t.Fatalf("the first: %v", x.err)
	}
	for i, x := range late.wait(2) {
		if x.err == nil || x.err.Code != code.Unavailable || x.req != uint32(i) {
			t.Fatalf("answer %d: %+v", i, x)
		}
	}
	w.svc.Send(batchTo(alive("alice"), "carol", next, 0, 1))
	if x := next.wait(1)[0]; x.err != nil {
		t.Fatalf("in time: %v", x.err)
	}
	w.users.set(func() {
		if w.users.asked != 2 {
			t.Errorf("asked %d times who exists, want once for each message that was in time", w.users.asked)
		}
	})
}

// Everything that waited for a conversation that can't be made is refused, in order,
// and the flush follows.
func TestRefusedTogether(t *testing.T) {
	flushed := make(chan struct{}, 10)
	w := newWorld(t, adapters["memory"](t), func(c *Config) { c.AfterBatch = func() { flushed <- struct{}{} } })
	gate := make(chan struct{})
	w.users.gate, w.users.gone["ghost"] = gate, true
	a := newAnswers()
	for i := range 5 {
		w.svc.Send(batchTo(alive("alice"), "ghost", a, uint32(i), 1))
	}
	close(gate)
	for i, x := range a.wait(5) {
		if x.err == nil || x.err.Code != code.NoSuchUser || x.req != uint32(i) {
			t.Fatalf("answer %d: %+v", i, x)
		}
	}
	<-flushed
}

// Many services on one store, many senders each, the same pairs: one conversation a
// pair, nothing lost, each lane in order.
func TestCreatorsRace(t *testing.T) {
	for name, open := range adapters {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, open(t))
			const nodes, lanes, each = 3, 6, 8
			var wg sync.WaitGroup
			all := make([][]*answers, nodes)
			first := w.svc
			for n := range nodes {
				if n > 0 {
					w.serve()
				}
				svc := w.svc
				for l := range lanes {
					a := newAnswers()
					all[n] = append(all[n], a)
					from, to := id.UserID(fmt.Sprint("u", l/2)), id.UserID("hub")
					if l%2 == 1 {
						from, to = to, from
					}
					wg.Go(func() {
						o := alive(from)
						for i := range each {
							svc.Send(batchTo(o, to, a, uint32(i), 1))
						}
						a.wait(each)
					})
				}
			}
			wg.Wait()
			for n := range nodes {
				for l, a := range all[n] {
					last := uint64(0)
					for i, x := range a.got {
						if x.err != nil || x.req != uint32(i) || x.ack.Seq <= last {
							t.Fatalf("node %d lane %d answer %d: %+v after seq %d", n, l, i, x, last)
						}
						last = x.ack.Seq
					}
				}
			}
			for u := range lanes / 2 {
				conv := id.Direct("hub", id.UserID(fmt.Sprint("u", u)))
				p, err := first.Sync(w.ctx, alive("hub"), conv, 1, 0, MaxPage, nil)
				if err != nil || len(seqs(t, p.Messages)) != nodes*2*each {
					t.Fatalf("pair %d: %d messages, want %d, %v", u, len(seqs(t, p.Messages)), nodes*2*each, err)
				}
			}
		})
	}
}

// A conversation is made whatever way its commits end: senders try again after what
// may be tried again, and in the end there is one, with both sides.
func TestCreateWithFaults(t *testing.T) {
	seed := rand.Uint64()
	base := adapters["memory"](t)
	w := newWorld(t, base)
	if _, err := msgstore.OpenMeta(w.ctx, base, keys, start); err != nil {
		t.Fatal(err)
	}
	faults := faulty(t, base, seed)
	var svcs [2]*Service
	for i := range svcs {
		w.store = faults
		w.serve()
		w.seq.timeline = msgstore.NewTimeline(base, keys)
		w.seq.world = &world{t: t, ctx: w.ctx, store: base, clock: w.clock, ids: w.ids}
		svcs[i] = w.svc
	}
	const pairs = 60
	for p := range pairs {
		a, b := id.UserID(fmt.Sprint("a", p)), id.UserID(fmt.Sprint("b", p))
		for try := 0; ; try++ {
			got := newAnswers()
			svcs[try%2].Send(batchTo(alive(a), b, got, 1, 1))
			svcs[(try+1)%2].Send(batchTo(alive(b), a, got, 2, 1))
			done := 0
			for _, x := range got.wait(2) {
				if x.err == nil {
					done++
					continue
				}
				mayFail(t, p, true, x.err)
			}
			if done == 2 {
				break
			}
		}
	}
	faults.Calm()
	faults.Settle()
	w.store = base
	w.serve()
	for p := range pairs {
		a, b := id.UserID(fmt.Sprint("a", p)), id.UserID(fmt.Sprint("b", p))
		for _, u := range []id.UserID{a, b} {
			states, _ := w.inbox(u, 0, 0)
			if len(states) != 1 || states[0].LastSeq < 2 || !slices.Equal(states[0].Users, []string{string(a), string(b)}) {
				t.Fatalf("%s has %v", u, states)
			}
		}
	}
	if err := msgstore.Check(w.ctx, base, keys, func(f msgstore.Finding) { t.Errorf("audit: %+v", f) }); err != nil {
		t.Fatal(err)
	}
}

func TestShutdownRefuses(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	w.say("alice", "bob", 1)
	gate := make(chan struct{})
	w.users.set(func() { w.users.gate = gate })
	a := newAnswers()
	w.svc.Send(batchTo(alive("alice"), "dave", a, 1, 1))
	w.svc.making.close() // waits for the one under way, which is cut short
	w.svc.Send(batchTo(alive("alice"), "carol", a, 2, 1))
	for i, x := range a.wait(2) {
		if x.err == nil || x.err.Code != code.Unavailable {
			t.Fatalf("answer %d: %+v", i, x)
		}
	}
	if ack := w.say("alice", "bob", 1); ack.Seq != 2 {
		t.Fatalf("a known conversation: %+v", ack)
	}
}

type discard struct{ n int }

func (d *discard) Append(_ id.ConversationID, b []packet.Pending) { d.n += len(b) }

func TestSendAllocatesNothing(t *testing.T) {
	w := newWorld(t, adapters["memory"](t))
	conv := w.say("alice", "bob", 1).Conversation
	w.svc.Bind(new(discard))
	o := alive("alice")
	byUser := batchTo(o, "bob", nil, 1, 4)
	byConv := batchTo(o, "bob", nil, 1, 4)
	for i := range byConv {
		byConv[i].ToUser, byConv[i].Conversation = "", conv
	}
	for name, b := range map[string][]packet.Pending{"to a user": byUser, "to a conversation": byConv} {
		if n := testing.AllocsPerRun(200, func() { w.svc.Send(b) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	rules, err := w.svc.Rules(w.ctx, conv)
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(200, func() { rules.Check(&byUser[0]) }); n != 0 {
		t.Errorf("Check: %v allocations", n)
	}
	w.svc.Received(o, conv, 1)
	if n := testing.AllocsPerRun(200, func() { w.svc.Received(o, conv, 1); w.svc.Seen(conv, o.User, 1) }); n != 0 {
		t.Errorf("Received and Seen: %v allocations", n)
	}
	if n := testing.AllocsPerRun(200, func() {
		if m, err := w.svc.Members(w.ctx, conv); err != nil || len(m) != 2 {
			t.Error(m, err)
		}
	}); n != 0 {
		t.Errorf("Members: %v allocations", n)
	}
}

func BenchmarkSend(b *testing.B) {
	w := newWorld(b, adapters["memory"](b))
	w.say("alice", "bob", 1)
	w.svc.Bind(new(discard))
	batch := batchTo(alive("alice"), "bob", nil, 1, 1)
	b.ReportAllocs()
	for b.Loop() {
		w.svc.Send(batch)
	}
}

func TestCacheForgetsWhatIsNotUsed(t *testing.T) {
	var c cache[uint64, uint64]
	c.init(64 * cacheShards)
	for i := range uint64(64 * cacheShards) {
		c.put(i, i, i)
	}
	for round := range uint64(20) { // two of three are used, one is not
		for i := range uint64(64 * cacheShards) {
			if i/cacheShards%3 != 0 {
				if v, ok := c.get(i, i); !ok || v != i {
					t.Fatalf("round %d: %d forgotten though it is used", round, i)
				}
			}
		}
		for i := range uint64(cacheShards) {
			c.put(i, 1_000_000+round*cacheShards+i, 0)
		}
	}
	c.put(5, 5+cacheShards, 99)
	if v, _ := c.get(5, 5+cacheShards); v != 99 {
		t.Fatalf("put over: %d", v)
	}
}

// writers is a relation service: it forbids what is in it, by "from to".
type writers struct {
	mu     sync.Mutex
	open   map[string]bool // may not begin
	denied map[string]bool // may not write
	fail   error
}

func (w *writers) MayOpen(_ context.Context, from, to id.UserID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open[string(from+" "+to)] {
		return code.New(code.Forbidden)
	}
	return w.fail
}

func (w *writers) Denied(_ context.Context, a, b id.UserID) (ab, ba *code.Error, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.denied[string(a+" "+b)] {
		ab = code.New(code.Forbidden)
	}
	if w.denied[string(b+" "+a)] {
		ba = code.New(code.Forbidden)
	}
	return ab, ba, w.fail
}

func TestWhoMayWrite(t *testing.T) {
	rel := &writers{open: map[string]bool{}, denied: map[string]bool{}}
	w := newWorld(t, adapters["memory"](t), func(c *Config) { c.Writers = rel })
	w.users.gone["ghost"] = true
	say := func(from, to id.UserID) *code.Error {
		t.Helper()
		a := newAnswers()
		w.svc.Send(batchTo(alive(from), to, a, 1, 1))
		return a.wait(1)[0].err
	}
	want := func(err *code.Error, c code.Code) {
		t.Helper()
		if c == 0 && err != nil || c != 0 && (err == nil || err.Code != c) {
			t.Fatalf("got %v, want code %d", err, c)
		}
	}
	rel.open["bob alice"], rel.open["bob ghost"] = true, true
	want(say("bob", "alice"), code.Forbidden)
	_, err := w.svc.OpenDirect(w.ctx, alive("bob"), "alice")
	wantCode(t, err, code.Forbidden)
	want(say("bob", "ghost"), code.Forbidden) // as if there were one
	want(say("alice", "ghost"), code.NoSuchUser)
	if w.users.asked != 1 {
		t.Errorf("%d questions who exists, want one", w.users.asked)
	}
	if m, _ := w.svc.Members(w.ctx, id.Direct("alice", "bob")); m != nil {
		t.Error("a conversation was made for a message that was refused")
	}
	want(say("alice", "bob"), 0) // what is made stands for both
	want(say("bob", "alice"), 0)
	_, err = w.svc.OpenDirect(w.ctx, alive("bob"), "alice")
	if err != nil {
		t.Fatal(err)
	}
	rel.denied["bob alice"] = true
	want(say("bob", "alice"), code.Forbidden)
	want(say("alice", "bob"), 0)
	_, err = w.svc.State(w.ctx, alive("bob"), id.Direct("alice", "bob"))
	if err != nil {
		t.Errorf("who may not write may read: %v", err)
	}
	rel.denied["alice alice"], rel.open["alice alice"] = true, true
	want(say("alice", "alice"), 0) // nobody is asked about notes
	a := newAnswers()
	p := message("x")
	p.From, p.Conversation, p.Reply = alive("mallory"), id.Direct("alice", "bob"), a
	w.svc.Send([]packet.Pending{p})
	want(a.wait(1)[0].err, code.NoSuchConversation) // a stranger isn't told of blocks
	rel.fail = errors.New("relations are away")
	want(say("alice", "bob"), code.Unavailable)
	want(say("alice", "carol"), code.Unavailable)
	rel.fail = nil
	want(say("alice", "carol"), 0)
}
