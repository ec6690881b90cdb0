package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// handset is one device of a user, with a sign-in of its own, and what it sees.
type handset struct {
	*gochat.Client
	t     *testing.T
	id    string
	mu    sync.Mutex
	cond  *sync.Cond
	lines []string
	mixed bool // sort what it sees
	store gochat.Store
	grant auth.Grant
	kind  wire.DeviceKind
	addr  func() string
}

// signIn calls a route of the sign-in.
func signIn(t *testing.T, n *running, route, user, device string, kind wire.DeviceKind) auth.Grant {
	t.Helper()
	in, _ := json.Marshal(map[string]any{"name": user, "password": "long enough", "device_id": device, "device_kind": int(kind)})
	res, err := http.Post("http://"+n.HTTPAddr().String()+"/api/v1/auth/"+route, "application/json", bytes.NewReader(in))
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s of %s on %s: %v, %v", route, user, device, res, err)
	}
	defer res.Body.Close()
	var g auth.Grant
	if err := json.NewDecoder(res.Body).Decode(&g); err != nil {
		t.Fatal(err)
	}
	return g
}

// newHandset signs in and connects.
func newHandset(t *testing.T, n *running, route, user, device string, kind wire.DeviceKind) *handset {
	t.Helper()
	a := &handset{t: t, id: device, kind: kind, grant: signIn(t, n, route, user, device, kind), store: keep{gochat.NewMemoryStore()}}
	a.cond = sync.NewCond(&a.mu)
	a.addr = func() string { return n.TCPAddr().String() }
	a.connect()
	return a
}

// keep lets a store outlive its client.
type keep struct{ gochat.Store }

func (keep) Close() error { return nil }

func (a *handset) connect() {
	a.t.Helper()
	c, err := gochat.Open(gochat.Config{
		Address: a.addr(), Device: id.DeviceID(a.id), Kind: a.kind, Store: a.store, Handler: a.handle,
		Token:      func(context.Context) (string, error) { return a.grant.AccessToken, nil },
		MinBackoff: 10 * time.Millisecond, MaxBackoff: 50 * time.Millisecond,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.Client = c
	a.t.Cleanup(func() { _ = c.Close() })
	if err := c.Connected(within(a.t)); err != nil {
		a.t.Fatal(err)
	}
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// handle writes down what the device sees.
func (a *handset) handle(e gochat.Event) {
	line := ""
	switch e := e.(type) {
	case gochat.MessageReceived:
		line = fmt.Sprintf("%d %s: %s", e.Message.Seq, e.Message.Sender, e.Message.Text)
	case gochat.AccountChanged:
		line = strings.TrimSpace(fmt.Sprintf("%s %s %s", e.What, e.Device, e.Kind))
		if e.By != "" {
			line += " by " + string(e.By)
		}
	case gochat.Stopped:
		line = "stopped: " + e.Err.Error()
		var ce *code.Error
		if errors.As(e.Err, &ce) {
			line = fmt.Sprintf("stopped: %s, %s", ce.Code, ce.Reason)
		}
	case gochat.DraftChanged:
		line = fmt.Sprintf("%s writes on %s: %s", e.Sender, e.Device, e.Text)
	case gochat.SignalReceived:
		line = fmt.Sprintf("signal %d from %s: %q", e.Kind, e.Device, e.Data)
	default:
		return
	}
	a.mu.Lock()
	a.lines = append(a.lines, line)
	a.mu.Unlock()
	a.cond.Broadcast()
}

// sees waits until the device has seen just these lines since the last call.
func (a *handset) sees(want ...string) {
	a.t.Helper()
	late := time.AfterFunc(30*time.Second, a.cond.Broadcast)
	defer late.Stop()
	end := time.Now().Add(30 * time.Second)
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.lines) < len(want) && time.Now().Before(end) {
		a.cond.Wait()
	}
	if a.mixed { // conversations have no order among them
		slices.Sort(a.lines)
	}
	if !slices.Equal(a.lines, want) {
		a.t.Fatalf("%s sees\n  %s\nwant\n  %s", a.id, strings.Join(a.lines, "\n  "), strings.Join(want, "\n  "))
	}
	a.lines = nil
}

// ends waits until the device was told to stop, and why. What happened to the account just
// before may still have reached it, or not.
func (a *handset) ends(why string) {
	a.t.Helper()
	late := time.AfterFunc(30*time.Second, a.cond.Broadcast)
	defer late.Stop()
	end := time.Now().Add(30 * time.Second)
	a.mu.Lock()
	defer a.mu.Unlock()
	last := ""
	for !strings.HasPrefix(last, "stopped: ") && time.Now().Before(end) {
		if n := len(a.lines); n > 0 && strings.HasPrefix(a.lines[n-1], "stopped: ") {
			last = a.lines[n-1]
			continue
		}
		a.cond.Wait()
	}
	if last != "stopped: "+why {
		a.t.Fatalf("%s sees\n  %s\nwant, in the end\n  stopped: %s", a.id, strings.Join(a.lines, "\n  "), why)
	}
	a.lines = nil
}

func (a *handset) says(to, text string) {
	a.t.Helper()
	r, err := a.Send(within(a.t), gochat.ToUser(id.UserID(to)), gochat.Text(text))
	if err == nil {
		_, err = r.Wait(within(a.t))
	}
	if err != nil {
		a.t.Fatalf("%s says %q: %v", a.id, text, err)
	}
}

const (
	phone   = wire.DeviceKind_DEVICE_KIND_PHONE
	desktop = wire.DeviceKind_DEVICE_KIND_DESKTOP
)

// A user with three devices: one is signed out from another, which the third reads when it comes back.
func TestDevicesAreListedAndSignedOut(t *testing.T) {
	data := t.TempDir()
	n := start(t, data)
	ph := newHandset(t, n, "register", "alice", "phone", phone)
	desk := newHandset(t, n, "login", "alice", "desk", desktop)
	ph.sees("signed_in desk desktop")
	desk.sees("signed_in desk desktop")
	_ = ph.Close()
	web := newHandset(t, n, "login", "alice", "web", wire.DeviceKind_DEVICE_KIND_WEB)
	desk.sees("signed_in web web")
	web.sees("signed_in desk desktop", "signed_in web web")

	list := func(a *handset) (out []string) {
		t.Helper()
		devices, err := a.Devices(within(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range devices {
			out = append(out, fmt.Sprintf("%s %d online=%v current=%v since=%v", d.ID, d.Kind, d.Online, d.Current, !d.SignedIn.IsZero()))
		}
		slices.Sort(out)
		return out
	}
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(10 * time.Millisecond) { // until the server sees that the phone has gone
		got := list(desk)
		if slices.Equal(got, []string{"desk 3 online=true current=true since=true", "phone 1 online=false current=false since=true", "web 4 online=true current=false since=true"}) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("devices %q", got)
		}
	}

	if was, err := desk.SignOut(within(t), "web"); !was || err != nil {
		t.Fatalf("signing out: %v, %v", was, err)
	}
	web.ends("session_revoked, signed out from another device")
	desk.sees("signed_out web web by desk")
	if was, err := desk.SignOut(within(t), "web"); was || err != nil {
		t.Fatalf("signing out once more: %v, %v", was, err)
	}
	ph.lines = nil
	ph.connect()
	ph.sees("signed_in web web", "signed_out web web by desk")

	// Only the server writes there.
	r, err := ph.Send(within(t), gochat.ToConversation(id.Self("alice")), gochat.Text("me"))
	if err == nil {
		_, err = r.Wait(within(t))
	}
	if !errors.Is(err, code.New(code.Forbidden)) {
		t.Errorf("a message to the user's own timeline: %v", err)
	}
	if convs, err := ph.Inbox(within(t)); err != nil || len(convs) != 0 {
		t.Errorf("conversations %+v, %v", convs, err)
	}
	if k, err := ph.SignOutOthers(within(t)); k != 1 || err != nil {
		t.Errorf("%d others, %v", k, err)
	}
	desk.ends("session_revoked, signed out from another device")
	ph.sees("signed_out desk desktop by phone")
	if _, err := ph.SignOut(within(t), "phone"); !errors.Is(err, gochat.ErrStopped) {
		t.Errorf("signing itself out: %v", err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	sum, err := storage.Check(within(t), n.cfg, slog.New(slog.DiscardHandler), func(what, text string) { t.Log(what, text) })
	if err != nil || sum.Errors+sum.Warnings > 0 {
		t.Errorf("audit: %+v, %v", sum, err)
	}
}

// One phone: the newest wins, and the other one is told why.
func TestOneOfAKind(t *testing.T) {
	n := start(t, t.TempDir(), func(c *Config) { c.Devices.PerKind = 1 })
	old := newHandset(t, n, "register", "alice", "old", phone)
	desk := newHandset(t, n, "login", "alice", "desk", desktop)
	old.sees("signed_in desk desktop")
	desk.sees("signed_in desk desktop")
	fresh := newHandset(t, n, "login", "alice", "new", phone)
	old.ends("session_revoked, another device signed in, and there is no room for this one")
	desk.sees("signed_in new phone", "revoked old phone by new")
	fresh.sees("signed_in desk desktop", "signed_in new phone", "revoked old phone by new")

	// A device that says that it is another kind than when it signed in takes that kind's place.
	_ = desk.Close()
	desk.kind = phone
	desk.connect()
	fresh.ends("replaced, another device of yours took this one's place")
}

// The server restarts under its clients: nothing is lost, nothing comes twice.
func TestARestartUnderItsClients(t *testing.T) {
	data := t.TempDir()
	n := start(t, data)
	a := newHandset(t, n, "register", "alice", "a", phone)
	b := newHandset(t, n, "register", "bob", "b", phone)
	addr := n.TCPAddr().String()
	var want []string
	for i := range 3 {
		for j := range 4 {
			text := fmt.Sprintf("%d.%d", i, j)
			a.says("bob", text)
			want = append(want, fmt.Sprintf("%d alice: %s", len(want)+1, text))
		}
		begun := time.Now()
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		t.Logf("left in %v", time.Since(begun))
		r, err := a.Send(within(t), gochat.ToUser("bob"), gochat.Text("while it is away"))
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, fmt.Sprintf("%d alice: while it is away", len(want)+1))
		n = start(t, data, func(c *Config) { c.TCP.Listen = addr })
		if _, err := r.Wait(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	a.sees(want...)
	b.sees(want...)
}

// What is being written reaches who looks at it, the writer's other devices too, and is never stored;
// who doesn't look gets the message all the same.
func TestDraftsAndTheBackground(t *testing.T) {
	n := start(t, t.TempDir())
	a := newHandset(t, n, "register", "alice", "a", phone)
	b := newHandset(t, n, "register", "bob", "b", phone)
	desk := newHandset(t, n, "login", "bob", "desk", desktop)
	b.sees("signed_in desk desktop")
	desk.sees("signed_in desk desktop")
	a.says("bob", "hello")
	for _, h := range []*handset{a, b, desk} {
		h.sees("1 alice: hello")
	}
	if err := desk.SetBackground(within(t), true); err != nil {
		t.Fatal(err)
	}
	d := b.NewDraft(gochat.ToUser("alice"))
	for _, text := range []string{"hi", " there"} {
		if err := d.Write(text); err != nil {
			t.Fatal(err)
		}
	}
	a.sees("bob writes on b: hi", "bob writes on b: hi there")
	b.says("alice", "hi there")
	a.sees("2 bob: hi there")
	b.sees("2 bob: hi there")
	desk.sees("2 bob: hi there") // and nothing of the draft
	if err := desk.SetBackground(within(t), false); err != nil {
		t.Fatal(err)
	}
	if err := b.NewDraft(gochat.ToUser("alice")).Write("more"); err != nil {
		t.Fatal(err)
	}
	a.sees("bob writes on b: more")
	desk.sees("bob writes on b: more")
	late := newHandset(t, n, "login", "alice", "late", desktop)
	late.mixed = true
	late.sees("1 alice: hello", "2 bob: hi there", "signed_in late desktop")
}
