package logic

import (
	"context"
	"strings"
	"time"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/backend"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/rest"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/apikey"
	"github.com/gochat-im/gochat/services/importer"
	"github.com/gochat-im/gochat/services/repeat"
)

// Routes are the routes of the HTTP API that stand on the services. What concerns a conversation goes to
// convs and methods: those of whoever owns it.
func (l *Logic) Routes(convs conn.Conversations, methods map[packet.Method]conn.Method) ([]api.Route, error) {
	lim := l.cfg.PacketLimits()
	repeats, err := repeat.New(repeat.Config{Store: l.storage.Store, Keys: l.storage.Keys, Now: l.storage.Clock.Now})
	if err != nil {
		return nil, err
	}
	past, err := importer.New(importer.Config{Store: l.storage.Store, Keys: l.storage.Keys, Users: l.Accounts, Sequencer: pastChanges{l.Sequencer}, Now: l.storage.Clock.Now})
	if err != nil {
		return nil, err
	}
	company, err := backend.Routes(backend.Config{
		Accounts: l.Accounts, Methods: methods, Look: l.standing, Online: l.online, Named: l.named,
		Import: pastMessages{past}, Dated: l.datedGroups, Broadcast: l.cfg.Broadcast, Limits: lim, Now: l.storage.Clock.Now,
	})
	if err != nil {
		return nil, err
	}
	return rest.Routes(rest.Config{
		Conversations: convs, Methods: methods, Names: l.Relations, Repeats: repeats,
		Limits: lim, Now: l.storage.Clock.Now, Version: l.cfg.Version, More: company,
	})
}

func (l *Logic) standing(ctx context.Context, u id.UserID) (backend.Standing, error) {
	st, err := l.Accounts.Look(ctx, u)
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

func (l *Logic) online(u id.UserID) (on bool) {
	l.cfg.Presence.Each(u, func(uint64, id.DeviceID) { on = true })
	return on
}

// named makes u found by name.
func (l *Logic) named(ctx context.Context, u id.UserID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), indexTime)
	defer cancel()
	if err := l.Relations.Index(ctx, u); err != nil { // done at the next sign-in
		l.log.Warn("somebody can't be found by name yet", "user", u, "err", err)
	}
}

// Identify says whose token a request to the HTTP API carries.
func (l *Logic) Identify(ctx context.Context, access api.Access, token string, as id.UserID) (api.Caller, *code.Error) {
	if access == api.Key || strings.HasPrefix(token, apikey.Prefix) {
		k, err := l.APIKeys.Verify(ctx, token)
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
		switch exists, eerr := l.Accounts.Exists(ctx, as); {
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
	who, err := l.Accounts.VerifyAccess(ctx, token)
	if err != nil {
		return api.Caller{}, err
	}
	if as != "" && as != who.User {
		return api.Caller{}, code.Newf(code.Forbidden, "the token is of another user than X-User-ID")
	}
	return api.Caller{User: who.User, Device: who.Device}, nil
}

// SignIns are the accounts as the HTTP API knows them.
func (l *Logic) SignIns() api.Accounts { return signIns{l} }

// signIns makes people found by their names once they have signed in.
type signIns struct{ *Logic }

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
	g, err := s.Logic.Accounts.Register(ctx, name, password, device, kind)
	return s.indexed(ctx, g, err)
}

func (s signIns) Login(ctx context.Context, name, password string, device id.DeviceID, kind uint8) (auth.Grant, *code.Error) {
	g, err := s.Logic.Accounts.Login(ctx, name, password, device, kind)
	return s.indexed(ctx, g, err)
}

func (s signIns) Refresh(ctx context.Context, token string) (auth.Grant, *code.Error) {
	return s.Logic.Accounts.Refresh(ctx, token)
}

func (s signIns) Logout(ctx context.Context, token string, all bool) *code.Error {
	return s.Logic.Accounts.Logout(ctx, token, all)
}

func (s signIns) ChangePassword(ctx context.Context, token, old, new string) *code.Error {
	return s.Logic.Accounts.ChangePassword(ctx, token, old, new)
}
