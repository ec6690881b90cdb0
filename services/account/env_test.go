package account

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// env is a Service on a real store, with a clock that stands still and a log that can be searched.
type env struct {
	*Service
	t     *testing.T
	store *flaky
	clock clock
	log   syncBuffer

	mu      sync.Mutex
	revoked []string // user/device as OnRevoke heard them
	whys    []string // and why
	events  []string // as Record heard them
}

// cheap is a cost that keeps the tests quick; production's is tested apart.
var cheap = Argon{KiB: 64, Passes: 1, Lanes: 1}

func newEnv(t *testing.T, change ...func(*Config)) *env {
	t.Helper()
	e := &env{t: t, store: &flaky{Store: memory.New(memory.Config{})}}
	e.clock.set(time.Date(2026, 11, 21, 8, 0, 0, 250e6, time.UTC))
	keys, err := LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Store: e.store, Crypt: keys, Argon: cheap, Now: e.clock.now,
		Logger: slog.New(slog.NewTextHandler(&e.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		OnRevoke: func(r Revocation) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.revoked = append(e.revoked, fmt.Sprintf("%s/%s", r.User, r.Device))
			e.whys = append(e.whys, r.Why)
		},
		Record: func(_ context.Context, ev Event) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.events = append(e.events, fmt.Sprintf("%s %s/%s(%d) by %q", ev.What, ev.User, ev.Device, ev.Kind, ev.By))
		},
	}
	for _, f := range change {
		f(&cfg)
	}
	if e.Service, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	e.settle.after = []time.Duration{time.Hour} // tests call retell
	t.Cleanup(e.Close)
	return e
}

func (e *env) heard() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	got := e.revoked
	e.revoked = nil
	return got
}

// recorded returns the events so far, and forgets them.
func (e *env) recorded() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	got := e.events
	e.events = nil
	return got
}

const password = "correct horse battery staple"

func (e *env) register(name string, d id.DeviceID) auth.Grant {
	e.t.Helper()
	g, err := e.Register(context.Background(), name, password, d, 1)
	if err != nil {
		e.t.Fatalf("register %q: %v", name, err)
	}
	return g
}

func (e *env) login(name string, d id.DeviceID) auth.Grant {
	e.t.Helper()
	g, err := e.Login(context.Background(), name, password, d, 1)
	if err != nil {
		e.t.Fatalf("login %q: %v", name, err)
	}
	return g
}

// connect is Authenticate with the error's code alone; 0: none.
func (e *env) connect(token, resume string, d id.DeviceID) (string, code.Code) {
	e.t.Helper()
	u, r, _, err := e.Authenticate(context.Background(), token, resume, d, 1)
	if err != nil {
		if u != "" || r != "" {
			e.t.Errorf("a refused connect brought %q, %q", u, r)
		}
		return "", err.Code
	}
	return r, 0
}

func want(t *testing.T, what string, err *code.Error, c code.Code) {
	t.Helper()
	switch {
	case err == nil && c != 0:
		t.Errorf("%s: no error, want %s", what, c)
	case err != nil && err.Code != c:
		t.Errorf("%s: %v, want code %d", what, err, c)
	}
}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = t
}

func (c *clock) pass(d time.Duration) { c.set(c.now().Add(d)) }

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// flaky is a store that fails as it is told: each commit takes the next fault, if there is one.
type flaky struct {
	kv.Store
	mu     sync.Mutex
	faults []fault
	reads  error // what every read fails with
}

type fault struct {
	err    error
	stored bool   // the transaction is stored all the same
	before func() // runs first: somebody else's doing
}

func (f *flaky) next(faults ...fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

func (f *flaky) failReads(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads = err
}

func (f *flaky) readError() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

func (f *flaky) Get(ctx context.Context, key []byte) ([]byte, error) {
	if err := f.readError(); err != nil {
		return nil, err
	}
	return f.Store.Get(ctx, key)
}

func (f *flaky) MultiGet(ctx context.Context, keys [][]byte) ([][]byte, error) {
	if err := f.readError(); err != nil {
		return nil, err
	}
	return f.Store.MultiGet(ctx, keys)
}

func (f *flaky) Scan(ctx context.Context, s kv.Span, fn func(k, v []byte) (bool, error)) error {
	if err := f.readError(); err != nil {
		return err
	}
	return f.Store.Scan(ctx, s, fn)
}

func (f *flaky) Commit(ctx context.Context, txs ...*kv.Tx) {
	f.mu.Lock()
	var x fault
	if len(f.faults) > 0 {
		x, f.faults = f.faults[0], f.faults[1:]
	}
	f.mu.Unlock()
	if x.before != nil {
		x.before()
	}
	if x.err == nil || x.stored {
		f.Store.Commit(ctx, txs...)
	}
	if x.err != nil {
		for _, tx := range txs {
			tx.Err = fmt.Errorf("injected: %w", x.err)
		}
	}
}

var errBroken = errors.New("broken")
