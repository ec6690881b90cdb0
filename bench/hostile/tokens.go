package hostile

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gochat-im/gochat/bench/target"
)

// tokens makes good tokens and bad ones.
type tokens struct {
	issuer *target.Issuer
	wrong  *target.Issuer // the right key under another name
	public []byte         // what the server knows of the key; an HS256 made with a public key must not pass
	own    ed25519.PrivateKey

	mu   sync.Mutex
	good map[string]string // by user: signing isn't what is tested
}

func newTokens(is *target.Issuer, keyFile, public string) (*tokens, error) {
	t := &tokens{issuer: is, good: map[string]string{}}
	var err error
	if t.wrong, err = target.LoadIssuer("somebody-else", keyFile); err != nil {
		return nil, err
	}
	if t.public, err = os.ReadFile(public); err != nil {
		return nil, fmt.Errorf("read the issuer's public key: %w", err)
	}
	if is.Algorithm == "HS256" { // a secret isn't known to anybody
		t.public = []byte(strings.Repeat("guess", 8))
	}
	if _, t.own, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return t, nil
}

func (t *tokens) of(user string) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s, ok := t.good[user]; ok {
		return s, nil
	}
	s, err := t.issuer.Token(user)
	if err == nil {
		t.good[user] = s
	}
	return s, err
}

func (t *tokens) claims(user string, expires time.Time) jwt.RegisteredClaims {
	return jwt.RegisteredClaims{Issuer: t.issuer.Name, Subject: user, IssuedAt: jwt.NewNumericDate(expires.Add(-time.Hour)), ExpiresAt: jwt.NewNumericDate(expires)}
}

func (t *tokens) expired(user string) (string, error) {
	return t.issuer.Sign(t.claims(user, time.Now().Add(-time.Hour)))
}

// forgeries is how many kinds of forged tokens there are.
const forgeries = 9

// forged returns one of the forged tokens.
func (t *tokens) forged(n int, user string) (string, error) {
	good, err := t.of(user)
	if err != nil {
		return "", err
	}
	parts := strings.Split(good, ".")
	claims := t.claims(user, time.Now().Add(time.Hour))
	b64 := base64.RawURLEncoding.EncodeToString
	switch n % forgeries {
	case 0: // the signature of another token
		other, err := t.of(user + "-other")
		if err != nil {
			return "", err
		}
		return parts[0] + "." + parts[1] + "." + strings.Split(other, ".")[2], nil
	case 1: // another user's name under the signature
		body, err := json.Marshal(t.claims("admin", time.Now().Add(time.Hour)))
		return parts[0] + "." + b64(body) + "." + parts[2], err
	case 2: // no signature
		return jwt.NewWithClaims(jwt.SigningMethodNone, claims).SignedString(jwt.UnsafeAllowNoneSignatureType)
	case 3: // the same, spelled otherwise
		body, err := json.Marshal(claims)
		return b64([]byte(`{"alg":"nOnE","typ":"JWT"}`)) + "." + b64(body) + ".", err
	case 4: // the public key taken for a secret
		return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(t.public)
	case 5: // a key of the attacker's own
		return jwt.NewWithClaims(jwt.SigningMethodEdDSA, claims).SignedString(t.own)
	case 6: // an issuer that the server doesn't know
		return t.wrong.Token(user)
	case 7:
		return "", nil
	default:
		return strings.Repeat(".", 4000), nil
	}
}
