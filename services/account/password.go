package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/services/account/pwhash"
)

// Argon is the cost of a password's hash.
type Argon = pwhash.Argon

func withDefaults(a Argon) Argon {
	if a.KiB == 0 {
		a.KiB = 19 << 10
	}
	if a.Passes == 0 {
		a.Passes = 2
	}
	if a.Lanes == 0 {
		a.Lanes = 1
	}
	return a
}

// checkCost bounds the cost: what stands in a row is computed by the server, so a damaged
// row must not make it take all memory.
func checkCost(a Argon) error {
	if a.KiB < 8*uint32(a.Lanes) || a.KiB > 1<<20 || a.Passes < 1 || a.Passes > 64 || a.Lanes < 1 || a.Lanes > 16 {
		return fmt.Errorf("account: argon2id cost of %d KiB, %d passes, %d lanes is out of bounds", a.KiB, a.Passes, a.Lanes)
	}
	return nil
}

// deriveFunc computes the argon2id key of n bytes.
type deriveFunc func(a Argon, password, salt []byte, n int) []byte

const (
	saltLen = 16
	hashLen = 32

	argonVersion = 0x13

	minPassword = 8
	maxPassword = 256
)

// normalPassword checks a password and brings it to NFC. There are no rules of composition: length is what helps.
func normalPassword(p string) (string, *code.Error) {
	switch {
	case len(p) < minPassword:
		return "", code.Newf(code.BadRequest, "the password is shorter than %d bytes", minPassword)
	case len(p) > maxPassword:
		return "", code.Newf(code.BadRequest, "the password is longer than %d bytes", maxPassword)
	case !utf8.ValidString(p):
		return "", code.Newf(code.InvalidUTF8, "the password isn't valid UTF-8")
	}
	return norm.NFC.String(p), nil
}

// hashPassword returns the PHC string of password: $argon2id$v=19$m=KiB,t=passes,p=lanes$salt$hash.
func hashPassword(password string, a Argon, derive deriveFunc) string {
	salt := make([]byte, saltLen)
	_, _ = rand.Read(salt) // never fails
	return encodeHash(a, salt, derive(a, []byte(password), salt, hashLen))
}

func encodeHash(a Argon, salt, hash []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argonVersion, a.KiB, a.Passes, a.Lanes, b64.EncodeToString(salt), b64.EncodeToString(hash))
}

// dummyHash returns a hash that no password matches but for luck, at the cost of a real one to check.
func dummyHash(a Argon) (string, error) {
	if err := checkCost(a); err != nil {
		return "", err
	}
	salt, hash := make([]byte, saltLen), make([]byte, hashLen)
	_, _ = rand.Read(salt)
	_, _ = rand.Read(hash)
	return encodeHash(a, salt, hash), nil
}

var errHashFormat = errors.New("account: a stored password hash can't be read")

func parseHash(s string) (a Argon, salt, hash []byte, err error) {
	part := strings.Split(s, "$")
	if len(part) != 6 || part[0] != "" || part[1] != "argon2id" || part[2] != "v="+strconv.Itoa(argonVersion) {
		return a, nil, nil, errHashFormat
	}
	if n, err := fmt.Sscanf(part[3], "m=%d,t=%d,p=%d", &a.KiB, &a.Passes, &a.Lanes); err != nil || n != 3 {
		return a, nil, nil, errHashFormat
	}
	if err := checkCost(a); err != nil {
		return a, nil, nil, err
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(part[4])
	hash, err2 := base64.RawStdEncoding.DecodeString(part[5])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(hash) < 16 {
		return a, nil, nil, errHashFormat
	}
	return a, salt, hash, nil
}

// checkPassword reports whether stored is the hash of password, and whether it was made at another cost than want.
func checkPassword(password, stored string, want Argon, derive deriveFunc) (ok, stale bool, err error) {
	a, salt, hash, err := parseHash(stored)
	if err != nil {
		return false, false, err
	}
	got := derive(a, []byte(password), salt, len(hash))
	return subtle.ConstantTimeCompare(got, hash) == 1, a != want || len(hash) != hashLen, nil
}

// hashGate bounds how many hashes are computed at once, how many may wait, and for how long:
// each takes a core and its memory for tens of milliseconds.
type hashGate struct {
	turns   chan struct{} // one token for each running hash
	waiting chan struct{} // one token for each running or waiting one
	wait    time.Duration
}

func newHashGate(atOnce, waiting int, wait time.Duration) *hashGate {
	return &hashGate{turns: make(chan struct{}, atOnce), waiting: make(chan struct{}, atOnce+waiting), wait: wait}
}

// enter waits for a turn; leave must be called after it returned nil.
func (g *hashGate) enter(ctx context.Context) *code.Error {
	select {
	case g.waiting <- struct{}{}:
	default:
		return code.New(code.Overloaded)
	}
	select {
	case g.turns <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(g.wait)
	defer t.Stop()
	select {
	case g.turns <- struct{}{}:
		return nil
	case <-t.C:
	case <-ctx.Done():
	}
	<-g.waiting
	return code.New(code.Overloaded)
}

func (g *hashGate) leave() {
	<-g.turns
	<-g.waiting
}

// hash computes a new hash when it is its turn.
func (s *Service) hash(ctx context.Context, password string) (string, *code.Error) {
	if err := s.hashes.enter(ctx); err != nil {
		return "", err
	}
	defer s.hashes.leave()
	return hashPassword(password, s.cfg.Argon, s.cfg.Derive), nil
}

// check compares when it is its turn. An empty stored hash (no such account) costs the same and never matches.
func (s *Service) check(ctx context.Context, password, stored string) (ok, stale bool, _ *code.Error) {
	if err := s.hashes.enter(ctx); err != nil {
		return false, false, err
	}
	defer s.hashes.leave()
	unknown := stored == ""
	if unknown {
		stored = s.dummy
	}
	ok, stale, err := checkPassword(password, stored, s.cfg.Argon, s.cfg.Derive)
	if err != nil {
		return false, false, code.Wrap(code.Internal, err)
	}
	return ok && !unknown, stale, nil
}
