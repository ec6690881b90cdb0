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

// yieldEvery is how often a loop that naps lets other goroutines run: giving the processor away from a thread that is
// pinned wakes two others.
const yieldEvery = 5 * time.Millisecond

// nap sleeps until wake or for timeout (negative: any time), whichever is shorter. The thread keeps its processor (of Go's) meanwhile.
func (l *Loop) nap(timeout time.Duration, wake int64) {
	now := l.Now()
	d := time.Duration(wake - now)
	if timeout >= 0 {
		d = min(d, timeout)
	}
	if d <= 0 {
		return
	}
	if now-l.gave > int64(yieldEvery) {
		runtime.Gosched()
		l.gave = now
	}
	ts := unix.NsecToTimespec(int64(d))
	_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}
