package remote_test

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/conversation"
	"github.com/gochat-im/gochat/services/link"
	"github.com/gochat-im/gochat/services/remote"
	"github.com/gochat-im/gochat/services/rpc"
	"github.com/gochat-im/gochat/services/timeline"
)

var (
	modelSeed = flag.Uint64("model-seed", 0, "seed of the test with faults between nodes; 0: of the clock")
	modelRuns = flag.Int("model-runs", 1, "runs of the test with faults between nodes")
)

var keys = msgstore.Keys{Keyspace: 1}

// deafBus takes everything and brings it nobody.
type deafBus struct{}

func (deafBus) Enlist(*kv.Tx, *bus.Event) bool             { return false }
func (deafBus) Publish(context.Context, []bus.Event) error { return nil }

type everybody struct{}

func (everybody) Exists(context.Context, id.UserID) (bool, error) { return true, nil }

type rules struct{ s *conversation.Service }

func (r rules) Rules(ctx context.Context, conv id.ConversationID) (timeline.Rules, error) {
	return r.s.Rules(ctx, conv)
}

// realNode is a logic node with the real services on a store that all share.
type realNode struct {
	nodes.Node
	view
	proxy *proxy
	convs *conversation.Service
	seq   *timeline.Sequencer
}

func startReal(t testing.TB, n int, store kv.Store) *realNode {
	t.Helper()
	r := &realNode{Node: nodes.Node{ID: fmt.Sprintf("logic-%d", n), Worker: uint32(n), Roles: nodes.Logic, Start: nodes.NewStart()}}
	log := slog.New(slog.DiscardHandler)
	var err error
	if r.convs, err = conversation.New(conversation.Config{Store: store, Keys: keys, Users: everybody{}, Logger: log}); err != nil {
		t.Fatal(err)
	}
	if r.seq, err = timeline.New(timeline.Config{Store: store, Keys: keys, Bus: deafBus{}, Guard: rules{r.convs}, Epoch: 1, Worker: uint32(n), Logger: log}); err != nil {
		t.Fatal(err)
	}
	r.convs.Bind(r.seq)
	r.view = newView(t, r.Node)
	plain := conntest.New()
	srv, err := rpc.New(rpc.Config{Listen: "127.0.0.1:0", Keys: link.Keys{clusterKey}, Logger: log, Logic: &rpc.Logic{
		Router: r.Router, Authenticator: plain, Conversations: r.convs, Signals: plain,
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = srv.Run(ctx) })
	running.Go(func() { _ = r.seq.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	r.proxy = newProxy(t, srv.Addr().String())
	r.RPC = r.proxy.ln.Addr().String()
	return r
}

// line is a client's side of a connection.
type line struct {
	c *conn.Conn

	mu   sync.Mutex
	in   []byte
	end  bool
	news chan struct{}
}

func (l *line) signal() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}

func (l *line) Write(p []byte) (int, error) {
	l.mu.Lock()
	l.in = append(l.in, p...)
	l.mu.Unlock()
	l.signal()
	return len(p), nil
}

func (l *line) CloseWrite(code.Code) { l.Close() }

func (l *line) Close() {
	l.mu.Lock()
	was := l.end
	l.end = true
	l.mu.Unlock()
	if !was {
		go l.c.Closed()
		l.signal()
	}
}

func (l *line) RemoteAddr() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:1") }

// take returns the frames that have come, and whether it was the end.
func (l *line) take() (frames []frame.Frame, end bool) {
	l.mu.Lock()
	b := l.in
	l.in = nil
	end = l.end
	l.mu.Unlock()
	for len(b) > 0 {
		f, n, err := frame.Parse(b, frame.HardMax)
		if err != nil || n == 0 {
			panic("half a frame")
		}
		frames = append(frames, f)
		b = b[n:]
	}
	return frames, end
}

// sender is a client with one lane: it has messages to send, in order, and does what an SDK does about refusals.
type sender struct {
	t     *testing.T
	user  id.UserID
	to    id.UserID
	ids   []id.ClientMsgID
	acked []uint64 // seq by message
	rnd   *rand.Rand
	edge  *conn.Edge

	refused, closed int
}

const window = 8

func (s *sender) run(ctx context.Context) error {
	next := 0 // that was never sent
	for {
		l := &line{news: make(chan struct{}, 1)}
		s.open(l)
		l.c.Input(conntest.Connect(string(s.user), "phone"))
		reqs := map[uint32]int{}
		req := uint32(0)
		send := func(i int, again bool) {
			req++
			reqs[req] = i
			flags := frame.FlagRequestID
			if again {
				flags |= frame.FlagResend
			}
			l.c.Input(conntest.Frame(frame.Send, flags, req, &wire.Send{ToUserId: string(s.to), ClientMsgId: s.ids[i][:], MsgType: 1, Content: fmt.Sprint(i)}))
		}
		connected, shut := false, false
		hangUp := -1
		if s.rnd.IntN(3) == 0 {
			hangUp = s.rnd.IntN(40)
		}
		for {
			frames, end := l.take()
			for _, f := range frames {
				switch f.Type {
				case frame.Connack:
					connected, shut = true, true // whatever has no answer is sent again
				case frame.SendAck:
					a, err := packet.DecodeSendAck(f.Body)
					if err != nil {
						return err
					}
					i := reqs[f.ReqID]
					delete(reqs, f.ReqID)
					if s.acked[i] != 0 && s.acked[i] != a.Seq {
						return fmt.Errorf("message %d of %s was acked as %d and as %d", i, s.user, s.acked[i], a.Seq)
					}
					s.acked[i] = a.Seq
				case frame.Error:
					e, _, err := packet.DecodeError(f.Body)
					if err != nil {
						return err
					}
					if e.Code.Scope() == code.ScopeMessage {
						return fmt.Errorf("message %d of %s: %v", reqs[f.ReqID], s.user, e)
					}
					delete(reqs, f.ReqID)
					s.refused++
					shut = true
				}
			}
			if end {
				s.closed++
				break
			}
			if connected && shut && (len(reqs) == 0 || s.rnd.IntN(8) == 0) { // now and then without waiting for the rest
				shut = false
				for i := range next {
					if s.acked[i] == 0 {
						send(i, true)
					}
				}
			}
			for connected && !shut && len(reqs) < window && next < len(s.ids) {
				send(next, false)
				next++
			}
			if len(reqs) == 0 && next == len(s.ids) && !slices.Contains(s.acked, 0) {
				l.Close()
				return nil
			}
			if hangUp >= 0 && next >= hangUp*len(s.ids)/40 {
				l.Close()
			}
			wait := time.NewTimer(time.Second)
			select {
			case <-l.news:
			case <-wait.C: // nothing was said: what is under way has a deadline
			case <-ctx.Done():
				return fmt.Errorf("%s has %d of %d acked, %d under way: %w", s.user, len(s.acked)-count(s.acked, 0), len(s.ids), len(reqs), ctx.Err())
			}
			wait.Stop()
		}
	}
}

func count(list []uint64, v uint64) (n int) {
	for _, x := range list {
		if x == v {
			n++
		}
	}
	return n
}

var opening sync.Mutex

func (s *sender) open(l *line) {
	opening.Lock()
	defer opening.Unlock()
	incarnations++
	l.c = conn.New(s.edge, l, incarnations)
}

var incarnations uint64 = 1 << 40

// rest lets connections flush themselves, since there is no hub.
type rest struct{ *conntest.Host }

func (r *rest) Touch(c *conn.Conn) { go c.Flush() }
func (r *rest) Gone(*conn.Conn)    {}

// Clients of an edge write to one another while connections between nodes break and hang, views differ and slots are given
// away. Whatever happens, each message is stored once, in the order in which its sender sent it.
func TestSendsUnderFaults(t *testing.T) {
	for range *modelRuns {
		seed := *modelSeed
		if seed == 0 {
			seed = uint64(time.Now().UnixNano())
		}
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) { sendsUnderFaults(t, seed) })
	}
}

func sendsUnderFaults(t *testing.T, seed uint64) {
	store := memory.New(memory.Config{})
	var live []*realNode
	for n := range 3 {
		live = append(live, startReal(t, n+1, store))
	}
	v := newView(t, edgeNode)
	views := []view{v}
	var all []nodes.Node
	for _, n := range live {
		views = append(views, n.view)
		all = append(all, n.Node)
	}
	set := func(v view, list []nodes.Node) {
		if err := v.list.Set(list...); err != nil {
			t.Error(err)
		}
	}
	for _, v := range views {
		set(v, all)
	}
	p := pool(t, func(c *remote.PoolConfig) {
		c.Open, c.Connect, c.Logger = 20*time.Millisecond, time.Second, slog.New(slog.DiscardHandler)
	})
	patience := 250 * time.Millisecond // of a call, which may begin with a handshake
	if raceEnabled {
		patience = 3 * time.Second
	}
	l, err := remote.NewLogic(remote.LogicConfig{Router: v.Router, Pool: p, Send: remote.SendConfig{Timeout: patience, Messages: 50}})
	if err != nil {
		t.Fatal(err)
	}
	host := &rest{conntest.NewHost()}
	edge, err := conn.NewEdge(conn.Config{SendsPerSecond: 1 << 20, BytesPerSecond: 1 << 30, CallTimeout: 2 * time.Second}, conn.Services{
		Authenticator: l, Conversations: l, Sessions: conntest.New(), Signals: l,
	}, host)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	var clients []*sender
	base := time.Now().Add(-time.Hour).UnixMilli()
	for n := range 6 { // three pairs, who write to each other
		s := &sender{
			t: t, user: id.UserID(fmt.Sprint("user", n)), to: id.UserID(fmt.Sprint("user", n^1)), edge: edge,
			rnd: rand.New(rand.NewPCG(seed, uint64(100+n))), acked: make([]uint64, 400),
		}
		for i := range s.acked {
			s.ids = append(s.ids, id.NewClientMsgID(base+int64(i)))
		}
		clients = append(clients, s)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var running sync.WaitGroup
	for _, s := range clients {
		running.Go(func() {
			if err := s.run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() { running.Wait(); close(done) }()
	every := make([]id.Slot, id.SlotCount)
	for i := range every {
		every[i] = id.Slot(i)
	}
	calm := func() {
		for _, n := range live {
			n.proxy.hold(false)
			n.seq.Own(every)
		}
		for _, v := range views {
			set(v, all)
		}
	}
	pace := time.NewTicker(5 * time.Millisecond)
	defer pace.Stop()
	faults := 0
	for over := false; !over; {
		select {
		case <-done:
			over = true
			continue
		case <-pace.C:
		}
		if faults++; faults > 400 {
			calm()
			<-done
			break
		}
		n := live[rnd.IntN(len(live))]
		switch rnd.IntN(7) {
		case 0:
			n.proxy.cut()
		case 1:
			n.proxy.hold(true)
		case 2, 3:
			n.proxy.hold(false)
		case 4:
			some := slices.Clone(all)
			rnd.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
			set(views[rnd.IntN(len(views))], some[:1+rnd.IntN(len(some))])
		case 5:
			gone, cancel := context.WithCancel(ctx)
			cancel()
			_ = n.seq.Drain(gone, every)
		case 6:
			calm()
		}
	}
	calm()
	if t.Failed() {
		return
	}
	refused, closed := 0, 0
	for _, s := range clients {
		refused += s.refused
		closed += s.closed
	}
	t.Logf("%d faults, %d refusals, %d connections ended early; %+v", faults, refused, closed, l.Stats())
	for n := 0; n < len(clients); n += 2 {
		verify(t, l, clients[n], clients[n+1])
	}
	if err := l.Close(soon(t)); err != nil {
		t.Errorf("something is still under way: %v", err)
	}
}

// verify reads a conversation by way of the edge's port.
func verify(t *testing.T, l *remote.Logic, a, b *sender) {
	t.Helper()
	o := &packet.Origin{User: a.user, Device: "phone", Conn: 1}
	conv := id.Direct(a.user, b.user)
	next := map[id.UserID]int{}
	want := uint64(1)
	for total := len(a.ids) + len(b.ids); want <= uint64(total); {
		page, err := l.Sync(soon(t), o, conv, want, 0, 100, nil)
		if err != nil {
			t.Fatal(err)
		}
		if page.LastSeq != uint64(total) {
			t.Fatalf("%s and %s: the last message is %d, want %d", a.user, b.user, page.LastSeq, total)
		}
		for rest := page.Messages; len(rest) > 0; {
			var m packet.MessageView
			if m, rest, err = packet.NextMessage(rest); err != nil {
				t.Fatal(err)
			}
			s := a
			if id.UserID(m.Sender) == b.user {
				s = b
			}
			i := next[id.UserID(m.Sender)]
			next[id.UserID(m.Sender)]++
			if m.Seq != want || i >= len(s.ids) || m.ClientMsgID != s.ids[i] || s.acked[i] != m.Seq {
				t.Fatalf("%d of %s and %s: %s's, %v", m.Seq, a.user, b.user, m.Sender, m.ClientMsgID)
			}
			want++
		}
	}
}
