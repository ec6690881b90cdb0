package gochat

import (
	"context"
	"runtime"
	"testing"

	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// A thousand clients in one process: three goroutines each, and little memory.
func TestAThousandClients(t *testing.T) {
	const n, served = 1000, 2 // goroutines of the server: one accepts, one a connection
	s := newScripted(t)
	welcome, err := packet.AppendBody(nil, frame.Connack, 0, 0, connack(nil))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := s.ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				var buf [256]byte
				for first := true; ; first = false {
					if _, err := c.Read(buf[:]); err != nil {
						return
					}
					if first {
						_, _ = c.Write(welcome)
					}
				}
			}()
		}
	}()
	memory := func() (m runtime.MemStats) {
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m
	}
	before, goroutines := memory(), runtime.NumGoroutine()
	clients := make([]*Client, n)
	for i := range clients {
		clients[i], err = Open(Config{
			Address: s.address(), Device: id.DeviceID("d"), Handler: func(Event) {},
			Token: func(context.Context) (string, error) { return "token", nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := clients[i].Connected(timeout(t)); err != nil {
			t.Fatal(err)
		}
	}
	after := memory()
	each := (float64(after.HeapInuse+after.StackInuse) - float64(before.HeapInuse+before.StackInuse)) / n / 1024
	running := runtime.NumGoroutine() - goroutines
	t.Logf("%.1f KiB a client, the other end of its connection included; %d goroutines for %d clients and as many connections served", each, running, n)
	if limit := (3+1)*n + served; running > limit {
		t.Errorf("%d goroutines, want at most %d", running, limit)
	}
	if each > 64 {
		t.Errorf("%.1f KiB a client", each)
	}
	for _, c := range clients {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}
