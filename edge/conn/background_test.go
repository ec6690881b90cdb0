package conn_test

import (
	"strings"
	"testing"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

func background(req uint32, on bool) []byte {
	return conntest.Request(req, packet.MethodBackground, &wire.BackgroundRequest{Background: on})
}

// signal pushes a signal of a kind to p.
func (b *bench) signal(p *conntest.Pipe, kind uint32) {
	conv := conntest.Direct("alice", "bob")
	p.C.Deliver(conntest.Frame(frame.Signal, 0, 0, &wire.Signal{ConversationId: conv[:], SenderId: "bob", Kind: kind}))
	b.host.Flush()
}

// Nobody is looking: signals are held back, messages come together with the next sweep or
// the next answer, and what a held back signal told of something stored comes as one HINT.
func TestBackgroundTranscript(t *testing.T) {
	b := newBench(t, conn.Config{})
	alice, bob := b.login("alice", "a"), b.login("bob", "b")
	say := func(n uint64, text string) {
		t.Helper()
		bob.C.Input(conntest.Send(uint32(n), 0, "alice", n, text))
		if _, err := bob.Take(); err != nil {
			t.Fatal(err)
		}
	}
	b.signal(alice, 1)
	say(1, "seen at once")
	b.expect(alice, "SIGNAL", "DELIVER [1 bob: seen at once]")

	alice.C.Input(background(7, true))
	b.expect(alice, "RESPONSE #7 0 bytes")
	b.signal(alice, 1)
	say(2, "one")
	say(3, "two")
	b.expect(alice)
	before := alice.Writes()
	alice.C.Sweep()
	b.expect(alice, "DELIVER [2 bob: one]", "DELIVER [3 bob: two]")
	if n := alice.Writes() - before; n != 1 {
		t.Errorf("%d writes", n)
	}
	say(4, "before an answer")
	alice.C.Input(frame.Append(nil, frame.Ping, 0, 0, nil))
	b.expect(alice, "DELIVER [4 bob: before an answer]", "PONG")
	five, six := strings.Repeat("x", 8<<10), strings.Repeat("y", 10<<10)
	say(5, five)
	b.expect(alice)
	say(6, six)                                                                        // that is much
	b.expect(alice, "DELIVER [5 bob: "+five[:20]+"]", "DELIVER [6 bob: "+six[:20]+"]") // described by their beginnings

	// Typing and drafts that were held back are over; a cursor that was has to be looked up.
	b.signal(alice, 4)
	b.signal(alice, 1000)
	alice.C.Input(background(8, false))
	b.expect(alice, "RESPONSE #8 0 bytes")
	alice.C.Input(background(9, true))
	b.signal(alice, 3)
	b.signal(alice, 5)
	alice.C.Input(background(10, true)) // once more
	say(7, "three")
	alice.C.Input(background(11, false))
	b.expect(alice, "RESPONSE #9 0 bytes", "RESPONSE #10 0 bytes", "DELIVER [7 bob: three]", "HINT all", "RESPONSE #11 0 bytes")
	b.signal(alice, 1)
	b.expect(alice, "SIGNAL")
	alice.C.Input(background(12, false))
	b.expect(alice, "RESPONSE #12 0 bytes")
	alice.C.Input(conntest.Frame(frame.Request, frame.FlagRequestID, 13, &wire.Request{Method: uint32(packet.MethodBackground), Body: []byte{0xff}}))
	b.expect(alice, "ERROR #13 bad_request")
}

// A client may be in the background from the beginning, and be lagging there.
func TestBackgroundFromTheBeginning(t *testing.T) {
	b := newBench(t, conn.Config{QueueFrames: 2})
	p := b.open()
	p.C.Input(conntest.ConnectFrame(&wire.Connect{Version: 1, Token: "user:alice", DeviceId: "a", Background: true}))
	b.expect(p, "CONNACK")
	b.signal(p, 3)
	bob := b.login("bob", "b")
	for n := range uint64(3) {
		bob.C.Input(conntest.Send(uint32(n+1), 0, "alice", n+1, "x"))
	}
	p.C.Input(background(1, false))
	b.expect(p, "DELIVER [1 bob: x]", "DELIVER [2 bob: x]", "RESPONSE #1 0 bytes", "HINT all")
}
