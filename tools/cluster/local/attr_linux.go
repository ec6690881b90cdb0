package local

import "syscall"

// processAttr has a process not hear the signals of a terminal, and, unless it is detached, end with its starter.
func processAttr(detach bool) *syscall.SysProcAttr {
	if detach {
		return &syscall.SysProcAttr{Setsid: true}
	}
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
