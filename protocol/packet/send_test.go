package packet

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

var (
	testConv = id.Direct("1001", "1002")
	testCMID = func() id.ClientMsgID {
		c := id.NewClientMsgID(1706284800000)
		copy(c[9:], "1234567")
		c[7] = 9
		return c
	}()
)

func marshal(t testing.TB, m interface{ Marshal([]byte) ([]byte, error) }) []byte {
	t.Helper()
	b, err := m.Marshal(nil)
	if err != nil {
		t.Fatalf("marshal %T: %v", m, err)
	}
	return b
}

func fullSend() *wire.Send {
	return &wire.Send{
		ConversationId: testConv[:], SeenSeq: 300, ClientMsgId: testCMID[:], MsgType: TypeText,
		Content: "Grüße, 世界", Data: []byte{0, 1, 0xFF}, Mentions: []string{"1002", "alice@example.org"},
		MentionAll: true, ReplyToSeq: 7, ThreadSeq: 3, ExpiresAt: 1706284800000, NoCount: true, NoPush: true,
		OriginDevice: "phone", Ext: []byte("ext"), Encryption: &wire.Encryption{Scheme: 1, Epoch: 9, Header: []byte{1, 2}},
	}
}

func TestDecodeSendEqualsGenerated(t *testing.T) {
	body := marshal(t, fullSend())
	var s Send
	if err := DecodeSend(&s, body, &DefaultLimits); err != nil {
		t.Fatal(err)
	}
	if s.Conversation != testConv || s.ToUser != "" || s.SeenSeq != 300 || s.ClientMsgID != testCMID || s.Type != 1 ||
		!s.NoCount || string(s.Content) != "Grüße, 世界" || len(s.Mentions) != 2 || s.Mentions[1] != "alice@example.org" ||
		!s.MentionAll || string(s.OriginDevice) != "phone" {
		t.Fatalf("decoded %+v", s)
	}
	if s.BodyHash != xxhash.Sum64(s.Tail) {
		t.Error("BodyHash is not XXH64 of Tail")
	}

	// The stored message is what the generated codec writes for the same fields.
	want := &wire.Message{Seq: 12, MessageId: 345, SenderId: "1001"}
	if err := want.Unmarshal(s.Tail); err != nil {
		t.Fatal(err)
	}
	element := AppendMessage(nil, 12, 345, "1001", s.Tail)
	raw := marshal(t, want)
	if whole := marshal(t, &wire.Deliver{Messages: []*wire.Message{want}}); !bytes.Equal(element, whole) {
		t.Errorf("AppendMessage\n%x, generated codec\n%x", element, whole)
	}
	v, rest, err := NextMessage(element)
	if err != nil || len(rest) != 0 {
		t.Fatalf("NextMessage: %v, %d bytes left", err, len(rest))
	}
	if v.Seq != 12 || v.ID != 345 || string(v.Sender) != "1001" || string(v.Content) != "Grüße, 世界" || v.ClientMsgID != testCMID ||
		v.Type != 1 || !v.NoCount || v.LastChangeSeq != 0 || !bytes.Equal(v.Raw, raw) || !bytes.Equal(v.Body, s.Tail) {
		t.Errorf("NextMessage %+v", v)
	}
}

// twisted is a body with its fields in descending order, each singular one twice.
func TestDecodeSendReorders(t *testing.T) {
	want := marshal(t, fullSend())
	var fields [][]byte
	for b := want; len(b) > 0; {
		_, n := next(b)
		fields = append(fields, b[:n])
		b = b[n:]
	}
	var twisted []byte
	for i := len(fields) - 1; i >= 0; i-- {
		f, _ := next(fields[i])
		if f.num == fieldMentions { // keep the order of the repeated ones
			continue
		}
		twisted = append(twisted, fields[i]...)
	}
	for _, b := range fields {
		f, _ := next(b)
		if f.num == fieldMentions || f.num == fieldType {
			twisted = append(twisted, b...)
		}
	}
	var a, b Send
	if err := DecodeSend(&a, want, &DefaultLimits); err != nil {
		t.Fatal(err)
	}
	if err := DecodeSend(&b, twisted, &DefaultLimits); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a.Tail, b.Tail) || a.BodyHash != b.BodyHash || a.SeenSeq != b.SeenSeq {
		t.Errorf("reordered tail %x, want %x", b.Tail, a.Tail)
	}
}

func TestDecodeSendKeepsUnknownFields(t *testing.T) {
	for _, num := range []uint64{18, 31, 50, 1000, 1<<29 - 1} {
		body := marshal(t, &wire.Send{ToUserId: "1002", ClientMsgId: testCMID[:], MsgType: 1, Content: "x"})
		extra := append(binary.AppendUvarint(nil, num<<3|wtBytes), 3, 'a', 'b', 0xFF)
		body = append(body, extra...)
		var s Send
		if err := DecodeSend(&s, body, &DefaultLimits); err != nil {
			t.Fatalf("field %d: %v", num, err)
		}
		if !bytes.HasSuffix(s.Tail, extra) {
			t.Errorf("field %d is not in the tail %x", num, s.Tail)
		}
		v, _, err := NextMessage(AppendMessage(nil, 1, 2, "1001", s.Tail))
		if err != nil || !bytes.Equal(v.Body, s.Tail) {
			t.Errorf("field %d: body %x, err %v", num, v.Body, err)
		}
	}
}

func TestDecodeSendRefuses(t *testing.T) {
	with := func(f func(*wire.Send)) []byte {
		m := &wire.Send{ToUserId: "1002", ClientMsgId: testCMID[:], MsgType: 1, Content: "x"}
		f(m)
		return marshal(t, m)
	}
	v4 := testCMID
	v4[6] = 0x40 | v4[6]&0xF
	group := append(with(func(*wire.Send) {}), 50<<3&0x7F|0x80|3, 3)
	for name, tc := range map[string]struct {
		body []byte
		want code.Code
	}{
		"empty":           {nil, code.BadRequest},
		"no target":       {with(func(m *wire.Send) { m.ToUserId = "" }), code.BadRequest},
		"two targets":     {with(func(m *wire.Send) { m.ConversationId = testConv[:] }), code.BadRequest},
		"short conv":      {with(func(m *wire.Send) { m.ToUserId, m.ConversationId = "", testConv[:15] }), code.BadRequest},
		"zero conv":       {with(func(m *wire.Send) { m.ToUserId, m.ConversationId = "", make([]byte, 16) }), code.BadRequest},
		"user utf8":       {with(func(m *wire.Send) { m.ToUserId = "\xff" }), code.InvalidUTF8},
		"user control":    {with(func(m *wire.Send) { m.ToUserId = "a\x00" }), code.BadRequest},
		"user long":       {with(func(m *wire.Send) { m.ToUserId = strings.Repeat("a", 65) }), code.BadRequest},
		"no client id":    {with(func(m *wire.Send) { m.ClientMsgId = nil }), code.BadRequest},
		"short client id": {with(func(m *wire.Send) { m.ClientMsgId = []byte("x") }), code.BadRequest},
		"uuid v4":         {with(func(m *wire.Send) { m.ClientMsgId = v4[:] }), code.BadRequest},
		"type 0":          {with(func(m *wire.Send) { m.MsgType = 0 }), code.BadRequest},
		"system type":     {with(func(m *wire.Send) { m.MsgType = 64 }), code.BadRequest},
		"reserved type":   {with(func(m *wire.Send) { m.MsgType = 999 }), code.BadRequest},
		"no content":      {with(func(m *wire.Send) { m.Content = "" }), code.BadRequest},
		"content utf8":    {with(func(m *wire.Send) { m.Content = "ab\xed\xa0\x80" }), code.InvalidUTF8},
		"content large":   {with(func(m *wire.Send) { m.Content = strings.Repeat("a", DefaultMaxContent+1) }), code.ContentTooLarge},
		"data counts":     {with(func(m *wire.Send) { m.Data = make([]byte, DefaultMaxContent) }), code.ContentTooLarge},
		"header counts": {with(func(m *wire.Send) {
			m.Encryption = &wire.Encryption{Header: make([]byte, DefaultMaxContent)}
		}), code.ContentTooLarge},
		"unknown counts": {append(append(with(func(*wire.Send) {}), binary.AppendUvarint(binary.AppendUvarint(nil, 50<<3|wtBytes), DefaultMaxContent)...),
			make([]byte, DefaultMaxContent)...), code.ContentTooLarge},
		"ext large":      {with(func(m *wire.Send) { m.Ext = make([]byte, DefaultMaxExt+1) }), code.ContentTooLarge},
		"mentions":       {with(func(m *wire.Send) { m.Mentions = strings.Split(strings.Repeat("a,", 51)[:101], ",") }), code.BadRequest},
		"mention empty":  {with(func(m *wire.Send) { m.Mentions = []string{""} }), code.BadRequest},
		"mention utf8":   {with(func(m *wire.Send) { m.Mentions = []string{"a\xc0"} }), code.InvalidUTF8},
		"device":         {with(func(m *wire.Send) { m.OriginDevice = "\n" }), code.BadRequest},
		"expires":        {with(func(m *wire.Send) { m.ExpiresAt = maxTime + 1 }), code.BadRequest},
		"server field":   {append(with(func(*wire.Send) {}), 0x80|32<<3&0x7F, 2, 5), code.BadRequest},
		"group":          {group, code.BadRequest},
		"field 0":        {append(with(func(*wire.Send) {}), 0, 1), code.BadRequest},
		"wrong type":     {append([]byte{3<<3 | wtFixed64, 1, 2, 3, 4, 5, 6, 7, 8}, with(func(*wire.Send) {})...), code.BadRequest},
		"bool 2":         {append(with(func(*wire.Send) {}), 9<<3, 2), code.BadRequest},
		"disorder":       {append(bytes.Repeat([]byte{10 << 3, 1}, maxDisorder), with(func(*wire.Send) {})...), code.BadRequest},
		"two wire types": {append(with(func(*wire.Send) {}), 6<<3, 1), code.BadRequest},
		"encryption":     {append(with(func(*wire.Send) {}), 0x80|17<<3&0x7F|2, 1, 2, 8, 0x80), code.BadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			var s Send
			err := DecodeSend(&s, tc.body, &DefaultLimits)
			if err == nil || err.Code != tc.want {
				t.Fatalf("%v, want %v", err, tc.want)
			}
			if err.Code.Scope() == code.ScopeConnection {
				t.Error("a bad body must not end the connection")
			}
		})
	}
}

func TestDecodeSendTruncated(t *testing.T) {
	body := marshal(t, fullSend())
	for i := range body {
		var s Send
		if err := DecodeSend(&s, body[:i], &DefaultLimits); err == nil && i < 20 {
			t.Errorf("the first %d bytes were taken", i)
		}
	}
}

func TestFrameAroundSend(t *testing.T) {
	for _, n := range []int{0, 100, 127, 128, 16383, 16384, HardMaxContent + 4096} {
		if got := len(frame.AppendHeader(nil, frame.Send, frame.FlagRequestID|frame.FlagResend, frame.MaxCheapID, n)); got > 8 {
			t.Errorf("%d bytes of frame around a SEND of %d", got, n)
		}
	}
	if got := len(frame.AppendHeader(nil, frame.Send, frame.FlagRequestID, 1<<28-1, DefaultMaxContent+2048)); got > 8 {
		t.Errorf("%d bytes of frame around a SEND within the default limits, with a request id of 28 bits", got)
	}
}

// At most 16 bytes stand around a message beyond the values of seq, message id, sender,
// client id and content: up to the hard limit of content for GoChat's own types, within
// the default limits for an integrator's types up to 2^21 too.
func TestMessageOverhead(t *testing.T) {
	for _, tc := range []struct {
		msgType uint32
		content int
	}{{1, 1}, {5, 100}, {63, DefaultMaxContent}, {1, HardMaxContent}, {1000, 100}, {1<<21 - 1, DefaultMaxContent}} {
		content := strings.Repeat("a", tc.content)
		var s Send
		body := marshal(t, &wire.Send{ToUserId: "1002", ClientMsgId: testCMID[:], MsgType: tc.msgType, Content: content})
		if err := DecodeSend(&s, body, &Limits{MaxContent: HardMaxContent}); err != nil {
			t.Fatal(err)
		}
		const seq, sender = 1 << 40, "a-user-with-a-longer-id"
		element := AppendMessage(nil, seq, 1<<62, sender, s.Tail)
		if over := len(element) - uvarintLen(seq) - 8 - len(sender) - 16 - tc.content; over > 16 {
			t.Errorf("%d bytes around a message of type %d and %d bytes", over, tc.msgType, tc.content)
		}
	}
}
