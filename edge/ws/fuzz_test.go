package ws_test

import (
	"bufio"
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/ws"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// link is what is below a WebSocket, in memory. Its other side takes so many bytes at a time.
type link struct {
	up interface{ Closed() }

	mu     sync.Mutex
	out    bytes.Buffer
	room   int // bytes taken before it is full; negative: any number
	closed bool
}

func (l *link) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, net.ErrClosed
	}
	n := len(p)
	if l.room >= 0 {
		n = min(n, l.room)
		l.room -= n
	}
	l.out.Write(p[:n])
	return n, nil
}

func (l *link) CloseWrite(code.Code) {}

func (l *link) Close() {
	l.mu.Lock()
	was := l.closed
	l.closed = true
	l.mu.Unlock()
	if !was {
		l.up.Closed()
	}
}

func (l *link) RemoteAddr() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:4711") }

// attach opens a WebSocket over a link.
func attach(t testing.TB, s *ws.Server, protocol string) (*ws.Socket, *link) {
	t.Helper()
	a, _, refused := s.Check(&ws.Request{Host: "h", Upgrade: "websocket", Connection: "upgrade", Version: "13", Key: "MDEyMzQ1Njc4OWFiY2RlZg==", Protocols: protocol})
	if refused != nil {
		t.Fatal(refused)
	}
	l := &link{room: -1}
	up, refused := s.Open(l, a)
	if refused != nil {
		t.Fatal(refused)
	}
	l.up = up
	up.Start()
	return up.(*ws.Socket), l
}

// local is a server without a listener.
func local(t testing.TB) *ws.Server {
	t.Helper()
	svc := conntest.New()
	h, err := hub.New(hub.Config{PerUser: 1 << 20, PerAddress: 1 << 20, ConnectsPerAddress: 1 << 20, Strangers: 1 << 20,
		Conn: conn.Config{FramesPerSecond: 1 << 20, BytesPerSecond: 1 << 30, SendsPerSecond: 1 << 16, UserSendsPerSecond: 1 << 16}}, svc.For())
	if err != nil {
		t.Fatal(err)
	}
	svc.Out = h
	s, err := ws.New(ws.Config{Hub: h})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func connectJSON(t testing.TB) []byte {
	f, _, err := frame.Parse(conntest.Connect("alice", "d"), frame.HardMax)
	if err != nil {
		t.Fatal(err)
	}
	b, err := packet.ToJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// said lists what a server has written: every frame is whole, and there is none after a close.
func said(t *testing.T, l *link) (all []string) {
	t.Helper()
	p := &peer{r: bufio.NewReader(bytes.NewReader(l.out.Bytes()))}
	for {
		if len(p.rest) == 0 {
			if _, err := p.r.Peek(1); err != nil {
				return all
			}
		}
		if p.status != 0 {
			t.Fatalf("something follows the close: %q", all)
		}
		heard, err := p.hear()
		if err != nil {
			t.Fatalf("after %q: %v", all, err)
		}
		all = append(all, heard)
	}
}

// What a client sends, cut anywhere, has the same effect as in one piece, and never makes the
// server say what is no frame.
func FuzzInput(f *testing.F) {
	for _, text := range []bool{false, true} {
		for _, c := range rfcCases(text) {
			if len(c.in) < 1<<10 {
				f.Add(text, uint8(len(c.in)/2), uint8(0), c.in)
			}
		}
	}
	f.Add(true, uint8(3), uint8(7), raw(0x81, []byte(`{"type":"send","req_id":1,"data":{"receiver_id":"bob","client_msg_id":"018d467f-d800-7000-8000-000000000001","msg_type":1,"content":"x"}}`)))
	connect := connectJSON(f)
	f.Fuzz(func(t *testing.T, text bool, cut, room uint8, in []byte) {
		protocol, hello := ws.Binary, raw(0x82, conntest.Connect("alice", "d"))
		if text {
			protocol, hello = ws.JSON, raw(0x81, connect)
		}
		var heard [2][]string
		for i := range heard {
			s := local(t)
			up, l := attach(t, s, protocol)
			up.Input(bytes.Clone(hello))
			if i == 0 {
				up.Input(bytes.Clone(in))
			} else {
				if room > 0 {
					l.room = int(room)
				}
				for rest := in; len(rest) > 0; {
					k := min(len(rest), int(cut%32)+1)
					up.Input(bytes.Clone(rest[:k]))
					rest = rest[k:]
				}
				l.mu.Lock()
				l.room = -1
				l.mu.Unlock()
				s.Writable(up.Incarnation())
			}
			if room > 0 && i == 1 {
				said(t, l) // a full socket may merge pings, and DELIVERs
			} else {
				heard[i] = said(t, l)
			}
			l.Close()
		}
		if room == 0 && !slices.Equal(heard[0], heard[1]) {
			t.Fatalf("whole: %q\ncut: %q", heard[0], heard[1])
		}
	})
}

// Whatever text comes is a packet, or refused with a code.
func FuzzText(f *testing.F) {
	f.Add(`{"type":"ping"}`)
	f.Add(`{"type":"send","req_id":4294967296,"data":null}`)
	f.Add(`{"type":"request","req_id":1,"data":{"method":"history","body":{"conversation_id":"00","limit":1}}}`)
	s := local(f)
	connect := connectJSON(f)
	f.Fuzz(func(t *testing.T, text string) {
		up, l := attach(t, s, ws.JSON)
		up.Input(raw(0x81, connect))
		up.Input(raw(0x81, []byte(text)))
		for _, heard := range said(t, l) {
			if heard == "ERROR internal" {
				t.Fatalf("%q", said(t, l))
			}
		}
		l.Close()
	})
}

// A socket that takes a few bytes at a time gets every message whole, pongs between them, and the close at the end.
func TestLittleRoom(t *testing.T) {
	for _, protocol := range []string{ws.Binary, ws.JSON} {
		for room := 1; room < 64; room += 3 {
			s := local(t)
			up, l := attach(t, s, protocol)
			hello, send := raw(0x82, conntest.Connect("alice", "d")), raw(0x82, conntest.Send(7, 0, "alice", 1, "a note to oneself"))
			if protocol == ws.JSON {
				hello = raw(0x81, connectJSON(t))
				f, _, _ := frame.Parse(conntest.Send(7, 0, "alice", 1, "a note to oneself"), frame.HardMax)
				b, err := packet.ToJSON(f)
				if err != nil {
					t.Fatal(err)
				}
				send = raw(0x81, b)
			}
			l.room = room
			for _, b := range [][]byte{hello, send, raw(0x89, []byte("first")), raw(0x89, []byte("second")),
				raw(0x80|hello[0]&0x0F, nil)} {
				up.Input(b)
			}
			if protocol == ws.Binary {
				up.Input(raw(0x82, conntest.Frame(frame.Connect, 0, 0, &wire.Connect{})))
			}
			for last := -1; last != l.out.Len(); {
				last = l.out.Len()
				l.mu.Lock()
				l.room = room
				l.mu.Unlock()
				s.Writable(up.Incarnation())
			}
			heard := said(t, l)
			n := len(heard)
			if n < 5 || heard[0] != "CONNACK" || !slices.Contains(heard, "SENDACK #7 seq 1") || !slices.Contains(heard, "pong second") ||
				!strings.HasPrefix(heard[n-2], "ERROR") || !strings.HasPrefix(heard[n-1], "close") {
				t.Fatalf("room %d: heard %q", room, heard)
			}
			l.Close()
		}
	}
}
