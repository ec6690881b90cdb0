package node

import (
	"context"
	"time"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/rest"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/repeat"
)

// httpRoutes are the routes of the HTTP API that stand on the services.
func (n *Node) httpRoutes(lim packet.Limits) ([]api.Route, error) {
	repeats, err := repeat.New(repeat.Config{Store: n.store, Now: n.clock.Now})
	if err != nil {
		return nil, err
	}
	return rest.Routes(rest.Config{
		Conversations: n.convs, Methods: n.methods(), Names: n.relations, Repeats: repeats,
		Limits: lim, Now: n.clock.Now, Version: n.version,
	})
}

// identify says whose token a request to the HTTP API carries.
func (n *Node) identify(ctx context.Context, access api.Access, token string) (api.Caller, *code.Error) {
	who, err := n.accounts.VerifyAccess(ctx, token)
	if err != nil {
		return api.Caller{}, err
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
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), indexTime)
	defer cancel()
	if ierr := s.relations.Index(ctx, id.UserID(g.UserID)); ierr != nil { // done at the next one
		s.log.Warn("somebody can't be found by name yet", "user", g.UserID, "err", ierr)
	}
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
