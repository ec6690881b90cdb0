package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// paper is what a person reads, by several goroutines' writing.
type paper struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (p *paper) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.Write(b)
}

func (p *paper) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.b.String()
}

// until waits until it says text.
func (p *paper) until(ctx context.Context, t *testing.T, text string) {
	t.Helper()
	for !strings.Contains(p.String(), text) {
		select {
		case <-ctx.Done():
			t.Fatalf("no %q in\n%s", text, p)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Two people talk in a room, line by line.
func TestTalkInARoom(t *testing.T) {
	cfg := node.Default()
	cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen, cfg.Rooms.Create, cfg.Storage.Memtable = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", "anyone", 4<<20
	n, err := node.New(cfg, node.Program{Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	running, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(running) }()
	defer func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	person := func(name string) (*talk, *paper) {
		in, _ := json.Marshal(map[string]string{"name": name, "password": "long enough", "device_id": "d"})
		res, err := http.Post("http://"+n.HTTPAddr().String()+"/api/v1/auth/register", "application/json", bytes.NewReader(in))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var grant struct {
			AccessToken string `json:"access_token"`
		}
		if err := json.NewDecoder(res.Body).Decode(&grant); err != nil || grant.AccessToken == "" {
			t.Fatalf("%s registers: %s, %v", name, res.Status, err)
		}
		p := &paper{}
		k := newTalk(&console{Writer: p, prompt: func(string) {}, interactive: true}, id.UserID(name))
		c, err := gochat.Open(gochat.Config{
			Address: n.TCPAddr().String(), Device: "d", Handler: k.handle,
			Token: func(context.Context) (string, error) { return grant.AccessToken, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = c.Close()
			k.stop()
		})
		k.client = c
		return k, p
	}
	ann, seenByAnn := person("ann")
	ben, seenByBen := person("ben")
	if err := ann.enter(ctx, "lobby"); err != nil {
		t.Fatal(err)
	}
	ben.line(ctx, "/room lobby")
	seenByBen.until(ctx, t, "you are in lobby, where there are 2")
	ann.line(ctx, "is anybody here?")
	seenByBen.until(ctx, t, "ann: is anybody here?")
	ben.line(ctx, "I am")
	seenByAnn.until(ctx, t, "ben: I am")

	ann.handle(gochat.MessagesLeftOut{Conversation: gochat.RoomID("lobby"), Count: 7})
	seenByAnn.until(ctx, t, "lobby: 7 messages were left out")
	ben.line(ctx, "/leave")
	seenByBen.until(ctx, t, "you have left lobby")
	ben.line(ctx, "/leave")
	seenByBen.until(ctx, t, "you are in no room here")
	ben.line(ctx, "/room")
	seenByBen.until(ctx, t, "which? /room NAME")
	if err := ben.enter(ctx, " no name"); err == nil {
		t.Error("a room without a proper name is entered")
	}
}
