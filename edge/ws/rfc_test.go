package ws_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/ws"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// A case of RFC 6455: what a client that is signed in sends, and what it hears until it has
// heard all of that, or the end. A PING of GoChat's is what is echoed, as a PONG.
type rfcCase struct {
	name string
	in   []byte
	want []string
}

func join(bs ...[]byte) []byte { return slices.Concat(bs...) }

// status is the payload of a close frame.
func status(code uint16, reason string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, code), reason...)
}

// sized is a message of exactly n bytes, 3 at least, that ends in a PING.
func sized(n int) []byte {
	ping := frame.Append(nil, frame.Ping, 0, 0, nil)
	if n == len(ping) {
		return ping
	}
	for body := n - len(ping) - 6; ; body++ {
		if b := frame.Append(nil, 77, 0, 0, make([]byte, max(body, 0))); len(b) == n-len(ping) {
			return append(b, ping...)
		}
	}
}

// sizedText is a PING in JSON of exactly n bytes.
func sizedText(n int) []byte {
	b := []byte(`{"type":"ping","x":""}`)
	return append(append(b[:len(b)-2:len(b)-2], bytes.Repeat([]byte("*"), n-len(b))...), `"}`...)
}

// fragments cuts a message into frames of at most n bytes.
func fragments(first byte, payload []byte, n int, between ...[]byte) []byte {
	var out []byte
	for {
		k := min(n, len(payload))
		op := first
		if k == len(payload) {
			op |= 0x80
		}
		out = append(out, raw(op, payload[:k])...)
		if payload = payload[k:]; len(payload) == 0 {
			return out
		}
		first = 0
		for _, b := range between {
			out = append(out, b...)
		}
	}
}

// header is the header of a frame with an announced size, masked.
func header(first byte, size []byte) []byte {
	return slices.Concat([]byte{first}, size, mask[:])
}

func rfcCases(text bool) (cs []rfcCase) {
	add := func(name string, in []byte, want ...string) { cs = append(cs, rfcCase{name, in, want}) }
	data, other := byte(0x02), byte(0x01)
	ping, pong := frame.Append(nil, frame.Ping, 0, 0, nil), "PONG"
	size := sized
	if text {
		data, other = other, data
		ping = []byte(`{"type":"ping"}`)
		size = sizedText
	}
	whole := 0x80 | data
	protocolError := []string{"ERROR bad_frame", "close 1002"}

	// Framing.
	for _, n := range []int{125, 126, 127, 128, 65535, 65536} {
		add(fmt.Sprint("a message of ", n), raw(whole, size(n)), pong)
	}
	if text {
		add("an empty message", raw(whole, nil), "ERROR bad_frame", "close 4000")
	} else {
		add("an empty message", join(raw(whole, nil), raw(whole, ping)), pong)
		add("several frames in a message", raw(whole, join(ping, ping)), pong, pong)
		add("a frame in two messages", join(raw(whole, ping[:2]), raw(whole, ping[2:])), "ERROR bad_frame", "close 4000")
		add("a message of more than 1 MiB", header(whole, []byte{0xFF, 0, 0, 0, 0, 0, 0x10, 0, 1}), "ERROR frame_too_large", "close 1009")
	}
	add("messages one after the other", join(raw(whole, ping), raw(whole, ping), raw(whole, ping)), pong, pong, pong)
	add("the other kind of data", raw(0x80|other, ping), "ERROR bad_frame", "close 1003")
	unmasked := append([]byte{whole, byte(len(ping))}, ping...)
	add("unmasked", unmasked, protocolError...)
	add("unmasked ping", []byte{0x89, 0}, protocolError...)
	add("a long length of 2 bytes", header(whole, []byte{0xFE, 0, 125}), protocolError...)
	add("a long length of 8 bytes", header(whole, []byte{0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF}), protocolError...)
	add("a length with the highest bit", header(whole, []byte{0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0}), protocolError...)
	add("the longest length", header(whole, []byte{0xFF, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}), "ERROR frame_too_large", "close 1009")

	// Pings and pongs.
	add("an empty ping", raw(0x89, nil), "pong ")
	add("a ping with text", raw(0x89, []byte("Hello, world!")), "pong Hello, world!")
	add("a ping with bytes", raw(0x89, []byte{0, 0xFF, 0xFE}), "pong \x00\xff\xfe")
	add("a ping of 125", raw(0x89, bytes.Repeat([]byte("p"), 125)), "pong "+strings.Repeat("p", 125))
	add("a ping of 126", raw(0x89, make([]byte, 126)), protocolError...)
	add("a pong nobody asked for", join(raw(0x8A, []byte("x")), raw(0x89, []byte("y"))), "pong y")
	add("pings in order", join(raw(0x89, []byte("1")), raw(0x89, []byte("2")), raw(0x89, []byte("3"))), "pong 1", "pong 2", "pong 3")

	// Reserved bits and opcodes.
	for bit := byte(1); bit < 8; bit++ {
		add(fmt.Sprint("reserved bits ", bit), raw(whole|bit<<4, ping), protocolError...)
		add(fmt.Sprint("reserved bits of a ping ", bit), raw(0x89|bit<<4, nil), protocolError...)
		add(fmt.Sprint("reserved bits of a close ", bit), raw(0x88|bit<<4, nil), protocolError...)
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		add(fmt.Sprint("opcode ", op), raw(0x80|op, nil), protocolError...)
		add(fmt.Sprint("opcode after a message ", op), join(raw(whole, ping), raw(0x80|op, []byte("x"))), append([]string{pong}, protocolError...)...)
	}

	// Fragments.
	add("a ping in fragments", join(raw(0x09, []byte("a")), raw(0x80, []byte("b"))), protocolError...)
	add("a pong in fragments", join(raw(0x0A, []byte("a")), raw(0x80, []byte("b"))), protocolError...)
	add("a close in fragments", raw(0x08, nil), protocolError...)
	add("two fragments", fragments(data, ping, (len(ping)+1)/2), pong)
	add("fragments of a byte", fragments(data, ping, 1), pong)
	add("a ping in between", fragments(data, ping, 2, raw(0x89, []byte("between"))), "pong between", pong)
	add("empty fragments", join(raw(data, nil), raw(0, nil), raw(0, ping), raw(0x80, nil)), pong)
	add("a continuation of nothing", raw(0x80, ping), protocolError...)
	add("a continuation of nothing, not the last", raw(0, ping), protocolError...)
	add("a continuation after the end", join(fragments(data, ping, 2), raw(0x80, ping)), append([]string{pong}, protocolError...)...)
	add("a message within another", join(raw(data, ping[:1]), raw(whole, ping)), protocolError...)
	add("a beginning within a message", join(raw(data, ping[:1]), raw(data, ping)), protocolError...)
	// Text.
	if text {
		field := func(s string) []byte { return []byte(`{"type":"ping","x":"` + s + `"}`) }
		for _, ok := range []string{"κόσμε", "\x7f", "\u0080", "\u07ff", "\u0800", "\uffff", "\U00010000", "\U0010ffff", "\ud7ff", "\ue000", "\ufffd", "\u2028"} {
			add(fmt.Sprintf("UTF-8 %+q", ok), raw(whole, field(ok)), pong)
			add(fmt.Sprintf("UTF-8 in fragments %+q", ok), fragments(data, field(ok), 1), pong)
		}
		for _, bad := range []string{"\x80", "\xbf", "\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xc1\xbf", "\xed\xa0\x80", "\xed\xbf\xbf", "\xed\xa0\x80\xed\xb0\x80",
			"\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80", "\xfe", "\xff", "\xc2", "\xe1\x80", "\xf1\x80\x80", "κόσμε\xed\xa0\x80edited"} {
			add(fmt.Sprintf("no UTF-8 %+q", bad), raw(whole, field(bad)), "ERROR invalid_utf8", "close 1007")
			add(fmt.Sprintf("no UTF-8 in fragments %+q", bad), fragments(data, field(bad), 1), "ERROR invalid_utf8", "close 1007")
		}
	}

	// Closing.
	add("a close", raw(0x88, status(1000, "bye")), "close 1000")
	add("a close of nothing", raw(0x88, nil), "close 1005")
	add("a close of one byte", raw(0x88, []byte{3}), protocolError...)
	add("a close of 125", raw(0x88, status(1000, strings.Repeat("r", 123))), "close 1000")
	add("a close of 126", raw(0x88, status(1000, strings.Repeat("r", 124))), protocolError...)
	add("a close with a reason that isn't UTF-8", raw(0x88, status(1000, "\xce\xba\xe1\xbd\xb9\xed\xa0\x80")), "ERROR invalid_utf8", "close 1007")
	add("a ping after the close", join(raw(0x88, status(1000, "")), raw(0x89, nil)), "close 1000")
	add("a message after the close", join(raw(0x88, status(1000, "")), raw(whole, ping)), "close 1000")
	add("a close after the close", join(raw(0x88, status(1000, "")), raw(0x88, status(1001, ""))), "close 1000")
	add("a close within a message", join(raw(data, ping[:1]), raw(0x88, status(1000, ""))), "close 1000")
	for _, ok := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		add(fmt.Sprint("close code ", ok), raw(0x88, status(ok, "")), fmt.Sprint("close ", ok))
	}
	for _, bad := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		add(fmt.Sprint("bad close code ", bad), raw(0x88, status(bad, "")), protocolError...)
	}
	return cs
}

// hear reads the next thing that a client hears.
func (p *peer) hear() (string, error) {
	if len(p.rest) > 0 {
		f, n, err := frame.Parse(p.rest, frame.HardMax)
		p.rest = p.rest[n:]
		return conntest.Describe(&f), err
	}
	first, payload, err := p.frame()
	if err != nil {
		return "", err
	}
	switch first {
	case 0x8A:
		return "pong " + string(payload), nil
	case 0x88:
		p.status = 1005
		if len(payload) >= 2 {
			p.status = int(binary.BigEndian.Uint16(payload))
		}
		if p.nc != nil {
			_, _ = p.nc.Write(raw(0x88, payload))
		}
		return fmt.Sprint("close ", p.status), nil
	case 0x81:
		var m packetText
		if err := json.Unmarshal(payload, &m); err != nil {
			return "", err
		}
		if payload, err = packet.FromJSON(payload); err != nil {
			return "", err
		}
	case 0x82:
	default:
		return "", fmt.Errorf("%#x: %w", first, errFrame)
	}
	f, n, err := frame.Parse(payload, frame.HardMax)
	if err != nil || n == 0 {
		return "", fmt.Errorf("%x: %v", payload, err)
	}
	p.rest = payload[n:]
	return conntest.Describe(&f), nil
}

func TestRFC6455(t *testing.T) {
	hc := hub.Config{ConnectsPerAddress: 10_000, Conn: conn.Config{FramesPerSecond: 1 << 20, BytesPerSecond: 1 << 30}}
	s := start(t, hc, ws.Config{})
	for _, protocol := range []string{ws.Binary, ws.JSON} {
		for i, c := range rfcCases(protocol == ws.JSON) {
			for _, cut := range []bool{false, true} {
				name := protocol + "/" + c.name
				if cut {
					name += "/cut"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					user := fmt.Sprint("u", i, cut)
					var p *peer
					if protocol == ws.JSON {
						p = s.login(user, upgrade{})
					} else {
						p = s.open(upgrade{})
						if _, err := (&conntest.Client{W: p}).Login(user, "d"); err != nil {
							t.Fatal(err)
						}
					}
					_ = p.nc.SetDeadline(time.Now().Add(patience))
					in := c.in
					if cut && len(in) < 1<<10 {
						for _, b := range in {
							if _, err := p.nc.Write([]byte{b}); err != nil {
								break // it was told the end
							}
						}
					} else if _, err := p.nc.Write(in); err != nil {
						t.Fatal(err)
					}
					for i := 0; i < len(c.want); i++ {
						got, err := p.hear()
						if err != nil || got != c.want[i] && !(got == "pong between" && c.want[max(i-1, 0)] == got) {
							t.Fatalf("heard %q (%v), want %q", got, err, c.want[i])
						}
						if got != c.want[i] {
							i-- // one ping more in between
						}
					}
					if p.status == 0 {
						return
					}
					if b, err := p.r.ReadByte(); err == nil || errors.Is(err, io.ErrNoProgress) {
						t.Fatalf("%#x after the close, %v", b, err)
					}
				})
			}
		}
	}
}
