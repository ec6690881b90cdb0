package packet

import (
	"bytes"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
)

func TestReplaceContent(t *testing.T) {
	id := bytes.Repeat([]byte{1}, 16)
	id[6], id[8] = 0x70, 0x80
	unknown := []byte{0xA2, 0x06, 1, 9} // field 100
	for name, tc := range map[string]struct {
		send    wire.Send
		content string
		want    code.Code // 0: it is replaced
	}{
		"longer":             {wire.Send{MsgType: 1, Content: "hi", Ext: []byte("x"), Mentions: []string{"bob"}}, strings.Repeat("好", 200), 0},
		"shorter":            {wire.Send{MsgType: 1, Content: strings.Repeat("x", 300), ReplyToSeq: 7}, "y", 0},
		"none before":        {wire.Send{MsgType: 1, Data: []byte("d")}, "now", 0},
		"nothing behind":     {wire.Send{MsgType: 1000}, "now", 0},
		"emptied, with data": {wire.Send{MsgType: 1, Content: "hi", Data: []byte("d")}, "", 0},
		"emptied, own type":  {wire.Send{MsgType: 1000, Content: "hi"}, "", 0},
		"emptied":            {wire.Send{MsgType: 1, Content: "hi", Ext: []byte("x")}, "", code.BadRequest},
		"no text":            {wire.Send{MsgType: 1, Content: "hi"}, "\xFF", code.InvalidUTF8},
		"too much":           {wire.Send{MsgType: 1, Content: "hi"}, strings.Repeat("x", HardMaxContent+1), code.ContentTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			tc.send.ToUserId, tc.send.ClientMsgId = "bob", id
			body, err := tc.send.Marshal(nil)
			if err != nil {
				t.Fatal(err)
			}
			body = append(body, unknown...)
			sent := bytes.Clone(body)
			var s Send
			if err := DecodeSend(&s, body, &DefaultLimits); err != nil {
				t.Fatal(err)
			}
			before := s
			if err := s.ReplaceContent(tc.content); tc.want != 0 {
				if err == nil || err.Code != tc.want || !bytes.Equal(s.Tail, before.Tail) || !bytes.Equal(s.Content, before.Content) {
					t.Fatalf("%v, want %v and nothing changed", err, tc.want)
				}
				return
			} else if err != nil {
				t.Fatal(err)
			}
			if string(s.Content) != tc.content || s.BodyHash != before.BodyHash || !bytes.Equal(body, sent) {
				t.Fatalf("content %q, hash %x of %x, body touched: %t", s.Content, s.BodyHash, before.BodyHash, !bytes.Equal(body, sent))
			}
			// The rest is as it was, the unknown field too.
			var got, want wire.Message
			if err := got.Unmarshal(s.Tail); err != nil {
				t.Fatal(err)
			}
			if err := want.Unmarshal(before.Tail); err != nil {
				t.Fatal(err)
			}
			want.Content = tc.content
			a, _ := got.Marshal(nil)
			b, _ := want.Marshal(nil)
			if !bytes.Equal(a, b) || !bytes.HasSuffix(s.Tail, unknown) {
				t.Fatalf("%x\nwant %x", a, b)
			}
			// It is what a client could have sent: in order, with nothing twice.
			var again Send
			if err := DecodeSend(&again, append([]byte{2<<3 | 2, 3, 'b', 'o', 'b'}, s.Tail...), &Limits{MaxContent: HardMaxContent, MaxExt: 1024, MaxMentions: 50}); err != nil || !bytes.Equal(again.Tail, s.Tail) {
				t.Fatalf("again: %v, %x\nwant %x", err, again.Tail, s.Tail)
			}
		})
	}
}
