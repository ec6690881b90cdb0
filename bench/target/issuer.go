// Package target starts a server to load, or attaches to a running one, and signs
// the tokens with which the load's users sign in.
package target

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// Issuer signs access tokens like an outside system whose users GoChat serves. The
// server knows its public key (or shared secret) by configuration and checks every token.
type Issuer struct {
	Name      string
	Algorithm string // EdDSA or HS256
	KeyFile   string // for the server: the public key (PEM), or the secret

	SignFile string // what LoadIssuer reads

	method jwt.SigningMethod
	key    any
}

// tokenLife is longer than any run.
const tokenLife = 24 * time.Hour

// DefaultIssuer is the name in tokens of an issuer made here.
const DefaultIssuer = "gochat-bench"

// Of a local cluster (make cluster) people register as well, which they can only where each outside issuer has a prefix:
// ids of a load's users begin with it there.
const (
	localIssuer = "gochat-bench-local"
	LocalPrefix = "bench-"
)

// Files of an issuer that signs with Ed25519.
const (
	signFile   = "issuer.key"
	publicFile = "issuer.pem"
)

// NewIssuer makes a key and writes to dir what the server needs of it, and what
// LoadIssuer needs to sign with it again.
func NewIssuer(dir, algorithm string) (*Issuer, error) {
	is := &Issuer{Name: DefaultIssuer, Algorithm: algorithm, SignFile: filepath.Join(dir, signFile)}
	switch algorithm {
	case "HS256":
		secret := []byte(rand.Text() + rand.Text())
		is.method, is.key = jwt.SigningMethodHS256, secret
		is.KeyFile = filepath.Join(dir, "issuer.secret")
		is.SignFile = is.KeyFile
		if err := os.WriteFile(is.KeyFile, secret, 0o600); err != nil {
			return nil, fmt.Errorf("write the issuer's secret: %w", err)
		}
		return is, nil
	case "EdDSA":
	default:
		return nil, fmt.Errorf("algorithm %q: want EdDSA or HS256", algorithm)
	}
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the issuer's key: %w", err)
	}
	is.method, is.key = jwt.SigningMethodEdDSA, priv
	is.KeyFile = filepath.Join(dir, publicFile)
	pubDER, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encode the issuer's key: %w", err)
	}
	privDER, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, fmt.Errorf("encode the issuer's key: %w", err)
	}
	for _, f := range []struct {
		name  string
		block pem.Block
	}{
		{is.KeyFile, pem.Block{Type: "PUBLIC KEY", Bytes: pubDER}},
		{is.SignFile, pem.Block{Type: "PRIVATE KEY", Bytes: privDER}},
	} {
		if err := os.WriteFile(f.name, pem.EncodeToMemory(&f.block), 0o600); err != nil {
			return nil, fmt.Errorf("write the issuer's key: %w", err)
		}
	}
	return is, nil
}

// LoadIssuer reads what signs for a running server: a private key (PEM, PKCS 8,
// Ed25519), or else a secret for HS256.
func LoadIssuer(name, keyFile string) (*Issuer, error) {
	b, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read the issuer's key: %w", err)
	}
	is := &Issuer{Name: name, SignFile: keyFile}
	block, _ := pem.Decode(b)
	if block == nil {
		if len(b) < 32 {
			return nil, fmt.Errorf("the issuer's secret %s has %d bytes: want at least 32", keyFile, len(b))
		}
		is.Algorithm, is.method, is.key = "HS256", jwt.SigningMethodHS256, b
		return is, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the issuer's key %s: %w", keyFile, err)
	}
	priv, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("the issuer's key isn't of Ed25519")
	}
	is.Algorithm, is.method, is.key = "EdDSA", jwt.SigningMethodEdDSA, priv
	return is, nil
}

// prefix is what the server puts before a token's subject to make the user's id.
func (is *Issuer) prefix() string {
	if is.Name == localIssuer {
		return LocalPrefix
	}
	return ""
}

// Token returns an access token of the user. Ids that the issuer can't hand out are an error.
func (is *Issuer) Token(user string) (string, error) {
	subject, ok := strings.CutPrefix(user, is.prefix())
	if !ok {
		return "", fmt.Errorf("sign a token of %s: the cluster takes only those of users whose names begin with %s", user, is.prefix())
	}
	now := time.Now()
	s, err := jwt.NewWithClaims(is.method, jwt.RegisteredClaims{
		Issuer: is.Name, Subject: subject, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(tokenLife)),
	}).SignedString(is.key)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return s, nil
}

// Sign returns a token of any claims: for those that a server must refuse.
func (is *Issuer) Sign(claims jwt.Claims) (string, error) {
	s, err := jwt.NewWithClaims(is.method, claims).SignedString(is.key)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return s, nil
}
