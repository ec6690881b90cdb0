package hub_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// sunk is a Transport that counts what it is given.
type sunk struct {
	c             *conn.Conn
	bytes, writes int
}

func (s *sunk) Write(p []byte) (int, error) {
	s.bytes += len(p)
	s.writes++
	return len(p), nil
}
func (s *sunk) CloseWrite(code.Code)       {}
func (s *sunk) Close()                     { s.c.Closed() }
func (s *sunk) RemoteAddr() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:4711") }

// crowd logs n users in and seats them in an audience.
func crowd(t testing.TB, n int) (*hub.Hub, id.ConversationID, []*sunk) {
	t.Helper()
	h, _ := newHub(t, hub.Config{ConnectsPerAddress: 1e6, PerAddress: 1e6})
	conv := id.NewGroup()
	h.Audiences().Open(conv)
	ts := make([]*sunk, n)
	for i := range ts {
		ts[i] = new(sunk)
		c, err := h.Open(ts[i], ts[i].RemoteAddr().Addr())
		if err != nil {
			t.Fatal(err)
		}
		ts[i].c = c
		c.Input(conntest.Connect(fmt.Sprint("u", i), "d"))
		h.Audiences().Join(conv, []id.UserID{id.UserID(fmt.Sprint("u", i))})
		ts[i].bytes, ts[i].writes = 0, 0
	}
	if h.Audiences().Seats() != n {
		t.Fatalf("%d seats", h.Audiences().Seats())
	}
	return h, conv, ts
}

// deliveries is a DELIVER of n messages.
func deliveries(conv id.ConversationID, n int) []byte {
	var msgs []byte
	for i := range n {
		text := "a message of some length, as people write them"
		tail := append([]byte{5 << 3, 1, 6<<3 | 2, byte(len(text))}, text...)
		msgs = packet.AppendMessage(msgs, uint64(i+1), id.MakeMessageID(1_800_000_000_000, 1, 1), "alice", tail)
	}
	return packet.AppendDeliver(nil, conv, nil, msgs)
}

// BenchmarkAudience is what a message costs for each connection, the socket aside: passes
// over 10,000 connections with 1 and with 60 messages.
func BenchmarkAudience(b *testing.B) {
	for _, messages := range []int{1, 60} {
		b.Run(fmt.Sprint(messages), func(b *testing.B) {
			h, conv, _ := crowd(b, 10_000)
			f := deliveries(conv, messages)
			ends, but := []int{len(f)}, []uint64{0}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n += h.Audiences().Deliver(conv, 1, f, ends, but, true)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/connection")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*messages), "ns/delivery")
		})
	}
}

func TestAudienceAllocatesNothing(t *testing.T) {
	h, conv, ts := crowd(t, 200)
	f := deliveries(conv, 20)
	ends, but := []int{len(f)}, []uint64{0}
	n := testing.AllocsPerRun(100, func() {
		h.Audiences().Deliver(conv, 1, f, ends, but, true)
		h.Audiences().Deliver(conv, 1, f, ends, but, false)
		h.Flush()
	})
	if n > 0 && !conntest.Race {
		t.Errorf("%v allocations for two passes over %d connections", n, len(ts))
	}
	for _, s := range ts {
		if s.writes != 2*101 || s.bytes != 2*101*len(f) {
			t.Fatalf("%d bytes in %d writes", s.bytes, s.writes)
		}
	}
}

func TestAudience(t *testing.T) {
	h, _ := newHub(t, hub.Config{})
	as := h.Audiences()
	conv, other := id.NewGroup(), id.NewGroup()
	alice, phone, bob, carol := login(t, h, "alice", "desk"), login(t, h, "alice", "phone"), login(t, h, "bob", "d"), login(t, h, "carol", "d")
	everybody := []id.UserID{"alice", "bob", "nobody"}
	deliver := func(conv id.ConversationID, flush bool, but ...uint64) int {
		var frames []byte
		var ends []int
		for i := range but {
			frames = packet.AppendDeliver(frames, conv, nil, packet.AppendMessage(nil, uint64(i+1), 1, "x", nil))
			ends = append(ends, len(frames))
		}
		n := as.Deliver(conv, uint64(len(but)), frames, ends, but, flush)
		return n
	}
	said := func(seqs ...int) (lines []string) {
		for _, s := range seqs {
			lines = append(lines, fmt.Sprintf("DELIVER [%d x: ]", s))
		}
		return lines
	}
	as.Join(conv, everybody) // there is none yet
	if n := deliver(conv, true, 0); n != 0 {
		t.Fatalf("%d connections in an audience that isn't there", n)
	}
	as.Open(conv)
	as.Open(other)
	for range 2 { // again: nothing changes
		as.Join(conv, everybody)
		as.Open(conv)
	}
	as.Join(other, []id.UserID{"alice", "carol"})
	if as.Len() != 2 || as.Seats() != 6 {
		t.Fatalf("%d audiences, %d seats", as.Len(), as.Seats())
	}
	if n := deliver(conv, true, 0, 0); n != 3 {
		t.Fatalf("%d connections", n)
	}
	for _, p := range []*conntest.Pipe{alice, phone, bob} {
		expect(t, p, said(1, 2)...)
	}
	expect(t, carol)
	// Whoever sent something isn't told, their other devices are; without flush the next Flush writes.
	deliver(conv, false, alice.C.Incarnation(), 0, bob.C.Incarnation(), alice.C.Incarnation())
	expect(t, phone)
	h.Flush()
	expect(t, alice, said(2, 3)...)
	expect(t, phone, said(1, 2, 3, 4)...)
	expect(t, bob, said(1, 2, 4)...)
	deliver(conv, true, alice.C.Incarnation())
	expect(t, alice)
	expect(t, phone, said(1)...)
	expect(t, bob, said(1)...)

	as.Leave(conv, []id.UserID{"bob", "carol", "nobody"})
	phone.Close()
	if as.Seats() != 3 || deliver(conv, true, 0) != 1 || deliver(other, true, 0) != 2 {
		t.Fatalf("%d seats after somebody left and somebody went", as.Seats())
	}
	expect(t, bob)
	as.Join(conv, []id.UserID{"bob", "carol"}) // into the holes
	deliver(conv, true, 0)
	expect(t, bob, said(1)...)
	expect(t, carol, said(1, 1)...)
	as.Close(conv)
	as.Close(conv)
	as.Leave(conv, []id.UserID{"bob"})
	if as.Seats() != 2 || as.Len() != 1 || deliver(conv, true, 0) != 0 {
		t.Fatalf("%d seats in %d audiences after one closed", as.Seats(), as.Len())
	}
	as.Open(conv)
	as.Join(conv, everybody)
	if deliver(conv, true, 0) != 2 {
		t.Fatal("not the same two after it was opened again")
	}
	for _, p := range []*conntest.Pipe{alice, bob, carol} {
		p.Close()
	}
	if as.Seats() != 0 || deliver(conv, true, 0) != 0 || deliver(other, true, 0) != 0 {
		t.Fatalf("%d seats when nobody is connected", as.Seats())
	}
}

// A client that can't take it is told how far the conversation goes, in one HINT.
func TestAudienceOfSlowReaders(t *testing.T) {
	h, _ := newHub(t, hub.Config{Conn: conn.Config{QueueFrames: 3}})
	conv := id.NewGroup()
	h.Audiences().Open(conv)
	slow, fast := login(t, h, "slow", "d"), login(t, h, "fast", "d")
	h.Audiences().Join(conv, []id.UserID{"slow", "fast"})
	slow.Room(0)
	for seq := range uint64(9) {
		f := packet.AppendDeliver(nil, conv, nil, packet.AppendMessage(nil, seq+1, 1, "x", nil))
		if n := h.Audiences().Deliver(conv, seq+1, f, []int{len(f)}, []uint64{0}, true); n != 2 {
			t.Fatalf("%d connections", n)
		}
		expect(t, fast, fmt.Sprintf("DELIVER [%d x: ]", seq+1))
	}
	slow.Room(-1)
	expect(t, slow, "DELIVER [1 x: ]", "DELIVER [2 x: ]", "DELIVER [3 x: ]", "DELIVER [4 x: ]", "HINT head 9")
}

// Members come and go, connect and disconnect while messages are delivered: everybody who
// was in the audience all the while gets each of them once, in order, and nobody is left over.
func TestAudienceUnderChange(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	h, _ := newHub(t, hub.Config{ConnectsPerAddress: 1e6, PerAddress: 1e6})
	as, conv := h.Audiences(), id.NewGroup()
	as.Open(conv)
	const steady, messages = 40, 400
	var stay []*conntest.Pipe
	var users []id.UserID
	join := func(i int) {
		stay = append(stay, login(t, h, fmt.Sprint("s", i), "d"))
		users = append(users, id.UserID(fmt.Sprint("s", i)))
		as.Join(conv, users[len(users)-1:])
	}
	fleeting := func(g, i int) id.UserID { return id.UserID(fmt.Sprint("f", g, "-", i)) }
	done := make(chan struct{})
	var wg sync.WaitGroup
	for g := range 3 {
		rnd := rand.New(rand.NewPCG(seed, uint64(g)))
		wg.Go(func() {
			open := map[int]*sunk{}
			for {
				select {
				case <-done:
					for _, s := range open {
						s.Close()
					}
					return
				default:
				}
				runtime.Gosched() // or on one processor each message waits for whole slices of the others
				i := rnd.IntN(100)
				if s := open[i]; s != nil {
					s.Close()
					delete(open, i)
					continue
				}
				s := new(sunk)
				c, err := h.Open(s, s.RemoteAddr().Addr())
				if err != nil {
					t.Error(err)
					return
				}
				s.c = c
				c.Input(conntest.Connect(string(fleeting(g, i)), "d"))
				as.Join(conv, []id.UserID{fleeting(g, i)})
				open[i] = s
			}
		})
	}
	for i := range steady / 2 {
		join(i)
	}
	rnd := rand.New(rand.NewPCG(seed, 9))
	for seq := range uint64(messages) {
		if seq%20 == 0 {
			join(int(seq) + 1000)
		}
		f := packet.AppendDeliver(nil, conv, nil, packet.AppendMessage(nil, seq+1, 1, "x", nil))
		as.Deliver(conv, seq+1, f, []int{len(f)}, []uint64{0}, seq%3 > 0)
		as.Leave(conv, []id.UserID{fleeting(rnd.IntN(3), rnd.IntN(100))})
	}
	h.Flush()
	close(done)
	wg.Wait()
	for i, p := range stay {
		got, err := p.Take()
		first := 1
		if i >= steady/2 {
			first = 1 + 20*(i-steady/2)
		}
		if err != nil || len(got) != messages-first+1 {
			t.Fatalf("member %d got %d messages (%v), want those from %d", i, len(got), err, first)
		}
		for k, line := range got {
			if line != fmt.Sprintf("DELIVER [%d x: ]", first+k) {
				t.Fatalf("member %d got %q as number %d", i, line, k)
			}
		}
		p.Close()
	}
	if as.Seats() != 0 || h.Count() != 0 {
		t.Fatalf("%d seats of %d connections are left", as.Seats(), h.Count())
	}
}
