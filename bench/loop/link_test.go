package loop

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPausedConnectionsReadNothing(t *testing.T) {
	said := make(chan struct{})
	addr := listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "hello, who is there?")
		close(said)
		echo(c)
	})
	l := newLoop(t)
	c := &client{}
	c.onConnect = func() { c.Pause() }
	if err := l.DialOver(&c.Conn, c, addr, Link{Receive: 4 << 10}); err != nil {
		t.Fatal(err)
	}
	pollUntil(t, l, func() bool { return c.connected })
	<-said
	for range 5 {
		if _, err := l.Poll(5 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.got) != 0 {
		t.Errorf("%q was read", c.got)
	}
	size, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	if err != nil || size > 16<<10 {
		t.Errorf("a receive buffer of %d bytes, %v", size, err)
	}
	c.Take(5)
	if string(c.got) != "hello" {
		t.Errorf("took %q", c.got)
	}
	c.Pause() // twice does no harm
	c.Resume()
	c.Widen(64 << 10)
	if wide, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil || wide <= size {
		t.Errorf("a receive buffer of %d bytes, then of %d, %v", size, wide, err)
	}
	c.Out = append(c.Out, "!"...)
	c.Flush()
	pollUntil(t, l, func() bool { return string(c.got) == "hello, who is there?!" })
}

func TestPausedConnectionsWriteAndNoticeTheirEnd(t *testing.T) {
	heard := make(chan int, 1)
	addr := listen(t, func(c net.Conn) {
		n, _ := io.CopyN(io.Discard, c, 8<<20) // more than the sockets hold: the rest must follow by itself
		heard <- int(n)
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	l := newLoop(t)
	c := &client{}
	c.onConnect = func() {
		c.Pause()
		c.Out = append(c.Out, make([]byte, 8<<20)...)
	}
	if err := l.DialOver(&c.Conn, c, addr, Link{}); err != nil {
		t.Fatal(err)
	}
	pollUntil(t, l, func() bool { return c.closed != nil })
	if n := <-heard; n != 8<<20 || errors.Is(c.closed, io.EOF) {
		t.Errorf("%d bytes went out; the end: %v", n, c.closed)
	}
	c.Pause()
	c.Resume()
	c.Take(10) // of nothing
	c.Widen(10)
}
