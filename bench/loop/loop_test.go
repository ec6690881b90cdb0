package loop

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// client records what its connection does.
type client struct {
	Conn
	onConnect func()
	onInput   func(b []byte) int
	connected bool
	closed    error
	got       []byte
}

func (c *client) Connected() {
	c.connected = true
	if c.onConnect != nil {
		c.onConnect()
	}
}

func (c *client) Input(b []byte) int {
	if c.onInput != nil {
		return c.onInput(b)
	}
	c.got = append(c.got, b...)
	return len(b)
}

func (c *client) Closed(err error) { c.closed = err }

// listen serves each connection with f.
func listen(t testing.TB, f func(net.Conn)) netip.AddrPort {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).AddrPort()
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

func newLoop(t testing.TB) *Loop {
	l, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// pollUntil polls until done, or fails after long.
func pollUntil(t testing.TB, l *Loop, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); {
		if _, err := l.Poll(10 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(end) {
			t.Fatal("nothing more happens")
		}
	}
}

func TestEcho(t *testing.T) {
	addr := listen(t, echo)
	l := newLoop(t)
	// More than the sockets hold in both directions: the rest must follow by itself.
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<19)
	c := &client{}
	c.onConnect = func() { c.Out = append(c.Out, want...) }
	if err := l.Dial(&c.Conn, c, addr, netip.MustParseAddr("127.0.0.3")); err != nil {
		t.Fatal(err)
	}
	if !c.Alive() || l.Open() != 1 {
		t.Errorf("alive %v, %d open", c.Alive(), l.Open())
	}
	pollUntil(t, l, func() bool { return len(c.got) == len(want) })
	if !bytes.Equal(c.got, want) || len(c.Out) != 0 {
		t.Errorf("%d bytes came back, %d are unsent", len(c.got), len(c.Out))
	}
	c.Shrink()
	c.Close()
	c.Close() // twice does no harm
	if c.Alive() || l.Open() != 0 || c.closed != nil {
		t.Errorf("after Close: alive %v, %d open, Closed(%v)", c.Alive(), l.Open(), c.closed)
	}
}

func TestUnconsumedInputComesAgain(t *testing.T) {
	addr := listen(t, func(c net.Conn) {
		for _, part := range []string{"ab", "cdef", "g", "h"} {
			_, _ = io.WriteString(c, part)
			time.Sleep(5 * time.Millisecond)
		}
	})
	l := newLoop(t)
	c := &client{}
	var words []string
	c.onInput = func(b []byte) int { // words of three
		used := 0
		for ; len(b)-used >= 3; used += 3 {
			words = append(words, string(b[used:used+3]))
		}
		return used
	}
	if err := l.Dial(&c.Conn, c, addr, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	pollUntil(t, l, func() bool { return c.closed != nil })
	if len(words) != 2 || words[0] != "abc" || words[1] != "def" || !errors.Is(c.closed, io.EOF) {
		t.Errorf("words %q, closed %v", words, c.closed)
	}
}

func TestRefusedAndResetConnections(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := ln.Addr().(*net.TCPAddr).AddrPort()
	ln.Close()
	l := newLoop(t)
	c := &client{}
	if err := l.Dial(&c.Conn, c, nobody, netip.Addr{}); err == nil {
		pollUntil(t, l, func() bool { return c.closed != nil })
	}
	if c.connected || c.Alive() {
		t.Error("connected to nobody")
	}

	addr := listen(t, func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) })
	r := &client{}
	if err := l.Dial(&r.Conn, r, addr, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	pollUntil(t, l, func() bool { return r.closed != nil })
	r.Out = append(r.Out, "late"...)
	r.Flush() // goes nowhere
	if l.Open() != 0 {
		t.Errorf("%d connections open", l.Open())
	}
}

func TestHandlerClosesItself(t *testing.T) {
	addr := listen(t, echo)
	l := newLoop(t)
	c := &client{}
	c.onConnect = func() { c.Out = append(c.Out, "x"...) }
	c.onInput = func(b []byte) int {
		c.Close()
		return len(b)
	}
	if err := l.Dial(&c.Conn, c, addr, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	pollUntil(t, l, func() bool { return !c.Alive() })
	if c.closed != nil {
		t.Errorf("Closed(%v) after Close", c.closed)
	}
}

func TestPollWaits(t *testing.T) {
	l := newLoop(t)
	defer Pin()()
	for _, pwait2 := range []bool{true, false} {
		l.pwait2 = l.pwait2 && pwait2
		before := l.Now()
		if n, err := l.Poll(3 * time.Millisecond); n != 0 || err != nil {
			t.Errorf("Poll: %d, %v", n, err)
		}
		if took := l.Now() - before; took < int64(2*time.Millisecond) {
			t.Errorf("Poll came back after %d ns", took)
		}
	}
}

func TestMessagesAllocateNothing(t *testing.T) {
	addr := listen(t, echo)
	l := newLoop(t)
	c := &client{}
	var got int
	c.onConnect = func() { c.Out = append(c.Out, make([]byte, 100)...) }
	c.onInput = func(b []byte) int {
		got += len(b)
		c.Out = append(c.Out, b...)
		return len(b)
	}
	if err := l.Dial(&c.Conn, c, addr, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	pollUntil(t, l, func() bool { return got > 1000 })
	// The echo's goroutine copies in a buffer of its own and allocates nothing either.
	if n := testing.AllocsPerRun(200, func() {
		if _, err := l.Poll(time.Second); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a round trip allocates %v times", n)
	}
}

func TestScheduleKeepsItsTimes(t *testing.T) {
	const ms = int64(time.Millisecond)
	s := NewSchedule(7*ms, 100)
	var due []int64
	for _, now := range []int64{7 * ms, 8 * ms, 17 * ms, 50 * ms} { // a stall, in the end
		for {
			event, at, ok := s.Due(now)
			if !ok {
				break
			}
			if int(event) != len(due) || at > now {
				t.Errorf("event %d of %d, due at %d, at %d", event, len(due), at, now)
			}
			due = append(due, at)
		}
	}
	if want := []int64{7 * ms, 17 * ms, 27 * ms, 37 * ms, 47 * ms}; !slices.Equal(due, want) {
		t.Errorf("due at %v, want %v", due, want)
	}
	if w := s.Wait(50 * ms); w != 7*time.Millisecond-spinBefore {
		t.Errorf("waits %v for what is due in 7 ms, at a low rate", w)
	}
	if w := s.Wait(60 * ms); w != 0 {
		t.Errorf("waits %v for what is overdue", w)
	}
}

// With a nap the loop looks no more often, whatever arrives and however often it is asked, and misses nothing.
func TestNap(t *testing.T) {
	const nap, n = 2 * time.Millisecond, 400
	addr := listen(t, func(c net.Conn) {
		for range n {
			_, _ = c.Write([]byte("x"))
			time.Sleep(100 * time.Microsecond)
		}
	})
	l := newLoop(t)
	c := &client{}
	looks := 0
	c.onInput = func(b []byte) int { looks++; c.got = append(c.got, b...); return len(b) }
	if err := l.Dial(&c.Conn, c, addr, netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	pollUntil(t, l, func() bool { return c.connected })
	l.Nap = nap
	began := l.Now()
	for len(c.got) < n {
		for _, wait := range []time.Duration{0, nap / 4, -1} {
			if _, err := l.Poll(wait); err != nil {
				t.Fatal(err)
			}
		}
	}
	if most := int((l.Now()-began)/int64(nap)) + 1; looks > most {
		t.Errorf("%d looks, of which %d fit", looks, most)
	}
}
