package gochat

import (
	"context"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// What others see of a draft, with chunks lost, doubled, late and hostile.
func TestDraftsOfOthers(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	raw := func(data []byte) {
		p.body(frame.Signal, 0, 0, &wire.Signal{ConversationId: ab[:], Kind: packet.SignalChunk, SenderId: "bob", SenderDevice: "b", Data: data})
	}
	chunk := func(n, at uint64, text string) {
		raw(packet.AppendChunk(nil, packet.Chunk{Draft: n, Offset: at, Text: text}))
	}
	drafts := func(want ...string) {
		t.Helper()
		r.wait(t, "drafts "+strings.Join(want, ", "), func(events []Event) bool {
			var got []string
			for _, e := range events {
				if d, ok := e.(DraftChanged); ok && d.Sender == bob && d.Device == "b" && d.Conversation == ab {
					got = append(got, d.Text)
				}
			}
			return strings.Join(got, "|") == strings.Join(want, "|")
		})
	}
	chunk(1, 0, "Hel")
	chunk(1, 3, "lo 世")
	raw([]byte{0xff}) // nonsense
	chunk(1, 100, "beyond a hole")
	chunk(1, 8, "cut within a character") // 世 begins at 6
	chunk(1, 6, "you")
	chunk(1, 0, "Bye")
	chunk(2, 5, "the beginning is lost")
	chunk(2, 0, strings.Repeat("x", 4000))
	for i := range uint64(20) { // too long a draft ends growing
		chunk(2, 4000*(i+1), strings.Repeat("x", 4000))
	}
	want := []string{"Hel", "Hello 世", "Hello you", "Bye"}
	for i := 1; i <= maxDraftText/4000; i++ {
		want = append(want, strings.Repeat("x", 4000*i))
	}
	drafts(want...)
	p.deliver(1) // bob's message: what comes late of the draft is beyond a hole
	r.waitTexts(t, "m1")
	chunk(2, 4000, "late")
	chunk(3, 0, "a new one")
	drafts(append(want, "a new one")...)
}

func TestWritingADraft(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	waitEvent[Connected](t, r)
	next := func() packet.Chunk {
		t.Helper()
		m, err := packet.DecodeSignal(p.expect(frame.Signal).Body)
		if err != nil || m.Kind != packet.SignalChunk || m.ToUserId != "bob" {
			t.Fatalf("%+v, %v", m, err)
		}
		ch, cerr := packet.DecodeChunk(m.Data)
		if cerr != nil {
			t.Fatal(cerr)
		}
		return ch
	}
	d := c.NewDraft(ToUser(bob))
	long := strings.Repeat("世界", 1000)
	for _, text := range []string{"Hello", "", long} {
		if err := d.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	first := next()
	if first.Offset != 0 || first.Text != "Hello" {
		t.Errorf("%+v", first)
	}
	got := ""
	for len(got) < len(long) {
		ch := next()
		if ch.Draft != first.Draft || ch.Offset != uint64(5+len(got)) {
			t.Fatalf("draft %d at %d, want %d at %d", ch.Draft, ch.Offset, first.Draft, 5+len(got))
		}
		got += ch.Text
	}
	if got != long {
		t.Error("the text is another one")
	}
	if err := d.Rewrite(2, "y"); err != nil {
		t.Fatal(err)
	}
	if ch := next(); ch.Offset != 2 || ch.Text != "y" {
		t.Errorf("%+v", ch)
	}
	if err := d.Rewrite(-1, ""); err != nil {
		t.Fatal(err)
	}
	if ch := next(); ch.Offset != 0 || ch.Text != "" {
		t.Errorf("%+v", ch)
	}
	if err := c.NewDraft(ToUser(bob)).Write("another"); err != nil {
		t.Fatal(err)
	}
	if ch := next(); ch.Draft <= first.Draft {
		t.Errorf("draft %d after %d", ch.Draft, first.Draft)
	}
}

// The server is told of the background at once, and again with every connection.
func TestBackground(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, hello := s.welcome(nil)
	if hello.Background {
		t.Error("in the background from the beginning")
	}
	told := make(chan error, 1)
	go func() { told <- c.SetBackground(context.Background(), true) }()
	f := p.expect(frame.Request)
	m, inner, err := packet.DecodeRequest(f.Body)
	var req wire.BackgroundRequest
	if err != nil || m != packet.MethodBackground || packet.DecodeMethod(m, inner, &req) != nil || !req.Background {
		t.Fatalf("%v %+v, %v", m, &req, err)
	}
	b, aerr := packet.AppendResponse(nil, f.ReqID, false, m, new(wire.BackgroundResponse))
	if aerr != nil {
		t.Fatal(aerr)
	}
	p.write(b)
	if err := <-told; err != nil {
		t.Fatal(err)
	}
	p.conn.Close()
	if _, hello = s.welcome(nil); !hello.Background {
		t.Error("not told again")
	}
}
