package conversation_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

var (
	nodesSeed = flag.Uint64("nodes-seed", 0, "seed of the test with several nodes; 0: of the clock")
	nodesRuns = flag.Int("nodes-runs", 1, "runs of the test with several nodes")
)

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
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
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
