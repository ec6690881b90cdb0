package account

import (
	"context"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// errService is what is answered about the service's own user as if it were an account. It is never changed.
var errService = code.Newf(code.Forbidden, "the service is no account: nobody signs in as it")

// Create makes an account without signing anybody in: a company's own back end does that for its
// people. It may where people may not register by themselves. Without a password nobody can sign
// in by one; tokens are signed for the user instead. Errors: as of Register.
func (s *Service) Create(ctx context.Context, name, password string) (id.UserID, *code.Error) {
	user, cerr := normalName(name)
	if cerr != nil {
		return "", cerr
	}
	if o := s.tokens.owner(user); o != nil {
		return "", code.Newf(code.RegistrationClosed, "users whose ids begin with %q are made elsewhere", o.Prefix)
	}
	if password != "" {
		if password, cerr = normalPassword(password); cerr != nil {
			return "", cerr
		}
	}
	if cerr := s.open(ctx, user); cerr != nil {
		if cerr.Code == code.Banned {
			cerr = code.New(code.NameTaken)
		}
		return "", cerr
	}
	key := s.cfg.Keys.Account(nil, user)
	hash := ""
	for attempt := 0; ; attempt++ {
		raw, acc, cerr := s.readAccount(ctx, key)
		if cerr != nil {
			return "", cerr
		}
		if hash != "" && acc.Hash == hash { // its salt makes it ours
			break
		}
		if acc.Hash != "" {
			return "", code.New(code.NameTaken)
		}
		if hash == "" {
			if hash, cerr = s.firstHash(ctx, password); cerr != nil {
				return "", cerr
			}
		}
		acc.Created, acc.Hash = s.nowMS(), hash
		var tx kv.Tx
		tx.Require(key, raw)
		tx.Set(key, acc.append(nil))
		err := s.commit(ctx, &tx)
		if err == nil {
			break
		}
		if !again(ctx, err, attempt) {
			return "", storeError("storing an account", err)
		}
	}
	s.known.add(user, s.nowMS())
	s.cfg.Logger.Info("account made", "user", user)
	return user, nil
}

// firstHash is the hash of a password, or one that no password has.
func (s *Service) firstHash(ctx context.Context, password string) (string, *code.Error) {
	if password != "" {
		return s.hash(ctx, password)
	}
	hash, err := dummyHash(s.cfg.Argon)
	if err != nil {
		return "", code.Wrap(code.Internal, err)
	}
	return hash, nil
}

// Mint signs an access token for a user who can be written to and whose account isn't closed.
// expires is in Unix ms.
func (s *Service) Mint(ctx context.Context, user id.UserID, device id.DeviceID) (token string, expires int64, _ *code.Error) {
	if user == id.System {
		return "", 0, errService
	}
	if exists, err := s.Exists(ctx, user); err != nil {
		return "", 0, storeError("reading an account", err)
	} else if !exists {
		return "", 0, code.New(code.NoSuchUser)
	}
	if cerr := s.open(ctx, user); cerr != nil {
		return "", 0, cerr
	}
	if device != "" && !device.Valid() {
		return "", 0, code.Newf(code.BadRequest, "the device id is malformed")
	}
	now := s.cfg.Now()
	until := now.Add(s.cfg.AccessTTL)
	token, err := s.cfg.Crypt.sign(s.cfg.Issuer, user, device, 0, now, until)
	if err != nil {
		return "", 0, code.Wrap(code.Internal, err)
	}
	return token, until.Unix() * 1000, nil
}
