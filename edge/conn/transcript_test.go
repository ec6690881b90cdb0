package conn_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// What a CONNECT that is refused is answered with, and that the connection ends. The request
// id of a good one comes back.
func TestConnectTranscripts(t *testing.T) {
	with := func(change func(*wire.Connect)) []byte {
		m := &wire.Connect{Version: 1, Token: "user:alice", DeviceId: "d"}
		change(m)
		return conntest.Frame(frame.Connect, frame.FlagRequestID, 9, m)
	}
	for name, c := range map[string]struct {
		in   []byte
		want string
		ends bool
	}{
		"good":              {with(func(*wire.Connect) {}), "CONNACK #9", false},
		"a later version":   {with(func(m *wire.Connect) { m.Version = 7 }), "CONNACK #9", false},
		"no request id":     {conntest.Connect("alice", "d"), "CONNACK", false},
		"version 0":         {with(func(m *wire.Connect) { m.Version = 0 }), "ERROR bad_request", true},
		"no device":         {with(func(m *wire.Connect) { m.DeviceId = "" }), "ERROR bad_request", true},
		"text that isn't":   {with(func(m *wire.Connect) { m.Client = "\xff" }), "ERROR invalid_utf8", true},
		"unknown token":     {with(func(m *wire.Connect) { m.Token = "?" }), "ERROR unauthenticated", true},
		"expired token":     {with(func(m *wire.Connect) { m.Token = "expired" }), "ERROR token_expired", true},
		"signed out":        {with(func(m *wire.Connect) { m.Token = "revoked" }), "KICK session_revoked", true},
		"banned":            {with(func(m *wire.Connect) { m.Token = "banned" }), "KICK banned", true},
		"not the first":     {conntest.Send(1, 0, "bob", 1, "x"), "ERROR not_connected", true},
		"longer than 8 KiB": {frame.AppendHeader(nil, frame.Connect, 0, 0, frame.HandshakeMax), "ERROR frame_too_large", true},
		"no end of length":  {[]byte{0x80, 0x80, 0x80, 0x80, 0}, "ERROR frame_too_large", true},
	} {
		b := newBench(t, conn.Config{})
		p := b.open()
		p.C.Input(c.in)
		got, err := p.Take()
		if err != nil || len(got) != 1 || got[0] != c.want || p.Ended() != c.ends {
			t.Errorf("%s: got %q (%v), ended %v; want %s", name, got, err, p.Ended(), c.want)
		}
	}
}

// Who takes over is connected, who was there is told so, with an ERROR: it keeps its tokens.
func TestReplacedTranscript(t *testing.T) {
	b := newBench(t, conn.Config{})
	old := b.login("alice", "d")
	b.login("alice", "d")
	b.expect(old, "ERROR replaced")
	if !old.Ended() {
		t.Error("the old connection is open")
	}
}

// Which frames need a request id, and what becomes of those that make no sense.
// A device that has to give way to another one of its user is told so, and that it was another.
func TestOustedTranscript(t *testing.T) {
	b := newBench(t, conn.Config{})
	old := b.login("alice", "d")
	b.login("alice", "only")
	b512 := make([]byte, 512)
	n, _ := old.Client().Read(b512)
	f, _, err := frame.Parse(b512[:n], frame.DefaultMax)
	if err != nil || f.Type != frame.Error {
		t.Fatalf("got %v, %v", f, err)
	}
	told, _, derr := packet.DecodeError(f.Body)
	if derr != nil || told.Code != code.Replaced || told.Reason != "another device of yours took this one's place" || !old.Ended() {
		t.Errorf("told %v (%v), ended %v", told, derr, old.Ended())
	}
}

func TestRequestIDTranscripts(t *testing.T) {
	conv := conntest.Direct("alice", "bob")
	mid := conntest.MsgID(1)
	send := &wire.Send{ToUserId: "bob", ClientMsgId: mid[:], MsgType: 1, Content: "x"}
	sync := &wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: conv[:], FromSeq: 1}}}
	badAck := &wire.RecvAck{Acks: []*wire.ConversationSeq{{ConversationId: conv[:3], Seq: 1}}}
	goodAck := &wire.RecvAck{Acks: []*wire.ConversationSeq{{ConversationId: conv[:], Seq: 1}}}
	const id = frame.FlagRequestID
	for name, c := range map[string]struct {
		in   []byte
		want []string
		ends bool
	}{
		"send":                   {conntest.Frame(frame.Send, 0, 0, send), []string{"ERROR bad_frame"}, true},
		"sync":                   {conntest.Frame(frame.Sync, 0, 0, sync), []string{"ERROR bad_frame"}, true},
		"request":                {conntest.Frame(frame.Request, 0, 0, &wire.Request{Method: 2}), []string{"ERROR bad_frame"}, true},
		"second connect":         {conntest.Connect("alice", "d"), []string{"ERROR already_connected"}, true},
		"sync of nothing known":  {conntest.Frame(frame.Sync, id, 7, sync), []string{"SYNCED #7 1..0 of 0..0 no_such_conversation"}, false},
		"ping":                   {frame.Append(nil, frame.Ping, 0, 0, nil), []string{"PONG"}, false},
		"ping with an id":        {frame.Append(nil, frame.Ping, id, 7, nil), []string{"PONG #7"}, false},
		"recvack":                {conntest.Frame(frame.RecvAck, id, 7, goodAck), nil, false},
		"wrong recvack":          {conntest.Frame(frame.RecvAck, 0, 0, badAck), nil, false},
		"wrong recvack, id":      {conntest.Frame(frame.RecvAck, id, 7, badAck), []string{"ERROR #7 bad_request"}, false},
		"signal":                 {conntest.Frame(frame.Signal, id, 7, &wire.Signal{ToUserId: "bob", Kind: 5}), nil, false},
		"refused signal":         {conntest.Frame(frame.Signal, 0, 0, &wire.Signal{ToUserId: "nobody", Kind: 1}), nil, false},
		"refused signal, id":     {conntest.Frame(frame.Signal, id, 7, &wire.Signal{ToUserId: "nobody", Kind: 1}), []string{"ERROR #7 no_such_user"}, false},
		"a server's frame":       {conntest.Frame(frame.SendAck, 0, 0, &wire.SendAck{Seq: 1}), nil, false},
		"a server's frame, id":   {conntest.Frame(frame.SendAck, id, 7, &wire.SendAck{Seq: 1}), []string{"ERROR #7 unknown_frame"}, false},
		"unknown":                {frame.Append(nil, 200, 0, 0, nil), nil, false},
		"unknown, id":            {frame.Append(nil, 200, id, 7, nil), []string{"ERROR #7 unknown_frame"}, false},
		"a method of no version": {conntest.Frame(frame.Request, id, 7, &wire.Request{Method: 99}), []string{"ERROR #7 unknown_method"}, false},
	} {
		b := newBench(t, conn.Config{})
		p := b.login("alice", "d")
		p.C.Input(c.in)
		got, err := p.Take()
		if err != nil || !slices.Equal(got, c.want) || p.Ended() != c.ends {
			t.Errorf("%s: got %q (%v), ended %v; want %q", name, got, err, p.Ended(), c.want)
		}
	}
}

// A refusal may come before the answers to earlier SENDs of its lane.
func TestRefusalOvertakesAcks(t *testing.T) {
	b := newBench(t, conn.Config{})
	a := b.login("alice", "d")
	b.svc.Hold.Store(true)
	a.C.Input(join(conntest.Send(1, 0, "bob", 1, "1"), conntest.Send(2, 0, "bob", 2, "\xff"), conntest.Send(3, 0, "bob", 3, "3")))
	b.expect(a, "ERROR #2 invalid_utf8")
	b.svc.Release()
	b.expect(a, "SENDACK #1 seq 1", "SENDACK #3 seq 2")
}

// Who reads is answered every range of a SYNC, however much that is.
func TestManyRanges(t *testing.T) {
	b := newBench(t, conn.Config{QueueBytes: 4 << 10, QueueFrames: 10})
	p := b.login("alice", "d")
	m := new(wire.Sync)
	for i := range 30 {
		user := fmt.Sprint("user", i)
		p.C.Input(conntest.Send(uint32(i), 0, user, uint64(i), strings.Repeat("x", 1000)))
		conv := conntest.Direct("alice", user)
		m.Ranges = append(m.Ranges, &wire.SyncRange{ConversationId: conv[:], FromSeq: 1})
	}
	p.Discard()
	p.C.Input(conntest.Frame(frame.Sync, frame.FlagRequestID, 7, m))
	got, err := p.Take()
	if err != nil || len(got) != 30 || strings.Contains(strings.Join(got, " "), "overloaded") {
		t.Fatalf("%d answers: %.300q (%v)", len(got), got, err)
	}
}

// One lane, however its conversation is named.
func TestLaneByUserAndByConversation(t *testing.T) {
	b := newBench(t, conn.Config{MaxInflight: 1})
	a := b.login("alice", "d")
	conv := conntest.Direct("alice", "bob")
	named := func(req uint32, flags frame.Flags, n uint64) []byte {
		mid := conntest.MsgID(n)
		return conntest.Frame(frame.Send, flags|frame.FlagRequestID, req, &wire.Send{ConversationId: conv[:], ClientMsgId: mid[:], MsgType: 1, Content: "x"})
	}
	b.svc.Hold.Store(true)
	a.C.Input(join(conntest.Send(1, 0, "bob", 1, "1"), conntest.Send(2, 0, "bob", 2, "2"), named(3, 0, 3)))
	b.expect(a, "ERROR #2 overloaded lane", "ERROR #3 lane_blocked lane")
	b.svc.Release()
	b.expect(a, "SENDACK #1 seq 1")
	a.C.Input(named(4, frame.FlagResend, 3))
	b.expect(a, "ERROR #4 lane_blocked lane")
	a.C.Input(conntest.Send(5, frame.FlagResend, "bob", 2, "2"))
	b.expect(a, "SENDACK #5 seq 2")
	a.C.Input(named(6, frame.FlagResend, 3))
	b.expect(a, "SENDACK #6 seq 3")
}

// A range that can't be read names the seq that was asked for.
func TestUnreadableRange(t *testing.T) {
	b := newBench(t, conn.Config{})
	p := b.login("alice", "d")
	cl := conntest.Client{W: p.Client()}
	conv := conntest.Direct("x", "y")
	p.C.Input(conntest.Frame(frame.Sync, frame.FlagRequestID, 7, &wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: conv[:], FromSeq: 41}}}))
	f, err := cl.Next(0)
	if err != nil {
		t.Fatal(err)
	}
	page, refused, cerr := packet.DecodeSynced(f.Body)
	if cerr != nil || refused == nil || page.Conversation != conv || page.FromSeq != 41 {
		t.Fatalf("%+v, %v, %v", page, refused, cerr)
	}
}
