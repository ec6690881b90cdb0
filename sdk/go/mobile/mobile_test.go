package mobile

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/account"
)

// serve runs a node, and returns its address and who mints tokens for it.
func serve(t *testing.T, users ...string) (string, func(user string) TokenSource) {
	t.Helper()
	cfg := node.Default()
	cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0"
	cfg.Storage.Memtable = 4 << 20
	n, err := node.New(cfg, node.Program{Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	keys, err := account.LoadKeys(cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range users {
		register(t, n.HTTPAddr().String(), u)
	}
	return n.TCPAddr().String(), func(user string) TokenSource {
		return tokens(func() (string, error) {
			return account.MintToken(keys, account.DefaultIssuer, id.UserID(user), "", time.Now(), time.Minute)
		})
	}
}

type tokens func() (string, error)

func (f tokens) Token() (string, error) { return f() }

// notes is a Listener that writes down what it hears.
type notes struct {
	mu    sync.Mutex
	cond  *sync.Cond
	lines []string
	convs map[string]*Conversation
}

func newNotes() *notes {
	n := &notes{convs: map[string]*Conversation{}}
	n.cond = sync.NewCond(&n.mu)
	return n
}

func (n *notes) put(format string, args ...any) {
	n.mu.Lock()
	n.lines = append(n.lines, fmt.Sprintf(format, args...))
	n.mu.Unlock()
	n.cond.Broadcast()
}

func (n *notes) OnState(state, code int, _ string) { n.put("state %d %d", state, code) }
func (n *notes) OnMessage(m *Message) {
	n.put("%d %s: %s own=%v calls=%v", m.Seq, m.SenderName, m.Text, m.Own, m.CallsMe)
}
func (n *notes) OnSent(_, _ string, seq int64)             { n.put("sent as %d", seq) }
func (n *notes) OnSendFailed(_ string, code int, _ string) { n.put("failed %d", code) }
func (n *notes) OnConversation(c *Conversation) {
	n.mu.Lock()
	n.convs[c.ID] = c
	n.mu.Unlock()
	n.cond.Broadcast()
}
func (n *notes) OnConversations()                        { n.put("list") }
func (n *notes) OnTyping(_, user string, typing bool)    { n.put("%s types %v", user, typing) }
func (n *notes) OnProfile(p *Profile)                    { n.put("%s is %s", p.User, p.Name) }
func (n *notes) OnGone(_ string, seq int64)              { n.put("gone below %d", seq) }
func (n *notes) OnReset()                                { n.put("reset") }
func (n *notes) OnAccount(event, device string, _ int64) { n.put("%s %s", event, device) }

func (n *notes) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	const patience = 30 * time.Second
	defer time.AfterFunc(patience, n.cond.Broadcast).Stop()
	end := time.Now().Add(patience)
	n.mu.Lock()
	defer n.mu.Unlock()
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s; heard\n%s", what, strings.Join(n.lines, "\n"))
		}
		n.cond.Wait()
	}
}

func (n *notes) hears(t *testing.T, line string) {
	t.Helper()
	n.until(t, line, func() bool { return slices.Contains(n.lines, line) })
}

// An app's day: two people, a group, marks of reading, a restart of the app, the sign-out.
func TestAnApp(t *testing.T) {
	addr, mint := serve(t, "alice", "bob")
	path := filepath.Join(t.TempDir(), "state")
	open := func(user, device, path string, l Listener) *Client {
		t.Helper()
		cfg := NewConfig(addr, device, path)
		cfg.TLS, cfg.App = false, "test 1"
		c, err := Open(cfg, mint(user), l)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.WaitConnected(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	na, nb := newNotes(), newNotes()
	alice, bob := open("alice", "a", path, na), open("bob", "b", "", nb)
	if alice.User() != "alice" || alice.State() != StateConnected && alice.State() != StateConnecting {
		t.Errorf("%q in state %d", alice.User(), alice.State())
	}
	must(bob.SetProfile("Bobby", ""))
	d := NewDraft("hello")
	d.Mention("bob")
	_, err := alice.SendToUser("bob", d)
	must(err)
	na.hears(t, "sent as 1")
	nb.hears(t, "1 alice: hello own=false calls=true")
	direct, err := alice.OpenDirect("bob")
	must(err)
	if c := bob.Conversation(direct); c == nil || c.Unread != 1 || c.Mentions != 1 || c.Peer != "alice" || c.Group {
		t.Fatalf("bob's list: %+v", c)
	}
	must(bob.SetTyping(direct, true))
	na.hears(t, "bob types true")
	if left, err := bob.MarkRead(direct, 1); err != nil || left != 0 {
		t.Errorf("%d left, %v", left, err)
	}
	nb.until(t, "nothing unread", func() bool { return nb.convs[direct].Unread == 0 })
	na.until(t, "the mark", func() bool { return na.convs[direct] != nil && na.convs[direct].PeerReadSeq == 1 })
	alice.Name(direct, "bob")
	na.until(t, "bob's name", func() bool { return alice.Name(direct, "bob") == "Bobby" })

	users := NewStringList()
	users.Add("bob")
	group, err := alice.CreateGroup("lunch", users)
	must(err)
	must(bob.SetNickname(group, "B"))
	na.hears(t, `3 B: {"nickname":"B"} own=false calls=false`)
	_, err = bob.SendText(group, "hungry?")
	must(err)
	na.hears(t, "4 B: hungry? own=false calls=false")
	members, err := alice.Members(group, "")
	must(err)
	if members.Len() != 2 || members.Count != 2 || members.Get(1).Name != "B" || members.Get(0).Role != RoleOwner || members.Get(2) != nil {
		t.Errorf("members %+v", members)
	}
	must(alice.Pin(group, true))
	must(alice.RenameGroup(group, "dinner"))
	na.until(t, "the name", func() bool { return na.convs[group].Title == "dinner" && na.convs[group].Pinned })
	if l := alice.Conversations(); l.Len() != 2 || l.Get(0).ID != group || l.Get(1).Title != "Bobby" {
		t.Errorf("the list: %d, %+v", l.Len(), l.Get(0))
	}
	if _, err := bob.RemoveMembers(group, users); CodeOf(err) != int(code.Forbidden) && CodeOf(err) != int(code.BadRequest) {
		t.Errorf("taking oneself out: %v", err)
	}
	page, err := bob.History(group, 0, 2)
	must(err)
	if page.Len() != 2 || !page.More || page.Get(0).Seq != 4 || page.Get(1).Type != 65 || page.Get(2) != nil {
		t.Errorf("history %+v", page)
	}
	must(bob.LeaveGroup(group))
	must(bob.Block("alice", true))
	_, err = alice.SendText(direct, "there?")
	must(err)
	na.hears(t, fmt.Sprint("failed ", int(code.Forbidden)))
	must(bob.Block("alice", false))

	// The app ends and comes back: the list is there, and only what is new is told.
	must(alice.Close())
	_, err = bob.SendText(direct, "while you were away")
	must(err)
	nb.hears(t, "sent as 2")
	na = newNotes()
	alice = open("alice", "a", path, na)
	na.until(t, "what was missed", func() bool { // who wrote it may not be known by name yet
		return slices.ContainsFunc(na.lines, func(s string) bool { return strings.HasSuffix(s, ": while you were away own=false calls=false") })
	})
	na.hears(t, "list")
	if l := alice.Conversations(); l.Len() != 2 || slices.Contains(na.lines, "1 alice: hello own=true calls=false") {
		t.Errorf("after the return: %d conversations, heard %q", l.Len(), na.lines)
	}
	must(alice.SetBackground(true))

	for _, bad := range []error{alice.Pin("x", true), alice.JoinGroup("00"), alice.SetTyping("", true)} {
		if bad == nil || CodeOf(bad) != 0 {
			t.Errorf("an id that is none: %v", bad)
		}
	}
	_ = bob.SignOutDevice("b")
	nb.hears(t, fmt.Sprintf("state %d %d", StateStopped, int(code.SessionRevoked)))
	if bob.State() != StateStopped {
		t.Errorf("state %d", bob.State())
	}
	must(alice.Close())
	must(bob.Close())
}

func TestConfigs(t *testing.T) {
	ok := tokens(func() (string, error) { return "", nil })
	for name, c := range map[string]*Config{
		"nothing":        nil,
		"no address":     NewConfig("", "d", ""),
		"no device":      NewConfig("localhost:1", "", ""),
		"no certificate": {Address: "localhost:1", Device: "d", TLS: true, CAs: []byte("x")},
		"no directory":   NewConfig("localhost:1", "d", "/dev/null/x"),
	} {
		if _, err := Open(c, ok, newNotes()); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	if _, err := Open(NewConfig("localhost:1", "d", ""), ok, nil); err == nil {
		t.Error("no listener is taken")
	}
	// A server that isn't there: calls give up in time, and what is to be sent waits.
	cfg := NewConfig("127.0.0.1:1", "d", "")
	cfg.TimeoutMillis = 20
	c, err := Open(cfg, ok, newNotes())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WaitConnected(); err == nil {
		t.Error("connected")
	}
	if _, err := c.Members(id.NewGroup().String(), ""); err == nil {
		t.Error("an answer")
	}
	if sent, err := c.SendToUser("bob", nil); err == nil {
		t.Errorf("an empty message is taken: %s", sent)
	}
	if _, err := c.SendToUser("bob", NewDraft("later")); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func register(t *testing.T, at, user string) {
	t.Helper()
	body := fmt.Sprintf(`{"name": %q, "password": "long enough", "device_id": "where %s registered"}`, user, user)
	res, err := httpPost("http://"+at+"/api/v1/auth/register", body)
	if err != nil || res != 200 {
		t.Fatalf("registering %s: %d, %v", user, res, err)
	}
}

func httpPost(url, body string) (int, error) {
	res, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}
