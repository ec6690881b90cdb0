// Package loopback finds addresses for servers that are told where to listen before they start.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
)

// First and Last bound the ports that Free gives. Systems give higher ones to outgoing connections and to whoever asks
// for any: one of those, free a moment ago, is somebody else's as soon as the server starts, or starts again.
const First, Last = 15000, 31999

// Free returns an address of 127.0.0.1 at which nobody listens right now. It doesn't return the same twice but by
// chance, one in 17,000.
func Free() (netip.AddrPort, error) {
	for range 1000 {
		a := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(First+rand.IntN(Last-First+1)))
		if l, err := net.Listen("tcp4", a.String()); err == nil {
			return a, l.Close()
		}
	}
	return netip.AddrPort{}, fmt.Errorf("find a free port from %d to %d: %w", First, Last, errors.New("1,000 tried, none is free"))
}
