package remote_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/link"
	"github.com/gochat-im/gochat/services/remote"
	"github.com/gochat-im/gochat/services/rpc"
)

var edgeNode = nodes.Node{ID: "edge-1", Worker: 100, Roles: nodes.Edge, RPC: "127.0.0.1:1", Start: 1}

// logicOf returns the ports of an edge.
func logicOf(t testing.TB, v view, p *remote.Pool) *remote.Logic {
	t.Helper()
	l, err := remote.NewLogic(remote.LogicConfig{Router: v.Router, Pool: p})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCallsGoToTheOwner(t *testing.T) {
	a, b := start(t, 1, nil), start(t, 2, nil)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view, b.view}, a, b)
	l := logicOf(t, v, pool(t, nil))
	for _, n := range []*logicNode{a, b} {
		_, _, conv := between(v, n)
		if _, err := l.State(soon(t), alice, conv); err != nil {
			t.Errorf("of %s: %v", n.ID, err)
		}
		if n.Stats().Total != 1 {
			t.Errorf("%s was called %d times, want once", n.ID, n.Stats().Total)
		}
	}
}

// Nodes may see the ring differently for a moment.
func TestWrongNode(t *testing.T) {
	a, b := start(t, 1, nil), start(t, 2, nil)
	v := newView(t, edgeNode)
	agree(t, []view{a.view, b.view}, b)
	agree(t, []view{v}, a)
	l := logicOf(t, v, pool(t, nil))
	_, _, conv := between(v, a)
	if _, err := l.State(soon(t), alice, conv); err != nil {
		t.Fatal(err)
	}
	if a.Stats().Total != 1 || b.Stats().Total != 1 {
		t.Errorf("calls: %d and %d, want one each: the second goes where the first said", a.Stats().Total, b.Stats().Total)
	}
	// Each sends to the other: the one that is asked again serves it.
	agree(t, []view{a.view}, b)
	agree(t, []view{b.view}, a)
	if _, err := l.State(soon(t), alice, conv); err != nil {
		t.Fatal(err)
	}
	if a.Stats().Total+b.Stats().Total != 5 {
		t.Errorf("calls: %d and %d, want three more", a.Stats().Total, b.Stats().Total)
	}
}

func TestNobodyElseIsServed(t *testing.T) {
	a := start(t, 1, nil)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	_, _, conv := between(v, a)
	wantRefused := func(t *testing.T) {
		t.Helper()
		if a.Stats().Total != 0 {
			t.Error("a stranger's call got as far as a handler")
		}
	}
	t.Run("another key", func(t *testing.T) {
		l := logicOf(t, v, pool(t, func(c *remote.PoolConfig) { c.Keys = link.Keys{bytes.Repeat([]byte("x"), link.MinKey)} }))
		_, err := l.State(soon(t), alice, conv)
		if !errors.Is(err, code.New(code.Unavailable)) || !remote.Unsent(err) {
			t.Errorf("a call with another key: %v", err)
		}
		wantRefused(t)
	})
	t.Run("no certificate", func(t *testing.T) {
		c, err := tls.Dial("tcp", a.RPC, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"gochat-node/1"}})
		if err == nil {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = c.Write([]byte("hello"))
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("a stranger was answered")
			}
		}
		wantRefused(t)
	})
	t.Run("no TLS", func(t *testing.T) {
		c, err := net.Dial("tcp", a.RPC)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = c.Write(bytes.Repeat([]byte{0x10}, 64))
		for err == nil {
			_, err = c.Read(make([]byte, 64))
		}
		wantRefused(t)
	})
	t.Run("replaced key", func(t *testing.T) { // both are taken while one replaces the other
		next := bytes.Repeat([]byte("n"), link.MinKey)
		b := start(t, 2, func(c *rpc.Config) { c.Keys = link.Keys{clusterKey, next} })
		agree(t, []view{v, b.view}, b)
		for _, keys := range []link.Keys{{clusterKey}, {next, clusterKey}} {
			l := logicOf(t, v, pool(t, func(c *remote.PoolConfig) { c.Keys = keys }))
			if _, err := l.State(soon(t), alice, conv); err != nil {
				t.Error(err)
			}
		}
	})
}

// A node that takes connections and says nothing fails few calls, each of them slowly: two are enough.
func TestSilence(t *testing.T) {
	a := start(t, 1, nil)
	front := newProxy(t, a.RPC)
	a.RPC = front.ln.Addr().String()
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	p := pool(t, func(c *remote.PoolConfig) { c.Failures, c.Silence, c.Open = 1000, time.Nanosecond, time.Minute })
	l := logicOf(t, v, p)
	_, _, conv := between(v, a)
	if _, err := l.State(soon(t), alice, conv); errors.Is(err, code.New(code.Unavailable)) || errors.Is(err, code.New(code.Undetermined)) {
		t.Fatal(err)
	}
	front.hold(true)
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := l.State(ctx, alice, conv); err == nil {
			t.Error("a silent node answered")
		}
		cancel()
	}
	if peers, _ := p.Stats(); peers[0].Failed != 2 || peers[0].Shed == 0 {
		t.Errorf("calls of a silent node: %+v", peers)
	}
}

// Calls of a node that hangs end when it has left, and what may be repeated goes to who took its place.
func TestLeft(t *testing.T) {
	a, b := start(t, 1, nil), start(t, 2, nil)
	front := newProxy(t, a.RPC)
	a.RPC = front.ln.Addr().String()
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view, b.view}, a, b)
	p := pool(t, func(c *remote.PoolConfig) { c.Timeout = time.Hour })
	l := logicOf(t, v, p)
	_, _, conv := between(v, a)
	if _, err := l.State(soon(t), alice, conv); err != nil {
		t.Fatal(err)
	}
	front.hold(true)
	answered := make(chan error, 1)
	go func() {
		_, err := l.State(context.Background(), alice, conv)
		answered <- err
	}()
	for peers, _ := p.Stats(); peers[0].Busy == 0; peers, _ = p.Stats() {
		time.Sleep(time.Millisecond)
	}
	agree(t, []view{v, b.view}, b)
	p.Left(a.RPC)
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if b.Stats().Total != 1 {
		t.Errorf("its successor was called %d times, want once", b.Stats().Total)
	}
}
