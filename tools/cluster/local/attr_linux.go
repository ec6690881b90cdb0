package local

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// processAttr has a process not hear the signals of a terminal, and, unless it is detached, end with its starter.
func processAttr(detach bool) *syscall.SysProcAttr {
	if detach {
		return &syscall.SysProcAttr{Setsid: true}
	}
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// timerSlack is how much later than asked for a thread of the processes may be woken: what TimerSlackNSec= of systemd's units says.
// Go's monitor asks for 20 µs at a time while its program does anything at all, and with a dozen programs that are woken
// a few hundred times a second each, a sixth of what they took was that.
const timerSlack = time.Millisecond

// slacken has processes that the calling thread starts be woken up to timerSlack late.
func slacken() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0) }
