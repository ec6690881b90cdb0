package node

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/edge/openapi/schematest"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// caller is somebody who uses the HTTP API. Every request and answer is held to the document.
type caller struct {
	t      *testing.T
	base   string
	doc    *schematest.Document
	token  string
	header map[string]string
	seen   map[string]bool // operations that were answered with success; shared
}

// js is a JSON object.
type js = map[string]any

func (w *town) http() *caller {
	w.t.Helper()
	c := &caller{t: w.t, base: "http://" + w.node.HTTPAddr().String(), seen: map[string]bool{}}
	resp, err := http.Get(c.base + "/api/openapi.json")
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	if c.doc, err = schematest.Parse(b); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// as returns a caller with the token of a new sign-in.
func (c *caller) as(user, device string) *caller {
	c.t.Helper()
	g := c.ok("POST", "/api/v1/auth/login", js{"name": user, "password": "long enough", "device_id": device})
	return c.with(g["access_token"].(string))
}

func (c *caller) with(token string) *caller {
	d := *c
	d.token = token
	return &d
}

func (c *caller) under(key string) *caller {
	d := *c
	d.header = map[string]string{"Idempotency-Key": key}
	return &d
}

// do sends a request; body nil: none.
func (c *caller) do(method, path string, body any) (int, []byte, http.Header) {
	c.t.Helper()
	var raw []byte
	switch body := body.(type) {
	case nil:
	case string:
		raw = []byte(body)
	default:
		var err error
		if raw, err = json.Marshal(body); err != nil {
			c.t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.base+path, bytes.NewReader(raw))
	if err != nil {
		c.t.Fatal(err)
	}
	if raw != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for k, v := range c.header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	bare, _, _ := strings.Cut(path, "?")
	op, ok := c.doc.Find(method, bare)
	if !ok {
		if resp.StatusCode < 400 {
			c.t.Errorf("%s %s is not in the document", method, path)
		}
		return resp.StatusCode, b, resp.Header
	}
	if err := c.doc.Answer(&op, resp.StatusCode, resp.Header.Get("Content-Type"), b); err != nil {
		c.t.Errorf("%s %s: %d: %v\n%s", method, path, resp.StatusCode, err, b)
	}
	if resp.StatusCode == 200 {
		c.seen[op.ID] = true
		if err := c.doc.Body(&op, raw); err != nil {
			c.t.Errorf("%s %s was accepted with %s: %v", method, path, raw, err)
		}
	}
	return resp.StatusCode, b, resp.Header
}

// ok wants a success and returns its object.
func (c *caller) ok(method, path string, body any) js {
	c.t.Helper()
	status, b, _ := c.do(method, path, body)
	if status != 200 {
		c.t.Fatalf("%s %s: %d %s", method, path, status, b)
	}
	var out js
	if err := json.Unmarshal(b, &out); err != nil {
		c.t.Fatalf("%s %s: %v in %s", method, path, err, b)
	}
	return out
}

// refused wants a refusal with a code and returns it.
func (c *caller) refused(method, path string, body any, want code.Code) auth.Error {
	c.t.Helper()
	status, b, h := c.do(method, path, body)
	var e auth.Refused
	if err := json.Unmarshal(b, &e); err != nil || code.Code(e.Error.Code) != want || status != want.HTTP() && status != 405 && status != 415 {
		c.t.Errorf("%s %s: %d %s (%v), want %d %s", method, path, status, b, err, want.HTTP(), want)
	}
	if e.Error.RetryAfterMS > 0 != (h.Get("Retry-After") != "") {
		c.t.Errorf("%s %s: retry after %d ms, and the header %q", method, path, e.Error.RetryAfterMS, h.Get("Retry-After"))
	}
	return e.Error
}

func ids(list any, member string) (out []string) {
	for _, x := range list.([]any) {
		out = append(out, fmt.Sprint(x.(js)[member]))
	}
	return out
}

// Every route is in the document and every operation of the document is a route, and does what
// it says, with a body and an answer of the document's form.
func TestHTTPContract(t *testing.T) {
	w := newTown(t, nil, "alice", "bob", "carol")
	c := w.http()
	a, b := c.as("alice", "laptop"), c.as("bob", "phone")

	if me := a.ok("GET", "/api/v1/users/me", nil); me["user_id"] != "alice" || me["device_id"] != "laptop" {
		t.Errorf("me: %v", me)
	}
	if p := a.ok("PATCH", "/api/v1/users/me", js{"name": "Alice Liddell", "avatar": "https://example.org/a.png"}); p["name"] != "Alice Liddell" || p["version"] != "1" {
		t.Errorf("profile: %v", p)
	}
	if p := a.ok("PATCH", "/api/v1/users/me", js{"avatar": ""}); p["name"] != "Alice Liddell" || p["avatar"] != nil {
		t.Errorf("profile: %v", p)
	}
	if p := b.ok("GET", "/api/v1/users/alice", nil); p["name"] != "Alice Liddell" {
		t.Errorf("profile: %v", p)
	}
	if p := b.ok("GET", "/api/v1/users/nobody%2Felse", nil); p["user_id"] != "nobody/else" || len(p) != 1 {
		t.Errorf("profile: %v", p)
	}
	if p := b.ok("GET", "/api/v1/users?user_id=alice&user_id=bob", nil); len(p["profiles"].([]any)) != 1 {
		t.Errorf("profiles: %v", p)
	}
	if p := b.ok("GET", "/api/v1/users/search?q=LIDD", nil); fmt.Sprint(ids(p["users"], "user_id")) != "[alice]" {
		t.Errorf("search: %v", p)
	}

	// A message by user, then by conversation; both pages.
	sent := a.ok("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "hello"})
	conv := sent["conversation_id"].(string)
	if conv != id.Direct("alice", "bob").String() || sent["seq"] != "1" || sent["duplicate"] != false {
		t.Errorf("sent: %v", sent)
	}
	msg := js{"msg_type": 2, "content": `{"url":"https://example.org/1.png","mime":"image/png"}`, "client_msg_id": id.NewClientMsgID(w.node.storage.Clock.Now()).String(), "mentions": []string{"alice"}}
	second := b.ok("POST", "/api/v1/conversations/"+conv+"/messages", msg)
	again := b.ok("POST", "/api/v1/conversations/"+conv+"/messages", msg)
	if second["seq"] != "2" || again["seq"] != "2" || again["duplicate"] != true || again["msg_id"] != second["msg_id"] {
		t.Errorf("sent: %v, again %v", second, again)
	}
	page := a.ok("GET", "/api/v1/conversations/"+conv+"/messages?limit=1", nil)
	if fmt.Sprint(ids(page["messages"], "seq")) != "[2]" || page["more"] != true || page["cursor"] != "2" {
		t.Errorf("page: %v", page)
	}
	m := page["messages"].([]any)[0].(js)
	if m["conversation_id"] != conv || m["sender_id"] != "bob" || m["receiver_id"] != "alice" || m["timestamp"] != second["timestamp"] {
		t.Errorf("message: %v", m)
	}
	page = a.ok("GET", "/api/v1/conversations/"+conv+"/messages?before="+page["cursor"].(string), nil)
	if fmt.Sprint(ids(page["messages"], "content")) != "[hello]" || page["more"] != false || page["cursor"] != "" {
		t.Errorf("page: %v", page)
	}
	page = a.ok("GET", "/api/v1/conversations/"+conv+"/messages?after=0&limit=1", nil)
	if fmt.Sprint(ids(page["messages"], "seq")) != "[1]" || page["more"] != true || page["cursor"] != "1" {
		t.Errorf("page: %v", page)
	}
	page = a.ok("GET", "/api/v1/conversations/"+conv+"/messages?after=2", nil)
	if len(page["messages"].([]any)) != 0 || page["more"] != false || page["cursor"] != "2" {
		t.Errorf("page: %v", page)
	}

	// Beside it stands what happened to the account, in a conversation of its own.
	list := a.ok("GET", "/api/v1/conversations", nil)["conversations"].([]any)
	if len(list) != 2 || list[0].(js)["conversation_id"] != conv || list[0].(js)["unread"] != 1.0 || list[0].(js)["last_seq"] != "2" {
		t.Errorf("conversations: %v", list)
	}
	if r := a.ok("PUT", "/api/v1/conversations/"+conv+"/read", js{"read_seq": "2"}); r["unread"] != 0.0 {
		t.Errorf("read: %v", r)
	}
	if s := a.ok("PATCH", "/api/v1/conversations/"+conv+"/settings", js{"pinned": true}); s["pinned"] != true {
		t.Errorf("settings: %v", s)
	}
	a.ok("GET", "/api/v1/conversations/"+conv, nil)
	if m := a.ok("GET", "/api/v1/conversations/"+conv+"/mentions?after_seq=0", nil); len(m["mentions"].([]any)) != 1 {
		t.Errorf("mentions: %v", m)
	}
	if d := a.ok("POST", "/api/v1/conversations", js{"user_id": "carol"}); d["conversation"].(js)["conversation_id"] != id.Direct("alice", "carol").String() {
		t.Errorf("opened: %v", d)
	}

	group := a.under("one").ok("POST", "/api/v1/groups", js{"name": "Tea", "user_ids": []string{"bob"}, "join": 1})["conversation_id"].(string)
	if again := a.under("one").ok("POST", "/api/v1/groups", js{"name": "Tea", "user_ids": []string{"bob"}, "join": 1}); again["conversation_id"] != group {
		t.Errorf("made again: %v", again)
	}
	g := "/api/v1/groups/" + group
	if x := a.ok("GET", g, nil); x["name"] != "Tea" || x["members"] != 2.0 || x["role"] != 3.0 {
		t.Errorf("group: %v", x)
	}
	a.ok("PATCH", g, js{"name": "Mad Tea"})
	a.ok("POST", g+"/members", js{"user_ids": []string{"carol"}})
	a.ok("PATCH", g+"/members/bob", js{"role": 2})
	a.ok("PUT", g+"/nickname", js{"nickname": "Queen"})
	if x := b.ok("GET", g+"/members?limit=2", nil); fmt.Sprint(ids(x["members"], "user_id")) != "[alice bob]" || x["cursor"] == "" {
		t.Errorf("members: %v", x)
	}
	b.ok("DELETE", g+"/members/carol", nil)
	a.ok("POST", g+"/members", js{"user_ids": []string{"carol"}})
	if x := b.ok("POST", g+"/members/remove", js{"user_ids": []string{"carol", "alice"}}); x["changed"] != 1.0 || fmt.Sprint(ids(x["refused"], "user_id")) != "[alice]" {
		t.Errorf("removed: %v", x)
	}
	b.refused("POST", g+"/members/remove", js{}, code.BadRequest)
	b.ok("POST", g+"/leave", nil)
	b.ok("POST", g+"/join", nil)
	if x := a.ok("POST", "/api/v1/conversations/"+group+"/messages", js{"content": "tea?"}); x["conversation_id"] != group {
		t.Errorf("sent: %v", x)
	}

	b.ok("PUT", "/api/v1/blocks/alice", nil)
	if x := b.ok("GET", "/api/v1/blocks", nil); fmt.Sprint(x["user_ids"]) != "[alice]" {
		t.Errorf("blocks: %v", x)
	}
	a.refused("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "hello?"}, code.Forbidden)
	if p := a.ok("GET", "/api/v1/users/search?q=bob", nil); len(p["users"].([]any)) != 0 {
		t.Errorf("who has blocked me is found: %v", p)
	}
	b.ok("DELETE", "/api/v1/blocks/alice", nil)
	a.ok("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "hello!"})

	tablet := c.as("alice", "tablet")
	if x := a.ok("GET", "/api/v1/devices", nil); len(x["devices"].([]any)) != 3 { // one by the registration
		t.Errorf("devices: %v", x)
	}
	a.ok("DELETE", "/api/v1/devices/tablet", nil)
	tablet.refused("GET", "/api/v1/users/me", nil, code.SessionRevoked)
	if x := a.ok("DELETE", "/api/v1/devices", nil); x["signed_out"] != 1.0 {
		t.Errorf("signed out: %v", x)
	}

	grant := c.ok("POST", "/api/v1/auth/register", js{"name": "dave", "password": "long enough"})
	grant = c.ok("POST", "/api/v1/auth/refresh", js{"refresh_token": grant["refresh_token"]})
	c.with(grant["access_token"].(string)).ok("POST", "/api/v1/auth/password", js{"old_password": "long enough", "new_password": "longer than that"})
	c.ok("POST", "/api/v1/auth/logout", js{"refresh_token": grant["refresh_token"]})
	for _, path := range []string{"/healthz", "/readyz", "/metrics", "/api/openapi.json", "/docs", "/docs/docs.js", "/docs/docs.css"} {
		if status, _, _ := c.do("GET", path, nil); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
	backEnd(t, w, c)
	roomsOverHTTP(t, w, c)
	contract(t, w, c)
}

// roomsOverHTTP goes through what is done with rooms, and everybody is told something.
func roomsOverHTTP(t *testing.T, w *town, c *caller) {
	t.Helper()
	k := c.with(w.key("act", "system", "broadcast"))
	as := *k
	as.header = map[string]string{"X-User-ID": string(id.System)}
	a := c.as("alice", "laptop")
	a.refused("POST", "/api/v1/rooms", js{"name": "lobby"}, code.Forbidden)
	room := "/api/v1/rooms/" + as.ok("POST", "/api/v1/rooms", js{"name": "lobby", "title": "The lobby", "slow_seconds": 60})["conversation_id"].(string)
	if r := a.ok("GET", room, nil); r["title"] != "The lobby" || r["slow_seconds"] != 60.0 || r["count"] != 0.0 {
		t.Errorf("room: %v", r)
	}
	if r := as.ok("PATCH", room, js{"slow_seconds": 0}); r["title"] != "The lobby" || r["slow_seconds"] != nil {
		t.Errorf("room: %v", r)
	}
	as.ok("PUT", room+"/users/alice", js{"action": 1})
	a.refused("POST", "/api/v1/conversations/"+room[len("/api/v1/rooms/"):]+"/messages", js{"content": "hm"}, code.Muted)
	if m := a.ok("GET", room+"/members", nil); m["count"] != 0.0 {
		t.Errorf("in the room: %v", m)
	}
	if x := k.ok("POST", "/api/v1/admin/broadcast", js{"title": "Tonight", "text": "We restart at ten."}); x["id"] == "" {
		t.Errorf("broadcast: %v", x)
	}
	k.refused("POST", "/api/v1/admin/broadcast", js{"text": "Again."}, code.RateLimited)
	c.with(w.key("act")).refused("POST", "/api/v1/admin/broadcast", js{"text": "Me too."}, code.Forbidden)
}

// key makes a server key.
func (w *town) key(scopes ...string) string {
	w.t.Helper()
	k, err := w.node.keyCreateRequest(w.ctx, KeyRequest{Name: "test", Scopes: scopes})
	if err != nil {
		w.t.Fatal(err)
	}
	return k.Text
}

// backEnd goes through what a server key is good for.
func backEnd(t *testing.T, w *town, c *caller) {
	t.Helper()
	k := c.with(w.key("users", "tokens", "act"))
	people := js{"users": []js{{"user_id": "frank", "name": "Frank"}, {"user_id": "grace", "password": "long enough"}, {"user_id": "alice"}, {"user_id": "x\ny"}}}
	made := k.ok("POST", "/api/v1/admin/users", people)
	if fmt.Sprint(made["created"]) != "[frank grace]" || fmt.Sprint(ids(made["refused"], "name")) != "[name_taken bad_request]" {
		t.Errorf("made: %v", made)
	}
	if again := k.ok("POST", "/api/v1/admin/users", people); fmt.Sprint(again["created"]) != "[]" {
		t.Errorf("made again: %v", again)
	}
	c.refused("POST", "/api/v1/auth/login", js{"name": "frank", "password": "long enough"}, code.BadCredentials)
	c.as("grace", "phone")
	token := k.ok("POST", "/api/v1/admin/users/frank/tokens", js{"device_id": "phone"})["access_token"].(string)
	frank := c.with(token)
	if me := frank.ok("GET", "/api/v1/users/me", nil); me["user_id"] != "frank" || me["device_id"] != "phone" {
		t.Errorf("me: %v", me)
	}

	// As users: a group with its members, and a message in it.
	as := *k
	as.header = map[string]string{"X-User-ID": "grace", "Idempotency-Key": "g"}
	group := as.ok("POST", "/api/v1/groups", js{"name": "Ops", "user_ids": []string{"frank", "alice"}})["conversation_id"].(string)
	as.header = map[string]string{"X-User-ID": "grace"}
	as.ok("POST", "/api/v1/conversations/"+group+"/messages", js{"content": "from the back end"})
	page := frank.ok("GET", "/api/v1/conversations/"+group+"/messages", nil)
	if m := page["messages"].([]any); m[len(m)-1].(js)["sender_id"] != "grace" {
		t.Errorf("messages: %v", m)
	}
	as.header = map[string]string{"X-User-ID": "nobody"}
	as.refused("GET", "/api/v1/users/me", nil, code.NoSuchUser)
	as.header = map[string]string{"X-User-ID": "x\ty"}
	as.refused("GET", "/api/v1/users/me", nil, code.BadRequest)
	k.refused("GET", "/api/v1/users/me", nil, code.BadRequest)
	frank.header = map[string]string{"X-User-ID": "alice"}
	frank.refused("GET", "/api/v1/users/me", nil, code.Forbidden)
	frank.header = nil

	phone := w.device("frank", "phone")
	if on := k.ok("GET", "/api/v1/admin/online?user_id=frank&user_id=grace", nil); fmt.Sprint(on["online"]) != "[frank]" {
		t.Errorf("online: %v", on)
	}
	if u := k.ok("GET", "/api/v1/admin/users/frank", nil); u["online"] != true || u["registered"] == nil || len(u["devices"].([]any)) != 1 {
		t.Errorf("frank: %v", u)
	}
	k.ok("POST", "/api/v1/admin/users/frank/sign-out", js{"device_id": "phone"})
	frank.refused("GET", "/api/v1/users/me", nil, code.SessionRevoked)
	k.ok("POST", "/api/v1/admin/users/frank/sign-out", js{})
	k.ok("POST", "/api/v1/admin/users/frank/ban", js{"reason": "spam"})
	if u := k.ok("GET", "/api/v1/admin/users/frank", nil); u["closed"] != "banned" || u["reason"] != "spam" {
		t.Errorf("frank: %v", u)
	}
	k.refused("POST", "/api/v1/admin/users/frank/tokens", js{}, code.Banned)
	k.ok("POST", "/api/v1/admin/users/frank/unban", nil)
	_ = phone

	k = c.with(w.key("import"))
	k.ok("POST", "/api/v1/admin/import/groups", js{"key": "old", "owner_id": "grace", "created_time": 1700000000000})
	k.ok("POST", "/api/v1/admin/import/messages", js{"user_ids": []string{"grace", "frank"}, "messages": []js{{"sender_id": "grace", "timestamp": 1700000000000, "client_msg_id": "018d467f-d800-7000-8000-000000000001", "content": "hi"}}})
}

// A key does what its scopes say and no more, and nothing once it is revoked.
func TestServerKeys(t *testing.T) {
	w := newTown(t, nil, "alice", "bob")
	c := w.http()
	a := c.as("alice", "laptop")
	users, tokens, act := c.with(w.key("users")), c.with(w.key("tokens")), c.with(w.key("act"))
	for _, x := range []struct {
		who          *caller
		method, path string
		body         any
		want         code.Code
	}{
		{c, "GET", "/api/v1/admin/users/alice", nil, code.Unauthenticated},
		{a, "GET", "/api/v1/admin/users/alice", nil, code.Unauthenticated},
		{tokens, "GET", "/api/v1/admin/users/alice", nil, code.Forbidden},
		{act, "GET", "/api/v1/admin/online?user_id=alice", nil, code.Forbidden},
		{act, "POST", "/api/v1/admin/users", js{"users": []js{{"user_id": "x"}}}, code.Forbidden},
		{users, "POST", "/api/v1/admin/users/alice/tokens", js{}, code.Forbidden},
		{users, "POST", "/api/v1/admin/users", js{"users": []js{}}, code.BadRequest},
		{users, "POST", "/api/v1/admin/users", js{"users": []js{{"user_id": "x", "admin": "yes"}}}, code.BadRequest},
		{users, "POST", "/api/v1/admin/users", js{"users": []js{{"user_id": 7}}}, code.BadRequest},
		{users, "POST", "/api/v1/admin/users", js{"users": []js{{"user_id": "x"}}, "more": 1}, code.BadRequest},
		{users, "GET", "/api/v1/admin/online", nil, code.BadRequest},
		{users, "POST", "/api/v1/admin/users/%00/ban", js{}, code.BadRequest},
		{users, "POST", "/api/v1/admin/users/alice/ban", js{"reason": strings.Repeat("x", 201)}, code.BadRequest},
		{users, "POST", "/api/v1/admin/users/alice/sign-out", js{"device_id": ""}, code.BadRequest},
		{tokens, "POST", "/api/v1/admin/users/nobody/tokens", js{}, code.NoSuchUser},
		{tokens, "POST", "/api/v1/admin/users/alice/tokens", js{"device_id": "\n"}, code.BadRequest},
		{tokens, "POST", "/api/v1/admin/users/alice/tokens", js{"ttl": "1h"}, code.BadRequest},
	} {
		x.who.refused(x.method, x.path, x.body, x.want)
	}
	tokens.header = map[string]string{"X-User-ID": "alice"}
	tokens.refused("GET", "/api/v1/users/me", nil, code.Forbidden)
	act.header = map[string]string{"X-User-ID": "alice"}
	if me := act.ok("GET", "/api/v1/users/me", nil); me["user_id"] != "alice" || me["device_id"] != nil {
		t.Errorf("me: %v", me)
	}
	list, err := w.node.keyListRequest(w.ctx, KeyRequest{})
	if err != nil || len(list.Keys) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, k := range list.Keys {
		if k.Text != "" {
			t.Error("a key is shown again")
		}
		if _, err := w.node.keyRevokeRequest(w.ctx, KeyRequest{ID: k.ID}); err != nil {
			t.Error(err)
		}
	}
	for _, k := range []*caller{users, tokens, act} {
		k.refused("GET", "/api/v1/users/me", nil, code.Unauthenticated)
	}
}

// contract compares the document with the routes, and with what was asked for.
func contract(t *testing.T, w *town, c *caller) {
	t.Helper()
	var documented []string
	for _, op := range c.doc.Operations() {
		documented = append(documented, op.Method+" "+strings.NewReplacer("{", ":", "}", "").Replace(op.Path))
		if !c.seen[op.ID] && !slices.Contains([]string{"websocket", "events", "postToEvents"}, op.ID) { // connections have tests of their own
			t.Errorf("%s (%s %s) was not tried", op.ID, op.Method, op.Path)
		}
	}
	for _, p := range w.node.edge.API.Patterns() {
		if i := slices.Index(documented, p); i >= 0 {
			documented = slices.Delete(documented, i, i+1)
		} else if !strings.HasPrefix(p, "HEAD ") {
			t.Errorf("%s is not in the document", p)
		}
	}
	if len(documented) > 0 {
		t.Errorf("no routes: %v", documented)
	}
}

// A message sent over HTTP reaches devices on TCP, those of the sender too, and one sent there is
// read over HTTP.
func TestHTTPAndTCPAreOneChat(t *testing.T) {
	w := newTown(t, nil, "alice", "bob")
	alice, bob := w.device("alice", "desktop"), w.device("bob", "phone")
	a := w.http().as("alice", "laptop")
	sent := a.ok("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "from a browser"})
	conv, err := id.ParseConversation(sent["conversation_id"].(string))
	if err != nil {
		t.Fatal(err)
	}
	alice.hears("1 alice: from a browser")
	bob.hears("1 alice: from a browser")
	if _, err := bob.says("alice", "from a phone"); err != nil {
		t.Fatal(err)
	}
	page := a.ok("GET", "/api/v1/conversations/"+conv.String()+"/messages", nil)
	if got := strings.Join(ids(page["messages"], "content"), ", "); got != "from a browser, from a phone" {
		t.Errorf("messages: %s", got)
	}
}

// The same Idempotency-Key stores nothing again, over a restart too; another body under it is refused.
func TestHTTPIdempotencyKey(t *testing.T) {
	w := newTown(t, nil, "alice", "bob")
	a := w.http().as("alice", "laptop")
	one := a.under("order-17").ok("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "once"})
	w.must(w.node.stop())
	w.start(nil)
	a.base = "http://" + w.node.HTTPAddr().String()
	two := a.under("order-17").ok("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "once"})
	if two["duplicate"] != true || two["msg_id"] != one["msg_id"] || two["client_msg_id"] != one["client_msg_id"] {
		t.Errorf("%v, then %v", one, two)
	}
	a.under("order-17").refused("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "twice"}, code.IDConflict)
	if three := a.under("order-18").ok("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "once"}); three["seq"] != "2" {
		t.Errorf("another key: %v", three)
	}
	for _, key := range []string{" ", "a b", "é", strings.Repeat("x", 129)} {
		if strings.TrimSpace(key) != "" {
			a.under(key).refused("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "x"}, code.BadRequest)
		}
	}
	a.under("k").refused("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "x", "client_msg_id": one["client_msg_id"]}, code.BadRequest)
	a.under("k").refused("POST", "/api/v1/groups", js{"name": "x", "key": "y"}, code.BadRequest)
}

func TestHTTPRefusals(t *testing.T) {
	w := newTown(t, nil, "alice", "bob", "eve")
	c := w.http()
	a, e := c.as("alice", "laptop"), c.as("eve", "phone")
	conv := a.ok("POST", "/api/v1/messages", js{"receiver_id": "bob", "content": "hello"})["conversation_id"].(string)
	messages := "/api/v1/conversations/" + conv + "/messages"
	for _, x := range []struct {
		who          *caller
		method, path string
		body         any
		want         code.Code
	}{
		{c, "GET", "/api/v1/users/me", nil, code.Unauthenticated},
		{c.with("forged"), "GET", "/api/v1/users/me", nil, code.Unauthenticated},
		{c.with(a.token[:len(a.token)-4] + "AAAA"), "GET", "/api/v1/conversations", nil, code.Unauthenticated},
		{e, "GET", messages, nil, code.NoSuchConversation},
		{e, "POST", messages, js{"content": "hi"}, code.NoSuchConversation},
		{e, "PUT", "/api/v1/conversations/" + conv + "/read", js{"read_seq": "1"}, code.NoSuchConversation},
		{a, "POST", "/api/v1/messages", js{"receiver_id": "nobody", "content": "hi"}, code.NoSuchUser},
		{a, "POST", "/api/v1/messages", js{"content": "hi"}, code.BadRequest},
		{a, "POST", "/api/v1/messages", js{"content": "hi", "receiver_id": "bob", "conversation_id": conv}, code.BadRequest},
		{a, "POST", "/api/v1/messages", js{"content": "hi", "receiver_id": "bob", "sender_id": "eve"}, code.BadRequest},
		{a, "POST", "/api/v1/messages", js{"content": "hi", "receiver_id": "bob", "encryption": js{"schema": 1}}, code.BadRequest},
		{a, "POST", "/api/v1/messages?x=1", js{"content": "hi", "receiver_id": "bob"}, code.BadRequest},
		{a, "POST", messages, `{"content":"a","content":"b"}`, code.BadRequest},
		{a, "POST", messages, "{\"content\":\"\xff\"}", code.InvalidUTF8},
		{a, "POST", messages, `{"content":""}`, code.BadRequest},
		{a, "POST", messages, js{"content": strings.Repeat("x", 13<<10)}, code.ContentTooLarge},
		{a, "POST", messages, js{"content": "x", "msg_type": 64}, code.BadRequest},
		{a, "POST", messages, js{"content": "x", "client_msg_id": "018d467f-d800-4000-8000-000000000001"}, code.BadRequest},
		{a, "POST", messages, js{"content": "x", "client_msg_id": id.NewClientMsgID(w.node.storage.Clock.Now() + 1e8).String()}, code.IDInFuture},
		{a, "POST", messages, js{"content": "x", "conversation_id": conv}, code.BadRequest},
		{a, "POST", messages, `[]`, code.BadRequest},
		{a, "GET", messages + "?before=1&after=1", nil, code.BadRequest},
		{a, "GET", messages + "?before=0", nil, code.BadRequest},
		{a, "GET", messages + "?before=x", nil, code.BadRequest},
		{a, "GET", messages + "?limit=0", nil, code.BadRequest},
		{a, "GET", messages + "?limit=1&limit=2", nil, code.BadRequest},
		{a, "GET", messages + "?%zz", nil, code.BadRequest},
		{a, "GET", messages + "?before=%ff", nil, code.InvalidUTF8},
		{a, "GET", "/api/v1/conversations/xyz/messages", nil, code.BadRequest},
		{a, "GET", "/api/v1/conversations/" + strings.Repeat("0", 32), nil, code.NoSuchConversation},
		{a, "GET", "/api/v1/conversations?cursor=nonsense", nil, code.BadRequest},
		{a, "PATCH", "/api/v1/conversations/" + conv + "/settings", js{}, code.BadRequest},
		{a, "PATCH", "/api/v1/conversations/" + conv + "/settings", js{"pinned": nil}, code.BadRequest},
		{a, "PATCH", "/api/v1/conversations/" + conv + "/settings", js{"pinned": 1}, code.BadRequest},
		{a, "PUT", "/api/v1/conversations/" + conv + "/read", js{}, code.BadRequest},
		{a, "GET", "/api/v1/groups/" + conv, nil, code.NoSuchConversation},
		{a, "GET", "/api/v1/groups/" + id.NewGroup().String(), nil, code.NoSuchConversation},
		{a, "PATCH", "/api/v1/users/me", js{"name": strings.Repeat("x", 300)}, code.BadRequest},
		{a, "PATCH", "/api/v1/users/me", js{"version": "7"}, code.BadRequest},
		{a, "GET", "/api/v1/users", nil, code.BadRequest},
		{a, "GET", "/api/v1/users?user_id=a&name=b", nil, code.BadRequest},
		{a, "GET", "/api/v1/users/search", nil, code.BadRequest},
		{a, "GET", "/api/v1/users/search?q=" + strings.Repeat("x", 65), nil, code.BadRequest},
		{a, "GET", "/api/v1/users/search?q=a&cursor=zzz", nil, code.BadRequest},
		{a, "GET", "/api/v1/users/%00", nil, code.BadRequest},
		{a, "GET", "/api/v1/users/" + url.PathEscape(strings.Repeat("x", 65)), nil, code.BadRequest},
		{a, "GET", "/api/v1/users/me", js{"x": 1}, code.BadRequest},
		{a, "PUT", "/api/v1/users/me", js{"name": "x"}, code.BadRequest},
		{a, "DELETE", "/api/v1/devices/nothing", nil, 0},
		{a, "GET", "/api/v1/nothing", nil, code.UnknownMethod},
	} {
		if x.want == 0 {
			x.who.ok(x.method, x.path, x.body)
			continue
		}
		x.who.refused(x.method, x.path, x.body, x.want)
	}
}
