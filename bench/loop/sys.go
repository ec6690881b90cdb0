package loop

import (
	"io"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var errEOF error = io.EOF

// The sockets never block, so the calls go around the scheduler's bookkeeping for
// system calls that might: it is a tenth of the cost of a small read.

func sysRead(fd int, b []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), e
}

func sysWrite(fd int, b []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return int(n), e
}

// Pin ties the calling goroutine to its thread and lets the kernel wake it on time:
// by default a sleeping thread may be woken 50 µs late, which would count as the
// server's latency. Processes started meanwhile would inherit that: call the result first.
func Pin() (unpin func()) {
	runtime.LockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
	return func() {
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) // 0: the default again
		runtime.UnlockOSThread()
	}
}

// nap sleeps until wake or for timeout (negative: any time), whichever is shorter, and then lets other goroutines run. The thread keeps
// its processor (of Go's): the scheduler would hand it to another thread each time, for nothing.
func (l *Loop) nap(timeout time.Duration, wake int64) {
	d := time.Duration(wake - l.Now())
	if timeout >= 0 {
		d = min(d, timeout)
	}
	if d <= 0 {
		return
	}
	ts := unix.NsecToTimespec(int64(d))
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
	runtime.Gosched()
}
