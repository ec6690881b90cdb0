package conn_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// bench is a process of one edge without sockets.
type bench struct {
	t    testing.TB
	svc  *conntest.Services
	host *conntest.Host
	edge *conn.Edge
}

func newBench(t testing.TB, cfg conn.Config) *bench {
	t.Helper()
	b := &bench{t: t, svc: conntest.New(), host: conntest.NewHost()}
	b.svc.Out = b.host
	var err error
	if b.edge, err = conn.NewEdge(cfg, b.svc.For(), b.host); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) open() *conntest.Pipe {
	p := conntest.NewPipe()
	b.host.Open(b.edge, p)
	return p
}

func (b *bench) login(user, device string) *conntest.Pipe {
	b.t.Helper()
	p := b.open()
	p.C.Input(conntest.Connect(user, device))
	b.expect(p, "CONNACK")
	return p
}

func (b *bench) expect(p *conntest.Pipe, want ...string) {
	b.t.Helper()
	got, err := p.Take()
	if err != nil || !slices.Equal(got, want) {
		b.t.Fatalf("got %q (%v), want %q", got, err, want)
	}
}

func join(bs ...[]byte) []byte { return slices.Concat(bs...) }

func TestRunsToOneTargetAreOneBatch(t *testing.T) {
	b := newBench(t, conn.Config{})
	a := b.login("alice", "d")
	a.C.Input(join(
		conntest.Send(1, 0, "bob", 1, "1"), conntest.Send(2, 0, "bob", 2, "2"), conntest.Send(3, 0, "bob", 3, "3"),
		conntest.Send(4, 0, "carol", 4, "4"),
		conntest.Send(5, 0, "bob", 5, "5"), conntest.Send(6, 0, "bob", 6, "\xff"), conntest.Send(7, 0, "bob", 7, "7"),
		frame.Append(nil, frame.Ping, 0, 0, nil),
		conntest.Send(8, 0, "bob", 8, "8"), conntest.Send(9, 0, "bob", 9, "9"),
	))
	if got := b.svc.Batches(); !slices.Equal(got, []int{3, 1, 1, 1, 2}) {
		t.Fatalf("batches %v", got)
	}
	b.expect(a, "SENDACK #1 seq 1", "SENDACK #2 seq 2", "SENDACK #3 seq 3", "SENDACK #4 seq 1", "SENDACK #5 seq 4",
		"ERROR #6 invalid_utf8", "SENDACK #7 seq 5", "PONG", "SENDACK #8 seq 6", "SENDACK #9 seq 7")
}

// However a stream is cut, the same happens.
func TestAnyCut(t *testing.T) {
	stream := join(conntest.Connect("alice", "d"), conntest.Send(1, 0, "bob", 1, "one"), frame.Append(nil, frame.Ping, 0, 0, nil),
		conntest.Send(2, 0, "bob", 2, strings.Repeat("long ", 300)), conntest.Send(3, 0, "bob", 3, "three"))
	want := []string{"CONNACK", "SENDACK #1 seq 1", "PONG", "SENDACK #2 seq 2", "SENDACK #3 seq 3"}
	for size := 1; size < len(stream); size += 1 + size/9 {
		b := newBench(t, conn.Config{})
		p := b.open()
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			piece := slices.Clone(rest[:n])
			p.C.Input(piece)
			for i := range piece {
				piece[i] = 0xEE // the transport's buffer is used again
			}
			rest = rest[n:]
		}
		got, err := p.Take()
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("pieces of %d: got %q (%v)", size, got, err)
		}
		if n := b.edge.Stats().PartialBytes; n != 0 {
			t.Fatalf("pieces of %d: %d bytes of unfinished frames are kept", size, n)
		}
	}
}

func TestLaneOpensForAMessageResentTwice(t *testing.T) {
	b := newBench(t, conn.Config{MaxInflight: 1})
	a := b.login("alice", "d")
	b.svc.Hold.Store(true)
	a.C.Input(join(conntest.Send(1, 0, "bob", 1, "1"), conntest.Send(2, 0, "bob", 2, "2")))
	b.expect(a, "ERROR #2 overloaded lane")
	b.svc.Release()
	b.expect(a, "SENDACK #1 seq 1")
	a.C.Input(conntest.Send(3, frame.FlagResend, "bob", 3, "3"))
	b.expect(a, "ERROR #3 lane_blocked lane")
	a.C.Input(conntest.Send(4, frame.FlagResend, "bob", 3, "3")) // 2 was given up
	b.expect(a, "SENDACK #4 seq 2")
}

func TestInflight(t *testing.T) {
	b := newBench(t, conn.Config{MaxInflight: 2})
	a := b.login("alice", "d")
	b.svc.Hold.Store(true)
	a.C.Input(join(conntest.Send(1, 0, "bob", 1, "1"), conntest.Send(2, 0, "bob", 2, "2"), conntest.Send(3, 0, "bob", 3, "3"),
		conntest.Send(4, 0, "carol", 4, "4")))
	b.expect(a, "ERROR #3 overloaded lane", "ERROR #4 overloaded lane")
	b.svc.Release()
	b.expect(a, "SENDACK #1 seq 1", "SENDACK #2 seq 2")
	a.C.Input(join(conntest.Send(5, 0, "dora", 5, "5"), conntest.Send(6, frame.FlagResend, "bob", 3, "3")))
	b.expect(a, "SENDACK #5 seq 1", "SENDACK #6 seq 3")
}

func TestRefusedByTheService(t *testing.T) {
	b := newBench(t, conn.Config{})
	a := b.login("alice", "d")
	b.svc.Refuse.Store(code.New(code.Forbidden))
	a.C.Input(conntest.Send(1, 0, "bob", 1, "1"))
	b.expect(a, "ERROR #1 forbidden")
	b.svc.Refuse.Store(code.New(code.StorageFull))
	a.C.Input(conntest.Send(2, 0, "bob", 2, "2"))
	b.expect(a, "ERROR #2 storage_full lane")
	if n := b.edge.Stats().Refused[code.StorageFull]; n != 1 {
		t.Fatalf("counted %d", n)
	}
}

func TestDeliveriesWaitForCONNACK(t *testing.T) {
	b := newBench(t, conn.Config{CallTimeout: 300 * time.Millisecond})
	a := b.login("alice", "d")
	p := b.open()
	b.svc.Block.Store(false)
	// Registered, but its inbox not read yet: a message comes in between.
	inbox := &interposed{Services: b.svc, before: func() {
		a.C.Input(conntest.Send(1, 0, "bob", 1, "early"))
		if got, _ := p.Take(); len(got) != 0 {
			t.Errorf("written before the CONNACK: %q", got)
		}
	}}
	svc := b.svc.For()
	svc.Conversations = inbox
	e, err := conn.NewEdge(conn.Config{}, svc, b.host)
	if err != nil {
		t.Fatal(err)
	}
	b.host.Open(e, p)
	p.C.Input(conntest.Connect("bob", "d"))
	b.expect(p, "CONNACK", "DELIVER [1 alice: early]")
}

func TestFailingServices(t *testing.T) {
	b := newBench(t, conn.Config{CallTimeout: 50 * time.Millisecond})
	conv := conntest.Direct("alice", "bob")
	sync := conntest.Frame(frame.Sync, frame.FlagRequestID, 7, &wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: conv[:], FromSeq: 1}}})
	history := conntest.Request(8, packet.MethodHistory, &wire.HistoryRequest{ConversationId: conv[:]})
	a := b.login("alice", "d")
	b.svc.Fail.Store(true)
	a.C.Input(join(sync, history, conntest.Request(9, packet.MethodConversation, &wire.ConversationRequest{ConversationId: conv[:]}),
		conntest.Request(10, packet.MethodConversations, &wire.ConversationsRequest{})))
	b.expect(a, "SYNCED #7 1..0 of 0..0 internal", "ERROR #8 internal", "ERROR #9 internal", "ERROR #10 internal")
	p := b.open()
	p.C.Input(conntest.Connect("bob", "d"))
	b.expect(p, "ERROR internal")
	b.svc.Fail.Store(false)
	b.svc.Block.Store(true)
	a.C.Input(join(sync, history))
	b.expect(a, "SYNCED #7 1..0 of 0..0 unavailable", "ERROR #8 unavailable")
	q := b.open()
	q.C.Input(conntest.Connect("carol", "d"))
	b.expect(q, "ERROR unavailable")
	if !p.Ended() || !q.Ended() {
		t.Fatal("a refused connection is open")
	}
	b.svc.Block.Store(false)
	a.C.Input(join(conntest.Request(11, packet.MethodRead, &wire.ReadRequest{ConversationId: conv[:]}),
		conntest.Request(12, packet.MethodConversation, &wire.ConversationRequest{ConversationId: conv[:]}),
		conntest.Frame(frame.Signal, frame.FlagRequestID, 13, &wire.Signal{ToUserId: "nobody", Kind: 1})))
	b.expect(a, "ERROR #11 no_such_conversation", "ERROR #12 no_such_conversation", "ERROR #13 no_such_user")
}

func TestLag(t *testing.T) {
	b := newBench(t, conn.Config{QueueBytes: 2000, QueueFrames: 10})
	p := b.login("alice", "d")
	p.Room(0)
	deliver := func(peer string, seq uint64) {
		conv := conntest.Direct("alice", peer)
		m := packet.AppendMessage(nil, seq, 1, "x", nil)
		p.C.Deliver(packet.AppendDeliver(nil, conv, nil, m))
		p.C.Flush()
	}
	for i := range uint64(20) { // one being written, ten queued, nine dropped
		deliver("bob", i+1)
	}
	p.C.Input(frame.Append(nil, frame.Ping, 0, 0, nil)) // answers are not dropped
	p.Room(-1)
	var want []string
	for i := range 11 {
		want = append(want, fmt.Sprintf("DELIVER [%d x: ]", i+1))
	}
	b.expect(p, append(want, "PONG", "HINT head 20")...)
	deliver("bob", 21)
	b.expect(p, "DELIVER [21 x: ]")

	p.Room(0)
	for i := range 60 {
		deliver(fmt.Sprint("peer", i), 1)
	}
	p.Room(-1)
	got, err := p.Take()
	if err != nil || got[len(got)-1] != "HINT all" {
		t.Fatalf("got %q (%v)", got, err)
	}
	st := b.edge.Stats()
	if st.Lagging != 2 || st.Hints != 2 || st.Dropped != 9+49 {
		t.Fatalf("stats %+v", st)
	}
	if st.HeldBytes != 0 {
		t.Fatalf("%d bytes are held for nobody", st.HeldBytes)
	}
	// Ephemeral frames leave no hint; what tells of something stored does.
	for _, kind := range []uint32{packet.SignalTyping, packet.SignalCursors} {
		p.Room(0)
		for range 30 {
			p.C.Deliver(conntest.Frame(frame.Signal, 0, 0, &wire.Signal{ToUserId: "alice", Kind: kind}))
			p.C.Flush()
		}
		p.Room(-1)
		hinted := func(s string) bool { return s == "HINT all" }
		if got, err = p.Take(); err != nil || slices.ContainsFunc(got, hinted) != packet.ServerSignal(kind) {
			t.Fatalf("kind %d: got %q (%v)", kind, got, err)
		}
	}
}

// What can wait goes with the next thing that is written, if there is one all the time, and with the sweep if not.
func TestDeliverLazily(t *testing.T) {
	b := newBench(t, conn.Config{})
	p := b.login("alice", "d")
	lazily := func() {
		p.C.DeliverLazily(conntest.Frame(frame.Signal, 0, 0, &wire.Signal{ToUserId: "alice", Kind: 3}))
		b.host.Flush()
	}
	lazily() // to a quiet connection it isn't late
	b.expect(p, "SIGNAL")
	for range 20 {
		p.C.Input(frame.Append(nil, frame.Ping, 0, 0, nil))
		b.expect(p, "PONG")
	}
	p.C.Sweep() // it is known for busy now
	lazily()
	b.expect(p)
	p.C.Input(frame.Append(nil, frame.Ping, 0, 0, nil))
	b.expect(p, "SIGNAL", "PONG")
	lazily()
	b.expect(p)
	p.C.Sweep() // nothing else came
	b.expect(p, "SIGNAL")
	lazily()
	b.expect(p, "SIGNAL")
}

func TestAsksWithoutReading(t *testing.T) {
	b := newBench(t, conn.Config{QueueBytes: 4 << 10, ReplyBytes: 16 << 10, SendsPerSecond: 1e6, FramesPerSecond: 1e6, BytesPerSecond: 1e9})
	p := b.login("alice", "d")
	for i := range 40 {
		p.C.Input(conntest.Send(uint32(i), 0, "bob", uint64(i), strings.Repeat("x", 500)))
	}
	if _, err := p.Take(); err != nil {
		t.Fatal(err)
	}
	p.Room(0)
	conv := conntest.Direct("alice", "bob")
	sync := conntest.Frame(frame.Sync, frame.FlagRequestID, 7, &wire.Sync{Ranges: []*wire.SyncRange{
		{ConversationId: conv[:], FromSeq: 1, Limit: 9}, {ConversationId: conv[:], FromSeq: 11}}})
	p.C.Input(sync)
	p.C.Input(sync)
	p.Room(-1)
	got, err := p.Take()
	if err != nil || len(got) != 3 || !strings.HasSuffix(got[1], " overloaded") || got[2] != "ERROR #7 overloaded" {
		t.Fatalf("got %.200q (%v)", got, err)
	}
	p.Room(0)
	for i := 0; !p.Ended(); i++ {
		if i > 1e6 {
			t.Fatal("still connected")
		}
		p.C.Input(frame.Append(nil, frame.Ping, 0, 0, nil))
	}
	if n := b.edge.Stats().Closed[code.TooSlow]; n != 1 {
		t.Fatalf("closed %v", b.edge.Stats().Closed)
	}
}

func TestUnfinishedFramesAreBounded(t *testing.T) {
	b := newBench(t, conn.Config{MaxPartial: 1 << 20, BytesPerSecond: 1 << 30})
	head := frame.AppendHeader(nil, frame.Send, frame.FlagRequestID, 1, 120<<10)
	var ps []*conntest.Pipe
	for i := range 30 {
		p := b.login(fmt.Sprint("u", i), "d")
		p.C.Input(join(head, make([]byte, 100<<10)))
		ps = append(ps, p)
	}
	ended := 0
	for _, p := range ps {
		if p.Ended() {
			ended++
		} else {
			p.Close()
		}
	}
	if ended < 18 || ended > 25 {
		t.Fatalf("%d of 30 were closed", ended)
	}
	for _, p := range ps {
		p.Close()
	}
	if n := b.edge.Stats().PartialBytes; n != 0 || b.host.Count() != 0 || b.svc.Sessions() != 0 {
		t.Fatalf("%d bytes, %d connections, %d sessions are left", n, b.host.Count(), b.svc.Sessions())
	}
}

func TestSlowClientsShareABound(t *testing.T) {
	b := newBench(t, conn.Config{QueueTotal: 10_000})
	d := packet.AppendDeliver(nil, conntest.Direct("a", "b"), nil, packet.AppendMessage(nil, 1, 1, "x", make([]byte, 0, 100)))
	var ps []*conntest.Pipe
	for i := range 10 {
		p := b.login(fmt.Sprint("u", i), "d")
		p.Room(0)
		for range 100 {
			p.C.Deliver(d)
			p.C.Flush()
		}
		ps = append(ps, p)
	}
	if st := b.edge.Stats(); st.HeldBytes < 10_000 || st.HeldBytes > 11_000 || st.Dropped == 0 {
		t.Fatalf("%d bytes held, %d dropped", st.HeldBytes, st.Dropped)
	}
	ps[0].Close()
	for _, p := range ps[1:] {
		p.Room(-1)
		got, err := p.Take()
		if err != nil {
			t.Fatal(err)
		}
		if n := len(got); n < 100 && got[n-1] != "HINT head 1" {
			t.Fatalf("%d frames, the last %q", n, got[n-1])
		}
	}
	if st := b.edge.Stats(); st.HeldBytes != 0 {
		t.Fatalf("%d bytes are held for nobody", st.HeldBytes)
	}
}

func TestAfterTheEnd(t *testing.T) {
	b := newBench(t, conn.Config{})
	p := b.login("alice", "d")
	b.svc.Hold.Store(true)
	p.C.Input(conntest.Send(1, 0, "bob", 1, "x"))
	p.C.Input([]byte{0})
	b.expect(p, "ERROR bad_frame")
	b.svc.Release() // the ack comes too late
	p.C.Deliver(frame.Append(nil, frame.Ping, 0, 0, nil))
	p.C.Drain(frame.Append(nil, frame.Drain, 0, 0, nil))
	p.C.Input(frame.Append(nil, frame.Ping, 0, 0, nil))
	p.C.Flush()
	b.expect(p)
	if b.host.Count() != 1 || b.svc.Sessions() != 0 {
		t.Fatal("the connection is gone, or still in the directory")
	}
	for range 70 { // a client that goes on regardless
		p.C.Input(make([]byte, 4096))
	}
	if b.host.Count() != 0 {
		t.Fatal("still there")
	}
}

func TestClosedWhileLoggingIn(t *testing.T) {
	b := newBench(t, conn.Config{CallTimeout: 200 * time.Millisecond})
	b.svc.Block.Store(true)
	p := b.open()
	done := make(chan struct{})
	go func() {
		p.C.Input(conntest.Connect("alice", "d"))
		close(done)
	}()
	p.C.Close(code.New(code.Draining))
	<-done
	b.expect(p, "ERROR draining")
	p.Close()
	if b.host.Count() != 0 || b.svc.Sessions() != 0 {
		t.Fatal("something is left")
	}
}

// slowAuth has something happen while a client is authenticated.
type slowAuth struct {
	conn.Authenticator
	meanwhile func()
}

func (a slowAuth) Authenticate(ctx context.Context, token, resume string, device id.DeviceID, kind uint8) (id.UserID, string, bool, *code.Error) {
	a.meanwhile()
	return a.Authenticator.Authenticate(ctx, token, resume, device, kind)
}

// A connection that is closed while it is authenticated takes nobody's place.
func TestNobodyMakesWayForAConnectionThatHasEnded(t *testing.T) {
	for _, device := range []string{"d", "only"} { // the same one, and one that ousts others
		t.Run(device, func(t *testing.T) {
			b := newBench(t, conn.Config{})
			var late *conntest.Pipe
			svc := b.svc.For()
			svc.Authenticator = slowAuth{svc.Authenticator, func() {
				if late != nil {
					late.C.Close(code.New(code.HandshakeTimeout))
				}
			}}
			var err error
			if b.edge, err = conn.NewEdge(conn.Config{}, svc, b.host); err != nil {
				t.Fatal(err)
			}
			there := b.login("alice", "d")
			late = b.open()
			late.C.Input(conntest.Connect("alice", device))
			b.expect(late, "ERROR handshake_timeout")
			b.expect(there)
			if there.Ended() || b.svc.Connection("alice", "d") != there.C.Incarnation() || b.svc.Sessions() != 1 {
				t.Errorf("ended %v, %d sessions", there.Ended(), b.svc.Sessions())
			}
		})
	}
}

func TestClosedWhileRegistering(t *testing.T) {
	b := newBench(t, conn.Config{})
	p := b.open()
	svc := b.svc.For()
	svc.Conversations = &interposed{Services: b.svc, before: func() { p.C.Close(code.New(code.Replaced)) }}
	e, err := conn.NewEdge(conn.Config{}, svc, b.host)
	if err != nil {
		t.Fatal(err)
	}
	p = conntest.NewPipe()
	b.host.Open(e, p)
	p.C.Input(conntest.Connect("bob", "d"))
	b.expect(p, "ERROR replaced")
	p.Close()
	if b.svc.Sessions() != 0 {
		t.Fatal("a session is left")
	}
}

func TestPanicsGiveTheirSlotsBack(t *testing.T) {
	b := newBench(t, conn.Config{Auths: 1})
	for range 3 {
		p := b.open()
		func() {
			defer func() { p.C.Panicked(recover(), nil) }()
			p.C.Input(conntest.ConnectFrame(&wire.Connect{Version: 1, DeviceId: "d", Token: "panic"}))
		}()
		b.expect(p, "ERROR internal")
	}
	b.login("alice", "d")
}

func TestHeartbeatIsNegotiated(t *testing.T) {
	for wish, want := range map[uint32]uint32{0: 60, 5: 15, 100: 100, 100000: 600} {
		b := newBench(t, conn.Config{})
		p := b.open()
		c := conntest.Client{W: p.Client()}
		p.C.Input(conntest.ConnectFrame(&wire.Connect{Version: 9, Token: "user:a", DeviceId: "d", HeartbeatSeconds: wish}))
		f, err := c.Next(0)
		if err != nil {
			t.Fatal(err)
		}
		m, cerr := packet.DecodeConnack(f.Body)
		if cerr != nil || m.HeartbeatSeconds != want || m.Version != 1 {
			t.Fatalf("asked for %d: %+v, %v", wish, m, cerr)
		}
	}
}

func TestSyncMarkOfAnotherStoreIsIgnored(t *testing.T) {
	b := newBench(t, conn.Config{StoreEpoch: 5})
	for epoch, want := range map[uint64]uint64{5: 78, 4: 1} {
		p := b.open()
		c := conntest.Client{W: p.Client()}
		p.C.Input(conntest.ConnectFrame(&wire.Connect{Version: 1, ResumeToken: "resume:a", DeviceId: fmt.Sprint(epoch), SyncMark: 77, StoreEpoch: epoch}))
		f, err := c.Next(0)
		if err != nil {
			t.Fatal(err)
		}
		m, cerr := packet.DecodeConnack(f.Body)
		if cerr != nil || m.SyncMark != want || !m.Resumed {
			t.Fatalf("epoch %d: %+v, %v", epoch, m, cerr)
		}
	}
}

func TestOriginDeviceMustBeTheSenders(t *testing.T) {
	b := newBench(t, conn.Config{})
	a := b.login("alice", "phone")
	mid := conntest.MsgID(1)
	for device, want := range map[string]string{"phone": "SENDACK #1 seq 1", "laptop": "ERROR #1 bad_request"} {
		a.C.Input(conntest.Frame(frame.Send, frame.FlagRequestID, 1, &wire.Send{ToUserId: "bob", ClientMsgId: mid[:], MsgType: 1, Content: "x", OriginDevice: device}))
		b.expect(a, want)
	}
}

func TestConfig(t *testing.T) {
	if err := (conn.Config{}).Validate(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]conn.Config{
		"frame":     {MaxFrame: 1 << 10},
		"content":   {Packet: packet.Limits{MaxContent: 1 << 20}},
		"heartbeat": {HeartbeatMin: time.Hour},
		"long":      {HeartbeatMax: 24 * time.Hour},
		"negative":  {MaxInflight: -1},
		"replies":   {QueueBytes: 1000, ReplyBytes: 10},
	} {
		if c.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := conn.NewEdge(conn.Config{}, conn.Services{}, conntest.NewHost()); err == nil {
		t.Error("no services: no error")
	}
}

func TestLimitsAreAnnounced(t *testing.T) {
	b := newBench(t, conn.Config{SendsPerSecond: 7, BytesPerSecond: 4321, MaxInflight: 9, MaxPage: 11})
	p := b.open()
	c := conntest.Client{W: p.Client()}
	m, err := c.Login("alice", "d")
	if err != nil {
		t.Fatal(err)
	}
	want := wire.Limits{MaxFrame: 128 << 10, MaxContent: 12 << 10, MaxExt: 1 << 10, MaxMentions: 50, MaxInflight: 9, SendsPerSecond: 7, MaxPage: 11, BytesPerSecond: 4321}
	if *m.Limits != want {
		t.Fatalf("limits %+v", m.Limits)
	}
	b.edge.Allow(conn.Allowance{SendsPerSecond: 8, UserSendsPerSecond: 8, BytesPerSecond: 5432, MaxInflight: 10})
	want.SendsPerSecond, want.BytesPerSecond, want.MaxInflight = 8, 5432, 10
	c = conntest.Client{W: b.open().Client()}
	if m, err = c.Login("alice", "e"); err != nil || *m.Limits != want {
		t.Fatalf("limits that were changed: %+v, %v", m.Limits, err)
	}
}
