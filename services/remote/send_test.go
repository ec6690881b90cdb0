package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
	"github.com/gochat-im/gochat/services/remote"
	"github.com/gochat-im/gochat/services/rpc"
)

// sent hears the outcomes of one connection's SENDs, in order.
type sent struct {
	mu    sync.Mutex
	heard []string
	news  chan struct{}
}

func newSent() *sent { return &sent{news: make(chan struct{}, 1<<16)} }

func (s *sent) hear(line string) {
	s.mu.Lock()
	s.heard = append(s.heard, line)
	s.mu.Unlock()
	s.news <- struct{}{}
}

func (s *sent) Acked(p *packet.Pending, a packet.Ack) {
	line := fmt.Sprintf("%d:seq=%d", p.ReqID, a.Seq)
	if a.Conversation != laneOf(p) || a.MessageID == 0 {
		line += " wrong"
	}
	if a.Duplicate {
		line += " again"
	}
	s.hear(line)
}

func (s *sent) Refused(p *packet.Pending, err *code.Error) {
	line := fmt.Sprintf("%d:%v", p.ReqID, err.Code)
	if p.Unlaned != (err.Code.Scope() == code.ScopeLane) {
		line += " but the lane isn't held"
	}
	s.hear(line)
}

// expect waits for as many outcomes as it is given and compares.
func (s *sent) expect(t *testing.T, want ...string) {
	t.Helper()
	for range want {
		select {
		case <-s.news:
		case <-time.After(20 * time.Second):
			t.Fatalf("heard %q, want %q", s.heard, want)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.heard, want) {
		t.Errorf("heard %q, want %q", s.heard, want)
	}
	s.heard = nil
}

func laneOf(p *packet.Pending) id.ConversationID {
	if p.Conversation.IsZero() {
		return id.Direct(p.From.User, p.ToUser)
	}
	return p.Conversation
}

// text returns the SEND of text number n by o.
func text(o *packet.Origin, to id.UserID, n uint64, r packet.Replier) packet.Pending {
	mid := conntest.MsgID(n)
	body, err := (&wire.Send{ToUserId: string(to), SeenSeq: n, ClientMsgId: mid[:], MsgType: 1, Content: fmt.Sprint("text ", n)}).Marshal(nil)
	if err != nil {
		panic(err)
	}
	p := packet.Pending{From: o, ReqID: uint32(n), Reply: r, At: trace.Now()}
	if err := packet.DecodeSend(&p.Send, body, &packet.DefaultLimits); err != nil {
		panic(err)
	}
	return p
}

func resent(p packet.Pending) packet.Pending { p.Resend = true; return p }

// spy sees what a node's services are sent before they are.
type spy struct {
	*conntest.Services
	mu    sync.Mutex
	first func(batch []packet.Pending) (done bool)
}

func (s *spy) Send(batch []packet.Pending) {
	s.mu.Lock()
	fn := s.first
	s.mu.Unlock()
	if fn == nil || !fn(batch) {
		s.Services.Send(batch)
	}
}

func (s *spy) set(fn func([]packet.Pending) bool) {
	s.mu.Lock()
	s.first = fn
	s.mu.Unlock()
}

// spied starts a logic node that is watched.
func spied(t testing.TB, n int) (*logicNode, *spy) {
	sp := &spy{}
	l := start(t, n, func(c *rpc.Config) {
		sp.Services = c.Logic.Conversations.(*conntest.Services)
		c.Logic.Conversations = sp
	})
	return l, sp
}

func TestSends(t *testing.T) {
	a, seen := spied(t, 1)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	l := logicOf(t, v, pool(t, nil))
	out := newSent()
	_, bob, _ := between(v, a)
	tr := trace.New()
	var got []packet.Pending
	seen.set(func(b []packet.Pending) bool { got = append(got, b...); return false })
	first := text(alice, bob, 1, out)
	first.Trace, first.Interactive = &tr, true
	l.Send([]packet.Pending{first, resent(text(alice, bob, 2, out))})
	out.expect(t, "1:seq=1", "2:seq=2")
	p := got[0]
	if *p.From != *alice || p.ReqID != 1 || p.Trace == nil || *p.Trace != tr || !p.Interactive || p.Resend || p.SeenSeq != 1 || p.At <= 0 {
		t.Errorf("came as %+v", p)
	}
	if !bytes.Equal(p.Tail, first.Tail) || p.BodyHash != first.BodyHash || p.ToUser != bob {
		t.Errorf("came as %+v", p.Send)
	}
	if q := got[1]; !q.Resend || q.Interactive || q.Trace != nil {
		t.Errorf("came as %+v", q)
	}
	t.Run("refusals", func(t *testing.T) {
		e := code.Newf(code.Forbidden, "not to bob")
		a.services.Refuse.Store(e)
		defer a.services.Refuse.Store(nil)
		l.Send([]packet.Pending{text(alice, bob, 3, out)})
		out.expect(t, "3:forbidden")
	})
	if n := l.Stats().Waiting; n != 0 {
		t.Errorf("%d messages still wait", n)
	}
}

// One conversation that takes its time holds nobody else up, and its own lane keeps its order.
func TestStraggler(t *testing.T) {
	a, seen := spied(t, 1)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	l := logicOf(t, v, pool(t, nil))
	_, bob, _ := between(v, a)
	slow, quick := newSent(), newSent()
	carol := &packet.Origin{User: "carol", Device: "phone", Conn: 8}
	held := make(chan []packet.Pending, 1)
	seen.set(func(b []packet.Pending) bool {
		if b[0].From.User == "alice" && b[0].ReqID == 1 {
			held <- b
			return true
		}
		return false
	})
	l.Send([]packet.Pending{text(alice, bob, 1, slow)})
	l.Send([]packet.Pending{text(carol, bob, 1, quick)})
	l.Send([]packet.Pending{text(alice, bob, 2, slow)})
	quick.expect(t, "1:seq=1")
	b := <-held
	for n := uint64(2); n < 40; n++ { // more than there are calls at once
		l.Send([]packet.Pending{text(carol, bob, n, quick)})
		quick.expect(t, fmt.Sprintf("%d:seq=%d", n, n))
	}
	a.services.Send(b)
	slow.expect(t, "1:seq=1", "2:seq=2")
}

// What would only wait at a node for its next round gathers here, however many connections it comes from, and whoever the node doesn't tell
// anything doesn't wait.
func TestCallsKeepThePaceOfRounds(t *testing.T) {
	const pace = 100 * time.Millisecond
	began := time.Now()
	a := start(t, 1, func(c *rpc.Config) {
		c.Logic.Rounds = func() (time.Duration, time.Duration) { return pace - time.Since(began)%pace, pace }
	})
	b := start(t, 2, nil)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view, b.view}, a, b)
	for _, c := range []struct {
		node *logicNode
		few  bool
	}{{a, true}, {b, false}} {
		l := logicOf(t, v, pool(t, nil))
		_, bob, _ := between(v, c.node)
		out := newSent()
		l.Send([]packet.Pending{text(alice, bob, 1, out)})
		out.expect(t, "1:seq=1") // now the pace is known
		since := time.Now()
		var wait []*sent
		for n := range uint64(20) {
			o := &packet.Origin{User: "alice", Device: "phone", Conn: 100 + n}
			each := newSent()
			wait = append(wait, each)
			l.Send([]packet.Pending{text(o, bob, 2+n, each)})
			if !c.few {
				each.expect(t, fmt.Sprintf("%d:seq=%d", 2+n, 2+n))
			}
			time.Sleep(5 * time.Millisecond)
		}
		if c.few {
			for n, each := range wait {
				each.expect(t, fmt.Sprintf("%d:seq=%d", n+2, n+2))
			}
		}
		calls, rounds := l.Stats().Calls-1, uint64(time.Since(since)/pace)
		// The pace is forgotten with a call that is answered when nothing waits, so a round may see a few.
		if c.few && calls > 4*(rounds+1) || !c.few && calls != 20 {
			t.Errorf("%s: %d calls in the time of %d rounds", c.node.ID, calls, rounds)
		}
	}
}

// What a lane sends while its first message is on its way to the right node waits behind it.
func TestWrongNodeInItsLane(t *testing.T) {
	a, _ := spied(t, 1)
	b, seen := spied(t, 2)
	v := newView(t, edgeNode)
	agree(t, []view{v}, a)
	agree(t, []view{a.view, b.view}, b)
	l := logicOf(t, v, pool(t, nil))
	_, bob, _ := between(v, a)
	out := newSent()
	came := make(chan struct{})
	hold := make(chan struct{})
	var once sync.Once
	seen.set(func([]packet.Pending) bool {
		once.Do(func() { close(came); <-hold })
		return false
	})
	l.Send([]packet.Pending{text(alice, bob, 1, out), text(alice, bob, 2, out)})
	<-came
	agree(t, []view{v}, b) // the edge learns of it: its next message would be there at once
	l.Send([]packet.Pending{text(alice, bob, 3, out)})
	close(hold)
	out.expect(t, "1:seq=1", "2:seq=2", "3:seq=3")
	if l.Stats().Moved != 2 {
		t.Errorf("%d messages moved, want 2", l.Stats().Moved)
	}
	t.Run("a node that is leaving", func(t *testing.T) {
		agree(t, []view{v, a.view, b.view}, b)
		seen.set(func(batch []packet.Pending) bool { // its sequencer gives the slot away, and the views follow
			agree(t, []view{v, a.view, b.view}, a)
			for i := range batch {
				batch[i].Unlaned = true
				batch[i].Reply.Refused(&batch[i], code.New(code.WrongOwner))
			}
			return true
		})
		l.Send([]packet.Pending{text(alice, bob, 4, out), text(alice, bob, 5, out)})
		out.expect(t, "4:seq=1", "5:seq=2") // each node has its own messages here
	})
}

// After a retryable refusal the rest of the lane is refused until it is sent again from there.
func TestRefusalHoldsTheLane(t *testing.T) {
	a, seen := spied(t, 1)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	l := logicOf(t, v, pool(t, nil))
	_, bob, _ := between(v, a)
	out := newSent()
	came, hold := make(chan struct{}), make(chan struct{})
	seen.set(func(b []packet.Pending) bool {
		if b[0].ReqID != 1 || b[0].Resend {
			return false
		}
		close(came)
		<-hold
		b[0].Reply.Refused(&b[0], code.New(code.Overloaded))
		return true
	})
	l.Send([]packet.Pending{text(alice, bob, 1, out)})
	<-came
	l.Send([]packet.Pending{text(alice, bob, 2, out)}) // waits behind it
	l.Send([]packet.Pending{text(alice, bob, 3, out)})
	close(hold)
	out.expect(t, "1:overloaded", "2:lane_blocked", "3:lane_blocked")
	l.Send([]packet.Pending{text(alice, bob, 4, out)})         // had passed the connection before
	l.Send([]packet.Pending{resent(text(alice, bob, 2, out))}) // not where the lane was shut
	out.expect(t, "4:lane_blocked", "2:lane_blocked")
	l.Send([]packet.Pending{resent(text(alice, bob, 1, out)), resent(text(alice, bob, 2, out))})
	l.Send([]packet.Pending{text(alice, bob, 3, out)})
	out.expect(t, "1:seq=1", "2:seq=2", "3:seq=3")
}

// An edge that reaches no node refuses what may be sent again, acks nothing, and recovers by itself.
func TestCutOff(t *testing.T) {
	a := start(t, 1, nil)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	p := pool(t, func(c *remote.PoolConfig) { c.Open = 50 * time.Millisecond; c.Failures = 2 })
	l := logicOf(t, v, p)
	_, bob, conv := between(v, a)
	out := newSent()
	l.Send([]packet.Pending{text(alice, bob, 1, out)})
	out.expect(t, "1:seq=1")
	a.kill()
	for n := uint64(2); n < 6; n++ {
		l.Send([]packet.Pending{text(&packet.Origin{User: "alice", Device: "phone", Conn: 20 + n}, bob, n, out)})
		select {
		case <-out.news:
		case <-time.After(20 * time.Second):
			t.Fatal("no answer")
		}
		out.mu.Lock()
		if line := out.heard[len(out.heard)-1]; !strings.Contains(line, "unavailable") && !strings.Contains(line, "undetermined") {
			t.Errorf("heard %q", line)
		}
		out.heard = nil
		out.mu.Unlock()
	}
	_, err := l.State(soon(t), alice, conv)
	var e *code.Error
	if !errors.As(err, &e) || e.Code != code.Unavailable || e.RetryAfter == 0 {
		t.Errorf("a read: %v", err)
	}
	peers, _ := p.Stats()
	if len(peers) != 1 || peers[0].Breaker == "closed" || peers[0].Failed == 0 || peers[0].Shed == 0 {
		t.Errorf("calls: %+v", peers)
	}
	agree(t, []view{v})
	if _, err := l.State(soon(t), alice, conv); !errors.Is(err, code.New(code.Unavailable)) {
		t.Errorf("without a node: %v", err)
	}
	// It is back, at the same address.
	back := start(t, 1, func(c *rpc.Config) { c.Listen = a.RPC })
	agree(t, []view{v, back.view}, back)
	ctx := soon(t)
	for {
		if _, err = l.State(ctx, alice, conv); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	again := newSent()
	other := &packet.Origin{User: "alice", Device: "phone", Conn: 9}
	l.Send([]packet.Pending{resent(text(other, bob, 2, again))})
	again.expect(t, "2:seq=1")
}

// The node dies with messages in its hands: nobody knows what became of them.
func TestOwnerDies(t *testing.T) {
	a, seen := spied(t, 1)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	l := logicOf(t, v, pool(t, nil))
	_, bob, _ := between(v, a)
	out := newSent()
	came := make(chan struct{})
	seen.set(func([]packet.Pending) bool { close(came); return true })
	l.Send([]packet.Pending{text(alice, bob, 1, out), text(alice, bob, 2, out)})
	<-came
	l.Send([]packet.Pending{text(alice, bob, 3, out)})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_ = a.Shutdown(ended)
	out.expect(t, "1:undetermined", "2:undetermined", "3:lane_blocked")
	if s := l.Stats(); s.Lost != 2 || s.Refused != 3 {
		t.Errorf("counted %+v", s)
	}
}

func TestOverload(t *testing.T) {
	a, seen := spied(t, 1)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	l, err := remote.NewLogic(remote.LogicConfig{Router: v.Router, Pool: pool(t, nil), Send: remote.SendConfig{Calls: 1, Waiting: 2}})
	if err != nil {
		t.Fatal(err)
	}
	_, bob, _ := between(v, a)
	came, hold := make(chan struct{}), make(chan struct{})
	var once sync.Once
	seen.set(func([]packet.Pending) bool {
		once.Do(func() { close(came); <-hold })
		return false
	})
	var outs []*sent
	for n := range uint64(5) {
		o := &packet.Origin{User: "alice", Device: "phone", Conn: 10 + n}
		outs = append(outs, newSent())
		l.Send([]packet.Pending{text(o, bob, 1, outs[n])})
		if n == 0 {
			<-came
		}
	}
	outs[3].expect(t, "1:overloaded")
	outs[4].expect(t, "1:overloaded")
	close(hold)
	for n := range 3 {
		select {
		case <-outs[n].news:
		case <-time.After(20 * time.Second):
			t.Fatal("no answer")
		}
		if line := outs[n].heard[0]; !strings.HasPrefix(line, "1:seq=") {
			t.Errorf("heard %q", line)
		}
	}
	if s := l.Stats(); s.Calls != 2 || s.Messages != 3 {
		t.Errorf("counted %+v: what gathers while a call is under way goes with the next one", s)
	}
}

// The node that owns a conversation sends to its own services, without a copy or a wrapper that costs anything.
func TestOwnSendsAreDirect(t *testing.T) {
	me := start(t, 1, nil)
	agree(t, []view{me.view}, me)
	local := &remote.Local{Authenticator: me.services, Conversations: nobodyWaits{me.services}, Signals: me.services}
	out := ignored{}
	_, bob, _ := between(me.view, me)
	for name, p := range map[string]*remote.Pool{"alone": nil, "among others": pool(t, nil)} {
		l, err := remote.NewLogic(remote.LogicConfig{Router: me.Router, Pool: p, Local: local})
		if err != nil {
			t.Fatal(err)
		}
		batch := []packet.Pending{text(alice, bob, 1, out), text(alice, bob, 2, out)}
		if n := testing.AllocsPerRun(1000, func() {
			batch[0].Reply, batch[1].Reply = out, out
			l.Send(batch)
		}); n != 0 && !raceEnabled {
			t.Errorf("%s: %v allocations a batch", name, n)
		}
		if err := l.Close(soon(t)); err != nil {
			t.Error(err)
		}
	}
}

type ignored struct{}

func (ignored) Acked(*packet.Pending, packet.Ack)    {}
func (ignored) Refused(*packet.Pending, *code.Error) {}

type nobodyWaits struct{ *conntest.Services }

func (nobodyWaits) Send(batch []packet.Pending) {
	for i := range batch {
		batch[i].Reply.Acked(&batch[i], packet.Ack{Seq: 1})
	}
}

// delayed are services that keep what they are sent until they are told to answer.
type delayed struct {
	*conntest.Services
	came chan []packet.Pending
}

func (d delayed) Send(batch []packet.Pending) { d.came <- batch }

// A node that has edges' connections itself gives a slot away: what its own services still have of a
// lane is answered before the rest leaves for the new owner.
func TestLaneLeavesThisProcess(t *testing.T) {
	me, other := start(t, 1, nil), start(t, 2, nil)
	views := []view{me.view, other.view}
	agree(t, views, me)
	own := delayed{me.services, make(chan []packet.Pending, 10)}
	p := pool(t, func(c *remote.PoolConfig) { c.Self = me.ID })
	l, err := remote.NewLogic(remote.LogicConfig{Router: me.Router, Pool: p, Local: &remote.Local{Authenticator: me.services, Conversations: own, Signals: me.services}})
	if err != nil {
		t.Fatal(err)
	}
	_, bob, _ := between(me.view, me)
	out := newSent()
	l.Send([]packet.Pending{text(alice, bob, 1, out)})
	l.Send([]packet.Pending{text(alice, bob, 2, out)})
	agree(t, views, other)
	l.Send([]packet.Pending{text(alice, bob, 3, out)})
	l.Send([]packet.Pending{text(alice, bob, 4, out)})
	for range 2 {
		me.services.Send(<-own.came)
	}
	out.expect(t, "1:seq=1", "2:seq=2", "3:seq=1", "4:seq=2") // each node has its own messages here
	if other.Stats().Total == 0 {
		t.Error("nothing came to the new owner")
	}
	t.Run("and what they refuse holds the rest back", func(t *testing.T) {
		agree(t, views, me)
		out := newSent()
		o := &packet.Origin{User: "alice", Device: "tablet", Conn: 70}
		l.Send([]packet.Pending{text(o, bob, 5, out)})
		agree(t, views, other)
		l.Send([]packet.Pending{text(o, bob, 6, out)})
		b := <-own.came
		b[0].Reply.Refused(&b[0], code.New(code.WrongOwner))
		out.expect(t, "5:wrong_owner", "6:lane_blocked")
		l.Send([]packet.Pending{resent(text(o, bob, 5, out)), resent(text(o, bob, 6, out))})
		out.expect(t, "5:seq=3", "6:seq=4")
	})
	t.Run("and comes back", func(t *testing.T) {
		agree(t, views, me)
		l.Send([]packet.Pending{text(alice, bob, 7, out)})
		b := <-own.came
		me.services.Send(b)
		out.expect(t, "7:seq=3")
	})
	if err := l.Close(soon(t)); err != nil {
		t.Error(err)
	}
	l.Send([]packet.Pending{text(alice, bob, 8, out)})
	out.expect(t, "8:unavailable")
}
