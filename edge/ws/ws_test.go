package ws_test

import (
	"encoding/json"
	"fmt"
	"net"
	"testing"

	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/hub/hubtest"
	"github.com/gochat-im/gochat/edge/ws"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
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

// TestSuite is what every transport must do: over binary messages, and over JSON.
func TestSuite(t *testing.T) {
	// What is no frame has no JSON form, and a DELIVER of two messages is two packets.
	for protocol, skip := range map[string][]string{ws.Binary: nil, ws.JSON: {"Hostile", "Talk"}} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			hubtest.Run(t, func(t testing.TB, hc hub.Config, _ bool) *hubtest.Server {
				s := start(t, hc, ws.Config{})
				return &hubtest.Server{Services: s.svc, Hub: s.hub, Dial: func() (hubtest.Wire, *net.TCPConn, code.Code) {
					p, resp := s.dial(upgrade{protocols: protocol})
					if resp.StatusCode != 101 {
						var r auth.Refused
						if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
							t.Fatalf("%s: %v", resp.Status, err)
						}
						return nil, nil, code.Code(r.Error.Code)
					}
					return &stream{peer: p}, p.nc.(*net.TCPConn), 0
				}}
			}, skip...)
		})
	}
}

// stream is a WebSocket that takes a stream of frames, cut anywhere. In binary, a message ends
// where a frame does; in JSON, each packet that has a JSON form is one, and the rest goes through
// as text.
type stream struct {
	*peer
	begun   []byte // of a frame
	message bool   // one is under way
	frames  []byte // read, made of JSON
}

func (s *stream) Write(b []byte) (int, error) {
	s.begun = append(s.begun, b...)
	rest := s.begun
	for {
		f, n, err := frame.Parse(rest, frame.HardMax)
		if err != nil || n == 0 {
			break
		}
		if s.json {
			text, err := packet.ToJSON(f)
			if err != nil {
				text = []byte(fmt.Sprintf(`{"type": "type %d", "req_id": %d}`, f.Type, f.ReqID))
			}
			if err := s.text("%s", text); err != nil {
				return 0, err
			}
		}
		rest = rest[n:]
	}
	s.begun = append([]byte(nil), rest...)
	if s.json {
		return len(b), nil
	}
	first := byte(0x02)
	if s.message {
		first = 0
	}
	if s.message = len(rest) > 0; !s.message {
		first |= 0x80
	}
	if _, err := s.nc.Write(raw(first, b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (s *stream) Read(b []byte) (int, error) {
	if !s.json {
		return s.peer.Read(b)
	}
	if len(s.frames) == 0 {
		text, err := s.peer.message()
		if err != nil {
			return 0, err
		}
		if s.frames, err = packet.FromJSON(text); err != nil {
			return 0, fmt.Errorf("%s: %w", text, err)
		}
	}
	n := copy(b, s.frames)
	s.frames = s.frames[n:]
	return n, nil
}
