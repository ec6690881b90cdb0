package node

import (
	"context"
	"io/fs"
	"strings"
	"time"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/backend"
	"github.com/gochat-im/gochat/edge/pages"
	"github.com/gochat-im/gochat/edge/rest"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/apikey"
	"github.com/gochat-im/gochat/services/importer"
	"github.com/gochat-im/gochat/services/repeat"
)

// httpRoutes are the routes of the HTTP API that stand on the services.
func (n *Node) httpRoutes(lim packet.Limits, app fs.FS) ([]api.Route, error) {
	repeats, err := repeat.New(repeat.Config{Store: n.store, Now: n.clock.Now})
	if err != nil {
		return nil, err
	}
	if n.apiKeys, err = apikey.New(apikey.Config{Store: n.store, Now: n.clock.Now, Logger: n.log}); err != nil {
		return nil, err
	}
	methods := n.methods()
	past, err := importer.New(importer.Config{Store: n.store, Users: n.accounts, Sequencer: pastChanges{n.seq}, Now: n.clock.Now})
	if err != nil {
		return nil, err
	}
	company, err := backend.Routes(backend.Config{
		Accounts: n.accounts, Methods: methods, Look: n.standing, Online: n.online, Named: n.named,
		Import: pastMessages{past}, Dated: n.datedGroups, Limits: lim, Now: n.clock.Now,
	})
	if err != nil {
		return nil, err
	}
	routes, err := rest.Routes(rest.Config{
		Conversations: n.convs, Methods: methods, Names: n.relations, Repeats: repeats,
		Limits: lim, Now: n.clock.Now, Version: n.version, More: company,
	})
	if err != nil || app == nil {
		return routes, err
	}
	shown, err := pages.Routes(app)
	return append(routes, shown...), err
}

func (n *Node) standing(ctx context.Context, u id.UserID) (backend.Standing, error) {
	st, err := n.accounts.Look(ctx, u)
	if err != nil {
		return backend.Standing{}, err
	}
	out := backend.Standing{Closed: st.Closed, Reason: st.Reason}
	if !st.Registered.IsZero() {
		out.Registered = st.Registered.UnixMilli()
	}
	if !st.Since.IsZero() {
		out.Since = st.Since.UnixMilli()
	}
	return out, nil
}

func (n *Node) online(u id.UserID) (on bool) {
	n.sessions.Each(u, func(uint64, id.DeviceID) { on = true })
	return on
}

// named makes u found by name.
func (n *Node) named(ctx context.Context, u id.UserID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), indexTime)
	defer cancel()
	if err := n.relations.Index(ctx, u); err != nil { // done at the next sign-in
		n.log.Warn("somebody can't be found by name yet", "user", u, "err", err)
	}
}

// identify says whose token a request to the HTTP API carries.
func (n *Node) identify(ctx context.Context, access api.Access, token string, as id.UserID) (api.Caller, *code.Error) {
	if access == api.Key || strings.HasPrefix(token, apikey.Prefix) {
		k, err := n.apiKeys.Verify(ctx, token)
		if err != nil {
			return api.Caller{}, err
		}
		caller := api.Caller{Key: k.ID, Scopes: k.Scopes}
		if access == api.Key {
			return caller, nil
		}
		scope := apikey.ScopeAct
		if as == id.System {
			scope = apikey.ScopeSystem
		}
		switch exists, eerr := n.accounts.Exists(ctx, as); {
		case as == "":
			return caller, code.Newf(code.BadRequest, "a server key needs X-User-ID here: the user to act as")
		case !k.May(scope):
			return caller, code.Newf(code.Forbidden, "this key is not good for %s", scope)
		case eerr != nil:
			return caller, code.Wrap(code.Unavailable, eerr)
		case !exists:
			return caller, code.New(code.NoSuchUser)
		}
		caller.User = as
		return caller, nil
	}
	who, err := n.accounts.VerifyAccess(ctx, token)
	if err != nil {
		return api.Caller{}, err
	}
	if as != "" && as != who.User {
		return api.Caller{}, code.Newf(code.Forbidden, "the token is of another user than X-User-ID")
	}
	return api.Caller{User: who.User, Device: who.Device}, nil
}

// signIns makes people found by their names once they have signed in.
type signIns struct{ *Node }

// indexTime bounds how long a sign-in waits for the index of names.
const indexTime = 2 * time.Second

func (s signIns) indexed(ctx context.Context, g auth.Grant, err *code.Error) (auth.Grant, *code.Error) {
	if err != nil {
		return g, err
	}
	s.named(ctx, id.UserID(g.UserID))
	return g, nil
}

func (s signIns) Register(ctx context.Context, name, password string, device id.DeviceID, kind uint8) (auth.Grant, *code.Error) {
	g, err := s.accounts.Register(ctx, name, password, device, kind)
	return s.indexed(ctx, g, err)
}

func (s signIns) Login(ctx context.Context, name, password string, device id.DeviceID, kind uint8) (auth.Grant, *code.Error) {
	g, err := s.accounts.Login(ctx, name, password, device, kind)
	return s.indexed(ctx, g, err)
}

func (s signIns) Refresh(ctx context.Context, token string) (auth.Grant, *code.Error) {
	return s.accounts.Refresh(ctx, token)
}

func (s signIns) Logout(ctx context.Context, token string, all bool) *code.Error {
	return s.accounts.Logout(ctx, token, all)
}

func (s signIns) ChangePassword(ctx context.Context, token, old, new string) *code.Error {
	return s.accounts.ChangePassword(ctx, token, old, new)
}
