package ws_test

import (
	"testing"

	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/ws"
	"github.com/gochat-im/gochat/protocol/frame"
)

func (s *server) expect(c *conntest.Client, want ...string) {
	s.t.Helper()
	for _, w := range want {
		got := ""
		if f, err := c.Next(patience); err != nil {
			got = "end: " + err.Error()
		} else {
			got = conntest.Describe(&f)
		}
		if got != w {
			s.t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func TestBinary(t *testing.T) {
	s := start(t, hub.Config{}, ws.Config{})
	a, b := s.client(upgrade{}), s.client(upgrade{})
	for user, c := range map[string]*conntest.Client{"alice": a, "bob": b} {
		if _, err := c.Login(user, "phone"); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Write(append(conntest.Send(1, 0, "bob", 1, "hello"), conntest.Send(2, 0, "bob", 2, "world")...)); err != nil {
		t.Fatal(err)
	}
	s.expect(a, "SENDACK #1 seq 1", "SENDACK #2 seq 2")
	s.expect(b, "DELIVER [1 alice: hello] [2 alice: world]")
	if err := b.Write(frame.Append(nil, frame.Ping, 0, 0, nil)); err != nil {
		t.Fatal(err)
	}
	s.expect(b, "PONG")
}
