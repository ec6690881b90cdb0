package hostile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// webSockets are the ways to misbehave over WebSockets.
var webSockets = []kind{
	{name: "WebSocket: pages of others", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{"http 403 forbidden"}, want: []string{"http 403 forbidden"}, script: webScript("gochat.v1", "Origin: https://evil.example\r\n")},
	{name: "WebSocket: what RFC 6455 forbids", clients: 2, every: 100 * time.Millisecond,
		allowed: []string{"ws 1002", "ws 1003", "ws 1009"}, want: []string{"ws 1002", "ws 1003", "ws 1009"}, script: webScript("gochat.v1", "",
			[]byte{0x82, 3, 2, 13, 0}, webFrame(0xC2, nil), webFrame(0x83, nil), webFrame(0x09, nil), webFrame(0x80, nil), webFrame(0x89, make([]byte, 126)),
			webFrame(0x81, []byte("text")), []byte{0x82, 0xFF, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0})},
	{name: "WebSocket: text that isn't UTF-8", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{"ws 1007"}, want: []string{"ws 1007"}, script: webScript("gochat.v1.json", "", webFrame(0x81, []byte("{\"type\":\"\xff\"}")))},
	{name: "WebSocket: forged tokens", clients: 4, every: 100 * time.Millisecond,
		allowed: []string{"ws 4006"}, want: []string{"ws 4006"}, script: webScript("gochat.v1.json, gochat.token.eyJhbGciOiJub25lIn0.e30.", "",
			webFrame(0x81, []byte(`{"type":"connect","data":{"version":1,"device_id":"d"}}`)))},
	{name: "WebSocket: fragments without end", clients: 2, every: 300 * time.Millisecond,
		allowed: []string{"ws 4011", "ws 1009", httpCut}, want: []string{"ws 4011"}, script: webScript("gochat.v1.json", "",
			append(webFrame(0x01, nil), bytes.Repeat(webFrame(0x00, nil), 20_000)...))},
	{name: "WebSocket: silence", clients: 50, every: 0, sources: 4,
		allowed: []string{"ws 4003"}, want: []string{"ws 4003"}, script: webScript("gochat.v1", "", nil)},
}

// webFrame is a client's frame, masked with zeros.
func webFrame(first byte, payload []byte) []byte {
	b := []byte{first, 0x80 | byte(len(payload))}
	if len(payload) > 125 {
		b = binary.BigEndian.AppendUint16([]byte{first, 0x80 | 126}, uint16(len(payload)))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// webScript asks for a WebSocket, sends one of the things in turn, and waits for the close.
func webScript(protocols, header string, things ...[]byte) func(context.Context, *client) {
	return func(ctx context.Context, c *client) {
		if !c.dialTo(ctx, c.HTTP, false) {
			return
		}
		c.write(fmt.Appendf(nil, "GET /ws HTTP/1.1\r\nHost: gochat\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: %s\r\n%s\r\n", protocols, header), 1)
		if len(things) == 0 {
			c.respond(ctx, patience)
			return
		}
		if thing := things[(c.turn+c.n)%len(things)]; len(thing) > 0 {
			c.write(thing, 1)
		}
		_ = c.nc.SetReadDeadline(time.Now().Add(handshakeSlack))
		switch label := webEnd(bufio.NewReader(c.nc)); {
		case label == silence:
			c.missed(ctx, silence)
		default:
			c.answer(label)
			c.finish()
		}
	}
}

// webEnd reads up to the close frame and returns its label.
func webEnd(r *bufio.Reader) string {
	resp, err := http.ReadResponse(r, nil)
	if err == nil && resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Sprintf("http %d", resp.StatusCode)
	}
	for err == nil {
		var h [4]byte
		if _, err = io.ReadFull(r, h[:2]); err != nil {
			break
		}
		size := int(h[1])
		if size == 126 {
			_, err = io.ReadFull(r, h[2:])
			size = int(binary.BigEndian.Uint16(h[2:]))
		}
		payload := make([]byte, size)
		if err == nil {
			_, err = io.ReadFull(r, payload)
		}
		if err == nil && h[0] == 0x88 && len(payload) >= 2 {
			return fmt.Sprintf("ws %d", binary.BigEndian.Uint16(payload))
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return silence
	}
	return httpCut
}
