package account

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// normalName brings the name of an own account to its one form.
func normalName(name string) (id.UserID, *code.Error) {
	if !utf8.ValidString(name) {
		return "", code.Newf(code.InvalidUTF8, "the name isn't valid UTF-8")
	}
	if len(name) > 4*id.MaxUserID {
		return "", code.Newf(code.BadRequest, "the name is longer than %d bytes", id.MaxUserID)
	}
	name = norm.NFC.String(name)
	u := id.UserID(name)
	if !u.Valid() {
		return "", code.Newf(code.BadRequest, "a name has 1 to %d bytes and no control characters", id.MaxUserID)
	}
	if u == id.System {
		return "", code.Newf(code.NameTaken, "this name is the service's own")
	}
	if strings.HasPrefix(name, " ") || strings.HasSuffix(name, " ") {
		return "", code.Newf(code.BadRequest, "a name doesn't begin or end with a space")
	}
	for _, r := range name {
		if unicode.Is(unicode.Cf, r) || r != ' ' && unicode.IsSpace(r) {
			return "", code.Newf(code.BadRequest, "a name holds no invisible characters")
		}
	}
	return u, nil
}

// deviceOrNew checks a device id; an empty one is made up.
func deviceOrNew(d id.DeviceID) (id.DeviceID, *code.Error) {
	if d == "" {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		return id.DeviceID(hex.EncodeToString(b[:])), nil
	}
	if !d.Valid() {
		return "", code.Newf(code.BadRequest, "the device id is malformed")
	}
	return d, nil
}

// Register creates an account and signs it in on device (empty: the server makes an id).
// Of several calls for one name exactly one wins; the others get NameTaken.
// Errors: BadRequest, RegistrationClosed, NameTaken, Overloaded, or what the store fails with.
func (s *Service) Register(ctx context.Context, name, password string, device id.DeviceID, kind uint8) (auth.Grant, *code.Error) {
	if s.cfg.RegistrationOff || s.tokens.unprefixed() {
		return auth.Grant{}, code.New(code.RegistrationClosed)
	}
	user, cerr := normalName(name)
	if cerr == nil {
		password, cerr = normalPassword(password)
	}
	if cerr == nil {
		device, cerr = deviceOrNew(device)
	}
	if cerr != nil {
		return auth.Grant{}, cerr
	}
	if o := s.tokens.owner(user); o != nil {
		return auth.Grant{}, code.Newf(code.RegistrationClosed, "names that begin with %q are given out elsewhere", o.Prefix)
	}
	key := s.cfg.Keys.Account(nil, user)
	raw, acc, cerr := s.readAccount(ctx, key)
	if cerr != nil {
		return auth.Grant{}, cerr
	}
	if acc.Hash != "" { // before a hash is paid for; the transaction decides
		return auth.Grant{}, code.New(code.NameTaken)
	}
	if cerr := s.open(ctx, user); cerr != nil {
		if cerr.Code == code.Banned {
			cerr = code.New(code.NameTaken) // a name is never given to somebody else
		}
		return auth.Grant{}, cerr
	}
	hash, cerr := s.hash(ctx, password) // its salt makes the row ours alone
	if cerr != nil {
		return auth.Grant{}, cerr
	}
	var (
		now     = s.cfg.Now()
		devKey  = s.cfg.Keys.Device(nil, user, device)
		dev     deviceRow
		refresh string
	)
	for attempt := 0; ; attempt++ {
		devRaw, err := s.cfg.Store.Get(ctx, devKey) // there is none, but for what an operator revoked in advance
		if err != nil {
			return auth.Grant{}, storeError("reading a session", err)
		}
		var old deviceRow
		if devRaw != nil {
			if old, err = parseDevice(devRaw); err != nil {
				return auth.Grant{}, code.Wrap(code.Internal, err)
			}
		}
		dev, refresh = s.newSession(old, user, device, kind, now)
		acc.Created, acc.Hash = now.UnixMilli(), hash
		var tx kv.Tx
		tx.Require(key, raw)
		tx.Set(key, acc.append(nil))
		tx.Require(devKey, devRaw)
		tx.Set(devKey, dev.append(nil))
		if err = s.commit(ctx, &tx); err == nil {
			break
		}
		if !again(ctx, err, attempt) {
			return auth.Grant{}, storeError("storing an account", err)
		}
		if raw, acc, cerr = s.readAccount(ctx, key); cerr != nil {
			return auth.Grant{}, cerr
		}
		// After an undetermined commit the row may be there and be ours; then this stores a session once more.
		if acc.Hash != "" && acc.Hash != hash {
			return auth.Grant{}, code.New(code.NameTaken)
		}
	}
	s.known.add(user, s.nowMS())
	s.cfg.Logger.Info("account registered", "user", user, "device", device)
	return s.grant(user, device, &dev, refresh, now)
}

// Login signs the account in on device (empty: the server makes an id). A session that the
// device had ends. An unknown name and a wrong password take the same time and give the same answer.
// Errors: BadRequest, BadCredentials, Banned, Overloaded, or what the store fails with.
func (s *Service) Login(ctx context.Context, name, password string, device id.DeviceID, kind uint8) (auth.Grant, *code.Error) {
	user, cerr := normalName(name)
	if cerr == nil {
		password, cerr = normalPassword(password)
	}
	if cerr == nil {
		device, cerr = deviceOrNew(device)
	}
	if cerr != nil {
		return auth.Grant{}, cerr
	}
	key := s.cfg.Keys.Account(nil, user)
	checked, renewed := "", "" // the stored hash that the password was compared with, and what replaces it
	for attempt := 0; ; attempt++ {
		raw, acc, cerr := s.readAccount(ctx, key)
		if cerr != nil {
			return auth.Grant{}, cerr
		}
		if o := s.tokens.owner(user); o != nil && o.Prefix != "" {
			acc.Hash = "" // an account from before that issuer was configured: the ids are the issuer's now
		}
		if acc.Hash == "" || acc.Hash != checked && acc.Hash != renewed {
			ok, stale, cerr := s.check(ctx, password, acc.Hash)
			if cerr != nil {
				return auth.Grant{}, cerr
			}
			if !ok {
				return auth.Grant{}, code.New(code.BadCredentials)
			}
			checked, renewed = acc.Hash, acc.Hash
			if stale {
				if renewed, cerr = s.hash(ctx, password); cerr != nil {
					return auth.Grant{}, cerr
				}
			}
		}
		acc.Hash = renewed
		if cerr := s.open(ctx, user); cerr != nil {
			return auth.Grant{}, cerr
		}
		devices, cerr := s.devices(ctx, user)
		if cerr != nil {
			return auth.Grant{}, cerr
		}
		now := s.cfg.Now()
		old := devices.row(device)
		dev, refresh := s.newSession(old.deviceRow, user, device, kind, now)
		var tx kv.Tx
		// Writing the account row, even unchanged, makes this conflict with a change of password or
		// a revocation of everything, which could not know of the device that is being added.
		tx.Require(key, raw)
		tx.Set(key, acc.append(nil))
		tx.Require(old.key, old.raw)
		tx.Set(old.key, dev.append(nil))
		dropped := devices.makeRoom(&tx, device, kind, s.cfg.DevicesPerUser, s.cfg.DevicesPerKind)
		if err := s.commit(ctx, &tx); err != nil {
			if again(ctx, err, attempt) {
				continue
			}
			return auth.Grant{}, storeError("storing a session", err)
		}
		if old.raw != nil && old.live(now.UnixMilli()) {
			s.cfg.OnRevoke(Revocation{User: user, Device: device, At: now, Why: "this device signed in again"})
		}
		s.record(ctx, Event{User: user, What: EventSignedIn, Device: device, Kind: kind})
		for i := range dropped {
			s.ended(ctx, user, &dropped[i], now, "another device signed in, and there is no room for this one", Event{What: EventRevoked, By: device})
		}
		return s.grant(user, device, &dev, refresh, now)
	}
}

// newSession returns the row of a session that begins now on a device whose row was old, and its first refresh token.
func (s *Service) newSession(old deviceRow, u id.UserID, d id.DeviceID, kind uint8, now time.Time) (deviceRow, string) {
	secret := make([]byte, secretLen)
	_, _ = rand.Read(secret) // never fails
	ms := now.UnixMilli()
	row := deviceRow{Kind: kind, Generation: nextGeneration(old.Generation, ms), Created: ms, Used: ms, Expires: now.Add(s.cfg.RefreshTTL).UnixMilli()}
	refresh := sealRefresh(s.cfg.Crypt.mac[0], row.Generation, u, d, secret)
	row.Refresh = tokenHash(refresh)
	return row, refresh
}

// grant makes the answer, with a new access token.
func (s *Service) grant(u id.UserID, d id.DeviceID, row *deviceRow, refresh string, now time.Time) (auth.Grant, *code.Error) {
	expires := now.Add(s.cfg.AccessTTL)
	access, err := s.cfg.Crypt.sign(s.cfg.Issuer, u, d, row.Generation, now, expires)
	if err != nil {
		return auth.Grant{}, code.Wrap(code.Internal, err)
	}
	return auth.Grant{
		UserID: string(u), DeviceID: string(d),
		AccessToken: access, AccessExpires: expires.UnixMilli(),
		RefreshToken: refresh, RefreshExpires: row.Expires,
	}, nil
}

// refreshGrace is how long a refresh token that was replaced still brings the answer that
// replaced it, for clients that lost it.
const refreshGrace = 30 * time.Second

// Refresh gives new tokens for a refresh token, which is good once.
//
// A refresh token that was replaced already is a sign of theft: either the thief or the
// owner is late. It ends the session (SessionRevoked), whoever shows it. But the one just
// replaced is answered again for refreshGrace with the very token that replaced it, since
// answers get lost and apps run twice; the next token is derived from the one before with the
// server's key, so that it needn't be stored to be repeated. A thief who is quick gains
// nothing by that: as soon as owner and thief have both used the next one, half a minute
// apart, the session ends.
//
// What this server never made is Unauthenticated and ends nothing.
func (s *Service) Refresh(ctx context.Context, token string) (auth.Grant, *code.Error) {
	t, ok := s.cfg.Crypt.openRefresh(token)
	if !ok {
		return auth.Grant{}, code.Newf(code.Unauthenticated, "the refresh token is malformed")
	}
	if o := s.tokens.owner(t.user); o != nil && o.Prefix != "" {
		return auth.Grant{}, code.New(code.SessionRevoked)
	}
	hash := tokenHash(token)
	key := s.cfg.Keys.Device(nil, t.user, t.device)
	for attempt := 0; ; attempt++ {
		raw, err := s.cfg.Store.Get(ctx, key)
		if err != nil {
			return auth.Grant{}, storeError("reading a session", err)
		}
		if raw == nil {
			return auth.Grant{}, code.New(code.SessionRevoked)
		}
		row, err := parseDevice(raw)
		if err != nil {
			return auth.Grant{}, code.Wrap(code.Internal, err)
		}
		if err := s.open(ctx, t.user); err != nil {
			return auth.Grant{}, err
		}
		now := s.cfg.Now()
		ms := now.UnixMilli()
		if row.Generation != t.generation || row.Revoked != 0 {
			return auth.Grant{}, code.New(code.SessionRevoked)
		}
		if ms >= row.Expires {
			return auth.Grant{}, code.Newf(code.Unauthenticated, "the refresh token has expired: sign in again")
		}
		if bytes.Equal(hash, row.Previous) && ms-row.Rotated < refreshGrace.Milliseconds() {
			for _, k := range s.cfg.Crypt.mac {
				if next := t.next(k); bytes.Equal(tokenHash(next), row.Refresh) {
					return s.grant(t.user, t.device, &row, next, now)
				}
			}
		}
		if !bytes.Equal(hash, row.Refresh) {
			s.cfg.Logger.Warn("a refresh token was used twice: the session ends", "user", t.user, "device", t.device)
			if err := s.revoke(ctx, t.user, t.device, t.generation, "a token of this device was used twice", Event{What: EventRevoked}); err != nil {
				return auth.Grant{}, err
			}
			return auth.Grant{}, code.New(code.SessionRevoked)
		}
		next := t.next(s.cfg.Crypt.mac[0])
		row.Previous, row.Refresh, row.Rotated, row.Used = hash, tokenHash(next), ms, ms
		row.Expires = now.Add(s.cfg.RefreshTTL).UnixMilli()
		var tx kv.Tx
		tx.Require(key, raw)
		tx.Set(key, row.append(nil))
		if err := s.commit(ctx, &tx); err != nil {
			if again(ctx, err, attempt) {
				continue // if it was stored after all, the token is now the previous one and gets the same answer
			}
			return auth.Grant{}, storeError("storing a session", err)
		}
		return s.grant(t.user, t.device, &row, next, now)
	}
}

// readAccount returns an account row, its bytes, and zeroes if there is none.
func (s *Service) readAccount(ctx context.Context, key []byte) ([]byte, accountRow, *code.Error) {
	raw, err := s.cfg.Store.Get(ctx, key)
	if err != nil {
		return nil, accountRow{}, storeError("reading an account", err)
	}
	if raw == nil {
		return nil, accountRow{}, nil
	}
	acc, err := parseAccount(raw)
	if err != nil {
		return nil, accountRow{}, code.Wrap(code.Internal, err)
	}
	return raw, acc, nil
}
