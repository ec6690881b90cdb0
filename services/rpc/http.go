package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/kitex_gen/logic"
	"github.com/gochat-im/gochat/kitex_gen/node"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/link"
)

// What is here serves the HTTP API that edges take in. Nothing of these requests is ever logged: passwords and tokens are in them.

// routeKey names a route.
func routeKey(method, path string) string { return method + " " + path }

// accounts returns the port, or why there is none.
func (h *logicHandler) accounts() (api.Accounts, *node.Failure) {
	if h.Accounts == nil {
		return nil, link.Refused(code.New(code.UnknownMethod))
	}
	return h.Accounts, nil
}

func granted(g auth.Grant, err *code.Error) (*logic.GrantReply, error) {
	if err != nil {
		return &logic.GrantReply{Failure: link.Refused(err)}, nil
	}
	b, merr := json.Marshal(g)
	if merr != nil {
		return nil, fmt.Errorf("encoding a grant: %w", merr)
	}
	return &logic.GrantReply{Grant: b}, nil
}

// Register implements the service.
func (h *logicHandler) Register(ctx context.Context, r *logic.CredentialsRequest) (*logic.GrantReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	a, failure := h.accounts()
	if failure != nil {
		return &logic.GrantReply{Failure: failure}, nil
	}
	return granted(a.Register(ctx, r.Name, r.Password, id.DeviceID(r.Device), uint8(r.Kind)))
}

// Login implements the service.
func (h *logicHandler) Login(ctx context.Context, r *logic.CredentialsRequest) (*logic.GrantReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	a, failure := h.accounts()
	if failure != nil {
		return &logic.GrantReply{Failure: failure}, nil
	}
	return granted(a.Login(ctx, r.Name, r.Password, id.DeviceID(r.Device), uint8(r.Kind)))
}

// Refresh implements the service.
func (h *logicHandler) Refresh(ctx context.Context, r *logic.RefreshRequest) (*logic.GrantReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	a, failure := h.accounts()
	if failure != nil {
		return &logic.GrantReply{Failure: failure}, nil
	}
	return granted(a.Refresh(ctx, r.Token))
}

// Logout implements the service.
func (h *logicHandler) Logout(ctx context.Context, r *logic.RefreshRequest) (*logic.Done, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	a, failure := h.accounts()
	if failure != nil {
		return &logic.Done{Failure: failure}, nil
	}
	return &logic.Done{Failure: link.Refused(a.Logout(ctx, r.Token, r.All))}, nil
}

// ChangePassword implements the service.
func (h *logicHandler) ChangePassword(ctx context.Context, r *logic.PasswordRequest) (*logic.Done, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	a, failure := h.accounts()
	if failure != nil {
		return &logic.Done{Failure: failure}, nil
	}
	return &logic.Done{Failure: link.Refused(a.ChangePassword(ctx, r.Token, r.Old, r.New))}, nil
}

// Identify implements the service.
func (h *logicHandler) Identify(ctx context.Context, r *logic.IdentifyRequest) (*logic.IdentifyReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	if h.Logic.Identify == nil {
		return &logic.IdentifyReply{Failure: link.Refused(code.New(code.UnknownMethod))}, nil
	}
	c, err := h.Logic.Identify(ctx, api.Access(r.Access), r.Token, id.UserID(r.As))
	if err != nil {
		return &logic.IdentifyReply{Failure: link.Refused(err)}, nil
	}
	return &logic.IdentifyReply{User: string(c.User), Device: string(c.Device), Key: c.Key, Scopes: c.Scopes}, nil
}

// Route implements the service. Whoever asks was identified by the edge, from a node as this one.
func (h *logicHandler) Route(ctx context.Context, r *logic.RouteRequest) (*logic.RouteReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	serve := h.s.routes[routeKey(r.Method, r.Path)]
	if serve == nil {
		return &logic.RouteReply{Failure: link.Refused(code.New(code.UnknownMethod))}, nil
	}
	addr, _ := netip.ParseAddr(r.Addr) // the zero Addr for an edge that doesn't know
	p := &api.Plain{Query: r.Query, Body: r.Body, Params: pairs(r.Params), Header: pairs(r.Headers)}
	caller := api.Caller{User: id.UserID(r.User), Device: id.DeviceID(r.Device), Key: r.Key, Scopes: r.Scopes}
	a, err := serve(ctx, api.NewRequest(caller, addr, r.Call.GetRequest(), p))
	if err != nil {
		return &logic.RouteReply{Failure: h.fails(ctx, "serving "+r.Method+" "+r.Path, err)}, nil
	}
	reply := &logic.RouteReply{Status: uint32(a.Status), Type: a.Type, Body: a.Body}
	for _, kv := range a.Header {
		reply.Headers = append(reply.Headers, &logic.Pair{Name: kv[0], Value: kv[1]})
	}
	return reply, nil
}

func pairs(list []*logic.Pair) [][2]string {
	out := make([][2]string, 0, len(list))
	for _, kv := range list {
		out = append(out, [2]string{kv.Name, kv.Value})
	}
	return out
}
