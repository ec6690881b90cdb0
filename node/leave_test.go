package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
)

// crowd is many people, two and two of whom talk with each other.
type crowd struct {
	s      *several
	people []*member
	over   atomic.Bool // they are to stop talking
	wg     sync.WaitGroup
}

// member is one of them, and what they and the other one said.
type member struct {
	*gochat.Client
	name, other string

	mu       sync.Mutex
	heard    map[uint64]string // by seq
	repeated []string
	last     uint64 // seq
	disorder []string
	said     map[uint64]string
}

// inEtcd has the usual nodes find each other in etcd, and edges tell where clients reach them.
func (s *several) inEtcd() (client *clientv3.Client, change func(*Config, *Program)) {
	srv := etcdtest.Start(s.t)
	return srv.Client(), func(c *Config, p *Program) {
		p.Nodes, c.Cluster.Etcd.Endpoints = nil, []string{srv.URL()}
		c.TCP.Listen = freeAddress(s.t)
		c.Cluster.Clients = []string{c.TCP.Listen}
		c.Limits.ConnectsPerAddress, c.Drain.Deadline = 5000, 20*time.Second // nobody is waited for longer than they take
	}
}

// gather connects n people at an edge.
func (s *several) gather(n int, edge string) *crowd {
	s.t.Helper()
	crypt, err := account.ReadKeys(s.keys)
	if err != nil {
		s.t.Fatal(err)
	}
	c := &crowd{s: s}
	address := s.in[edge].TCPAddr().String()
	for i := range n {
		m := &member{name: fmt.Sprintf("u%03d", i), other: fmt.Sprintf("u%03d", i^1), heard: map[uint64]string{}, said: map[uint64]string{}}
		if _, cerr := s.in["logic-1"].logic.Accounts.Create(s.ctx, m.name, ""); cerr != nil {
			s.t.Fatal(cerr)
		}
		if m.Client, err = gochat.Open(gochat.Config{
			Address: address, Device: "d", Handler: m.hear,
			Token: func(context.Context) (string, error) {
				return account.MintToken(crypt, account.DefaultIssuer, id.UserID(m.name), "", time.Now(), time.Minute)
			},
		}); err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { _ = m.Close() })
		c.people = append(c.people, m)
	}
	for _, m := range c.people {
		if err := m.Connected(s.ctx); err != nil {
			s.t.Fatalf("%s at %s: %v", m.name, edge, err)
		}
	}
	return c
}

func (m *member) hear(e gochat.Event) {
	r, ok := e.(gochat.MessageReceived)
	if !ok || string(r.Message.Sender) == m.name {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.heard[r.Message.Seq]; ok {
		m.repeated = append(m.repeated, fmt.Sprint(r.Message.Seq))
	}
	if r.Message.Seq < m.last {
		m.disorder = append(m.disorder, fmt.Sprint(r.Message.Seq, " after ", m.last))
	}
	m.last = r.Message.Seq
	m.heard[r.Message.Seq] = r.Message.Text
}

// talk has everybody say something 4 times a second, each when the last is stored, until the crowd is told to stop.
func (c *crowd) talk() {
	for _, m := range c.people {
		c.wg.Go(func() {
			pace := time.NewTicker(250 * time.Millisecond)
			defer pace.Stop()
			for i := 0; !c.over.Load(); i++ {
				text := fmt.Sprintf("%s %d", m.name, i)
				r, err := m.Send(c.s.ctx, gochat.ToUser(id.UserID(m.other)), gochat.Text(text))
				if err == nil {
					var ack gochat.Ack
					if ack, err = r.Wait(c.s.ctx); err == nil {
						m.said[ack.Seq] = text
					}
				}
				if err != nil {
					c.s.t.Errorf("%s says %q: %v", m.name, text, err)
					return
				}
				<-pace.C
			}
		})
	}
}

// settle ends the talk and waits until everybody has heard everything, once and in order.
func (c *crowd) settle() {
	c.s.t.Helper()
	c.over.Store(true)
	c.wg.Wait()
	total := 0
	for i, m := range c.people {
		other := c.people[i^1]
		total += len(m.said)
		for seq, text := range m.said {
			for {
				other.mu.Lock()
				got, ok := other.heard[seq]
				other.mu.Unlock()
				if ok {
					if got != text {
						c.s.t.Fatalf("%s heard %q as message %d, want %q", other.name, got, seq, text)
					}
					break
				}
				select {
				case <-c.s.ctx.Done():
					c.s.t.Fatalf("%s never heard message %d, %q", other.name, seq, text)
				case <-time.After(5 * time.Millisecond):
				}
			}
		}
	}
	for i, m := range c.people {
		m.mu.Lock()
		if len(m.repeated) > 0 || len(m.disorder) > 0 || len(m.heard) != len(c.people[i^1].said) {
			c.s.t.Errorf("%s heard %d messages of %d, twice: %v, in disorder: %v", m.name, len(m.heard), len(c.people[i^1].said), m.repeated, m.disorder)
		}
		m.mu.Unlock()
	}
	c.s.t.Logf("%d people said %d messages: none was lost, repeated, or out of order", len(c.people), total)
}

// histories checks that the conversations of every so many people have no gaps and hold what was said.
func (c *crowd) histories(every int) {
	c.s.t.Helper()
	for i := 0; i < len(c.people); i += every &^ 1 {
		m, other := c.people[i], c.people[i+1]
		list := c.s.history(&person{Client: m.Client, name: m.name}, id.Direct(id.UserID(m.name), id.UserID(m.other)))
		if want := len(m.said) + len(other.said); len(list) != want {
			c.s.t.Errorf("%s and %s have %d messages, want %d", m.name, m.other, len(list), want)
		}
	}
}

// connected is how many clients have a session at an edge.
func (s *several) connected(edge string) int {
	st := s.in[edge].edge.Hub.Stats()
	return int(st.Connections - st.Strangers)
}

// sentAway is how many connections an edge closed because it was leaving, or because the other edge's took their place.
func (s *several) sentAway(edge string) (forced, replaced uint64) {
	st := s.in[edge].edge.Hub.Stats()
	return st.Closed[code.Draining], st.Closed[code.Replaced]
}

// Everybody at an edge that drains goes on at the other one, in the middle of talking: because an operator says so, and
// because it ends.
func TestEdgeDrains(t *testing.T) {
	const n = 200
	s := newSeveral(t)
	etcd, change := s.inEtcd()
	s.usual(func(c *Config, p *Program) {
		change(c, p)
		c.Drain.Deadline = time.Minute
		if c.Cluster.NodeID == "edge-2" { // all come from one address, by what they bring with them alone
			c.Limits.ConnectsPerAddress = 10
		}
	})
	c := s.gather(n, "edge-1")
	c.talk()
	s.comes("everybody talks", func() bool {
		return !slices.ContainsFunc(c.people, func(m *member) bool { m.mu.Lock(); defer m.mu.Unlock(); return len(m.heard) == 0 })
	})

	began := time.Now()
	if err := etcdnodes.Drain(s.ctx, etcd, etcdnodes.DefaultPrefix, "edge-1", true); err != nil {
		t.Fatal(err)
	}
	s.comes("everybody is at edge-2", func() bool { return s.connected("edge-1") == 0 && s.connected("edge-2") == n })
	forced, replaced := s.sentAway("edge-1")
	t.Logf("edge-1 drained: %d clients moved in %s, %d were closed, of %d the new connection came first", n, time.Since(began).Round(time.Millisecond), forced, replaced)
	if forced > 0 {
		t.Errorf("%d clients were closed before they had moved", forced)
	}
	if st := s.in["edge-2"].edge.Hub.Stats(); st.Returned < n {
		t.Errorf("edge-2 refused %d connections at the door, and took %d for clients that come back, want all %d", st.RefusedAtDoor, st.Returned, n)
	}
	if err := s.in["edge-1"].ready(func(context.Context) error { return nil })(s.ctx); err == nil {
		t.Error("an edge that drains is ready")
	}

	if err := etcdnodes.Drain(s.ctx, etcd, etcdnodes.DefaultPrefix, "edge-1", false); err != nil {
		t.Fatal(err)
	}
	s.comes("edge-1 is back", func() bool {
		e := s.in["edge-2"].peers.Router.ByID("edge-1")
		leaving, _ := s.in["edge-1"].peers.asked.get()
		return e != nil && !e.Draining && !leaving && len(s.in["edge-2"].peers.elsewhere().Sockets) == 1
	})
	if err := s.in["edge-2"].stop(); err != nil {
		t.Errorf("ending edge-2: %v", err)
	}
	forced, replaced = s.sentAway("edge-2")
	t.Logf("edge-2 ended: %d clients were closed, of %d the new connection came first", forced, replaced)
	if forced > 0 || s.connected("edge-1") != n {
		t.Errorf("%d clients were closed before they had moved, %d are at edge-1", forced, s.connected("edge-1"))
	}
	c.settle()
	c.histories(20)
	s.audit()
}

// Logic nodes come and go while people talk, and nobody sees an error.
func TestLogicNodesComeAndGo(t *testing.T) {
	const n = 60
	s := newSeveral(t)
	etcd, change := s.inEtcd()
	s.usual(func(c *Config, p *Program) {
		change(c, p)
		c.Cluster.Monitor = "127.0.0.1:0"
	})
	ready := func(node string, want int) {
		t.Helper()
		s.comes(fmt.Sprintf("%s answers %d when it is asked whether it is ready", node, want), func() bool {
			resp, err := http.Get("http://" + s.in[node].MonitorAddr().String() + "/readyz")
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			return resp.StatusCode == want
		})
	}
	c := s.gather(n, "edge-1")
	c.talk()
	router := s.in["edge-1"].peers.Router
	ring := func(want ...string) {
		t.Helper()
		s.comes(fmt.Sprint("the ring is ", want), func() bool {
			var owners []string
			for _, l := range router.Logics() {
				if router.Snapshot().Owned(l) > 0 {
					owners = append(owners, l.ID)
				}
			}
			return slices.Equal(owners, want)
		})
	}
	more := func() { // everybody says something under the new ring
		t.Helper()
		var before []uint64
		for _, m := range c.people {
			m.mu.Lock()
			before = append(before, m.last)
			m.mu.Unlock()
		}
		s.comes("everybody goes on talking", func() bool {
			for i, m := range c.people {
				m.mu.Lock()
				last := m.last
				m.mu.Unlock()
				if last <= before[i]+4 {
					return false
				}
			}
			return true
		})
	}
	more()
	s.start("logic-4", 0, "logic", change)
	s.start("logic-5", 0, "logic", change)
	ring("logic-1", "logic-2", "logic-3", "logic-4", "logic-5")
	more()
	for _, node := range []string{"logic-2", "logic-5"} { // one as an operator says, and back again, and one that ends
		if err := etcdnodes.Drain(s.ctx, etcd, etcdnodes.DefaultPrefix, node, true); err != nil {
			t.Fatal(err)
		}
		more()
	}
	ring("logic-1", "logic-3", "logic-4")
	ready("logic-2", http.StatusServiceUnavailable)
	if err := etcdnodes.Drain(s.ctx, etcd, etcdnodes.DefaultPrefix, "logic-2", false); err != nil {
		t.Fatal(err)
	}
	ring("logic-1", "logic-2", "logic-3", "logic-4")
	ready("logic-2", http.StatusOK)
	more()
	for _, node := range []string{"logic-5", "logic-1"} { // drained before, and not
		if err := s.in[node].stop(); err != nil {
			t.Errorf("ending %s: %v", node, err)
		}
		more()
	}
	ring("logic-2", "logic-3", "logic-4")
	more()
	c.settle()
	c.histories(10)
	s.audit()
	t.Logf("SENDs of edge-1: %+v", s.in["edge-1"].peers.logic.Stats())
	if st := s.in["edge-1"].edge.Hub.Stats(); st.Refused[code.Undetermined] > 0 {
		t.Logf("edge-1 told clients %d times to try again", st.Refused[code.Undetermined])
	}
}
