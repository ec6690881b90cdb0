package id

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func TestUserIDValid(t *testing.T) {
	for s, want := range map[string]bool{
		"a": true, "1001": true, "alice@example.org": true, "世界": true, "auth0|5f7c": true, "with space": true,
		strings.Repeat("a", 64): true, strings.Repeat("é", 32): true,
		"": false, strings.Repeat("a", 65): false, strings.Repeat("é", 33): false, "a\x00b": false, "a\n": false,
		"\x7f": false, "a\u0085": false, "\xff": false, "a\xed\xa0\x80": false,
	} {
		if UserID(s).Valid() != want || DeviceID(s).Valid() != want {
			t.Errorf("%q: valid is not %v", s, want)
		}
	}
}

func TestConversationIDs(t *testing.T) {
	a, b := Direct("1001", "1002"), Direct("1002", "1001")
	if a != b || a.Kind() != KindDirect || !a.Valid() || a.IsZero() {
		t.Errorf("Direct: %v, %v", a, b)
	}
	// The length before each part keeps ("ab", "c") and ("a", "bc") apart.
	if Direct("ab", "c") == Direct("a", "bc") {
		t.Error("two pairs of users have one conversation")
	}
	if s := Self("1001"); s.Kind() != KindSelf || s == Self("1002") {
		t.Errorf("Self: %v", s)
	}
	if g, r := Named(KindGroup, "x"), Named(KindRoom, "x"); g.Kind() != KindGroup || r.Kind() != KindRoom || bytes.Equal(g[1:], r[1:]) {
		t.Errorf("Named: %v, %v", g, r)
	}
	if g := NewGroup(); g.Kind() != KindGroup || g == NewGroup() {
		t.Error("NewGroup is not random")
	}
	if (ConversationID{}).Valid() || (ConversationID{5}).Valid() || !(ConversationID{}).IsZero() {
		t.Error("an id of no kind is valid")
	}

	got, err := ParseConversation(a.String())
	if err != nil || got != a {
		t.Errorf("ParseConversation: %v, %v", got, err)
	}
	if got, err := ParseConversation(strings.ToUpper(a.String())); err != nil || got != a {
		t.Errorf("ParseConversation of capitals: %v, %v", got, err)
	}
	for _, s := range []string{"", "01", strings.Repeat("g", 32), a.String() + "00"} {
		if _, err := ParseConversation(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseConversation(%q): %v", s, err)
		}
	}
	if got, err := ConversationFromBytes(a[:]); err != nil || got != a {
		t.Errorf("ConversationFromBytes: %v, %v", got, err)
	}
	if _, err := ConversationFromBytes(a[:15]); !errors.Is(err, ErrInvalid) {
		t.Errorf("ConversationFromBytes of 15 bytes: %v", err)
	}
}

func TestSlotsSpread(t *testing.T) {
	seen := map[Slot]int{}
	for i := range 40960 {
		s := NewGroup().Slot()
		if s >= SlotCount {
			t.Fatalf("slot %d", s)
		}
		seen[s]++
		if u := UserID(strings.Repeat("u", i%64+1)).Slot(); u >= SlotCount {
			t.Fatalf("slot %d", u)
		}
	}
	if len(seen) < SlotCount*95/100 {
		t.Errorf("40960 conversations fill %d slots", len(seen))
	}
}

func TestClientMsgID(t *testing.T) {
	const ms = 1706284800123
	c := NewClientMsgID(ms)
	if !c.Valid() || c.UnixMilli() != ms || c == NewClientMsgID(ms) {
		t.Errorf("NewClientMsgID: %v", c)
	}
	got, err := ParseClientMsgID(c.String())
	if err != nil || got != c {
		t.Errorf("ParseClientMsgID: %v, %v", got, err)
	}
	for _, s := range []string{"", c.String()[:35], strings.ReplaceAll(c.String(), "-", "0"), "g" + c.String()[1:]} {
		if _, err := ParseClientMsgID(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParseClientMsgID(%q): %v", s, err)
		}
	}
	v4, ncs := c, c
	v4[6], ncs[8] = 0x40|v4[6]&0xF, 0x10
	if v4.Valid() || ncs.Valid() || (ClientMsgID{}).Valid() {
		t.Error("what is no UUIDv7 is valid")
	}
}

func TestMessageID(t *testing.T) {
	m := MakeMessageID(Epoch+5, 3, 9)
	if m != 5<<22|3<<12|9 || m.UnixMilli() != Epoch+5 {
		t.Errorf("%d of %d", m, m.UnixMilli())
	}
	if last := MakeMessageID(Epoch+1<<41-1, MaxWorker, 0xFFF); last>>63 != 0 || last != 1<<63-1 {
		t.Errorf("the last id is %x", uint64(last))
	}
	if MakeMessageID(Epoch+1, 0, 0) <= MakeMessageID(Epoch, MaxWorker, 0xFFF) {
		t.Error("ids are not ordered by time")
	}
}
