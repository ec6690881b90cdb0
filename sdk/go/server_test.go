package gochat

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// patience bounds every wait of a test; nothing that works comes near it.
const patience = 20 * time.Second

var (
	alice = id.UserID("alice")
	bob   = id.UserID("bob")
	ab    = id.Direct(alice, bob)
	pair  = []id.UserID{alice, bob}
)

// scripted is a server whose every frame the test writes.
type scripted struct {
	t  *testing.T
	ln net.Listener
}

func newScripted(t *testing.T) *scripted {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &scripted{t, ln}
}

func (s *scripted) address() string { return s.ln.Addr().String() }

// accept waits for the client's next connection.
func (s *scripted) accept() *peer {
	s.t.Helper()
	_ = s.ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	conn, err := s.ln.Accept()
	if err != nil {
		s.t.Fatal("the client doesn't connect:", err)
	}
	s.t.Cleanup(func() { conn.Close() })
	return &peer{t: s.t, conn: conn, r: reader{conn: conn, max: frame.DefaultMax}}
}

// welcome accepts a connection and answers its CONNECT.
func (s *scripted) welcome(ack *wire.Connack) (*peer, *wire.Connect) {
	s.t.Helper()
	p := s.accept()
	hello, err := packet.DecodeConnect(p.expect(frame.Connect).Body)
	if err != nil {
		s.t.Fatal(err)
	}
	p.body(frame.Connack, 0, 0, connack(ack))
	return p, hello
}

func connack(ack *wire.Connack) *wire.Connack {
	if ack == nil {
		ack = &wire.Connack{}
	}
	ack.Version, ack.UserId, ack.ServerTime = 1, string(alice), uint64(time.Now().UnixMilli())
	if ack.StoreEpoch == 0 {
		ack.StoreEpoch = 7
	}
	if ack.HeartbeatSeconds == 0 {
		ack.HeartbeatSeconds = 60
	}
	return ack
}

// peer is the server's end of one connection.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    reader
	acks map[id.ConversationID]uint64 // RECVACKs
}

func (p *peer) next() (frame.Frame, error) {
	_ = p.conn.SetReadDeadline(time.Now().Add(patience))
	return p.r.next()
}

// expect returns the next frame of the type; PINGs and RECVACKs on the way are taken in.
func (p *peer) expect(typ frame.Type) frame.Frame {
	p.t.Helper()
	for {
		f, err := p.next()
		if err != nil {
			p.t.Fatalf("waiting for a %v: %v", typ, err)
		}
		if f.Type == typ {
			return f
		}
		switch f.Type {
		case frame.Ping:
			p.write(frame.Append(nil, frame.Pong, 0, 0, nil))
		case frame.RecvAck:
			p.noteAck(f.Body)
		default:
			p.t.Fatalf("a %v, want a %v", f.Type, typ)
		}
	}
}

func (p *peer) noteAck(body []byte) {
	if p.acks == nil {
		p.acks = map[id.ConversationID]uint64{}
	}
	err := packet.DecodeRecvAck(body, func(c id.ConversationID, seq uint64) { p.acks[c] = max(p.acks[c], seq) })
	if err != nil {
		p.t.Errorf("RECVACK: %v", err)
	}
}

// expectEnd waits for the client to close.
func (p *peer) expectEnd() {
	p.t.Helper()
	for {
		f, err := p.next()
		if err != nil {
			return
		}
		switch f.Type {
		case frame.RecvAck:
			p.noteAck(f.Body)
		case frame.Ping:
		default:
			p.t.Fatalf("a %v, want the end", f.Type)
		}
	}
}

func (p *peer) write(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) body(typ frame.Type, flags frame.Flags, req uint32, m packet.Body) {
	p.t.Helper()
	b, err := packet.AppendBody(nil, typ, flags, req, m)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(b)
}

// sent is a SEND as it came.
type sent struct {
	packet.Send
	req    uint32
	resend bool
}

func (p *peer) expectSend(content string) sent {
	p.t.Helper()
	f := p.expect(frame.Send)
	s := sent{req: f.ReqID, resend: f.Flags&frame.FlagResend != 0}
	if err := packet.DecodeSend(&s.Send, slices.Clone(f.Body), &packet.DefaultLimits); err != nil {
		p.t.Fatal(err)
	}
	if string(s.Content) != content {
		p.t.Fatalf("SEND of %q, want %q", s.Content, content)
	}
	return s
}

func (p *peer) ack(s sent, seq uint64) {
	p.t.Helper()
	p.write(packet.AppendSendAck(nil, s.req, packet.Ack{Conversation: ab, Seq: seq, MessageID: midOf(seq)}, true))
}

func (p *peer) refuse(req uint32, e *code.Error) {
	p.t.Helper()
	p.write(packet.AppendError(nil, req, true, e, ab))
}

// midOf is the message id of a seq in these tests.
func midOf(seq uint64) id.MessageID { return id.MakeMessageID(id.Epoch+int64(seq), 1, 0) }

// element is bob's message of a seq.
func element(seq uint64) []byte {
	cm := id.NewClientMsgID(id.Epoch + int64(seq))
	return elementOf(seq, bob, cm, fmt.Sprintf("m%d", seq))
}

func elementOf(seq uint64, from id.UserID, cm id.ClientMsgID, content string) []byte {
	m := &wire.Send{ToUserId: "x", ClientMsgId: cm[:], MsgType: 1, Content: content}
	b, err := m.Marshal(nil)
	if err != nil {
		panic(err)
	}
	var s packet.Send
	if err := packet.DecodeSend(&s, b, &packet.DefaultLimits); err != nil {
		panic(err)
	}
	return packet.AppendMessage(nil, seq, midOf(seq), from, s.Tail)
}

func (p *peer) deliver(seqs ...uint64) {
	p.t.Helper()
	var messages []byte
	for _, s := range seqs {
		messages = append(messages, element(s)...)
	}
	p.write(packet.AppendDeliver(nil, ab, pair, messages))
}

// expectSync waits for a SYNC of the one conversation.
func (p *peer) expectSync(from, to uint64) uint32 {
	p.t.Helper()
	f := p.expect(frame.Sync)
	m, err := packet.DecodeSync(f.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if len(m.Ranges) != 1 || id.ConversationID(m.Ranges[0].ConversationId) != ab || m.Ranges[0].FromSeq != from || m.Ranges[0].ToSeq != to {
		p.t.Fatalf("SYNC of %+v, want %d to %d", m.Ranges[0], from, to)
	}
	return f.ReqID
}

// synced answers a SYNC for from..to with these seqs.
func (p *peer) synced(req uint32, from, to, last uint64, seqs ...uint64) {
	p.t.Helper()
	page := packet.Page{Conversation: ab, Users: pair, FromSeq: from, ToSeq: to, FirstSeq: 1, LastSeq: last}
	for _, s := range seqs {
		page.Messages = append(page.Messages, element(s)...)
	}
	p.write(packet.AppendSynced(nil, req, false, &page, nil))
}

// recorder is a Handler that keeps what it gets.
type recorder struct {
	mu     sync.Mutex
	cond   *sync.Cond
	events []Event
	gate   chan struct{} // if set, every message takes one from it
}

func newRecorder() *recorder {
	r := &recorder{}
	r.cond = sync.NewCond(&r.mu)
	return r
}

func (r *recorder) handle(e Event) {
	if _, ok := e.(MessageReceived); ok && r.gate != nil {
		<-r.gate
	}
	r.mu.Lock()
	r.events = append(r.events, e)
	r.mu.Unlock()
	r.cond.Broadcast()
}

// wait waits until ok holds of the events.
func (r *recorder) wait(t *testing.T, what string, ok func(events []Event) bool) {
	t.Helper()
	late := time.AfterFunc(patience, r.cond.Broadcast)
	defer late.Stop()
	deadline := time.Now().Add(patience)
	r.mu.Lock()
	defer r.mu.Unlock()
	for !ok(r.events) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s; events: %s", what, describe(r.events))
		}
		r.cond.Wait()
	}
}

func describe(events []Event) string {
	var b strings.Builder
	for _, e := range events {
		fmt.Fprintf(&b, "\n  %T %+v", e, e)
	}
	return b.String()
}

// texts returns the messages received, in order.
func texts(events []Event) (s []string) {
	for _, e := range events {
		if m, ok := e.(MessageReceived); ok {
			s = append(s, m.Message.Text)
		}
	}
	return s
}

func (r *recorder) waitTexts(t *testing.T, want ...string) {
	t.Helper()
	r.wait(t, fmt.Sprintf("messages %v", want), func(es []Event) bool { return len(texts(es)) >= len(want) })
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := texts(r.events); !slices.Equal(got, want) {
		t.Fatalf("messages %v, want %v", got, want)
	}
}

func waitEvent[E Event](t *testing.T, r *recorder) (e E) {
	t.Helper()
	r.wait(t, fmt.Sprintf("%T", e), func(es []Event) bool {
		for _, x := range es {
			if y, ok := x.(E); ok {
				e = y
				return true
			}
		}
		return false
	})
	return e
}

// open opens a client of the server with short waits, and closes it at the end.
func open(t *testing.T, address string, r *recorder, change func(*Config)) *Client {
	t.Helper()
	cfg := Config{
		Address: address, Device: "phone", Token: func(context.Context) (string, error) { return "token", nil }, Handler: r.handle,
		MinBackoff: 2 * time.Millisecond, MaxBackoff: 20 * time.Millisecond, AckInterval: 5 * time.Millisecond, GapWait: 5 * time.Millisecond,
	}
	if change != nil {
		change(&cfg)
	}
	c, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error("closing the client:", err)
		}
	})
	return c
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func mustSend(t *testing.T, c *Client, text string) *Receipt {
	t.Helper()
	r, err := c.Send(timeout(t), ToUser(bob), Text(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustAck(t *testing.T, r *Receipt, seq uint64) {
	t.Helper()
	ack, err := r.Wait(timeout(t))
	if err != nil || ack.Seq != seq || ack.Conversation != ab {
		t.Fatalf("ack %+v, %v; want seq %d", ack, err, seq)
	}
}

// noLeaks fails the test if goroutines stay behind.
func noLeaks(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; {
			if time.Now().After(deadline) {
				buf := make([]byte, 1<<16)
				t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
}
