package tcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"strings"
)

// The PROXY protocol: a load balancer says in front of the connection whom it speaks
// for. Version 1 is a line of text, version 2 binary.
var (
	proxyV1 = []byte("PROXY ")
	proxyV2 = []byte("\r\n\r\n\x00\r\nQUIT\n")
)

const (
	maxProxyV1 = 107
	maxProxyV2 = 2 << 10 // of what follows the fixed 16 bytes: addresses and extensions
)

var errProxy = errors.New("the PROXY header can't be read")

// parseProxy reads the header that b begins with: the client's address, not valid if
// the balancer speaks for itself, and the header's length in b, 0 while it isn't complete.
func parseProxy(b []byte) (addr netip.AddrPort, n int, err error) {
	switch {
	case bytes.HasPrefix(b, proxyV2):
		return parseProxyV2(b)
	case bytes.HasPrefix(b, proxyV1):
		return parseProxyV1(b)
	case bytes.HasPrefix(proxyV2, b), bytes.HasPrefix(proxyV1, b):
		return addr, 0, nil
	}
	return addr, 0, errProxy
}

func parseProxyV1(b []byte) (addr netip.AddrPort, n int, err error) {
	i := bytes.Index(b[:min(len(b), maxProxyV1)], []byte("\r\n"))
	if i < 0 {
		if len(b) >= maxProxyV1 {
			return addr, 0, errProxy
		}
		return addr, 0, nil
	}
	f := strings.Split(string(b[:i]), " ")
	if len(f) >= 2 && f[1] == "UNKNOWN" {
		return addr, i + 2, nil
	}
	if len(f) != 6 || f[1] != "TCP4" && f[1] != "TCP6" {
		return addr, 0, errProxy
	}
	a, err := netip.ParseAddr(f[2])
	if err != nil || a.Is4() != (f[1] == "TCP4") || a.Zone() != "" {
		return addr, 0, errProxy
	}
	p, err := netip.ParseAddrPort("0.0.0.0:" + f[4])
	if err != nil {
		return addr, 0, errProxy
	}
	return netip.AddrPortFrom(a.Unmap(), p.Port()), i + 2, nil
}

func parseProxyV2(b []byte) (addr netip.AddrPort, n int, err error) {
	if len(b) < 16 {
		return addr, 0, nil
	}
	size := int(binary.BigEndian.Uint16(b[14:]))
	if b[12]>>4 != 2 || size > maxProxyV2 {
		return addr, 0, errProxy
	}
	if len(b) < 16+size {
		return addr, 0, nil
	}
	body := b[16 : 16+size]
	switch b[12] & 0x0F {
	case 0: // LOCAL: the balancer's own
		return addr, 16 + size, nil
	case 1:
	default:
		return addr, 0, errProxy
	}
	switch b[13] {
	case 0x11:
		if len(body) < 12 {
			return addr, 0, errProxy
		}
		addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(body)), binary.BigEndian.Uint16(body[8:]))
	case 0x21:
		if len(body) < 36 {
			return addr, 0, errProxy
		}
		addr = netip.AddrPortFrom(netip.AddrFrom16([16]byte(body)).Unmap(), binary.BigEndian.Uint16(body[32:]))
	}
	return addr, 16 + size, nil
}
