//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// What somebody has written is sent, or shown as refused, or still to be seen where they wrote it: it never goes by itself.
func TestNothingWrittenIsLost(t *testing.T) {
	s := newServer(t, binary)
	s.start()
	b := openBrowser(t)
	bob := signUp(s, "bob")
	bob.connect(gochat.NewMemoryStore())
	v := b.open("alice", look{URL: "http://" + s.http + "/"})
	v.do("signUp", "alice", "password of alice")
	made, err := bob.client.CreateGroup(t.Context(), gochat.NewGroup{Name: "crew", Users: []id.UserID{"alice"}})
	if err != nil {
		t.Fatal(err)
	}
	bob.says(gochat.ToConversation(made.Conversation), gochat.Text("ahoy"))
	written := func(want string) {
		t.Helper()
		if got := v.do("value", "document.querySelector('textarea').value"); got != want {
			t.Errorf("the box holds %.60q, want %.60q", got, want)
		}
	}

	// Longer than the server takes: told before it is sent.
	v.do("openChat", "crew")
	long := strings.Repeat("长", 4097)
	v.do("send", long)
	v.do("waitText", "3 bytes too long")
	written(long)
	v.do("send", long[3:])
	v.do("waitLast", long[3:])

	// A clause behind an @ names nobody, and is sent as it was written.
	clause := "@" + strings.Repeat("你", 30)
	v.do("send", clause)
	v.do("waitLast", clause)

	// The browser's database can't be written: what was typed is back in its box.
	v.do("value", "window.begin = IDBDatabase.prototype.transaction; IDBDatabase.prototype.transaction = () => { throw new Error('the disk is full') }")
	v.do("send", "not kept yet")
	v.do("waitText", "the disk is full")
	written("not kept yet")
	v.do("value", "IDBDatabase.prototype.transaction = window.begin")
	v.do("press", "Enter")
	v.do("waitLast", "not kept yet")

	// What was refused stays so after a reload, until it is sent anew or removed.
	bob.call(nil, bob.client.Block(t.Context(), "alice"))
	v.do("hash", "#/")
	v.do("waitCount", "textarea", 0)
	v.do("startChat", "bob")
	v.do("send", "are you there?")
	v.do("waitText", "Not sent:")
	v.do("reload")
	v.do("waitText", "Not sent:")
	v.do("waitText", "are you there?")
	bob.call(nil, bob.client.Unblock(t.Context(), "alice"))
	v.do("clickName", "button", "Try again")
	v.do("waitLast", "are you there?")
	v.do("reload")
	v.do("waitLast", "are you there?")
	v.do("waitCount", "article.failed", 0)
	v.sane()
}
