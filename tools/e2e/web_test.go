//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// texts are what messages say.
func texts(all []said) []string {
	var out []string
	for _, m := range all {
		out = append(out, m.Text)
	}
	return out
}

// Two people in two browsers talk, reload, go offline and come back, while the server is killed with -9 and started again: both see the
// same messages in the same order, and what is unread is right.
func TestTwoBrowsersTalk(t *testing.T) { everywhere(t, testTwoBrowsersTalk) }

func testTwoBrowsersTalk(t *testing.T, s *server) {
	b := openBrowser(t)
	url := "http://" + s.http + "/"
	alice, bob := b.open("alice", look{URL: url}), b.open("bob", look{URL: url, Dark: true})
	alice.do("signUp", "alice", "password of alice")
	bob.do("signUp", "bob", "password of bob")
	var want []string
	says := func(v *view, text string) {
		t.Helper()
		v.do("send", text)
		want = append(want, text)
	}

	alice.do("startChat", "bob")
	says(alice, "hello")
	bob.do("waitUnread", "alice", "1")
	says(alice, "are you there?")
	bob.do("waitUnread", "alice", "2")
	bob.do("openChat", "alice")
	bob.do("waitUnread", "alice", "")
	alice.do("waitMark", "chat.read")
	says(bob, "I am")
	alice.do("waitLast", "I am")
	bob.do("waitMark", "chat.read")

	// A reload brings all back, the open chat included, and what was begun.
	alice.do("draft", "not finished")
	alice.do("reload")
	alice.do("waitLast", "I am")
	if alice.do("value", "window.sawDoor") != false {
		t.Error("while the page was loaded again it showed the form to sign in")
	}
	if got := alice.do("value", "document.querySelector('textarea').value"); got != "not finished" {
		t.Errorf("after a reload the draft is %q", got)
	}

	// Bob is away: what each writes meanwhile waits.
	bob.do("offline", true)
	bob.do("waitState", "offline")
	bob.do("send", "written on the train")
	bob.do("waitPending", 1)
	bob.do("kept")
	bob.do("reload") // without a network
	bob.do("waitPending", 1)
	bob.do("waitText", "I am")
	says(alice, "you are gone")
	alice.do("waitMark", "chat.sent")

	// The server is killed; alice writes on, and reloads her page before it is back: the browser has kept the app.
	alice.do("kept")
	s.kill()
	alice.do("send", "written to a dead server")
	alice.do("send", "and another")
	alice.do("waitPending", 2)
	alice.do("reload")
	alice.do("waitPending", 2)
	s.start()
	want = append(want, "written to a dead server", "and another")
	alice.do("waitLast", "and another")
	bob.do("offline", false)
	want = append(want, "written on the train")
	bob.do("waitLast", "written on the train")
	alice.do("waitLast", "written on the train")
	bob.do("waitMark", "chat.read")

	// One more kill, in the middle of a talk.
	for i := range 12 {
		if i == 4 {
			s.kill()
		}
		alice.do("send", fmt.Sprintf("alice %d", i))
		bob.do("send", fmt.Sprintf("bob %d", i))
		if i == 8 {
			s.start()
		}
	}
	for _, v := range []*view{alice, bob} {
		v.do("waitPending", 0)
		v.do("waitCount", "article[data-seq]", len(want)+24)
	}

	// Unread while the other chat is open, over a kill.
	bob.do("hash", "#/")
	bob.do("waitCount", "article", 0)
	s.kill()
	for i := range 3 {
		alice.do("send", fmt.Sprintf("late %d", i))
	}
	s.start()
	bob.do("waitUnread", "alice", "3")
	bob.do("reload")
	bob.do("waitUnread", "alice", "3")
	bob.do("openChat", "alice")
	bob.do("waitLast", "late 2")
	bob.do("waitUnread", "alice", "")
	alice.do("waitMark", "chat.read")
	alice.do("waitUnread", "bob", "")

	saw := alice.messages()
	if got := bob.messages(); fmt.Sprint(got) != fmt.Sprint(saw) {
		t.Errorf("they see different things:\n%v\n%v", saw, got)
	}
	all := texts(saw)
	if got := all[:min(len(want), len(all))]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("alice sees\n%q\nwant\n%q", got, want)
	}
	for who, n := range map[string]int{"alice": 12, "bob": 12, "late": 3} {
		last := -1
		for _, m := range all {
			if i, err := strconv.Atoi(strings.TrimPrefix(m, who+" ")); strings.HasPrefix(m, who+" ") && (err != nil || i != last+1) {
				t.Errorf("%q follows %s %d", m, who, last)
			} else if strings.HasPrefix(m, who+" ") {
				last = i
			}
		}
		if last != n-1 {
			t.Errorf("%s's messages end with %d", who, last)
		}
	}
	alice.sane()
	bob.sane()
	s.check()
}

// A terminal, an app over TCP, an app over a binary WebSocket, a stranger's client over a JSON WebSocket and the web app are in one group: all see one sequence.
func TestOneSequenceEverywhere(t *testing.T) { everywhere(t, testOneSequenceEverywhere) }

func testOneSequenceEverywhere(t *testing.T, s *server) {
	node := fetched(t, "node", []string{"npm", "install", "--no-audit", "--no-fund", "--prefix", ".", nodeClient})
	b := openBrowser(t)
	web := b.open("web", look{URL: "http://" + s.http + "/"})
	web.do("signUp", "webster", "password of webster")
	alice, bob, carol := signUp(s, "alice"), signUp(s, "bob"), signUp(s, "carol")
	alice.connect(gochat.NewMemoryStore())
	bob.dial = overWebSocket(s.http)
	bob.connect(gochat.NewMemoryStore())
	profiles := t.TempDir()
	terminal := openWindow(t, s, profiles, "dora", "alice")
	terminal.shows("Welcome, dora")
	made, err := alice.client.CreateGroup(t.Context(), gochat.NewGroup{Name: "everyone", Users: []id.UserID{"bob", "carol", "dora", "webster"}})
	if err != nil {
		t.Fatal(err)
	}
	const each = 15
	conv, first, last := made.Conversation, made.Seq+1, made.Seq+5*each
	json := newMember(t, "node", "testdata/member.mjs", node, "ws://"+s.http+"/ws", carol.grant.AccessToken, conv.String(), "carol", strconv.Itoa(each), fmt.Sprint(last))
	web.do("openChat", "everyone")
	terminal.shows("everyone")
	terminal.typeLine("/to %s", conv)

	if _, err := io.WriteString(json.in, "go\n"); err != nil {
		t.Fatal(err)
	}
	for n := range each {
		terminal.typeLine("dora says %d", n+1)
		for _, p := range []*person{alice, bob} {
			if _, err := p.client.Send(t.Context(), gochat.ToConversation(conv), gochat.Text(fmt.Sprintf("%s says %d", p.name, n+1))); err != nil {
				t.Fatal(err)
			}
		}
		web.do("send", fmt.Sprintf("webster says %d", n+1))
	}
	var want []said
	for _, p := range []*person{alice, bob} {
		p.until("the last message", time.Minute, func() bool {
			all := p.received[conv]
			return len(all) > 0 && all[len(all)-1].Seq >= last
		})
		var saw []said
		p.mu.Lock()
		for _, m := range p.received[conv] {
			if m.Seq >= first && m.Seq <= last {
				saw = append(saw, said{m.Seq, string(m.Sender), m.Text})
			}
		}
		p.mu.Unlock()
		if want == nil {
			want = saw
		} else if fmt.Sprint(saw) != fmt.Sprint(want) {
			t.Errorf("over a binary WebSocket\n%v\nover TCP\n%v", saw, want)
		}
	}
	if len(want) != 5*each {
		t.Fatalf("%d messages: want %d", len(want), 5*each)
	}
	web.do("waitLast", want[len(want)-1].Text)
	web.do("waitCount", "article[data-seq]", 5*each)
	if got := web.messages(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("the web app shows\n%v\nwant\n%v", got, want)
	}
	var list strings.Builder
	for _, m := range want {
		fmt.Fprintf(&list, "[%d,%q,%q],", m.Seq, m.Sender, m.Text)
	}
	if got := json.line(t); got != "["+strings.TrimSuffix(list.String(), ",")+"]" {
		t.Errorf("over a JSON WebSocket\n%s\nwant\n%s", got, list.String())
	}
	terminal.shows(want[len(want)-1].Text)
	at := 0
	for _, m := range want {
		i := strings.Index(terminal.text()[at:], m.Sender+": "+m.Text+"\n")
		if i < 0 {
			t.Fatalf("the terminal doesn't show %v in its place:\n%s", m, terminal.text())
		}
		at += i + 1
	}
	web.sane()
	s.check()
}

// payloads are what a browser would run, were it taken for anything but text.
var payloads = []string{
	`<img src=x onerror="window.pwned=1">`, `<script>window.pwned=1</script>`, `"><svg onload=window.pwned=1>`, `javascript:window.pwned=1`,
	`{{constructor.constructor('window.pwned=1')()}}`, "${window.pwned=1}", `<a href="javascript:window.pwned=1">x</a>`, "<b>bold</b>&lt;i&gt;\u202e txet\u0000",
}

// Whatever people call themselves and their groups, and whatever they write, is shown as text, and runs nothing.
func TestHostileTextIsText(t *testing.T) { everywhere(t, testHostileTextIsText) }

func testHostileTextIsText(t *testing.T, s *server) {
	b := openBrowser(t)
	victim := b.open("victim", look{URL: "http://" + s.http + "/"})
	victim.do("signUp", "victim", "password of victim")
	mallory := signUp(s, "mallory")
	mallory.connect(gochat.NewMemoryStore())
	to := gochat.ToUser("victim")
	name, avatar := payloads[0], "javascript:window.pwned=1"
	mallory.call(mallory.client.SetProfile(t.Context(), gochat.ProfileChange{Name: &name, Avatar: &avatar}))
	victim.do("startChat", "mallory")
	victim.do("send", "who are you?")
	victim.do("waitLast", "who are you?")
	var want []string
	for _, p := range payloads {
		p = strings.ReplaceAll(p, "\x00", "")
		want = append(want, p)
		mallory.says(to, gochat.Text(p))
		for kind := uint32(2); kind <= 5; kind++ {
			mallory.says(to, gochat.Content{Type: kind, Text: fmt.Sprintf(`{"url":"javascript:window.pwned=1","thumbnail":"data:text/html,<script>window.pwned=1</script>","name":%q}`, p)})
			mallory.says(to, gochat.Content{Type: kind, Text: fmt.Sprintf(`{"url":"data:image/svg+xml,%s","name":7}`, "<svg onload='window.pwned=1'/>")})
		}
		mallory.says(to, gochat.Content{Type: 1000, Text: p})
	}
	mallory.says(to, gochat.Text("see http://user:pw@example.com/<b> and javascript:alert(1) and https://example.com/\"onmouseover=\"window.pwned=1"))
	mallory.says(to, gochat.Text("the end"))
	victim.do("waitLast", "the end")
	shown := texts(victim.messages())
	for _, w := range want {
		if !slices.Contains(shown, w) {
			t.Errorf("%q isn't shown as it was written", w)
		}
	}
	for _, p := range payloads[1:] {
		if len(p) > 60 { // longer than names may be
			continue
		}
		p = strings.ReplaceAll(p, "\u202e txet\x00", "")
		made, err := mallory.client.CreateGroup(t.Context(), gochat.NewGroup{Name: p, Avatar: "javascript:window.pwned=1", Users: []id.UserID{"victim"}})
		if err != nil {
			t.Fatal(err)
		}
		mallory.call(mallory.client.SetNickname(t.Context(), made.Conversation, p))
		mallory.says(gochat.ToConversation(made.Conversation), gochat.Text(p))
		victim.do("openChat", p)
		victim.do("waitLast", p)
		victim.do("click", "header.row .head")
		victim.do("waitText", "Leave the group")
		victim.do("press", "Escape")
	}
	for _, selector := range []string{"[onerror]", "[onload]", "[onmouseover]", "a[href^='javascript']", "a[href^='data']", "img[src^='data']", "img[src^='javascript']", ".text b", "#app script"} {
		if n := victim.do("count", selector); fmt.Sprint(n) != "0" {
			t.Errorf("%v of %s", n, selector)
		}
	}
	if got := victim.do("value", "window.pwned"); got != nil {
		t.Errorf("something ran: %v", got)
	}
	// What isn't a chat's address opens nothing, and runs nothing.
	for _, h := range []string{"#/c/<img src=x onerror=window.pwned=1>", "#/u/%E0%A4%A", "#/u/javascript:1", "#/c/zz"} {
		victim.do("hash", h)
		victim.do("waitCount", "nav", 1)
	}
	victim.sane()
}

// The tabs of one browser share a connection and show the same; signing out of one signs out all, as does another device.
func TestTabs(t *testing.T) { everywhere(t, testTabs) }

func testTabs(t *testing.T, s *server) {
	b := openBrowser(t)
	url := "http://" + s.http + "/"
	one := b.open("one", look{URL: url})
	one.do("signUp", "alice", "password of alice")
	two := b.open("two", look{URL: url, Beside: "one"}) // signed in already
	two.do("waitText", "No chats yet")
	bob := signUp(s, "bob")
	bob.connect(gochat.NewMemoryStore())
	to := gochat.ToUser("alice")
	bob.says(to, gochat.Text("hello"))
	for _, v := range []*view{one, two} {
		v.do("waitUnread", "bob", "1")
	}
	one.do("openChat", "bob")
	two.do("waitUnread", "bob", "")
	two.do("openChat", "bob")
	one.do("send", "from one")
	two.do("waitLast", "from one")
	two.do("send", "from two")
	one.do("waitLast", "from two")
	one.do("close") // it had the connection
	two.do("send", "alone now")
	two.do("waitLast", "alone now")
	bob.says(to, gochat.Text("still there?"))
	two.do("waitLast", "still there?")
	three := b.open("three", look{URL: url + "#/u/bob", Beside: "two"})
	three.do("waitLast", "still there?")
	if a, c := two.messages(), three.messages(); fmt.Sprint(a) != fmt.Sprint(c) || len(a) != 5 {
		t.Errorf("two tabs show different things:\n%v\n%v", a, c)
	}
	two.do("signOut")
	three.do("signedOut")
	if n := three.do("value", "localStorage.getItem('gochat.people.alice') ?? localStorage.getItem('gochat.grant')"); n != nil {
		t.Errorf("after signing out the browser keeps %v", n)
	}
	two.do("signIn", "alice", "password of alice")
	three.do("waitText", "still there?")
	two.do("openChat", "bob")
	two.do("waitLast", "still there?")

	other := b.open("other", look{URL: url})
	other.do("signIn", "alice", "password of alice")
	other.do("clickName", "button", "Settings and profile")
	other.do("clickName", "button", "Sign out all others")
	two.do("signedOut")
	three.do("signedOut")
	other.do("press", "Escape")
	bob.says(to, gochat.Text("are you signed in?"))
	other.do("openChat", "bob")
	other.do("waitLast", "are you signed in?")
	for _, v := range []*view{two, three, other} {
		v.sane()
	}
}
