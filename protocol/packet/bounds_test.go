package packet

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

// allocated returns how many bytes fn allocates.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Lengths that a body claims cost nothing: no decoder makes room before it has seen the bytes.
func TestHostileLengthsAllocateNothing(t *testing.T) {
	huge := []byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}
	for num := uint64(1); num <= 34; num++ {
		body := append(binary.AppendUvarint(nil, num<<3|wtBytes), huge...)
		for typ := frame.Connect; typ.Known(); typ++ {
			f := frame.Frame{Type: typ, Body: body}
			n := allocated(func() {
				_ = Validate(&f, &DefaultLimits)
				_, _ = ToJSON(f)
				_, _, _, _ = DecodeDeliver(body)
				_, _, _ = DecodeSynced(body)
				_ = DecodeRecvAck(body, func(id.ConversationID, uint64) {})
				_, _, _ = NextMessage(body)
			})
			if n > 16<<10 {
				t.Fatalf("%v, field %d: %d bytes allocated", typ, num, n)
			}
		}
	}
}

// The costliest bodies that fit a frame cost a small multiple of it.
func TestAllocationsFollowTheInput(t *testing.T) {
	const size = frame.DefaultMax
	entry := AppendConversationSeq(nil, testConv, 1)
	mention := []byte{fieldMentions<<3 | wtBytes, 1, 'a'}
	send := marshal(t, &wire.Send{ToUserId: "1002", ClientMsgId: testCMID[:], MsgType: 1, Content: "x"})
	fill := func(element []byte) []byte { return bytes.Repeat(element, size/len(element)) }
	for name, tc := range map[string]struct {
		input []byte
		fn    func(b []byte)
	}{
		"hint":               {fill(entry), func(b []byte) { _, _ = DecodeHint(b) }},
		"recvack":            {fill(entry), func(b []byte) { _ = DecodeRecvAck(b, func(id.ConversationID, uint64) {}) }},
		"sync":               {fill(entry), func(b []byte) { _, _ = DecodeSync(b) }},
		"connack":            {fill(append([]byte{14<<3 | wtBytes, 18}, entry[2:20]...)), func(b []byte) { _, _ = DecodeConnack(b) }},
		"send, mentions":     {append(fill(mention), send...), func(b []byte) { _ = DecodeSend(new(Send), b, &DefaultLimits) }},
		"send, disorder":     {append(fill([]byte{10 << 3, 1}), send...), func(b []byte) { _ = DecodeSend(new(Send), b, &DefaultLimits) }},
		"send, unknown":      {append(bytes.Clone(send), fill([]byte{0x92, 3, 0})...), func(b []byte) { _ = DecodeSend(new(Send), b, &DefaultLimits) }},
		"deliver, apart":     {fill(append(append([]byte{tagMessages, 2, 8, 1}, 1<<3|wtBytes, 16), testConv[:]...)), func(b []byte) { _, _, _, _ = DecodeDeliver(b) }},
		"json, long list":    {append(append([]byte(`{"type":"recvack","data":{"acks":[`), fill([]byte("{},"))...), "{}]}}"...), func(b []byte) { _, _ = FromJSON(b) }},
		"json, deep nesting": {append([]byte(`{"type":"ping","x":`), fill([]byte("["))...), func(b []byte) { _, _ = FromJSON(b) }},
	} {
		limit := uint64(32)
		if strings.HasPrefix(name, "json") { // the two bytes of {} are an element
			limit = 64
		}
		if n := allocated(func() { tc.fn(tc.input) }); n > limit*uint64(len(tc.input)) {
			t.Errorf("%s: %d bytes allocated for %d", name, n, len(tc.input))
		} else {
			t.Logf("%s: %.1f times the input", name, float64(n)/float64(len(tc.input)))
		}
	}
}
