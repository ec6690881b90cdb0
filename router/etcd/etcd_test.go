package etcd_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/router/etcd"
	"github.com/gochat-im/gochat/router/etcd/etcdtest"
)

func TestValidate(t *testing.T) {
	for want, cfg := range map[string]etcd.Config{
		"no endpoints":              {},
		"want a URL":                {Endpoints: []string{"localhost:2379"}},
		"some endpoints are https":  {Endpoints: []string{"http://a:1", "https://a:1"}},
		"endpoints are not https":   {Endpoints: []string{"http://a:1"}, TLS: etcd.TLS{CAFile: "x"}},
		"a certificate and its key": {Endpoints: []string{"https://a:1"}, TLS: etcd.TLS{CertFile: "x"}},
		"a user and the password":   {Endpoints: []string{"http://a:1"}, User: "u"},
		"certificate authority":     {Endpoints: []string{"https://a:1"}, TLS: etcd.TLS{CAFile: "/nowhere/ca.pem"}},
		"our certificate":           {Endpoints: []string{"https://a:1"}, TLS: etcd.TLS{CertFile: "/nowhere/c.pem", KeyFile: "/nowhere/k.pem"}},
	} {
		if _, err := etcd.Dial(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Dial(context.Background(), etcd.Config{Endpoints: []string{"https://a:1"}, TLS: etcd.TLS{CAFile: empty}}); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := etcd.Dial(ended, etcd.Config{Endpoints: []string{"http://a:1"}}); err == nil {
		t.Error("connected after the end")
	}
}

type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A client finds its etcd again, and what the library says of it in between is in the log, without the password.
func TestClientComesBack(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	srv := etcdtest.Start(t)
	var out lines
	const password = "correct horse battery staple"
	root := srv.Client()
	for _, err := range []error{second(root.UserAdd(ctx, "root", password)), second(root.UserGrantRole(ctx, "root", "root")), second(root.AuthEnable(ctx))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := root.Put(ctx, "a", "1"); err == nil {
		t.Fatal("etcd lets somebody write who hasn't signed in")
	}
	c, err := etcd.Dial(ctx, etcd.Config{Endpoints: []string{srv.URL()}, User: "root", Password: password, Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Put(ctx, "a", "1"); err != nil {
		t.Fatal(err)
	}
	srv.Stop()
	short, end := context.WithTimeout(ctx, 300*time.Millisecond)
	_, err = c.Put(short, "a", "2")
	end()
	if err == nil {
		t.Fatal("written while etcd is away")
	}
	srv.Restart()
	r, err := c.Get(ctx, "a")
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "1" {
		t.Fatalf("after its return: %v, %v", r, err)
	}
	if s := out.String(); !strings.Contains(s, "from=etcd") || strings.Contains(s, "horse") || strings.Contains(s, "level=ERROR") {
		t.Errorf("the log:\n%s", s)
	}
	if _, err := etcd.Dial(ctx, etcd.Config{Endpoints: []string{srv.URL()}, User: "root", Password: "guess"}); err == nil || strings.Contains(err.Error(), "guess") {
		t.Errorf("signed in with a wrong password: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// Both sides show certificates, and a client that shows none, or doesn't know who signed the server's, is refused.
func TestTLS(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	srv := etcdtest.StartTLS(t)
	try := func(tls etcd.TLS) error {
		c, err := etcd.Dial(ctx, etcd.Config{Endpoints: []string{srv.URL()}, TLS: tls})
		if err != nil {
			return err
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		if tls.CAFile == "" || tls.CertFile == "" {
			ctx, cancel = context.WithTimeout(ctx, 300*time.Millisecond) // it is tried again and again
		}
		defer cancel()
		_, err = c.Put(ctx, "a", "1")
		return err
	}
	good := srv.TLS()
	if err := try(good); err != nil {
		t.Errorf("with our certificate: %v", err)
	}
	if err := try(etcd.TLS{CAFile: good.CAFile}); err == nil {
		t.Error("without a certificate of ours")
	}
	if err := try(etcd.TLS{CertFile: good.CertFile, KeyFile: good.KeyFile}); err == nil {
		t.Error("without knowing who signed the server's")
	}
}
