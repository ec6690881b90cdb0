package gochat

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Where there is another server the client is there before it leaves the old one, whatever that one
// says then, and nothing is lost or doubled on the way.
func TestDrainMovesFirst(t *testing.T) {
	for name, end := range map[string]func(p *peer){
		"the client leaves": func(p *peer) { p.expectEnd() },
		"the server replaces": func(p *peer) {
			p.write(packet.AppendError(nil, 0, false, code.New(code.Replaced), id.ConversationID{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			s, s2, r := newScripted(t), newScripted(t), newRecorder()
			c := open(t, s.address(), r, nil)
			p, _ := s.welcome(&wire.Connack{ResumeToken: "resume"})
			a := mustSend(t, c, "one")
			p.expectSend("one")
			p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 10000, JitterMs: 5, Alternatives: []string{s2.address()}})
			p2 := s2.accept()
			hello, err := packet.DecodeConnect(p2.expect(frame.Connect).Body)
			if err != nil || hello.ResumeToken != "resume" {
				t.Fatalf("CONNECT with resume token %q, %v", hello.GetResumeToken(), err)
			}
			p.deliver(1) // the old server serves on meanwhile
			r.waitTexts(t, "m1")
			if name == "the server replaces" { // it registers the new connection before it answers
				end(p)
			}
			p2.body(frame.Connack, 0, 0, connack(&wire.Connack{Resumed: true}))
			m := p2.expectSend("one")
			if !m.resend {
				t.Error("no resend flag")
			}
			p2.ack(m, 2)
			mustAck(t, a, 2)
			if name == "the client leaves" {
				end(p)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, e := range r.events {
				if d, ok := e.(Disconnected); ok {
					t.Errorf("disconnected: %v", d.Err)
				}
			}
		})
	}
}

// A server that is leaving and takes nobody names others: the client goes there at once, whenever that one wants it back.
func TestTurnedAwayToAnother(t *testing.T) {
	noLeaks(t)
	s, s2, s3, r := newScripted(t), newScripted(t), newScripted(t), newRecorder()
	open(t, s.address(), r, nil)
	away := code.New(code.Draining)
	away.RetryAfter = time.Hour
	for _, from := range []struct{ at, to *scripted }{{s, s2}, {s2, s3}} {
		p := from.at.accept()
		p.expect(frame.Connect)
		p.body(frame.Drain, 0, 0, &wire.Drain{Alternatives: []string{from.to.address()}})
		p.write(packet.AppendError(nil, 0, false, away, id.ConversationID{}))
	}
	s3.welcome(&wire.Connack{ResumeToken: "resume"})
	waitEvent[Connected](t, r)
}

// Without another server the client finishes what is under way, goes, and comes back.
func TestDrainComesBack(t *testing.T) {
	noLeaks(t)
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	a := mustSend(t, c, "one")
	m := p.expectSend("one")
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, JitterMs: 30})
	waitEvent[Connected](t, r)
	p.deliver(1)
	r.waitTexts(t, "m1")       // after the DRAIN
	b := mustSend(t, c, "two") // not to this server any more
	p.ack(m, 2)
	mustAck(t, a, 2)
	p.expectEnd()
	if d := waitEvent[Disconnected](t, r); d.Retry > 30*time.Millisecond {
		t.Errorf("comes back after %v", d.Retry)
	}
	p, _ = s.welcome(nil)
	m = p.expectSend("two")
	if m.resend {
		t.Error("it was never sent before")
	}
	p.ack(m, 3)
	mustAck(t, b, 3)
}

// One that signs the device out ends it, leaving or not.
func TestSignedOutWhileLeaving(t *testing.T) {
	noLeaks(t)
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	mustSend(t, c, "one")
	p.expectSend("one")
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, JitterMs: 60_000})
	p.body(frame.Kick, 0, 0, &wire.Kick{Code: uint32(code.SessionRevoked)})
	waitEvent[Stopped](t, r)
}

// refuses has the server answer every CONNECT with e. The channel gets one for each, and is closed when the test ends.
func (s *scripted) refuses(e *code.Error) <-chan struct{} {
	done := make(chan struct{}, 1000)
	go func() {
		defer close(done)
		for {
			conn, err := s.ln.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			if _, err := (&reader{conn: conn, max: frame.DefaultMax}).next(); err == nil {
				_, _ = conn.Write(packet.AppendError(nil, 0, false, e, id.ConversationID{}))
				done <- struct{}{}
			}
			conn.Close()
		}
	}()
	return done
}

// noneOf fails the test if an event of the type has come.
func noneOf[E Event](t *testing.T, r *recorder) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if e, is := e.(E); is {
			t.Errorf("%T %+v", e, e)
		}
	}
}

// Others that take nobody at first are tried again, and until one does the old server is good.
func TestDrainTriesAgain(t *testing.T) {
	noLeaks(t)
	s, s2, gone, r := newScripted(t), newScripted(t), newScripted(t), newRecorder()
	gone.ln.Close()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(&wire.Connack{ResumeToken: "resume"})
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 3_600_000, JitterMs: 5, Alternatives: []string{gone.address(), s2.address()}})
	p2 := s2.accept()
	p2.expect(frame.Connect)
	p2.conn.Close()
	a := mustSend(t, c, "one")
	p.ack(p.expectSend("one"), 1)
	mustAck(t, a, 1)
	p2 = s2.accept()
	p2.expect(frame.Connect)
	p2.write(packet.AppendError(nil, 0, false, code.New(code.Overloaded), id.ConversationID{}))
	p.deliver(2)
	r.waitTexts(t, "one", "m2")
	p2 = s2.accept()
	hello, err := packet.DecodeConnect(p2.expect(frame.Connect).Body)
	if err != nil || hello.ResumeToken != "resume" {
		t.Fatalf("CONNECT with resume token %q, %v", hello.GetResumeToken(), err)
	}
	a = mustSend(t, c, "two")
	p.expectSend("two")
	p2.body(frame.Connack, 0, 0, connack(&wire.Connack{Resumed: true}))
	m := p2.expectSend("two")
	if !m.resend {
		t.Error("no resend flag")
	}
	p2.ack(m, 3)
	mustAck(t, a, 3)
	p.expectEnd()
	r.waitTexts(t, "one", "m2", "two")
	noneOf[Disconnected](t, r)
}

// Where none ever takes it the client stays until the server closes the connection, and comes back.
func TestDrainStaysToTheEnd(t *testing.T) {
	noLeaks(t)
	s, s2, r := newScripted(t), newScripted(t), newRecorder()
	refused := s2.refuses(code.New(code.Unavailable))
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 20, JitterMs: 5, Alternatives: []string{s2.address()}}) // and it isn't strict about it
	for range 5 {
		<-refused
	}
	p.deliver(1)
	a := mustSend(t, c, "one")
	p.expectSend("one") // stored, and the ack is lost
	r.waitTexts(t, "m1")
	away := code.New(code.Draining)
	away.RetryAfter = time.Millisecond
	p.write(packet.AppendError(nil, 0, false, away, id.ConversationID{}))
	p.expectEnd()
	if d := waitEvent[Disconnected](t, r); d.Retry != time.Millisecond || !errors.Is(d.Err, code.New(code.Draining)) {
		t.Errorf("%+v", d)
	}
	p, _ = s.welcome(nil)
	p.deliver(1)
	m := p.expectSend("one")
	if !m.resend {
		t.Error("no resend flag")
	}
	p.ack(m, 2)
	mustAck(t, a, 2)
	r.waitTexts(t, "m1", "one")
}

// One that refuses the client for good isn't asked again, and takes nothing from it; one that leaves too may name others.
func TestDrainRefusedElsewhere(t *testing.T) {
	noLeaks(t)
	s, s2, s3, s4, r := newScripted(t), newScripted(t), newScripted(t), newScripted(t), newRecorder()
	refused := s2.refuses(code.New(code.Unauthenticated))
	store := NewMemoryStore()
	open(t, s.address(), r, func(c *Config) { c.Store = store })
	p, _ := s.welcome(&wire.Connack{ResumeToken: "resume"})
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 3_600_000, Alternatives: []string{s2.address(), s3.address()}})
	for i := range 3 {
		p3 := s3.accept()
		p3.expect(frame.Connect)
		if i == 2 {
			p3.body(frame.Drain, 0, 0, &wire.Drain{Alternatives: []string{s3.address(), s4.address()}})
		}
		away := code.New(code.Draining)
		away.RetryAfter = time.Duration(i/2) * time.Hour
		p3.write(packet.AppendError(nil, 0, false, away, id.ConversationID{}))
	}
	p.deliver(1)
	r.waitTexts(t, "m1")
	_, hello := s4.welcome(nil)
	if hello.ResumeToken != "resume" {
		t.Errorf("CONNECT with %q", hello.ResumeToken)
	}
	p.expectEnd()
	if n := len(refused); n != 1 {
		t.Errorf("asked %d times", n)
	}
	noneOf[Stopped](t, r)
}

// Another server that refuses the resume token, while there is no other token, doesn't take it from the client.
func TestResumeRefusedWhileMoving(t *testing.T) {
	noLeaks(t)
	s, s2, r := newScripted(t), newScripted(t), newRecorder()
	refused := s2.refuses(code.New(code.Unauthenticated))
	tokens := make(chan string, 1)
	tokens <- "token"
	open(t, s.address(), r, func(c *Config) {
		c.Token = func(context.Context) (string, error) {
			select {
			case token := <-tokens:
				return token, nil
			default:
				return "", errors.New("none")
			}
		}
	})
	p, _ := s.welcome(&wire.Connack{ResumeToken: "resume"})
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, Alternatives: []string{s2.address()}})
	<-refused
	<-refused // again: with a token it may be another answer
	p.conn.Close()
	if _, hello := s.welcome(nil); hello.ResumeToken != "resume" || hello.Token != "" {
		t.Errorf("CONNECT with %q, resume token %q", hello.Token, hello.ResumeToken)
	}
}

// A second DRAIN tells better: others, though there were none, or none that took the client.
func TestSecondDrain(t *testing.T) {
	for name, first := range map[string]func(other string) *wire.Drain{
		"after one without others":          func(string) *wire.Drain { return &wire.Drain{DeadlineMs: 3_600_000} },
		"after one with others that refuse": func(o string) *wire.Drain { return &wire.Drain{DeadlineMs: 3_600_000, Alternatives: []string{o}} },
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			s, s2, s3, r := newScripted(t), newScripted(t), newScripted(t), newRecorder()
			away := code.New(code.Unavailable)
			away.RetryAfter = time.Hour
			refused := s2.refuses(away)
			c := open(t, s.address(), r, func(c *Config) { c.MinBackoff, c.MaxBackoff = time.Hour, time.Hour })
			p, _ := s.welcome(nil)
			a := mustSend(t, c, "one")
			m := p.expectSend("one")
			d := first(s2.address())
			p.body(frame.Drain, 0, 0, d)
			if len(d.Alternatives) > 0 {
				<-refused
			}
			p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, Alternatives: []string{s2.address(), s3.address()}})
			p3 := s3.accept()
			p3.expect(frame.Connect)
			p.ack(m, 1)
			mustAck(t, a, 1)
			p3.body(frame.Connack, 0, 0, connack(nil))
			p.expectEnd()
			noneOf[Disconnected](t, r)
		})
	}
}

// Close ends an attempt to move too.
func TestCloseWhileMoving(t *testing.T) {
	noLeaks(t)
	s, s2, r := newScripted(t), newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, Alternatives: []string{s2.address()}})
	p2 := s2.accept()
	p2.expect(frame.Connect)
	closed := later(func() { _ = c.Close() })
	p2.expectEnd()
	p.expectEnd()
	closed()
}

// A device that is signed out while it moves is that, though the other server hasn't heard of it.
func TestSignedOutWhileMoving(t *testing.T) {
	noLeaks(t)
	s, s2, r := newScripted(t), newScripted(t), newRecorder()
	open(t, s.address(), r, nil)
	p, _ := s.welcome(&wire.Connack{ResumeToken: "resume"})
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, Alternatives: []string{s2.address()}})
	p2 := s2.accept()
	p2.expect(frame.Connect)
	p.body(frame.Kick, 0, 0, &wire.Kick{Code: uint32(code.SessionRevoked)})
	p.expectEnd()
	p2.body(frame.Connack, 0, 0, connack(nil))
	if e := waitEvent[Stopped](t, r); !errors.Is(e.Err, code.New(code.SessionRevoked)) {
		t.Errorf("stopped: %v", e.Err)
	}
	p2.expectEnd()
}

// A client that can't have been replaced by itself, since it reached nobody, was replaced by another.
func TestReplacedByAnotherWhileMoving(t *testing.T) {
	noLeaks(t)
	s, r := newScripted(t), newRecorder()
	dialled := make(chan struct{}, 1000)
	open(t, s.address(), r, func(c *Config) {
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			if address == "nowhere:1" {
				dialled <- struct{}{}
				return nil, errors.New("nobody there")
			}
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}
	})
	p, _ := s.welcome(nil)
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, Alternatives: []string{"nowhere:1"}})
	<-dialled
	p.write(packet.AppendError(nil, 0, false, code.New(code.Replaced), id.ConversationID{}))
	waitEvent[Stopped](t, r)
}

// Each attempt that was given up explains that the client was replaced once.
func TestStrays(t *testing.T) {
	var s strays
	replaced := &dismissal{told: code.New(code.Replaced)}
	for range maxStrays + 1 {
		s.gaveUp(errors.New("cut"))
	}
	s.gaveUp(&dismissal{told: code.New(code.Overloaded)}) // was answered
	for i := range maxStrays + 1 {
		if got := final(s.explain(replaced)); got != (i == maxStrays) {
			t.Errorf("replacement %d: final %v", i, got)
		}
	}
	s.times = []time.Time{time.Now().Add(-2 * strayTime)}
	if !final(s.explain(replaced)) {
		t.Error("an old one explains it")
	}
}

// The old server's ack comes while the client moves: the message is told once, resent or not.
func TestAckWhileMoving(t *testing.T) {
	for range 20 {
		s, s2, r := newScripted(t), newScripted(t), newRecorder()
		c := open(t, s.address(), r, nil)
		p, _ := s.welcome(nil)
		one := mustSend(t, c, "one")
		m := p.expectSend("one")
		p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, Alternatives: []string{s2.address()}})
		p2 := s2.accept()
		p2.expect(frame.Connect)
		acked := later(func() {
			_, _ = p.conn.Write(packet.AppendSendAck(nil, m.req, packet.Ack{Conversation: ab, Seq: 1, MessageID: midOf(1)}, true))
		})
		p2.body(frame.Connack, 0, 0, connack(nil))
		p.expectEnd()
		end := mustSend(t, c, "end")
		for {
			f := p2.expect(frame.Send)
			var got packet.Send
			if err := packet.DecodeSend(&got, slices.Clone(f.Body), &packet.DefaultLimits); err != nil {
				t.Fatal(err)
			}
			if string(got.Content) == "end" {
				p2.ack(sent{req: f.ReqID}, 2)
				break
			}
			p2.write(packet.AppendSendAck(nil, f.ReqID, packet.Ack{Conversation: ab, Seq: 1, MessageID: midOf(1), Duplicate: true}, true))
		}
		mustAck(t, one, 1)
		mustAck(t, end, 2)
		r.waitTexts(t, "one", "end")
		acked()
	}
}
