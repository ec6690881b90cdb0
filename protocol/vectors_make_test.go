package protocol_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

const (
	t0   = 1706284800000 // 2024-01-26T16:00:00Z
	long = "1234567890123456789"
)

var (
	conv  = id.Direct("1001", "1002")
	group = id.Named(id.KindGroup, "team")
	cmid  = id.ClientMsgID(append([]byte{0x01, 0x8d, 0x46, 0x7f, 0xd8, 0x00, 0x70, 0, 0x80}, 0, 0, 0, 0, 0, 0, 1))
	mid   = uint64(id.MakeMessageID(t0, 1, 5))
	req   = frame.FlagRequestID
)

func text(content string) *wire.Send {
	return &wire.Send{ToUserId: "1002", ClientMsgId: cmid[:], MsgType: 1, Content: content}
}

// everything sets every field that a sender has.
func everything() *wire.Send {
	return &wire.Send{
		ConversationId: group[:], SeenSeq: 41, ClientMsgId: cmid[:], MsgType: 1000, Content: "\"Grüße\"\n世界 \u2028\U0001F600\x01",
		Data: []byte{0, 255}, Mentions: []string{"1002", "bob@example.org"}, MentionAll: true, ReplyToSeq: 7, ThreadSeq: 1 << 40,
		ExpiresAt: t0 + 1000, NoCount: true, NoPush: true, OriginDevice: "phone-1", Ext: []byte{1, 2, 3},
		Encryption: &wire.Encryption{Scheme: 1, Epoch: 1 << 60, Header: []byte{9}},
	}
}

func stored(t testing.TB, s *wire.Send, seq uint64, sender string) *wire.Message {
	m := &wire.Message{Seq: seq, MessageId: mid + seq<<22, SenderId: sender}
	if err := m.Unmarshal(tailOf(t, s)); err != nil {
		t.Fatal(err)
	}
	return m
}

func body(t testing.TB, m packet.Body) []byte {
	t.Helper()
	b, err := m.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tailOf(t testing.TB, s *wire.Send) []byte {
	var d packet.Send
	if err := packet.DecodeSend(&d, body(t, s), &packet.DefaultLimits); err != nil {
		t.Fatal(err)
	}
	return d.Tail
}

func makeFrames(t testing.TB) (vs []frameVector) {
	t.Helper()
	add := func(from, name string, raw []byte, canonical bool) {
		f, err := readFrame(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		j, err := packet.ToJSON(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		v := frameVector{Name: name, From: from, Frame: hex.EncodeToString(raw), Canonical: canonical}
		for _, line := range bytes.Split(j, []byte("\n")) {
			v.JSON = append(v.JSON, json.RawMessage(line))
		}
		vs = append(vs, v)
	}
	client := func(name string, typ frame.Type, flags frame.Flags, reqID uint32, m packet.Body) {
		add("client", name, frame.Append(nil, typ, flags, reqID, body(t, m)), true)
	}
	server := func(name string, typ frame.Type, flags frame.Flags, reqID uint32, m packet.Body) {
		add("server", name, frame.Append(nil, typ, flags, reqID, body(t, m)), true)
	}
	call := func(name string, m packet.Method, ask, answer packet.Body) {
		b, err := packet.AppendRequest(nil, 9, m, ask)
		if err != nil {
			t.Fatal(err)
		}
		add("client", name+" request", b, true)
		if b, err = packet.AppendResponse(nil, 9, false, m, answer); err != nil {
			t.Fatal(err)
		}
		add("server", name+" response", b, true)
	}
	state := &wire.ConversationState{ConversationId: conv[:], Users: []string{"1001", "1002"}, LastSeq: 7, FirstSeq: 1, ReadSeq: 5, RecvSeq: 6, Unread: 2, LastTime: t0,
		Preview: &wire.Preview{Seq: 7, SenderId: "1002", MsgType: 1, Text: "Hel"}, PeerReadSeq: 4, PeerRecvSeq: 7, StateVersion: 3, Pinned: true, Muted: true}
	joined := &wire.ConversationState{ConversationId: group[:], LastSeq: 100, FirstSeq: 10, JoinedSeq: 20, LeftSeq: 90, Name: "Team"}

	client("connect, first time", frame.Connect, 0, 0, &wire.Connect{Version: 1, Token: "token", DeviceId: "phone-1", DeviceKind: wire.DeviceKind_DEVICE_KIND_PHONE, Client: "vectors/1"})
	client("connect, resuming", frame.Connect, 0, 0, &wire.Connect{Version: 1, Features: 1 << 63, DeviceId: "phone-1", DeviceKind: wire.DeviceKind_DEVICE_KIND_BOT, ResumeToken: "resume", SyncMark: t0 << 8, StoreEpoch: t0, Background: true, HeartbeatSeconds: 240, InboxLimit: 50})
	client("connect, device of a later kind", frame.Connect, 0, 0, &wire.Connect{Version: 2, Token: "t", DeviceId: "d", DeviceKind: 77})
	server("connack", frame.Connack, 0, 0, &wire.Connack{Version: 1, UserId: "1001", ServerTime: t0, StoreEpoch: t0, HeartbeatSeconds: 60, HeartbeatMinSeconds: 15, HeartbeatMaxSeconds: 600,
		Limits:      &wire.Limits{MaxFrame: 131072, MaxContent: 12288, MaxExt: 1024, MaxMentions: 50, MaxInflight: 256, SendsPerSecond: 50, MaxPage: 200, BytesPerSecond: 262144},
		ResumeToken: "resume", ResumeSeconds: 3600, Resumed: true, SyncMark: 1<<64 - 1, Conversations: []*wire.ConversationState{state, joined}, InboxCursor: "next", Server: "gochat/1"})
	server("connack, the least", frame.Connack, 0, 0, &wire.Connack{Version: 1, UserId: "1001", ServerTime: t0, StoreEpoch: 1, HeartbeatSeconds: 60})

	client("send to a user", frame.Send, req, 1, text("Hello, World!"))
	client("send to a conversation, every field, flags", frame.Send, req|frame.FlagResend|frame.FlagInteractive, 1<<32-1, everything())
	client("send, content at its limit", frame.Send, req, 1, text(strings.Repeat("a", packet.DefaultMaxContent)))
	atLimit := text("x")
	atLimit.Encryption = encryption(packet.DefaultMaxContent - 1)
	client("send, content and encryption at their limit", frame.Send, req, 1, atLimit)
	add("client", "send with a trace id", frame.AppendTraced(nil, frame.Send, req, 1, [16]byte{0xab, 15: 1}, body(t, text("x"))), true)
	server("sendack", frame.SendAck, req, 1, &wire.SendAck{Seq: 7, MessageId: mid})
	server("sendack to a user, duplicate", frame.SendAck, req, 300, &wire.SendAck{Seq: 1<<64 - 1, MessageId: 1<<63 - 1, ConversationId: conv[:], Duplicate: true})

	hello := stored(t, text("Hello, World!"), 7, "1001")
	server("deliver, one message", frame.Deliver, 0, 0, &wire.Deliver{ConversationId: conv[:], Users: []string{"1001", "1002"}, Messages: []*wire.Message{hello}})
	add("server", "deliver, two messages", packet.AppendDeliver(nil, conv, []id.UserID{"1001", "1002"},
		packet.AppendMessage(packet.AppendMessage(nil, 8, id.MessageID(mid), "1002", tailOf(t, text("a"))), 9, id.MessageID(mid+1), "1001", tailOf(t, text("b")))), false)
	add("server", "deliver to a group, changed message", packet.AppendDeliver(nil, group, nil, packet.AppendChanged(nil, 300, id.MessageID(mid), "1003", 400, 299, tailOf(t, everything()))), true)
	server("deliver, never pull, sender is neither", frame.Deliver, frame.FlagNeverPull, 0, &wire.Deliver{ConversationId: conv[:], Users: []string{"1001", "1002"},
		Messages: []*wire.Message{{Seq: 1, MessageId: mid, SenderId: "", MsgType: 64, Content: "{}"}}})

	client("recvack", frame.RecvAck, 0, 0, &wire.RecvAck{Acks: []*wire.ConversationSeq{{ConversationId: conv[:], Seq: 7}, {ConversationId: group[:], Seq: 1 << 60}}})
	client("sync", frame.Sync, req, 2, &wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: conv[:], FromSeq: 8}, {ConversationId: group[:], FromSeq: 1, ToSeq: 100, Limit: 50}}})
	server("synced, more to come", frame.Synced, req|frame.FlagMore, 2, &wire.Synced{ConversationId: conv[:], Users: []string{"1001", "1002"}, FromSeq: 5, ToSeq: 7, FirstSeq: 7, LastSeq: 9, Messages: []*wire.Message{hello}})
	server("synced, empty", frame.Synced, req, 2, &wire.Synced{ConversationId: group[:], FromSeq: 101, ToSeq: 100, FirstSeq: 10, LastSeq: 100})
	server("synced, refused", frame.Synced, req, 2, &wire.Synced{ConversationId: group[:], Error: &wire.Error{Code: 3003, Reason: "no such conversation"}})
	client("signal to a conversation", frame.Signal, 0, 0, &wire.Signal{ConversationId: conv[:], Kind: 1})
	server("signal from a device", frame.Signal, 0, 0, &wire.Signal{ToUserId: "1002", Kind: 1000, Data: []byte("data"), SenderId: "1001", SenderDevice: "phone-1"})

	call("history", packet.MethodHistory, &wire.HistoryRequest{ConversationId: conv[:], BeforeSeq: 8, Limit: 20},
		&wire.HistoryResponse{ConversationId: conv[:], FirstSeq: 1, LastSeq: 9, Messages: []*wire.Message{hello}, More: true})
	call("conversations", packet.MethodConversations, &wire.ConversationsRequest{Cursor: "next", Limit: 20, SyncMark: t0},
		&wire.ConversationsResponse{Conversations: []*wire.ConversationState{joined}, Cursor: "more", SyncMark: t0 + 1})
	call("read", packet.MethodRead, &wire.ReadRequest{ConversationId: conv[:], ReadSeq: 7}, &wire.ReadResponse{ReadSeq: 7})
	call("open_direct", packet.MethodOpenDirect, &wire.OpenDirectRequest{UserId: "1002"}, &wire.OpenDirectResponse{Conversation: state})
	call("conversation", packet.MethodConversation, &wire.ConversationRequest{ConversationId: conv[:]}, state)
	server("response of an unknown method, more parts", frame.Response, req|frame.FlagMore, 9, &wire.Response{Body: []byte{1, 2, 3}, Method: 99})

	server("hint, heads", frame.Hint, 0, 0, &wire.Hint{Heads: []*wire.ConversationSeq{{ConversationId: conv[:], Seq: 9}}})
	server("hint, all", frame.Hint, 0, 0, &wire.Hint{All: true})
	add("client", "ping", frame.Append(nil, frame.Ping, 0, 0, nil), true)
	add("server", "pong", frame.Append(nil, frame.Pong, 0, 0, nil), true)
	server("drain", frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 30000, JitterMs: 20000, Alternatives: []string{"10.0.0.2:7070", "[2001:db8::1]:7070"}})
	server("kick", frame.Kick, 0, 0, &wire.Kick{Code: 1008, Reason: "signed out elsewhere"})
	add("server", "error of a lane", packet.AppendError(nil, 1, true, code.New(code.Overloaded), conv), true)
	add("server", "error that closes", packet.AppendError(nil, 0, false, code.New(code.IdleTimeout), id.ConversationID{}), true)
	server("error of a later version", frame.Error, req, 1, &wire.Error{Code: 2999, Reason: "?"})

	// What is tolerated.
	unknown := []byte{0xF2, 0x3F, 2, 'h', 'i'} // field 1022
	add("client", "unknown field", frame.Append(nil, frame.Send, req, 1, append(body(t, text("x")), unknown...)), false)
	add("client", "reserved flags", frame.Append(nil, frame.Ping, 0xC8, 0, nil), false)
	ordered := body(t, text("x"))
	add("client", "fields out of order", frame.Append(nil, frame.Send, req, 1, append(bytes.Clone(ordered[6:]), ordered[:6]...)), false)
	add("client", "singular field twice", frame.Append(nil, frame.Send, req, 1, append(bytes.Clone(ordered), ordered[6:]...)), false)

	return append(vs, makeRefused(t)...)
}

// makeRefused are frames that a receiver refuses.
func makeRefused(t testing.TB) (vs []frameVector) {
	raw := func(name string, want code.Code, b []byte) {
		vs = append(vs, frameVector{Name: name, From: "client", Frame: hex.EncodeToString(b), Error: want.String()})
	}
	refused := func(name string, want code.Code, typ frame.Type, b []byte) {
		flags := frame.Flags(0)
		switch typ {
		case frame.Send, frame.Sync, frame.Request: // the frames that have answers
			flags = req
		}
		raw(name, want, frame.Append(nil, typ, flags, 1, b))
	}
	with := func(f func(*wire.Send)) []byte {
		m := text("x")
		f(m)
		return body(t, m)
	}
	raw("length 0", code.BadFrame, []byte{0})
	raw("length 1", code.BadFrame, []byte{1, 13})
	raw("length not in its shortest form", code.BadFrame, []byte{0x82, 0, 13, 0})
	raw("length of five bytes", code.FrameTooLarge, []byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F})
	raw("length of five bytes, not in its shortest form", code.FrameTooLarge, []byte{0x80, 0x80, 0x80, 0x80, 0})
	raw("length whose fourth byte isn't the last", code.FrameTooLarge, []byte{0x82, 0x80, 0x80, 0x80})
	raw("length above the maximum", code.FrameTooLarge, []byte{0x81, 0x80, 8, 3, 1})
	raw("request id missing", code.BadFrame, []byte{2, 3, 1})
	raw("request id cut", code.BadFrame, []byte{3, 3, 1, 0x80})
	raw("request id above 32 bits", code.BadFrame, []byte{7, 3, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F})
	raw("trace id cut", code.BadFrame, []byte{4, 3, 2, 1, 2})
	raw("compressed", code.BadFrame, []byte{2, 13, 4})
	raw("unknown frame type", code.UnknownFrame, []byte{3, 200, 1, 5})
	raw("send without request id", code.BadFrame, frame.Append(nil, frame.Send, 0, 0, body(t, text("x"))))
	raw("sync without request id", code.BadFrame, frame.Append(nil, frame.Sync, 0, 0, body(t, &wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: conv[:], FromSeq: 1}}})))
	raw("request without request id", code.BadFrame, frame.Append(nil, frame.Request, 0, 0, body(t, &wire.Request{Method: 2})))

	refused("send, body cut", code.BadRequest, frame.Send, body(t, text("x"))[:20])
	refused("send, field longer than the body", code.BadRequest, frame.Send, []byte{2<<3 | 2, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1})
	refused("send, varint of eleven bytes", code.BadRequest, frame.Send, append([]byte{3 << 3}, bytes.Repeat([]byte{0xFF}, 11)...))
	refused("send, content not UTF-8", code.InvalidUTF8, frame.Send, with(func(m *wire.Send) { m.Content = "a\xffb" }))
	refused("send, content with a surrogate", code.InvalidUTF8, frame.Send, with(func(m *wire.Send) { m.Content = "\xed\xa0\x80" }))
	refused("send, content overlong", code.InvalidUTF8, frame.Send, with(func(m *wire.Send) { m.Content = "\xc0\xaf" }))
	refused("send, user not UTF-8", code.InvalidUTF8, frame.Send, with(func(m *wire.Send) { m.ToUserId = "\xff" }))
	refused("send, user with a control character", code.BadRequest, frame.Send, with(func(m *wire.Send) { m.ToUserId = "a\x00b" }))
	refused("send, mention not UTF-8", code.InvalidUTF8, frame.Send, with(func(m *wire.Send) { m.Mentions = []string{"\xfe"} }))
	refused("send, no target", code.BadRequest, frame.Send, with(func(m *wire.Send) { m.ToUserId = "" }))
	refused("send, two targets", code.BadRequest, frame.Send, with(func(m *wire.Send) { m.ConversationId = conv[:] }))
	refused("send, conversation id of 15 bytes", code.BadRequest, frame.Send, with(func(m *wire.Send) { m.ToUserId, m.ConversationId = "", conv[:15] }))
	refused("send, conversation of no kind", code.BadRequest, frame.Send, with(func(m *wire.Send) { m.ToUserId, m.ConversationId = "", make([]byte, 16) }))
	refused("send, no client message id", code.BadRequest, frame.Send, with(func(m *wire.Send) { m.ClientMsgId = nil }))
	refused("send, client message id is a UUIDv4", code.BadRequest, frame.Send, with(func(m *wire.Send) { m.ClientMsgId = append([]byte{6: 0x40, 7: 0, 8: 0x80}, make([]byte, 7)...) }))
	refused("send, type 0", code.BadRequest, frame.Send, with(func(m *wire.Send) { m.MsgType = 0 }))
	refused("send, type of the server", code.BadRequest, frame.Send, with(func(m *wire.Send) { m.MsgType = 64 }))
	refused("send, empty", code.BadRequest, frame.Send, with(func(m *wire.Send) { m.Content = "" }))
	refused("send, content too large", code.ContentTooLarge, frame.Send, with(func(m *wire.Send) { m.Content = strings.Repeat("a", packet.DefaultMaxContent+1) }))
	refused("send, ext too large", code.ContentTooLarge, frame.Send, with(func(m *wire.Send) { m.Ext = make([]byte, packet.DefaultMaxExt+1) }))
	refused("send, encryption too large", code.ContentTooLarge, frame.Send, with(func(m *wire.Send) { m.Encryption = encryption(packet.DefaultMaxContent) }))
	refused("send, unknown fields too large", code.ContentTooLarge, frame.Send, unknownField(with(func(*wire.Send) {}), packet.DefaultMaxContent))
	refused("send, type above 32 bits", code.BadRequest, frame.Send, append(with(func(m *wire.Send) { m.MsgType, m.Content = 0, "" }), 5<<3, 0x81, 0x80, 0x80, 0x80, 0x10, 6<<3|2, 1, 'x'))
	refused("send, a bool of 2", code.BadRequest, frame.Send, append(with(func(*wire.Send) {}), 13<<3, 2))
	refused("send, expires_at beyond the year 9999", code.BadRequest, frame.Send, with(func(m *wire.Send) { m.ExpiresAt = 253402300800000 }))
	refused("send, too many mentions", code.BadRequest, frame.Send, with(func(m *wire.Send) {
		m.Mentions = strings.Split(strings.Repeat("a,", packet.DefaultMaxMentions)+"a", ",")
	}))
	refused("send, a field of the server", code.BadRequest, frame.Send, append(with(func(*wire.Send) {}), 0x80, 2, 1))
	refused("send, a group", code.BadRequest, frame.Send, append(with(func(*wire.Send) {}), 0x93, 3, 0x94, 3))
	refused("send, field number 0", code.BadRequest, frame.Send, append(with(func(*wire.Send) {}), 0, 1))
	refused("send, wrong wire type", code.BadRequest, frame.Send, append([]byte{3<<3 | 1}, append(make([]byte, 8), with(func(*wire.Send) {})...)...))

	refused("connect, no version", code.BadRequest, frame.Connect, body(t, &wire.Connect{DeviceId: "d", Token: "t"}))
	refused("connect, version above 32 bits", code.BadRequest, frame.Connect, append([]byte{1 << 3, 0x81, 0x80, 0x80, 0x80, 0x10}, body(t, &wire.Connect{DeviceId: "d", Token: "t"})...))
	refused("connect, a bool of 2", code.BadRequest, frame.Connect, append(body(t, &wire.Connect{Version: 1, DeviceId: "d", Token: "t"}), 10<<3, 2))
	refused("connect, no device", code.BadRequest, frame.Connect, body(t, &wire.Connect{Version: 1, Token: "t"}))
	refused("connect, token not UTF-8", code.InvalidUTF8, frame.Connect, body(t, &wire.Connect{Version: 1, DeviceId: "d", Token: "\xff"}))
	refused("connect, token too long", code.BadRequest, frame.Connect, body(t, &wire.Connect{Version: 1, DeviceId: "d", Token: strings.Repeat("t", packet.MaxToken+1)}))
	refused("recvack, conversation id cut", code.BadRequest, frame.RecvAck, body(t, &wire.RecvAck{Acks: []*wire.ConversationSeq{{ConversationId: conv[:3], Seq: 1}}}))
	refused("sync, nothing", code.BadRequest, frame.Sync, nil)
	refused("sync, too many ranges", code.BadRequest, frame.Sync, bytes.Repeat([]byte{10, 18, 10, 16, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}, packet.MaxSyncRanges+1))
	refused("signal, no target", code.BadRequest, frame.Signal, body(t, &wire.Signal{Kind: 1}))
	refused("signal, too much data", code.BadRequest, frame.Signal, body(t, &wire.Signal{Kind: 1, ToUserId: "a", Data: make([]byte, packet.MaxSignalData+1)}))
	refused("request, unknown method", code.UnknownMethod, frame.Request, body(t, &wire.Request{Method: 99}))
	refused("request, no method", code.BadRequest, frame.Request, nil)
	refused("request, open_direct with nobody", code.BadRequest, frame.Request, body(t, &wire.Request{Method: 4}))
	refused("request, history of half an id", code.BadRequest, frame.Request, body(t, &wire.Request{Method: 1, Body: body(t, &wire.HistoryRequest{ConversationId: conv[:8]})}))
	return vs
}

// encryption is one whose field has size bytes, which must take two for the header's length.
func encryption(size int) *wire.Encryption {
	return &wire.Encryption{Header: make([]byte, size-3)}
}

// unknownField appends field 50, of size bytes with its own tag and length.
func unknownField(b []byte, size int) []byte {
	n := size - 4
	b = append(b, 0x92, 3, byte(n)|0x80, byte(n>>7))
	return append(b, make([]byte, n)...)
}

func makeSends(t testing.TB) (vs []sendVector) {
	add := func(name string, b []byte, seq, mid uint64, sender string) {
		var s packet.Send
		if err := packet.DecodeSend(&s, b, &packet.DefaultLimits); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		vs = append(vs, sendVector{name, hex.EncodeToString(b), hex.EncodeToString(s.Tail), fmt.Sprintf("%016x", s.BodyHash),
			strconv.FormatUint(seq, 10), strconv.FormatUint(mid, 10), sender, hex.EncodeToString(packet.AppendMessage(nil, seq, id.MessageID(mid), id.UserID(sender), s.Tail))})
	}
	ordered := body(t, text("Hello, World!"))
	all := body(t, everything())
	unknown := []byte{0xF2, 0x3F, 2, 'h', 'i', 0x90, 0x03, 5} // fields 1022 and 50
	add("text to a user", ordered, 1, mid, "1001")
	add("every field", all, 1<<40, 1<<63-1, "alice@example.org")
	add("the same to a conversation", append(append([]byte{10, 16}, conv[:]...), ordered[6:]...), 300, mid, "1001")
	add("unknown fields, in order", append(bytes.Clone(ordered), 0x90, 0x03, 5, 0xF2, 0x3F, 2, 'h', 'i'), 2, mid, "1001")
	add("unknown fields, out of order", append(bytes.Clone(ordered), unknown...), 2, mid, "1001")
	add("target after the message", append(bytes.Clone(ordered[6:]), ordered[:6]...), 2, mid, "1001")
	add("singular fields twice, the last wins", append(append(bytes.Clone(ordered), 6<<3|2, 1, 'y'), 5<<3, 2), 2, mid, "1001")
	add("encryption twice is merged", append(bytes.Clone(ordered), 0x8A, 1, 2, 8, 1, 0x8A, 1, 2, 16, 2), 2, mid, "1001")
	add("mentions apart keep their order", append(append([]byte{8<<3 | 2, 1, 'b'}, ordered...), 8<<3|2, 1, 'a'), 2, mid, "1001")
	return vs
}

func makeIDs() (vs idVectors) {
	add := func(kind string, parts ...string) {
		c := conversation(kind, parts)
		vs.Conversations = append(vs.Conversations, struct {
			Kind  string   `json:"kind"`
			Parts []string `json:"parts"`
			ID    string   `json:"id"`
			Slot  int      `json:"slot"`
		}{kind, parts, c.String(), int(c.Slot())})
	}
	add("direct", "1001", "1002")
	add("direct", "1002", "1001")
	add("direct", "ab", "c")
	add("direct", "a", "bc")
	add("direct", "alice@example.org", "世界")
	add("direct", strings.Repeat("a", 64), strings.Repeat("b", 64))
	add("self", "1001")
	add("self", "世界")
	add("group", "team")
	add("room", "team")
	for _, s := range []string{"1001", "a", "alice@example.org", "世界", long, strings.Repeat("a", 64), "", strings.Repeat("a", 65), "a\x00", "a\n", "\x7f", "a\u0085", "\xff", "\xed\xa0\x80"} {
		u := id.UserID(s)
		v := struct {
			Hex   string `json:"hex"`
			Valid bool   `json:"valid"`
			Slot  int    `json:"slot"`
		}{hex.EncodeToString([]byte(s)), u.Valid(), 0}
		if v.Valid {
			v.Slot = int(u.Slot())
		}
		vs.Users = append(vs.Users, v)
	}
	v4, variant, last := cmid, cmid, id.ClientMsgID{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xBF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}
	v4[6], variant[8] = 0x40, 0xC0
	for _, c := range []id.ClientMsgID{cmid, last, v4, variant, {}} {
		v := struct {
			Hex       string `json:"hex"`
			UUID      string `json:"uuid"`
			Valid     bool   `json:"valid"`
			UnixMilli int64  `json:"unix_ms"`
		}{hex.EncodeToString(c[:]), c.String(), c.Valid(), 0}
		if v.Valid {
			v.UnixMilli = c.UnixMilli()
		}
		vs.ClientMsgIDs = append(vs.ClientMsgIDs, v)
	}
	for _, p := range [][3]int64{{id.Epoch, 0, 0}, {t0, 1, 5}, {t0, 1023, 4095}, {id.Epoch + 1<<41 - 1, 1023, 4095}} {
		vs.MessageIDs = append(vs.MessageIDs, struct {
			ID        string `json:"id"`
			UnixMilli int64  `json:"unix_ms"`
			Worker    uint32 `json:"worker"`
			Counter   uint32 `json:"counter"`
		}{strconv.FormatUint(uint64(id.MakeMessageID(p[0], uint32(p[1]), uint32(p[2]))), 10), p[0], uint32(p[1]), uint32(p[2])})
	}
	return vs
}
