package ws_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/ws"
)

// packetText is a packet as a script in a page sees it.
type packetText struct {
	Type  string         `json:"type"`
	ReqID uint32         `json:"req_id"`
	Data  map[string]any `json:"data"`
}

func (s *server) text(p *peer) packetText {
	s.t.Helper()
	var m packetText
	b, err := p.message()
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		s.t.Fatalf("%s: %v (closed with %d %s)", b, err, p.status, p.reason)
	}
	return m
}

func (s *server) login(user string, u upgrade) *peer {
	s.t.Helper()
	u.protocols = ws.JSON
	p := s.open(u)
	if err := p.text(`{"type": "connect", "req_id": 1, "data": {"version": 1, "token": "user:%s", "device_id": "page", "device_kind": "web"}}`, user); err != nil {
		s.t.Fatal(err)
	}
	if m := s.text(p); m.Type != "connack" || m.ReqID != 1 || m.Data["user_id"] != user {
		s.t.Fatalf("got %+v", m)
	}
	return p
}

func TestJSON(t *testing.T) {
	s := start(t, hub.Config{}, ws.Config{})
	a, b := s.login("1001", upgrade{}), s.login("1002", upgrade{})
	if err := a.text(`{"type": "send", "req_id": 2, "data": {"receiver_id": "1002", "client_msg_id": "018d467f-d800-7000-8000-000000000001", "msg_type": 1, "content": "Hello, World!"}}`); err != nil {
		t.Fatal(err)
	}
	if m := s.text(a); m.Type != "sendack" || m.ReqID != 2 || m.Data["seq"] != "1" {
		t.Fatalf("got %+v", m)
	}
	m := s.text(b)
	for name, want := range map[string]any{"sender_id": "1001", "receiver_id": "1002", "msg_type": 1.0, "content": "Hello, World!", "seq": "1"} {
		if m.Type != "message" || m.Data[name] != want {
			t.Fatalf("%s: %v, want %v, in %+v", name, m.Data[name], want, m)
		}
	}
}

// What can't be made a frame is refused like a frame that is wrong.
func TestWrongJSON(t *testing.T) {
	s := start(t, hub.Config{}, ws.Config{})
	for name, c := range map[string]struct {
		text   string
		answer string // name of the error that answers request 9
		status int    // 0: the connection goes on
		closed string // name of the error before the end
	}{
		"not JSON":                {text: `hello`, status: 4000, closed: "bad_frame"},
		"a list":                  {text: `[]`, status: 4000, closed: "bad_frame"},
		"nothing":                 {text: ``, status: 4000, closed: "bad_frame"},
		"null":                    {text: `null`, status: 4000, closed: "bad_frame"},
		"a type of tomorrow":      {text: `{"type": "teleport", "req_id": 9}`, answer: "unknown_frame"},
		"the same without id":     {text: `{"type": "teleport"}`},
		"no type":                 {text: `{"req_id": 9}`, answer: "bad_request"},
		"a bad field":             {text: `{"type": "send", "req_id": 9, "data": {"client_msg_id": 5}}`, answer: "bad_request"},
		"the same without id ":    {text: `{"type": "send", "data": {"client_msg_id": 5}}`, status: 4000, closed: "bad_frame"},
		"SEND without id":         {text: `{"type": "send", "data": {"receiver_id": "x", "msg_type": 1, "content": "x", "client_msg_id": "018d467f-d800-7000-8000-000000000001"}}`, status: 4000, closed: "bad_frame"},
		"a wrong RECVACK":         {text: `{"type": "recvack", "data": {"acks": 7}}`},
		"a wrong RECVACK with id": {text: `{"type": "recvack", "req_id": 9, "data": {"acks": 7}}`, answer: "bad_request"},
		"an unknown method":       {text: `{"type": "request", "req_id": 9, "data": {"method": "fly"}}`, answer: "unknown_method"},
		"a bad base64":            {text: `{"type": "signal", "req_id": 9, "data": {"receiver_id": "x", "kind": 1, "data": "%"}}`, answer: "bad_request"},
		"CONNECT again":           {text: `{"type": "connect", "data": {"version": 1, "device_id": "page"}}`, status: 4014, closed: "already_connected"},
		"too long":                {text: `{"type": "ping", "x": "` + strings.Repeat("x", 256<<10) + `"}`, status: 1009, closed: "frame_too_large"},
		"not UTF-8":               {text: "{\"type\": \"ping\", \"x\": \"\xff\"}", status: 1007, closed: "invalid_utf8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := s.login("user "+name, upgrade{})
			if err := p.text("%s", c.text); err != nil {
				t.Fatal(err)
			}
			if c.status == 0 {
				if err := p.text(`{"type": "ping", "req_id": 10}`); err != nil {
					t.Fatal(err)
				}
			}
			if c.answer != "" {
				if m := s.text(p); m.Type != "error" || m.ReqID != 9 || m.Data["name"] != c.answer {
					t.Fatalf("got %+v, want %s", m, c.answer)
				}
			}
			m := s.text(p)
			if c.status == 0 {
				if m.Type != "pong" || m.ReqID != 10 {
					t.Fatalf("got %+v, want the pong", m)
				}
				return
			}
			if m.Type != "error" || m.ReqID != 0 || m.Data["name"] != c.closed {
				t.Fatalf("got %+v, want %s", m, c.closed)
			}
			if _, err := p.message(); err == nil || p.status != c.status {
				t.Fatalf("closed with %d %q (%v), want %d", p.status, p.reason, err, c.status)
			}
		})
	}
}
