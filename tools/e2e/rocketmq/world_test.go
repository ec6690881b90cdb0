//go:build e2e

// Package rocketmq drives the bus on a real RocketMQ broker, which it fetches and starts.
package rocketmq

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/bus/bustest"
	"github.com/gochat-im/gochat/bus/rocketmq"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/tools/rocketmq/local"
)

// cluster is the one that all tests share. A test that breaks it mends it.
var cluster *local.Cluster

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

func run(m *testing.M) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cache, err := filepath.Abs("../../../.cache")
	if err != nil {
		return 0, err
	}
	lib, err := local.Fetch(ctx, cache, os.Stderr)
	if err != nil {
		return 0, err
	}
	dir, err := local.TempDir()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if cluster, err = local.Start(ctx, local.Config{Dir: dir, Lib: lib, Sync: true}); err != nil {
		return 0, err
	}
	defer cluster.Kill()
	return m.Run(), nil
}

// world is a topic of its own on the shared broker, and what its conversations hold.
type world struct {
	topic string
	set   func(c *rocketmq.Config) // of what Open opens; may be nil

	mu    sync.Mutex
	convs map[id.ConversationID][]stored
}

type stored struct {
	last     uint64
	messages []byte
}

var (
	topics     atomic.Uint64
	publishers atomic.Uint64
)

func newWorld(t testing.TB) *world {
	return &world{topic: fmt.Sprintf("t%d-%d", os.Getpid(), topics.Add(1)), convs: make(map[id.ConversationID][]stored)}
}

func (w *world) config(t testing.TB) rocketmq.Config {
	n := publishers.Add(1)
	return rocketmq.Config{
		NameServers: []string{cluster.NameServer()}, Topic: w.topic, Queues: 4,
		Node: fmt.Sprintf("node-%d", n), Publisher: n, Read: w.read,
		Logger: slog.New(slog.NewTextHandler(output{t}, &slog.HandlerOptions{Level: slog.LevelInfo})),
	}
}

// open opens a bus that the test closes, after its subscriptions.
func (w *world) open(t testing.TB, set func(c *rocketmq.Config)) *rocketmq.Bus {
	t.Helper()
	c := w.config(t)
	if w.set != nil {
		w.set(&c)
	}
	if set != nil {
		set(&c)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	b, err := rocketmq.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return b
}

func (w *world) Open(t testing.TB) bustest.Bus { return w.open(t, nil) }

func (w *world) Append(t testing.TB, b bustest.Bus, conv id.ConversationID, n, size int) bus.Event {
	ev := w.append(conv, n, size)
	if b.Enlist(nil, &ev) {
		t.Fatal("a bus that lies apart from the store enlists")
	}
	return ev
}

func (w *world) append(conv id.ConversationID, n, size int) bus.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	parts := w.convs[conv]
	first := uint64(1)
	if len(parts) > 0 {
		first = parts[len(parts)-1].last + 1
	}
	ev := bus.Event{Conversation: conv, Epoch: bustest.Epoch(), FirstSeq: first, LastSeq: first + uint64(n) - 1}
	ev.Messages = bustest.Messages(conv, ev.FirstSeq, ev.LastSeq, size)
	w.convs[conv] = append(parts, stored{ev.LastSeq, ev.Messages})
	return ev
}

// read is a rocketmq.Read that answers for one append at a time.
func (w *world) read(_ context.Context, conv id.ConversationID, from, to uint64) ([]byte, uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.convs[conv] {
		if p.last >= from {
			return p.messages, min(p.last, to), nil
		}
	}
	return nil, from - 1, nil
}

// output writes a log to that of a test, as long as it runs.
type output struct{ t testing.TB }

func (o output) Write(p []byte) (int, error) {
	defer func() { _ = recover() }() // goroutines of the library outlive the test
	o.t.Logf("%s", p)
	return len(p), nil
}

func TestConformance(t *testing.T) {
	bustest.Run(t, bustest.Config{
		Parallel: true, Patience: 90 * time.Second,
		World: func(t testing.TB) bustest.World {
			w := newWorld(t)
			w.set = func(c *rocketmq.Config) { c.InPlace = 200 * time.Millisecond }
			return w
		},
	})
}
