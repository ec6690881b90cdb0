package rocketmq

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math"
	"reflect"
	"testing"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
)

var somewhere = id.ConversationID{0: byte(id.KindGroup), 15: 9}

func TestPack(t *testing.T) {
	evs := []bus.Event{
		{Conversation: somewhere, Epoch: 1, FirstSeq: 1, LastSeq: 1, Messages: []byte("one"), Origin: 5},
		{Conversation: id.ConversationID{0: byte(id.KindDirect)}, Epoch: math.MaxUint64, FirstSeq: 7, LastSeq: math.MaxUint64, Messages: []byte("many"), Origin: math.MaxUint64},
	}
	h := packHeader{Mark{math.MaxUint64, 77, 1 << 40}, true}
	b := appendPackHeader(nil, &h)
	for i := range evs {
		b = appendEvent(b, &evs[i], 1000)
	}
	got, back, err := parsePack(b, nil)
	if err != nil || got != h || !reflect.DeepEqual(back, evs) {
		t.Fatalf("%+v, %+v, %v", got, back, err)
	}
	if len(b) > 2+30+len("onemany")+2*eventRoom {
		t.Errorf("%d bytes are more than eventRoom says", len(b))
	}
	for n := range b { // cut anywhere it is refused, or is a pack of fewer events
		_, part, err := parsePack(b[:n], nil)
		if err == nil && len(part) >= len(evs) {
			t.Errorf("the first %d of %d bytes are taken for all", n, len(b))
		}
		if err != nil && !errors.Is(err, errPack) {
			t.Errorf("%v", err)
		}
	}

	big := bus.Event{Conversation: somewhere, Epoch: 1, FirstSeq: 3, LastSeq: 9, Messages: bytes.Repeat([]byte("x"), 100)}
	_, back, err = parsePack(appendEvent(appendPackHeader(nil, &h), &big, 99), nil)
	if err != nil || len(back) != 1 || back[0].Messages != nil || back[0].LastSeq != 9 {
		t.Errorf("an event that is too big: %+v, %v", back, err)
	}
}

// What is in brokers is read by the releases to come.
func TestPackGolden(t *testing.T) {
	h := packHeader{Mark{300, 3, 2}, true}
	ev := bus.Event{Conversation: somewhere, Epoch: 2, FirstSeq: 130, LastSeq: 131, Messages: []byte("mm"), Origin: 1}
	const golden = "0101ac020302" + "02000000000000000000000000000009" + "02" + "8201" + "01" + "01" + "026d6d"
	if got := hex.EncodeToString(appendEvent(appendPackHeader(nil, &h), &ev, 10)); got != golden {
		t.Errorf("a pack is\n%s, was\n%s", got, golden)
	}
}

func TestPackRefuses(t *testing.T) {
	head := appendPackHeader(nil, &packHeader{Mark: Mark{1, 1, 1}})
	for name, b := range map[string][]byte{
		"nothing":         {},
		"another version": append([]byte{2}, head[1:]...),
		"an unknown flag": append([]byte{1, 2}, head[2:]...),
		"seq 0":           appendEvent(head[:len(head):len(head)], &bus.Event{Conversation: somewhere, Epoch: 1}, 0),
		"no conversation": appendEvent(head[:len(head):len(head)], &bus.Event{FirstSeq: 1, LastSeq: 1}, 0),
		"beyond the end":  appendEvent(head[:len(head):len(head)], &bus.Event{Conversation: somewhere, FirstSeq: 9, LastSeq: 8}, 0),
	} {
		if _, _, err := parsePack(b, nil); !errors.Is(err, errPack) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzPack(f *testing.F) {
	h := packHeader{Mark{300, 3, 2}, true}
	f.Add(appendEvent(appendPackHeader(nil, &h), &bus.Event{Conversation: somewhere, FirstSeq: 1, LastSeq: 2, Messages: []byte("m")}, 10))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, evs, err := parsePack(b, nil)
		if err != nil {
			return
		}
		again := appendPackHeader(nil, &h)
		for i := range evs {
			again = appendEvent(again, &evs[i], len(b))
		}
		h2, evs2, err := parsePack(again, nil)
		if err != nil || h2 != h || !reflect.DeepEqual(evs, evs2) {
			t.Fatalf("%x is %+v, %+v and then %+v, %+v, %v", b, h, evs, h2, evs2, err)
		}
	})
}
