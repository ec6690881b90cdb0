package tcp

import (
	"fmt"
	"math"
	"sync"
	"syscall"
)

// writables waits for full sockets to have room again: an epoll instance of its own
// beside netpoll's, since netpoll watches for writing only while its own buffers hold
// something. Events carry the connection's incarnation, so one that comes late finds
// nothing rather than another connection.
type writables struct {
	wake  func(incarnation uint64)
	fd    int
	ender [2]int // a pipe that ends run
	close func()
	done  chan struct{}
}

func newWritables(wake func(incarnation uint64)) (*writables, error) {
	fd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an epoll instance: %w", err)
	}
	w := &writables{wake: wake, fd: fd, done: make(chan struct{})}
	if err := syscall.Pipe2(w.ender[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	if err := syscall.EpollCtl(fd, syscall.EPOLL_CTL_ADD, w.ender[0], &syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: -1, Pad: -1}); err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("watching a pipe: %w", err)
	}
	w.close = sync.OnceFunc(func() {
		syscall.Close(w.ender[1]) // the reading end becomes readable: run ends
		<-w.done
		syscall.Close(w.ender[0])
		syscall.Close(fd)
	})
	go w.run()
	return w, nil
}

// await asks for one call of Writable when fd has room. known: fd was awaited before.
func (w *writables) await(fd int, incarnation uint64, known bool) error {
	op := syscall.EPOLL_CTL_ADD
	if known {
		op = syscall.EPOLL_CTL_MOD
	}
	ev := syscall.EpollEvent{
		Events: syscall.EPOLLOUT | syscall.EPOLLONESHOT,
		Fd:     int32(uint32(incarnation)), Pad: int32(uint32(incarnation >> 32)),
	}
	if err := syscall.EpollCtl(w.fd, op, fd, &ev); err != nil {
		return fmt.Errorf("waiting for room in a socket: %w", err)
	}
	return nil
}

// forget ends the wait for a descriptor that is about to be closed.
func (w *writables) forget(fd int) {
	_ = syscall.EpollCtl(w.fd, syscall.EPOLL_CTL_DEL, fd, nil)
}

func (w *writables) run() {
	defer close(w.done)
	events := make([]syscall.EpollEvent, 128)
	for {
		n, err := syscall.EpollWait(w.fd, events, -1)
		if err != nil && err != syscall.EINTR {
			return // only closing does that
		}
		for i := range max(n, 0) {
			incarnation := uint64(uint32(events[i].Fd)) | uint64(uint32(events[i].Pad))<<32
			if incarnation == math.MaxUint64 { // the pipe; 0 is of a connection that was turned away
				return
			}
			w.wake(incarnation)
		}
	}
}
