package account

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Issuer is an outside system whose tokens are accepted. Its users' ids are Prefix
// followed by the token's sub. Several entries may name one issuer, to change its key;
// they differ in algorithm, key and key id alone.
//
// An issuer's token must carry iss, sub and exp; nbf and iat, where present, must not lie
// in the future. A claim "dev" binds the token to that device. Without iat, a token is
// refused for good once its user or device was revoked here.
type Issuer struct {
	Issuer    string // iss
	Audience  string // must be among aud; empty: not checked
	Algorithm string // HS256, RS256, ES256 or EdDSA; no other is accepted for this key
	KeyID     string // kid; empty: the key is tried for any kid of this issuer
	Key       string // path of the public key or certificate (PEM) or, for HS256, of the secret; or the PEM text itself
	JWKS      string // instead of Key: the https address, or the path, of a key set (RFC 7517), of which the keys for Algorithm count
	Prefix    string // every id that begins with it is this issuer's
}

const minSecret = 32 // bytes of an HS256 secret: as many as its MAC

// outside is an Issuer with its key read.
type outside struct {
	Issuer
	key  any
	jwks *jwks // nil: key
}

// claims are what GoChat reads of a token.
type claims struct {
	jwt.RegisteredClaims
	Device     string `json:"dev,omitempty"`
	Generation uint64 `json:"gen,omitempty"` // own tokens: of the device's session; 0: made by the operator
}

// verifier checks the signature and the claims of access tokens; whether the session was
// revoked since is not its business. It is immutable.
type verifier struct {
	own    string // iss
	keys   *Keys
	byIss  map[string][]*outside
	all    []*outside
	parser *jwt.Parser
	now    func() time.Time
}

func newVerifier(cfg *Config) (verifier, error) {
	v := verifier{own: cfg.Issuer, keys: cfg.Crypt, byIss: make(map[string][]*outside), now: cfg.Now}
	prefixes := make(map[string]string)
	for _, is := range cfg.Issuers {
		what := fmt.Sprintf("account: issuer %q", is.Issuer)
		if is.Issuer == "" || is.Issuer == cfg.Issuer {
			return v, fmt.Errorf("%s: an outside issuer needs a name other than %q", what, cfg.Issuer)
		}
		if by, ok := prefixes[is.Prefix]; ok && by != is.Issuer {
			return v, fmt.Errorf("%s: issuer %q has the prefix %q already; each needs its own, or their users' ids would mix", what, by, is.Prefix)
		}
		if had := v.byIss[is.Issuer]; len(had) > 0 && had[0].Prefix != is.Prefix {
			return v, fmt.Errorf("%s: its entries have the prefixes %q and %q", what, had[0].Prefix, is.Prefix)
		} else if len(had) > 0 && had[0].Audience != is.Audience {
			return v, fmt.Errorf("%s: its entries have the audiences %q and %q", what, had[0].Audience, is.Audience)
		}
		if is.Prefix != "" && !id.UserID(is.Prefix).Valid() {
			return v, fmt.Errorf("%s: the prefix can't begin a user id", what)
		}
		prefixes[is.Prefix] = is.Issuer
		o := &outside{Issuer: is}
		var err error
		switch {
		case is.JWKS == "":
			o.key, err = readIssuerKey(is)
		case is.Key != "":
			err = errors.New("it has a key and a key set: one of them is enough")
		default:
			o.jwks, err = newJWKS(is.JWKS, is.Algorithm, cfg.Now, cfg.Logger)
		}
		if err != nil {
			return v, fmt.Errorf("%s: %w", what, err)
		}
		v.byIss[is.Issuer] = append(v.byIss[is.Issuer], o)
		v.all = append(v.all, o)
	}
	v.parser = jwt.NewParser(
		jwt.WithValidMethods([]string{"HS256", "RS256", "ES256", "EdDSA"}),
		jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(cfg.Leeway),
		jwt.WithTimeFunc(cfg.Now), jwt.WithStrictDecoding(),
	)
	return v, nil
}

// owner returns the outside issuer that hands out the id u: the one with the longest
// matching prefix; nil if u can only be an account of GoChat's own.
func (v *verifier) owner(u id.UserID) *outside {
	var best *outside
	for _, o := range v.all {
		if strings.HasPrefix(string(u), o.Prefix) && (best == nil || len(o.Prefix) > len(best.Prefix)) {
			best = o
		}
	}
	return best
}

// unprefixed reports whether some issuer may hand out any id at all.
func (v *verifier) unprefixed() bool {
	for _, o := range v.all {
		if o.Prefix == "" {
			return true
		}
	}
	return false
}

// maxToken is the longest access token looked at, in bytes.
const maxToken = 4 << 10

var (
	errIssuer = errors.New("no key of this issuer, algorithm and key id")
	errAway   = errors.New("the issuer's keys can't be had")
	errCrit   = errors.New("the token has critical header fields")
)

// verify checks one token. Errors are Unauthenticated or TokenExpired and never hold a part of the token.
func (v *verifier) verify(token string) (Identity, *code.Error) {
	if token == "" || len(token) > maxToken {
		return Identity{}, code.New(code.Unauthenticated)
	}
	var (
		c    claims
		from *outside
	)
	_, err := v.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		for _, h := range [...]string{"crit", "b64"} { // the library doesn't look at them
			if _, ok := t.Header[h]; ok {
				return nil, errCrit
			}
		}
		kid, _ := t.Header["kid"].(string)
		alg := t.Method.Alg()
		if c.Issuer == v.own {
			if pub, ok := v.keys.verify[kid]; ok && alg == "EdDSA" {
				return pub, nil
			}
			return nil, errIssuer
		}
		var keys []jwt.VerificationKey
		absent := errIssuer
		for _, o := range v.byIss[c.Issuer] {
			if o.Algorithm == alg && (o.KeyID == "" || o.KeyID == kid) {
				from = o
				if o.jwks == nil {
					keys = append(keys, o.key)
					continue
				}
				found, away := o.jwks.find(kid)
				for _, k := range found {
					keys = append(keys, k)
				}
				if away {
					absent = errAway
				}
			}
		}
		if len(keys) == 0 {
			return nil, absent
		}
		return jwt.VerificationKeySet{Keys: keys}, nil
	})
	switch {
	case errors.Is(err, errAway): // whether the token is good can't be told now
		return Identity{}, code.Wrap(code.Unavailable, errAway)
	case errors.Is(err, jwt.ErrTokenExpired):
		return Identity{}, code.New(code.TokenExpired)
	case err != nil:
		// The library's errors may quote what they couldn't parse, so only their kind is kept.
		return Identity{}, code.Wrap(code.Unauthenticated, tokenFault(err))
	}
	who := Identity{User: id.UserID(c.Subject), Device: id.DeviceID(c.Device), Expires: c.ExpiresAt.Time}
	if c.IssuedAt != nil {
		who.IssuedAt = c.IssuedAt.Time
	}
	if from == nil {
		if !v.now().Before(who.Expires) { // the leeway is for the clocks of others
			return Identity{}, code.New(code.TokenExpired)
		}
		who.generation = c.Generation
	} else if who, err = v.outside(who, from, &c); err != nil {
		return Identity{}, code.Wrap(code.Unauthenticated, err)
	}
	if !who.User.Valid() || who.User == id.System || who.Device != "" && !who.Device.Valid() {
		return Identity{}, code.Wrap(code.Unauthenticated, errors.New("sub or dev can't be an id"))
	}
	return who, nil
}

// outside checks what is particular to an issuer's tokens.
func (v *verifier) outside(who Identity, from *outside, c *claims) (Identity, error) {
	if c.Subject == "" {
		return who, errors.New("the token has no sub")
	}
	if from.Audience != "" && !slices.Contains(c.Audience, from.Audience) {
		return who, jwt.ErrTokenInvalidAudience
	}
	who.Outside = true
	who.User = id.UserID(from.Prefix + c.Subject)
	// An issuer without a prefix (or with a shorter one) can't speak for the users of another.
	if o := v.owner(who.User); o == nil || o.Issuer.Issuer != from.Issuer.Issuer {
		return who, errors.New("the user id belongs to another issuer")
	}
	return who, nil
}

// tokenFault names the kind of a failure.
func tokenFault(err error) error {
	for _, kind := range [...]error{
		errIssuer, errCrit, jwt.ErrTokenMalformed, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenNotValidYet,
		jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenUnverifiable,
	} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return errors.New("token refused")
}

// readIssuerKey reads and checks the key for the algorithm it is pinned to.
func readIssuerKey(is Issuer) (any, error) {
	raw := []byte(is.Key)
	inline := strings.HasPrefix(strings.TrimSpace(is.Key), "-----BEGIN ")
	if is.Key == "" {
		return nil, errors.New("no key")
	}
	if is.Algorithm == "HS256" {
		if inline {
			return nil, errors.New("an HS256 secret is named by the path of its file")
		}
		raw, err := readSecret(is.Key)
		if err != nil {
			return nil, err
		}
		secret := strings.TrimRight(string(raw), "\r\n")
		if len(secret) < minSecret {
			return nil, fmt.Errorf("the secret in %s has %d bytes, want at least %d", is.Key, len(secret), minSecret)
		}
		if strings.Contains(secret, "-----BEGIN ") {
			return nil, fmt.Errorf("%s holds a PEM key, not an HS256 secret", is.Key)
		}
		return []byte(secret), nil
	}
	if !inline {
		var err error
		if raw, err = os.ReadFile(is.Key); err != nil {
			return nil, fmt.Errorf("reading the key: %w", err)
		}
	}
	key, err := parsePublicKey(raw)
	if err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case *rsa.PublicKey:
		if is.Algorithm == "RS256" && k.N.BitLen() >= 2048 {
			return k, nil
		}
	case *ecdsa.PublicKey:
		if is.Algorithm == "ES256" && k.Curve == elliptic.P256() {
			return k, nil
		}
	case ed25519.PublicKey:
		if is.Algorithm == "EdDSA" {
			return k, nil
		}
	}
	return nil, fmt.Errorf("a key of type %T doesn't fit %q (want RSA of 2048 bits or more for RS256, P-256 for ES256, Ed25519 for EdDSA)", key, is.Algorithm)
}

func parsePublicKey(raw []byte) (any, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("the key holds no PEM block")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	return nil, fmt.Errorf("a PEM block %q is no public key", block.Type)
}
