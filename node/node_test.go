package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
)

// running is a node in this process until stop.
type running struct {
	*Node
	stop func() error
}

func start(t *testing.T, data string, change ...func(*Config)) *running {
	t.Helper()
	cfg := Default()
	cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen = data, "127.0.0.1:0", "127.0.0.1:0"
	cfg.Storage.Memtable = 4 << 20
	for _, f := range change {
		f(&cfg)
	}
	n, err := New(cfg, Program{Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	r := &running{Node: n}
	r.stop = func() error {
		cancel()
		select {
		case err := <-ended:
			ended <- err // for the clean-up
			return err
		case <-time.After(30 * time.Second):
			return errors.New("the node didn't end")
		}
	}
	t.Cleanup(func() { _ = r.stop() })
	return r
}

// device connects a user with a token of the node's own key.
func device(t *testing.T, n *running, data, user string, got func(gochat.Message)) *gochat.Client {
	t.Helper()
	keys, err := account.LoadKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	c, err := gochat.Open(gochat.Config{
		Address: n.TCPAddr().String(), Device: "d",
		Token: func(context.Context) (string, error) {
			return account.MintToken(keys, account.DefaultIssuer, id.UserID(user), "", time.Now(), time.Minute)
		},
		Handler: func(e gochat.Event) {
			if m, ok := e.(gochat.MessageReceived); ok {
				got(m.Message)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestANodeServesDrainsAndComesBack(t *testing.T) {
	data := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n := start(t, data)
	for _, u := range []string{"alice", "bob"} {
		res, err := http.Post("http://"+n.HTTPAddr().String()+"/api/v1/auth/register", "application/json",
			strings.NewReader(fmt.Sprintf(`{"name":%q,"password":"long enough"}`, u)))
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("registering %s: %v, %v", u, res, err)
		}
		res.Body.Close()
	}
	inbox := make(chan gochat.Message, 16)
	alice := device(t, n, data, "alice", func(gochat.Message) {})
	bob := device(t, n, data, "bob", func(m gochat.Message) { inbox <- m })
	for _, c := range []*gochat.Client{alice, bob} {
		if err := c.Connected(ctx); err != nil {
			t.Fatal(err)
		}
	}
	r, err := alice.Send(ctx, gochat.ToUser("bob"), gochat.Text("hello"))
	if err != nil {
		t.Fatal(err)
	}
	ack, err := r.Wait(ctx)
	if err != nil || ack.Seq != 1 {
		t.Fatalf("ack %+v, %v", ack, err)
	}
	if m := <-inbox; m.Text != "hello" || m.Seq != 1 || m.Sender != "alice" {
		t.Fatalf("bob got %+v", m)
	}
	if r, err = alice.Send(ctx, gochat.ToUser("nobody"), gochat.Text("hello?")); err != nil {
		t.Fatal(err)
	}
	if _, err = r.Wait(ctx); err == nil || !strings.Contains(err.Error(), "no_such_user") {
		t.Errorf("a message to nobody: %v", err)
	}
	for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
		res, err := http.Get("http://" + n.HTTPAddr().String() + path)
		if err != nil || res.StatusCode != http.StatusOK {
			t.Errorf("%s: %v, %v", path, res, err)
		} else {
			res.Body.Close()
		}
	}
	_, _ = alice.Close(), bob.Close()
	if err := n.stop(); err != nil {
		t.Fatalf("stopping: %v", err)
	}

	var findings []string
	sum, err := storage.Check(ctx, n.cfg, slog.New(slog.DiscardHandler), func(_, text string) { findings = append(findings, text) })
	if err != nil || sum.Errors+sum.Warnings > 0 {
		t.Errorf("audit: %+v, %v, %q", sum, err, findings)
	}
	n = start(t, data)
	bob = device(t, n, data, "bob", func(m gochat.Message) { inbox <- m })
	convs, err := bob.Inbox(ctx)
	if err != nil || len(convs) != 1 || convs[0].Peer != "alice" || convs[0].LastSeq != 1 || convs[0].RecvSeq != 1 {
		t.Errorf("after a restart bob's inbox is %+v, %v", convs, err)
	}
}

func TestStartingFailsClean(t *testing.T) {
	data := t.TempDir()
	n := start(t, data)
	for name, change := range map[string]func(*Config){
		"data directory in use": func(c *Config) { c.Data = data },
		"--tcp":                 func(c *Config) { c.TCP.Listen = n.TCPAddr().String() },
		"--http":                func(c *Config) { c.HTTP.Listen = n.HTTPAddr().String() },
		"key file":              func(c *Config) { c.Issuers = []config.Issuer{{Issuer: "x", Algorithm: "HS256", KeyFile: "/nowhere"}} },
	} {
		cfg := Default()
		cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
		change(&cfg)
		if _, err := New(cfg, Program{Version: "test", Logger: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("%s: no error", name)
		}
		// What a failed start opened is closed: the same directory opens at once.
		if cfg.Data != data {
			cfg2 := Default()
			cfg2.Data, cfg2.TCP.Listen, cfg2.HTTP.Listen = cfg.Data, "127.0.0.1:0", "127.0.0.1:0"
			again, err := New(cfg2, Program{Version: "test", Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Errorf("%s: afterwards: %v", name, err)
				continue
			}
			again.close()
		}
	}
}
