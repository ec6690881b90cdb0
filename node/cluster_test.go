package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus/loopbus"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv/loopkv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/nodes"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
	"github.com/gochat-im/gochat/tools/loopback"
)

// several is a cluster in this process: nodes on one store and one bus, both served over loopback,
// which reach each other over loopback too.
type several struct {
	t     *testing.T
	ctx   context.Context
	keys  string // directory of what they share
	store *memory.Store
	kv    *loopkv.Server
	bus   *loopbus.Server
	list  *nodes.Static
	in    map[string]*running // by node id
	log   *slog.Logger
}

func newSeveral(t *testing.T) *several {
	t.Helper()
	s := &several{t: t, keys: t.TempDir(), store: memory.New(memory.Config{NoStamps: true}), in: map[string]*running{}, log: slog.New(slog.DiscardHandler)}
	if os.Getenv("GOCHAT_TEST_LOG") != "" {
		s.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithTimeout(context.Background(), 4*time.Minute)
	t.Cleanup(cancel)
	err := errors.Join(account.CreateKeys(s.keys), config.CreateClusterKey(filepath.Join(s.keys, "cluster.key")))
	if err != nil {
		t.Fatal(err)
	}
	if s.kv, err = loopkv.Serve(s.store, "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.kv.Close() })
	if s.bus, err = loopbus.Serve("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.bus.Close() })
	if s.list, err = nodes.NewStatic(); err != nil {
		t.Fatal(err)
	}
	return s
}

// start starts a node, and shows it to the others. change may be nil.
func (s *several) start(name string, worker uint32, roles string, change func(*Config, *Program)) *running {
	s.t.Helper()
	cfg := Default()
	cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen = s.t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	c := &cfg.Cluster
	c.Roles, c.NodeID, c.KeyFile, c.SigningKeys, c.RPC.Listen = strings.Fields(roles), name, filepath.Join(s.keys, "cluster.key"), s.keys, freeAddress(s.t)
	in := Program{Version: "test", Logger: s.log.With("node", name), Nodes: s.list}
	store, err := loopkv.Open(s.ctx, s.kv.Addr())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = store.Close() })
	in.Store, in.Bus = store, loopbus.New(s.bus.Addr())
	if change != nil {
		change(&cfg, &in)
	}
	if in.Nodes != nil {
		parsed, err := nodes.ParseRoles(c.Roles)
		if err != nil {
			s.t.Fatal(err)
		}
		s.show(nodes.Node{ID: name, Worker: worker, RPC: c.RPC.Listen, Roles: parsed, Start: nodes.NewStart()})
	}
	n, err := New(cfg, in)
	if err != nil {
		s.t.Fatalf("%s: %v", name, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	r := &running{Node: n}
	r.stop = func() error {
		cancel()
		select {
		case err := <-ended:
			ended <- err
			return err
		case <-time.After(2 * time.Minute):
			return fmt.Errorf("%s didn't end", name)
		}
	}
	s.t.Cleanup(func() { _ = r.stop() })
	s.in[name] = r
	return r
}

// show puts a node among those that all know.
func (s *several) show(n nodes.Node) {
	s.t.Helper()
	var all []nodes.Node
	for _, o := range s.list.View().Nodes() {
		all = append(all, *o)
	}
	if err := s.list.Set(append(all, n)...); err != nil {
		s.t.Fatal(err)
	}
}

// hide takes a node from among them.
func (s *several) hide(name string) {
	s.t.Helper()
	var left []nodes.Node
	for _, o := range s.list.View().Nodes() {
		if o.ID != name {
			left = append(left, *o)
		}
	}
	if err := s.list.Set(left...); err != nil {
		s.t.Fatal(err)
	}
}

// kill ends a node as kill -9 does, as far as the others can tell: its connections break, and nothing is handed over.
func (s *several) kill(name string) {
	s.t.Helper()
	n := s.in[name]
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.peers.server.Shutdown(ended)
	n.peers.Pool.Close()
	n.storeFailed(errKilled)
	if err := n.stop(); !errors.Is(err, errKilled) {
		s.t.Errorf("killing %s: %v", name, err)
	}
}

var errKilled = errors.New("killed")

// freeAddress returns a loopback address on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	a, err := loopback.Free(0)
	if err != nil {
		t.Fatal(err)
	}
	return a.String()
}

// usual starts the usual nodes: 3 logic, 1 fanout, 1 worker, 2 edges.
func (s *several) usual(change func(*Config, *Program)) {
	s.t.Helper()
	for i := range 3 {
		s.start(fmt.Sprintf("logic-%d", i+1), uint32(i+1), "logic", change)
	}
	s.start("fanout-1", 11, "fanout", change)
	s.start("worker-1", 21, "worker", change)
	for i := range 2 {
		s.start(fmt.Sprintf("edge-%d", i+1), uint32(31+i), "edge", func(c *Config, p *Program) {
			p.Store, p.Bus = nil, nil // an edge has none
			if change != nil {
				change(c, p)
			}
		})
	}
}

// person is somebody with one device.
type person struct {
	*gochat.Client
	name string

	mu  sync.Mutex
	got map[id.ConversationID]map[uint64]string
}

// token lets a user in, for a minute.
func (s *several) token(name string) string {
	s.t.Helper()
	crypt, err := account.ReadKeys(s.keys)
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := account.MintToken(crypt, account.DefaultIssuer, id.UserID(name), "", time.Now(), time.Minute)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// actor connects a user at an edge.
func (s *several) actor(name, edge string) *person {
	s.t.Helper()
	crypt, err := account.ReadKeys(s.keys)
	if err != nil {
		s.t.Fatal(err)
	}
	a := &person{name: name, got: map[id.ConversationID]map[uint64]string{}}
	a.Client, err = gochat.Open(gochat.Config{
		Address: s.in[edge].TCPAddr().String(), Device: "d",
		Token: func(context.Context) (string, error) {
			return account.MintToken(crypt, account.DefaultIssuer, id.UserID(name), "", time.Now(), time.Minute)
		},
		Handler: func(e gochat.Event) {
			if m, ok := e.(gochat.MessageReceived); ok {
				a.mu.Lock()
				defer a.mu.Unlock()
				if a.got[m.Message.Conversation] == nil {
					a.got[m.Message.Conversation] = map[uint64]string{}
				}
				a.got[m.Message.Conversation][m.Message.Seq] = m.Message.Text
			}
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = a.Close() })
	if err := a.Connected(s.ctx); err != nil {
		s.t.Fatalf("%s at %s: %v", name, edge, err)
	}
	return a
}

// register makes accounts, over the HTTP API of an edge.
func (s *several) register(edge string, names ...string) {
	s.t.Helper()
	for _, name := range names {
		body := strings.NewReader(fmt.Sprintf(`{"name":%q,"password":"long enough","device_id":"d"}`, name))
		resp, err := http.Post("http://"+s.in[edge].HTTPAddr().String()+"/api/v1/auth/register", "application/json", body)
		if err != nil {
			s.t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 {
			s.t.Fatalf("registering %s: %s %s", name, resp.Status, text)
		}
	}
}

// say sends a text and returns its seq.
func (s *several) say(a *person, to gochat.Target, text string) uint64 {
	s.t.Helper()
	r, err := a.Send(s.ctx, to, gochat.Text(text))
	if err != nil {
		s.t.Fatalf("%s says %q: %v", a.name, text, err)
	}
	ack, err := r.Wait(s.ctx)
	if err != nil {
		s.t.Fatalf("%s says %q: %v", a.name, text, err)
	}
	return ack.Seq
}

// hears waits until a was brought message seq of conv.
func (s *several) hears(a *person, conv id.ConversationID, seq uint64) {
	s.t.Helper()
	for {
		a.mu.Lock()
		_, ok := a.got[conv][seq]
		a.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-s.ctx.Done():
			s.t.Fatalf("%s never got message %d of %s", a.name, seq, conv)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// history returns the whole of a conversation as a sees it, the last first, and fails if it has gaps.
func (s *several) history(a *person, conv id.ConversationID) (all []string) {
	s.t.Helper()
	var list []gochat.Message
	for before, more := uint64(0), true; more; {
		var page []gochat.Message
		var err error
		if page, more, err = a.History(s.ctx, conv, before, 50); err != nil {
			s.t.Fatalf("%s reads %s: %v", a.name, conv, err)
		}
		if len(page) > 0 {
			list = append(slices.Clone(page), list...)
			before = page[0].Seq
		}
	}
	for i, m := range list {
		if m.Seq != list[0].Seq+uint64(i) {
			s.t.Fatalf("%s sees message %d of %s in the place of %d", a.name, m.Seq, conv, list[0].Seq+uint64(i))
		}
		all = append(all, fmt.Sprintf("%d %d %s %s", m.Seq, m.ID, m.Sender, m.Text))
	}
	slices.Reverse(all)
	return all
}

// audit audits the store, and fails on errors.
func (s *several) audit() {
	s.t.Helper()
	err := msgstore.Check(s.ctx, s.store, msgstore.Keys{}, func(f msgstore.Finding) {
		if f.Severity == msgstore.Error {
			s.t.Errorf("audit: %s", f)
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func TestPeopleAtSeveralEdges(t *testing.T) {
	s := newSeveral(t)
	s.usual(nil)
	s.register("edge-2", "ann", "ben", "cat")
	ann, ben, cat := s.actor("ann", "edge-1"), s.actor("ben", "edge-2"), s.actor("cat", "edge-1")
	dm := id.Direct("ann", "ben")
	s.hears(ben, dm, s.say(ann, gochat.ToUser("ben"), "hello"))
	s.hears(ann, dm, s.say(ben, gochat.ToUser("ann"), "hello yourself"))

	g, err := ann.CreateGroup(s.ctx, gochat.NewGroup{Name: "all", Users: []id.UserID{"ben", "cat"}})
	if err != nil {
		t.Fatal(err)
	}
	group := g.Conversation
	for _, a := range []*person{ann, ben, cat} {
		seq := s.say(a, gochat.ToConversation(group), "from "+a.name)
		for _, b := range []*person{ann, ben, cat} {
			if a != b {
				s.hears(b, group, seq)
			}
		}
	}

	// While everybody talks one logic node leaves in good order, and another one dies.
	const each = 150
	var wg sync.WaitGroup
	halfway := make(chan struct{}, 8)
	for _, talk := range []struct {
		a  *person
		to gochat.Target
	}{
		{ann, gochat.ToUser("ben")}, {ben, gochat.ToUser("ann")}, {cat, gochat.ToUser("ann")}, {ann, gochat.ToConversation(group)}, {ben, gochat.ToConversation(group)}, {cat, gochat.ToConversation(group)},
	} {
		wg.Go(func() {
			var waiting []*gochat.Receipt
			for i := range each {
				r, err := talk.a.Send(s.ctx, talk.to, gochat.Text(fmt.Sprintf("%s %d", talk.a.name, i)))
				if err != nil {
					t.Errorf("%s: %v", talk.a.name, err)
					return
				}
				if waiting = append(waiting, r); len(waiting) == 4 {
					if _, err := waiting[0].Wait(s.ctx); err != nil {
						t.Errorf("%s: message %d: %v", talk.a.name, i, err)
						return
					}
					waiting = waiting[1:]
				}
				if i%(each/3) == 1 {
					halfway <- struct{}{}
				}
			}
			for _, r := range waiting {
				if _, err := r.Wait(s.ctx); err != nil {
					t.Errorf("%s: %v", talk.a.name, err)
				}
			}
		})
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	<-halfway
	s.hide("logic-1")
	if err := s.in["logic-1"].stop(); err != nil {
		t.Errorf("stopping a logic node: %v", err)
	}
	for range 8 {
		select {
		case <-halfway:
		case <-ended:
		}
	}
	s.kill("logic-2")
	s.hide("logic-2") // its lease has lapsed
	go func() {
		for range halfway {
		}
	}()
	wg.Wait()
	close(halfway)
	if t.Failed() {
		return
	}
	for _, c := range []struct {
		conv   id.ConversationID
		people []*person
		want   int // messages that the first sees
	}{
		{dm, []*person{ann, ben}, 2 + 2*each}, {id.Direct("ann", "cat"), []*person{ann, cat}, each},
		{group, []*person{ann, ben, cat}, 2 + 3 + 3*each}, // made, and two brought in
	} {
		first := s.history(c.people[0], c.conv)
		if len(first) != c.want {
			t.Errorf("%s has %d messages, want %d", c.conv, len(first), c.want)
		}
		for _, a := range c.people {
			own := s.history(a, c.conv)
			if len(own) < len(first)-1 || !slices.Equal(first[:len(own)], own) { // who was brought in doesn't see what was before
				t.Errorf("%s and %s see different histories of %s", c.people[0].name, a.name, c.conv)
			}
			for _, m := range own {
				said := strings.Fields(m)
				if said[2] != a.name && slices.Contains([]string{"ann", "ben", "cat"}, said[3]) {
					seq, _ := strconv.ParseUint(said[0], 10, 64)
					s.hears(a, c.conv, seq)
				}
			}
		}
	}
	s.audit()
}

// The same nodes find each other in etcd, and one that leaves is not missed.
func TestNodesFindEachOther(t *testing.T) {
	s := newSeveral(t)
	endpoint := etcdtest.Start(t).URL()
	s.usual(func(c *Config, p *Program) {
		p.Nodes, c.Cluster.Etcd.Endpoints = nil, []string{endpoint}
	})
	s.register("edge-1", "ann", "ben")
	ann, ben := s.actor("ann", "edge-1"), s.actor("ben", "edge-2")
	s.hears(ben, id.Direct("ann", "ben"), s.say(ann, gochat.ToUser("ben"), "one"))
	for i := range 2 {
		if err := s.in[fmt.Sprintf("logic-%d", i+1)].stop(); err != nil {
			t.Error(err)
		}
		s.hears(ben, id.Direct("ann", "ben"), s.say(ann, gochat.ToUser("ben"), fmt.Sprint("still here ", i)))
	}
	s.audit()
}
