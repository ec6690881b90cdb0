package gochat

import (
	"errors"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// A server that answers a CONNECT too late for the client lets it in all the same, in the place of the session that the client has
// opened meanwhile: it connects once more. Replaced again it stops, as ever.
func TestReplacedByItself(t *testing.T) {
	noLeaks(t)
	s, r := newScripted(t), newRecorder()
	open(t, s.address(), r, func(c *Config) { c.DialTimeout = time.Second })
	late := s.accept() // says nothing
	late.expect(frame.Connect)
	replaced := packet.AppendError(nil, 0, false, code.New(code.Replaced), id.ConversationID{})
	for range 2 {
		p, _ := s.welcome(&wire.Connack{ResumeToken: "resume"})
		waitEvent[Connected](t, r)
		p.write(replaced)
	}
	if got := waitEvent[Stopped](t, r); !errors.Is(got.Err, code.New(code.Replaced)) {
		t.Errorf("stopped: %v", got.Err)
	}
}
