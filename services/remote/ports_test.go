package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
	"github.com/gochat-im/gochat/services/remote"
	"github.com/gochat-im/gochat/services/rpc"
)

func TestConversations(t *testing.T) {
	a, b := start(t, 1, nil), start(t, 2, nil)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view, b.view}, a, b)
	l := logicOf(t, v, pool(t, nil))
	for _, n := range []*logicNode{a, b} {
		_, bob, conv := between(v, n)
		st, err := l.OpenDirect(soon(t), alice, bob)
		if err != nil || !bytes.Equal(st.ConversationId, conv[:]) {
			t.Fatalf("opened %v, %v", st, err)
		}
		out := newSent()
		var batch []packet.Pending
		var want []string
		for i := range uint64(5) {
			batch = append(batch, text(alice, bob, i+1, out))
			want = append(want, fmt.Sprintf("%d:seq=%d", i+1, i+1))
		}
		l.Send(batch)
		out.expect(t, want...)
		// Asked there and here: the same pages, whatever room there was for them.
		for _, buf := range [][]byte{nil, make([]byte, 3), make([]byte, 1<<16)} {
			for _, r := range [][2]uint64{{1, 0}, {2, 3}, {4, 100}, {9, 12}} {
				got, err := l.Sync(soon(t), alice, conv, r[0], r[1], 3, buf)
				same, want := n.services.Sync(soon(t), alice, conv, r[0], r[1], 3, nil)
				if err != nil || want != nil || !samePage(got, same) {
					t.Errorf("range %v: %+v, %v; want %+v", r, got, err, same)
				}
			}
			got, err := l.History(soon(t), alice, conv, 4, 2, buf)
			same, _ := n.services.History(soon(t), alice, conv, 4, 2, nil)
			if err != nil || !samePage(got, same) || !got.More {
				t.Errorf("history: %+v, %v; want %+v", got, err, same)
			}
		}
		if st, err = l.State(soon(t), alice, conv); err != nil || st.LastSeq != 5 {
			t.Errorf("state: %v, %v", st, err)
		}
		if read, unread, err := l.Read(soon(t), alice, conv, 3); err != nil || read != 3 || unread != 2 {
			t.Errorf("read: %d, %d, %v", read, unread, err)
		}
		l.Received(alice, conv, 2)
		l.Received(alice, conv, 5)
		l.Received(alice, conv, 4)
		for ctx := soon(t); n.services.ReceivedSeq("alice", conv) != 5; {
			if ctx.Err() != nil {
				t.Fatal("the receipt didn't come")
			}
			time.Sleep(time.Millisecond)
		}
		if err := l.Signal(soon(t), alice, &wire.Signal{ConversationId: conv[:], Kind: 1, SenderId: "alice"}); err != nil {
			t.Error(err)
		}
		if got := n.services.Signals(); len(got) != 1 || got[0].SenderId != "alice" {
			t.Errorf("signals: %v", got)
		}
	}
	if st, err := l.State(soon(t), alice, id.Direct("x", "y")); st != nil || err != nil {
		t.Errorf("no conversation: %v, %v", st, err)
	}
	states, _, mark, err := l.Inbox(soon(t), alice, 41, "", 10)
	if err != nil || mark != 42 || len(states) != 1 {
		t.Errorf("inbox: %v, %d, %v", states, mark, err)
	}
}

func samePage(a, b packet.Page) bool {
	return a.Conversation == b.Conversation && a.FromSeq == b.FromSeq && a.ToSeq == b.ToSeq && a.FirstSeq == b.FirstSeq &&
		a.LastSeq == b.LastSeq && a.More == b.More && bytes.Equal(a.Messages, b.Messages) && fmt.Sprint(a.Users) == fmt.Sprint(b.Users)
}

// Errors cross with their number, text and time; those that have none stay where they are.
func TestErrorsCross(t *testing.T) {
	a := start(t, 1, nil)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	l := logicOf(t, v, pool(t, nil))
	_, _, conv := between(v, a)
	if _, err := l.OpenDirect(soon(t), alice, "nobody"); !errors.Is(err, code.New(code.NoSuchUser)) {
		t.Errorf("opened: %v", err)
	}
	if _, _, err := l.Read(soon(t), alice, conv, 1); !errors.Is(err, code.New(code.NoSuchConversation)) {
		t.Errorf("read: %v", err)
	}
	if err := l.Signal(soon(t), alice, &wire.Signal{ConversationId: conv[:], ToUserId: "nobody"}); err == nil || err.Code != code.NoSuchUser {
		t.Errorf("signal: %v", err)
	}
	a.services.Fail.Store(true)
	_, err := l.Sync(soon(t), alice, conv, 1, 2, 3, nil)
	if !errors.Is(err, code.New(code.Internal)) || strings.Contains(err.Error(), "fake store") {
		t.Errorf("sync: %v", err)
	}
}

// Who hangs up is no longer worked for.
func TestDeadlineAndCancellationCross(t *testing.T) {
	type seen struct {
		deadline time.Time
		call     trace.Call
	}
	began, ended := make(chan seen, 1), make(chan struct{}, 1)
	a := start(t, 1, func(c *rpc.Config) {
		c.Logic.Methods = map[packet.Method]conn.Method{packet.MethodGroup: func(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
			at, _ := ctx.Deadline()
			began <- seen{at, *trace.From(ctx)}
			<-ctx.Done()
			ended <- struct{}{}
			return nil, ctx.Err()
		}}
	})
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	l := logicOf(t, v, pool(t, nil))
	_, _, conv := between(v, a)
	inner, err := (&wire.ConversationRequest{ConversationId: conv[:]}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	tr := trace.New()
	ctx, cancel := context.WithTimeout(trace.With(t.Context(), trace.Call{Trace: tr, ReqID: 5, Conn: 7}), time.Hour)
	answered := make(chan error, 1)
	go func() {
		_, err := l.Methods(packet.MethodGroup)[packet.MethodGroup](ctx, alice, inner)
		answered <- err
	}()
	s := <-began
	if left := time.Until(s.deadline); left <= 0 || left > 11*time.Second {
		t.Errorf("%v left: a call is bounded by the pool", left)
	}
	if s.call.Trace != tr || s.call.ReqID != 5 || s.call.Conn != 7 || s.call.User != "alice" || s.call.Device != "phone" {
		t.Errorf("for %+v", s.call)
	}
	cancel()
	if err := <-answered; err == nil {
		t.Error("a cancelled call was answered")
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the other side works on")
	}
}

func TestMethods(t *testing.T) {
	var at [3]map[packet.Method]int
	serve := func(n int) func(*rpc.Config) {
		at[n] = map[packet.Method]int{}
		return func(c *rpc.Config) {
			c.Logic.Methods = map[packet.Method]conn.Method{}
			for _, m := range []packet.Method{packet.MethodGroup, packet.MethodDevices} {
				c.Logic.Methods[m] = func(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
					at[n][m]++
					if *o != *alice {
						t.Errorf("asked by %+v", o)
					}
					return &wire.SignOutResponse{SignedOut: uint32(n)}, nil
				}
			}
			c.Logic.Methods[packet.MethodBlock] = func(context.Context, *packet.Origin, []byte) (packet.Body, error) { panic("a method that panics") }
		}
	}
	a, b := start(t, 1, serve(1)), start(t, 2, serve(2))
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view, b.view}, a, b)
	l := logicOf(t, v, pool(t, nil))
	methods := l.Methods(packet.MethodGroup, packet.MethodDevices, packet.MethodBlock, packet.MethodMembers)
	for n, node := range []*logicNode{a, b} {
		_, _, conv := between(v, node)
		inner, _ := (&wire.ConversationRequest{ConversationId: conv[:]}).Marshal(nil)
		body, err := methods[packet.MethodGroup](soon(t), alice, inner)
		if err != nil {
			t.Fatal(err)
		}
		enc, _ := body.Marshal(nil)
		var r wire.SignOutResponse
		if err := r.Unmarshal(enc); err != nil || int(r.SignedOut) != n+1 || at[n+1][packet.MethodGroup] != 1 {
			t.Errorf("answered by %d, want %d", r.SignedOut, n+1)
		}
	}
	if _, err := methods[packet.MethodDevices](soon(t), alice, nil); err != nil || at[1][packet.MethodDevices]+at[2][packet.MethodDevices] != 1 {
		t.Errorf("devices: %v", err)
	}
	if _, err := methods[packet.MethodMembers](soon(t), alice, nil); !errors.Is(err, code.New(code.UnknownMethod)) {
		t.Errorf("a method that the node hasn't: %v", err)
	}
	if _, err := methods[packet.MethodBlock](soon(t), alice, nil); !errors.Is(err, code.New(code.Internal)) {
		t.Errorf("a method that panics: %v", err)
	}
	if _, err := methods[packet.MethodDevices](soon(t), alice, nil); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

func TestAuthenticate(t *testing.T) {
	a := start(t, 1, nil)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	l := logicOf(t, v, pool(t, nil))
	user, resume, resumed, err := l.Authenticate(soon(t), "user:alice", "", "phone", 1)
	if user != "alice" || resume != "resume:alice" || resumed || err != nil {
		t.Errorf("%q, %q, %v, %v", user, resume, resumed, err)
	}
	if _, _, resumed, err = l.Authenticate(soon(t), "", "resume:alice", "phone", 1); !resumed || err != nil {
		t.Errorf("resumed %v, %v", resumed, err)
	}
	for token, want := range map[string]code.Code{"expired": code.TokenExpired, "banned": code.Banned, "?": code.Unauthenticated} {
		if _, _, _, err := l.Authenticate(soon(t), token, "", "phone", 1); err == nil || err.Code != want {
			t.Errorf("%s: %v", token, err)
		}
	}
}

// A listed node that is gone stays in the list: what any node can do is done by another one as soon as calls fail.
func TestAnyNodeButOneThatIsGone(t *testing.T) {
	a, b := start(t, 1, nil), start(t, 2, nil)
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view, b.view}, a, b)
	l := logicOf(t, v, pool(t, func(c *remote.PoolConfig) { c.Open = time.Hour }))
	a.kill()
	refused := 0
	for i := range 200 {
		_, _, _, err := l.Authenticate(soon(t), "user:alice", "", id.DeviceID(fmt.Sprint("device-", i)), 1)
		switch {
		case err == nil:
		case err.Code.Class() == code.Terminal:
			t.Fatalf("device %d: %v", i, err)
		default:
			refused++
		}
	}
	t.Logf("%d of 200 were refused", refused)
	if refused == 0 || refused > 10 {
		t.Errorf("%d of 200 were refused, want the few that found out", refused)
	}
}

// desk is api.Accounts that writes down what it is asked.
type desk struct{ asked []string }

func (d *desk) note(f string, args ...any) { d.asked = append(d.asked, fmt.Sprintf(f, args...)) }

func (d *desk) Register(_ context.Context, name, password string, device id.DeviceID, kind uint8) (auth.Grant, *code.Error) {
	d.note("register %s %s %s %d", name, password, device, kind)
	return auth.Grant{UserID: name, AccessExpires: 5, RefreshToken: "r"}, nil
}

func (d *desk) Login(_ context.Context, name, password string, device id.DeviceID, kind uint8) (auth.Grant, *code.Error) {
	d.note("login %s %s %s %d", name, password, device, kind)
	e := code.New(code.BadCredentials)
	e.RetryAfter = 1500 * time.Millisecond
	return auth.Grant{}, e
}

func (d *desk) Refresh(_ context.Context, token string) (auth.Grant, *code.Error) {
	d.note("refresh %s", token)
	return auth.Grant{AccessToken: "a"}, nil
}

func (d *desk) Logout(_ context.Context, token string, all bool) *code.Error {
	d.note("logout %s %v", token, all)
	return nil
}

func (d *desk) ChangePassword(_ context.Context, token, old, new string) *code.Error {
	d.note("password %s %s %s", token, old, new)
	return code.New(code.Unauthenticated)
}

func TestHTTP(t *testing.T) {
	d := &desk{}
	var served string
	a := start(t, 1, func(c *rpc.Config) {
		c.Logic.Accounts = d
		c.Logic.Identify = func(_ context.Context, access api.Access, token string, as id.UserID) (api.Caller, *code.Error) {
			if token != "key" {
				return api.Caller{}, code.New(code.Unauthenticated)
			}
			return api.Caller{Key: "k1", User: as, Scopes: []string{"a", "b"}}, nil
		}
		c.Logic.Routes = []api.Route{{Method: "POST", Path: "/api/v1/things/:thing", Body: true, Serve: func(_ context.Context, r *api.Request) (*api.Answer, error) {
			q, err := r.Query()
			if err != nil {
				return nil, err
			}
			served = fmt.Sprint(r.Param("thing"), q, r.Header("idempotency-key"), string(r.Body()), r.Caller, r.Addr, r.ID)
			if r.Param("thing") == "none" {
				return nil, code.New(code.NoSuchConversation)
			}
			return &api.Answer{Status: 201, Type: "text/plain", Body: []byte("made"), Header: [][2]string{{"Location", "/x"}}}, nil
		}}}
	})
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	l := logicOf(t, v, pool(t, nil))
	accounts := l.Accounts()
	if g, err := accounts.Register(soon(t), "alice", "secret", "phone", 1); err != nil || g != (auth.Grant{UserID: "alice", AccessExpires: 5, RefreshToken: "r"}) {
		t.Errorf("%+v, %v", g, err)
	}
	if _, err := accounts.Login(soon(t), "alice", "wrong", "phone", 2); err == nil || err.Code != code.BadCredentials || err.RetryAfter != 1500*time.Millisecond {
		t.Errorf("%v", err)
	}
	if g, err := accounts.Refresh(soon(t), "r"); err != nil || g.AccessToken != "a" {
		t.Errorf("%+v, %v", g, err)
	}
	if err := accounts.Logout(soon(t), "r", true); err != nil {
		t.Error(err)
	}
	if err := accounts.ChangePassword(soon(t), "a", "x", "y"); err == nil || err.Code != code.Unauthenticated {
		t.Errorf("%v", err)
	}
	want := "register alice secret phone 1, login alice wrong phone 2, refresh r, logout r true, password a x y"
	if got := strings.Join(d.asked, ", "); got != want {
		t.Errorf("asked %s, want %s", got, want)
	}
	caller, err := l.Identify(soon(t), api.Key, "key", "bob")
	if err != nil || caller.Key != "k1" || caller.User != "bob" || len(caller.Scopes) != 2 {
		t.Errorf("%+v, %v", caller, err)
	}
	if _, err := l.Identify(soon(t), api.Key, "other", ""); err == nil || err.Code != code.Unauthenticated {
		t.Errorf("%v", err)
	}
	routes := l.Forward([]api.Route{{Method: "POST", Path: "/api/v1/things/:thing", Body: true}, {Method: "GET", Path: "/api/v1/else"}})
	plain := &api.Plain{Params: [][2]string{{"thing", "a/b"}}, Query: "n=1&n=2", Header: [][2]string{{"Idempotency-Key", "once"}}, Body: []byte("{}")}
	r := api.NewRequest(caller, netip.MustParseAddr("192.0.2.1"), "req-1", plain)
	ans, failed := routes[0].Serve(soon(t), r)
	if failed != nil || ans.Status != 201 || ans.Type != "text/plain" || string(ans.Body) != "made" || fmt.Sprint(ans.Header) != "[[Location /x]]" {
		t.Errorf("%+v, %v", ans, failed)
	}
	if want := "a/bmap[n:[1 2]]once{}{bob  k1 [a b]} 192.0.2.1req-1"; served != want {
		t.Errorf("served %s, want %s", served, want)
	}
	plain.Params[0][1] = "none"
	if _, err := routes[0].Serve(soon(t), r); !errors.Is(err, code.New(code.NoSuchConversation)) {
		t.Errorf("%v", err)
	}
	if _, err := routes[1].Serve(soon(t), r); !errors.Is(err, code.New(code.UnknownMethod)) {
		t.Errorf("a route that the node hasn't: %v", err)
	}
}

// A node that has too many calls under way refuses before it does anything, and a shutdown lets
// those under way come to their end.
func TestServerLimits(t *testing.T) {
	var srv *rpc.Server
	a := start(t, 1, func(c *rpc.Config) { c.MaxCalls = 1 })
	srv = a.Server
	v := newView(t, edgeNode)
	agree(t, []view{v, a.view}, a)
	p := pool(t, nil)
	l := logicOf(t, v, p)
	_, _, conv := between(v, a)
	a.services.Block.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	first := make(chan error, 1)
	go func() { _, err := l.Sync(ctx, alice, conv, 1, 2, 3, nil); first <- err }()
	for srv.Stats().Calls == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	_, err := l.State(soon(t), alice, conv)
	if !errors.Is(err, code.New(code.Overloaded)) || !remote.Unsent(err) {
		t.Errorf("one more: %v", err)
	}
	cancel()
	if err := <-first; !errors.Is(err, code.New(code.Unavailable)) {
		t.Errorf("cancelled: %v", err)
	}
	a.services.Block.Store(false)
	stop := soon(t)
	if err := srv.Shutdown(stop); err != nil {
		t.Error(err)
	}
	if s := srv.Stats(); s.Calls != 0 || s.Conns != 0 {
		t.Errorf("after the shutdown: %+v", s)
	}
	if _, err := l.State(soon(t), alice, conv); !errors.Is(err, code.New(code.Unavailable)) {
		t.Errorf("after the shutdown: %v", err)
	}
}
