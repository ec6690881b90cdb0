// Package account knows who may connect: GoChat's own accounts with their
// devices, and the tokens of outside issuers.
//
// An own account has a name (its UserID), a password kept as argon2id, and
// devices. Signing in on a device begins a session: it has a generation number,
// a chain of refresh tokens of which only the last is good, and short-lived
// access tokens (JWT, Ed25519) that name user, device and generation. Everything
// that ends a session (sign-out, a new sign-in on the device, a stolen refresh
// token, a new password) raises the generation or marks the device revoked in
// its one row, and CONNECT reads that row: there is no list of revoked tokens and
// no cache that could be stale.
//
// Users of an outside issuer have no row at all until something of theirs is
// revoked: the issuer's signature is what says that they exist.
//
// # Names
//
// UserIDs are compared byte by byte everywhere. Names of own accounts are brought
// to Unicode NFC when registering and signing in, so that one name typed on two
// keyboards is one account; they must not begin or end with a space, nor hold
// invisible format characters or spaces other than U+0020. The subject of an outside
// token is taken as it is. Passwords are brought to NFC as well, for the same reason.
package account

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// DefaultIssuer is the iss of GoChat's own access tokens.
const DefaultIssuer = "gochat"

// Config is what a Service is made of. Zero means the default that stands with each field.
type Config struct {
	Store kv.Store      // required
	Keys  msgstore.Keys // where the rows lie
	Crypt *Keys         // required: LoadOrCreateKeys

	Issuer     string        // iss of own tokens; default DefaultIssuer
	AccessTTL  time.Duration // default 15 min
	RefreshTTL time.Duration // since the last refresh; default 30 days
	ResumeTTL  time.Duration // default 10 min
	Leeway     time.Duration // clock error granted to outside issuers; default 30 s

	RegistrationOff bool     // nobody may register; so it is by itself with an outside issuer without a prefix
	Issuers         []Issuer // outside systems whose tokens are accepted

	Argon Argon // cost of new password hashes; default 19 MiB, 2 passes, 1 lane
	// Derive computes the argon2id key of n bytes, which takes a core for tens of
	// milliseconds; default: in this process. See pwhash.Pool.
	Derive         func(a Argon, password, salt []byte, n int) []byte
	HashesAtOnce   int           // password hashes computed at once; default: one a core
	HashesWaiting  int           // more that may wait for their turn; default 32 for each at once
	HashWait       time.Duration // longest wait for a turn; default 5 s
	DevicesPerUser int           // signed-in devices a user; the one unused the longest makes room; default 32
	DevicesPerKind int           // and of one kind (phones, desktops, …); default: as many as in all
	ExistsCache    int           // names of own accounts remembered as existing; default 10,000

	// Shared: other processes delete accounts in Store, too, so what is remembered as existing is so for two seconds.
	Shared bool

	// OnRevoke hears of every session that ended before its time, after that is durable, so that
	// its connection can be closed at once. It must not block and is called up to three times for one revocation.
	OnRevoke func(Revocation)

	// Record keeps what happened to the devices of a user, for the user's devices to see. It is
	// called after the fact is durable and may block until ctx ends; what it fails to keep is lost.
	Record func(ctx context.Context, e Event)

	// Presence knows who is connected; default: nobody is.
	Presence Presence

	Logger *slog.Logger     // default: discards
	Now    func() time.Time // default time.Now
}

// Validate reports what is missing or contradictory.
func (c *Config) Validate() error {
	var errs []error
	if c.Store == nil {
		errs = append(errs, errors.New("account: no store"))
	}
	if c.Crypt == nil {
		errs = append(errs, errors.New("account: no keys"))
	}
	if c.AccessTTL < 0 || c.RefreshTTL < 0 || c.ResumeTTL < 0 || c.Leeway < 0 || c.HashWait < 0 {
		errs = append(errs, errors.New("account: a duration is negative"))
	}
	if c.HashesAtOnce < 0 || c.HashesWaiting < 0 || c.DevicesPerUser < 0 || c.ExistsCache < 0 || c.DevicesPerKind < 0 {
		errs = append(errs, errors.New("account: a limit is negative"))
	}
	if err := checkCost(withDefaults(c.Argon)); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c *Config) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	num := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	def(&c.AccessTTL, 15*time.Minute)
	def(&c.RefreshTTL, 30*24*time.Hour)
	def(&c.ResumeTTL, 10*time.Minute)
	def(&c.Leeway, 30*time.Second)
	def(&c.HashWait, 5*time.Second)
	num(&c.HashesAtOnce, runtime.GOMAXPROCS(0))
	num(&c.HashesWaiting, 32*c.HashesAtOnce)
	num(&c.DevicesPerUser, 32)
	num(&c.DevicesPerKind, c.DevicesPerUser)
	num(&c.ExistsCache, 10_000)
	c.Argon = withDefaults(c.Argon)
	if c.Derive == nil {
		c.Derive = Argon.Key
	}
	if c.Issuer == "" {
		c.Issuer = DefaultIssuer
	}
	if c.OnRevoke == nil {
		c.OnRevoke = func(Revocation) {}
	}
	if c.Record == nil {
		c.Record = func(context.Context, Event) {}
	}
	if c.Presence == nil {
		c.Presence = nobody{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// Service is the account service. It is safe for concurrent use.
type Service struct {
	cfg    Config
	tokens verifier
	hashes *hashGate
	dummy  string // a hash that no password has, so that unknown names cost as much
	known  knownUsers
	settle settler
}

// New returns a Service. It computes one password hash, and reads the issuers' keys.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	s := &Service{cfg: cfg, settle: settler{after: settleAfter}}
	var err error
	if s.tokens, err = newVerifier(&cfg); err != nil {
		return nil, err
	}
	s.hashes = newHashGate(cfg.HashesAtOnce, cfg.HashesWaiting, cfg.HashWait)
	if s.dummy, err = dummyHash(cfg.Argon); err != nil {
		return nil, err
	}
	s.known.limit = cfg.ExistsCache
	if cfg.Shared {
		s.known.now = s.nowMS
	}
	return s, nil
}

// Close stops what Revoke left behind. Calls under way are not interrupted.
func (s *Service) Close() { s.settle.close() }

// Exists reports whether messages may be addressed to u: an own account that was
// registered, or any id that an outside issuer may hand out, since whether that
// user exists is known to the issuer alone.
func (s *Service) Exists(ctx context.Context, u id.UserID) (bool, error) {
	if !u.Valid() {
		return false, nil
	}
	if u == id.System || s.known.has(u) {
		return true, nil
	}
	asked := s.nowMS()
	if s.tokens.owner(u) != nil {
		gone, err := s.Gone(ctx, u)
		if err != nil || gone[0] {
			return false, err
		}
		s.known.add(u, asked)
		return true, nil
	}
	raw, err := s.cfg.Store.Get(ctx, s.cfg.Keys.Account(nil, u))
	if err != nil {
		return false, fmt.Errorf("account: reading an account row: %w", err)
	}
	if raw == nil {
		return false, nil
	}
	a, err := parseAccount(raw)
	if err != nil {
		return false, err
	}
	if a.Hash == "" {
		return false, nil
	}
	s.known.add(u, asked)
	return true, nil
}

// knownUsers is a bounded set of users that were seen to exist. Only the deletion of
// an account makes untrue what is in it, and takes it out; when it is full an arbitrary half makes room.
// Where other processes delete accounts, too, an entry holds for knownFor: much shorter than a
// deletion goes on looking for what was begun before it.
type knownUsers struct {
	mu    sync.RWMutex
	limit int
	now   func() int64 // Unix ms; nil: entries hold for good
	set   map[id.UserID]int64
}

const knownFor = 2000 // ms

func (k *knownUsers) has(u id.UserID) bool {
	k.mu.RLock()
	since, ok := k.set[u]
	k.mu.RUnlock()
	return ok && (k.now == nil || k.now()-since < knownFor)
}

func (k *knownUsers) remove(u id.UserID) {
	k.mu.Lock()
	delete(k.set, u)
	k.mu.Unlock()
}

// add takes a user who existed at the Unix ms since.
func (k *knownUsers) add(u id.UserID, since int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.set == nil {
		k.set = make(map[id.UserID]int64)
	}
	if len(k.set) >= k.limit {
		drop := k.limit/2 + 1
		for old := range k.set {
			if drop--; drop < 0 {
				break
			}
			delete(k.set, old)
		}
	}
	k.set[u] = since
}

// storeError turns a failure of the store into what the client is told.
func storeError(doing string, err error) *code.Error {
	err = fmt.Errorf("account: %s: %w", doing, err)
	if errors.Is(err, kv.ErrUndetermined) {
		return code.Wrap(code.Undetermined, err)
	}
	return msgstore.Refusal(err)
}

// commit runs one transaction.
func (s *Service) commit(ctx context.Context, tx *kv.Tx) error {
	s.cfg.Store.Commit(ctx, tx)
	return tx.Err
}

// tries bounds how often an operation starts again from its reads after a conflict or an
// undetermined commit. Each of them is written so that starting again is right after either.
const tries = 6

// again reports whether an operation should start over after err, and waits a little if
// the store didn't know the outcome.
func again(ctx context.Context, err error, attempt int) bool {
	if attempt+1 >= tries || ctx.Err() != nil {
		return false
	}
	if errors.Is(err, kv.ErrConflict) {
		return true
	}
	if !errors.Is(err, kv.ErrUndetermined) {
		return false
	}
	t := time.NewTimer(20 * time.Millisecond << attempt)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
