package main

import (
	"net"
	"testing"
)

// What the banner tells to type must work on this machine.
func TestReachable(t *testing.T) {
	for listen, want := range map[string]string{
		"0.0.0.0:7070": "127.0.0.1:7070", "[::]:7070": "127.0.0.1:7070", "127.0.0.1:7071": "127.0.0.1:7071", "[::1]:7070": "[::1]:7070", "192.0.2.7:80": "192.0.2.7:80",
	} {
		addr, err := net.ResolveTCPAddr("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		if got := reachable(addr); got != want {
			t.Errorf("listening on %s: %s, want %s", listen, got, want)
		}
	}
}
