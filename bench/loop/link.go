package loop

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// Link is how a connection is made. The zero value: as the system does it.
type Link struct {
	Source  netip.Addr // the address it comes from; its port is chosen at connect, so that each address has all ports for itself
	Receive int        // bytes of the socket's receive buffer; the kernel doubles it, and has a minimum
}

// Pause stops reading. What the other side sends fills the sockets' buffers, then its own.
// What is written still goes out.
func (c *Conn) Pause() {
	if c.Alive() && !c.paused {
		c.paused = true
		c.listen()
	}
}

// Resume reads again.
func (c *Conn) Resume() {
	if c.Alive() && c.paused {
		c.paused = false
		c.listen()
	}
}

// Widen makes the socket's receive buffer n bytes large.
func (c *Conn) Widen(n int) {
	if c.Alive() {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, n)
	}
}

// Take reads at most n bytes now, whether the connection is paused or not, and gives
// them to the handler's Input.
func (c *Conn) Take(n int) {
	if c.Alive() && !c.connecting {
		c.loop.input(c, min(n, len(c.loop.buf)))
	}
}

// listen asks for the events that the connection's state calls for.
func (c *Conn) listen() {
	events := uint32(0)
	if !c.paused {
		events |= unix.EPOLLIN
	}
	if c.blocked || c.connecting {
		events |= unix.EPOLLOUT
	}
	c.interest(events)
}
