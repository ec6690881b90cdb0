package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// tells sends text to a conversation and returns the outcome.
func (a *listener) tells(conv id.ConversationID, text string) (gochat.Ack, error) {
	a.w.t.Helper()
	r, err := a.Send(a.w.ctx, gochat.ToConversation(conv), gochat.Text(text))
	if err != nil {
		a.w.t.Fatal(err)
	}
	return r.Wait(a.w.ctx)
}

// heardAll is everything that was heard so far.
func (a *listener) heardAll() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.log)
}

func membership(seq int, by, do, users string, count int) string {
	return fmt.Sprintf(`%d %s: {"do":%q,"users":[%s],"count":%d}`, seq, by, do, users, count)
}

// The life of a group, as each device sees it: in order, from the message with which they
// came to the one with which they went, whether they were connected then or not.
func TestGroupTranscript(t *testing.T) {
	w := newTown(t, nil, "alice", "bob", "carol", "dave")
	alice, phone, bob := w.device("alice", "desk"), w.device("alice", "phone"), w.device("bob", "phone")

	made, err := alice.CreateGroup(w.ctx, gochat.NewGroup{Name: "lunch", Users: []id.UserID{"bob", "nobody"}})
	w.must(err)
	if made.Changed != 2 || made.Seq != 2 || len(made.Refused) != 1 || made.Refused[0].User != "nobody" || made.Refused[0].Code != code.NoSuchUser {
		t.Fatalf("made %+v", made)
	}
	conv := made.Conversation
	_, err = alice.tells(conv, "hungry?")
	w.must(err)
	bob.hears("3 alice: hungry?")
	phone.hears("3 alice: hungry?") // the sender's other device

	// Strangers hear, see and change nothing.
	dave := w.device("dave", "phone")
	_, err = dave.tells(conv, "let me in")
	w.want(err, code.NoSuchConversation)
	_, err = dave.Group(w.ctx, conv)
	w.want(err, code.NoSuchConversation)
	_, err = dave.JoinGroup(w.ctx, conv)
	w.want(err, code.NoSuchConversation)
	_, _, _, err = dave.Members(w.ctx, conv, "", 0)
	w.want(err, code.NoSuchConversation)
	// A member without a role brings nobody in, and takes nobody out.
	_, err = bob.AddMembers(w.ctx, conv, "dave")
	w.want(err, code.Forbidden)
	_, err = bob.RemoveMembers(w.ctx, conv, "alice")
	w.want(err, code.Forbidden)
	_, err = bob.UpdateGroup(w.ctx, conv, gochat.GroupUpdate{Name: ptr("bob's")})
	w.want(err, code.Forbidden)
	_, err = bob.SetRole(w.ctx, conv, "bob", gochat.Owner)
	w.want(err, code.Forbidden)
	_, err = alice.LeaveGroup(w.ctx, conv)
	w.want(err, code.Forbidden) // not before she hands it over

	// Carol is away while she is brought in, spoken to, taken out and brought in again.
	for _, step := range []func() (gochat.GroupChange, error){
		func() (gochat.GroupChange, error) { return alice.AddMembers(w.ctx, conv, "carol", "bob") },   // 4
		func() (gochat.GroupChange, error) { return alice.SetRole(w.ctx, conv, "bob", gochat.Admin) }, // 5
		func() (gochat.GroupChange, error) { return bob.RemoveMembers(w.ctx, conv, "carol") },         // 6
	} {
		c, err := step()
		w.must(err)
		if c.Changed != 1 {
			t.Fatalf("%+v", c)
		}
	}
	_, err = bob.tells(conv, "without carol") // 7
	w.must(err)
	_, err = bob.AddMembers(w.ctx, conv, "carol") // 8
	w.must(err)
	_, err = bob.tells(conv, "with carol") // 9
	w.must(err)
	carol := w.device("carol", "phone")
	var seen []uint64
	for before, more := uint64(0), true; more; {
		var page []gochat.Message
		page, more, err = carol.History(w.ctx, conv, before, 0)
		w.must(err)
		for _, m := range slices.Backward(page) {
			seen, before = append(seen, m.Seq), m.Seq
		}
	}
	if want := []uint64{9, 8, 6, 5, 4}; !slices.Equal(seen, want) {
		t.Errorf("carol's history holds %v, want %v", seen, want)
	}
	st, err := carol.Conversation(w.ctx, conv)
	w.must(err)
	if st.Name != "lunch" || st.Members != 3 || st.Role != gochat.Member || st.Unread != 1 || st.LastSeq != 9 {
		t.Errorf("carol's list says %+v", st)
	}

	// Names, roles, pages.
	_, err = carol.SetNickname(w.ctx, conv, "C") // 10
	w.must(err)
	_, err = alice.UpdateGroup(w.ctx, conv, gochat.GroupUpdate{Name: ptr("dinner"), Open: ptr(true)}) // 11
	w.must(err)
	bob.hears(`11 alice: {"name":"dinner","join":1}`)
	all, next, count, err := alice.Members(w.ctx, conv, "", 2)
	w.must(err)
	rest, last, _, err := alice.Members(w.ctx, conv, next, 2)
	w.must(err)
	if count != 3 || len(all) != 2 || len(rest) != 1 || last != "" || all[0].Role != gochat.Owner || all[1].Role != gochat.Admin || rest[0].Nickname != "C" || rest[0].JoinedSeq != 8 {
		t.Errorf("members %+v, %q, %+v, %q, %d", all, next, rest, last, count)
	}

	// Anyone may join now; the owner hands over and leaves, and hears of it herself.
	_, err = dave.JoinGroup(w.ctx, conv) // 12
	w.must(err)
	if again, err := dave.JoinGroup(w.ctx, conv); err != nil || again.Seq != 0 {
		t.Errorf("joining twice: %+v, %v", again, err)
	}
	dave.hears(membership(12, "dave", "join", `"dave"`, 1))
	_, err = alice.SetRole(w.ctx, conv, "bob", gochat.Owner) // 13
	w.must(err)
	_, err = alice.LeaveGroup(w.ctx, conv) // 14
	w.must(err)
	left := membership(14, "alice", "leave", `"alice"`, 1)
	phone.hears(left)
	_, err = bob.tells(conv, "bye") // 15
	w.must(err)
	dave.hears("15 bob: bye")
	_, err = alice.tells(conv, "wait")
	w.want(err, code.NoSuchConversation)

	bobs := bob.hears("15 bob: bye")
	want := []string{
		`2 alice: {"do":"add","users":["bob"],"count":1}`,
		"3 alice: hungry?",
		`4 alice: {"do":"add","users":["carol"],"count":1}`,
		`5 alice: {"do":"role","users":["bob"],"count":1,"role":"admin"}`,
		`6 bob: {"do":"remove","users":["carol"],"count":1}`,
		"7 bob: without carol",
		`8 bob: {"do":"add","users":["carol"],"count":1}`,
		"9 bob: with carol",
		`10 carol: {"nickname":"C"}`,
		`11 alice: {"name":"dinner","join":1}`,
		membership(12, "dave", "join", `"dave"`, 1),
		`13 alice: {"do":"role","users":["bob"],"count":1,"role":"owner"}`,
		left,
		"15 bob: bye",
	}
	if !slices.Equal(bobs, want) {
		t.Errorf("bob heard\n%q\nwant\n%q", bobs, want)
	}
	if i := slices.Index(phone.heardAll(), "15 bob: bye"); i >= 0 {
		t.Error("alice's phone heard what was said after she left")
	}
	w.must(w.node.stop())
	w.audit()
}

// Ten thousand users are one request, some messages that name few of them, and a few seconds.
func TestTenThousandMembers(t *testing.T) {
	// An outside issuer's, which are not registered here.
	issued := func(i int) id.UserID { return id.UserID(fmt.Sprintf("ext:u%05d", i)) }
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, bytes.Repeat([]byte("k"), 32), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newTown(t, func(c *Config, _ *Program) {
		c.Issuers = []config.Issuer{{Issuer: "elsewhere", Algorithm: "HS256", KeyFile: key, Prefix: "ext:"}}
	}, "alice", "bob")
	alice, bob := w.device("alice", "desk"), w.device("bob", "phone")
	made, err := alice.CreateGroup(w.ctx, gochat.NewGroup{Key: "all", Users: []id.UserID{"bob"}})
	w.must(err)
	users := make([]id.UserID, 10_000)
	for i := range users {
		users[i] = issued(i)
	}
	// Somebody hangs up in the middle; the next one goes on where it ended.
	short, cancel := context.WithTimeout(w.ctx, 100*time.Millisecond)
	defer cancel()
	_, _ = alice.AddMembers(short, made.Conversation, users...)
	began := time.Now()
	for {
		// On a machine that is slow enough the request's time is over in the middle, too.
		if _, err = alice.AddMembers(w.ctx, made.Conversation, users...); !errors.Is(err, &code.Error{Code: code.Undetermined}) {
			break
		}
	}
	w.must(err)
	t.Logf("10,000 members in %v", time.Since(began))
	g, err := alice.Group(w.ctx, made.Conversation)
	w.must(err)
	if g.Members != 10_002 {
		t.Errorf("%d members", g.Members)
	}
	_, err = alice.tells(made.Conversation, "all here?")
	w.must(err)
	st, err := alice.Conversation(w.ctx, made.Conversation)
	w.must(err)
	told := 0
	for _, line := range bob.hears(fmt.Sprintf("%d alice: all here?", st.LastSeq)) {
		told += len(line)
	}
	if told > 20<<10 {
		t.Errorf("bob was told of it with %d bytes", told)
	}
	w.must(w.node.stop())
	w.audit()
}

func ptr[T any](v T) *T { return &v }
