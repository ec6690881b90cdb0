// Package hubtest is what connections must do whatever they travel over: a suite that every
// transport runs against a real hub.
package hubtest

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

const patience = time.Minute // how long a test waits for what must come

// Wire is a connection as its client has it.
type Wire interface {
	conntest.Wire
	Close() error
}

// Server is a listening server of the transport, which ends with the test.
type Server struct {
	Services *conntest.Services
	Hub      *hub.Hub

	// Dial opens a connection; refused is why it was turned away, if the transport tells that
	// otherwise than by a frame. tcp is what is below.
	Dial func() (w Wire, tcp *net.TCPConn, refused code.Code)
}

// Run runs the suite but for what skip names. start serves with hc; small asks for little room in the sockets.
func Run(t *testing.T, start func(t testing.TB, hc hub.Config, small bool) *Server, skip ...string) {
	for name, test := range map[string]func(*testing.T, func(testing.TB, hub.Config, bool) *Server){
		"Talk": talk, "SameDeviceAgain": sameDeviceAgain, "Hostile": hostile,
		"NobodyReceivesAnothersFrames": nobodyReceivesAnothersFrames, "NeverReads": neverReads,
		"LaggingClientIsHinted": laggingClientIsHinted, "Drain": drain, "Door": door,
	} {
		if slices.Contains(skip, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, start)
		})
	}
}

// rig is a Server within a test.
type rig struct {
	t testing.TB
	*Server
}

func (s *rig) dial() *conntest.Client {
	s.t.Helper()
	w, _, refused := s.Dial()
	if refused != 0 {
		s.t.Fatalf("turned away: %v", refused)
	}
	s.t.Cleanup(func() { w.Close() })
	return &conntest.Client{W: w}
}

// slow opens a connection whose client takes little at a time.
func (s *rig) slow() *conntest.Client {
	s.t.Helper()
	w, tcp, refused := s.Dial()
	if refused != 0 {
		s.t.Fatalf("turned away: %v", refused)
	}
	_ = tcp.SetReadBuffer(4 << 10)
	s.t.Cleanup(func() { w.Close() })
	return &conntest.Client{W: w}
}

// turnedAway wants no connection, and the reason.
func (s *rig) turnedAway(want code.Code) {
	s.t.Helper()
	w, _, refused := s.Dial()
	if refused == 0 {
		defer w.Close()
		c := &conntest.Client{W: w}
		f, err := c.Next(patience)
		if err != nil {
			s.t.Fatal(err)
		}
		if f.Type == frame.Drain { // where else to go comes first
			if d, cerr := packet.DecodeDrain(f.Body); cerr != nil || len(d.Alternatives) == 0 {
				s.t.Fatalf("turned away with DRAIN %v, %v", d, cerr)
			}
			if f, err = c.Next(patience); err != nil {
				s.t.Fatal(err)
			}
		}
		refused = conntest.ErrCode(&f)
	}
	if refused != want {
		s.t.Fatalf("turned away with %v, want %v", refused, want)
	}
}

func (s *rig) login(user, device string) *conntest.Client {
	s.t.Helper()
	c := s.dial()
	if _, err := c.Login(user, device); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *rig) next(c *conntest.Client) string {
	s.t.Helper()
	f, err := c.Next(patience)
	if err != nil {
		c.W.(Wire).Close() // a client that sees the end goes, too
		return "end: " + err.Error()
	}
	return conntest.Describe(&f)
}

func (s *rig) expect(c *conntest.Client, want ...string) {
	s.t.Helper()
	for _, w := range want {
		if got := s.next(c); got != w {
			s.t.Fatalf("got %q, want %q", got, w)
		}
	}
}

func (s *rig) write(c *conntest.Client, frames ...[]byte) {
	s.t.Helper()
	var b []byte
	for _, f := range frames {
		b = append(b, f...)
	}
	if err := c.Write(b); err != nil {
		s.t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// deliverTo returns a DELIVER of one message with a text.
func deliverTo(user, text string) []byte {
	mid := conntest.MsgID(1)
	tail, err := (&wire.Message{ClientMsgId: mid[:], MsgType: 1, Content: text}).Marshal(nil)
	if err != nil {
		panic(err)
	}
	conv := conntest.Direct(user, "server")
	return packet.AppendDeliver(nil, conv, nil, packet.AppendMessage(nil, 1, 1, id.UserID(user), tail))
}

func talk(t *testing.T, start func(testing.TB, hub.Config, bool) *Server) {
	s := &rig{t, start(t, hub.Config{Conn: conn.Config{StoreEpoch: 7}}, false)}
	a, b := s.dial(), s.login("bob", "phone")
	ack, err := a.Login("alice", "phone")
	if err != nil {
		t.Fatal(err)
	}
	if ack.UserId != "alice" || ack.StoreEpoch != 7 || ack.Version != 1 || ack.HeartbeatSeconds != 60 || ack.ResumeToken != "resume:alice" ||
		ack.Limits.MaxFrame != frame.DefaultMax || ack.Limits.MaxInflight != 256 || ack.ServerTime == 0 {
		t.Fatalf("CONNACK %+v", ack)
	}
	s.write(a, conntest.Send(1, 0, "bob", 1, "hello"), conntest.Send(2, 0, "bob", 2, "world"))
	s.expect(a, "SENDACK #1 seq 1", "SENDACK #2 seq 2")
	s.expect(b, "DELIVER [1 alice: hello] [2 alice: world]")
	conv := conntest.Direct("alice", "bob")
	s.write(b, conntest.Frame(frame.RecvAck, 0, 0, &wire.RecvAck{Acks: []*wire.ConversationSeq{{ConversationId: conv[:], Seq: 2}}}))
	eventually(t, "the RECVACK", func() bool { return s.Services.ReceivedSeq("bob", conv) == 2 })

	// One device a byte at a time.
	for _, x := range conntest.Send(3, 0, "alice", 3, "slowly") {
		s.write(b, []byte{x})
	}
	s.expect(b, "SENDACK #3 seq 3")
	s.expect(a, "DELIVER [3 bob: slowly]")

	s.write(b,
		conntest.Frame(frame.Sync, frame.FlagRequestID, 4, &wire.Sync{Ranges: []*wire.SyncRange{
			{ConversationId: conv[:], FromSeq: 2}, {ConversationId: append([]byte{1}, make([]byte, 15)...), FromSeq: 1}}}),
		conntest.Request(5, packet.MethodHistory, &wire.HistoryRequest{ConversationId: conv[:], Limit: 1}),
		conntest.Request(6, packet.MethodConversations, &wire.ConversationsRequest{}),
		conntest.Request(7, packet.MethodRead, &wire.ReadRequest{ConversationId: conv[:], ReadSeq: 3}),
		conntest.Request(8, packet.MethodOpenDirect, &wire.OpenDirectRequest{UserId: "carol"}),
		conntest.Request(9, packet.MethodConversation, &wire.ConversationRequest{ConversationId: conv[:]}),
		conntest.Request(10, 99, &wire.ConversationRequest{ConversationId: conv[:]}),
		conntest.Request(11, packet.MethodOpenDirect, &wire.OpenDirectRequest{UserId: "nobody"}),
		frame.Append(nil, frame.Ping, 0, 0, nil),
		frame.Append(nil, 77, frame.FlagRequestID, 12, nil),
		frame.Append(nil, 77, 0, 0, nil),
		conntest.Frame(frame.Signal, 0, 0, &wire.Signal{ToUserId: "alice", Kind: 1}),
		frame.Append(nil, frame.Ping, frame.FlagRequestID, 13, nil),
	)
	s.expect(b, "SYNCED #4 2..3 of 1..3 more [2 alice: world] [3 bob: slowly]", "SYNCED #4 1..0 of 0..0 no_such_conversation")
	for _, want := range []string{"RESPONSE #5 ", "RESPONSE #6 ", "RESPONSE #7 ", "RESPONSE #8 ", "RESPONSE #9 "} {
		if got := s.next(b); !strings.HasPrefix(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
	s.expect(b, "ERROR #10 unknown_method", "ERROR #11 no_such_user", "PONG", "ERROR #12 unknown_frame", "PONG #13")
	if sig := s.Services.Signals(); len(sig) != 1 || sig[0].SenderId != "bob" || sig[0].SenderDevice != "phone" {
		t.Fatalf("signals %v", sig)
	}
}

func sameDeviceAgain(t *testing.T, start func(testing.TB, hub.Config, bool) *Server) {
	s := &rig{t, start(t, hub.Config{}, false)}
	old := s.login("alice", "phone")
	other := s.login("alice", "laptop")
	renewed := s.login("alice", "phone")
	s.expect(old, "ERROR replaced", "end: EOF")
	eventually(t, "two connections", func() bool { return s.Hub.Count() == 2 })
	s.write(other, frame.Append(nil, frame.Ping, 0, 0, nil))
	s.write(renewed, frame.Append(nil, frame.Ping, 0, 0, nil))
	s.expect(other, "PONG")
	s.expect(renewed, "PONG")
	if n := s.Hub.CloseUserUntil("alice", "laptop", time.Now(), code.New(code.SessionRevoked)); n != 1 {
		t.Fatalf("closed %d connections, want 1", n)
	}
	s.expect(other, "KICK session_revoked", "end: EOF")
	if n := s.Hub.CloseUserUntil("alice", "", time.Now(), code.New(code.Banned)); n != 1 {
		t.Fatalf("closed %d connections, want 1", n)
	}
	s.expect(renewed, "KICK banned", "end: EOF")
	eventually(t, "no connection", func() bool { return s.Hub.Count() == 0 })
}

func hostile(t *testing.T, start func(testing.TB, hub.Config, bool) *Server) {
	s := start(t, hub.Config{}, false)
	// Where clients are waited for, and by the others' a slow machine isn't taken for a slow client.
	hurried := map[code.Code]*Server{
		code.HandshakeTimeout: start(t, hub.Config{Conn: conn.Config{Handshake: time.Second}}, false),
		code.IdleTimeout:      start(t, hub.Config{Conn: conn.Config{HeartbeatMin: time.Second, Heartbeat: 2 * time.Second}}, false),
	}
	good := conntest.Connect("mallory", "d")
	junk := make([]byte, 4000)
	for i := range junk {
		junk[i] = byte(i * 37)
	}
	for name, c := range map[string]struct {
		in   [][]byte
		want code.Code // of the frame before the end
	}{
		"nothing at all":            {nil, code.HandshakeTimeout},
		"half a CONNECT":            {[][]byte{good[:len(good)/2]}, code.HandshakeTimeout},
		"SEND first":                {[][]byte{conntest.Send(1, 0, "bob", 1, "x")}, code.NotConnected},
		"PING first":                {[][]byte{frame.Append(nil, frame.Ping, 0, 0, nil)}, code.NotConnected},
		"HTTP":                      {[][]byte{[]byte("GET / HTTP/1.1\r\nHost: example.org\r\nUser-Agent: someone with a long name\r\nAccept: */*\r\n\r\n")}, code.BadFrame},
		"a length of 5 bytes":       {[][]byte{{0xFF, 0xFF, 0xFF, 0xFF, 0x0F}}, code.FrameTooLarge},
		"a long CONNECT":            {[][]byte{frame.AppendHeader(nil, frame.Connect, 0, 0, 9<<10)}, code.FrameTooLarge},
		"length 0":                  {[][]byte{{0}}, code.BadFrame},
		"length 1":                  {[][]byte{{1, 1}}, code.BadFrame},
		"junk":                      {[][]byte{junk}, code.BadFrame},
		"a CONNECT of junk":         {[][]byte{frame.Append(nil, frame.Connect, 0, 0, junk[:100])}, code.BadRequest},
		"compressed":                {[][]byte{{2, 1, 4}}, code.BadFrame},
		"no token":                  {[][]byte{conntest.ConnectFrame(&wire.Connect{Version: 1, DeviceId: "d"})}, code.Unauthenticated},
		"an expired token":          {[][]byte{conntest.ConnectFrame(&wire.Connect{Version: 1, DeviceId: "d", Token: "expired"})}, code.TokenExpired},
		"a forged token":            {[][]byte{conntest.ConnectFrame(&wire.Connect{Version: 1, DeviceId: "d", Token: "forged"})}, code.Unauthenticated},
		"no device":                 {[][]byte{conntest.ConnectFrame(&wire.Connect{Version: 1, Token: "user:x"})}, code.BadRequest},
		"a device with a newline":   {[][]byte{conntest.Connect("x", "a\nb")}, code.BadRequest},
		"a device not in UTF-8":     {[][]byte{conntest.Connect("x", "a\xff")}, code.InvalidUTF8},
		"a token not in UTF-8":      {[][]byte{conntest.Connect("x\xff", "d")}, code.InvalidUTF8},
		"version 0":                 {[][]byte{conntest.ConnectFrame(&wire.Connect{Token: "user:x", DeviceId: "d"})}, code.BadRequest},
		"an authenticator's panic":  {[][]byte{conntest.ConnectFrame(&wire.Connect{Version: 1, DeviceId: "d", Token: "panic"})}, code.Internal},
		"CONNECT twice":             {[][]byte{conntest.Connect("m1", "d"), conntest.Connect("m1", "d")}, code.AlreadyConnected},
		"a SEND without id":         {[][]byte{conntest.Connect("m2", "d"), frame.Append(nil, frame.Send, 0, 0, []byte{1})}, code.BadFrame},
		"a SYNC without id":         {[][]byte{conntest.Connect("m3", "d"), frame.Append(nil, frame.Sync, 0, 0, []byte{1})}, code.BadFrame},
		"too large after CONNECT":   {[][]byte{conntest.Connect("m4", "d"), frame.AppendHeader(nil, frame.Send, 0, 0, 129<<10)}, code.FrameTooLarge},
		"silence":                   {[][]byte{conntest.Connect("m5", "d")}, code.IdleTimeout},
		"a trickle of half a frame": {[][]byte{conntest.Connect("m6", "d"), {100, 3, 1}}, code.IdleTimeout},
		"a trace id cut off":        {[][]byte{conntest.Connect("m7", "d"), {4, 3, 2, 0, 0}}, code.BadFrame},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := (&rig{t, cmp.Or(hurried[c.want], s)}).dial()
			for _, b := range c.in {
				if err := cl.Write(b); err != nil {
					t.Fatal(err)
				}
			}
			fs, err := cl.Drain(patience)
			if err != nil || len(fs) == 0 {
				t.Fatalf("%d frames, then %v", len(fs), err)
			}
			last := fs[len(fs)-1]
			if got := conntest.ErrCode(&last); got != c.want {
				t.Fatalf("closed with %s, want %s", conntest.Describe(&last), c.want)
			}
		})
	}
	t.Cleanup(func() {
		if n := s.Hub.Stats().Panics; n != 1 {
			t.Errorf("%d panics, want 1", n)
		}
	})
}

// Every client must only ever receive frames of its own user, whatever descriptor its
// connection got: connections come and go while everybody is delivered to.
func nobodyReceivesAnothersFrames(t *testing.T, start func(testing.TB, hub.Config, bool) *Server) {
	const users, rounds = 16, 25
	s := &rig{t, start(t, hub.Config{ConnectsPerAddress: 1 << 20}, true)}
	var stop atomic.Bool
	var delivering sync.WaitGroup
	for g := range 2 {
		delivering.Go(func() {
			for i := 0; !stop.Load(); i++ {
				u := fmt.Sprintf("user-%d", i%users)
				// Large now and then, so that sockets are full when they close.
				text := u + strings.Repeat("x", 10+(i%7)*(i%7)*100)
				for _, d := range []string{"a", "b"} {
					f := deliverTo(u, text)
					c := s.Services.Connection(id.UserID(u), id.DeviceID(d))
					if c != 0 {
						s.Hub.Deliver(c, f)
					}
				}
				if i%5 == g {
					s.Hub.Flush()
				}
			}
		})
	}
	var clients sync.WaitGroup
	for i := range users {
		clients.Go(func() {
			u, d := fmt.Sprintf("user-%d", i), []string{"a", "b"}[i%2]
			for r := range rounds {
				nc, tcp, refused := s.Dial()
				if refused != 0 {
					t.Errorf("turned away: %v", refused)
					return
				}
				c := &conntest.Client{W: nc}
				if _, err := c.Login(u, d); err != nil {
					nc.Close()
					if conntest.Race {
						continue
					}
					t.Error(err)
					return
				}
				if r%4 == 3 {
					time.Sleep(5 * time.Millisecond) // let it fill up, unread
				}
				for range r % 8 {
					f, err := c.Next(patience)
					if err != nil {
						if !conntest.Race {
							t.Errorf("%s: %v", u, err)
						}
						break
					}
					if f.Type == frame.Deliver && !strings.Contains(conntest.Describe(&f), ": "+u) {
						t.Errorf("%s received %s", u, conntest.Describe(&f))
					}
				}
				if r%3 == 0 {
					_ = tcp.SetLinger(0)
				}
				if r%5 == 4 {
					s.Hub.CloseUserUntil(id.UserID(u), id.DeviceID(d), time.Now(), code.New(code.SessionRevoked))
				}
				nc.Close()
			}
		})
	}
	clients.Wait()
	stop.Store(true)
	delivering.Wait()
	eventually(t, "all connections to end", func() bool { return s.Hub.Count() == 0 })
	if st := s.Hub.Stats(); st.ShortWrites == 0 {
		t.Log("no socket was ever full")
	}
}

func neverReads(t *testing.T, start func(testing.TB, hub.Config, bool) *Server) {
	s := &rig{t, start(t, hub.Config{Conn: conn.Config{Stalled: time.Second, QueueBytes: 64 << 10}}, true)}
	s.NeverReads(t, s.slow())
}

// NeverReads signs c in and writes to it until it is closed for not reading.
func (s *Server) NeverReads(t *testing.T, c *conntest.Client) {
	t.Helper()
	if _, err := c.Login("lazy", "d"); err != nil {
		t.Fatal(err)
	}
	big := deliverTo("lazy", strings.Repeat("x", 4000))
	conn := s.Services.Connection("lazy", "d")
	eventually(t, "deliveries to be dropped", func() bool {
		s.Hub.Deliver(conn, big)
		s.Hub.Flush()
		return s.Hub.Stats().Dropped > 10 || s.Hub.Count() == 0
	})
	eventually(t, "the close", func() bool { return s.Hub.Count() == 0 })
	if n := s.Hub.Stats().Closed[code.TooSlow]; n != 1 {
		t.Fatalf("%d closed as too slow, want 1", n)
	}
}

func laggingClientIsHinted(t *testing.T, start func(testing.TB, hub.Config, bool) *Server) {
	s := &rig{t, start(t, hub.Config{Conn: conn.Config{QueueBytes: 64 << 10}}, true)}
	c := s.slow()
	if _, err := c.Login("slow", "d"); err != nil {
		t.Fatal(err)
	}
	big := deliverTo("slow", strings.Repeat("x", 4000))
	conn := s.Services.Connection("slow", "d")
	eventually(t, "deliveries to be dropped", func() bool {
		s.Hub.Deliver(conn, big)
		s.Hub.Flush()
		return s.Hub.Stats().Dropped > 3
	})
	for {
		f, err := c.Next(patience)
		if err != nil {
			t.Fatal(err)
		}
		if f.Type == frame.Hint {
			if got := conntest.Describe(&f); got != "HINT head 1" {
				t.Fatalf("got %q", got)
			}
			break
		}
	}
	s.Hub.Deliver(conn, big)
	s.Hub.Flush()
	if got := s.next(c); !strings.HasPrefix(got, "DELIVER [1 slow") {
		t.Fatalf("got %q", got)
	}
}

func drain(t *testing.T, start func(testing.TB, hub.Config, bool) *Server) {
	s := &rig{t, start(t, hub.Config{Alternatives: []string{"10.0.0.2:7070"}, DrainJitter: time.Second}, false)}
	leaves, stays := s.login("a", "d"), s.login("b", "d")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Hub.Shutdown(ctx) }()
	f, err := leaves.Next(patience)
	if err != nil || f.Type != frame.Drain {
		t.Fatalf("got %v, %v", f, err)
	}
	d, cerr := packet.DecodeDrain(f.Body)
	if cerr != nil || d.JitterMs > min(1000, d.DeadlineMs) || d.DeadlineMs > 4000 || len(d.Alternatives) != 1 {
		t.Fatalf("DRAIN %v, %v", d, cerr)
	}
	leaves.W.(Wire).Close()
	s.expect(stays, "DRAIN", "ERROR draining", "end: EOF")
	s.turnedAway(code.Draining)
	Left(t, s.Hub, <-done)
}

// Left fails t if connections stay after a Leave that ended with err: on a slow machine some end after its deadline.
func Left(t testing.TB, h *hub.Hub, err error) {
	t.Helper()
	for end := time.Now().Add(patience); err != nil && h.Count() > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("shutdown: %v", err)
			return
		}
	}
}

func door(t *testing.T, start func(testing.TB, hub.Config, bool) *Server) {
	s := &rig{t, start(t, hub.Config{PerAddress: 2, PerUser: 1}, false)}
	a := s.login("a", "d1")
	b := s.dial()
	s.write(b, conntest.Connect("a", "d2"))
	s.expect(b, "ERROR too_many_connections", "end: EOF")
	eventually(t, "one connection", func() bool { return s.Hub.Count() == 1 })
	again := s.login("a", "d1") // takes its own place
	s.expect(a, "ERROR replaced", "end: EOF")
	eventually(t, "one connection", func() bool { return s.Hub.Count() == 1 })
	s.dial()
	eventually(t, "two connections", func() bool { return s.Hub.Count() == 2 })
	s.turnedAway(code.TooManyConnections)
	s.write(again, frame.Append(nil, frame.Ping, 0, 0, nil))
	s.expect(again, "PONG")
}
