package packet

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

// generated makes the wire message of each frame's body.
var generated = map[frame.Type]func() Body{
	frame.Connect: func() Body { return new(wire.Connect) }, frame.Connack: func() Body { return new(wire.Connack) },
	frame.Send: func() Body { return new(wire.Send) }, frame.SendAck: func() Body { return new(wire.SendAck) },
	frame.Deliver: func() Body { return new(wire.Deliver) }, frame.RecvAck: func() Body { return new(wire.RecvAck) },
	frame.Sync: func() Body { return new(wire.Sync) }, frame.Synced: func() Body { return new(wire.Synced) },
	frame.Signal: func() Body { return new(wire.Signal) }, frame.Request: func() Body { return new(wire.Request) },
	frame.Response: func() Body { return new(wire.Response) }, frame.Hint: func() Body { return new(wire.Hint) },
	frame.Drain: func() Body { return new(wire.Drain) }, frame.Kick: func() Body { return new(wire.Kick) },
	frame.Error: func() Body { return new(wire.Error) },
}

func seedFrames(f *testing.F, add func(frame.Frame, []json.RawMessage)) {
	raw, err := os.ReadFile("../testdata/frames.json")
	if err != nil {
		f.Fatal(err)
	}
	var vs []struct {
		Frame string            `json:"frame"`
		JSON  []json.RawMessage `json:"json"`
	}
	if err := json.Unmarshal(raw, &vs); err != nil {
		f.Fatal(err)
	}
	for _, v := range vs {
		b, err := hex.DecodeString(v.Frame)
		if err != nil {
			f.Fatal(err)
		}
		if fr, n, err := frame.Parse(b, frame.DefaultMax); err == nil && n > 0 {
			add(fr, v.JSON)
		}
	}
}

// FuzzPacket gives any bytes to every decoder of a frame's body. They end; what they take
// survives being written and read again, by hand, with the generated codec, and as JSON.
func FuzzPacket(f *testing.F) {
	seedFrames(f, func(fr frame.Frame, _ []json.RawMessage) { f.Add(uint8(fr.Type), uint8(fr.Flags), fr.Body) })
	f.Fuzz(func(t *testing.T, typ, flags uint8, body []byte) {
		fr := frame.Frame{Type: frame.Type(typ), Flags: frame.Flags(flags) &^ (frame.FlagTrace | frame.FlagCompressed), ReqID: 5, Body: body}
		original := bytes.Clone(body)
		defer func() {
			if !bytes.Equal(body, original) {
				t.Fatal("a decoder wrote to its input")
			}
		}()
		checkMessages(t, body)
		checkSend(t, body)
		_ = DecodeRecvAck(body, func(id.ConversationID, uint64) {})
		_, _ = DecodeSendAck(body)
		if _, _, messages, err := DecodeDeliver(body); err == nil {
			checkMessages(t, messages)
		}
		if p, _, err := DecodeSynced(body); err == nil {
			checkMessages(t, p.Messages)
		}
		_, _ = DecodeHistory(body)
		_, _, _ = DecodeError(body)
		_, _ = DecodeKick(body)
		for m := range methods {
			if m > 0 {
				_ = methods[m].request.validate(body)
				_ = methods[m].answer.validate(body)
			}
		}

		refused := Validate(&fr, &DefaultLimits)
		text, err := ToJSON(fr)
		if err != nil {
			if refused == nil {
				t.Fatalf("valid, but has no JSON form: %v", err)
			}
			return
		}
		if !json.Valid(bytes.ReplaceAll(append(append([]byte("["), text...), ']'), []byte("\n"), []byte(","))) {
			t.Fatalf("not JSON: %s", text)
		}
		for _, line := range bytes.Split(text, []byte("\n")) {
			if len(line) > 0 {
				checkJSON(t, line)
			}
		}
		if gen := generated[fr.Type]; gen != nil {
			checkGenerated(t, fr, gen())
		}
	})
}

// checkSend holds DecodeSend at what a stored message must be.
func checkSend(t *testing.T, body []byte) {
	var s, again Send
	if err := DecodeSend(&s, body, &DefaultLimits); err != nil {
		return
	}
	if len(s.Tail) > len(body) {
		t.Fatalf("a tail of %d bytes from a body of %d", len(s.Tail), len(body))
	}
	v, rest, err := NextMessage(AppendMessage(nil, 7, 8, "sender", s.Tail))
	if err != nil || len(rest) != 0 || !bytes.Equal(v.Body, s.Tail) || v.Type != s.Type || v.NoCount != s.NoCount || v.ClientMsgID != s.ClientMsgID || !bytes.Equal(v.Content, s.Content) {
		t.Fatalf("stored %+v, sent %+v, %v", v, s, err)
	}
	if err := message.validate(v.Raw); err != nil {
		t.Fatalf("a stored message is refused by its reader: %v", err)
	}
	target := appendBytes(nil, fieldToUser, string(s.ToUser))
	if s.ToUser == "" {
		target = appendBytes(nil, fieldConversation, string(s.Conversation[:]))
	}
	if err := DecodeSend(&again, append(appendVarint(target, fieldSeenSeq, s.SeenSeq), s.Tail...), &DefaultLimits); err != nil {
		t.Fatalf("sent again: %v", err)
	}
	if again.BodyHash != s.BodyHash || !bytes.Equal(again.Tail, s.Tail) || again.ToUser != s.ToUser || again.Conversation != s.Conversation || again.SeenSeq != s.SeenSeq {
		t.Fatalf("sent again %+v, first %+v", again, s)
	}
	gen := new(wire.Send)
	if err := gen.Unmarshal(body); err != nil {
		t.Fatalf("the generated codec doesn't read it: %v", err)
	}
	if gen.Content != string(s.Content) || gen.MsgType != s.Type || gen.ToUserId != string(s.ToUser) || gen.NoCount != s.NoCount || len(gen.Mentions) != len(s.Mentions) {
		t.Fatalf("the generated codec reads %+v, not %+v", gen, s)
	}
}

func checkMessages(t *testing.T, messages []byte) {
	for len(messages) > 0 {
		v, rest, err := NextMessage(messages)
		if err != nil {
			return
		}
		if len(rest) >= len(messages) || len(v.Body) > len(v.Raw) || !bytes.HasSuffix(v.Raw, v.Body) {
			t.Fatalf("message %+v", v)
		}
		messages = rest
	}
}

// checkGenerated reads what is valid with the generated codec and writes it again: the
// JSON form stays the same.
func checkGenerated(t *testing.T, fr frame.Frame, m Body) {
	if err := m.Unmarshal(fr.Body); err != nil {
		t.Fatalf("the generated codec doesn't read it: %v", err)
	}
	b, err := m.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	before, err := ToJSON(fr)
	if err != nil {
		t.Fatal(err)
	}
	fr.Body = b
	if after, err := ToJSON(fr); err != nil || !bytes.Equal(before, after) {
		t.Fatalf("written by the generated codec\n%s, want\n%s (%v)", after, before, err)
	}
}

// checkJSON reads one object, and holds that frame and text give each other.
func checkJSON(t *testing.T, text []byte) {
	b, err := FromJSON(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	fr, n, err := frame.Parse(b, 1<<28)
	if err != nil || n != len(b) {
		t.Fatalf("%s: frame of %d bytes, %d read, %v", text, len(b), n, err)
	}
	again, err := ToJSON(fr)
	if err != nil || !bytes.Equal(again, text) {
		t.Fatalf("%s there and back is\n%s (%v)", text, again, err)
	}
	if b2, err := FromJSON(again); err != nil || !bytes.Equal(b2, b) {
		t.Fatalf("%s gives %x and then %x (%v)", text, b, b2, err)
	}
}

// FuzzJSON gives any text to FromJSON. What it takes is a frame whose JSON form is stable.
func FuzzJSON(f *testing.F) {
	seedFrames(f, func(_ frame.Frame, texts []json.RawMessage) {
		for _, text := range texts {
			f.Add([]byte(text))
		}
	})
	f.Add([]byte(`{"type":"send","req_id":"7","data":{"msg_type":"1","content":"\ud800","extra":[1,{}],"mentions":null}}`))
	f.Add([]byte(`{"type":"request","data":{"method":99,"body":"AQID"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := FromJSON(text)
		if err != nil {
			return
		}
		fr, n, err := frame.Parse(b, 1<<28)
		if err != nil || n != len(b) {
			t.Fatalf("frame of %d bytes, %d read, %v", len(b), n, err)
		}
		form, err := ToJSON(fr)
		if err != nil {
			t.Fatalf("%x has no JSON form: %v", b, err)
		}
		checkJSON(t, form)
	})
}
