// Package loopback finds addresses for servers that are told where to listen before they start.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
)

// First and Last bound the ports that Free gives. Systems give higher ones to outgoing connections and to whoever asks
// for any: one of those, free a moment ago, is somebody else's as soon as the server starts, or starts again.
const First, Last = 15000, 31999

var (
	mu    sync.Mutex
	given = map[uint16]bool{}
)

// Free returns an address of 127.0.0.1 at which nobody listens right now, never the same twice in a process. It may be
// called from any goroutine.
func Free() (netip.AddrPort, error) {
	mu.Lock()
	defer mu.Unlock()
	for range 1000 {
		port := uint16(First + rand.IntN(Last-First+1))
		if given[port] {
			continue
		}
		given[port] = true
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
		if l, err := net.Listen("tcp4", a.String()); err == nil {
			return a, l.Close()
		}
	}
	return netip.AddrPort{}, fmt.Errorf("find a free port from %d to %d: %w", First, Last, errors.New("1,000 tried, none is free"))
}
