package msgstore_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// The codecs of the hot path allocate nothing beyond what their destination grows by.
func TestAllocations(t *testing.T) {
	h := Head{LastSeq: 1000, FirstSeq: 1, Countable: 900, LastTime: testNow, HandedSeq: 999, IDMax: testNow, PreviewSeq: 1000, PreviewType: 1,
		PreviewSender: "alice", PreviewText: []byte(longText)}
	raw := h.Append(nil)
	messages := bytes.Repeat(packet.AppendMessage(nil, 1000, 1, "alice", makeTail(id.ClientMsgID{}, 1, []byte(longText))), 8)
	size := len(messages) / 8
	segment := Segment{FirstSeq: 993, Count: 8, BaseCountable: 892, Countable: []byte{0xFF}, Messages: messages}
	row := segment.Append(nil)
	entries := make([]IDEntry, 8)
	for i := range entries {
		entries[i] = IDEntry{Hash: uint64(i), Seq: uint64(993 + i), Body: 7}
	}
	idRow := AppendIDs(nil, entries)
	buf := make([]byte, 0, 8192)
	var b SegmentBuilder
	var ids IDBuilder
	var tx kv.Tx
	timeline := NewTimeline(nil, Keys{})
	keys := Keys{}
	cid := id.NewClientMsgID(testNow)
	sum := uint64(0)
	for _, c := range []struct {
		name string
		most float64
		run  func()
	}{
		{"Head.Append", 0, func() { buf = h.Append(buf[:0]) }},
		{"ParseHead", 1, func() { h, _ := ParseHead(raw); sum += h.LastSeq }}, // the sender's name
		{"Segment.Append", 0, func() { buf = segment.Append(buf[:0]) }},
		{"ParseSegment", 0, func() { s, _ := ParseSegment(row); sum += s.FirstSeq }},
		{"AppendIDs", 0, func() { buf = AppendIDs(buf[:0], entries) }},
		{"ParseIDs", 0, func() { _ = ParseIDs(idRow, func(e IDEntry) { sum += e.Hash }) }},
		{"IDHash", 0, func() { sum += IDHash("alice", cid) }},
		{"Keys", 0, func() {
			buf = keys.Head(buf[:0], conv)
			buf = keys.Segment(buf[:0], conv, 7)
			buf = keys.IDs(buf[:0], conv, 7, 7)
			buf = keys.BusRefs(buf[:0], 0)
		}},
		{"an append", 0, func() {
			b.Reset(993, 892)
			ids.Reset()
			for i := range 8 {
				b.Add(size, true)
				ids.Add(testNow, entries[i])
			}
			tx.Reset()
			timeline.Append(&tx, conv, raw, &h, b.Segments(messages), ids.Rows())
		}},
	} {
		c.run()
		if n := testing.AllocsPerRun(100, c.run); n > c.most {
			t.Errorf("%s: %v allocations, want %v", c.name, n, c.most)
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	h := Head{LastSeq: 1000, FirstSeq: 1, Countable: 900, LastTime: testNow, HandedSeq: 999, IDMax: testNow, PreviewSeq: 1000, PreviewType: 1,
		PreviewSender: "alice", PreviewText: []byte(strings.Repeat("x", 100))}
	raw := h.Append(nil)
	message := packet.AppendMessage(nil, 1000, 1, "alice", makeTail(id.ClientMsgID{}, 1, bytes.Repeat([]byte("x"), 100)))
	for _, k := range []int{1, 8, 32} {
		b.Run(fmt.Sprint(k), func(b *testing.B) {
			messages := bytes.Repeat(message, k)
			var segs SegmentBuilder
			var ids IDBuilder
			var tx kv.Tx
			timeline := NewTimeline(nil, Keys{})
			b.ReportAllocs()
			for b.Loop() {
				segs.Reset(993, 892)
				ids.Reset()
				for i := range k {
					segs.Add(len(message), true)
					ids.Add(testNow, IDEntry{Hash: 7, Seq: uint64(993 + i), Body: 7})
				}
				tx.Reset()
				timeline.Append(&tx, conv, raw, &h, segs.Segments(messages), ids.Rows())
			}
		})
	}
}

func BenchmarkRows(b *testing.B) {
	h := Head{LastSeq: 1000, FirstSeq: 1, Countable: 900, LastTime: testNow, HandedSeq: 999, IDMax: testNow, PreviewSeq: 1000, PreviewType: 1,
		PreviewSender: "alice", PreviewText: []byte(strings.Repeat("x", 100))}
	raw := h.Append(nil)
	message := packet.AppendMessage(nil, 1000, 1, "alice", makeTail(id.ClientMsgID{}, 1, bytes.Repeat([]byte("x"), 100)))
	segment := Segment{FirstSeq: 993, Count: 8, BaseCountable: 892, Countable: []byte{0xFF}, Messages: bytes.Repeat(message, 8)}
	row := segment.Append(nil)
	es := make([]IDEntry, 8)
	for i := range es {
		es[i] = IDEntry{Hash: 1, Seq: uint64(993 + i), Body: 7}
	}
	idRow := AppendIDs(nil, es)
	buf := make([]byte, 0, 8192)
	sum := uint64(0)
	for _, c := range []struct {
		name string
		run  func()
	}{
		{"HeadAppend", func() { buf = h.Append(buf[:0]) }},
		{"HeadParse", func() { h, _ := ParseHead(raw); sum += h.LastSeq }},
		{"SegmentAppend8", func() { buf = segment.Append(buf[:0]) }},
		{"SegmentParse8", func() { s, _ := ParseSegment(row); sum += s.FirstSeq }},
		{"IDsAppend8", func() { buf = AppendIDs(buf[:0], es) }},
		{"IDsParse8", func() { _ = ParseIDs(idRow, func(e IDEntry) { sum += e.Hash }) }},
		{"IDHash", func() { sum += IDHash("alice", id.ClientMsgID{}) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.run()
			}
		})
	}
}
