package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
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
	return n.afterwards(ctx, in, n.accounts.Ban(ctx, id.UserID(in.User), in.Reason))
}

func (n *Node) unbanRequest(ctx context.Context, in UserRequest) (UserAnswer, error) {
	return n.afterwards(ctx, in, n.accounts.Unban(ctx, id.UserID(in.User)))
}

func (n *Node) deleteRequest(ctx context.Context, in UserRequest) (UserAnswer, error) {
	if err := n.deleteUser(ctx, id.UserID(in.User)); err != nil {
		return UserAnswer{}, err
	}
	return n.userRequest(ctx, in)
}

func (n *Node) signOutRequest(ctx context.Context, in UserRequest) (UserAnswer, error) {
	if in.Device == "" {
		return n.afterwards(ctx, in, n.accounts.RevokeAll(ctx, id.UserID(in.User)))
	}
	return n.afterwards(ctx, in, n.accounts.Revoke(ctx, id.UserID(in.User), id.DeviceID(in.Device)))
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
	st, cerr := n.accounts.Look(ctx, user)
	if cerr != nil {
		return UserAnswer{}, cerr
	}
	ans := UserAnswer{User: in.User, Closed: st.Closed, Reason: st.Reason, Registered: timeOrNil(st.Registered), Since: timeOrNil(st.Since), Devices: []DeviceAnswer{}}
	body, err := n.accounts.Devices(ctx, &packet.Origin{User: user}, nil)
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

// Bounds of deletions.
const (
	// deleteSettle is how long after the account was closed what had begun before may still
	// bring its user into a conversation: longer than any call is given.
	deleteSettle  = 15 * time.Second
	deleteAgain   = 2 * time.Second // between two passes while a deletion is under way
	deleteAgainUp = time.Minute     // the same after failures, which double it
	deletesAtOnce = 64
)

// deleteUser deletes a user. What is begun here is durable first, and goes on by itself,
// after a restart too, when it can't be ended now.
func (n *Node) deleteUser(ctx context.Context, user id.UserID) error {
	if err := n.accounts.BeginDelete(ctx, user); err != nil {
		return err
	}
	n.log.Info("the deletion of an account begins", "user", user)
	select {
	case n.deletions <- struct{}{}:
	default:
	}
	if _, err := n.deletePass(ctx, user); err != nil {
		return fmt.Errorf("the deletion was begun, and goes on by itself: %w", err)
	}
	return nil
}

// runDeletions ends the deletions that were begun, until ctx ends.
func (n *Node) runDeletions(ctx context.Context) error {
	wait, failures := time.Duration(0), 0
	for {
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		if wait != 0 || failures > 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-timer:
			case <-n.deletions:
			}
		}
		left, err := n.goOnDeleting(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			failures++
			wait = min(deleteAgain<<min(failures, 10), deleteAgainUp)
			n.log.Warn("a deletion of an account is not done, and tried again", "in", wait, "err", err)
		case left:
			failures, wait = 0, deleteAgain
		default:
			failures, wait = 0, -1 // until one begins
		}
	}
}

// goOnDeleting makes a pass over the deletions under way and reports whether one is left.
func (n *Node) goOnDeleting(ctx context.Context) (left bool, err error) {
	all, err := n.accounts.Deletions(ctx, deletesAtOnce)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, d := range all {
		clean, err := n.deletePass(ctx, d.User)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("deleting %s: %w", d.User, err))
		case !clean || n.clock.Now()-d.Since < deleteSettle.Milliseconds():
			left = true
		default:
			if err := n.accounts.EndDelete(ctx, d.User); err != nil {
				errs = append(errs, err)
				continue
			}
			n.log.Info("an account was deleted", "user", d.User)
		}
	}
	return left || len(all) == deletesAtOnce, errors.Join(errs...)
}

// deletePass does what is left to do of a deletion, which may have been done in part: the
// account is closed and its sessions end; then what the user showed goes, then the user leaves
// all groups, and direct conversations take no more messages; each goes from the user's list
// when that holds. clean says that the list was empty already.
func (n *Node) deletePass(ctx context.Context, user id.UserID) (clean bool, err error) {
	if err := n.accounts.DeleteAccount(ctx, user); err != nil {
		return false, err
	}
	if err := n.relations.Erase(ctx, user); err != nil {
		return false, err
	}
	inbox := msgstore.NewInbox(n.store, msgstore.Keys{})
	tl := msgstore.NewTimeline(n.store, msgstore.Keys{})
	const page = 256
	clean = true
	for after := (id.ConversationID{}); ; {
		rows, err := inbox.Scan(ctx, user, after, page)
		if err != nil {
			return false, err
		}
		for i := range rows {
			clean = false
			if err := n.forget(ctx, inbox, tl, user, rows[i].Conversation); err != nil {
				return false, fmt.Errorf("conversation %s: %w", rows[i].Conversation, err)
			}
		}
		if len(rows) < page {
			return clean, nil
		}
		after = rows[len(rows)-1].Conversation
	}
}

// forget takes a deleted user out of one conversation and then the conversation off the user's list.
func (n *Node) forget(ctx context.Context, inbox *msgstore.Inbox, tl *msgstore.Timeline, user id.UserID, conv id.ConversationID) error {
	switch conv.Kind() {
	case id.KindGroup:
		if err := n.groups.Depart(ctx, user, conv); err != nil {
			return err
		}
	case id.KindDirect:
		if err := (fence{n.seq}).Touch(ctx, conv); err != nil {
			return err
		}
	}
	row, raw, err := inbox.Get(ctx, user, conv)
	if err != nil || raw == nil {
		return err
	}
	if !row.Tombstone && n.clock.Now()-row.Changed < deleteSettle.Milliseconds() {
		switch h, _, err := tl.Head(ctx, conv); {
		case err != nil:
			return err
		case conv.Kind() == id.KindGroup || !h.Exists():
			return nil // somebody may be bringing the user in just now: the next pass sees
		}
	}
	tx := &kv.Tx{Frees: true}
	key := msgstore.Keys{}.UserSide(nil, user, conv)
	tx.Require(key, raw)
	tx.Delete(key)
	n.store.Commit(ctx, tx)
	if errors.Is(tx.Err, kv.ErrConflict) {
		return nil // written just now: the next pass sees
	}
	return tx.Err
}
