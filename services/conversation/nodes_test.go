package conversation_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/faultkv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
	"github.com/gochat-im/gochat/services/conversation"
	"github.com/gochat-im/gochat/services/group"
	"github.com/gochat-im/gochat/services/relation"
	"github.com/gochat-im/gochat/services/timeline"
)

var (
	nodesSeed = flag.Uint64("nodes-seed", 0, "seed of the test with several nodes; 0: of the clock")
	nodesRuns = flag.Int("nodes-runs", 1, "runs of the test with several nodes")
)

// queueBus is a bus that lies apart: what it took, in order, behind a door for each node.
type queueBus struct {
	mu    sync.Mutex
	taken map[id.ConversationID]map[uint64]bool
}

const busQueues = 4

// door is one node's way to the bus, and to those who take from it.
type door struct {
	bus *queueBus

	mu     sync.Mutex
	fail   bool // Publish
	took   bool // although it fails
	dead   [busQueues]bool
	direct map[id.ConversationID]map[uint64]bool
}

func noted(m map[id.ConversationID]map[uint64]bool, evs []bus.Event) {
	for i := range evs {
		c := evs[i].Conversation
		if m[c] == nil {
			m[c] = map[uint64]bool{}
		}
		for seq := evs[i].FirstSeq; seq <= evs[i].LastSeq; seq++ {
			m[c][seq] = true
		}
	}
}

func (d *door) Enlist(*kv.Tx, *bus.Event) bool { return false }

func (d *door) Publish(_ context.Context, evs []bus.Event) error {
	d.mu.Lock()
	fail, took := d.fail, d.took
	d.mu.Unlock()
	if !fail || took {
		d.bus.mu.Lock()
		noted(d.bus.taken, evs)
		d.bus.mu.Unlock()
	}
	if fail {
		return errors.New("the bus is away")
	}
	return nil
}

func (d *door) handDirectly(evs []bus.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	noted(d.direct, evs)
}

func (d *door) Queues() int                      { return busQueues }
func (d *door) Queue(conv id.ConversationID) int { return int(conv[15]) % busQueues }

func (d *door) Alive(queue int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.dead[queue]
}

func (d *door) Passed(_ context.Context, _ int, conv id.ConversationID, _, seq uint64) (bool, error) {
	return d.bus.has(conv, seq), nil
}

func (b *queueBus) has(conv id.ConversationID, seq uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taken[conv][seq]
}

func (d *door) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// stack is one node: all services on its own way to the store.
type stack struct {
	store     *faultkv.Store
	door      *door
	convs     *conversation.Service
	groups    *group.Service
	relations *relation.Service
	seq       *timeline.Sequencer
	held      atomic.Bool // its worker number
	stop      func()
}

type groupChanges struct{ seq *timeline.Sequencer }

func (c groupChanges) Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*group.Change, error)) (uint64, error) {
	return c.seq.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*timeline.Change, error) {
		ch, err := plan(ctx, h)
		if ch == nil {
			return nil, err
		}
		return &timeline.Change{Sender: ch.Sender, Type: ch.Type, Content: ch.Content, Rows: ch.Rows, Done: ch.Done, Create: ch.Create, At: ch.At}, err
	})
}

type touches struct{ seq *timeline.Sequencer }

func (f touches) Touch(ctx context.Context, conv id.ConversationID) error {
	_, err := f.seq.Change(ctx, conv, func(_ context.Context, h msgstore.Head) (*timeline.Change, error) {
		if !h.Exists() {
			return nil, nil
		}
		return &timeline.Change{}, nil
	})
	return err
}

type noDevices struct{}

func (noDevices) Reaches(id.UserID, uint64) bool             { return false }
func (noDevices) Push(id.UserID, uint64, *wire.Signal)       {}
func (noDevices) PushLazily(id.UserID, uint64, *wire.Signal) {}

func newStack(t *testing.T, shared kv.Store, b *queueBus, worker uint32, seed uint64) *stack {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	s := &stack{door: &door{bus: b, direct: map[id.ConversationID]map[uint64]bool{}}}
	s.held.Store(true)
	skew := time.Duration(worker-1) * 300 * time.Millisecond
	clock, err := msgstore.OpenClock(t.Context(), msgstore.ClockConfig{Store: shared, Worker: worker, Wall: func() time.Time { return time.Now().Add(skew) }, Logger: slog.New(slog.DiscardHandler)})
	must(err)
	s.store = faultkv.Wrap(shared, faultkv.Config{
		Seed:  seed + uint64(worker),
		Rates: faultkv.Rates{Applied: 0.03, Lost: 0.03, Late: 0.03, Conflict: 0.03, Unavailable: 0.02, Full: 0.01},
		Read:  0.01, Delay: 0.1, MaxDelay: time.Millisecond,
	})
	quiet := slog.New(slog.DiscardHandler)
	s.relations, err = relation.New(relation.Config{Store: s.store, Users: everybody{}, Now: clock.Now, Logger: quiet})
	must(err)
	s.groups, err = group.New(group.Config{Store: s.store, Users: everybody{}, Shared: true, Now: clock.Now, Logger: quiet})
	must(err)
	s.convs, err = conversation.New(conversation.Config{
		Store: s.store, Users: everybody{}, Groups: s.groups, Writers: s.relations, Now: clock.Now, Logger: quiet,
		FlushEvery: 20 * time.Millisecond, Conversations: 64,
	})
	must(err)
	s.seq, err = timeline.New(timeline.Config{
		Store: s.store, Bus: s.door, Guard: guard{s.convs}, Epoch: 1, Worker: worker, WorkerHeld: s.held.Load, Now: clock.Now, Reserve: clock.Reserve,
		Assigned: true, Seen: s.convs.Seen, Direct: s.door.handDirectly, Consumers: s.door, MaxConversations: 4, MaxAttempts: 4, WaitAtMost: waitAtMost, RebuildAfter: 200 * time.Millisecond,
	})
	must(err)
	s.convs.Bind(s.seq)
	s.convs.BindDevices(noDevices{})
	s.groups.Bind(groupChanges{s.seq})
	s.relations.Bind(touches{s.seq}, noDevices{})
	ctx, cancel := context.WithCancel(context.Background())
	last, cancelLast := context.WithCancel(context.Background())
	var wg, wgLast sync.WaitGroup
	wg.Go(func() { _ = clock.Run(ctx) })
	wg.Go(func() { _ = s.seq.Run(ctx) })
	wgLast.Go(func() {
		if err := s.convs.Run(last); err != nil {
			t.Errorf("last cursors: %v", err)
		}
	})
	s.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
		cancelLast()
		wgLast.Wait()
	})
	t.Cleanup(s.stop)
	return s
}

// cluster is the nodes and who owns what, as everybody believes.
type cluster struct {
	t      *testing.T
	shared kv.Store
	bus    *queueBus
	nodes  []*stack
	owner  sync.Map // id.Slot -> int
	conns  atomic.Uint64
}

// route returns where a request about conv goes: to its owner, nearly always.
func (c *cluster) route(rng *rand.Rand, conv id.ConversationID) *stack {
	if rng.IntN(8) == 0 {
		return c.nodes[rng.IntN(len(c.nodes))]
	}
	n, _ := c.owner.Load(conv.Slot())
	return c.nodes[n.(int)]
}

// move gives conv's slot to another node: with a drain, or by a change of the ring alone.
func (c *cluster) move(ctx context.Context, rng *rand.Rand, conv id.ConversationID) {
	slots := []id.Slot{conv.Slot()}
	n, _ := c.owner.Load(slots[0])
	from, to := n.(int), rng.IntN(len(c.nodes))
	switch rng.IntN(3) {
	case 0:
		bounded, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		defer cancel()
		_ = c.nodes[from].seq.Drain(bounded, slots) // a frozen one doesn't end in time
		_ = c.nodes[from].convs.Flush(bounded)
	case 1:
		c.nodes[from].seq.Release(slots)
	}
	c.owner.Store(slots[0], to)
	c.nodes[to].seq.Own(slots)
}

// waitAtMost is how long a node may have a message before its sender asks another one.
const waitAtMost = 40 * time.Millisecond

// talker is one user's lane to one conversation.
type talker struct {
	c    *cluster
	rng  *rand.Rand
	user id.UserID
	conv id.ConversationID
	peer id.UserID // of a direct conversation

	ids   []id.ClientMsgID
	acks  map[int]packet.Ack
	no    map[int]*code.Error // refused for good
	seen  uint64              // of its acked interactive messages
	asked uint64              // the highest ReadSeq that it asked for
	read  uint64              // that was confirmed
	heard chan outcome
}

type outcome struct {
	n    int
	conn uint64
	seen uint64
	ack  packet.Ack
	err  *code.Error
}

type hearer struct {
	t    *talker
	n    int
	seen uint64
}

func (h hearer) Acked(p *packet.Pending, a packet.Ack) {
	h.t.heard <- outcome{h.n, p.From.Conn, h.seen, a, nil}
}
func (h hearer) Refused(p *packet.Pending, e *code.Error) {
	h.t.heard <- outcome{h.n, p.From.Conn, h.seen, packet.Ack{}, e}
}

func (k *talker) pending(from *packet.Origin, n int, again bool) packet.Pending {
	text := fmt.Sprint(n)
	cmid := k.ids[n]
	tail := append([]byte{4<<3 | 2, 16}, cmid[:]...)
	tail = append(tail, 5<<3, packet.TypeText, 6<<3|2, byte(len(text)))
	tail = append(tail, text...)
	p := packet.Pending{
		Send: packet.Send{Conversation: k.conv, ClientMsgID: cmid, Type: packet.TypeText, Content: tail[len(tail)-len(text):], Tail: tail, BodyHash: xxhash.Sum64(tail)},
		From: from, Resend: again, At: trace.Now(),
	}
	if k.peer != "" {
		p.Conversation, p.ToUser = id.ConversationID{}, k.peer
	}
	seen := uint64(0)
	if n > 0 && k.acks[n-1].Seq > 0 && n%3 == 0 {
		seen = k.acks[n-1].Seq
		p.Interactive, p.SeenSeq = true, seen
		k.asked = max(k.asked, seen)
	}
	p.Reply = hearer{k, n, seen}
	return p
}

func (k *talker) take(o outcome) {
	switch {
	case o.err == nil:
		if e := k.no[o.n]; e != nil {
			k.c.t.Errorf("%s %d of %s: acked as %d after %v", k.user, o.n, k.conv, o.ack.Seq, e)
		}
		if old, ok := k.acks[o.n]; ok && old.Seq != o.ack.Seq {
			k.c.t.Errorf("%s %d of %s: acked as %d and as %d", k.user, o.n, k.conv, old.Seq, o.ack.Seq)
		}
		k.acks[o.n] = o.ack
		k.seen = max(k.seen, o.seen)
	case o.err.Retryable():
	case o.err.Code == code.NoSuchConversation, o.err.Code == code.Forbidden:
		if a, ok := k.acks[o.n]; ok {
			k.c.t.Errorf("%s %d of %s: refused (%v) after it was acked as %d", k.user, o.n, k.conv, o.err, a.Seq)
		}
		k.no[o.n] = o.err
	default:
		k.c.t.Errorf("%s %d of %s: %v", k.user, o.n, k.conv, o.err)
	}
}

// say sends messages from..to-1 until each is acked or refused for good.
func (k *talker) say(from, to int) {
	for try := 0; ; try++ {
		var open []int
		for n := from; n < to; n++ {
			if _, ok := k.acks[n]; !ok && k.no[n] == nil {
				open = append(open, n)
			}
		}
		if len(open) == 0 {
			return
		}
		if try == 3000 {
			k.c.t.Errorf("%s in %s: %v are never answered for good", k.user, k.conv, open)
			return
		}
		// Each try has a connection of its own, so what comes back late is no part of the next one.
		conn := k.c.conns.Add(1)
		origin := &packet.Origin{User: k.user, Device: "phone", Conn: conn}
		batch := make([]packet.Pending, len(open))
		for i, n := range open {
			batch[i] = k.pending(origin, n, try > 0)
		}
		k.c.route(k.rng, k.conv).convs.Send(batch)
		limit := time.After(waitAtMost + time.Duration(1+k.rng.IntN(60))*time.Millisecond)
	waiting:
		for left := len(open); left > 0; {
			select {
			case o := <-k.heard:
				k.take(o)
				if o.conn == conn {
					left--
				}
			case <-limit: // whoever has them is frozen, maybe
				break waiting
			}
		}
		time.Sleep(time.Duration(k.rng.IntN(2000)) * time.Microsecond)
	}
}

func (k *talker) run(ctx context.Context, total int) {
	for len(k.ids) < total {
		from := len(k.ids)
		for range 1 + k.rng.IntN(4) {
			k.ids = append(k.ids, id.NewClientMsgID(time.Now().UnixMilli()+k.rng.Int64N(3000)-1500))
		}
		k.say(from, len(k.ids))
		last := k.acks[len(k.ids)-1].Seq
		o := &packet.Origin{User: k.user, Device: "phone", Conn: 1}
		switch node := k.c.nodes[k.rng.IntN(len(k.c.nodes))]; {
		case last == 0:
		case k.rng.IntN(3) == 0:
			node.convs.Received(o, k.conv, last)
		case k.rng.IntN(3) == 0:
			seq := last - min(last-1, k.rng.Uint64N(3))
			k.asked = max(k.asked, seq)
			read, _, err := node.convs.Read(ctx, o, k.conv, seq)
			if err == nil {
				if read < k.read || read < seq && k.conv.Kind() == id.KindDirect {
					k.c.t.Errorf("%s read %s up to %d, then %d of %d", k.user, k.conv, k.read, read, seq)
				}
				k.read = max(k.read, read)
			}
		}
	}
}

// Several nodes on one store, a bus that lies apart: slots move with and without a drain, requests
// go astray, nodes freeze with appends in their hands, lose their numbers, lose the bus. What was acked
// is stored once, in order; nobody writes where they aren't; all nodes show the same.
func TestNodes(t *testing.T) {
	for _, nodes := range []int{2, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			for range *nodesRuns {
				seed := *nodesSeed
				if seed == 0 {
					seed = uint64(time.Now().UnixNano())
				}
				t.Logf("replay with -run '%s' -args -nodes-seed %d", t.Name(), seed)
				severalNodes(t, nodes, seed)
				if t.Failed() {
					return
				}
			}
		})
	}
}

func severalNodes(t *testing.T, nodes int, seed uint64) {
	store := memory.New(memory.Config{Seed: seed, NoStamps: true})
	c := &cluster{t: t, shared: store, bus: &queueBus{taken: map[id.ConversationID]map[uint64]bool{}}}
	ctx := t.Context()
	if _, err := msgstore.OpenMeta(ctx, store, msgstore.Keys{}, time.Now().UnixMilli()); err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		c.nodes = append(c.nodes, newStack(t, store, c.bus, uint32(i+1), seed))
	}
	user := func(i int) id.UserID { return id.UserID(fmt.Sprint("u", i)) }
	rng := rand.New(rand.NewPCG(seed, 0))
	convs := []id.ConversationID{id.Direct(user(0), user(1)), id.Direct(user(2), user(3))}
	for i := range 2 {
		convs = append(convs, id.Named(id.KindGroup, fmt.Sprint("g", i)))
	}
	for _, conv := range convs {
		n := rng.IntN(nodes)
		c.owner.Store(conv.Slot(), n)
		c.nodes[n].seq.Own([]id.Slot{conv.Slot()})
	}
	as := func(u id.UserID) *packet.Origin { return &packet.Origin{User: u, Device: "phone", Conn: 1} }
	for i := range 2 {
		for {
			_, err := c.route(rng, convs[2+i]).groups.Create(ctx, as("u0"), &wire.GroupCreateRequest{Name: "g", Join: 1, Key: fmt.Sprint("g", i), UserIds: []string{"u1", "u2", "u3"}})
			if err == nil {
				break
			}
		}
	}

	var talkers []*talker
	var wg sync.WaitGroup
	for i, conv := range convs {
		for j := range 4 {
			k := &talker{c: c, rng: rand.New(rand.NewPCG(seed, uint64(10+i*4+j))), user: user(j), conv: conv, acks: map[int]packet.Ack{}, no: map[int]*code.Error{}, heard: make(chan outcome, 1<<16)}
			switch {
			case i < 2 && j/2 != i:
				continue
			case i < 2:
				k.peer = user(i*2 + 1 - j%2)
			}
			talkers = append(talkers, k)
			wg.Go(func() { k.run(ctx, 60) })
		}
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()

	// Who comes and goes meanwhile.
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		rng := rand.New(rand.NewPCG(seed, 1))
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Duration(1+rng.IntN(20)) * time.Millisecond):
			}
			conv, u := convs[2+rng.IntN(2)], user(1+rng.IntN(3))
			bounded, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			g := c.route(rng, conv).groups
			switch rng.IntN(4) {
			case 0:
				_, _ = g.Leave(bounded, as(u), conv)
			case 1:
				_, _ = g.Remove(bounded, as("u0"), conv, []string{string(u)})
			default:
				_, _ = g.Add(bounded, as("u0"), conv, []string{string(u)})
			}
			cancel()
		}
	}()

	calm := func() {
		for _, n := range c.nodes {
			n.store.Calm()
			n.held.Store(true)
			n.door.set(func() { n.door.fail, n.door.dead = false, [busQueues]bool{} })
		}
	}
	tired := time.After(15 * time.Second)
	for over := false; !over; {
		select {
		case <-done:
			over = true
		case <-tired:
			calm()
		case <-time.After(time.Duration(1+rng.IntN(8)) * time.Millisecond):
			n := c.nodes[rng.IntN(nodes)]
			switch rng.IntN(10) {
			case 0: // past everything: its slots move meanwhile
				thaw := n.store.Freeze()
				for range 1 + rng.IntN(3) {
					time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
					c.move(ctx, rng, convs[rng.IntN(len(convs))])
				}
				thaw()
			case 1:
				n.held.Store(!n.held.Load())
			case 2:
				n.door.set(func() { n.door.fail, n.door.took = true, rng.IntN(2) == 0 })
			case 3, 4:
				n.door.set(func() { n.door.fail = false })
			case 5:
				n.door.set(func() { n.door.dead[rng.IntN(busQueues)] = rng.IntN(3) == 0 })
			default:
				c.move(ctx, rng, convs[rng.IntN(len(convs))])
			}
			if rng.IntN(3) == 0 {
				n.held.Store(true)
			}
		}
	}
	<-gone
	calm()
	for _, n := range c.nodes {
		n.store.Settle()
		if err := n.convs.Flush(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c.handOn(ctx, convs)
	c.verify(ctx, convs, talkers)
	for _, n := range c.nodes {
		n.stop()
	}
}

// handOn waits until no mark is left: nodes sweep their own, a worker those of nobody.
func (c *cluster) handOn(ctx context.Context, convs []id.ConversationID) {
	c.t.Helper()
	worker := msgstore.NewSweeper(msgstore.SweeperConfig{Store: c.shared, HandOn: func(ctx context.Context, convs []id.ConversationID) error {
		for _, conv := range convs {
			n, _ := c.owner.Load(conv.Slot())
			c.nodes[n.(int)].seq.HandOn(ctx, []id.ConversationID{conv})
		}
		return nil
	}})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		marks := 0
		for _, conv := range convs {
			row, err := c.shared.Get(ctx, msgstore.Keys{}.OutboxMark(nil, conv))
			if err != nil {
				c.t.Fatal(err)
			}
			if row != nil {
				marks++
			}
		}
		if marks == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%d outbox marks are left", marks)
		}
		if _, _, err := worker.SweepMarks(ctx, time.Now().UnixMilli()-100, id.SlotCount); err != nil {
			c.t.Fatal(err)
		}
	}
}

// history is what the log of one conversation says.
type history struct {
	places  map[string]uint64 // sender and text: seq
	senders []id.UserID       // by seq; empty: the server's, which doesn't count
	last    uint64
}

// replay reads the log, and checks that whoever wrote was in.
func (c *cluster) replay(ctx context.Context, conv id.ConversationID) *history {
	c.t.Helper()
	raw, _, last, err := msgstore.NewTimeline(c.shared, msgstore.Keys{}).Range(ctx, conv, 1, 1<<62, 0, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	h := &history{places: map[string]uint64{}, senders: []id.UserID{""}, last: last}
	in := map[id.UserID]bool{}
	var before packet.MessageView
	for len(raw) > 0 {
		v, rest, err := packet.NextMessage(raw)
		if err != nil || v.Seq != before.Seq+1 || v.ID <= before.ID {
			c.t.Fatalf("message %d (%d) of %s after %d (%d): %v", v.Seq, v.ID, conv, before.Seq, before.ID, err)
		}
		raw, before = rest, v
		sender := id.UserID(v.Sender)
		if v.Type == packet.TypeSystem {
			var m struct {
				Do    string
				Users []id.UserID
			}
			if err := json.Unmarshal(v.Content, &m); err != nil {
				c.t.Fatal(err)
			}
			for _, u := range m.Users {
				in[u] = m.Do == "create" || m.Do == "add" || m.Do == "join"
			}
			sender = ""
		} else {
			key := string(sender) + " " + string(v.Content)
			if h.places[key] != 0 {
				c.t.Errorf("%s: %q is stored at %d and %d", conv, key, h.places[key], v.Seq)
			}
			h.places[key] = v.Seq
			if conv.Kind() == id.KindGroup && !in[sender] {
				c.t.Errorf("%s: message %d is of %s, who wasn't in", conv, v.Seq, sender)
			}
		}
		h.senders = append(h.senders, sender)
	}
	return h
}

func (c *cluster) verify(ctx context.Context, convs []id.ConversationID, talkers []*talker) {
	c.t.Helper()
	stored, refused, ids := 0, 0, map[id.MessageID]bool{}
	for _, conv := range convs {
		h := c.replay(ctx, conv)
		for _, k := range talkers {
			if k.conv != conv {
				continue
			}
			for { // what came late
				select {
				case o := <-k.heard:
					k.take(o)
					continue
				default:
				}
				break
			}
			before := uint64(0)
			for n := range k.ids {
				at := h.places[fmt.Sprintf("%s %d", k.user, n)]
				ack, acked := k.acks[n]
				if acked != (at != 0) || ack.Seq != at {
					c.t.Errorf("%s %d of %s was acked %v as %d (refused: %v), and is stored at %d", k.user, n, conv, acked, ack.Seq, k.no[n], at)
				}
				if at == 0 {
					refused++
					continue
				}
				stored++
				if at <= before {
					c.t.Errorf("%s %d of %s is stored at %d, before the one sent earlier, at %d", k.user, n, conv, at, before)
				}
				before = at
				if ids[ack.MessageID] {
					c.t.Errorf("message id %d was given out twice", ack.MessageID)
				}
				ids[ack.MessageID] = true
				if !c.bus.has(conv, at) {
					c.t.Errorf("%s %d of %s was acked, and the bus never had it", k.user, n, conv)
				}
			}
			c.compare(ctx, h, k)
		}
	}
	err := msgstore.Check(ctx, c.shared, msgstore.Keys{}, func(f msgstore.Finding) {
		if f.Severity >= msgstore.Error {
			c.t.Errorf("audit: %s", f)
		}
	})
	if err != nil {
		c.t.Error(err)
	}
	c.t.Logf("%d stored, %d refused for good", stored, refused)
	if stored == 0 {
		c.t.Error("nothing was stored: the test shows nothing")
	}
}

// compare sees whether all nodes show k's user the same of the conversation, and what the log says.
func (c *cluster) compare(ctx context.Context, h *history, k *talker) {
	c.t.Helper()
	var first *wire.ConversationState
	for i, n := range c.nodes {
		st, err := n.convs.State(ctx, &packet.Origin{User: k.user, Device: "phone", Conn: 1}, k.conv)
		if err != nil {
			c.t.Errorf("node %d: %s in %s: %v", i, k.user, k.conv, err)
			return
		}
		if first == nil {
			first = st
		}
		a, _ := json.Marshal(first)
		if b, _ := json.Marshal(st); !slices.Equal(a, b) {
			c.t.Errorf("%s in %s: one node shows %s, another %s", k.user, k.conv, a, b)
		}
	}
	top := h.last
	if first.LeftSeq != 0 {
		top = first.LeftSeq
	}
	m, _, err := msgstore.NewMembers(c.shared, msgstore.Keys{}).Get(ctx, k.conv, k.user)
	if err != nil {
		c.t.Fatal(err)
	}
	want := uint32(0)
	for seq := max(first.ReadSeq+1, m.Intervals[len(m.Intervals)-1].Joined); seq <= top; seq++ {
		if s := h.senders[seq]; s != "" && s != k.user {
			want++
		}
	}
	if want = min(want, conversation.UnreadCap); first.Unread != want || first.LastSeq != top {
		c.t.Errorf("%s in %s: %d unread above %d, want %d; last %d of %d", k.user, k.conv, first.Unread, first.ReadSeq, want, first.LastSeq, top)
	}
	if low := max(k.read, min(k.seen, top)); first.ReadSeq < low || first.ReadSeq > max(k.asked, low) || first.RecvSeq < first.ReadSeq {
		c.t.Errorf("%s in %s has read up to %d and received up to %d, was told %d and asked for %d", k.user, k.conv, first.ReadSeq, first.RecvSeq, low, k.asked)
	}
}
