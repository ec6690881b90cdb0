//go:build !windows

package tcp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// Acceptor accepts connections of a listener, and tells what fails: how often, and in the log once a logEvery at most.
type Acceptor struct {
	log    *slog.Logger
	accept func(fd int) (int, syscall.Sockaddr, error)
	now    func() time.Time
	failed atomic.Uint64

	// Run's own.
	logged  time.Time // when something was
	leftOut int       // failures since then
}

const (
	logEvery = time.Second
	restTime = 50 * time.Millisecond // between attempts while none can succeed
)

// NewAcceptor returns an Acceptor for one Run.
func NewAcceptor(log *slog.Logger) *Acceptor {
	return &Acceptor{log: log, accept: accept, now: time.Now}
}

// Failed is how many times a connection could not be accepted, or not be taken, so far: those that
// can't be accepted are tried again, restTime apart.
func (a *Acceptor) Failed() uint64 { return a.failed.Load() }

// Run gives the connections of ln to take, one after the other, until ctx ends, and closes ln
// then. fd doesn't block, isn't inherited by children, and is take's, also if that fails.
func (a *Acceptor) Run(ctx context.Context, ln *net.TCPListener, take func(fd int, from netip.AddrPort) error) error {
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
		err := rc.Read(func(fd uintptr) bool { return a.acceptAll(int(fd), take) })
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
		case <-time.After(restTime):
		}
	}
}

// acceptAll accepts what waits. It reports true when no more can be accepted for a
// while, false when nothing waits.
func (a *Acceptor) acceptAll(fd int, take func(fd int, from netip.AddrPort) error) bool {
	for {
		nfd, sa, err := a.accept(fd)
		switch err {
		case nil:
			if err := take(nfd, addrPort(sa)); err != nil {
				a.fail(err)
			}
		case syscall.EAGAIN:
			return false
		case syscall.EINTR, syscall.ECONNABORTED:
		default:
			a.fail(err)
			return true
		}
	}
}

// fail counts a failure, and logs it unless another one was just now.
func (a *Acceptor) fail(err error) {
	a.failed.Add(1)
	now := a.now()
	if !a.logged.IsZero() && now.Sub(a.logged) < logEvery {
		a.leftOut++
		return
	}
	a.log.Warn("can't accept connections", "error", err, "failures_not_logged", a.leftOut)
	a.logged, a.leftOut = now, 0
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
