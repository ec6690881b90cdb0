//go:build unix

package link

import "syscall"

// Silent reports whether the peer of an idle connection is still there: it owes nothing, so
// whatever can be read says that it is leaving, or has left.
func Silent(raw syscall.RawConn) bool {
	silent := false
	err := raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		silent = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK || err == syscall.EINTR
	})
	return err == nil && silent
}
