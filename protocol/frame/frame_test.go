package frame

import (
	"bytes"
	"errors"
	"testing"

	"github.com/gochat-im/gochat/protocol/code"
)

var trace = [16]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}

func TestRoundTrip(t *testing.T) {
	for _, n := range []int{0, 1, 100, 125, 126, 127, 128, 16381, 16383, 70000} {
		body := bytes.Repeat([]byte{'b'}, n)
		for _, reqID := range []uint32{0, 1, 127, 128, 1 << 21, 1<<32 - 1} {
			for _, want := range []Frame{
				{Type: Send, Flags: FlagRequestID | FlagResend, ReqID: reqID, Body: body},
				{Type: Deliver, Flags: FlagNeverPull, Body: body},
				{Type: Request, Flags: FlagRequestID | FlagTrace, ReqID: reqID, Trace: trace, Body: body},
				{Type: 200, Flags: FlagTrace | 0xC0, Trace: trace, Body: body},
			} {
				var b []byte
				if want.Flags&FlagTrace != 0 {
					b = AppendTraced([]byte("x"), want.Type, want.Flags, want.ReqID, want.Trace, body)
				} else {
					b = Append([]byte("x"), want.Type, want.Flags, want.ReqID, body)
				}
				b = append(b, "next"...)
				got, size, err := Parse(b[1:], DefaultMax)
				if err != nil || size != len(b)-5 {
					t.Fatalf("%v with %d bytes: %d of %d, %v", want.Type, n, size, len(b)-5, err)
				}
				if got.Type != want.Type || got.Flags != want.Flags || got.ReqID != want.ReqID || got.Trace != want.Trace || !bytes.Equal(got.Body, body) {
					t.Fatalf("got %+v", got)
				}
				if cap(got.Body) != len(got.Body) {
					t.Fatal("an append to Body would overwrite the next frame")
				}
				for _, cut := range []int{0, 1, 2, size / 2, size - 1} {
					if _, m, err := Parse(b[1:1+cut], DefaultMax); m != 0 || err != nil {
						t.Fatalf("%d of %d bytes: %d, %v", cut, size, m, err)
					}
				}
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		in   []byte
		max  int
		want error
	}{
		"empty frame":          {[]byte{0}, 100, ErrLength},
		"no flags":             {[]byte{1, 13}, 100, ErrLength},
		"length not minimal":   {[]byte{0x82, 0, 13, 0}, 100, ErrLength},
		"too large":            {[]byte{101}, 100, ErrTooLarge},
		"too large, two bytes": {[]byte{0xFF, 0x7F}, 8191, ErrTooLarge},
		"length of five bytes": {[]byte{0xFF, 0xFF, 0xFF, 0xFF, 1}, HardMax, ErrTooLarge},
		"endless length":       {bytes.Repeat([]byte{0x80}, 20), HardMax, ErrTooLarge},
		"no request id":        {[]byte{2, 3, 1}, 100, ErrShort},
		"half a request id":    {[]byte{3, 3, 1, 0x80}, 100, ErrShort},
		"request id too long":  {[]byte{8, 3, 1, 0x80, 0x80, 0x80, 0x80, 0x80, 1}, 100, ErrRequestID},
		"request id, 33 bits":  {[]byte{7, 3, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F}, 100, ErrRequestID},
		"request id padded":    {[]byte{4, 3, 1, 0x81, 0}, 100, ErrRequestID},
		"half a trace id":      {[]byte{4, 3, 2, 1, 2}, 100, ErrShort},
		"compressed":           {[]byte{2, 5, 4}, 100, ErrCompressed},
	} {
		t.Run(name, func(t *testing.T) {
			_, n, err := Parse(tc.in, tc.max)
			if n != 0 || err != tc.want {
				t.Fatalf("%d, %v; want %v", n, err, tc.want)
			}
			var ce *code.Error
			if !errors.As(err, &ce) || ce.Code.Scope() != code.ScopeConnection {
				t.Errorf("%v does not end the connection", err)
			}
		})
	}
}

// A length above the limit is refused before the frame is there, and while it can't be told
// nothing is.
func TestParseTooLargeAtOnce(t *testing.T) {
	b := AppendHeader(nil, Send, 0, 0, 8<<10)
	if _, _, err := Parse(b[:1], HandshakeMax); err != nil {
		t.Error(err)
	}
	if _, _, err := Parse(b[:2], HandshakeMax); err != ErrTooLarge {
		t.Error(err)
	}
}

func TestPingAndPongAreSmall(t *testing.T) {
	for _, typ := range []Type{Ping, Pong} {
		if b := Append(nil, typ, 0, 0, nil); len(b) > 4 {
			t.Errorf("%v has %d bytes", typ, len(b))
		}
	}
}

func TestAllocations(t *testing.T) {
	b := AppendTraced(nil, Send, FlagRequestID, 300, trace, make([]byte, 200))
	bad := []byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF}
	buf := make([]byte, 0, 512)
	for name, fn := range map[string]func(){
		"Parse":         func() { _, _, _ = Parse(b, DefaultMax) },
		"Parse refuses": func() { _, _, _ = Parse(bad, DefaultMax) },
		"Append":        func() { _ = Append(buf, Send, FlagRequestID, 300, b[:100]) },
		"AppendHeader":  func() { _ = AppendHeader(buf, Send, FlagRequestID, 300, 100) },
	} {
		if n := testing.AllocsPerRun(100, fn); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for typ := Connect; typ.Known(); typ++ {
		if s := typ.String(); s == "" || s == "unknown" || seen[s] {
			t.Errorf("type %d is named %q", typ, s)
		} else {
			seen[s] = true
		}
	}
	if Type(0).Known() || Type(18).Known() || Type(18).String() != "unknown" {
		t.Error("a type that doesn't exist is known")
	}
}

// FuzzFrame feeds any bytes: Parse ends, stays within its input, waits exactly while the
// frame isn't whole, and what it takes is written back as the same bytes.
func FuzzFrame(f *testing.F) {
	f.Add(Append(nil, Ping, 0, 0, nil), 64)
	f.Add(AppendTraced(nil, Send, FlagRequestID, 1<<32-1, trace, []byte("body")), 64)
	f.Add([]byte{0xFF, 0xFF, 0xFF, 0x7F, 0}, HardMax)
	f.Add([]byte{0x82, 0, 13, 0}, 10)
	f.Fuzz(func(t *testing.T, b []byte, max int) {
		fr, n, err := Parse(b, max)
		switch {
		case err != nil:
			var ce *code.Error
			if n != 0 || !errors.As(err, &ce) {
				t.Fatalf("%d, %v", n, err)
			}
			// Bytes that follow change nothing about a refusal.
			if _, _, again := Parse(append(bytes.Clone(b), 1, 2, 3), max); again != err {
				t.Fatalf("%v, with more bytes %v", err, again)
			}
		case n == 0:
			if len(b) > max+4 && max >= 0 {
				t.Fatalf("%d bytes are no frame of at most %d", len(b), max)
			}
		default:
			if n > len(b) || len(fr.Body) > n-2 || n > max+4 {
				t.Fatalf("frame of %d bytes in %d, body %d, max %d", n, len(b), len(fr.Body), max)
			}
			var back []byte
			if fr.Flags&FlagTrace != 0 {
				back = AppendTraced(nil, fr.Type, fr.Flags, fr.ReqID, fr.Trace, fr.Body)
			} else {
				back = Append(nil, fr.Type, fr.Flags, fr.ReqID, fr.Body)
			}
			if !bytes.Equal(back, b[:n]) {
				t.Fatalf("%x is written back as %x", b[:n], back)
			}
			if _, m, err := Parse(b[:n-1], max); m != 0 || err != nil {
				t.Fatalf("all but the last byte: %d, %v", m, err)
			}
		}
	})
}
