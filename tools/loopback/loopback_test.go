package loopback

import (
	"fmt"
	"net"
	"testing"
)

func TestFree(t *testing.T) {
	for i := range 50 {
		a, err := Free(i % 3)
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
		if i%3 > 0 {
			l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", int(a.Port())-1))
			if err != nil {
				t.Fatalf("one below what was free: %v", err)
			}
			defer l.Close()
		}
	}
}
