package tcp_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/tcp"
)

// Without file descriptors, and when connections can't be taken, there is a line a second in the log that says how many
// it stands for; who has waited is served when there are some again.
func TestFailuresToAcceptAreLoggedNowAndThen(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	a := tcp.NewAcceptor(slog.New(slog.NewTextHandler(chanWriter(lines), &slog.HandlerOptions{ReplaceAttr: func(_ []string, at slog.Attr) slog.Attr {
		if at.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return at
	}})))
	const without = 9 // attempts
	tries, clock := 0, time.Unix(1e9, 0)
	a.Wrap(func(accept func(int) (int, syscall.Sockaddr, error)) func(int) (int, syscall.Sockaddr, error) {
		return func(fd int) (int, syscall.Sockaddr, error) {
			if tries++; tries <= without {
				return -1, nil, syscall.EMFILE
			}
			return accept(fd)
		}
	}, func() time.Time {
		clock = clock.Add(300 * time.Millisecond)
		return clock
	})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	taken := make(chan struct{}, 1)
	wg.Go(func() {
		if err := a.Run(ctx, ln.(*net.TCPListener), func(fd int, _ netip.AddrPort) error {
			_ = syscall.Close(fd)
			taken <- struct{}{}
			return fmt.Errorf("taking it: %w", errors.ErrUnsupported)
		}); err != nil {
			t.Errorf("accepting: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	dial := func() {
		t.Helper()
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		select {
		case <-taken:
		case <-time.After(patience):
			t.Fatal("nobody is accepted any more")
		}
	}
	for range 5 {
		dial()
	}
	eventually(t, "failures to be counted", func() bool { return a.Failed() == without+5 })
	cancel()
	wg.Wait()
	close(lines)
	const line = `level=WARN msg="can't accept connections" error=%s failures_not_logged=%d`
	var want []string
	for i, reason := range []string{`"too many open files"`, `"too many open files"`, `"too many open files"`, `"taking it: unsupported operation"`} {
		want = append(want, fmt.Sprintf(line, reason, min(i, 1)*3))
	}
	var got []string
	for l := range lines {
		got = append(got, strings.TrimSpace(l))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("logged\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

type chanWriter chan string

func (w chanWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}
