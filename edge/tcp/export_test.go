//go:build !windows

package tcp

import (
	"syscall"
	"time"
)

// Wrap has connections accepted by way of wrap, and makes the time come from now. For before Run.
func (a *Acceptor) Wrap(wrap func(accept func(fd int) (int, syscall.Sockaddr, error)) func(fd int) (int, syscall.Sockaddr, error), now func() time.Time) {
	a.accept, a.now = wrap(a.accept), now
}
