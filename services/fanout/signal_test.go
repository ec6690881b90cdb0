package fanout

import (
	"bytes"
	"errors"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func TestSignal(t *testing.T) {
	w := chat()
	h := w.handler(t, func(c *Config) { c.MaxSignal = 10 })
	from := &packet.Origin{User: "alice", Device: "phone", Conn: 1}
	for _, tc := range []struct {
		name string
		s    wire.Signal
		want code.Code
	}{
		{"by conversation", wire.Signal{ConversationId: direct[:], Kind: 1, Data: []byte("x")}, 0},
		{"by user", wire.Signal{ToUserId: "bob", Kind: 1, Data: []byte("x"), SenderId: "mallory", SenderDevice: "none"}, 0},
		{"by nothing", wire.Signal{Kind: 1}, code.BadRequest},
		{"by both", wire.Signal{ConversationId: direct[:], ToUserId: "bob", Kind: 1}, code.BadRequest},
		{"a bad id", wire.Signal{ConversationId: []byte("abc"), Kind: 1}, code.BadRequest},
		{"a bad kind of id", wire.Signal{ConversationId: make([]byte, 16), Kind: 1}, code.BadRequest},
		{"a bad user", wire.Signal{ToUserId: "\xff", Kind: 1}, code.BadRequest},
		{"no kind", wire.Signal{ToUserId: "bob"}, code.BadRequest},
		{"the server's", wire.Signal{ToUserId: "bob", Kind: 3}, code.BadRequest},
		{"the server's, too", wire.Signal{ToUserId: "bob", Kind: 5}, code.BadRequest},
		{"too large", wire.Signal{ToUserId: "bob", Kind: 4, Data: make([]byte, 11)}, code.ContentTooLarge},
		{"a conversation that isn't there", wire.Signal{ToUserId: "carol", Kind: 1}, code.NoSuchConversation},
	} {
		err := h.Signal(t.Context(), from, &tc.s)
		if tc.want != 0 {
			if err == nil || err.Code != tc.want {
				t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
			}
			if len(w.got) > 0 {
				t.Errorf("%s: it was delivered", tc.name)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		if len(w.got[1]) > 0 || len(w.got[2]) == 0 || !bytes.Equal(w.got[2], w.got[3]) {
			t.Fatalf("%s: delivered %v", tc.name, w.got)
		}
		f, n, perr := frame.Parse(w.got[3], frame.DefaultMax)
		if perr != nil || n != len(w.got[3]) || f.Type != frame.Signal || f.Flags != 0 {
			t.Fatalf("%s: %+v %v", tc.name, f, perr)
		}
		var got wire.Signal
		if err := got.Unmarshal(f.Body); err != nil {
			t.Fatal(err)
		}
		if got.SenderId != "alice" || got.SenderDevice != "phone" || got.Kind != 1 || string(got.Data) != "x" || got.ToUserId != "" || !bytes.Equal(got.ConversationId, direct[:]) {
			t.Fatalf("%s: %+v", tc.name, &got)
		}
		clear(w.got)
	}
	if err := h.Signal(t.Context(), &packet.Origin{User: "mallory", Conn: 7}, &wire.Signal{ConversationId: direct[:], Kind: 1}); err == nil || err.Code != code.NoSuchConversation {
		t.Errorf("a stranger: %v", err)
	}
	w.fail = errors.New("no members")
	if err := h.Signal(t.Context(), from, &wire.Signal{ToUserId: "bob", Kind: 1}); err == nil || err.Code != code.Unavailable {
		t.Errorf("members away: %v", err)
	}
	if h.Stats().Signals != 2 {
		t.Errorf("%+v", h.Stats())
	}
}

// A push goes to one user's connections, whoever else is in the conversation.
func TestPush(t *testing.T) {
	w := chat()
	h := w.handler(t)
	s := &wire.Signal{ConversationId: direct[:], Kind: packet.SignalCursors, Data: []byte("x"), SenderId: "alice"}
	for _, tc := range []struct {
		user    id.UserID
		but     uint64
		reached []uint64
	}{{"alice", 0, []uint64{1, 2}}, {"alice", 1, []uint64{2}}, {"bob", 0, []uint64{3}}, {"bob", 3, nil}, {"nobody", 0, nil}} {
		clear(w.got)
		if h.Reaches(tc.user, tc.but) != (len(tc.reached) > 0) {
			t.Errorf("%s but %d: reached or not", tc.user, tc.but)
		}
		h.Push(tc.user, tc.but, s)
		if len(w.got) != len(tc.reached) {
			t.Errorf("%s but %d: delivered to %v", tc.user, tc.but, w.got)
		}
		for _, conn := range tc.reached {
			f, n, err := frame.Parse(w.got[conn], frame.DefaultMax)
			if err != nil || n != len(w.got[conn]) || f.Type != frame.Signal || f.Flags != 0 {
				t.Fatalf("%s: %+v %v", tc.user, f, err)
			}
			got, cerr := packet.DecodeSignal(f.Body)
			if cerr != nil || got.SenderId != "alice" || got.Kind != 3 || string(got.Data) != "x" || !bytes.Equal(got.ConversationId, direct[:]) {
				t.Fatalf("%s: %+v %v", tc.user, got, cerr)
			}
		}
	}
}
