//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// A long history is scrolled up to its beginning; what is in sight stays where it is while older messages come above it and newer ones below,
// and what was unread is found at its beginning.
func TestLongHistoryHoldsItsPlace(t *testing.T) { everywhere(t, testLongHistoryHoldsItsPlace) }

func testLongHistoryHoldsItsPlace(t *testing.T, s *server) {
	b := openBrowser(t)
	alice, bob := signUp(s, "alice"), signUp(s, "bob")
	alice.connect(gochat.NewMemoryStore())
	bob.connect(gochat.NewMemoryStore())
	to := gochat.ToUser("alice")
	const many = 400
	for i := range many {
		text := fmt.Sprintf("message %d", i+1)
		if i%7 == 0 {
			text += "\nwith\nmore\nlines"
		}
		m := gochat.Content{Text: text}
		if i%11 == 5 {
			m = gochat.Content{Type: 2, Text: `{"url":"/icon.svg","name":"a picture"}`} // its height is known late
		}
		if i == many-1 {
			m.ReplyToSeq = 3
		}
		bob.says(to, m)
	}
	conv := id.Direct("alice", "bob")
	alice.call(nil, func() error { _, _, err := alice.client.MarkRead(t.Context(), conv, many-40); return err }())

	v := b.open("alice", look{URL: "http://" + s.http + "/"})
	v.do("signIn", "alice", "password of alice")
	v.do("waitUnread", "bob", "40")
	v.do("openChat", "bob")
	v.do("waitCount", ".unread", 1)
	v.do("inSight", fmt.Sprint(many-39)) // the first unread one
	v.do("scrollEnd")
	v.do("waitUnread", "bob", "")

	// Up, a step at a time: whatever is loaded above doesn't move what is in sight.
	moved, _ := v.do("scrollToBeginning").(map[string]any)
	if fmt.Sprint(moved["jumps"]) != "[]" {
		t.Errorf("what was in sight jumped: %v", moved["jumps"])
	}
	v.do("waitText", "This is where it begins")
	v.do("waitCount", "[data-seq]", many)

	// What comes below moves nothing, and is counted; the user's own brings them down.
	at := v.do("firstInSight")
	bob.says(to, gochat.Text("are you still reading?"))
	v.do("waitCount", ".fresh", 1)
	if now := v.do("firstInSight"); fmt.Sprint(now) != fmt.Sprint(at) {
		t.Errorf("a new message moved %v to %v", at, now)
	}
	v.do("waitUnread", "bob", "1")
	v.do("clickName", "button", "Jump to the latest message")
	v.do("waitUnread", "bob", "")
	v.do("clickSeq", many, ".answered")
	v.do("inSight", "3")
	v.do("send", "at last")
	v.do("waitLast", "at last")
	v.do("inSight", fmt.Sprint(many+2))
	v.sane()
}

// The app by keyboard alone: the list, a chat, a dialog and back; and a group that one is taken out of.
func TestKeyboardAndGroups(t *testing.T) { everywhere(t, testKeyboardAndGroups) }

func testKeyboardAndGroups(t *testing.T, s *server) {
	b := openBrowser(t)
	bob := signUp(s, "bob")
	bob.connect(gochat.NewMemoryStore())
	v := b.open("alice", look{URL: "http://" + s.http + "/"})
	v.do("type", "alice") // the focus is where one begins
	v.do("press", "Tab")
	v.do("type", "a good password")
	v.do("press", "Tab")
	v.do("press", "Tab")
	v.do("press", "Enter") // to the other form
	v.do("press", "Shift+Tab")
	v.do("press", "Enter")
	v.do("waitText", "No chats yet")
	made, err := bob.client.CreateGroup(t.Context(), gochat.NewGroup{Name: "crew", Users: []id.UserID{"alice"}})
	if err != nil {
		t.Fatal(err)
	}
	crew := gochat.ToConversation(made.Conversation)
	bob.says(crew, gochat.Text("ahoy"))
	bob.says(gochat.ToUser("alice"), gochat.Text("hello"))
	v.do("waitUnread", "crew", "1")
	v.do("waitUnread", "bob", "1")

	focused := func(want string) {
		t.Helper()
		v.do("waitFocus", want)
	}
	v.do("press", "Control+k")
	focused("#search")
	v.do("press", "ArrowDown")
	v.do("press", "ArrowDown")
	focused("li:nth-child(2) > .line")
	v.do("press", "Enter")
	v.do("waitLast", "ahoy")
	focused("textarea")
	v.do("type", "aye")
	v.do("press", "Shift+Enter")
	v.do("type", "aye")
	v.do("press", "Enter")
	v.do("waitLast", "aye\naye")
	v.do("press", "Shift+Tab") // the messages
	focused("[role=log]")
	v.do("press", "ArrowUp")
	focused("article[data-own=true]")
	v.do("press", "ArrowUp")
	focused("article[data-sender=bob]")
	v.do("press", "Tab")
	v.do("press", "Enter")
	v.do("waitText", "Reply to bob")
	focused("textarea")
	v.do("press", "Escape")
	v.do("waitCount", ".replying", 0)
	v.do("focus", "header.row .head")
	v.do("press", "Enter")
	v.do("waitText", "Leave the group")
	v.do("press", "Escape")
	focused(".head") // a dialog gives the focus back
	bob.call(nil, bob.client.SetTyping(crew, true))
	v.do("waitText", "bob is typing…")
	bob.call(bob.client.RemoveMembers(t.Context(), made.Conversation, "alice"))
	v.do("waitText", "You are no longer in this group.")
	v.do("waitCount", "button.line", 1)
	v.do("press", "Enter")
	v.do("waitCount", "dialog[open]", 1)
	v.do("press", "Escape")
	v.do("press", "Escape")
	v.do("waitText", "Choose a chat")
	bob.call(bob.client.AddMembers(t.Context(), made.Conversation, "alice"))
	bob.says(crew, gochat.Text("welcome back"))
	v.do("openChat", "crew")
	v.do("waitLast", "welcome back")
	v.sane()
}
