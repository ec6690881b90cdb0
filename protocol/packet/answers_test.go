package packet

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

func parse(t testing.TB, b []byte) frame.Frame {
	t.Helper()
	f, n, err := frame.Parse(b, frame.DefaultMax)
	if err != nil || n != len(b) {
		t.Fatalf("parsed %d of %d bytes: %v", n, len(b), err)
	}
	return f
}

// testMessages are n messages as a segment holds them, and as the generated codec knows them.
func testMessages(t testing.TB, n int) (segment []byte, msgs []*wire.Message) {
	for i := range n {
		var s Send
		m := fullSend()
		m.Content += strings.Repeat("x", i)
		if err := DecodeSend(&s, marshal(t, m), &DefaultLimits); err != nil {
			t.Fatal(err)
		}
		msg := &wire.Message{Seq: uint64(i + 100), MessageId: uint64(1e15 + i), SenderId: "1001"}
		if err := msg.Unmarshal(s.Tail); err != nil {
			t.Fatal(err)
		}
		segment = AppendMessage(segment, msg.Seq, id.MessageID(msg.MessageId), "1001", s.Tail)
		msgs = append(msgs, msg)
	}
	return segment, msgs
}

// TestAnswersEqualGenerated writes each answer by hand and with the generated codec.
func TestAnswersEqualGenerated(t *testing.T) {
	conv := testConv[:]
	segment, msgs := testMessages(t, 3)
	users := []id.UserID{"1001", "1002"}
	page := Page{Conversation: testConv, Users: users, FromSeq: 100, ToSeq: 102, FirstSeq: 1, LastSeq: 300, Messages: segment, More: true}
	const reqID = frame.FlagRequestID
	for name, tc := range map[string]struct {
		got   []byte
		typ   frame.Type
		flags frame.Flags
		want  Body
	}{
		"sendack":      {AppendSendAck(nil, 300, Ack{testConv, 7, 9, false}, false), frame.SendAck, reqID, &wire.SendAck{Seq: 7, MessageId: 9}},
		"sendack user": {AppendSendAck(nil, 300, Ack{testConv, 1 << 40, 1 << 60, true}, true), frame.SendAck, reqID, &wire.SendAck{Seq: 1 << 40, MessageId: 1 << 60, ConversationId: conv, Duplicate: true}},
		"deliver":      {AppendDeliver(nil, testConv, users, segment), frame.Deliver, 0, &wire.Deliver{ConversationId: conv, Users: []string{"1001", "1002"}, Messages: msgs}},
		"deliver group": {AppendDeliver(nil, testConv, nil, segment), frame.Deliver, 0,
			&wire.Deliver{ConversationId: conv, Messages: msgs}},
		"error": {AppendError(nil, 300, true, code.New(code.RateLimited), testConv), frame.Error, reqID,
			&wire.Error{Code: 2002, Reason: code.RateLimited.Text(), RetryAfterMs: 1000, ConversationId: conv}},
		"error close": {AppendError(nil, 0, false, &code.Error{Code: code.TooSlow, RetryAfter: 3 * time.Second}, id.ConversationID{}), frame.Error, 0,
			&wire.Error{Code: 1012, RetryAfterMs: 3000}},
		"error long": {AppendError(nil, 300, true, &code.Error{Code: code.Internal, Reason: strings.Repeat("é", 200)}, id.ConversationID{}), frame.Error, reqID,
			&wire.Error{Code: 3999, Reason: strings.Repeat("é", 128), RetryAfterMs: 1000}},
		"synced": {AppendSynced(nil, 300, false, &page, nil), frame.Synced, reqID,
			&wire.Synced{ConversationId: conv, Users: []string{"1001", "1002"}, FromSeq: 100, ToSeq: 102, FirstSeq: 1, LastSeq: 300, Messages: msgs}},
		"synced error": {AppendSynced(nil, 300, true, &Page{Conversation: testConv}, code.New(code.NoSuchConversation)), frame.Synced, reqID | frame.FlagMore,
			&wire.Synced{ConversationId: conv, Error: &wire.Error{Code: 3003, Reason: code.NoSuchConversation.Text()}}},
		"history": {AppendHistory(nil, 300, &page), frame.Response, reqID, &wire.Response{Method: 1, Body: marshal(t,
			&wire.HistoryResponse{ConversationId: conv, FirstSeq: 1, LastSeq: 300, Messages: msgs, More: true})}},
		"recvack": {frame.Append(nil, frame.RecvAck, 0, 0, AppendConversationSeq(AppendConversationSeq(nil, testConv, 5), testConv, 1<<63)), frame.RecvAck, 0,
			&wire.RecvAck{Acks: []*wire.ConversationSeq{{ConversationId: conv, Seq: 5}, {ConversationId: conv, Seq: 1 << 63}}}},
	} {
		t.Run(name, func(t *testing.T) {
			want := frame.Append(nil, tc.typ, tc.flags, 300, marshal(t, tc.want))
			if !bytes.Equal(tc.got, want) {
				t.Fatalf("by hand\n%x, generated\n%x", tc.got, want)
			}
			f := parse(t, tc.got)
			if f.Type != tc.typ || f.Flags != tc.flags || f.HasReqID() && f.ReqID != 300 {
				t.Errorf("frame %v flags %x request %d", f.Type, f.Flags, f.ReqID)
			}
		})
	}

	f := parse(t, AppendDeliver(nil, testConv, users, segment))
	gotConv, gotUsers, messages, err := DecodeDeliver(f.Body)
	if err != nil || gotConv != testConv || string(gotUsers[0]) != "1001" || string(gotUsers[1]) != "1002" || !bytes.Equal(messages, segment) {
		t.Errorf("DecodeDeliver: %v %q %x %v", gotConv, gotUsers, messages, err)
	}
	f = parse(t, AppendSynced(nil, 300, false, &page, nil))
	p, refused, cerr := DecodeSynced(f.Body)
	if cerr != nil || refused != nil || p.FromSeq != 100 || p.ToSeq != 102 || p.FirstSeq != 1 || p.LastSeq != 300 || len(p.Users) != 2 || !bytes.Equal(p.Messages, segment) {
		t.Errorf("DecodeSynced: %+v %v %v", p, refused, cerr)
	}
	_, inner, cerr := DecodeResponse(parse(t, AppendHistory(nil, 300, &page)).Body)
	if cerr != nil {
		t.Fatal(cerr)
	}
	p, cerr = DecodeHistory(inner)
	if cerr != nil || p.FirstSeq != 1 || p.LastSeq != 300 || !p.More || !bytes.Equal(p.Messages, segment) {
		t.Errorf("DecodeHistory: %+v %v", p, cerr)
	}
	if _, refused, cerr = DecodeSynced(parse(t, AppendSynced(nil, 1, false, &Page{Conversation: testConv}, code.New(code.Forbidden))).Body); cerr != nil || refused == nil || refused.Code != code.Forbidden {
		t.Errorf("DecodeSynced of an error: %v %v", refused, cerr)
	}
	ack, cerr := DecodeSendAck(parse(t, AppendSendAck(nil, 1, Ack{testConv, 7, 9, true}, true)).Body)
	if cerr != nil || ack != (Ack{testConv, 7, 9, true}) {
		t.Errorf("DecodeSendAck: %+v %v", ack, cerr)
	}
}

func TestMessagesApart(t *testing.T) {
	segment, _ := testMessages(t, 3)
	var elements [][]byte
	for b := segment; len(b) > 0; {
		_, n := next(b)
		elements = append(elements, b[:n])
		b = b[n:]
	}
	head := append([]byte{1<<3 | wtBytes, 16}, testConv[:]...)
	unknown := []byte{15<<3 | wtBytes, 1, 'x'}
	body := bytes.Join([][]byte{elements[0], head, elements[1], unknown, elements[2]}, nil)
	if _, _, messages, err := DecodeDeliver(body); err != nil || !bytes.Equal(messages, segment) {
		t.Errorf("messages that stand apart: %x, %v", messages, err)
	}
}

func TestAppendChanged(t *testing.T) {
	var s Send
	if err := DecodeSend(&s, marshal(t, fullSend()), &DefaultLimits); err != nil {
		t.Fatal(err)
	}
	v, _, err := NextMessage(AppendChanged(nil, 5, 6, "1001", 300, 4, s.Tail))
	if err != nil || v.LastChangeSeq != 300 || v.TargetSeq != 4 || !bytes.Equal(v.Body, s.Tail) {
		t.Errorf("%+v, %v", v, err)
	}
	if a, b := AppendChanged(nil, 5, 6, "1001", 0, 0, s.Tail), AppendMessage(nil, 5, 6, "1001", s.Tail); !bytes.Equal(a, b) {
		t.Error("AppendChanged without changes differs from AppendMessage")
	}
	m := new(wire.Message)
	if err := m.Unmarshal(v.Raw); err != nil || m.LastChangeSeq != 300 || m.TargetSeq != 4 || m.Content != string(s.Content) {
		t.Errorf("generated codec reads %+v, %v", m, err)
	}
}

func TestNextMessageRefuses(t *testing.T) {
	for _, b := range [][]byte{nil, {0x42}, {0x42, 5, 1}, {0x42, 1, 0xFF}, {0x41, 0}, {0x42, 2, 1<<3 | wtBytes, 0},
		{0x42, 3, 4<<3 | wtBytes, 1, 'x'}, {0x42, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}} {
		if v, _, err := NextMessage(b); err == nil {
			t.Errorf("%x is taken as %+v", b, v)
		}
	}
	if v, err := ParseMessage(nil); err != nil || len(v.Body) != 0 {
		t.Errorf("the empty message: %+v %v", v, err)
	}
}

func TestDecodeRecvAck(t *testing.T) {
	good := AppendConversationSeq(nil, testConv, 5)
	calls := 0
	count := func(id.ConversationID, uint64) { calls++ }
	for _, bad := range [][]byte{bytes.Repeat(good, MaxRecvAcks+1), append(bytes.Clone(good), 0xFF), append(bytes.Clone(good), 1<<3|wtBytes, 0), {1 << 3, 1},
		{1<<3 | wtBytes, 3, 1<<3 | wtBytes, 1, 0}, {1<<3 | wtBytes, 2, 2<<3 | wtBytes, 0}} {
		if err := DecodeRecvAck(bad, count); err == nil || err.Code != code.BadRequest {
			t.Errorf("%x: %v", bad, err)
		}
	}
	if calls != 0 {
		t.Errorf("%d entries of bad RECVACKs were used", calls)
	}
	if err := DecodeRecvAck(append(append(bytes.Clone(good), good...), 7<<3, 1), count); err != nil || calls != 2 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestCounts(t *testing.T) {
	for msgType, want := range map[uint32]bool{0: false, 1: true, 5: true, 63: true, 64: false, 127: false, 128: false, 999: false, 1000: true, 1 << 31: true} {
		if Counts(msgType, false) != want || Counts(msgType, true) {
			t.Errorf("type %d", msgType)
		}
	}
}

// TestHotPathAllocates holds the hot codecs at no allocation at all.
func TestHotPathAllocates(t *testing.T) {
	segment, _ := testMessages(t, 8)
	users := []id.UserID{"1001", "1002"}
	toUser := marshal(t, &wire.Send{ToUserId: "1002", ClientMsgId: testCMID[:], MsgType: 1, Content: strings.Repeat("a", 100)})
	toConv := marshal(t, &wire.Send{ConversationId: testConv[:], SeenSeq: 9, ClientMsgId: testCMID[:], MsgType: 1, Content: "hé", ReplyToSeq: 4})
	framed := frame.Append(nil, frame.Send, frame.FlagRequestID, 7, toUser)
	deliver := AppendDeliver(nil, testConv, users, segment)
	recv := AppendConversationSeq(AppendConversationSeq(nil, testConv, 5), testConv, 6)
	ack := AppendSendAck(nil, 7, Ack{testConv, 1, 2, false}, true)
	buf := make([]byte, 0, 1<<16)
	var s Send
	var sum uint64
	for name, fn := range map[string]func(){
		"frame.Parse":        func() { _, _, _ = frame.Parse(framed, frame.DefaultMax) },
		"frame.AppendHeader": func() { _ = frame.AppendHeader(buf, frame.Send, frame.FlagRequestID, 1<<30, 200) },
		"DecodeSend user":    func() { _ = DecodeSend(&s, toUser, &DefaultLimits) },
		"DecodeSend conv":    func() { _ = DecodeSend(&s, toConv, &DefaultLimits) },
		"AppendMessage":      func() { _ = AppendMessage(buf, 9, 9, "1001", s.Tail) },
		"AppendSendAck":      func() { _ = AppendSendAck(buf, 7, Ack{testConv, 1, 2, false}, true) },
		"DecodeSendAck":      func() { _, _ = DecodeSendAck(ack[4:]) },
		"AppendDeliver":      func() { _ = AppendDeliver(buf, testConv, users, segment) },
		"DecodeDeliver": func() {
			f, _, _ := frame.Parse(deliver, frame.DefaultMax)
			_, _, messages, _ := DecodeDeliver(f.Body)
			for len(messages) > 0 {
				var v MessageView
				v, messages, _ = NextMessage(messages)
				sum += v.Seq
			}
		},
		"DecodeRecvAck": func() { _ = DecodeRecvAck(recv, func(_ id.ConversationID, seq uint64) { sum += seq }) },
	} {
		if n := testing.AllocsPerRun(200, fn); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func BenchmarkHot(b *testing.B) {
	segment, _ := testMessages(b, 8)
	users := []id.UserID{"1001", "1002"}
	toUser := marshal(b, &wire.Send{ToUserId: "1002", ClientMsgId: testCMID[:], MsgType: 1, Content: strings.Repeat("a", 100)})
	framed := frame.Append(nil, frame.Send, frame.FlagRequestID, 7, toUser)
	recv := AppendConversationSeq(AppendConversationSeq(nil, testConv, 5), testConv, 6)
	buf := make([]byte, 0, 1<<16)
	var s Send
	var sum uint64
	for _, bm := range []struct {
		name string
		fn   func()
	}{
		{"Parse", func() { _, _, _ = frame.Parse(framed, frame.DefaultMax) }},
		{"DecodeSend", func() { _ = DecodeSend(&s, toUser, &DefaultLimits) }},
		{"AppendMessage", func() { _ = AppendMessage(buf, 9, 9, "1001", s.Tail) }},
		{"AppendSendAck", func() { _ = AppendSendAck(buf, 7, Ack{testConv, 1, 2, false}, false) }},
		{"AppendDeliver8", func() { _ = AppendDeliver(buf, testConv, users, segment) }},
		{"NextMessage8", func() {
			for m := segment; len(m) > 0; {
				var v MessageView
				v, m, _ = NextMessage(m)
				sum += v.Seq
			}
		}},
		{"DecodeRecvAck2", func() { _ = DecodeRecvAck(recv, func(_ id.ConversationID, seq uint64) { sum += seq }) }},
	} {
		b.Run(bm.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bm.fn()
			}
		})
	}
}
