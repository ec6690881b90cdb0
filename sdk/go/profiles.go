package gochat

import (
	"context"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Profile is what a user shows of themselves. Without one all is empty and Version 0.
type Profile struct {
	User    id.UserID
	Name    string
	Avatar  string // a URL
	Ext     []byte // an integrator's own, at most packet.MaxProfileExt bytes
	Version uint64 // grows with each change
}

// ProfileChange says what is to be set. A nil member is left as it is.
type ProfileChange struct {
	Name   *string
	Avatar *string
	Ext    *[]byte
}

// Numbers of ProfileSetRequest.fields.
const (
	fieldName   = 1
	fieldAvatar = 2
	fieldExt    = 4
)

// ProfileChanged: the client has learned of a profile that is newer than what it knew: the user's own, that of somebody
// with whom the user has a direct conversation, or one that was asked for by Name, Profile or Profiles. An older Version than
// before never comes. The server tells only who is connected then; Name and Profile ask again after each connection.
type ProfileChanged struct{ Profile Profile }

func (ProfileChanged) event() {}

func profileOf(w *wire.Profile) Profile {
	return Profile{User: id.UserID(w.UserId), Name: w.Name, Avatar: w.Avatar, Ext: w.Ext, Version: w.Version}
}

// Profiles asks the server for the profiles of users, however many, and returns them by their ids; who has none is left
// out. The map is the caller's. To show names, Name and Profile need no waiting.
func (c *Client) Profiles(ctx context.Context, users ...id.UserID) (map[id.UserID]Profile, error) {
	found := make(map[id.UserID]Profile, len(users))
	for len(users) > 0 {
		asked := users[:min(len(users), packet.MaxProfiles)]
		req := &wire.ProfilesRequest{UserIds: make([]string, len(asked))}
		for i, u := range asked {
			req.UserIds[i] = string(u)
		}
		ans := new(wire.ProfilesResponse)
		err := c.do(ctx, packet.MethodProfiles, req, func(inner []byte) error {
			return answerInto(packet.MethodProfiles, inner, ans)
		})
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		for _, p := range ans.Profiles {
			found[id.UserID(p.UserId)] = profileOf(p)
			c.learn(profileOf(p))
		}
		c.mu.Unlock()
		n := len(asked)
		if ans.Answered > 0 { // else a server that knows no full answers
			n = min(n, int(ans.Answered))
		}
		users = users[n:]
	}
	return found, nil
}

// SetProfile changes the user's own profile and returns it as it is then.
func (c *Client) SetProfile(ctx context.Context, change ProfileChange) (Profile, error) {
	req := &wire.ProfileSetRequest{}
	if change.Name != nil {
		req.Fields, req.Name = req.Fields|fieldName, *change.Name
	}
	if change.Avatar != nil {
		req.Fields, req.Avatar = req.Fields|fieldAvatar, *change.Avatar
	}
	if change.Ext != nil {
		req.Fields, req.Ext = req.Fields|fieldExt, *change.Ext
	}
	ans := new(wire.Profile)
	err := c.do(ctx, packet.MethodProfileSet, req, func(inner []byte) error {
		return answerInto(packet.MethodProfileSet, inner, ans)
	})
	if err != nil {
		return Profile{}, err
	}
	p := profileOf(ans)
	c.mu.Lock()
	c.learn(p)
	c.mu.Unlock()
	return p, nil
}

// Block keeps a user from writing to this one, in their direct conversation; Unblock lets
// them again. Both hold once they have returned nil. Messages from before stay.
func (c *Client) Block(ctx context.Context, user id.UserID) error {
	return c.block(ctx, &wire.BlockRequest{UserId: string(user), Blocked: true})
}

// Unblock is the opposite of Block.
func (c *Client) Unblock(ctx context.Context, user id.UserID) error {
	return c.block(ctx, &wire.BlockRequest{UserId: string(user)})
}

func (c *Client) block(ctx context.Context, req *wire.BlockRequest) error {
	return c.do(ctx, packet.MethodBlock, req, func(inner []byte) error {
		return answerInto(packet.MethodBlock, inner, new(wire.BlockResponse))
	})
}

// Blocked returns whom the user has blocked, in the order of their ids' bytes.
func (c *Client) Blocked(ctx context.Context) ([]id.UserID, error) {
	var all []id.UserID
	for cursor := ""; ; {
		ans := new(wire.BlocksResponse)
		err := c.do(ctx, packet.MethodBlocks, &wire.BlocksRequest{Cursor: cursor}, func(inner []byte) error {
			return answerInto(packet.MethodBlocks, inner, ans)
		})
		if err != nil {
			return nil, err
		}
		for _, u := range ans.UserIds {
			all = append(all, id.UserID(u))
		}
		if cursor = ans.Cursor; cursor == "" {
			return all, nil
		}
	}
}

// profileSignalled acts on the server's word of a changed profile. The caller holds mu.
func (c *Client) profileSignalled(m *wire.Signal) {
	p, err := packet.DecodeProfile(m.Data)
	if err != nil {
		c.log.Warn("a signal of a profile that can't be read", "error", err)
		return
	}
	c.learn(profileOf(p))
}
