package hub_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// ear is a Transport that remembers which of a room's messages it was given.
type ear struct {
	c     *conn.Conn
	first uint64        // the message that it is to begin with
	gate  chan struct{} // Write waits for it; nil: it doesn't
	tail  []byte        // of each message

	mu    sync.Mutex
	heard []uint64
}

// saying is a frame that says its number, and what else there is.
func saying(n uint64, tail []byte) []byte {
	return packet.AppendDeliver(nil, room, nil, packet.AppendMessage(nil, n, 1, "x", tail))
}

var room = id.NewGroup()

func (e *ear) Write(p []byte) (int, error) {
	if e.gate != nil {
		<-e.gate
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for rest := p; len(rest) > 0; {
		next := uint64(1)
		if n := len(e.heard); n > 0 {
			next = e.heard[n-1] + 1
		} else if e.first > 0 {
			next = e.first
		}
		f := saying(next, e.tail)
		if !bytes.HasPrefix(rest, f) { // the CONNACK, or not what is due
			if len(e.heard) > 0 || e.first > 0 {
				e.heard = append(e.heard, 0)
			}
			break
		}
		e.heard, rest = append(e.heard, next), rest[len(f):]
	}
	return len(p), nil
}
func (e *ear) CloseWrite(code.Code)       {}
func (e *ear) Close()                     { e.c.Closed() }
func (e *ear) RemoteAddr() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:4711") }

func (e *ear) upTo() (n int, last uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n = len(e.heard); n > 0 {
		last = e.heard[n-1]
	}
	return n, last
}

// enter has somebody come into the room, before message first.
func enter(t testing.TB, h *hub.Hub, name string, first uint64) *ear {
	t.Helper()
	e := new(ear)
	c, err := h.Open(e, e.RemoteAddr().Addr())
	if err != nil {
		t.Fatal(err)
	}
	e.c = c
	c.Input(conntest.Connect(name, "d"))
	e.mu.Lock()
	e.first = first
	e.mu.Unlock()
	if _, err := h.Rooms().Seat(room, c.Incarnation()); err != nil {
		t.Fatal(err)
	}
	return e
}

func say(h *hub.Hub, n uint64) {
	f := saying(n, nil)
	h.Rooms().Deliver(room, f, []int{len(f)}, []uint64{0})
	clear(f)
}

// People come and go while messages go round a room: who stays hears each from the one after their coming on, once and in order.
func TestRounds(t *testing.T) {
	for _, size := range []int{1, 3, 40, 2500} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			h, _ := newHub(t, hub.Config{ConnectsPerAddress: 1e6, PerAddress: 1e6})
			var here, left []*ear
			for i := range size {
				here = append(here, enter(t, h, fmt.Sprint("u", i), 1))
			}
			messages := uint64(400)
			if size > 1000 {
				messages = 50
			}
			for n := uint64(1); n <= messages; n++ {
				say(h, n)
				if rnd.IntN(4) == 0 {
					here = append(here, enter(t, h, fmt.Sprint("late", n), n+1))
				}
				if rnd.IntN(4) == 0 && len(here) > 1 {
					i := rnd.IntN(len(here))
					if rnd.IntN(2) == 0 {
						h.Rooms().Unseat(room, here[i].c.Incarnation())
					} else {
						here[i].Close()
					}
					left = append(left, here[i])
					here[i] = here[len(here)-1]
					here = here[:len(here)-1]
				}
			}
			for _, e := range here {
				if e.first > messages {
					continue
				}
				for n, last := e.upTo(); last != messages; n, last = e.upTo() {
					if n > 0 && last == 0 {
						t.Fatalf("what came as number %d of those from %d on isn't it", n, e.first)
					}
					time.Sleep(time.Millisecond)
				}
				if n, _ := e.upTo(); uint64(n) != messages-e.first+1 {
					t.Fatalf("%d messages from %d on", n, e.first)
				}
			}
			for _, e := range left {
				if n, last := e.upTo(); n > 0 && (last == 0 || uint64(n) != last-e.first+1) {
					t.Fatalf("who left heard %d messages from %d to %d", n, e.first, last)
				}
			}
		})
	}
}

// While somebody is being written to, others hear what comes; a room that has too much on its way makes the next message wait.
func TestRoundsGoOn(t *testing.T) {
	h, _ := newHub(t, hub.Config{ConnectsPerAddress: 1e6, PerAddress: 1e6})
	var all []*ear
	for i := range 200 {
		all = append(all, enter(t, h, fmt.Sprint("u", i), 1))
	}
	say(h, 1)
	for _, e := range all {
		for n, _ := e.upTo(); n == 0; n, _ = e.upTo() {
			time.Sleep(time.Millisecond)
		}
	}
	stuck := all[len(all)-1]
	stuck.gate = make(chan struct{})
	said := make(chan uint64)
	go func() {
		defer close(said)
		for n := uint64(2); n <= 40; n++ {
			say(h, n)
			said <- n
		}
	}()
	n, waits := uint64(1), false
	for !waits {
		select {
		case n = <-said:
			if n == 0 || n == 40 {
				t.Fatal("everything was taken while somebody is being written to")
			}
		case <-time.After(50 * time.Millisecond):
			waits = true
		}
	}
	close(stuck.gate)
	for n = range said {
	}
	for _, e := range all {
		for _, last := e.upTo(); last != n; _, last = e.upTo() {
			time.Sleep(time.Millisecond)
		}
	}
}

// However much has come meanwhile, those who read what they are written are left out of nothing.
func TestRoundsLeaveNobodyOutWhoReads(t *testing.T) {
	h, _ := newHub(t, hub.Config{ConnectsPerAddress: 1e6, PerAddress: 1e6})
	tail := make([]byte, 12<<10)
	var all []*ear
	for i := range 100 {
		e := enter(t, h, fmt.Sprint("u", i), 1)
		e.mu.Lock()
		e.tail = tail
		e.mu.Unlock()
		all = append(all, e)
	}
	const calls, each = 17, 4
	n := uint64(0)
	deliver := func() {
		var frames []byte
		for range each {
			n++
			frames = append(frames, saying(n, tail)...)
		}
		h.Rooms().Deliver(room, frames, []int{len(frames)}, []uint64{0})
	}
	all[50].gate = make(chan struct{})
	said := make(chan struct{})
	go func() {
		defer close(said)
		for range calls {
			deliver()
		}
	}()
	select {
	case <-said:
	case <-time.After(100 * time.Millisecond): // so much is taken while somebody is being written to
	}
	close(all[50].gate)
	<-said
	for _, e := range all {
		for _, last := e.upTo(); last != calls*each; _, last = e.upTo() {
			if left := h.Stats().LeftOut; left > 0 {
				t.Fatalf("%d frames were left out", left)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// What waits in all rooms together is bounded, and holds up nobody who brings something to another room.
func TestRoundsKeepNoMoreThanSoMuch(t *testing.T) {
	h, _ := newHub(t, hub.Config{ConnectsPerAddress: 1e6, PerAddress: 1e6})
	stuck := enter(t, h, "a", 1)
	stuck.gate = make(chan struct{})
	large := make([]byte, 8<<20)
	said := make(chan int)
	go func() {
		defer close(said)
		for n := range 12 {
			h.Rooms().Deliver(room, large, []int{len(large)}, []uint64{0})
			said <- n + 1
		}
	}()
	for n, waits := 0, false; !waits; {
		select {
		case n = <-said:
			if n > 6 {
				t.Fatalf("%d MiB were taken", n*8)
			}
		case <-time.After(100 * time.Millisecond):
			waits = true
		}
	}
	other := enter(t, h, "b", 0)
	elsewhere := id.NewGroup()
	if _, err := h.Rooms().Seat(elsewhere, other.c.Incarnation()); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		h.Rooms().Deliver(elsewhere, large[:100], []int{100}, []uint64{0})
	}
	close(stuck.gate)
	for range said {
	}
}
