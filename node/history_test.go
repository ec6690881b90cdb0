package node

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

const (
	day       = 24 * 3600 * 1000
	maxImport = 2000 // messages of one request
)

// past returns messages n..n+count-1 of a talk between people, the first of the Unix ms at, an hour apart.
func past(at int64, n, count int, people ...string) []js {
	var out []js
	for i := n; i < n+count; i++ {
		out = append(out, js{"sender_id": people[i%len(people)], "timestamp": at + int64(i)*3600_000, "key": fmt.Sprint("old-", i), "content": fmt.Sprint("line ", i)})
	}
	return out
}

// as is c acting as user.
func (c *caller) acting(user string) *caller {
	d := *c
	d.header = map[string]string{"X-User-ID": user}
	return &d
}

// What was said elsewhere is told as it was: in its order, with its times; nobody is disturbed by it, it may be sent
// again, and it ends where people begin to write.
func TestImportedHistory(t *testing.T) {
	w := newTown(t, nil, "alice", "bob", "carol", "dave")
	c := w.http()
	k := c.with(w.key("import"))
	a := c.as("alice", "laptop")
	phone := w.device("bob", "phone")
	now := w.node.storage.Clock.Now()
	begin := now - 100*day

	in := func(body js) js { t.Helper(); return k.ok("POST", "/api/v1/admin/import/messages", body) }
	pair := []string{"alice", "bob"}
	conv := id.Direct("alice", "bob").String()
	direct := js{"user_ids": pair, "messages": past(begin, 0, 40, "alice", "bob", string(id.System))}
	if r := in(direct); r["conversation_id"] != conv || r["imported"] != 40.0 || r["duplicates"] != 0.0 || r["last_seq"] != "40" {
		t.Errorf("imported: %v", r)
	}
	if r := in(direct); r["imported"] != 0.0 || r["duplicates"] != 40.0 || r["last_seq"] != "40" {
		t.Errorf("imported again: %v", r)
	}
	// A run that was cut off goes on from anywhere before.
	if r := in(js{"user_ids": pair, "messages": past(begin, 30, 400, "alice", "bob", string(id.System))}); r["imported"] != 390.0 || r["duplicates"] != 10.0 || r["last_seq"] != "430" {
		t.Errorf("went on: %v", r)
	}

	// A group as of then, its members in two requests; who has left since is a sender none the less.
	old := js{"key": "tea", "owner_id": "carol", "created_time": begin, "name": "Tea", "members": []js{{"user_id": "alice", "role": "admin"}, {"user_id": "nobody"}}}
	made := k.ok("POST", "/api/v1/admin/import/groups", old)
	if made["changed"] != 2.0 || fmt.Sprint(ids(made["refused"], "user_id")) != "[nobody]" {
		t.Errorf("made: %v", made)
	}
	old["members"] = []js{{"user_id": "bob"}, {"user_id": "alice", "role": "admin"}}
	if more := k.ok("POST", "/api/v1/admin/import/groups", old); more["changed"] != 1.0 || more["conversation_id"] != made["conversation_id"] {
		t.Errorf("more: %v", more)
	}
	group := made["conversation_id"].(string)
	talk := js{"conversation_id": group, "messages": past(begin+day, 0, 25, "alice", "bob", "left long ago")}
	if r := in(talk); r["imported"] != 25.0 || r["last_seq"] != "29" {
		t.Errorf("imported: %v", r)
	}
	if r := in(talk); r["duplicates"] != 25.0 {
		t.Errorf("imported again: %v", r)
	}
	view := a.ok("GET", "/api/v1/groups/"+group, nil)
	if view["members"] != "3" && view["members"] != 3.0 || view["created_time"] != float64(begin) {
		t.Errorf("the group: %v", view)
	}

	for _, x := range []struct {
		conv, people, first string
		seq                 int
		at                  int64
	}{{conv, "alice", "line 0", 1, begin}, {group, "alice", "line 0", 5, begin + day}} {
		page := a.ok("GET", fmt.Sprintf("/api/v1/conversations/%s/messages?after=%d", x.conv, x.seq-1), nil)
		m := page["messages"].([]any)[0].(js)
		if m["content"] != x.first || m["timestamp"] != float64(x.at) || m["sender_id"] != "alice" || m["no_count"] != true {
			t.Errorf("the first of %s: %v", x.conv, m)
		}
		last := int64(0)
		for _, m := range page["messages"].([]any) {
			if at := int64(m.(js)["timestamp"].(float64)); at < last {
				t.Errorf("%v is older than the one before", m)
			} else {
				last = at
			}
		}
	}
	// The list is by what was said last, and nothing in it is unread.
	list := a.ok("GET", "/api/v1/conversations", nil)["conversations"].([]any)
	var order []string
	for _, x := range list {
		cv := x.(js)
		if id := cv["conversation_id"].(string); strings.HasPrefix(id, "03") {
			continue
		}
		order = append(order, cv["conversation_id"].(string))
		if cv["unread"] != 0.0 && cv["unread"] != "0" {
			t.Errorf("unread: %v", cv)
		}
	}
	if fmt.Sprint(order) != fmt.Sprint([]string{conv, group}) {
		t.Errorf("the list is %v", order)
	}

	for name, x := range map[string]struct {
		body js
		want code.Code
	}{
		"of tomorrow":            {js{"user_ids": pair, "messages": past(now+day, 0, 1, "alice")}, code.BadRequest},
		"older than what stands": {js{"user_ids": pair, "messages": past(begin-day, 5, 1, "alice")}, code.BadRequest},
		"out of order":           {js{"user_ids": pair, "messages": append(past(now-day, 2, 1, "alice"), past(now-day, 1, 1, "bob")...)}, code.BadRequest},
		"of a third":             {js{"user_ids": pair, "messages": past(now-day, 1, 1, "carol")}, code.BadRequest},
		"twice":                  {js{"user_ids": pair, "messages": append(past(now-day, 1, 1, "bob"), past(now-day, 1, 1, "bob")...)}, code.BadRequest},
		"with another content":   {js{"user_ids": pair, "messages": []js{{"sender_id": "alice", "timestamp": begin, "key": "old-0", "content": "other"}}}, code.IDConflict},
		"without a key":          {js{"user_ids": pair, "messages": []js{{"sender_id": "alice", "timestamp": now - day, "content": "x"}}}, code.BadRequest},
		"of the server's type":   {js{"user_ids": pair, "messages": []js{{"sender_id": "alice", "timestamp": now - day, "key": "x", "content": "x", "msg_type": 64}}}, code.BadRequest},
		"with a mention":         {js{"user_ids": pair, "messages": []js{{"sender_id": "alice", "timestamp": now - day, "key": "x", "content": "x", "mention_all": true}}}, code.BadRequest},
		"too large":              {js{"user_ids": pair, "messages": []js{{"sender_id": "alice", "timestamp": now - day, "key": "x", "content": strings.Repeat("x", 70<<10)}}}, code.ContentTooLarge},
		"none":                   {js{"user_ids": pair, "messages": []js{}}, code.BadRequest},
		"nowhere":                {js{"messages": past(now-day, 1, 1, "bob")}, code.BadRequest},
		"in two places":          {js{"user_ids": pair, "conversation_id": group, "messages": past(now-day, 1, 1, "bob")}, code.BadRequest},
		"in no group":            {js{"conversation_id": id.NewGroup().String(), "messages": past(now-day, 1, 1, "bob")}, code.NoSuchConversation},
		"in a direct one by id":  {js{"conversation_id": conv, "messages": past(now-day, 1, 1, "bob")}, code.NoSuchConversation},
		"with nobody":            {js{"user_ids": []string{"alice", "nobody"}, "messages": past(now-day, 1, 1, "alice")}, code.NoSuchUser},
		"too many":               {js{"user_ids": pair, "messages": past(begin, 0, 2001, "bob")}, code.BadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			c := *k
			c.t = t
			c.refused("POST", "/api/v1/admin/import/messages", x.body, x.want)
		})
	}
	c.with(w.key("act", "users", "tokens", "system")).refused("POST", "/api/v1/admin/import/messages", direct, code.Forbidden)
	for _, body := range []js{{"key": "x", "owner_id": "alice"}, {"key": "x", "owner_id": "alice", "created_time": now + day}, {"owner_id": "alice", "created_time": begin}, {"key": "x", "owner_id": "alice", "created_time": begin, "members": []js{{"user_id": "bob", "role": "king"}}}} {
		k.refused("POST", "/api/v1/admin/import/groups", body, code.BadRequest)
	}

	// Bob, who was there all the time, was told nothing. Then somebody writes, and history is closed.
	carol := w.device("carol", "desk")
	_, err := carol.says("bob", "did you hear?")
	w.must(err)
	if heard := phone.hears("1 carol: did you hear?"); len(heard) != 1 {
		t.Errorf("bob heard %q", heard)
	}
	r, err := carol.Send(w.ctx, gochat.ToConversation(id.Named(id.KindGroup, "tea")), gochat.Text("back again"))
	w.must(err)
	ack, err := r.Wait(w.ctx)
	w.must(err)
	if ack.Seq != 30 {
		t.Errorf("the first of today is %d", ack.Seq)
	}
	line := "30 carol: back again"
	phone.hears(line) // behind what his device found missing before it
	k.refused("POST", "/api/v1/admin/import/messages", js{"conversation_id": group, "messages": past(now-day, 9, 1, "bob")}, code.Forbidden)
	old["members"] = []js{{"user_id": "dave"}}
	k.refused("POST", "/api/v1/admin/import/groups", old, code.Forbidden)
	if r := in(talk); r["duplicates"] != 25.0 {
		t.Errorf("imported again, later: %v", r)
	}

	// The same after a restart, and what is stored is sound.
	w.must(w.node.stop())
	w.start(nil)
	c = w.http()
	k = c.with(w.key("import"))
	if r := in(direct); r["duplicates"] != 40.0 {
		t.Errorf("imported again, after a restart: %v", r)
	}
	_, err = w.device("alice", "desk").says("bob", "hello today")
	w.must(err)
	w.must(w.node.stop())
	sum, err := storage.Check(w.ctx, w.node.cfg, slog.New(slog.DiscardHandler), func(_, text string) { t.Error(text) })
	if err != nil || sum != (storage.CheckSum{}) {
		t.Errorf("check: %+v, %v", sum, err)
	}
}

// Times that a message id can't hold are those nearest to them, in the order that they came in.
func TestImportedBeforeTime(t *testing.T) {
	w := newTown(t, nil, "alice", "bob")
	k := w.http().with(w.key("import", "act"))
	old := id.Epoch - 1000*int64(day)
	for part := range 3 {
		r := k.ok("POST", "/api/v1/admin/import/messages", js{"user_ids": []string{"bob", "alice"}, "messages": past(old, part*50, 60, "alice", "bob")})
		if want := float64(60); part > 0 && r["imported"] != 50.0 || part == 0 && r["imported"] != want {
			t.Errorf("part %d: %v", part, r)
		}
	}
	// As much as a request may hold, twice.
	for _, want := range []float64{1840, 0} {
		if r := k.ok("POST", "/api/v1/admin/import/messages", js{"user_ids": []string{"bob", "alice"}, "messages": past(old, 0, maxImport, "alice", "bob")}); r["imported"] != want || r["last_seq"] != fmt.Sprint(maxImport) {
			t.Errorf("a full request: %v", r)
		}
	}
	page := k.acting("alice").ok("GET", "/api/v1/conversations/"+id.Direct("alice", "bob").String()+"/messages?after=0", nil)
	for i, m := range page["messages"].([]any) {
		if m.(js)["content"] != fmt.Sprint("line ", i) || m.(js)["timestamp"].(float64) > id.Epoch+1000 {
			t.Errorf("%d: %v", i, m)
		}
	}
}

// The service writes to whom it likes, under a name that nobody else can have.
func TestSystemSender(t *testing.T) {
	for _, policy := range []string{"anyone", "nobody"} {
		w := newTown(t, func(cfg *Config, _ *Program) { cfg.Contacts.Write = policy }, "alice", "bob", "carol")
		c := w.http()
		us := string(id.System)
		service := c.with(w.key("system")).acting(us)
		bob := w.device("bob", "phone")
		service.ok("PATCH", "/api/v1/users/me", js{"name": "The Shop"})
		sent := service.ok("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "your order is on its way"})
		bob.hears("1 " + us + ": your order is on its way")
		if p := c.as("bob", "desk").ok("GET", "/api/v1/users/"+us, nil); p["name"] != "The Shop" {
			t.Errorf("bob sees %v", p)
		}
		_, err := bob.says(us, "thanks")
		if w.want(err, map[string]code.Code{"anyone": 0, "nobody": code.Forbidden}[policy]); policy == "anyone" {
			page := service.ok("GET", "/api/v1/conversations/"+sent["conversation_id"].(string)+"/messages", nil)
			if got := ids(page["messages"], "content"); !slices.Contains(got, "thanks") {
				t.Errorf("the service reads %v", got)
			}
			_, err = w.device("alice", "desk").says("bob", "hi")
			w.must(err)
			service.ok("POST", "/api/v1/conversations/"+id.Direct("alice", "bob").String()+"/messages", js{"content": "this talk is recorded"})
			bob.hears("2 " + us + ": this talk is recorded")
		}
		group := c.as("alice", "laptop").ok("POST", "/api/v1/groups", js{"name": "Tea", "user_ids": []string{"bob"}})["conversation_id"].(string)
		service.ok("POST", "/api/v1/conversations/"+group+"/messages", js{"content": "welcome to the group"})
		bob.hears("3 " + us + ": welcome to the group")

		service.refused("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "x", "msg_type": 64}, code.BadRequest)
		service.refused("POST", "/api/v1/messages", js{"receiver_id": "nobody", "content": "x"}, code.NoSuchUser)
		service.refused("POST", "/api/v1/conversations/"+id.Self("bob").String()+"/messages", js{"content": "x"}, code.NoSuchConversation)
		service.acting("bob").refused("GET", "/api/v1/users/me", nil, code.Forbidden)
		other := c.with(w.key("act", "tokens", "users"))
		other.acting(us).refused("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "x"}, code.Forbidden)
		other.refused("POST", "/api/v1/admin/users/"+us+"/tokens", js{}, code.Forbidden)
		other.refused("POST", "/api/v1/admin/users/"+us+"/ban", js{}, code.Forbidden)
		if err := w.node.deletions.Delete(w.ctx, id.System); err == nil {
			t.Error("the service was deleted")
		}
		if made := other.ok("POST", "/api/v1/admin/users", js{"users": []js{{"user_id": us, "password": "long enough"}}}); fmt.Sprint(ids(made["refused"], "name")) != "[name_taken]" {
			t.Errorf("made: %v", made)
		}
		c.refused("POST", "/api/v1/auth/register", js{"name": us, "password": "long enough"}, code.NameTaken)
		w.must(w.node.stop())
	}
}
