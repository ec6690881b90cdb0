//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// person is a registered user with one device, and everything that device was told.
type person struct {
	t      *testing.T
	s      *server
	tcp    string // where the client connects
	http   string // and registers
	name   id.UserID
	client *gochat.Client
	dial   func(ctx context.Context, address string) (net.Conn, error) // nil: TCP

	mu       sync.Mutex
	grant    auth.Grant
	received map[id.ConversationID][]gochat.Message
	acks     map[id.ClientMsgID]gochat.Ack
	failed   map[id.ClientMsgID]error
	wake     chan struct{} // closed and replaced whenever something came
}

// signUp registers name; the server must run.
func signUp(s *server, name string) *person {
	s.t.Helper()
	p := &person{
		t: s.t, s: s, name: id.UserID(name), received: map[id.ConversationID][]gochat.Message{},
		acks: map[id.ClientMsgID]gochat.Ack{}, failed: map[id.ClientMsgID]error{}, wake: make(chan struct{}),
	}
	p.tcp, p.http = s.at()
	if err := p.post("register", auth.Credentials{Name: name, Password: "password of " + name, DeviceID: "phone"}, &p.grant); err != nil {
		s.t.Fatalf("registering %s: %v", name, err)
	}
	return p
}

// connect opens the person's client on store.
func (p *person) connect(store gochat.Store) {
	p.t.Helper()
	c, err := gochat.Open(gochat.Config{
		Address: p.tcp, Dial: p.dial, Token: p.token, Device: "phone", Store: store, Handler: p.handle,
		MinBackoff: 20 * time.Millisecond, MaxBackoff: 200 * time.Millisecond,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.client = c
	p.t.Cleanup(func() { _ = c.Close() })
}

func (p *person) token(context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().Add(time.Minute).UnixMilli() < p.grant.AccessExpires {
		return p.grant.AccessToken, nil
	}
	err := p.post("refresh", auth.Refresh{RefreshToken: p.grant.RefreshToken}, &p.grant)
	return p.grant.AccessToken, err
}

func (p *person) post(route string, body, answer any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	res, err := http.Post("http://"+p.http+"/api/v1/auth/"+route, "application/json", bytes.NewReader(raw))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	raw, err = io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", res.StatusCode, raw)
	}
	return json.Unmarshal(raw, answer)
}

func (p *person) handle(e gochat.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := e.(type) {
	case gochat.MessageReceived:
		p.received[e.Message.Conversation] = append(p.received[e.Message.Conversation], e.Message)
	case gochat.MessageSent:
		if old, ok := p.acks[e.ID]; ok && old.Seq != e.Ack.Seq {
			p.t.Errorf("%s: message %s was acked as seq %d and as %d", p.name, e.ID, old.Seq, e.Ack.Seq)
		}
		p.acks[e.ID] = e.Ack
	case gochat.SendFailed:
		p.failed[e.ID] = e.Err
	case gochat.Stopped:
		p.t.Errorf("%s: client gave up: %v", p.name, e.Err)
	default:
		return
	}
	close(p.wake)
	p.wake = make(chan struct{})
}

// until waits until ok, which runs under the person's lock, is true.
func (p *person) until(what string, limit time.Duration, ok func() bool) {
	p.t.Helper()
	deadline := time.After(limit)
	for {
		p.mu.Lock()
		done, wake := ok(), p.wake
		p.mu.Unlock()
		if done {
			return
		}
		select {
		case <-wake:
		case <-deadline:
			p.t.Fatalf("%s: %s didn't happen within %s", p.name, what, limit)
		}
	}
}

// send sends without waiting for the ack.
func (p *person) send(to *person, text string) id.ClientMsgID {
	p.t.Helper()
	r, err := p.client.Send(context.Background(), gochat.ToUser(to.name), gochat.Text(text))
	if err != nil {
		p.t.Fatalf("%s: sending: %v", p.name, err)
	}
	return r.ID
}

// texts returns what the person was told in the conversation with other.
func (p *person) texts(other *person) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for _, m := range p.received[id.Direct(p.name, other.name)] {
		out = append(out, m.Text)
	}
	return out
}
