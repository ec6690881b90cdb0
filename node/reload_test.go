package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/certs/certtest"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
)

func TestReloadOfLimitsAndCertificates(t *testing.T) {
	dir, data := t.TempDir(), t.TempDir()
	certFile, keyFile, trust := certtest.Write(t, dir, "old")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cfg := Default()
	cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen, cfg.Storage.Memtable = data, "127.0.0.1:0", "127.0.0.1:0", 4<<20
	cfg.TCP.TLS = config.TLS{CertFile: certFile, KeyFile: keyFile, MinVersion: "1.2"}
	cfg.HTTP.TLS = cfg.TCP.TLS
	var mu sync.Mutex // guards file: what the operator has written
	file := cfg
	level := new(slog.LevelVar)
	n, err := New(cfg, Program{Version: "test", Logger: slog.New(slog.DiscardHandler), Level: level, Load: func() (Config, error) {
		mu.Lock()
		defer mu.Unlock()
		return file, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(run) }()
	t.Cleanup(func() { stop(); <-ended })

	open := func(trust *tls.Config, user string) *gochat.Client {
		keys, err := account.LoadKeys(data)
		if err != nil {
			t.Fatal(err)
		}
		c, err := gochat.Open(gochat.Config{
			Address: n.TCPAddr().String(), Device: "d", Handler: func(gochat.Event) {}, MinBackoff: 10 * time.Millisecond,
			Token: func(context.Context) (string, error) {
				return account.MintToken(keys, account.DefaultIssuer, id.UserID(user), "", time.Now(), time.Minute)
			},
			Dial: func(ctx context.Context, address string) (net.Conn, error) {
				return (&tls.Dialer{Config: trust}).DialContext(ctx, "tcp", address)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	alice := open(trust, "alice")
	if err := alice.Connected(ctx); err != nil {
		t.Fatal(err)
	}
	post := func(trust *tls.Config, user string) error {
		tr := &http.Transport{TLSClientConfig: trust}
		defer tr.CloseIdleConnections()
		res, err := (&http.Client{Transport: tr}).Post("https://"+n.HTTPAddr().String()+"/api/v1/auth/register", "application/json",
			strings.NewReader(fmt.Sprintf(`{"name":%q,"password":"long enough"}`, user)))
		if err != nil {
			return err
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", res.Status)
		}
		return nil
	}
	if err := post(trust, "bob"); err != nil {
		t.Fatal(err)
	}
	say(ctx, t, alice, "bob", "over TLS")

	// The operator renews the certificate and edits the file.
	_, _, fresh := certtest.Write(t, dir, "new")
	mu.Lock()
	file.Limits.SendsPerSecond, file.Limits.Connections, file.Log.Level = 3, 2, "debug"
	file.Storage.Cache = 1 << 20
	mu.Unlock()
	ask := operator(t, data)
	var done Reloaded
	if err := ask("/gc/reload", nil, &done); err != nil {
		t.Fatal(err)
	}
	if want := (Reloaded{Changed: []string{"log.level", "limits.connections", "limits.sends_per_second"}, Restart: []string{"storage.cache"}}); !reflect.DeepEqual(done, want) {
		t.Errorf("reloaded %+v, want %+v", done, want)
	}
	if level.Level() != slog.LevelDebug {
		t.Errorf("log level %s", level.Level())
	}
	if err := post(trust, "carol"); err == nil {
		t.Error("HTTP still has the old certificate")
	}
	if err := post(fresh, "carol"); err != nil {
		t.Error(err)
	}
	say(ctx, t, alice, "bob", "the connection lives on")
	bob := open(fresh, "bob")
	if err := bob.Connected(ctx); err != nil {
		t.Fatal(err)
	}
	refused, err := tls.Dial("tcp", n.TCPAddr().String(), fresh)
	if err == nil {
		refused.Close()
		t.Error("a third connection was let in")
	}
	// A burst of twice the new rate, then waiting.
	for i := range 8 {
		if _, err := bob.Send(ctx, gochat.ToUser("alice"), gochat.Text(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	for n.edge.Hub.Stats().Refused == nil && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}

	// What can't be used changes nothing.
	if err := os.WriteFile(certFile, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	file.Limits.Connections = 50
	mu.Unlock()
	if err := ask("/gc/reload", nil, nil); err == nil || !strings.Contains(err.Error(), "cert.pem") {
		t.Errorf("a broken certificate: %v", err)
	}
	if refused, err = tls.Dial("tcp", n.TCPAddr().String(), fresh); err == nil {
		refused.Close()
		t.Error("a limit changed though the certificate couldn't be read")
	}
	mu.Lock()
	file.TCP.TLS, file.HTTP.TLS = config.TLS{}, config.TLS{}
	mu.Unlock()
	if err := ask("/gc/reload", nil, nil); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("TLS taken away: %v", err)
	}
}
