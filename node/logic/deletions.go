package logic

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Deletions are the accounts that are being deleted. Make it with Logic.Deletions.
type Deletions struct {
	l     *Logic
	mine  func(id.Slot) bool
	begun chan struct{} // a deletion was begun here
	look  time.Duration // how often to look for those begun elsewhere; -1: nobody else begins any
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

// Delete deletes a user. What is begun here is durable first, and goes on by itself,
// after a restart too, when it can't be ended now.
func (d *Deletions) Delete(ctx context.Context, user id.UserID) error {
	if err := d.l.Accounts.BeginDelete(ctx, user); err != nil {
		return err
	}
	d.l.log.Info("the deletion of an account begins", "user", user)
	select {
	case d.begun <- struct{}{}:
	default:
	}
	if _, err := d.pass(ctx, user); err != nil {
		return fmt.Errorf("the deletion was begun, and goes on by itself: %w", err)
	}
	return nil
}

// Run ends the deletions that were begun, on this node or another one, until ctx ends.
func (d *Deletions) Run(ctx context.Context) error {
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
			case <-d.begun:
			}
		}
		left, err := d.GoOn(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			failures++
			wait = min(deleteAgain<<min(failures, 10), deleteAgainUp)
			d.l.log.Warn("a deletion of an account is not done, and tried again", "in", wait, "err", err)
		case left:
			failures, wait = 0, deleteAgain
		default:
			failures, wait = 0, d.look // until one begins
		}
	}
}

// GoOn makes a pass over the deletions under way and reports whether one is left.
func (d *Deletions) GoOn(ctx context.Context) (left bool, err error) {
	all, err := d.l.Accounts.Deletions(ctx, d.mine, deletesAtOnce)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, del := range all {
		clean, err := d.pass(ctx, del.User)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("deleting %s: %w", del.User, err))
		case !clean || d.l.storage.Clock.Now()-del.Since < deleteSettle.Milliseconds():
			left = true
		default:
			if err := d.l.Accounts.EndDelete(ctx, del.User); err != nil {
				errs = append(errs, err)
				continue
			}
			d.l.log.Info("an account was deleted", "user", del.User)
		}
	}
	return left || len(all) == deletesAtOnce, errors.Join(errs...)
}

// pass does what is left to do of a deletion, which may have been done in part: the
// account is closed and its sessions end; then what the user showed goes, then the user leaves
// all groups, and direct conversations take no more messages; each goes from the user's list
// when that holds. clean says that the list was empty already.
func (d *Deletions) pass(ctx context.Context, user id.UserID) (clean bool, err error) {
	if err := d.l.Accounts.DeleteAccount(ctx, user); err != nil {
		return false, err
	}
	if err := d.l.Relations.Erase(ctx, user); err != nil {
		return false, err
	}
	inbox := msgstore.NewInbox(d.l.storage.Store, d.l.storage.Keys)
	tl := d.l.storage.Timeline
	const page = 256
	clean = true
	for after := (id.ConversationID{}); ; {
		rows, err := inbox.Scan(ctx, user, after, page)
		if err != nil {
			return false, err
		}
		for i := range rows {
			clean = false
			if err := d.forget(ctx, inbox, tl, user, rows[i].Conversation); err != nil {
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
func (d *Deletions) forget(ctx context.Context, inbox *msgstore.Inbox, tl *msgstore.Timeline, user id.UserID, conv id.ConversationID) error {
	switch conv.Kind() {
	case id.KindGroup:
		if err := d.l.Groups.Depart(ctx, user, conv); err != nil {
			return err
		}
	case id.KindDirect:
		if err := (fence{d.l.Sequencer}).Touch(ctx, conv); err != nil {
			return err
		}
	}
	row, raw, err := inbox.Get(ctx, user, conv)
	if err != nil || raw == nil {
		return err
	}
	if !row.Tombstone && d.l.storage.Clock.Now()-row.Changed < deleteSettle.Milliseconds() {
		switch h, _, err := tl.Head(ctx, conv); {
		case err != nil:
			return err
		case conv.Kind() == id.KindGroup || !h.Exists():
			return nil // somebody may be bringing the user in just now: the next pass sees
		}
	}
	tx := &kv.Tx{Frees: true}
	key := d.l.storage.Keys.UserSide(nil, user, conv)
	tx.Require(key, raw)
	tx.Delete(key)
	d.l.storage.Store.Commit(ctx, tx)
	if errors.Is(tx.Err, kv.ErrConflict) {
		return nil // written just now: the next pass sees
	}
	return tx.Err
}
