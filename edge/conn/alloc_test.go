package conn_test

import (
	"context"
	"testing"
	"unsafe"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// interposed runs something before the inbox is read.
type interposed struct {
	*conntest.Services
	before func()
}

func (s *interposed) Inbox(ctx context.Context, o *packet.Origin, mark uint64, cursor string, limit int) ([]*wire.ConversationState, string, uint64, error) {
	s.before()
	return s.Services.Inbox(ctx, o, mark, cursor, limit)
}

// sink acks every message at once and keeps none.
type sink struct {
	*conntest.Services
	seq  uint64
	last packet.Pending
}

func (s *sink) Send(batch []packet.Pending) {
	for i := range batch {
		s.seq++
		batch[i].Reply.Acked(&batch[i], packet.Ack{Seq: s.seq, MessageID: 1})
	}
	s.last = batch[0]
}

func sinkBench(t testing.TB) (*bench, *sink) {
	b := newBench(t, conn.Config{})
	s := &sink{Services: b.svc}
	svc := b.svc.For()
	svc.Conversations = s
	e, err := conn.NewEdge(conn.Config{SendsPerSecond: 1e9, UserSendsPerSecond: 1e9, BytesPerSecond: 1e9, FramesPerSecond: 1e9}, svc, b.host)
	if err != nil {
		t.Fatal(err)
	}
	b.edge = e
	return b, s
}

func TestAllocations(t *testing.T) {
	b, s := sinkBench(t)
	p := b.login("alice", "d")
	for _, n := range []int{1, 8, 32} {
		var in []byte
		for i := range n {
			in = append(in, conntest.Send(uint32(i), 0, "bob", uint64(i), "a message of some length, as people write them")...)
		}
		got := testing.AllocsPerRun(100, func() {
			p.C.Input(in)
			b.host.Flush()
			p.Discard()
		})
		// The bytes, what they decode to, and the host's list.
		if got > 3 && !conntest.Race {
			t.Errorf("a read of %d SENDs: %v allocations", n, got)
		}
	}
	pending := s.last
	d := packet.AppendDeliver(nil, id.ConversationID{1}, nil, packet.AppendMessage(nil, 1, 1, "x", nil))
	ping := frame.Append(nil, frame.Ping, 0, 0, nil)
	for name, c := range map[string]struct {
		max float64
		fn  func()
	}{
		"Deliver": {0, func() { p.C.Deliver(d); p.C.Flush() }},
		"Acked":   {0, func() { p.C.Acked(&pending, packet.Ack{Seq: 1}); p.C.Flush() }},
		"PING":    {1, func() { p.C.Input(ping) }},
	} {
		if got := testing.AllocsPerRun(100, func() { c.fn(); b.host.Forget(); p.Discard() }); got > c.max && !conntest.Race {
			t.Errorf("%s: %v allocations, want at most %v", name, got, c.max)
		}
	}
}

func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(conn.Conn{}); n > 352 {
		t.Errorf("a connection is %d bytes, want at most 352", n)
	} else {
		t.Logf("a connection is %d bytes", n)
	}
}

func FuzzInput(f *testing.F) {
	connect := conntest.Connect("alice", "d")
	conv := conntest.Direct("alice", "bob")
	for _, s := range [][]byte{
		connect, join(connect, conntest.Send(1, 0, "bob", 1, "x")), join(connect, frame.Append(nil, frame.Ping, 0, 0, nil)),
		join(connect, conntest.Frame(frame.Sync, frame.FlagRequestID, 7, &wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: conv[:], FromSeq: 1}}})),
		join(connect, conntest.Request(5, packet.MethodHistory, &wire.HistoryRequest{ConversationId: conv[:], Limit: 1})),
		join(connect, conntest.Frame(frame.Signal, 0, 0, &wire.Signal{ToUserId: "alice", Kind: 1})),
		join(connect, conntest.Frame(frame.RecvAck, 0, 0, &wire.RecvAck{Acks: []*wire.ConversationSeq{{ConversationId: conv[:], Seq: 2}}})),
		{0xFF, 0xFF, 0xFF, 0x7F, 1}, {2, 1, 4},
	} {
		f.Add(s, uint16(7))
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		b := newBench(t, conn.Config{Heartbeat: 1e10, HeartbeatMin: 1e9})
		whole, pieces := b.open(), b.open()
		whole.C.Input(in)
		for rest := in; len(rest) > 0; {
			n := min(int(cut)%97+1, len(rest))
			pieces.C.Input(rest[:n])
			rest = rest[n:]
		}
		for _, p := range []*conntest.Pipe{whole, pieces} {
			if _, err := p.Take(); err != nil {
				t.Fatalf("unreadable output: %v", err)
			}
			p.Close()
		}
		if n := b.edge.Stats().PartialBytes; n != 0 || b.host.Count() != 0 || b.svc.Sessions() != 0 {
			t.Fatalf("%d bytes, %d connections, %d sessions are left", n, b.host.Count(), b.svc.Sessions())
		}
	})
}
