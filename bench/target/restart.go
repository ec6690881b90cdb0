package target

import (
	"context"
	"errors"
	"syscall"
	"time"
)

// End sends the server a signal and waits until it has ended, which it must within the
// time that a server takes to leave. It returns how long that took.
func (s *Server) End(ctx context.Context, sig syscall.Signal) (time.Duration, error) {
	began := time.Now()
	if err := s.cmd.Process.Signal(sig); err != nil {
		return 0, err
	}
	limit := time.NewTimer(patience)
	defer limit.Stop()
	select {
	case <-s.exited:
		return time.Since(began), nil
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-limit.C:
		return 0, errors.New("the server doesn't end")
	}
}

// Again starts a server that has ended once more, with the same configuration, ports and
// data, and waits until it is ready. PID is another one then.
func (s *Server) Again(ctx context.Context) error { return s.run(ctx) }
