package account

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Revocation is a session that ended before its time.
type Revocation struct {
	User   id.UserID
	Device id.DeviceID // empty: every device of the user
	At     time.Time   // a session that begins later is none of these
	Why    string      // for people
}

// What may happen to a user's devices.
const (
	EventSignedIn        = "signed_in"
	EventSignedOut       = "signed_out"       // by the user, on that device or another
	EventRevoked         = "revoked"          // by somebody or something else: the operator, a stolen token, no room
	EventPasswordChanged = "password_changed" // the sessions of the other devices ended
)

// Event is something that happened to a user's devices.
type Event struct {
	User   id.UserID
	What   string
	Device id.DeviceID // whose session it is, or who changed the password; empty: every device
	Kind   uint8       // of Device
	By     id.DeviceID // the user's device that did it, if it wasn't Device
}

// Presence knows who is connected. Its methods don't block.
type Presence interface {
	// Each calls fn for each connection of user.
	Each(user id.UserID, fn func(conn uint64, device id.DeviceID))

	// Find returns the connection of user's device and the kind that it said it is; 0: none.
	Find(user id.UserID, device id.DeviceID) (conn uint64, kind uint8)
}

type nobody struct{}

func (nobody) Each(id.UserID, func(uint64, id.DeviceID))          {}
func (nobody) Find(id.UserID, id.DeviceID) (conn uint64, _ uint8) { return 0, 0 }

// recordTime bounds how long keeping an event may take: the answer to whoever caused it waits.
const recordTime = 3 * time.Second

func (s *Service) record(ctx context.Context, e Event) {
	// What happened has happened, whoever has stopped waiting for the answer.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	s.cfg.Record(ctx, e)
}

// ended tells everybody that the session of d has ended.
func (s *Service) ended(ctx context.Context, u id.UserID, d *storedDevice, at time.Time, why string, e Event) {
	s.tell(Revocation{User: u, Device: d.device, At: at, Why: why})
	e.User, e.Device, e.Kind = u, d.device, d.Kind
	s.record(ctx, e)
}

// inUse is the devices that a user is known to use: those signed in here, and those connected
// with a token of an outside issuer, of which there is no row.
func (s *Service) inUse(u id.UserID, set *deviceSet, nowMS int64) []storedDevice {
	out := make([]storedDevice, 0, len(set.all))
	for _, d := range set.all {
		if conn, _ := s.cfg.Presence.Find(u, d.device); conn != 0 || d.live(nowMS) {
			out = append(out, d)
		}
	}
	s.cfg.Presence.Each(u, func(_ uint64, d id.DeviceID) {
		if !slices.ContainsFunc(out, func(x storedDevice) bool { return x.device == d }) {
			out = append(out, storedDevice{device: d, key: set.keys(d)})
		}
	})
	return out
}

// Devices answers DEVICES: the user's devices that are signed in here or connected, those
// seen last first. When somebody is connected is nothing that is stored, so last_seen_time of
// one that isn't is when it last signed in or refreshed its tokens.
func (s *Service) Devices(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	if err := packet.DecodeMethod(packet.MethodDevices, inner, new(wire.DevicesRequest)); err != nil {
		return nil, err
	}
	set, cerr := s.devices(ctx, o.User)
	if cerr != nil {
		return nil, cerr
	}
	now := s.nowMS()
	ans := new(wire.DevicesResponse)
	for _, d := range s.inUse(o.User, set, now) {
		conn, kind := s.cfg.Presence.Find(o.User, d.device)
		x := &wire.Device{
			DeviceId: string(d.device), Kind: wire.DeviceKind(d.Kind), Online: conn != 0, Current: d.device == o.Device,
			SignedInTime: uint64(d.Created), LastSeenTime: uint64(d.Used),
		}
		if !d.live(now) { // what an ended session was doesn't matter: it is connected with another one
			x.Kind, x.SignedInTime, x.LastSeenTime = wire.DeviceKind(kind), 0, 0
		}
		if x.Online {
			x.LastSeenTime = uint64(now)
		}
		if x.Kind == wire.DeviceKind_DEVICE_KIND_UNKNOWN {
			x.Kind = wire.DeviceKind(kind)
		}
		ans.Devices = append(ans.Devices, x)
	}
	slices.SortFunc(ans.Devices, func(a, b *wire.Device) int {
		return cmp.Or(cmp.Compare(b.LastSeenTime, a.LastSeenTime), strings.Compare(a.DeviceId, b.DeviceId))
	})
	return ans, nil
}

// maxDeviceRows bounds the rows of a user's devices, those of ended sessions included, by this many
// times DevicesPerUser.
const maxDeviceRows = 4

// SignOut answers SIGN_OUT: it ends the session of another device of the user's, or of all
// others that Devices lists. A device of which nothing is known, of a user whose tokens are
// an outside issuer's, may be signed out too: tokens issued until now are refused there.
func (s *Service) SignOut(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
	var r wire.SignOutRequest
	if err := packet.DecodeMethod(packet.MethodSignOut, inner, &r); err != nil {
		return nil, err
	}
	target := id.DeviceID(strings.Clone(r.DeviceId))
	if target != "" && !target.Valid() {
		return nil, code.Newf(code.BadRequest, "device_id: want 1 to 64 bytes without control characters")
	}
	var maybe []storedDevice // of tries that may have been stored: their sessions aren't seen any more then
	for attempt := 0; ; attempt++ {
		ended, now, err := s.signOut(ctx, o, target)
		if err == nil {
			for _, d := range maybe {
				if !slices.ContainsFunc(ended, func(x storedDevice) bool { return x.device == d.device }) {
					ended = append(ended, d)
				}
			}
			for i := range ended {
				e := Event{What: EventSignedOut, By: o.Device}
				if ended[i].device == o.Device {
					e.By = ""
				}
				s.ended(ctx, o.User, &ended[i], now, "signed out from another device", e)
			}
			return &wire.SignOutResponse{SignedOut: uint32(len(ended))}, nil
		}
		if !again(ctx, err, attempt) {
			return nil, storeError("ending sessions", err)
		}
		if errors.Is(err, kv.ErrUndetermined) {
			maybe = append(maybe, ended...)
		}
	}
}

// signOut ends, in one transaction, the sessions that SIGN_OUT names, and returns them, also
// with the error of the commit.
func (s *Service) signOut(ctx context.Context, o *packet.Origin, target id.DeviceID) (ended []storedDevice, at time.Time, _ error) {
	key := s.cfg.Keys.Account(nil, o.User)
	raw, acc, cerr := s.readAccount(ctx, key)
	if cerr != nil {
		return nil, at, cerr
	}
	set, cerr := s.devices(ctx, o.User)
	if cerr != nil {
		return nil, at, cerr
	}
	at = s.cfg.Now()
	now := at.UnixMilli()
	for _, d := range s.inUse(o.User, set, now) {
		if d.device == target || target == "" && d.device != o.Device {
			ended = append(ended, d)
		}
	}
	if target != "" && len(ended) == 0 && acc.Hash == "" {
		ended = append(ended, set.row(target))
	}
	if len(ended) == 0 {
		return nil, at, nil
	}
	var tx kv.Tx
	fresh := 0
	for i := range ended {
		d := &ended[i]
		if d.raw == nil {
			fresh++
			if _, kind := s.cfg.Presence.Find(o.User, d.device); kind != 0 {
				d.Kind = kind
			}
		}
		d.end(now)
		tx.Require(d.key, d.raw)
		tx.Set(d.key, d.append(nil))
	}
	if over := len(set.all) + fresh - maxDeviceRows*s.cfg.DevicesPerUser; over > 0 {
		notBefore := set.forget(&tx, over, ended, now)
		acc.NotBefore = max(acc.NotBefore, notBefore)
		tx.Require(key, raw)
		tx.Set(key, acc.append(nil))
	}
	return ended, at, s.commit(ctx, &tx)
}

// forget deletes n rows of sessions that have ended, the oldest first, but for those of keep.
// It returns a time before which no token that names no session may have been issued, since
// nothing tells any more on which devices they are refused.
func (set *deviceSet) forget(tx *kv.Tx, n int, keep []storedDevice, nowMS int64) (notBefore int64) {
	var old []storedDevice
	for _, d := range set.all {
		if !d.live(nowMS) && !slices.ContainsFunc(keep, func(x storedDevice) bool { return x.device == d.device }) {
			old = append(old, d)
		}
	}
	slices.SortFunc(old, func(a, b storedDevice) int { return cmp.Compare(a.Revoked, b.Revoked) })
	for _, d := range old[:min(n, len(old))] {
		tx.Require(d.key, d.raw)
		tx.Delete(d.key)
		notBefore = max(notBefore, d.Revoked)
	}
	return notBefore
}
