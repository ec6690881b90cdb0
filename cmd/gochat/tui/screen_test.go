package tui

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
)

// house is a node that can be stopped and started again where it was.
type house struct {
	t    *testing.T
	data string
	tcp  string
	http string
	stop func()
}

// register makes accounts.
func (h *house) register(names ...string) {
	h.t.Helper()
	for _, name := range names {
		body := fmt.Sprintf(`{"name": %q, "password": "a good password", "device_id": "where %s registered"}`, name, name)
		res, err := http.Post("http://"+h.http+"/api/v1/auth/register", "application/json", strings.NewReader(body))
		if err != nil {
			h.t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK {
			h.t.Fatalf("registering %s: %s", name, res.Status)
		}
	}
}

func open(t *testing.T) *house {
	h := &house{t: t, data: t.TempDir(), tcp: "127.0.0.1:0"}
	h.start()
	t.Cleanup(func() { h.stop() })
	return h
}

func (h *house) start() {
	h.t.Helper()
	cfg := node.Default()
	cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen = h.data, h.tcp, "127.0.0.1:0"
	cfg.Storage.Memtable = 4 << 20
	n, err := node.New(cfg, node.Program{Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		h.t.Fatal(err)
	}
	h.tcp, h.http = n.TCPAddr().String(), n.HTTPAddr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	h.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
		h.stop = func() {}
	}
}

// screen is a terminal of somebody's: it runs the model as the real program does, and is read as text.
type screen struct {
	t      *testing.T
	m      *Model
	client *gochat.Client
	msgs   chan tea.Msg
	over   chan struct{}
}

func (h *house) sit(name string, width, height int) *screen {
	h.t.Helper()
	keys, err := account.LoadKeys(h.data)
	if err != nil {
		h.t.Fatal(err)
	}
	s := &screen{t: h.t, m: New(context.Background(), id.UserID(name)), msgs: make(chan tea.Msg), over: make(chan struct{})}
	s.client, err = gochat.Open(gochat.Config{
		Address: h.tcp, Device: id.DeviceID(name + "'s screen"), Kind: wire.DeviceKind_DEVICE_KIND_DESKTOP, Backlog: 20, MinBackoff: 20 * time.Millisecond,
		MaxBackoff: 100 * time.Millisecond,
		Token: func(context.Context) (string, error) {
			return account.MintToken(keys, account.DefaultIssuer, id.UserID(name), "", time.Now(), time.Minute)
		},
		Handler: func(e gochat.Event) { s.post(Happened{e}) },
	})
	if err != nil {
		h.t.Fatal(err)
	}
	s.m.Use(s.client)
	h.t.Cleanup(func() { close(s.over); _ = s.client.Close() })
	s.run(s.m.Init())
	s.update(tea.WindowSizeMsg{Width: width, Height: height})
	s.update(tea.ModeReportMsg{Mode: ansi.ModeUnicodeCore, Value: ansi.ModeReset})
	return s
}

func (s *screen) post(msg tea.Msg) {
	select {
	case s.msgs <- msg:
	case <-s.over:
	}
}

// run does what the model asked for beside it.
func (s *screen) run(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	go func() {
		switch msg := cmd().(type) {
		case nil:
		case tea.BatchMsg:
			for _, c := range msg {
				s.run(c)
			}
		default:
			s.post(msg)
		}
	}()
}

func (s *screen) update(msg tea.Msg) {
	s.t.Helper()
	_, cmd := s.m.Update(msg)
	s.check()
	s.run(cmd)
}

// text is what stands on the screen.
func (s *screen) text() string { return ansi.Strip(s.m.View().Content) }

// check holds every screen to its size, and the cursor to the screen.
func (s *screen) check() {
	s.t.Helper()
	v := s.m.View()
	lines := strings.Split(v.Content, "\n")
	if len(lines) > s.m.height {
		s.t.Fatalf("%d lines on a screen of %d:\n%s", len(lines), s.m.height, s.text())
	}
	for _, l := range lines {
		if w := s.m.measure.StringWidth(l); w > max(s.m.width, 8) { // below, the terminal cuts
			s.t.Fatalf("a line of %d cells on a screen of %d: %q", w, s.m.width, ansi.Strip(l))
		}
	}
	if c := v.Cursor; c != nil && s.m.height > 6 && s.m.width > 10 && (c.X >= s.m.width || c.Y >= s.m.height) {
		s.t.Fatalf("the cursor is at %d, %d of %d, %d", c.X, c.Y, s.m.width, s.m.height)
	}
}

// until lets things happen until cond holds.
func (s *screen) until(what string, cond func() bool) {
	s.t.Helper()
	late := time.After(30 * time.Second)
	for !cond() {
		select {
		case msg := <-s.msgs:
			s.update(msg)
		case <-late:
			s.t.Fatalf("waiting for %s, the screen is\n%s", what, s.text())
		}
	}
}

func (s *screen) shows(want string) {
	s.t.Helper()
	s.until(fmt.Sprintf("%q", want), func() bool { return strings.Contains(s.text(), want) })
}

func (s *screen) types(text string) {
	for _, r := range text {
		s.update(tea.KeyPressMsg{Code: r, Text: string(r)})
	}
}

func (s *screen) press(keys ...tea.Key) {
	for _, k := range keys {
		s.update(tea.KeyPressMsg(k))
	}
}

func (s *screen) enter(text string) {
	s.types(text)
	s.press(tea.Key{Code: tea.KeyEnter})
}

func ctrl(r rune) tea.Key { return tea.Key{Code: r, Mod: tea.ModCtrl} }

// untilBoth lets things happen on both screens until cond holds.
func untilBoth(a, b *screen, what string, cond func() bool) {
	a.t.Helper()
	late := time.After(30 * time.Second)
	for !cond() {
		select {
		case msg := <-a.msgs:
			a.update(msg)
		case msg := <-b.msgs:
			b.update(msg)
		case <-late:
			a.t.Fatalf("waiting for %s, the screens are\n%s\nand\n%s", what, a.text(), b.text())
		}
	}
}

func both(a, b *screen, onA, onB string) {
	a.t.Helper()
	untilBoth(a, b, fmt.Sprintf("%q and %q", onA, onB), func() bool { return strings.Contains(a.text(), onA) && strings.Contains(b.text(), onB) })
}

func TestTwoPeopleTalk(t *testing.T) {
	h := open(t)
	h.register("alice", "bob")
	alice, bob := h.sit("alice", 80, 24), h.sit("bob", 44, 16)
	both(alice, bob, "● alice", "● bob")
	alice.enter("/to bob")
	alice.enter("hello 你好")
	alice.shows("✓")

	// Nothing is open on bob's narrow screen: the list shows what is new, and choosing opens it.
	bob.press(ctrl('l'))
	both(alice, bob, "✓✓", "hello 你好")
	bob.press(tea.Key{Code: tea.KeyEnter})
	both(alice, bob, "hello", "── new ──")
	untilBoth(alice, bob, "alice to see that bob has read", func() bool { return alice.m.current.info.PeerReadSeq == 1 })

	// What bob types is told, what he replies to is quoted.
	bob.press(ctrl('r'))
	bob.types("and you?")
	both(alice, bob, "bob is typing…", "↳ reply to alice: hello 你好")
	bob.press(tea.Key{Code: tea.KeyEnter})
	both(alice, bob, "┌ you: hello 你好", "┌ alice: hello 你好")
	if strings.Contains(alice.text(), "typing") {
		t.Errorf("bob has sent it, and types on:\n%s", alice.text())
	}

	// A stranger's screen is driven by nothing.
	bob.enter("\x1b[2J//x") // keys of control characters don't come; a paste may
	bob.update(tea.PasteMsg{Content: "two\nlines\x1b[31m"})
	bob.press(tea.Key{Code: tea.KeyEnter})
	both(alice, bob, "lines\uFFFD[31m", "lines\uFFFD[31m")

	alice.enter("//shrug")
	both(alice, bob, "   /shrug", "   /shrug")
	alice.enter("/nonsense")
	alice.shows("no such command: /nonsense")
	alice.enter("/to nobody at all")
	alice.enter("anybody?")
	alice.shows("not sent: no such user")
	alice.shows("✗")
}

func TestTheServerGoesAndComesBack(t *testing.T) {
	h := open(t)
	h.register("alice", "bob")
	alice, bob := h.sit("alice", 80, 24), h.sit("bob", 80, 24)
	both(alice, bob, "● alice", "● bob")
	alice.enter("/to bob")
	alice.enter("before")
	both(alice, bob, "✓", "before")
	h.stop()
	both(alice, bob, "○ offline", "○ offline")
	alice.enter("meanwhile")
	alice.enter("and more")
	alice.shows("2 to send")
	if alice.shows("meanwhile"); !strings.Contains(alice.text(), "…") {
		t.Errorf("what waits has no mark:\n%s", alice.text())
	}
	h.start()
	both(alice, bob, "● alice", "and more")
	untilBoth(alice, bob, "the marks", func() bool { return alice.m.current.lastSeq() == 3 && len(alice.m.current.entries) == 3 })
	bob.press(ctrl('n'))
	untilBoth(alice, bob, "bob to read", func() bool { return alice.m.current.info.PeerReadSeq == 3 })
	if n := bob.m.convs[bob.m.current.id].info.Unread; n != 0 {
		t.Errorf("%d unread", n)
	}
}

func TestHistoryHasNoEndUpward(t *testing.T) {
	h := open(t)
	h.register("alice", "bob")
	bob := h.sit("bob", 80, 24)
	bob.shows("● bob")
	const n = 230
	for i := range n {
		if _, err := bob.client.Send(context.Background(), gochat.ToUser("alice"), gochat.Text(fmt.Sprintf("message %03d.", i))); err != nil {
			t.Fatal(err)
		}
	}
	bob.until("the outbox to be empty", func() bool { return len(bob.client.Outbox()) == 0 })
	alice := h.sit("alice", 80, 24)
	alice.enter("/to bob")
	alice.shows(fmt.Sprintf("message %03d.", n-1))
	seen := map[string]bool{}
	look := func() {
		for _, l := range strings.Split(alice.text(), "\n") {
			if _, after, ok := strings.Cut(l, "   message "); ok {
				seen[strings.TrimSpace(after)] = true
			}
		}
	}
	look()
	for i := 0; !strings.Contains(alice.text(), "message 000."); i++ {
		if i > 200 {
			t.Fatalf("the beginning doesn't come:\n%s", alice.text())
		}
		alice.press(tea.Key{Code: tea.KeyPgUp})
		alice.until("older messages", func() bool { return !alice.m.current.loading })
		look()
	}
	if len(seen) != n {
		t.Errorf("%d of %d messages were on the screen", len(seen), n)
	}
	// While one reads old messages the screen stays where it is.
	before := alice.text()
	if _, err := bob.client.Send(context.Background(), gochat.ToUser("alice"), gochat.Text("late news")); err != nil {
		t.Fatal(err)
	}
	untilBoth(alice, bob, "the late message", func() bool { return alice.m.current.lastSeq() == n+1 })
	top := func(s string) string { return strings.Join(strings.Split(s, "\n")[4:20], "\n")[22:] }
	if top(before) != top(alice.text()) && !strings.Contains(alice.text(), "message 000.") {
		t.Errorf("the screen moved:\n%s\n%s", before, alice.text())
	}
	alice.press(tea.Key{Code: tea.KeyEscape})
	alice.shows("late news")
	for range 40 {
		alice.press(tea.Key{Code: tea.KeyUp})
	}
	for range 40 {
		alice.press(tea.Key{Code: tea.KeyDown})
	}
	if alice.m.current.anchor != nil {
		t.Error("as far down as up isn't the end")
	}
}

func TestGroupsOnTheScreen(t *testing.T) {
	h := open(t)
	h.register("alice", "bob", "carol")
	alice, bob := h.sit("alice", 80, 24), h.sit("bob", 80, 24)
	both(alice, bob, "● alice", "● bob")
	alice.enter(`/group "Lunch club" bob nobody`)
	both(alice, bob, "alice made the group", "Lunch club")
	alice.shows("nobody: no such user")
	bob.enter("/to Lunch club")
	both(alice, bob, "2 members", "alice added bob")
	alice.until("the members", func() bool { return len(alice.m.current.members) == 1 })
	bob.press(ctrl('l'), tea.Key{Code: tea.KeyEscape})
	bob.enter("/to alice") // so that the group isn't open
	alice.types("lunch, @b")
	alice.press(tea.Key{Code: tea.KeyTab})
	if got := alice.m.current.draft.value(); got != "lunch, @bob " {
		t.Fatalf("Tab made it %q", got)
	}
	alice.press(tea.Key{Code: tea.KeyEnter})
	both(alice, bob, "lunch, @bob", "@1")
	bob.press(ctrl('n'))
	bob.shows(" @ lunch, @bob")
	alice.enter("/name Dinner club")
	both(alice, bob, `named the group "Dinner club"`, "Dinner club  ")
	bob.enter("/nick Bobby")
	both(alice, bob, "bob is called Bobby here", "bob is called Bobby here")
	bob.enter("/invite carol")
	bob.until("the refusal", func() bool { return bob.m.bad })
	alice.enter("/role bob admin")
	both(alice, bob, "alice made bob admin", "alice made bob admin")
	bob.enter("/invite carol")
	both(alice, bob, "bob added carol", "3 members")
	alice.enter("/members")
	alice.shows("bob                      admin (Bobby)")
	alice.press(tea.Key{Code: tea.KeyEscape})
	alice.enter("/remove carol")
	both(alice, bob, "alice removed carol", "2 members")
	bob.enter("/leave")
	both(alice, bob, "bob left", "you have left")
	bob.enter("still here?")
	bob.shows("not sent")
	alice.enter("/mute")
	alice.shows("Dinner club is muted now")
	alice.enter("/devices")
	alice.shows("this one")
}

func TestNamesAndLookingAway(t *testing.T) {
	h := open(t)
	h.register("alice", "bob")
	alice, bob := h.sit("alice", 80, 24), h.sit("bob", 80, 24)
	both(alice, bob, "● alice", "● bob")
	bob.enter("/to alice")
	bob.enter("hello")
	alice.until("the message", func() bool { return len(alice.m.order) == 1 })
	alice.enter("/to bob")
	both(alice, bob, "hello", "hello")
	name := "Robert 王"
	if _, err := bob.client.SetProfile(t.Context(), gochat.ProfileChange{Name: &name}); err != nil {
		t.Fatal(err)
	}
	alice.until("the name", func() bool { return strings.Count(alice.text(), "Robert 王 (bob)") == 3 }) // in the list, the title and above the message
	alice.enter("/to bob")
	if len(alice.m.order) != 1 || alice.m.bad {
		t.Error("an id doesn't name its conversation any more")
	}

	// Nobody looks: the server is told, after a while, and that somebody does again at once.
	alice.update(tea.BlurMsg{})
	alice.update(lookDue{})
	alice.until("the background", func() bool { return alice.m.toldAway })
	alice.update(tea.FocusMsg{})
	alice.until("the foreground", func() bool { return !alice.m.toldAway && !alice.m.telling })
	alice.update(tea.BlurMsg{})
	alice.update(tea.FocusMsg{})
	alice.update(lookDue{}) // it was for a moment
	if alice.m.telling || alice.m.toldAway {
		t.Error("a moment without the focus was told")
	}
}

func TestScreensOfAllSizes(t *testing.T) {
	h := open(t)
	h.register("alice")
	alice := h.sit("alice", 80, 24)
	alice.shows("● alice")
	alice.enter("/to alice")
	for i := range 12 {
		alice.enter(fmt.Sprintf("%d: 你好世界 👩‍👩‍👧 a text that has to be broken into several lines on a narrow screen", i))
	}
	alice.shows("11: ")
	alice.types("half a message, 写了一半，还没有发出去的消息，很长很长很长很长")
	for w := 1; w <= 90; w += 3 {
		for _, hgt := range []int{1, 2, 3, 5, 8, 24, 60} {
			alice.update(tea.WindowSizeMsg{Width: w, Height: hgt})
		}
	}
	alice.press(ctrl('l'))
	for w := 1; w <= 90; w += 7 {
		alice.update(tea.WindowSizeMsg{Width: w, Height: 10})
	}
}
