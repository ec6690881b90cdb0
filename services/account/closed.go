package account

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Why an account is closed.
const (
	closedBanned  uint8 = 1
	closedDeleted uint8 = 2
)

// maxClosedReason is the longest reason of a ban, in bytes.
const maxClosedReason = 200

// closedRow is `20 user 03`: nobody may be this user any more. It is a row of its own since it
// holds for users of outside issuers as well, who have no account.
//
//	version u8 | state u8 | since uvarint | reason: uvarint length, bytes
type closedRow struct {
	State  uint8
	Since  int64  // Unix ms
	Reason string // for the user to read; at most maxClosedReason bytes
}

func (c *closedRow) append(dst []byte) []byte {
	dst = append(dst, rowVersion, c.State)
	dst = binary.AppendUvarint(dst, uint64(c.Since))
	dst = binary.AppendUvarint(dst, uint64(len(c.Reason)))
	return append(dst, c.Reason...)
}

func parseClosed(b []byte) (closedRow, error) {
	r := rowReader{rest: b, what: "row of a closed account"}
	r.version()
	c := closedRow{State: r.byte(), Since: r.time(), Reason: string(r.bytes())}
	return c, r.end()
}

// closedError is what the user of a row is told; nil if there is no row.
func closedError(raw []byte) *code.Error {
	if raw == nil {
		return nil
	}
	c, err := parseClosed(raw)
	if err != nil {
		return code.Wrap(code.Internal, err)
	}
	if c.Reason == "" {
		return code.New(code.Banned)
	}
	return code.Newf(code.Banned, "%s", c.Reason)
}

// open returns why the user may not sign in, or nil.
func (s *Service) open(ctx context.Context, u id.UserID) *code.Error {
	raw, err := s.cfg.Store.Get(ctx, s.cfg.Keys.Closed(nil, u))
	if err != nil {
		return storeError("reading whether an account is closed", err)
	}
	return closedError(raw)
}

// Ban closes the account of a user, an outside issuer's too: every session ends, and no token
// is accepted until Unban. Messages to them are stored as before. reason is told to the user.
func (s *Service) Ban(ctx context.Context, u id.UserID, reason string) *code.Error {
	if u == id.System {
		return errService
	}
	if len(reason) > maxClosedReason {
		return code.Newf(code.BadRequest, "a reason has at most %d bytes", maxClosedReason)
	}
	// The row is durable before the sessions end: who connects in between is refused by it.
	if err := s.close(ctx, u, closedRow{State: closedBanned, Reason: reason}); err != nil {
		return err
	}
	s.cfg.Logger.Info("account banned", "user", u)
	return s.revokeAll(ctx, u, closedWhy(reason), Event{What: EventRevoked})
}

func closedWhy(reason string) string {
	if reason == "" {
		return "this account is closed"
	}
	return reason
}

// Unban takes back a ban; nothing happens to a user who isn't banned. The user signs in again.
// A deleted account stays deleted: BadRequest.
func (s *Service) Unban(ctx context.Context, u id.UserID) *code.Error {
	if !u.Valid() {
		return code.Newf(code.BadRequest, "the user id is malformed")
	}
	key := s.cfg.Keys.Closed(nil, u)
	for attempt := 0; ; attempt++ {
		raw, row, cerr := s.readClosed(ctx, key)
		if cerr != nil || raw == nil {
			return cerr
		}
		if row.State == closedDeleted {
			return code.Newf(code.BadRequest, "the account was deleted")
		}
		var tx kv.Tx
		tx.Require(key, raw)
		tx.Delete(key)
		if err := s.commit(ctx, &tx); err != nil {
			if again(ctx, err, attempt) {
				continue
			}
			return storeError("opening an account", err)
		}
		s.cfg.Logger.Info("account opened again", "user", u)
		return nil
	}
}

// DeleteAccount closes the account of a user for good: password and sessions are gone, no token is
// accepted, nobody can begin to write to them, and the name is never given out again, since
// their messages, which belong to others' conversations too, go on to bear it. It may be
// called again, and has to be after an error. What lies elsewhere (groups, profile, list) is
// its caller's to remove, between BeginDelete and EndDelete.
func (s *Service) DeleteAccount(ctx context.Context, u id.UserID) *code.Error {
	if err := s.close(ctx, u, closedRow{State: closedDeleted}); err != nil {
		return err
	}
	if err := s.revokeAll(ctx, u, "this account was deleted", Event{}); err != nil {
		return err
	}
	key := s.cfg.Keys.Account(nil, u)
	for attempt := 0; ; attempt++ {
		raw, acc, cerr := s.readAccount(ctx, key)
		if cerr != nil {
			return cerr
		}
		if acc.Hash == "" {
			break
		}
		acc.Hash = ""
		var tx kv.Tx
		tx.Require(key, raw)
		tx.Set(key, acc.append(nil))
		if err := s.commit(ctx, &tx); err != nil {
			if again(ctx, err, attempt) {
				continue
			}
			return storeError("deleting an account", err)
		}
		break
	}
	s.known.remove(u)
	// A look-up that had read the row before may remember it just now.
	s.settle.later(time.Second, func() { s.known.remove(u) })
	return nil
}

// close stores c, but a ban never over a deletion.
func (s *Service) close(ctx context.Context, u id.UserID, c closedRow) *code.Error {
	if !u.Valid() {
		return code.Newf(code.BadRequest, "the user id is malformed")
	}
	key := s.cfg.Keys.Closed(nil, u)
	for attempt := 0; ; attempt++ {
		raw, old, cerr := s.readClosed(ctx, key)
		if cerr != nil {
			return cerr
		}
		if old.State == closedDeleted {
			if c.State == closedDeleted {
				return nil
			}
			return code.Newf(code.BadRequest, "the account was deleted")
		}
		c.Since = s.nowMS()
		var tx kv.Tx
		tx.Require(key, raw)
		tx.Set(key, c.append(nil))
		if err := s.commit(ctx, &tx); err != nil {
			if again(ctx, err, attempt) {
				continue
			}
			return storeError("closing an account", err)
		}
		return nil
	}
}

func (s *Service) readClosed(ctx context.Context, key []byte) ([]byte, closedRow, *code.Error) {
	raw, err := s.cfg.Store.Get(ctx, key)
	if err != nil {
		return nil, closedRow{}, storeError("reading whether an account is closed", err)
	}
	if raw == nil {
		return nil, closedRow{}, nil
	}
	row, err := parseClosed(raw)
	if err != nil {
		return nil, row, code.Wrap(code.Internal, err)
	}
	return raw, row, nil
}

// Standing is what an operator sees of a user.
type Standing struct {
	Registered time.Time // zero: no account of GoChat's own
	Closed     string    // empty, "banned" or "deleted"
	Since      time.Time // of Closed
	Reason     string    // of a ban
}

// Look returns how a user stands. It is for operators: it tells what no client may know.
func (s *Service) Look(ctx context.Context, u id.UserID) (st Standing, _ *code.Error) {
	if !u.Valid() {
		return st, code.Newf(code.BadRequest, "the user id is malformed")
	}
	_, acc, cerr := s.readAccount(ctx, s.cfg.Keys.Account(nil, u))
	if cerr != nil {
		return st, cerr
	}
	if acc.Created != 0 {
		st.Registered = time.UnixMilli(acc.Created).UTC()
	}
	raw, row, cerr := s.readClosed(ctx, s.cfg.Keys.Closed(nil, u))
	if cerr != nil || raw == nil {
		return st, cerr
	}
	st.Since, st.Reason = time.UnixMilli(row.Since).UTC(), row.Reason
	switch row.State {
	case closedBanned:
		st.Closed = "banned"
	case closedDeleted:
		st.Closed = "deleted"
	default:
		return st, code.Wrap(code.Internal, fmt.Errorf("state %d of a closed account", row.State))
	}
	return st, nil
}
