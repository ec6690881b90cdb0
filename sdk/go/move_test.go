package gochat

import (
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

// A server that is not there is no place to move to: the client comes back where it was. One
// that signs the device out ends it, leaving or not.
func TestDrainWithoutAPlaceToGo(t *testing.T) {
	noLeaks(t)
	s, r := newScripted(t), newRecorder()
	gone := newScripted(t)
	gone.ln.Close()
	open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, JitterMs: 5, Alternatives: []string{gone.address()}})
	p.expectEnd()
	p, _ = s.welcome(nil)
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, JitterMs: 60_000})
	p.expectEnd()

	s, r = newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ = s.welcome(nil)
	mustSend(t, c, "one")
	p.expectSend("one")
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, JitterMs: 60_000})
	p.body(frame.Kick, 0, 0, &wire.Kick{Code: uint32(code.SessionRevoked)})
	waitEvent[Stopped](t, r)
}
