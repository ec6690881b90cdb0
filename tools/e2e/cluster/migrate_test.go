//go:build e2e

package cluster

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/msgstore/kv/tikv"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
	"github.com/gochat-im/gochat/tools/loopback"
	"github.com/gochat-im/gochat/tools/tikvlocal"
)

// What is moved: so many messages, in as many direct conversations as there are senders.
const (
	movedMessages = 50_000
	movedSenders  = 10
)

// moving is a data directory, and a TiKV that it goes to.
type moving struct {
	*testing.T
	ctx    context.Context
	binary string
	data   string
	config string // file: a logic node of the cluster
	target *tikv.Store
	keys   msgstore.Keys
}

func newMoving(t *testing.T) *moving {
	t.Helper()
	dir := t.TempDir()
	m := &moving{T: t, binary: filepath.Join(dir, "gochat"), data: filepath.Join(dir, "data"), config: filepath.Join(dir, "node.yaml"), keys: msgstore.Keys{Keyspace: 7}}
	var cancel context.CancelFunc
	m.ctx, cancel = context.WithTimeout(context.Background(), 20*time.Minute)
	t.Cleanup(cancel)
	const bin = "../../../.cache/tikv"
	m.must(tikvlocal.Build(m.ctx, "../../..", bin, os.Stderr))
	if out, err := exec.CommandContext(m.ctx, "go", "build", "-o", m.binary, "github.com/gochat-im/gochat/cmd/gochat").CombinedOutput(); err != nil {
		t.Fatalf("building gochat: %v\n%s", err, out)
	}
	pd, rpc := m.free(), m.free()
	stores, err := tikvlocal.Start(m.ctx, tikvlocal.Config{Bin: bin, Data: filepath.Join(dir, "tikv"), PDAddr: pd, PDPeerAddr: m.free(), TiKVAddr: m.free(), Sync: true})
	m.must(err)
	t.Cleanup(func() { _ = stores.Stop() })
	m.target, err = tikv.Open(m.ctx, tikv.Config{PD: []string{pd}, Logger: slog.New(slog.DiscardHandler)})
	m.must(err)
	t.Cleanup(func() { m.target.Close() })
	keys := filepath.Join(dir, "keys")
	m.must(os.WriteFile(m.config, fmt.Appendf(nil, `data: %q
cluster:
  roles: [logic, fanout, worker]
  node_id: logic-1
  key_file: %q
  signing_keys: %q
  rpc: {listen: %q}
  nodes: [{id: logic-1, rpc: %q, roles: [logic, fanout, worker], worker: 1}]
  store: {kind: tikv, tikv: {pd: [%q], keyspace: %d}}
  bus: {kind: rocketmq, rocketmq: {name_servers: ["127.0.0.1:1"], topic: none}}
`, filepath.Join(dir, "node"), filepath.Join(keys, "cluster.key"), keys, rpc, rpc, pd, m.keys.Keyspace), 0o600))
	return m
}

func (m *moving) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *moving) free() string {
	m.Helper()
	a, err := loopback.Free(0)
	m.must(err)
	return a.String()
}

// gochat runs the program to its end.
func (m *moving) gochat(args ...string) (string, error) {
	out, err := exec.CommandContext(m.ctx, m.binary, args...).CombinedOutput()
	return string(out), err
}

// fill has a server on the data directory store the messages, and stops it.
func (m *moving) fill() {
	m.Helper()
	tcp, web := m.free(), m.free()
	var said bytes.Buffer
	cmd := exec.CommandContext(m.ctx, m.binary, "serve", "--data", m.data, "--tcp", tcp, "--http", web)
	cmd.Env = append(os.Environ(), "GOCHAT_LIMITS__SENDS_PER_SECOND=100000", "GOCHAT_LIMITS__USER_SENDS_PER_SECOND=100000", "GOCHAT_LIMITS__BYTES_PER_SECOND=100000000")
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.must(cmd.Start())
	defer func() {
		m.must(cmd.Process.Signal(syscall.SIGTERM))
		if err := cmd.Wait(); err != nil {
			m.Fatalf("the server ended: %v\n%s", err, said.String())
		}
	}()
	for {
		res, err := http.Get("http://" + web + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				break
			}
		}
		if m.ctx.Err() != nil {
			m.Fatalf("the server isn't ready: %v\n%s", err, said.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
	keys, err := account.LoadKeys(m.data)
	m.must(err)
	for i := range movedSenders {
		res, err := http.Post("http://"+web+"/api/v1/auth/register", "application/json", strings.NewReader(fmt.Sprintf(`{"name":"user%d","password":"long enough"}`, i)))
		m.must(err)
		res.Body.Close()
	}
	var senders sync.WaitGroup
	defer senders.Wait()
	for i := range movedSenders {
		user, peer := fmt.Sprint("user", i), id.UserID(fmt.Sprint("user", (i+1)%movedSenders))
		c, err := gochat.Open(gochat.Config{Address: tcp, Device: "d", Handler: func(gochat.Event) {}, Token: func(context.Context) (string, error) {
			return account.MintToken(keys, account.DefaultIssuer, id.UserID(user), "", time.Now(), time.Hour)
		}})
		m.must(err)
		senders.Go(func() {
			defer c.Close()
			window := make([]*gochat.Receipt, 0, 8)
			for n := range movedMessages / movedSenders {
				r, err := c.Send(m.ctx, gochat.ToUser(peer), gochat.Text(fmt.Sprintf("message %d of %s: %s", n, user, strings.Repeat("x", n%120))))
				if err == nil {
					window = append(window, r)
				}
				if err == nil && len(window) == cap(window) {
					_, err = window[0].Wait(m.ctx)
					window = append(window[:0], window[1:]...)
				}
				if err != nil {
					m.Errorf("%s: %v", user, err)
					return
				}
			}
			for _, r := range window {
				if _, err := r.Wait(m.ctx); err != nil {
					m.Errorf("%s: %v", user, err)
				}
			}
		})
	}
	senders.Wait()
}

// rows returns the rows that a store takes along, without the keyspace.
func (m *moving) rows(store kv.Store, keys msgstore.Keys) map[string]string {
	m.Helper()
	all := map[string]string{}
	for _, span := range keys.Portable(1) {
		m.must(store.Scan(m.ctx, kv.Span{Start: span[0], End: span[1]}, func(key, value []byte) (bool, error) {
			if !keys.Own(key) {
				all[string(key[msgstore.KeyspaceLen:])] = string(value)
			}
			return true, nil
		}))
	}
	return all
}

// source returns the rows of the data directory.
func (m *moving) source() map[string]string {
	m.Helper()
	s, err := pebblekv.Open(pebblekv.Config{Dir: filepath.Join(m.data, "store"), ReadOnly: true, Logger: slog.New(slog.DiscardHandler)})
	m.must(err)
	defer s.Close()
	return m.rows(s, msgstore.Keys{})
}

// killedAt runs the migration, and kills it when the target has so many rows.
func (m *moving) killedAt(rows int) {
	m.Helper()
	var said bytes.Buffer
	cmd := exec.CommandContext(m.ctx, m.binary, "migrate", "--from", m.data, "--config", m.config)
	cmd.Stdout, cmd.Stderr = &said, &said
	m.must(cmd.Start())
	start, end := m.keys.Whole()
	for there := 0; there < rows; {
		there = 0
		m.must(m.target.Scan(m.ctx, kv.Span{Start: start, End: end, Limit: rows}, func([]byte, []byte) (bool, error) { there++; return true, nil }))
	}
	m.must(cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		m.Errorf("it was through before it was killed at %d rows:\n%s", rows, said.String())
	}
	if _, err := msgstore.OpenMeta(m.ctx, m.target, m.keys, 1); err == nil {
		m.Error("a node would start on half a copy")
	}
}

// A store of 50,000 messages moves into TiKV, in spite of kill -9.
func TestMigrate(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	m := newMoving(t)
	m.fill()
	keys := filepath.Join(filepath.Dir(m.config), "keys")
	if out, err := m.gochat("cluster", "keys", keys, "--from", m.data); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := m.source()
	t.Logf("%d rows", len(want))
	for i := range 3 {
		at := len(want)*i/4 + 1 + rng.IntN(len(want)/4)
		t.Logf("killed at %d rows", at)
		m.killedAt(at)
	}
	for _, name := range []string{"serve", "migrate"} {
		begun := time.Now()
		args := map[string][]string{
			"serve":   {"serve", "--data", m.data, "--tcp", "127.0.0.1:0", "--http", "127.0.0.1:0"},
			"migrate": {"migrate", "--from", m.data, "--config", m.config},
		}[name]
		out, err := m.gochat(args...)
		if (err == nil) != (name == "migrate") {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		t.Logf("%s, %v: %s", name, time.Since(begun).Round(time.Millisecond), out)
	}
	got := m.rows(m.target, m.keys)
	for key, value := range want {
		if got[key] != value {
			t.Fatalf("key %x differs", key)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d rows, want %d", len(got), len(want))
	}
	begun := time.Now()
	out, err := m.gochat("check", "--config", m.config)
	if err != nil || !strings.Contains(out, "0 errors, 0 warnings") {
		t.Errorf("check: %v\n%s", err, out)
	}
	t.Logf("check, %v: %s", time.Since(begun).Round(time.Millisecond), out)
	if out, err := m.gochat("migrate", "--from", m.data, "--config", m.config); err != nil || !strings.Contains(out, "already") {
		t.Errorf("once more: %v\n%s", err, out)
	}
	if out, err := m.gochat("backup", "--config", m.config, filepath.Join(t.TempDir(), "b")); err == nil || !strings.Contains(out, "BR") {
		t.Errorf("backup: %v\n%s", err, out)
	}
	before, err := msgstore.OpenMeta(m.ctx, m.target, m.keys, 1)
	m.must(err)
	if out, err := m.gochat("cluster", "new-epoch", "--config", m.config); err != nil {
		t.Errorf("new-epoch: %v\n%s", err, out)
	}
	if after, err := msgstore.OpenMeta(m.ctx, m.target, m.keys, 1); err != nil || after.Epoch <= before.Epoch {
		t.Errorf("epoch %d after %d, %v", after.Epoch, before.Epoch, err)
	}
	// The audit's hold on old versions is no other collector.
	if _, err := m.target.CollectGarbage(m.ctx, time.Hour); err != nil {
		t.Error(err)
	}
}
