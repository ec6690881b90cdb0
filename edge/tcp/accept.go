//go:build !windows

package tcp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Accept gives the connections of ln to take, one after the other, until ctx ends, and closes ln
// then. fd doesn't block, isn't inherited by children, and is take's.
func Accept(ctx context.Context, ln *net.TCPListener, log *slog.Logger, take func(fd int, from netip.AddrPort)) error {
	// A net.Listener's RawConn can't wait; the same socket as a file can.
	f, err := ln.File()
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("accepting connections: %w", err)
	}
	defer f.Close()
	stop := context.AfterFunc(ctx, func() { ln.Close(); f.Close() })
	defer stop()
	rc, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("accepting connections: %w", err)
	}
	for {
		err := rc.Read(func(fd uintptr) bool { return acceptAll(int(fd), log, take) })
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accepting connections: %w", err)
		}
		// Out of file descriptors or memory: those that wait stay in the backlog.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// acceptAll accepts what waits. It reports true when no more can be accepted for a
// while, false when nothing waits.
func acceptAll(fd int, log *slog.Logger, take func(fd int, from netip.AddrPort)) bool {
	for {
		nfd, sa, err := accept(fd)
		switch err {
		case nil:
			take(nfd, addrPort(sa))
		case syscall.EAGAIN:
			return false
		case syscall.EINTR, syscall.ECONNABORTED:
		default:
			log.Warn("can't accept connections", "error", err)
			return true
		}
	}
}

func addrPort(sa syscall.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
