package packet

import (
	"strings"
	"testing"
)

func TestChunks(t *testing.T) {
	for _, c := range []Chunk{{}, {1, 0, "写"}, {1 << 60, 1<<64 - 1, strings.Repeat("x", MaxChunk)}} {
		b := AppendChunk(nil, c)
		got, err := DecodeChunk(b)
		if err != nil || got != c {
			t.Errorf("%+v became %+v, %v", c, got, err)
		}
		if len(b) > 4096 {
			t.Errorf("%d bytes are more than a signal carries", len(b))
		}
	}
	for _, in := range []string{"", "\x01", "\x80", "\x01\x80", "\x01\x00\xff", strings.Repeat("\xff", 11)} {
		if c, err := DecodeChunk([]byte(in)); err == nil {
			t.Errorf("%q: %+v, want an error", in, c)
		}
	}
}

func FuzzChunk(f *testing.F) {
	f.Add(AppendChunk(nil, Chunk{7, 300, "写"}))
	f.Add([]byte{0x80, 0x80})
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := DecodeChunk(data)
		if err != nil {
			return
		}
		if again, err := DecodeChunk(AppendChunk(nil, c)); err != nil || again != c {
			t.Errorf("%+v became %+v, %v", c, again, err)
		}
	})
}
