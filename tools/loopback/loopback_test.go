package loopback

import (
	"net"
	"testing"
)

func TestFree(t *testing.T) {
	for range 50 {
		a, err := Free()
		if err != nil {
			t.Fatal(err)
		}
		if a.Port() < First || a.Port() > Last || !a.Addr().IsLoopback() {
			t.Errorf("%v", a)
		}
		l, err := net.Listen("tcp4", a.String())
		if err != nil {
			t.Fatalf("what was free: %v", err)
		}
		defer l.Close()
	}
}
