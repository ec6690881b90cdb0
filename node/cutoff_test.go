package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// gate stands before an address. While it is shut connections through it end, and no more are let through.
type gate struct {
	ln net.Listener
	to string

	mu    sync.Mutex
	shut  bool
	conns map[net.Conn]struct{}
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{ln: ln, to: to, conns: map[net.Conn]struct{}{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { g.pass(c) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); g.set(true); wg.Wait() })
	return g
}

// pass brings what comes on c to the other side, and back.
func (g *gate) pass(c net.Conn) {
	defer c.Close()
	d, err := net.Dial("tcp", g.to)
	if err != nil {
		return
	}
	defer d.Close()
	g.mu.Lock()
	if g.shut {
		g.mu.Unlock()
		return
	}
	g.conns[c], g.conns[d] = struct{}{}, struct{}{}
	g.mu.Unlock()
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{c, d}, {d, c}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_ = c.Close()
			_ = d.Close()
		})
	}
	both.Wait()
	g.mu.Lock()
	delete(g.conns, c)
	delete(g.conns, d)
	g.mu.Unlock()
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	if shut {
		for c := range g.conns {
			_ = c.Close()
		}
	}
}

// An edge that reaches no logic node says so, by errors after which clients try again; it acknowledges nothing, its
// breakers keep calls back, and when the way is free everything goes on by itself.
func TestEdgeCutOff(t *testing.T) {
	s := newSeveral(t)
	s.start("logic-1", 1, "logic", s.watched)
	s.start("logic-2", 2, "logic", s.watched)
	s.start("fanout-1", 11, "fanout", s.watched)
	edge := func(_ *Config, p *Program) { p.Store, p.Bus = nil, nil }
	s.start("edge-2", 32, "edge", edge)

	// edge-1 knows the logic nodes by addresses that can be shut.
	var gates []*gate
	shut := func(on bool) {
		for _, g := range gates {
			g.set(on)
		}
	}
	s.start("edge-1", 31, "edge", func(c *Config, p *Program) {
		edge(c, p)
		all := []nodes.Node{{ID: "edge-1", Worker: 31, RPC: c.Cluster.RPC.Listen, Roles: nodes.Edge, Start: nodes.NewStart()}}
		for _, n := range s.list.View().Nodes() {
			o := *n
			if n.Roles.Has(nodes.Logic) {
				gates = append(gates, newGate(t, n.RPC))
				o.RPC = gates[len(gates)-1].ln.Addr().String()
			}
			all = append(all, o)
		}
		own, err := nodes.NewStatic(all...)
		if err != nil {
			t.Fatal(err)
		}
		p.Nodes = own
	})
	s.register("edge-2", "ann", "ben")
	ann, ben := s.actor("ann", "edge-1"), s.actor("ben", "edge-2")
	dm := id.Direct("ann", "ben")
	s.hears(ben, dm, s.say(ann, gochat.ToUser("ben"), "before"))
	token := s.token("ann")

	shut(true)
	var receipts []*gochat.Receipt
	for i := range 3 {
		r, err := ann.Send(s.ctx, gochat.ToUser("ben"), gochat.Text(fmt.Sprint("meanwhile ", i)))
		if err != nil {
			t.Fatal(err)
		}
		receipts = append(receipts, r)
	}
	// Programs are refused, with a code after which they may try again.
	refused := func(to id.UserID) {
		t.Helper()
		req, err := http.NewRequestWithContext(s.ctx, "POST", "http://"+s.in["edge-1"].HTTPAddr().String()+"/api/v1/messages", strings.NewReader(fmt.Sprintf(`{"receiver_id":%q,"content":"by a program"}`, to)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		var e struct{ Error struct{ Code code.Code } }
		if err := json.Unmarshal(text, &e); err != nil || resp.StatusCode < 500 || !code.New(e.Error.Code).Retryable() {
			t.Fatalf("cut off, a program is answered %s %s", resp.Status, text)
		}
	}
	breakers := func(state string) func() bool {
		return func() bool {
			called, _ := s.in["edge-1"].peers.Pool.Stats()
			n := 0
			for _, c := range called {
				if c.Breaker == state {
					n++
				}
			}
			return n == len(gates)
		}
	}
	// What asks for users asks both logic nodes.
	var asked []id.UserID
	for i := range 16 {
		asked = append(asked, id.UserID(fmt.Sprint("somebody", i)))
	}
	ask := func() {
		for _, u := range asked {
			_, _, _ = ann.History(s.ctx, id.Direct("ann", u), 0, 1) // there is no such conversation, in the end
		}
	}
	refused("ben")
	s.comes("all breakers open", func() bool {
		for _, u := range asked {
			refused(u)
		}
		return breakers("open")()
	})
	now, cancel := context.WithCancel(s.ctx)
	cancel()
	for i, r := range receipts {
		select {
		case <-r.Done():
			ack, err := r.Wait(now)
			t.Errorf("cut off, message %d is answered: %+v %v", i, ack, err)
		default:
		}
	}
	if got := s.history(ben, dm); len(got) != 1 {
		t.Errorf("stored while the edge was cut off: %v", got)
	}

	shut(false)
	for i, r := range receipts {
		ack, err := r.Wait(s.ctx)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		s.hears(ben, dm, ack.Seq)
	}
	s.hears(ann, dm, s.say(ben, gochat.ToUser("ann"), "after"))
	s.comes("all breakers closed", func() bool { ask(); return breakers("closed")() })
	if got := s.history(ben, dm); len(got) != 5 {
		t.Errorf("stored in the end: %v", got)
	}
	s.audit()
}
