package account

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// storedDevice is a device row with where it came from. raw is nil if there is none.
type storedDevice struct {
	deviceRow
	device id.DeviceID
	key    []byte
	raw    []byte
}

// deviceSet is all device rows of a user, as of one moment.
type deviceSet struct {
	keys func(id.DeviceID) []byte
	all  []storedDevice
}

func (s *Service) devices(ctx context.Context, u id.UserID) (*deviceSet, *code.Error) {
	set := &deviceSet{keys: func(d id.DeviceID) []byte { return s.cfg.Keys.Device(nil, u, d) }}
	start := s.cfg.Keys.Devices(nil, u)
	end := bytes.Clone(start)
	end[len(end)-1]++
	err := s.cfg.Store.Scan(ctx, kv.Span{Start: start, End: end}, func(key, value []byte) (bool, error) {
		d := storedDevice{key: bytes.Clone(key), raw: bytes.Clone(value)}
		d.device = id.DeviceID(d.key[len(start):])
		var err error
		d.deviceRow, err = parseDevice(d.raw)
		set.all = append(set.all, d)
		return true, err
	})
	if err != nil {
		return nil, storeError("reading the devices of a user", err)
	}
	return set, nil
}

// row returns the device's row, one without raw if it has none.
func (set *deviceSet) row(d id.DeviceID) storedDevice {
	for _, x := range set.all {
		if x.device == d {
			return x
		}
	}
	return storedDevice{device: d, key: set.keys(d)}
}

// makeRoom deletes rows of other devices until one more of a kind fits into the limits: first
// those whose session has ended, then those unused the longest. It returns the devices whose sessions end by that.
func (set *deviceSet) makeRoom(tx *kv.Tx, keep id.DeviceID, kind uint8, limit, perKind int) (ended []storedDevice) {
	others := make([]storedDevice, 0, len(set.all))
	same := 0 // of others
	for _, x := range set.all {
		if x.device != keep {
			others = append(others, x)
			if x.Kind == kind && x.Revoked == 0 {
				same++
			}
		}
	}
	for len(others) >= limit || same >= perKind {
		worst := -1
		for i, x := range others {
			if len(others) < limit && (x.Kind != kind || x.Revoked != 0) {
				continue
			}
			if worst < 0 {
				worst = i
				continue
			}
			w := others[worst]
			if (x.Revoked != 0) != (w.Revoked != 0) {
				if x.Revoked != 0 {
					worst = i
				}
			} else if x.Used < w.Used {
				worst = i
			}
		}
		w := others[worst]
		tx.Require(w.key, w.raw)
		tx.Delete(w.key)
		if w.Revoked == 0 {
			ended = append(ended, w)
			if w.Kind == kind {
				same--
			}
		}
		others = append(others[:worst], others[worst+1:]...)
	}
	return ended
}

// Revoke ends the session of one device of the user, and refuses older tokens of outside
// issuers on it; a device without a session is none the worse for it.
func (s *Service) Revoke(ctx context.Context, u id.UserID, d id.DeviceID) *code.Error {
	if !u.Valid() || !d.Valid() {
		return code.Newf(code.BadRequest, "the user or device id is malformed")
	}
	return s.revoke(ctx, u, d, 0, "signed out by the operator", Event{What: EventRevoked})
}

// revoke ends the session of a device if it is still of the given generation (0: whichever), and
// tells why.
func (s *Service) revoke(ctx context.Context, u id.UserID, d id.DeviceID, generation uint64, why string, e Event) *code.Error {
	key := s.cfg.Keys.Device(nil, u, d)
	for attempt := 0; ; attempt++ {
		raw, err := s.cfg.Store.Get(ctx, key)
		if err != nil {
			return storeError("reading a session", err)
		}
		var row deviceRow
		if raw != nil {
			if row, err = parseDevice(raw); err != nil {
				return code.Wrap(code.Internal, err)
			}
		}
		if generation != 0 && row.Generation != generation {
			return nil // it ended before, and another began
		}
		now := s.cfg.Now()
		row.end(now.UnixMilli())
		var tx kv.Tx
		tx.Require(key, raw)
		tx.Set(key, row.append(nil))
		if err := s.commit(ctx, &tx); err != nil {
			if again(ctx, err, attempt) {
				continue
			}
			return storeError("ending a session", err)
		}
		s.ended(ctx, u, &storedDevice{deviceRow: row, device: d}, now, why, e)
		return nil
	}
}

// end makes row say that its session is over.
func (d *deviceRow) end(nowMS int64) {
	d.Generation = nextGeneration(d.Generation, nowMS)
	d.Revoked = max(nowMS, d.Revoked)
	d.Refresh, d.Previous = nil, nil
}

// nextGeneration returns a number that no earlier session of the device had, even if the device's row was deleted since.
func nextGeneration(last uint64, nowMS int64) uint64 { return max(last+1, uint64(nowMS)) }

// RevokeAll ends every session of the user and refuses every token issued until now.
func (s *Service) RevokeAll(ctx context.Context, u id.UserID) *code.Error {
	if !u.Valid() {
		return code.Newf(code.BadRequest, "the user id is malformed")
	}
	return s.revokeAll(ctx, u, "signed out by the operator", Event{What: EventRevoked})
}

func (s *Service) revokeAll(ctx context.Context, u id.UserID, why string, e Event) *code.Error {
	key := s.cfg.Keys.Account(nil, u)
	for attempt := 0; ; attempt++ {
		raw, acc, cerr := s.readAccount(ctx, key)
		if cerr != nil {
			return cerr
		}
		ended, now, err := s.endSessions(ctx, u, "", key, raw, acc)
		if err == nil {
			for _, d := range ended {
				s.tell(Revocation{User: u, Device: d, At: now, Why: why})
			}
			s.cfg.OnRevoke(Revocation{User: u, At: now, Why: why})
			if e.User = u; e.What != "" {
				s.record(ctx, e)
			}
			return nil
		}
		if !again(ctx, err, attempt) {
			return storeError("ending the sessions of a user", err)
		}
	}
}

// endSessions stores acc with NotBefore at now and ends every session but keep's, in one transaction.
// It returns the devices whose sessions ended, and when.
func (s *Service) endSessions(ctx context.Context, u id.UserID, keep id.DeviceID, key, raw []byte, acc accountRow) (ended []id.DeviceID, at time.Time, _ error) {
	devices, cerr := s.devices(ctx, u)
	if cerr != nil {
		return nil, at, cerr
	}
	at = s.cfg.Now()
	now := at.UnixMilli()
	acc.NotBefore = max(now, acc.NotBefore)
	var tx kv.Tx
	tx.Require(key, raw)
	tx.Set(key, acc.append(nil))
	for i := range devices.all {
		d := &devices.all[i]
		if d.device == keep || d.Revoked != 0 {
			continue
		}
		d.end(now)
		tx.Require(d.key, d.raw)
		tx.Set(d.key, d.append(nil))
		ended = append(ended, d.device)
	}
	if err := s.commit(ctx, &tx); err != nil {
		return nil, at, err
	}
	return ended, at, nil
}

// Logout ends the session that the refresh token belongs to, or every session of its user.
// A refresh token that was replaced already will do. Errors: Unauthenticated, or what the store fails with.
func (s *Service) Logout(ctx context.Context, refresh string, all bool) *code.Error {
	t, ok := s.cfg.Crypt.openRefresh(refresh)
	if !ok {
		return code.Newf(code.Unauthenticated, "the refresh token is malformed")
	}
	raw, err := s.cfg.Store.Get(ctx, s.cfg.Keys.Device(nil, t.user, t.device))
	if err != nil {
		return storeError("reading a session", err)
	}
	if raw == nil {
		return nil
	}
	row, err := parseDevice(raw)
	if err != nil {
		return code.Wrap(code.Internal, err)
	}
	if row.Generation != t.generation || !row.live(s.nowMS()) {
		return nil // it is over, and can't speak for the user's other sessions
	}
	if all {
		return s.revokeAll(ctx, t.user, "signed out from another device", Event{What: EventSignedOut, By: t.device})
	}
	return s.revoke(ctx, t.user, t.device, t.generation, "signed out", Event{What: EventSignedOut})
}

// ChangePassword sets a new password and ends every session but that of the access token.
// Errors: Unauthenticated, TokenExpired, SessionRevoked (the token), Forbidden (the account's
// password isn't kept here), BadCredentials (old), BadRequest (new), Overloaded, or what the store fails with.
func (s *Service) ChangePassword(ctx context.Context, access, old, new string) *code.Error {
	who, cerr := s.VerifyAccess(ctx, access)
	if cerr != nil {
		return cerr
	}
	if who.Outside {
		return code.Newf(code.Forbidden, "this account's password is kept elsewhere")
	}
	if old, cerr = normalPassword(old); cerr != nil {
		return code.New(code.BadCredentials)
	}
	if new, cerr = normalPassword(new); cerr != nil {
		return cerr
	}
	key := s.cfg.Keys.Account(nil, who.User)
	checked, hash := "", ""
	for attempt := 0; ; attempt++ {
		raw, acc, cerr := s.readAccount(ctx, key)
		if cerr != nil {
			return cerr
		}
		if acc.Hash == "" {
			return code.Newf(code.Forbidden, "this account's password is kept elsewhere")
		}
		if hash != "" && acc.Hash == hash {
			checked = hash // an undetermined commit of ours was stored; the sessions are ended once more
		}
		if acc.Hash != checked {
			ok, _, cerr := s.check(ctx, old, acc.Hash)
			if cerr != nil {
				return cerr
			}
			if !ok {
				return code.New(code.BadCredentials)
			}
			checked = acc.Hash
		}
		if hash == "" {
			if hash, cerr = s.hash(ctx, new); cerr != nil {
				return cerr
			}
		}
		acc.Hash = hash
		ended, now, err := s.endSessions(ctx, who.User, who.Device, key, raw, acc)
		if err == nil {
			s.cfg.Logger.Info("password changed", "user", who.User, "sessions_ended", len(ended))
			for _, d := range ended {
				s.tell(Revocation{User: who.User, Device: d, At: now, Why: "the password was changed"})
			}
			s.record(ctx, Event{User: who.User, What: EventPasswordChanged, Device: who.Device})
			return nil
		}
		if !again(ctx, err, attempt) {
			return storeError("changing a password", err)
		}
	}
}

// settleAfter is how long after a revocation it is told again: a CONNECT that read the row just
// before may have registered its session just after the first telling. Nearly all of them have
// after the first wait; the last one is longer than a handshake takes from there.
var settleAfter = []time.Duration{300 * time.Millisecond, 5 * time.Second}

// tell tells the edge that a session ended, and again a little later if no new one has begun.
func (s *Service) tell(r Revocation) {
	s.cfg.Logger.Debug("session ended", "user", r.User, "device", r.Device, "why", r.Why)
	s.cfg.OnRevoke(r)
	for _, d := range s.settle.after {
		s.settle.later(d, func() { s.retell(r) })
	}
}

func (s *Service) retell(r Revocation) {
	raw, err := s.cfg.Store.Get(context.Background(), s.cfg.Keys.Device(nil, r.User, r.Device))
	if err != nil {
		return
	}
	if raw != nil {
		if row, err := parseDevice(raw); err != nil || row.Revoked == 0 {
			return
		}
	}
	s.cfg.OnRevoke(r)
}

// settler runs functions later, until it is closed.
type settler struct {
	after   []time.Duration // when a revocation is told again
	mu      sync.Mutex
	closed  bool
	pending map[*time.Timer]struct{}
	running sync.WaitGroup
}

// maxSettling bounds the pending calls; beyond it the second telling is left out.
const maxSettling = 4096

// later runs fn after d, and returns false if it won't.
func (s *settler) later(d time.Duration, fn func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.pending) >= maxSettling {
		return false
	}
	if s.pending == nil {
		s.pending = make(map[*time.Timer]struct{})
	}
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		s.mu.Lock()
		delete(s.pending, t)
		closed := s.closed
		if !closed {
			s.running.Add(1)
		}
		s.mu.Unlock()
		if !closed {
			defer s.running.Done()
			fn()
		}
	})
	s.pending[t] = struct{}{}
	return true
}

// close drops what is pending and waits for what is running.
func (s *settler) close() {
	s.mu.Lock()
	s.closed = true
	for t := range s.pending {
		t.Stop()
	}
	clear(s.pending)
	s.mu.Unlock()
	s.running.Wait()
}
