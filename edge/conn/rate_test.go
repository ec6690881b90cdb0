package conn_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// clock stops the edge's clock; the test moves it.
func clock(b *bench) *int64 {
	now := new(int64)
	b.edge.SetClock(func() int64 { return *now })
	return now
}

func TestRateLimitBlocksTheLane(t *testing.T) {
	b := newBench(t, conn.Config{SendsPerSecond: 1, UserSendsPerSecond: 1000}) // two at once
	now := clock(b)
	a := b.login("alice", "d")
	a.C.Input(join(conntest.Send(1, 0, "bob", 1, "1"), conntest.Send(2, 0, "bob", 2, "2"), conntest.Send(3, 0, "bob", 3, "3"),
		conntest.Send(4, 0, "bob", 4, "4"), conntest.Send(5, frame.FlagResend, "bob", 5, "5")))
	b.expect(a, "SENDACK #1 seq 1", "SENDACK #2 seq 2", "ERROR #3 rate_limited lane", "ERROR #4 lane_blocked lane", "ERROR #5 lane_blocked lane")
	*now += int64(1100 * time.Millisecond)
	a.C.Input(join(conntest.Send(6, 0, "bob", 6, "6"), conntest.Send(7, frame.FlagResend, "bob", 3, "3")))
	b.expect(a, "ERROR #6 lane_blocked lane", "SENDACK #7 seq 3")
	*now += int64(1100 * time.Millisecond)
	a.C.Input(conntest.Send(8, 0, "bob", 8, "8"))
	b.expect(a, "SENDACK #8 seq 4")
}

func TestUserLimitIsShared(t *testing.T) {
	b := newBench(t, conn.Config{SendsPerSecond: 100, UserSendsPerSecond: 1})
	p, q := b.login("alice", "phone"), b.login("alice", "laptop")
	p.C.Input(conntest.Send(1, 0, "bob", 1, "1"))
	q.C.Input(join(conntest.Send(1, 0, "bob", 2, "2"), conntest.Send(2, 0, "bob", 3, "3")))
	b.expect(q, "DELIVER [1 alice: 1]", "SENDACK #1 seq 2", "ERROR #2 rate_limited lane")
}

// What was refused for the rate is not to be tried message by message.
func TestRetryAfterIsWorthIt(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  conn.Config
		want time.Duration
	}{
		"a quarter of the burst": {conn.Config{}, 500 * time.Millisecond},
		"the user's":             {conn.Config{UserSendsPerSecond: 40}, 500 * time.Millisecond},
		"one message takes long": {conn.Config{SendsPerSecond: 1}, time.Second},
	} {
		b := newBench(t, c.cfg)
		clock(b)
		p := b.login("alice", "d")
		cl := conntest.Client{W: p.Client()}
		var told *code.Error
		for i := uint32(1); told == nil; i++ {
			p.C.Input(conntest.Send(i, 0, "bob", uint64(i), "x"))
			f, err := cl.Next(0)
			if err != nil {
				t.Fatal(err)
			}
			if f.Type == frame.Error {
				told, _, _ = packet.DecodeError(f.Body)
			}
		}
		if told.Code != code.RateLimited || told.RetryAfter != c.want {
			t.Errorf("%s: %v after %v, want %v", name, told, told.RetryAfter, c.want)
		}
	}
}

// outbox is a client with n messages to send, one lane each, which does as the protocol
// says: at most inflight SENDs without an answer; after a refusal it waits, then it sends all
// of the lane that is not stored again, in order. Paced, it keeps to the rates besides.
type outbox struct {
	p       *conntest.Pipe
	cl      conntest.Client
	queue   [][]uint64 // by lane, the message at its head first
	sent    map[uint64]bool
	tried   map[uint64]bool
	until   []int64 // a lane waits
	under   int     // SENDs without an answer
	refused int
	size    int // bytes of a message
}

func newOutbox(b *bench, n, lanes, size int) *outbox {
	o := &outbox{p: b.login("alice", "d"), sent: map[uint64]bool{}, tried: map[uint64]bool{}, until: make([]int64, lanes), queue: make([][]uint64, lanes), size: size}
	o.cl.W = o.p.Client()
	for i := range n {
		o.queue[i%lanes] = append(o.queue[i%lanes], uint64(i+1))
	}
	return o
}

// send sends up to n messages at the time now, in one piece.
func (o *outbox) send(now int64, n int) {
	var b []byte
	text := string(make([]byte, o.size))
	for i := range o.queue {
		if now < o.until[i] {
			continue
		}
		for _, m := range o.queue[i] {
			if o.sent[m] {
				continue
			}
			if o.under == 256 || n == 0 {
				break
			}
			flags := frame.Flags(0)
			if o.tried[m] {
				flags = frame.FlagResend
			}
			b = append(b, conntest.Send(uint32(m), flags, fmt.Sprint("user", i), m, text)...)
			o.sent[m], o.tried[m] = true, true
			o.under++
			n--
		}
	}
	for len(b) > 0 { // as a transport reads it
		k := min(len(b), 64<<10)
		o.p.C.Input(b[:k])
		b = b[k:]
	}
}

// hear takes in the answers.
func (o *outbox) hear(t *testing.T, now int64) {
	t.Helper()
	for {
		f, err := o.cl.Next(0)
		if err != nil {
			return
		}
		m := uint64(f.ReqID)
		lane := int(m-1) % len(o.queue)
		o.under--
		switch f.Type {
		case frame.SendAck:
			if o.queue[lane][0] != m {
				t.Fatalf("message %d is stored before %d", m, o.queue[lane][0])
			}
			o.queue[lane] = o.queue[lane][1:]
		case frame.Error:
			told, _, _ := packet.DecodeError(f.Body)
			if !f.HasReqID() {
				t.Fatalf("closed after %v: %v", time.Duration(now), told)
			}
			o.refused++
			o.sent[m] = false
			for i := range o.until {
				if i == lane || told.Code == code.RateLimited { // the rates are the connection's
					o.until[i] = max(o.until[i], now+int64(told.RetryAfter))
				}
			}
		default:
			t.Fatal(conntest.Describe(&f))
		}
	}
}

func (o *outbox) empty() bool {
	for _, q := range o.queue {
		if len(q) > 0 {
			return false
		}
	}
	return true
}

// An outbox of any size gets through to the default limits, in the order of each lane.
func TestOutboxesGetThrough(t *testing.T) {
	for name, c := range map[string]struct {
		n, lanes, size int
		paced          bool
		refused        int // at most
	}{
		"250 at once":              {n: 250, lanes: 1, size: 10, refused: 600},
		"1000 at once":             {n: 1000, lanes: 1, size: 10, refused: 12_000},
		"1000 at once in 20 lanes": {n: 1000, lanes: 20, size: 10, refused: 12_000},
		"1000 lanes at once":       {n: 1000, lanes: 1000, size: 10, refused: 12_000},
		"300 large ones at once":   {n: 300, lanes: 3, size: 12 << 10, refused: 6_000},
		"1000 paced":               {n: 1000, lanes: 7, size: 10, paced: true},
		"300 large ones paced":     {n: 300, lanes: 3, size: 12 << 10, paced: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, conn.Config{})
			now := clock(b)
			o := newOutbox(b, c.n, c.lanes, c.size)
			allowed := 50.0
			for !o.empty() {
				if *now > int64(5*time.Minute) {
					t.Fatal("it takes for ever")
				}
				n := c.n
				if c.paced {
					n = int(allowed)
				}
				under := o.under
				o.send(*now, n)
				allowed -= float64(o.under - under)
				o.hear(t, *now)
				*now += int64(10 * time.Millisecond)
				allowed = min(allowed+min(50, float64(256<<10)/float64(c.size+100))/100, 50)
			}
			t.Logf("%d refusals in %v", o.refused, time.Duration(*now))
			if o.refused > c.refused {
				t.Errorf("%d refusals, want at most %d", o.refused, c.refused)
			}
		})
	}
}

func TestFlooding(t *testing.T) {
	for name, f := range map[string]func(i int) []byte{
		"sends":          func(i int) []byte { return conntest.Send(uint32(i), 0, "bob", uint64(i), "x") },
		"resends":        func(i int) []byte { return conntest.Send(uint32(i), frame.FlagResend, "bob", 1, "x") },
		"lanes":          func(i int) []byte { return conntest.Send(uint32(i), 0, fmt.Sprint("bob", i), uint64(i), "x") },
		"pings":          func(int) []byte { return frame.Append(nil, frame.Ping, 0, 0, nil) },
		"unknown frames": func(i int) []byte { return frame.Append(nil, 99, frame.FlagRequestID, uint32(i), nil) },
		"bad requests": func(i int) []byte {
			return frame.Append(nil, frame.Request, frame.FlagRequestID, uint32(i), []byte{0xFF})
		},
		"bad acks":    func(int) []byte { return frame.Append(nil, frame.RecvAck, 0, 0, []byte{0xFF}) },
		"bad signals": func(int) []byte { return frame.Append(nil, frame.Signal, 0, 0, []byte{0xFF}) },
		"bytes":       func(i int) []byte { return frame.Append(nil, 99, 0, 0, make([]byte, 16<<10)) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, conn.Config{})
			now := clock(b)
			p := b.login("mallory", "d")
			for i := 1; !p.Ended(); i++ {
				if i > 40_000 {
					t.Fatal("still connected")
				}
				p.C.Input(f(i))
			}
			got, err := p.Take()
			if err != nil || got[len(got)-1] != "ERROR flooding" {
				t.Fatalf("ended with %q (%v)", got[len(got)-1], err)
			}
			again := b.open()
			again.C.Input(conntest.Connect("mallory", "d"))
			b.expect(again, "ERROR flooding")
			b.login("bob", "d")
			*now += int64(5 * time.Second)
			b.login("mallory", "d")
		})
	}
}

func TestAcknowledgingMuchIsNoFlood(t *testing.T) {
	b := newBench(t, conn.Config{})
	p := b.login("alice", "d")
	conv := conntest.Direct("alice", "bob")
	for i := range uint64(5000) {
		p.C.Input(conntest.Frame(frame.RecvAck, 0, 0, &wire.RecvAck{Acks: []*wire.ConversationSeq{{ConversationId: conv[:], Seq: i}}}))
	}
	if got := b.svc.ReceivedSeq("alice", conv); got != 4999 || p.Ended() {
		t.Fatalf("acknowledged up to %d", got)
	}
}
