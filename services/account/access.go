package account

import (
	"context"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Identity is who an access token speaks for.
type Identity struct {
	User     id.UserID
	Device   id.DeviceID // empty: the token is good for any device
	IssuedAt time.Time   // zero: an outside token that doesn't say
	Expires  time.Time
	Outside  bool // signed by an outside issuer

	generation uint64 // of the device's session; 0: signed in elsewhere (outside issuer, operator)
}

// VerifyAccess checks an access token, and that its session was not ended since.
// Errors: Unauthenticated, TokenExpired, SessionRevoked, or what the store fails with.
func (s *Service) VerifyAccess(ctx context.Context, token string) (Identity, *code.Error) {
	who, err := s.tokens.verify(token)
	if err != nil {
		return Identity{}, err
	}
	st, err := s.standing(ctx, who.User, who.Device)
	if err != nil {
		return Identity{}, err
	}
	sess := session{user: who.User, device: who.Device, generation: who.generation, issued: unixMilli(who.IssuedAt)}
	if err := st.admit(&sess); err != nil {
		return Identity{}, err
	}
	return who, nil
}

// session is what a token claims to belong to.
type session struct {
	user       id.UserID
	device     id.DeviceID
	generation uint64 // 0: signed in elsewhere, so no row has to exist
	issued     int64  // Unix ms when the access token was issued; 0: unknown
}

// standing is what the rows of a user and a device say about sessions.
type standing struct {
	account []byte // its row, nil: none
	device  deviceRow
	now     int64
}

// standing reads the rows that tell whether a session still stands. It is one read of the
// store for each CONNECT, so a revocation counts from the moment it is durable.
func (s *Service) standing(ctx context.Context, user id.UserID, device id.DeviceID) (st standing, _ *code.Error) {
	keys := [][]byte{s.cfg.Keys.Account(nil, user), s.cfg.Keys.Closed(nil, user)}
	if device != "" {
		keys = append(keys, s.cfg.Keys.Device(nil, user, device))
	}
	rows, err := s.cfg.Store.MultiGet(ctx, keys)
	if err != nil {
		return st, storeError("reading a session", err)
	}
	st.account, st.now = rows[0], s.nowMS()
	if err := closedError(rows[1]); err != nil {
		return st, err
	}
	if len(rows) > 2 && rows[2] != nil {
		if st.device, err = parseDevice(rows[2]); err != nil {
			return st, code.Wrap(code.Internal, err)
		}
	}
	return st, nil
}

// admit returns why a session of this user and device doesn't stand any more, or nil.
func (st *standing) admit(x *session) *code.Error {
	dev := &st.device
	if x.generation != 0 {
		if st.account == nil || dev.Generation != x.generation || !dev.live(st.now) {
			return code.New(code.SessionRevoked)
		}
		return nil
	}
	// A token that names no session carries its time in whole seconds, so one issued in the
	// second of the revocation, even after it, is refused: the next one is good.
	if st.account != nil {
		acc, err := parseAccount(st.account)
		if err != nil {
			return code.Wrap(code.Internal, err)
		}
		if x.issued < acc.NotBefore {
			return code.New(code.SessionRevoked)
		}
	}
	if x.issued < dev.Revoked {
		return code.New(code.SessionRevoked)
	}
	return nil
}

// Authenticate is CONNECT: it says who a connection belongs to and returns the resume
// token for its CONNACK. A token that is given must be good, but for having expired where a
// good resume token says who it was; with a good resume token it may be empty. resumed
// tells that the resume token was good for this user and device, its session not revoked;
// a bad one beside a good token is ignored.
//
// kind is not recorded: a connect writes nothing.
func (s *Service) Authenticate(ctx context.Context, token, resume string, device id.DeviceID, kind uint8) (user id.UserID, resumeToken string, resumed bool, _ *code.Error) {
	if !device.Valid() {
		return "", "", false, code.Newf(code.BadRequest, "the device id is missing or malformed")
	}
	var (
		r     resumeClaims
		shown session // the resume token's
		ok    bool
	)
	if resume != "" {
		r, ok = s.openResume(resume)
		ok = ok && r.device == device
		shown = r.session
	}
	if token == "" && !ok {
		return "", "", false, code.New(code.Unauthenticated)
	}
	if token != "" {
		who, err := s.tokens.verify(token)
		switch {
		case err == nil:
			if who.Device != "" && who.Device != device {
				return "", "", false, code.Newf(code.Unauthenticated, "the token belongs to another device")
			}
			ok = ok && r.user == who.User
			r = resumeClaims{session: session{user: who.User, device: device, generation: who.generation, issued: unixMilli(who.IssuedAt)}, until: s.resumeEnd(who)}
		case err.Code != code.TokenExpired || !ok:
			return "", "", false, err
		}
	}
	st, err := s.standing(ctx, r.user, device)
	if err != nil {
		return "", "", false, err
	}
	if err := st.admit(&r.session); err != nil {
		return "", "", false, err
	}
	resumed = ok && st.admit(&shown) == nil
	return r.user, s.sealResume(&r), resumed, nil
}

// MintToken signs an access token as the server itself does: `gochat token`. It needs no
// running server, names no session, and so is good on the given device (empty: any) until it
// expires or everything of the user is revoked. The user need not have registered, but only
// then can others write to them.
func MintToken(k *Keys, issuer string, user id.UserID, device id.DeviceID, now time.Time, ttl time.Duration) (string, error) {
	if !user.Valid() {
		return "", fmt.Errorf("account: user id %q: %w", user, id.ErrInvalid)
	}
	if device != "" && !device.Valid() {
		return "", fmt.Errorf("account: device id %q: %w", device, id.ErrInvalid)
	}
	if ttl <= 0 {
		return "", fmt.Errorf("account: a token that expires after %s is of no use", ttl)
	}
	if issuer == "" {
		issuer = DefaultIssuer
	}
	return k.sign(issuer, user, device, 0, now, now.Add(ttl))
}

func (k *Keys) sign(issuer string, user id.UserID, device id.DeviceID, generation uint64, now, expires time.Time) (string, error) {
	t := jwt.NewWithClaims(jwt.SigningMethodEdDSA, &claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: string(user),
			IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(expires),
		},
		Device: string(device), Generation: generation,
	})
	t.Header["kid"] = k.kid
	signed, err := t.SignedString(k.signing)
	if err != nil {
		return "", fmt.Errorf("account: signing a token: %w", err)
	}
	return signed, nil
}

func (s *Service) nowMS() int64 { return s.cfg.Now().UnixMilli() }

func unixMilli(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
