package gochat

import (
	"context"
	"encoding/json"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Device is one of the user's devices.
type Device struct {
	ID       id.DeviceID
	Kind     wire.DeviceKind
	Online   bool
	Current  bool      // this one
	SignedIn time.Time // zero: unknown
	LastSeen time.Time // of one that isn't online: when it last signed in or refreshed its tokens; zero: unknown
}

// Devices returns the user's devices that are signed in or connected, those seen last first.
func (c *Client) Devices(ctx context.Context) ([]Device, error) {
	ans := new(wire.DevicesResponse)
	err := c.do(ctx, packet.MethodDevices, new(wire.DevicesRequest), func(inner []byte) error {
		return answerInto(packet.MethodDevices, inner, ans)
	})
	if err != nil {
		return nil, err
	}
	devices := make([]Device, len(ans.Devices))
	for i, d := range ans.Devices {
		devices[i] = Device{
			ID: id.DeviceID(d.DeviceId), Kind: d.Kind, Online: d.Online, Current: d.Current, SignedIn: timeOf(d.SignedInTime), LastSeen: timeOf(d.LastSeenTime),
		}
	}
	return devices, nil
}

// SignOut signs out another device of the user's: its connection ends at once, and its tokens are
// good no more. It returns whether there was such a device. Who signs out its own device stops
// (see Stopped), and gets that error here.
func (c *Client) SignOut(ctx context.Context, device id.DeviceID) (bool, error) {
	n, err := c.signOut(ctx, device)
	return n > 0, err
}

// SignOutOthers signs out all of the user's other devices, and returns how many those were.
func (c *Client) SignOutOthers(ctx context.Context) (int, error) { return c.signOut(ctx, "") }

func (c *Client) signOut(ctx context.Context, device id.DeviceID) (int, error) {
	ans := new(wire.SignOutResponse)
	err := c.do(ctx, packet.MethodSignOut, &wire.SignOutRequest{DeviceId: string(device)}, func(inner []byte) error {
		return answerInto(packet.MethodSignOut, inner, ans)
	})
	return int(ans.SignedOut), err
}

// SetBackground tells the server whether somebody is looking at the app. While nobody is, it
// sends no signals and gathers messages for about a second. It returns when the server knows, or
// ctx ends; the client tells it again whenever it connects. What was held back and matters
// is caught up with by itself when somebody looks again.
func (c *Client) SetBackground(ctx context.Context, background bool) error {
	c.mu.Lock()
	c.background = background
	c.mu.Unlock()
	req := &wire.BackgroundRequest{Background: background}
	return c.do(ctx, packet.MethodBackground, req, func(inner []byte) error {
		return answerInto(packet.MethodBackground, inner, new(wire.BackgroundResponse))
	})
}

// What may happen to an account.
const (
	SignedIn        = "signed_in"
	SignedOut       = "signed_out"       // by the user
	Revoked         = "revoked"          // by the operator, a stolen token, or a newer device that there was no room for
	PasswordChanged = "password_changed" // all other devices are signed out
)

// AccountChanged: something happened to the user's account. Each device gets every event once and in
// order, as it does messages, those of the time when it was away too; a new device gets past ones like
// the messages of a conversation (see Config.Backlog).
type AccountChanged struct {
	What   string      // SignedIn, …, or what a later server tells of
	Device id.DeviceID // whose session it is, or who changed the password; "": every device's
	Kind   string      // of the device: "phone", …; "": unknown
	By     id.DeviceID // the user's device that did it, if it was another one
	Time   time.Time
}

func (AccountChanged) event() {}

// accountEvent reads a message of the self timeline.
func accountEvent(m Message) (AccountChanged, bool) {
	if m.Conversation.Kind() != id.KindSelf || m.Type != packet.TypeAccountEvent {
		return AccountChanged{}, false
	}
	var e struct {
		Event, Kind string
		Device, By  id.DeviceID
	}
	if err := json.Unmarshal([]byte(m.Text), &e); err != nil {
		return AccountChanged{}, false
	}
	return AccountChanged{What: e.Event, Device: e.Device, Kind: e.Kind, By: e.By, Time: m.Time}, true
}

// timeOf is the time of Unix milliseconds, zero for none.
func timeOf(ms uint64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms))
}
