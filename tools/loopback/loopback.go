// Package loopback finds addresses for servers that are told where to listen before they start.
package loopback

import (
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
	given = map[int]bool{}
)

// Free returns an address of 127.0.0.1 at which nobody listens right now, nor at so many ports below it, on any
// address of the machine. None of these ports is returned twice in a process. It may be called from any goroutine.
func Free(below int) (netip.AddrPort, error) {
	mu.Lock()
	defer mu.Unlock()
	for range 1000 {
		port := First + below + rand.IntN(Last-First-below+1)
		if !free(port-below, port) {
			continue
		}
		for p := port - below; p <= port; p++ {
			given[p] = true
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("find a free port from %d to %d: 1,000 tried, none is free", First, Last)
}

// free reports whether all ports from first to last are. mu is held.
func free(first, last int) bool {
	for p := first; p <= last; p++ {
		if given[p] {
			return false
		}
		l, err := net.Listen("tcp4", fmt.Sprintf(":%d", p))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}
