package node

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// tab is a page's WebSocket, in JSON.
type tab struct {
	t  *testing.T
	nc net.Conn
	r  *bufio.Reader
}

// openTab connects with a token in the URL and signs in.
func openTab(t *testing.T, n *running, user string) *tab {
	t.Helper()
	grant := signIn(t, n, "register", user, "tab", wire.DeviceKind_DEVICE_KIND_WEB)
	nc, err := net.Dial("tcp", n.HTTPAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(nc, "GET /ws?token=%s HTTP/1.1\r\nHost: %s\r\nOrigin: http://%s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: gochat.v1.json\r\n\r\n", grant.AccessToken, nc.RemoteAddr(), nc.RemoteAddr())
	p := &tab{t: t, nc: nc, r: bufio.NewReader(nc)}
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("%v, %v", resp, err)
	}
	p.say(`{"type": "connect", "data": {"version": 1, "device_id": "tab", "device_kind": "web"}}`)
	p.hears("connack", nil)
	return p
}

// say sends one text, masked with zeros.
func (p *tab) say(text string) {
	p.t.Helper()
	b := binary.BigEndian.AppendUint16([]byte{0x81, 0x80 | 126}, uint16(len(text)))
	if len(text) < 126 {
		b = []byte{0x81, 0x80 | byte(len(text))}
	}
	if _, err := p.nc.Write(append(append(b, 0, 0, 0, 0), text...)); err != nil {
		p.t.Fatal(err)
	}
}

// next reads one frame.
func (p *tab) next() (first byte, payload []byte) {
	p.t.Helper()
	var h [4]byte
	_, err := io.ReadFull(p.r, h[:2])
	size := int(h[1])
	if err == nil && size == 126 {
		_, err = io.ReadFull(p.r, h[2:])
		size = int(binary.BigEndian.Uint16(h[2:]))
	}
	if err == nil {
		payload = make([]byte, size)
		_, err = io.ReadFull(p.r, payload)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return h[0], payload
}

// hears reads one packet, signals aside, and wants it to be of a type, with these members.
func (p *tab) hears(typ string, want map[string]any) map[string]any {
	p.t.Helper()
	var m struct {
		Type string         `json:"type"`
		Data map[string]any `json:"data"`
	}
	var b []byte
	for m.Type == "" || m.Type == "signal" {
		var first byte
		first, b = p.next()
		if err := json.Unmarshal(b, &m); first != 0x81 || err != nil {
			p.t.Fatalf("%#x %s, %v", first, b, err)
		}
	}
	if m.Type != typ {
		p.t.Fatalf("%s: want %s", b, typ)
	}
	for name, v := range want {
		if m.Data[name] != v {
			p.t.Fatalf("%s: want %s %v", b, name, v)
		}
	}
	return m.Data
}

// A page and an app talk; when the server leaves, the page is told as the app is, and its WebSocket ends last.
func TestAWebSocketTalksAndIsDrained(t *testing.T) {
	data := t.TempDir()
	n := start(t, data)
	heard := make(chan gochat.Message, 8)
	signIn(t, n, "register", "app", "d", wire.DeviceKind_DEVICE_KIND_PHONE)
	app := device(t, n, data, "app", func(m gochat.Message) { heard <- m })
	page := openTab(t, n, "page")
	page.say(`{"type": "send", "req_id": 1, "data": {"receiver_id": "app", "client_msg_id": "` + id.NewClientMsgID(time.Now().UnixMilli()).String() + `", "msg_type": 1, "content": "<b>hello</b>"}}`)
	page.hears("sendack", map[string]any{"seq": "1"})
	if m := <-heard; m.Sender != "page" || m.Text != "<b>hello</b>" {
		t.Fatalf("the app heard %+v", m)
	}
	ctx := within(t)
	r, err := app.Send(ctx, gochat.ToUser("page"), gochat.Text("hi"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	page.hears("message", map[string]any{"seq": "2", "sender_id": "app", "receiver_id": "page", "content": "hi"})
	stopped := make(chan error, 1)
	go func() { stopped <- n.stop() }()
	page.hears("drain", nil)
	page.hears("error", map[string]any{"name": "draining"})
	if first, b := page.next(); first != 0x88 || binary.BigEndian.Uint16(b) != 1012 {
		t.Fatalf("%#x %q, want the close with 1012", first, b)
	}
	page.nc.Close()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
}
