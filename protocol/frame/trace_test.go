package frame_test

import (
	"bytes"
	"testing"

	"github.com/gochat-im/gochat/protocol/frame"
)

// A trace id put into a frame gives the frame that would have been written with it, whatever
// lies before it and however long its length is.
func TestAddTrace(t *testing.T) {
	trace := [16]byte{1, 2, 15: 16}
	for _, size := range []int{0, 1, 100, 108, 109, 110, 124, 125, 16300, 16364, 16384, 70000} {
		for _, flags := range []frame.Flags{0, frame.FlagRequestID, frame.FlagRequestID | frame.FlagMore} {
			for _, req := range []uint32{0, 7, 300, 1<<32 - 1} {
				body := bytes.Repeat([]byte{0xAB}, size)
				want := frame.AppendTraced([]byte("before"), frame.Response, flags, req, trace, body)
				got := frame.AddTrace(frame.Append([]byte("before"), frame.Response, flags, req, body), len("before"), trace)
				if !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, flags %x, request %d: have %x…, want %x…", size, flags, req, got[:min(len(got), 48)], want[:min(len(want), 48)])
				}
			}
		}
	}
}
