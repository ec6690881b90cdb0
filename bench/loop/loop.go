// Package loop is the load generator's event loop: one epoll instance, driven by
// one goroutine, with non-blocking sockets and buffers of its own, so that tens of
// thousands of connections cost neither goroutines nor an allocation per message.
package loop

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Handler is the owner of a connection. All calls come from the goroutine in Poll.
type Handler interface {
	// Connected is called once, when the connection stands.
	Connected()
	// Input gets what has arrived and wasn't consumed so far and returns how much of
	// it is consumed now. b is valid during the call only.
	Input(b []byte) int
	// Closed is called once, when the other side closed the connection or it failed; not after Close.
	Closed(err error)
}

// Conn is one connection. A handler appends what is to be sent to Out; the loop
// sends it after Connected and Input, and whenever Flush is called.
type Conn struct {
	Out []byte

	// Seal, if it is set, is given Out before it is sent, with the offset from which on it
	// hasn't seen it, and returns it as it is to be sent.
	Seal   func(out []byte, at int) []byte
	sealed int

	loop       *Loop
	h          Handler
	fd         int
	in         []byte // the beginning of a frame whose end hasn't arrived
	sent       int    // bytes of Out that are written
	connecting bool
	blocked    bool // the socket is full: EPOLLOUT is asked for
	paused     bool // nothing is read
}

// Loop owns its connections and is used by one goroutine only.
type Loop struct {
	// Nap, if it is set, is the least time between two looks at what has happened; between them the loop sleeps however much
	// arrives. It is for loads at a fixed rate, on a machine that the server shares: a generator that wakes for
	// every byte takes as much of it as the server does. What arrives is noticed up to so much later, which counts as the server's time.
	Nap    time.Duration
	looked int64 // when, with Nap
	gave   int64 // when the processor was given to other goroutines, with Nap

	ep     int
	conns  []*Conn // by descriptor
	open   int
	events []unix.EpollEvent
	buf    []byte
	start  time.Time
	pwait2 bool
}

// New returns a Loop. Close it.
func New() (*Loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create: %w", err)
	}
	return &Loop{
		ep:     ep,
		events: make([]unix.EpollEvent, 1024),
		buf:    make([]byte, 256<<10),
		start:  time.Now(),
		pwait2: true,
	}, nil
}

// Now returns nanoseconds since the loop was made, by the monotonic clock.
func (l *Loop) Now() int64 { return int64(time.Since(l.start)) }

// Open returns the number of open connections, those still connecting included.
func (l *Loop) Open() int { return l.open }

// Dial begins to connect to addr (IPv4) from the source address (the zero value:
// the system's choice).
func (l *Loop) Dial(c *Conn, h Handler, addr netip.AddrPort, source netip.Addr) error {
	return l.DialOver(c, h, addr, Link{Source: source})
}

// DialOver begins to connect to addr (IPv4).
func (l *Loop) DialOver(c *Conn, h Handler, addr netip.AddrPort, link Link) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	// Closing resets: a load generator that ends must not leave tens of thousands of ports in TIME_WAIT.
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if link.Receive > 0 {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, link.Receive)
	}
	if source := link.Source; source.IsValid() {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: source.As4()}); err != nil {
			_ = unix.Close(fd)
			return fmt.Errorf("bind to %s: %w", source, err)
		}
	}
	err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().Unmap().As4()})
	if err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return fmt.Errorf("connect to %s: %w", addr, err)
	}
	*c = Conn{Out: c.Out[:0], loop: l, h: h, fd: fd, connecting: true}
	ev := unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(fd)}
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("epoll_ctl: %w", err)
	}
	for len(l.conns) <= fd {
		l.conns = append(l.conns, nil)
	}
	l.conns[fd] = c
	l.open++
	return nil
}

// Poll waits at most timeout (negative: for ever) for something to happen and
// handles what has. It returns the number of connections handled.
func (l *Loop) Poll(timeout time.Duration) (int, error) {
	if l.Nap > 0 {
		wake := l.looked + int64(l.Nap)
		l.nap(timeout, wake)
		now := l.Now()
		if now < wake {
			return 0, nil // timeout was over first
		}
		l.looked, timeout = now, 0
	}
	n, err := l.wait(timeout)
	if err == unix.EINTR {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("epoll_wait: %w", err)
	}
	for i := range n {
		// A handler may have closed the connection of a later event, and even given its descriptor
		// to a new one: an event too many does no harm to a non-blocking socket.
		c := l.conns[l.events[i].Fd]
		if c == nil {
			continue
		}
		ev := l.events[i].Events
		if c.connecting {
			l.connected(c)
			continue
		}
		if ev&unix.EPOLLOUT != 0 {
			c.blocked = false
			c.listen()
			c.Flush()
		}
		if ev&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 && c.fd >= 0 {
			l.input(c, len(l.buf))
		}
	}
	return n, nil
}

// wait uses epoll_pwait2 where the kernel has it: epoll_wait knows milliseconds
// only, far too coarse for a schedule of thousands a second.
func (l *Loop) wait(timeout time.Duration) (int, error) {
	if timeout >= 0 && timeout < time.Second && l.pwait2 {
		ts := unix.NsecToTimespec(int64(timeout))
		n, _, e := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(l.ep), uintptr(unsafe.Pointer(&l.events[0])),
			uintptr(len(l.events)), uintptr(unsafe.Pointer(&ts)), 0, 0)
		switch e {
		case 0:
			return int(n), nil
		case unix.ENOSYS:
			l.pwait2 = false
		default:
			return 0, e
		}
	}
	ms := -1
	if timeout >= 0 {
		ms = int((timeout + time.Millisecond - 1) / time.Millisecond)
	}
	return unix.EpollWait(l.ep, l.events, ms)
}

func (l *Loop) connected(c *Conn) {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		c.fail(fmt.Errorf("connect: %w", err))
		return
	}
	c.connecting = false
	c.listen()
	c.h.Connected()
	c.Flush()
}

// input reads at most limit bytes.
func (l *Loop) input(c *Conn, limit int) {
	n, errno := sysRead(c.fd, l.buf[:limit])
	switch {
	case errno == unix.EAGAIN || errno == unix.EINTR:
		return
	case errno != 0:
		c.fail(fmt.Errorf("read: %w", errno))
		return
	case n == 0:
		c.fail(errEOF)
		return
	}
	b := l.buf[:n]
	if len(c.in) > 0 {
		c.in = append(c.in, b...)
		b = c.in
	}
	used := c.h.Input(b)
	if c.fd < 0 {
		return
	}
	// Never shrinks below the largest unfinished frame seen, and idle connections never had one.
	c.in = append(c.in[:0], b[used:]...)
	c.Flush()
}

// Flush sends Out, as far as the socket takes it; the rest follows by itself.
func (c *Conn) Flush() {
	if c.Seal != nil && c.sealed < len(c.Out) {
		c.Out = c.Seal(c.Out, c.sealed)
	}
	c.sealed = len(c.Out)
	for c.sent < len(c.Out) && !c.blocked && !c.connecting && c.fd >= 0 {
		n, errno := sysWrite(c.fd, c.Out[c.sent:])
		switch errno {
		case 0:
			c.sent += n
		case unix.EAGAIN:
			c.blocked = true
			c.listen()
		case unix.EINTR:
		default:
			c.fail(fmt.Errorf("write: %w", errno))
			return
		}
	}
	if c.sent == len(c.Out) {
		c.Out, c.sent, c.sealed = c.Out[:0], 0, 0
	}
}

// Alive reports whether the connection is open or being opened.
func (c *Conn) Alive() bool { return c.loop != nil && c.fd >= 0 }

// Close resets the connection. Closed isn't called.
func (c *Conn) Close() {
	if !c.Alive() {
		return
	}
	c.loop.conns[c.fd] = nil
	c.loop.open--
	_ = unix.Close(c.fd)
	c.fd = -1
	c.Out, c.in, c.sent, c.sealed = nil, nil, 0, 0
}

// Shrink gives back the buffers of a connection that has nothing under way.
func (c *Conn) Shrink() {
	if len(c.Out) == 0 {
		c.Out = nil
	}
	if len(c.in) == 0 {
		c.in = nil
	}
}

func (c *Conn) fail(err error) {
	h := c.h
	c.Close()
	h.Closed(err)
}

func (c *Conn) interest(events uint32) {
	ev := unix.EpollEvent{Events: events, Fd: int32(c.fd)}
	_ = unix.EpollCtl(c.loop.ep, unix.EPOLL_CTL_MOD, c.fd, &ev) // fails only for a descriptor that isn't ours
}

// Close closes all connections and the loop.
func (l *Loop) Close() {
	for _, c := range l.conns {
		if c != nil {
			c.Close()
		}
	}
	_ = unix.Close(l.ep)
}
