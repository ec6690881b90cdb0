package settings_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/settings"
)

const prefix = "/test"

// node is what a node makes of its settings: numbers are in force, everything else is refused.
type node struct {
	mu      sync.Mutex
	values  map[string]string
	calls   []string
	refused []string
}

func (n *node) apply(key string, value []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, fmt.Sprintf("%s=%s", key, value))
	switch {
	case value == nil:
		delete(n.values, key)
	case string(value) == "panic":
		panic("at the value")
	case strings.Trim(string(value), "0123456789") != "":
		return errors.New("want a number")
	default:
		n.values[key] = string(value)
	}
	return nil
}

func (n *node) outcome(key string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		n.refused = append(n.refused, key)
	}
}

func (n *node) inForce() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var s []string
	for _, k := range slices.Sorted(maps.Keys(n.values)) {
		s = append(s, k+"="+n.values[k])
	}
	return strings.Join(s, " ")
}

func (n *node) called() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.calls)
}

func (n *node) has(t testing.TB, want string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); n.inForce() != want; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after 20 s %q is in force, want %q", n.inForce(), want)
		}
	}
}

func limit(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func open(t testing.TB, c *clientv3.Client) (*node, *settings.Settings) {
	t.Helper()
	n := &node{values: map[string]string{}}
	s, err := settings.Open(limit(t), settings.Config{Client: c, Prefix: prefix, Apply: n.apply, Outcome: n.outcome})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return n, s
}

func put(t testing.TB, c *clientv3.Client, key, value string) int64 {
	t.Helper()
	r, err := c.Put(limit(t), settings.Key(prefix, key), value)
	if err != nil {
		t.Fatal(err)
	}
	return r.Header.Revision
}

func remove(t testing.TB, c *clientv3.Client, key string) {
	t.Helper()
	if _, err := c.Delete(limit(t), settings.Key(prefix, key)); err != nil {
		t.Fatal(err)
	}
}

func TestValuesAreApplied(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client()
	put(t, c, "limits/size", "5")
	put(t, c, "limits/bad", "much")
	if _, err := c.Put(limit(t), prefix+"/other", "1"); err != nil {
		t.Fatal(err)
	}
	a, s := open(t, c)
	b, _ := open(t, c)
	if got := a.inForce(); got != "limits/size=5" {
		t.Errorf("in force after the start: %q", got)
	}
	put(t, c, "limits/rate", "7")
	put(t, c, "limits/size", "6")
	for _, n := range []*node{a, b} {
		n.has(t, "limits/rate=7 limits/size=6")
	}

	// Bad values are refused and counted, and what was in force stays.
	put(t, c, "limits/size", "many")
	put(t, c, "limits/rate", "panic")
	put(t, c, "limits/long", strings.Repeat("1", settings.MaxValue+1))
	put(t, c, "end", "1")
	a.has(t, "end=1 limits/rate=7 limits/size=6")
	if want := []string{"limits/bad", "limits/size", "limits/rate", "limits/long"}; s.Refused() != 4 || !slices.Equal(a.refused, want) {
		t.Errorf("%d are refused: %q, want %q", s.Refused(), a.refused, want)
	}

	// Removed ones have their default again; an empty value is a value.
	remove(t, c, "limits/size")
	remove(t, c, "limits/never")
	put(t, c, "empty", "")
	a.has(t, "empty= end=1 limits/rate=7")
	s.Close()
	put(t, c, "limits/size", "8")
	b.has(t, "empty= end=1 limits/rate=7 limits/size=8")
	if a.inForce() != "empty= end=1 limits/rate=7" {
		t.Error("applied after Close")
	}
}

// Whoever was away catches up, whether etcd still knows each change or not, and nothing is applied twice.
func TestCatchesUp(t *testing.T) {
	for _, compact := range []bool{false, true} {
		t.Run(fmt.Sprintf("compacted=%v", compact), func(t *testing.T) {
			t.Parallel()
			srv := etcdtest.Start(t)
			p := srv.Proxy()
			c := srv.Client()
			put(t, c, "same", "1")
			put(t, c, "bad", "x")
			put(t, c, "removed", "1")
			n, s := open(t, etcdtest.Client(t, p.URL()))
			n.has(t, "removed=1 same=1")
			p.Cut()
			put(t, c, "new", "1")
			remove(t, c, "removed")
			rev := put(t, c, "new", "2")
			if compact {
				if _, err := c.Compact(limit(t), rev); err != nil {
					t.Fatal(err)
				}
			}
			srv.Restart()
			if n.inForce() != "removed=1 same=1" {
				t.Errorf("while etcd is away %q is in force", n.inForce())
			}
			p.Heal()
			n.has(t, "new=2 same=1")
			put(t, c, "end", "1")
			n.has(t, "end=1 new=2 same=1")
			count := 0
			for _, call := range n.called() {
				if call == "same=1" || call == "bad=x" {
					count++
				}
			}
			if count != 2 || s.Refused() != 1 {
				t.Errorf("calls: %q", n.called())
			}
		})
	}
}

func TestEtcdForgets(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client()
	for range 50 {
		put(t, c, "a", "1")
	}
	n, _ := open(t, c)
	n.has(t, "a=1")
	srv.Wipe()
	put(t, c, "b", "1")
	n.has(t, "b=1")
}

func TestConfig(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	c := etcdtest.Client(t, "http://127.0.0.1:1")
	apply := func(string, []byte) error { return nil }
	for _, cfg := range []settings.Config{{}, {Client: c}, {Apply: apply}, {Client: c, Apply: apply, Prefix: "x"}, {Client: c, Apply: apply}} {
		if _, err := settings.Open(ctx, cfg); err == nil {
			t.Errorf("opened with %+v", cfg)
		}
	}
}
