package timeline

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/faultkv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var (
	seedFlag = flag.Uint64("seed", 0, "seed of the tests with two owners; 0: of the clock")
	moreFlag = flag.Int("messages", 400, "messages a sender and conversation in the tests with two owners")
)

// Two sequencers own the same conversations of one store, which fails in every way it
// can, while senders go back and forth between them. What they were told must be what is
// stored in the end.
func TestTwoOwners(t *testing.T) {
	for _, engine := range []string{"memory", "pebble", "apart"} {
		t.Run(engine, func(t *testing.T) {
			seed := *seedFlag
			if seed == 0 {
				seed = uint64(time.Now().UnixNano())
			}
			t.Logf("replay with -run '%s' -args -seed %d", t.Name(), seed)
			var store kv.Store
			if engine != "pebble" {
				store = memory.New(memory.Config{Seed: seed})
			} else {
				p, err := pebblekv.Open(pebblekv.Config{Dir: t.TempDir()})
				if err != nil {
					t.Fatal(err)
				}
				store = p
			}
			defer store.Close()
			twoOwners(t, store, seed, engine == "apart")
		})
	}
}

// floorGuard forbids each user's messages below a number, which only rises. So what was
// forbidden once stays forbidden.
type floorGuard struct{ store kv.Store }

func floorKey(conv id.ConversationID) []byte { return keys.StoreRow(nil, "floor/"+conv.String()) }

// floorRow holds a number for each user.
type floorRow [3]uint32

func parseFloors(v []byte) (f floorRow) {
	for i := range f {
		if v != nil {
			f[i] = binary.BigEndian.Uint32(v[4*i:])
		}
	}
	return f
}

func userIndex(u id.UserID) int { return int(u[len(u)-1] - '0') }

func (g floorGuard) Rules(ctx context.Context, conv id.ConversationID) (Rules, error) {
	v, err := g.store.Get(ctx, floorKey(conv))
	if err != nil {
		return nil, err
	}
	floors := parseFloors(v)
	return rulesFunc(func(p *packet.Pending) *code.Error {
		if number(p.Content) < int(floors[userIndex(p.From.User)]) {
			return code.New(code.Forbidden)
		}
		return nil
	}), nil
}

func number(content []byte) int {
	n, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		panic(err)
	}
	return n
}

// raiseFloor forbids what user numbers below n from now on, as the service that owns the
// rules does: together with the head.
func raiseFloor(ctx context.Context, store kv.Store, conv id.ConversationID, user id.UserID, n int) error {
	tl := msgstore.NewTimeline(store, keys)
	for {
		h, raw, err := tl.Head(ctx, conv)
		if err != nil {
			return err
		}
		v, err := store.Get(ctx, floorKey(conv))
		if err != nil {
			return err
		}
		floors := parseFloors(v)
		floors[userIndex(user)] = max(floors[userIndex(user)], uint32(n))
		h.StateVersion++
		tx := new(kv.Tx)
		tl.Append(tx, conv, raw, &h, nil, nil)
		var row []byte
		for _, f := range floors {
			row = binary.BigEndian.AppendUint32(row, f)
		}
		tx.Set(floorKey(conv), row)
		store.Commit(ctx, tx)
		if !errors.Is(tx.Err, kv.ErrConflict) {
			return tx.Err
		}
	}
}

// heard is one answer to a client.
type heard struct {
	n    int
	conn uint64
	ack  packet.Ack
	err  *code.Error
}

// client is one user's lane to one conversation, as an SDK behaves: it keeps several
// messages in flight and sends again, in order, what was refused for now or may be lost.
type client struct {
	t      testing.TB
	rng    *rand.Rand
	user   id.UserID
	conv   id.ConversationID
	owners []*Sequencer
	owner  int
	conns  *atomic.Uint64
	from   *packet.Origin

	ids      []id.ClientMsgID
	acks     map[int]packet.Ack
	refused  map[int]*code.Error
	sent     int
	inflight int // attempts on this connection without an answer
	answers  chan heard
	trace    []string
	highest  atomic.Int64 // messages sent
}

type reply struct {
	c *client
	n int
}

func (r reply) Acked(p *packet.Pending, ack packet.Ack) {
	r.c.answers <- heard{r.n, p.From.Conn, ack, nil}
}
func (r reply) Refused(p *packet.Pending, e *code.Error) {
	r.c.answers <- heard{r.n, p.From.Conn, packet.Ack{}, e}
}

func (c *client) connect(owner int) {
	c.owner = owner
	c.from = &packet.Origin{User: c.user, Device: "d", Conn: c.conns.Add(1)}
	c.inflight = 0
}

func (c *client) pending(n int, again bool) packet.Pending {
	s := sender{o: c.from}
	p := s.text(c.ids[n], fmt.Sprintf("%6d", n))
	p.Resend, p.Reply = again, reply{c, n}
	return p
}

func (c *client) send(again bool, ns ...int) {
	for len(ns) > 0 {
		k := 1 + c.rng.IntN(min(8, len(ns)))
		var batch []packet.Pending
		for _, n := range ns[:k] {
			batch = append(batch, c.pending(n, again))
		}
		c.inflight += k
		c.trace = append(c.trace, fmt.Sprintf("owner %d conn %d sends %v again %v", c.owner, c.from.Conn, ns[:k], again))
		c.owners[c.owner].Append(c.conv, batch)
		ns = ns[k:]
	}
}

func (c *client) open() (ns []int) {
	for n := range c.sent {
		if _, acked := c.acks[n]; !acked && c.refused[n] == nil {
			ns = append(ns, n)
		}
	}
	return ns
}

func (c *client) hear(h heard) (again bool) {
	c.trace = append(c.trace, fmt.Sprintf("conn %d hears %d: seq %d dup %v %v", h.conn, h.n, h.ack.Seq, h.ack.Duplicate, h.err))
	if h.conn == c.from.Conn {
		c.inflight--
	}
	switch {
	case h.err == nil:
		if c.refused[h.n] != nil {
			c.t.Errorf("%s %d of %s: acked after %v", c.user, h.n, c.conv, c.refused[h.n])
		}
		if old, ok := c.acks[h.n]; ok && (old.Seq != h.ack.Seq || old.MessageID != h.ack.MessageID) {
			c.t.Errorf("%s %d of %s: acked as %v and %v", c.user, h.n, c.conv, old, h.ack)
		}
		c.acks[h.n] = h.ack
	case h.err.Retryable():
		return h.conn == c.from.Conn
	case h.err.Code != code.Forbidden:
		c.t.Errorf("%s %d of %s: %v", c.user, h.n, c.conv, h.err)
	default:
		if _, ok := c.acks[h.n]; ok {
			c.t.Errorf("%s %d of %s: refused after an ack: %v", c.user, h.n, c.conv, h.err)
		}
		c.refused[h.n] = h.err
	}
	return false
}

func (c *client) run(total int, skew func() int64) {
	c.connect(c.rng.IntN(len(c.owners)))
	deadline := time.Now().Add(4 * time.Minute)
	for {
		open := c.open()
		if c.sent == total && len(open) == 0 && c.inflight == 0 {
			return
		}
		if time.Now().After(deadline) {
			c.t.Errorf("%s in %s: open %v, in flight %d, at owner %d", c.user, c.conv, open, c.inflight, c.owner)
			return
		}
		if c.sent < total && len(open) < 16 {
			var ns []int
			for range min(1+c.rng.IntN(8), total-c.sent) {
				c.ids = append(c.ids, id.NewClientMsgID(nowMs()+skew()))
				ns = append(ns, c.sent)
				c.sent++
			}
			c.highest.Store(int64(c.sent))
			c.send(false, ns...)
		}
		again := false
		select {
		case h := <-c.answers:
			again = c.hear(h)
		case <-time.After(time.Duration(1+c.rng.IntN(20)) * time.Millisecond):
			again = c.inflight == 0 && len(c.open()) > 0
		}
		switch roll := c.rng.IntN(100); {
		case roll < 2: // the connection is lost
			c.connect(1 - c.owner)
			c.send(true, c.open()...)
		case roll < 4 && c.sent > 0: // an ack was lost
			n := c.rng.IntN(c.sent)
			if _, ok := c.acks[n]; ok {
				c.send(true, append([]int{n}, c.open()...)...)
			}
		}
		if !again {
			continue
		}
		if c.rng.IntN(2) == 0 { // lets the rest of the flight come back
			for c.inflight > 0 {
				c.hear(<-c.answers)
			}
		}
		time.Sleep(time.Duration(c.rng.IntN(3000)) * time.Microsecond)
		if c.rng.IntN(3) == 0 {
			c.connect(1 - c.owner)
		}
		c.send(true, c.open()...)
	}
}

// witness sees that no two transactions were stored on the same head.
type witness struct {
	kv.Store
	t    testing.TB
	mu   sync.Mutex
	next map[string]string // by key and value of a head: what was stored over it
}

func (w *witness) Commit(ctx context.Context, txs ...*kv.Tx) {
	w.Store.Commit(ctx, txs...)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, tx := range txs {
		ops := tx.Ops()
		if tx.Err != nil || len(ops) < 2 || ops[0].Kind != kv.OpRequire || ops[1].Kind != kv.OpSet {
			continue
		}
		old, set := string(ops[0].Key)+string(ops[0].Value), string(ops[1].Value)
		if other, twice := w.next[old]; twice {
			w.t.Errorf("two transactions were stored on the head %x: %x and %x", old, other, set)
		}
		w.next[old] = set
	}
}

func twoOwners(t *testing.T, store kv.Store, seed uint64, apart bool) {
	store = &witness{Store: store, t: t, next: map[string]string{}}
	rng := rand.New(rand.NewPCG(seed, 1))
	ctx := context.Background()
	var convs []id.ConversationID
	for i := range 4 {
		convs = append(convs, id.Named(id.KindGroup, fmt.Sprint("room ", i)))
		create(t, store, convs[i], nowMs())
	}
	busKeys := keys
	if apart {
		busKeys.Keyspace++
	}
	doors := []*apartBus{newBus(t, store, busKeys), newBus(t, store, busKeys)}
	doors[1].log = doors[0].log // one bus; each owner has its own way there
	consumer := consume(t, doors[0].log)
	var faulty []*faultkv.Store
	var owners []*Sequencer
	var stops []func()
	var conflicts, undetermined, dups, evicted atomic.Int64
	for i := range 2 {
		f := faultkv.Wrap(store, faultkv.Config{
			Seed:  seed + uint64(i),
			Rates: faultkv.Rates{Applied: 0.04, Lost: 0.04, Late: 0.05, Conflict: 0.04, Unavailable: 0.03, Full: 0.02},
			Read:  0.02, Delay: 0.2, MaxDelay: time.Millisecond,
		})
		cfg := config(f)
		cfg.Worker = uint32(i + 1)
		cfg.Guard = floorGuard{f}
		cfg.Bus = doors[i].log
		if apart {
			cfg.Bus = doors[i]
		}
		skew := int64(i) * 300
		cfg.Now = func() int64 { return nowMs() + skew }
		cfg.MaxConversations, cfg.MaxAttempts, cfg.ConvPending = 3, 4, 60
		cfg.RebuildAfter = 200 * time.Millisecond
		cfg.Events = Events{
			Conflict:     func(id.ConversationID) { conflicts.Add(1) },
			Undetermined: func(id.ConversationID) { undetermined.Add(1) },
			Duplicates:   func(n int) { dups.Add(int64(n)) },
			Evicted:      func(n int) { evicted.Add(int64(n)) },
		}
		s, stop := start(t, cfg)
		faulty, owners, stops = append(faulty, f), append(owners, s), append(stops, stop)
	}

	if err := raiseFloor(ctx, store, convs[0], "user0", 5); err != nil { // some is forbidden in any case
		t.Fatal(err)
	}
	var clients []*client
	var conns atomic.Uint64
	var wg sync.WaitGroup
	for i, conv := range convs {
		for j := range 3 {
			c := &client{
				t: t, rng: rand.New(rand.NewPCG(seed, uint64(100+10*i+j))), user: id.UserID(fmt.Sprint("user", j)), conv: conv,
				owners: owners, conns: &conns, acks: map[int]packet.Ack{}, refused: map[int]*code.Error{},
				answers: make(chan heard, 1<<16),
			}
			clients = append(clients, c)
			wg.Go(func() {
				c.run(*moreFlag, func() int64 { return int64(j-1)*4000 + c.rng.Int64N(50) })
			})
		}
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()

	// The world around them: owners that freeze, rules that change, and calm in the end.
	calm := time.After(20 * time.Second)
	for over := false; !over; {
		select {
		case <-done:
			over = true
		case <-calm:
			for i, f := range faulty {
				f.Calm()
				doors[i].set(nil, false)
			}
		case <-time.After(time.Duration(1+rng.IntN(10)) * time.Millisecond):
			switch rng.IntN(10) {
			case 5:
				doors[rng.IntN(2)].set(errors.New("gone"), rng.IntN(2) == 0)
			case 6, 7:
				doors[rng.IntN(2)].set(nil, false)
			case 0:
				thaw := faulty[rng.IntN(2)].Freeze()
				time.Sleep(time.Duration(1+rng.IntN(30)) * time.Millisecond)
				thaw()
			case 1, 2, 3, 4:
				c := clients[rng.IntN(len(clients))]
				if err := raiseFloor(ctx, store, c.conv, c.user, max(0, int(c.highest.Load())+2-rng.IntN(10))); err != nil {
					t.Errorf("raise floor: %v", err)
				}
			}
		}
	}
	for i, f := range faulty {
		f.Calm()
		doors[i].set(nil, false)
	}
	await(t, "the sweep of the marks", func() bool { return marks(t, store, convs...) == 0 })
	for i, stop := range stops {
		stop()
		faulty[i].Settle() // what was still to be stored late
	}
	verify(t, store, convs, clients, consumer)
	t.Logf("%d conflicts, %d undetermined (%d late), %d repeats, %d evictions, %d connections",
		conflicts.Load(), undetermined.Load(), faulty[0].Count(faultkv.Late)+faulty[1].Count(faultkv.Late), dups.Load(), evicted.Load(), conns.Load())
}

// verify compares what the clients heard with what is stored.
func verify(t *testing.T, store kv.Store, convs []id.ConversationID, clients []*client, consumer *consumer) {
	t.Helper()
	stored, refusedCount := 0, 0
	for _, conv := range convs {
		ms := messages(t, store, conv)
		stored += len(ms)
		place := map[string]packet.MessageView{}
		last := map[string]int{}
		for _, v := range ms {
			n := number(v.Content)
			place[fmt.Sprint(string(v.Sender), " ", n)] = v
			if prev, ok := last[string(v.Sender)]; ok && prev >= n {
				t.Errorf("%s: %s's %d is stored at %d, after %d", conv, v.Sender, n, v.Seq, prev)
				for _, c := range clients {
					if c.conv == conv && string(c.user) == string(v.Sender) {
						c.explain(n, v.Seq)
					}
				}
			}
			last[string(v.Sender)] = n
		}
		acked := 0
		for _, c := range clients {
			if c.conv != conv {
				continue
			}
			for n, ack := range c.acks {
				acked++
				v, ok := place[fmt.Sprint(c.user, " ", n)]
				if !ok || v.Seq != ack.Seq || v.ID != ack.MessageID || v.ClientMsgID != c.ids[n] {
					t.Errorf("%s: %s's %d was acked as %d/%d and is stored as %d/%d", conv, c.user, n, ack.Seq, ack.MessageID, v.Seq, v.ID)
				}
			}
			for n, e := range c.refused {
				refusedCount++
				if v, ok := place[fmt.Sprint(c.user, " ", n)]; ok {
					t.Errorf("%s: %s's %d was refused (%v) and is stored at %d", conv, c.user, n, e, v.Seq)
				}
			}
		}
		consumer.wait(conv, uint64(len(ms)))
		if acked != len(ms) {
			t.Errorf("%s: %d acked, %d stored", conv, acked, len(ms))
		}
	}
	audit(t, store, convs...)
	t.Logf("%d stored, %d refused for good", stored, refusedCount)
	if stored == 0 || refusedCount == 0 {
		t.Errorf("%d stored, %d refused: the test shows nothing", stored, refusedCount)
	}
}

// explain prints what the client did around the message n.
func (c *client) explain(n int, seq uint64) {
	from, to := -1, 0
	for i, line := range c.trace {
		if strings.Contains(line, fmt.Sprintf(" %d", n)) || strings.Contains(line, fmt.Sprintf("[%d", n)) {
			if from < 0 {
				from = i
			}
			to = i
			if strings.Contains(line, fmt.Sprintf("hears %d: seq %d", n, seq)) {
				break
			}
		}
	}
	c.t.Logf("%s", strings.Join(c.trace[max(0, from-3):min(to+3, len(c.trace))], "\n"))
}
