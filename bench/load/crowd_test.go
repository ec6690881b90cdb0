package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func TestUsersAreSpreadOverEdges(t *testing.T) {
	at := func(port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	}
	target := Target{Addr: at(1), Also: []netip.AddrPort{at(2), at(3)}}
	var ports []uint16
	for i := range 7 {
		ports = append(ports, target.edge(i).Port())
	}
	if want := []uint16{1, 2, 3, 1, 2, 3, 1}; !slices.Equal(ports, want) {
		t.Errorf("%v, want %v", ports, want)
	}
	if one := (Target{Addr: at(1)}); one.edge(5) != at(1) {
		t.Errorf("the only one is %v", one.edge(5))
	}
}

// messagesOf are what a DELIVER carries: of the given seqs, which count from base.
func messagesOf(t *testing.T, base uint64, body int, seqs ...uint64) (list []byte) {
	t.Helper()
	for _, seq := range seqs {
		text := make([]byte, body)
		verify.FillBody(text, 0, seq-base)
		list = appendMessage(t, list, seq, string(text))
	}
	return list
}

func TestOnlookerCounts(t *testing.T) {
	var out bytes.Buffer
	const base, body = 10, 32
	r := &onlookers{Onlookers: Onlookers{Count: 2, Body: body, Base: base, Conversation: id.Direct("a", "b")}, have: map[uint64]int{}, out: json.NewEncoder(&out)}
	r.all = make([]onlooker, 2)
	for i := range r.all {
		r.all[i].r, r.all[i].mark = r, base
	}
	take := func(i int, seqs ...uint64) {
		t.Helper()
		if err := r.all[i].messages(messagesOf(t, base, body, seqs...), &r.copies.Delivered, true); err != nil {
			t.Fatal(err)
		}
	}
	take(0, 9, 10) // from before
	take(0, 11)
	if out.Len() != 0 {
		t.Errorf("one of two has it, and it is told: %s", &out)
	}
	take(1, 11, 12)
	take(1, 12) // again
	take(0, 13) // 12 is missing
	if r.copies != (Copies{Delivered: 3, Repeats: 1, Gaps: 1}) || !r.all[0].pulling {
		t.Errorf("%+v", r.copies)
	}
	if err := r.all[0].messages(messagesOf(t, base, body, 12, 13), &r.copies.Pulled, false); err != nil {
		t.Fatal(err)
	}
	if err := r.all[1].messages(appendMessage(t, nil, 13, "something else"), &r.copies.Delivered, true); err != nil {
		t.Fatal(err)
	}
	if r.copies != (Copies{Delivered: 4, Pulled: 2, Repeats: 1, Gaps: 1, Changed: 1}) {
		t.Errorf("%+v", r.copies)
	}
	var told []uint64
	for d := json.NewDecoder(&out); ; {
		var s sighting
		if err := d.Decode(&s); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		told = append(told, s.Seq)
	}
	if len(told) != 3 || told[0] != 11 || told[1] != 12 || told[2] != 13 {
		t.Errorf("told of %v, want 11, 12, 13", told)
	}
}

func TestOnlookersThatCannotBegin(t *testing.T) {
	none := func(string, string) (func(string) (string, error), error) { return nil, errors.New("no such key") }
	for _, in := range []string{"", "nonsense\n", "{}\n"} {
		if err := RunOnlookers(strings.NewReader(in), io.Discard, none); err == nil {
			t.Errorf("%q: they began", in)
		}
	}
}

// appendMessage adds a message as a server stores it.
func appendMessage(t *testing.T, list []byte, seq uint64, content string) []byte {
	t.Helper()
	var mid [16]byte
	verify.PutID(&mid, 1, 1, 0, seq)
	body, err := (&wire.Send{ClientMsgId: mid[:], ToUserId: "b", MsgType: 1, Content: content}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	var s packet.Send
	if err := packet.DecodeSend(&s, body, &packet.DefaultLimits); err != nil {
		t.Fatal(err)
	}
	return packet.AppendMessage(list, seq, id.MessageID(seq), "a", s.Tail)
}
