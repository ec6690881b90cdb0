package node

import (
	"context"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// UserRequest names the user of an operator's request, and what else it needs.
type UserRequest struct {
	User   string `json:"user"`
	Device string `json:"device,omitempty"` // of sign-out; empty: all
	Reason string `json:"reason,omitempty"` // of ban; told to the user
}

// UserAnswer is what an operator sees of a user.
type UserAnswer struct {
	User       string         `json:"user"`
	Registered *time.Time     `json:"registered,omitempty"` // none: no account of GoChat's own
	Closed     string         `json:"closed,omitempty"`     // banned or deleted
	Since      *time.Time     `json:"since,omitempty"`
	Reason     string         `json:"reason,omitempty"`
	Devices    []DeviceAnswer `json:"devices"` // signed in or connected, those seen last first
}

// DeviceAnswer is one of a user's devices.
type DeviceAnswer struct {
	Device   string     `json:"device"`
	Kind     string     `json:"kind"`
	Online   bool       `json:"online"`
	SignedIn *time.Time `json:"signed_in,omitempty"`
	LastSeen *time.Time `json:"last_seen,omitempty"`
}

func (n *Node) banRequest(ctx context.Context, in UserRequest) (UserAnswer, error) {
	return n.afterwards(ctx, in, n.logic.Accounts.Ban(ctx, id.UserID(in.User), in.Reason))
}

func (n *Node) unbanRequest(ctx context.Context, in UserRequest) (UserAnswer, error) {
	return n.afterwards(ctx, in, n.logic.Accounts.Unban(ctx, id.UserID(in.User)))
}

func (n *Node) deleteRequest(ctx context.Context, in UserRequest) (UserAnswer, error) {
	if err := n.deletions.Delete(ctx, id.UserID(in.User)); err != nil {
		return UserAnswer{}, err
	}
	return n.userRequest(ctx, in)
}

func (n *Node) signOutRequest(ctx context.Context, in UserRequest) (UserAnswer, error) {
	if in.Device == "" {
		return n.afterwards(ctx, in, n.logic.Accounts.RevokeAll(ctx, id.UserID(in.User)))
	}
	return n.afterwards(ctx, in, n.logic.Accounts.Revoke(ctx, id.UserID(in.User), id.DeviceID(in.Device)))
}

// afterwards answers how the user stands after what was done, or its error.
func (n *Node) afterwards(ctx context.Context, in UserRequest, err *code.Error) (UserAnswer, error) {
	if err != nil {
		return UserAnswer{}, err
	}
	return n.userRequest(ctx, in)
}

func (n *Node) userRequest(ctx context.Context, in UserRequest) (UserAnswer, error) {
	user := id.UserID(in.User)
	st, cerr := n.logic.Accounts.Look(ctx, user)
	if cerr != nil {
		return UserAnswer{}, cerr
	}
	ans := UserAnswer{User: in.User, Closed: st.Closed, Reason: st.Reason, Registered: timeOrNil(st.Registered), Since: timeOrNil(st.Since), Devices: []DeviceAnswer{}}
	body, err := n.logic.Accounts.Devices(ctx, &packet.Origin{User: user}, nil)
	if err != nil {
		return UserAnswer{}, err
	}
	for _, d := range body.(*wire.DevicesResponse).Devices {
		ans.Devices = append(ans.Devices, DeviceAnswer{
			Device: d.DeviceId, Kind: d.Kind.String(), Online: d.Online,
			SignedIn: timeOrNil(time.UnixMilli(int64(d.SignedInTime))), LastSeen: timeOrNil(time.UnixMilli(int64(d.LastSeenTime))),
		})
	}
	return ans, nil
}

// timeOrNil leaves out times that nobody knows.
func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() || t.UnixMilli() == 0 {
		return nil
	}
	t = t.UTC()
	return &t
}
