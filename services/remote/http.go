package remote

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/kitex_gen/logic"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/link"
)

// accounts implements api.Accounts at any node with the role logic.
type accounts struct{ l *Logic }

// Accounts returns the accounts wherever there is a node that has them: at this one if it does. Calls that change something are made once:
// what became of one that brought no answer isn't known, and the person tries again.
func (l *Logic) Accounts() api.Accounts {
	if l.cfg.Local != nil && l.cfg.Local.Accounts != nil {
		return l.cfg.Local.Accounts
	}
	return accounts{l}
}

// Register implements api.Accounts.
func (a accounts) Register(ctx context.Context, name, password string, device id.DeviceID, kind uint8) (auth.Grant, *code.Error) {
	p := a.l.cfg.Pool
	c := link.NewCall(ctx, p.cfg.Self, nil)
	req := &logic.CredentialsRequest{Call: c, Name: name, Password: password, Device: string(device), Kind: uint32(kind)}
	return grant(ask(ctx, p, a.l.any(name), c, req, unsentOnly, p.logic.Register))
}

// Login implements api.Accounts.
func (a accounts) Login(ctx context.Context, name, password string, device id.DeviceID, kind uint8) (auth.Grant, *code.Error) {
	p := a.l.cfg.Pool
	c := link.NewCall(ctx, p.cfg.Self, nil)
	req := &logic.CredentialsRequest{Call: c, Name: name, Password: password, Device: string(device), Kind: uint32(kind)}
	return grant(ask(ctx, p, a.l.any(name), c, req, unsentOnly, p.logic.Login))
}

// Refresh implements api.Accounts.
func (a accounts) Refresh(ctx context.Context, token string) (auth.Grant, *code.Error) {
	p := a.l.cfg.Pool
	c := link.NewCall(ctx, p.cfg.Self, nil)
	return grant(ask(ctx, p, a.l.any(token), c, &logic.RefreshRequest{Call: c, Token: token}, unsentOnly, p.logic.Refresh))
}

// Logout implements api.Accounts.
func (a accounts) Logout(ctx context.Context, token string, all bool) *code.Error {
	p := a.l.cfg.Pool
	c := link.NewCall(ctx, p.cfg.Self, nil)
	_, err := ask(ctx, p, a.l.any(token), c, &logic.RefreshRequest{Call: c, Token: token, All: all}, unsentOnly, p.logic.Logout)
	return asError(err)
}

// ChangePassword implements api.Accounts.
func (a accounts) ChangePassword(ctx context.Context, token, old, new string) *code.Error {
	p := a.l.cfg.Pool
	c := link.NewCall(ctx, p.cfg.Self, nil)
	_, err := ask(ctx, p, a.l.any(token), c, &logic.PasswordRequest{Call: c, Token: token, Old: old, New: new}, unsentOnly, p.logic.ChangePassword)
	return asError(err)
}

func grant(r *logic.GrantReply, err error) (g auth.Grant, _ *code.Error) {
	if err != nil {
		return g, asError(err)
	}
	if err := json.Unmarshal(r.Grant, &g); err != nil { // its error quotes what it read
		return g, code.Wrap(code.Internal, fmt.Errorf("a grant of %d bytes can't be read", len(r.Grant)))
	}
	return g, nil
}

// Identify is an api.Identify.
func (l *Logic) Identify(ctx context.Context, access api.Access, token string, as id.UserID) (api.Caller, *code.Error) {
	if l.cfg.Local != nil && l.cfg.Local.Identify != nil {
		return l.cfg.Local.Identify(ctx, access, token, as)
	}
	p := l.cfg.Pool
	c := link.NewCall(ctx, p.cfg.Self, nil)
	req := &logic.IdentifyRequest{Call: c, Access: uint32(access), Token: token, As: string(as)}
	r, err := ask(ctx, p, l.any(token), c, req, safely, p.logic.Identify)
	if err != nil {
		return api.Caller{}, asError(err)
	}
	return api.Caller{User: id.UserID(r.User), Device: id.DeviceID(r.Device), Key: r.Key, Scopes: r.Scopes}, nil
}

// Forward returns routes as an edge without services serves them: by the node that owns the conversation in the path,
// else the user who asks, else any. That node's services ask others for what isn't theirs.
func (l *Logic) Forward(routes []api.Route) []api.Route {
	out := make([]api.Route, 0, len(routes))
	for _, rt := range routes {
		method, path := rt.Method, rt.Path
		rt.Serve = func(ctx context.Context, r *api.Request) (*api.Answer, error) { return l.route(ctx, method, path, r) }
		out = append(out, rt)
	}
	return out
}

func (l *Logic) route(ctx context.Context, method, path string, r *api.Request) (*api.Answer, error) {
	p := l.cfg.Pool
	c := link.NewCall(ctx, p.cfg.Self, nil)
	c.Request = r.ID
	plain := r.Plain()
	req := &logic.RouteRequest{
		Call: c, Method: method, Path: path, Query: plain.Query, Body: plain.Body, Params: pairs(plain.Params), Headers: pairs(plain.Header),
		User: string(r.Caller.User), Device: string(r.Caller.Device), Key: r.Caller.Key, Scopes: r.Caller.Scopes, Addr: r.Addr.String(),
	}
	again := unsentOnly
	if method == "GET" || method == "HEAD" {
		again = safely
	}
	reply, err := ask(ctx, p, l.serving(r), c, req, again, p.logic.Route)
	if err != nil {
		return nil, err
	}
	a := &api.Answer{Status: int(reply.Status), Type: reply.Type, Body: reply.Body}
	for _, kv := range reply.Headers {
		a.Header = append(a.Header, [2]string{kv.Name, kv.Value})
	}
	return a, nil
}

// serving returns what names the node that serves r.
func (l *Logic) serving(r *api.Request) func() *nodes.Node {
	if conv, err := id.ParseConversation(r.Param("conversation_id")); err == nil {
		return l.of(conv.Slot())
	}
	user := r.Caller.User
	if user == "" {
		user = id.UserID(r.Param("user_id"))
	}
	if user != "" {
		return l.of(user.Slot())
	}
	return l.any(r.ID)
}

func pairs(list [][2]string) []*logic.Pair {
	out := make([]*logic.Pair, 0, len(list))
	for _, kv := range list {
		out = append(out, &logic.Pair{Name: kv[0], Value: kv[1]})
	}
	return out
}
