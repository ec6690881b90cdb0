package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/services/account"
)

// rig is a listening server on a real account service.
type rig struct {
	*Server
	t        *testing.T
	url      string
	accounts *account.Service
	log      *conntest.Log
	ended    chan error
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	keys, err := account.LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, log: new(conntest.Log), ended: make(chan error, 1)}
	logger := slog.New(slog.NewTextHandler(r.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r.accounts, err = account.New(account.Config{
		Store: memory.New(memory.Config{}), Crypt: keys, Argon: account.Argon{KiB: 64, Passes: 1, Lanes: 1},
		HashesWaiting: 1000, HashWait: time.Minute, Logger: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.accounts.Close)
	cfg := Config{Listen: "127.0.0.1:0", Accounts: r.accounts, AuthPerMinute: -1, Logger: logger}
	for _, f := range change {
		f(&cfg)
	}
	if r.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	r.url = "http://" + r.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { r.ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-r.ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	r.wait()
	return r
}

// wait waits until the server answers.
func (r *rig) wait() {
	r.t.Helper()
	for {
		resp, err := http.Get(r.url + "/healthz")
		if err == nil {
			resp.Body.Close()
			return
		}
		if r.cfg.TLS != nil && !errors.Is(err, syscall.ECONNREFUSED) {
			return // it answers, though not to this
		}
	}
}

func (r *rig) do(method, path, contentType, body string, header ...string) (*http.Response, string) {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, path, err)
	}
	return resp, string(b)
}

const jsonType = "application/json"

// post posts v and wants a success of which the body is out.
func (r *rig) post(path string, v, out any, header ...string) {
	r.t.Helper()
	b, _ := json.Marshal(v)
	resp, body := r.do("POST", "/api/v1/auth/"+path, jsonType, string(b), header...)
	if resp.StatusCode != 200 {
		r.t.Fatalf("%s: %d %s", path, resp.StatusCode, body)
	}
	if err := json.Unmarshal([]byte(body), out); err != nil {
		r.t.Fatalf("%s: %v in %s", path, err, body)
	}
}

// refusal reads the one shape of an error out of an answer.
func (r *rig) refusal(resp *http.Response, body string) auth.Error {
	r.t.Helper()
	var e auth.Refused
	dec := json.NewDecoder(strings.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&e); err != nil || e.Error.Code == 0 || e.Error.Message == "" {
		r.t.Errorf("%d with the body %q isn't the one shape of an error: %v", resp.StatusCode, body, err)
	}
	if ct := resp.Header.Get("Content-Type"); ct != jsonType {
		r.t.Errorf("%d with content type %q", resp.StatusCode, ct)
	}
	if id := resp.Header.Get("X-Request-ID"); id == "" || id != e.Error.RequestID {
		r.t.Errorf("%d with request ids %q and %q", resp.StatusCode, id, e.Error.RequestID)
	}
	return e.Error
}
