// Package apikey knows the keys with which a company's own back end uses the HTTP API. A key is
// shown once, when it is made; what is stored is its hash, what it is called, and what it is
// good for. A key that was revoked is refused from then on: nothing of it is kept in memory.
package apikey

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
)

// What a key may be good for.
const (
	ScopeUsers  = "users"     // make users, see how they stand and whether they are online, ban and sign them out
	ScopeTokens = "tokens"    // sign access tokens for any user
	ScopeAct    = "act"       // do, as any user, what that user may do: send, make groups, read
	ScopeSystem = "system"    // do so as the service itself, which writes to whom it likes and into any group
	ScopeCast   = "broadcast" // tell everybody who is connected something
	ScopeImport = "import"    // bring in groups and messages with times of their own
)

// Scopes are all of them.
var Scopes = []string{ScopeUsers, ScopeTokens, ScopeAct, ScopeSystem, ScopeImport, ScopeCast}

// Bounds.
const (
	maxName = 64  // bytes
	maxKeys = 256 // of an installation
)

// Prefix begins every key, so that one that has got somewhere it shouldn't be is known for what it is.
const Prefix = "gck_"

const (
	idLen     = 8  // bytes
	secretLen = 32 // bytes
	rowName   = "apikey:"
)

// Key is what is known of a key.
type Key struct {
	ID      string // 16 hexadecimal digits
	Name    string
	Scopes  []string // read only
	Created time.Time
}

// May reports whether the key is good for scope.
func (k *Key) May(scope string) bool { return slices.Contains(k.Scopes, scope) }

// Config of a Service.
type Config struct {
	Store  kv.Store // required
	Keys   msgstore.Keys
	Now    func() int64 // Unix ms; nil: the clock
	Logger *slog.Logger // nil: discards
}

// Validate reports what is missing.
func (c *Config) Validate() error {
	if c.Store == nil {
		return errors.New("apikey: no store")
	}
	return nil
}

// Service is safe for concurrent use.
type Service struct{ cfg Config }

// New returns a Service.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = func() int64 { return time.Now().UnixMilli() }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{cfg}, nil
}

// row is `00 apikey:id` of the whole store.
//
//	version u8 | created uvarint | hash [32] | name: uvarint length, bytes | scopes: uvarint number, then each as length and bytes
type row struct {
	created int64 // Unix ms
	hash    [sha256.Size]byte
	name    string
	scopes  []string
}

const rowVersion = 1

func (r *row) append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = binary.AppendUvarint(dst, uint64(r.created))
	dst = append(dst, r.hash[:]...)
	dst = append(binary.AppendUvarint(dst, uint64(len(r.name))), r.name...)
	dst = binary.AppendUvarint(dst, uint64(len(r.scopes)))
	for _, s := range r.scopes {
		dst = append(binary.AppendUvarint(dst, uint64(len(s))), s...)
	}
	return dst
}

func parseRow(b []byte) (r row, err error) {
	bad := fmt.Errorf("apikey: row: %w", msgstore.ErrCorrupt)
	if len(b) == 0 {
		return r, bad
	}
	if b[0] != rowVersion {
		return r, fmt.Errorf("apikey: row of version %d: %w", b[0], msgstore.ErrVersion)
	}
	b = b[1:]
	number := func() (n uint64) {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			err, b = bad, nil
			return 0
		}
		b = b[size:]
		return n
	}
	take := func(n uint64) []byte {
		if n > uint64(len(b)) {
			err, b = bad, nil
			return nil
		}
		out := b[:n]
		b = b[n:]
		return out
	}
	r.created = int64(number())
	copy(r.hash[:], take(sha256.Size))
	r.name = string(take(number()))
	for n := number(); n > 0 && err == nil; n-- {
		r.scopes = append(r.scopes, string(take(number())))
	}
	if err == nil && len(b) > 0 {
		err = bad
	}
	return r, err
}

func (r *row) key(id string) Key {
	return Key{ID: id, Name: r.name, Scopes: r.scopes, Created: time.UnixMilli(r.created).UTC()}
}

func (s *Service) rowKey(id string) []byte { return s.cfg.Keys.StoreRow(nil, rowName+id) }

// Create makes a key and returns its text, which nobody can find out later, once it is durable.
func (s *Service) Create(ctx context.Context, name string, scopes []string) (text string, k Key, _ *code.Error) {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", k, code.Newf(code.BadRequest, "a key's name has 1 to %d bytes without control characters", maxName)
	}
	scopes = slices.Compact(slices.Sorted(slices.Values(scopes)))
	for _, x := range scopes {
		if !slices.Contains(Scopes, x) {
			return "", k, code.Newf(code.BadRequest, "%q is no scope: want some of %s", x, strings.Join(Scopes, ", "))
		}
	}
	if len(scopes) == 0 {
		return "", k, code.Newf(code.BadRequest, "a key needs a scope: %s", strings.Join(Scopes, ", "))
	}
	all, err := s.List(ctx)
	if err != nil {
		return "", k, err
	}
	if len(all) >= maxKeys {
		return "", k, code.Newf(code.TooMany, "there are %d keys: revoke some", len(all))
	}
	var random [idLen + secretLen]byte
	_, _ = rand.Read(random[:]) // never fails
	id := hex.EncodeToString(random[:idLen])
	text = Prefix + id + "_" + base64.RawURLEncoding.EncodeToString(random[idLen:])
	r := row{created: s.cfg.Now(), hash: sha256.Sum256(random[idLen:]), name: name, scopes: scopes}
	var tx kv.Tx
	tx.Set(s.rowKey(id), r.append(nil)) // the id is new: 64 random bits
	if s.cfg.Store.Commit(ctx, &tx); tx.Err != nil {
		return "", k, msgstore.Refusal(fmt.Errorf("keeping a key: %w", tx.Err))
	}
	s.cfg.Logger.Info("server key made", "key", id, "name", name, "scopes", scopes)
	return text, r.key(id), nil
}

// List returns the keys, the oldest first.
func (s *Service) List(ctx context.Context) ([]Key, *code.Error) {
	start := s.rowKey("")
	end := slices.Clone(start)
	end[len(end)-1]++
	var keys []Key
	if err := s.cfg.Store.Scan(ctx, kv.Span{Start: start, End: end, Limit: maxKeys * 2}, func(key, value []byte) (bool, error) {
		r, err := parseRow(value)
		keys = append(keys, r.key(string(key[len(start):])))
		return true, err
	}); err != nil {
		return nil, msgstore.Refusal(fmt.Errorf("reading keys: %w", err))
	}
	slices.SortFunc(keys, func(a, b Key) int { return a.Created.Compare(b.Created) })
	return keys, nil
}

// Revoke ends a key. BadRequest: there is none of that id.
func (s *Service) Revoke(ctx context.Context, id string) *code.Error {
	raw, err := s.cfg.Store.Get(ctx, s.rowKey(id))
	if err != nil {
		return msgstore.Refusal(fmt.Errorf("reading a key: %w", err))
	}
	if raw == nil {
		return code.Newf(code.BadRequest, "there is no key %q", id)
	}
	var tx kv.Tx
	tx.Delete(s.rowKey(id))
	if s.cfg.Store.Commit(ctx, &tx); tx.Err != nil {
		return msgstore.Refusal(fmt.Errorf("revoking a key: %w", tx.Err))
	}
	s.cfg.Logger.Info("server key revoked", "key", id)
	return nil
}

// errUnknown doesn't tell an unknown id from a wrong secret.
var errUnknown = code.Newf(code.Unauthenticated, "the server key is malformed, unknown, or was revoked")

// Verify returns the key that text is. It compares in constant time, and in the same for an
// unknown id as for a wrong secret but for reading the row.
func (s *Service) Verify(ctx context.Context, text string) (Key, *code.Error) {
	rest, ok := strings.CutPrefix(text, Prefix)
	id, secret, ok2 := strings.Cut(rest, "_")
	random, err := base64.RawURLEncoding.Strict().DecodeString(secret)
	if !ok || !ok2 || len(id) != 2*idLen || err != nil || len(random) != secretLen || strings.Trim(id, "0123456789abcdef") != "" {
		return Key{}, errUnknown
	}
	raw, err := s.cfg.Store.Get(ctx, s.rowKey(id))
	if err != nil {
		return Key{}, msgstore.Refusal(fmt.Errorf("reading a key: %w", err))
	}
	var r row
	if raw != nil {
		if r, err = parseRow(raw); err != nil {
			return Key{}, msgstore.Refusal(err)
		}
	}
	hash := sha256.Sum256(random)
	if subtle.ConstantTimeCompare(hash[:], r.hash[:]) != 1 || raw == nil {
		return Key{}, errUnknown
	}
	return r.key(id), nil
}
