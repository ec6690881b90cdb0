package node

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// event reads the next event, comments aside.
func event(t *testing.T, r *bufio.Scanner) (name string, data map[string]any) {
	t.Helper()
	for r.Scan() {
		field, value, _ := strings.Cut(r.Text(), ": ")
		switch {
		case field == "event":
			name = value
		case field == "data":
			if err := json.Unmarshal([]byte(value), &data); err != nil {
				t.Fatalf("%q: %v", r.Text(), err)
			}
		case field == "" && value == "" && data != nil:
			return name, data
		}
	}
	t.Fatalf("the stream ended: %v", r.Err())
	return "", nil
}

// Where WebSockets are blocked a page and an app talk, too; when the server leaves, the page is told, and its stream ends.
func TestAStreamOfEventsTalksAndIsDrained(t *testing.T) {
	data := t.TempDir()
	n := start(t, data)
	heard := make(chan gochat.Message, 8)
	signIn(t, n, "register", "app", "d", wire.DeviceKind_DEVICE_KIND_PHONE)
	app := device(t, n, data, "app", func(m gochat.Message) { heard <- m })
	grant := signIn(t, n, "register", "page", "tab", wire.DeviceKind_DEVICE_KIND_WEB)
	base := "http://" + n.HTTPAddr().String() + "/events"
	req, err := http.NewRequestWithContext(within(t), "GET", base+"?protocol=gochat.v1.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+grant.AccessToken)
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	defer resp.Body.Close()
	r := bufio.NewScanner(resp.Body)
	r.Buffer(nil, 1<<20)
	name, open := event(t, r)
	if name != "open" {
		t.Fatalf("got %q %v", name, open)
	}
	seq := 0
	post := func(body string) {
		t.Helper()
		seq++
		resp, err := http.Post(fmt.Sprintf("%s/%s?seq=%d", base, open["key"], seq), "application/json", strings.NewReader(body))
		if err != nil || resp.StatusCode != 204 {
			t.Fatalf("%v, %v", resp, err)
		}
		resp.Body.Close()
	}
	hears := func(kind string) (inner map[string]any) {
		t.Helper()
		for {
			name, packet := event(t, r)
			if name == "" && packet["type"] == "signal" && kind != "signal" {
				continue
			}
			if name != "" || packet["type"] != kind {
				t.Fatalf("got %q %v, want %q", name, packet, kind)
			}
			inner, _ = packet["data"].(map[string]any)
			return inner
		}
	}
	// CONNECT and what comes with it, in one request.
	post(`[{"type": "connect", "data": {"version": 1, "device_id": "tab", "device_kind": "web"}},
		{"type": "send", "req_id": 1, "data": {"receiver_id": "app", "client_msg_id": "` + id.NewClientMsgID(time.Now().UnixMilli()).String() + `", "msg_type": 1, "content": "hello"}}]`)
	hears("connack")
	if ack := hears("sendack"); ack["seq"] != "1" {
		t.Fatalf("SENDACK %v", ack)
	}
	if m := <-heard; m.Sender != "page" || m.Text != "hello" {
		t.Fatalf("the app heard %+v", m)
	}
	ctx := within(t)
	sent, err := app.Send(ctx, gochat.ToUser("page"), gochat.Text("hi"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sent.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	if m := hears("message"); m["content"] != "hi" || m["sender_id"] != "app" {
		t.Fatalf("the page heard %v", m)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- n.stop() }()
	hears("drain")
	hears("error")
	if name, why := event(t, r); name != "close" || why["code"] != 1012.0 || why["reason"] != "draining" {
		t.Fatalf("got %q %v, want the close with 1012", name, why)
	}
	if r.Scan() {
		t.Fatalf("after the close: %q", r.Text())
	}
	resp.Body.Close()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
}
