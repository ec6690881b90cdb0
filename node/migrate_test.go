package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore/kv/loopkv"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/node/migrate"
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
)

// mover is somebody with one device, who keeps what it stores, and the sign-in, wherever the server is.
type mover struct {
	*several
	grant auth.Grant
	store gochat.Store
}

// at connects the device to a server.
func (m *mover) at(name, addr string) *person {
	m.t.Helper()
	a := &person{name: name, got: map[id.ConversationID]map[uint64]string{}}
	var err error
	a.Client, err = gochat.Open(gochat.Config{
		Address: addr, Device: "d", Store: keep{m.store}, Token: func(context.Context) (string, error) { return m.grant.AccessToken, nil },
		Handler: func(e gochat.Event) {
			if r, ok := e.(gochat.MessageReceived); ok {
				a.mu.Lock()
				defer a.mu.Unlock()
				if a.got[r.Message.Conversation] == nil {
					a.got[r.Message.Conversation] = map[uint64]string{}
				}
				a.got[r.Message.Conversation][r.Message.Seq] = r.Message.Text
			}
		},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = a.Close() })
	if err := a.Connected(m.ctx); err != nil {
		m.t.Fatalf("%s: %v", name, err)
	}
	return a
}

// world is all that a sees: conversations with their cursors, settings and messages, and whom a has blocked.
func (s *several) world(a *person) (lines []string) {
	s.t.Helper()
	inbox, err := a.Inbox(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range inbox {
		lines = append(lines, fmt.Sprintf("%s %q members %d role %d as %q, %d to %d, read %d, unread %d mentions %d, peer read %d, joined %d, %v %v %v, %q",
			c.ID, c.Name, c.Members, c.Role, c.Nickname, c.FirstSeq, c.LastSeq, c.ReadSeq, c.Unread, c.Mentions, c.PeerReadSeq, c.JoinedSeq, c.Pinned, c.Muted, c.Hidden, c.Preview))
		lines = append(lines, s.history(a, c.ID)...)
	}
	blocked, err := a.Blocked(s.ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	return append(lines, fmt.Sprint("blocked ", blocked))
}

func TestADataDirectoryMovesIntoACluster(t *testing.T) {
	s := newSeveral(t)
	data := filepath.Join(t.TempDir(), "data")
	n := start(t, data)
	names := []string{"ann", "ben", "cat", "dan"}
	movers, people := map[string]*mover{}, map[string]*person{}
	for _, name := range names {
		movers[name] = &mover{several: s, grant: signIn(t, n, "register", name, "d", wire.DeviceKind_DEVICE_KIND_PHONE), store: gochat.NewMemoryStore()}
		people[name] = movers[name].at(name, n.TCPAddr().String())
	}
	ann, ben, cat, dan := people["ann"], people["ben"], people["cat"], people["dan"]
	dm := id.Direct("ann", "ben")
	var last uint64
	for i := range 120 {
		last = s.say(ann, gochat.ToUser("ben"), fmt.Sprint("to ben ", i))
	}
	s.hears(ben, dm, last)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, _, err := ben.MarkRead(s.ctx, dm, 100)
	must(err)
	last = s.say(ben, gochat.ToUser("ann"), "and back")
	s.hears(ann, dm, last)
	s.say(cat, gochat.ToUser("ann"), "hidden soon")
	g, err := ann.CreateGroup(s.ctx, gochat.NewGroup{Name: "all", Users: []id.UserID{"ben", "cat", "dan"}})
	must(err)
	group := g.Conversation
	for i := range 30 {
		s.say([]*person{ann, ben, cat}[i%3], gochat.ToConversation(group), fmt.Sprint("to all ", i))
	}
	_, err = cat.SetNickname(s.ctx, group, "Kitty")
	must(err)
	_, err = ann.RemoveMembers(s.ctx, group, "dan")
	must(err)
	end := s.say(ben, gochat.ToConversation(group), "without dan")
	s.hears(ann, group, end)
	s.hears(cat, group, end)
	_, err = ben.Pin(s.ctx, group, true)
	must(err)
	_, err = ann.Mute(s.ctx, group, true)
	must(err)
	_, err = ann.Hide(s.ctx, id.Direct("ann", "cat"), true)
	must(err)
	must(cat.Block(s.ctx, "dan"))
	_ = dan
	before := map[string][]string{}
	for _, name := range names {
		before[name] = s.world(people[name])
	}
	cfg := Default()
	cfg.Cluster.SigningKeys = s.keys
	store, err := loopkv.Open(s.ctx, s.kv.Addr())
	must(err)
	defer store.Close()
	move := func(change func(*migrate.Config)) (migrate.Report, error) {
		c := migrate.Config{Config: cfg, From: data, Store: store, Logger: s.log}
		if change != nil {
			change(&c)
		}
		return migrate.Run(s.ctx, c)
	}
	refused := func(what, want string, change func(*migrate.Config)) {
		t.Helper()
		if _, err := move(change); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("other keys", "sign in again", nil)
	if err := account.ImportKeys(filepath.Join(data, "keys"), s.keys); err == nil {
		t.Error("keys were imported over others")
	}
	s.keys = filepath.Join(t.TempDir(), "keys")
	must(account.ImportKeys(filepath.Join(data, "keys"), s.keys))
	must(account.ImportKeys(filepath.Join(data, "keys"), s.keys)) // once more changes nothing
	must(config.CreateClusterKey(filepath.Join(s.keys, "cluster.key")))
	cfg.Cluster.SigningKeys = s.keys
	refused("a server that runs", "does a server run on it", nil)
	for _, name := range names {
		must(people[name].Close())
	}
	epoch := n.storage.Epoch
	must(n.stop())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	refused("a node that runs", migrate.ErrLive.Error(), func(c *migrate.Config) { c.Cluster.Nodes = []config.Peer{{ID: "x", RPC: ln.Addr().String()}} })
	must(ln.Close())
	refused("a node of which nothing is known", "whether node x runs isn't known", func(c *migrate.Config) { c.Cluster.Nodes = []config.Peer{{ID: "x", RPC: "255.255.255.255:1"}} })
	refused("no store", "names no store", func(c *migrate.Config) { c.Store = nil })
	refused("no data directory", "opening the store", func(c *migrate.Config) { c.From = t.TempDir() })

	r, err := move(nil)
	must(err)
	if r.Epoch <= epoch || r.Resumed || r.Backup || r.Rows == 0 {
		t.Errorf("%+v, the old epoch was %d", r, epoch)
	}
	again, err := move(nil)
	if err != nil || !again.Earlier || again.Epoch != r.Epoch || again.Rows != r.Rows {
		t.Errorf("a second time: %+v, %v", again, err)
	}
	s.audit()
	old := Default()
	old.Data, old.TCP.Listen, old.HTTP.Listen = data, "127.0.0.1:0", "127.0.0.1:0"
	if _, err := New(old, Program{Logger: s.log}); err == nil || !strings.Contains(err.Error(), "was moved to") {
		t.Errorf("a server on what was moved: %v", err)
	}

	s.start("logic-1", 1, "logic", nil)
	s.start("logic-2", 2, "logic fanout worker", nil)
	edge := s.start("edge-1", 31, "edge", func(_ *Config, p *Program) { p.Store, p.Bus = nil, nil })
	if got := s.in["logic-1"].storage.Epoch; got != r.Epoch {
		t.Errorf("the cluster has epoch %d, want %d", got, r.Epoch)
	}
	for _, name := range names {
		people[name] = movers[name].at(name, edge.TCPAddr().String())
		if after := s.world(people[name]); !slices.Equal(after, before[name]) {
			t.Errorf("%s saw\n%s\nand sees\n%s", name, strings.Join(before[name], "\n"), strings.Join(after, "\n"))
		}
	}
	ann, ben, cat = people["ann"], people["ben"], people["cat"]
	if seq := s.say(ann, gochat.ToUser("ben"), "here we are"); seq != last+1 {
		t.Errorf("the next message has seq %d after %d", seq, last)
	}
	s.hears(ben, dm, last+1)
	if seq := s.say(cat, gochat.ToConversation(group), "all of us"); seq != end+1 {
		t.Errorf("the group's next message has seq %d after %d", seq, end)
	}
	s.hears(ann, group, end+1)
	signIn(t, edge, "login", "dan", "e", wire.DeviceKind_DEVICE_KIND_PHONE) // the password holds
	for _, name := range names {
		_ = people[name].Close()
	}
	for _, name := range []string{"edge-1", "logic-2", "logic-1"} {
		_ = s.in[name].stop()
	}
	s.audit()

	// The way back: an epoch that nobody has seen.
	if m, err := migrate.Back(s.ctx, data, s.log); err != nil || m.Epoch != r.Epoch {
		t.Errorf("back: %+v, %v", m, err)
	}
	n = start(t, data)
	if n.storage.Epoch <= r.Epoch {
		t.Errorf("epoch %d, the cluster had %d", n.storage.Epoch, r.Epoch)
	}
	if seq := s.say(movers["ann"].at("ann", n.TCPAddr().String()), gochat.ToUser("ben"), "as if nothing had been"); seq != last+1 {
		t.Errorf("seq %d after %d", seq, last)
	}
	if _, err := migrate.Back(s.ctx, t.TempDir(), s.log); err == nil {
		t.Error("a directory that wasn't moved was moved back")
	}
}

// A move that was begun keeps servers off the data directory; given up, it leaves no trace there. A backup isn't marked.
func TestAMoveIsGivenUp(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s := newSeveral(t)
	dir := t.TempDir()
	data, backup := filepath.Join(dir, "data"), filepath.Join(dir, "backup")
	n := start(t, data)
	signUp(t, n, "ann")
	if _, err := n.storage.Backup(ctx, backup); err != nil {
		t.Fatal(err)
	}
	epoch := n.storage.Epoch
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	store, err := loopkv.Open(ctx, s.kv.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	c := migrate.Config{Config: Default(), From: backup, Store: store, OtherKeys: true, Logger: s.log}
	c.Cluster.SigningKeys = s.keys
	r, err := migrate.Run(ctx, c)
	if err != nil || !r.Backup || r.Rows == 0 {
		t.Fatalf("a backup: %+v, %v", r, err)
	}
	c.From = data
	if _, err := migrate.Run(ctx, c); err == nil {
		t.Error("onto another copy: no error")
	}
	if _, err := New(Config{Data: data}, Program{Logger: s.log}); err == nil || !strings.Contains(err.Error(), "is being moved to") {
		t.Errorf("a server on what is being moved: %v", err)
	}
	if m, err := migrate.Back(ctx, data, s.log); err != nil || !m.Done.IsZero() {
		t.Errorf("back: %+v, %v", m, err)
	}
	if n = start(t, data); n.storage.Epoch != epoch {
		t.Errorf("epoch %d, was %d", n.storage.Epoch, epoch)
	}
	if _, err := storage.ReadMoved(data); err == nil {
		t.Error("the mark is still there")
	}
	if err := errors.Join(n.stop(), (storage.Moved{ID: "zz"}).Write(data)); err != nil {
		t.Fatal(err)
	}
	if _, err := migrate.Run(ctx, c); err == nil || !strings.Contains(err.Error(), "reading the mark") {
		t.Errorf("a mark that isn't one: %v", err)
	}
}
