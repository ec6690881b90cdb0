package api

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// listener gives netpoll the sockets of a TCP listener. netpoll's own adapter closes its
// file descriptor twice, and the second time it may already be somebody else's file.
type listener struct {
	*net.TCPListener
	raw syscall.RawConn
	fd  int
}

func newListener(tcp *net.TCPListener) (*listener, error) {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, err
	}
	l := &listener{TCPListener: tcp, raw: raw}
	return l, raw.Control(func(fd uintptr) { l.fd = int(fd) })
}

// Fd is what netpoll waits on.
func (l *listener) Fd() int { return l.fd }

// Accept returns nil and no error if nobody is waiting.
func (l *listener) Accept() (net.Conn, error) {
	var (
		fd   int
		from syscall.Sockaddr
		err  error
	)
	if cerr := l.raw.Control(func(lfd uintptr) { fd, from, err = syscall.Accept(int(lfd)) }); cerr != nil {
		return nil, cerr // closed
	}
	if err != nil {
		if err == syscall.EAGAIN || err == syscall.EINTR || err == syscall.ECONNABORTED {
			return nil, nil
		}
		return nil, err // the bare number: netpoll waits for free descriptors when it sees EMFILE
	}
	syscall.CloseOnExec(fd)
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	a := &accepted{fd: fd, local: l.Addr()}
	switch sa := from.(type) {
	case *syscall.SockaddrInet4:
		a.remote = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)))
	case *syscall.SockaddrInet6:
		a.remote = net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)))
	}
	return a, nil
}

// accepted carries a new socket to netpoll, which takes the descriptor and the addresses out of it.
type accepted struct {
	fd            int
	local, remote net.Addr
}

func (a *accepted) Fd() int                          { return a.fd }
func (a *accepted) LocalAddr() net.Addr              { return a.local }
func (a *accepted) RemoteAddr() net.Addr             { return a.remote }
func (a *accepted) Close() error                     { return syscall.Close(a.fd) }
func (a *accepted) Read([]byte) (int, error)         { return 0, os.ErrInvalid }
func (a *accepted) Write([]byte) (int, error)        { return 0, os.ErrInvalid }
func (a *accepted) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (a *accepted) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (a *accepted) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
