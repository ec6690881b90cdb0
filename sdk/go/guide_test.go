package gochat_test

import (
	"context"
	"go/format"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
)

// The program of docs/SDK.md is built as it stands there, and talks to somebody at a server.
func TestTheGuidesProgram(t *testing.T) {
	page, err := os.ReadFile("../../docs/SDK.md")
	if err != nil {
		t.Fatal(err)
	}
	_, program, ok := strings.Cut(string(page), "```go\npackage main\n")
	program, _, closed := strings.Cut(program, "```\n")
	if !ok || !closed {
		t.Fatal("docs/SDK.md has no program")
	}
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "main.go"), filepath.Join(dir, "guide")
	if err := os.WriteFile(source, []byte("package main\n"+program), 0o600); err != nil {
		t.Fatal(err)
	}
	if formatted, err := format.Source([]byte("package main\n" + program)); err != nil || string(formatted) != "package main\n"+program {
		t.Errorf("the program is not as gofmt would have it: %v", err)
	}
	if out, err := exec.Command("go", "build", "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	cfg := node.Default()
	cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	cfg.Storage.Memtable = 4 << 20
	n, err := node.New(cfg, node.Program{Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(serving) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for _, user := range []string{"alice", "bob"} {
		res, err := http.Post("http://"+n.HTTPAddr().String()+"/api/v1/auth/register", "application/json", strings.NewReader(`{"name": "`+user+`", "password": "long enough"}`))
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("registering %s: %v, %v", user, res, err)
		}
		_ = res.Body.Close()
	}
	keys, err := account.LoadKeys(cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	token := func(user id.UserID) string {
		s, err := account.MintToken(keys, account.DefaultIssuer, user, "", time.Now(), time.Minute)
		if err != nil {
			t.Error(err)
		}
		return s
	}

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	heard := make(chan string, 16)
	bob, err := gochat.Open(gochat.Config{
		Address: n.TCPAddr().String(), Device: "b", Token: func(context.Context) (string, error) { return token("bob"), nil },
		Handler: func(e gochat.Event) {
			if m, ok := e.(gochat.MessageReceived); ok && !m.Message.Own {
				heard <- m.Message.Text
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer bob.Close()
	hears := func(want string) {
		t.Helper()
		select {
		case got := <-heard:
			if got != want {
				t.Fatalf("bob hears %q, want %q", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("bob never hears %q", want)
		}
	}
	says := func(text string) {
		t.Helper()
		if _, err := bob.Send(ctx, gochat.ToUser("alice"), gochat.Text(text)); err != nil {
			t.Fatal(err)
		}
	}

	run := exec.CommandContext(ctx, binary, n.TCPAddr().String(), "a", token("alice"), "bob")
	run.Env = append(os.Environ(), "TMPDIR="+dir, "TMP="+dir)
	var out, errs strings.Builder
	run.Stdout, run.Stderr = &out, &errs
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	hears("hello")
	says("ping")
	hears("you said ping")
	says("bye")
	if err := run.Wait(); err != nil {
		t.Fatalf("%v\n%s%s", err, out.String(), errs.String())
	}
	if want := "stored as message 1\nbob: ping\nbob: bye\n"; out.String() != want || errs.Len() > 0 {
		t.Errorf("it wrote %q and %q, want %q", out.String(), errs.String(), want)
	}
}
