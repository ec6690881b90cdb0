package account

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// issuerKeys are made once: RSA keys take their time.
var issuerKeys = sync.OnceValue(func() (k struct {
	rsa  *rsa.PrivateKey
	ec   *ecdsa.PrivateKey
	ed   ed25519.PrivateKey
	hmac []byte
}) {
	k.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	k.ec, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, k.ed, _ = ed25519.GenerateKey(rand.Reader)
	k.hmac = make([]byte, 40)
	for i := range k.hmac {
		k.hmac[i] = 'a' + byte(i%26)
	}
	return k
})

func publicPEM(t testing.TB, pub crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func writeFile(t testing.TB, name, data string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// fourIssuers configures one of each algorithm.
func fourIssuers(t testing.TB) []Issuer {
	k := issuerKeys()
	return []Issuer{
		{Issuer: "https://hs.example", Algorithm: "HS256", Key: writeFile(t, "secret", string(k.hmac)+"\n", 0o600), Prefix: "hs:"},
		{Issuer: "https://rs.example", Algorithm: "RS256", Key: publicPEM(t, k.rsa.Public()), Prefix: "rs:", Audience: "chat"},
		{Issuer: "https://es.example", Algorithm: "ES256", Key: writeFile(t, "es.pem", publicPEM(t, k.ec.Public()), 0o644), Prefix: "es:", KeyID: "k1"},
		{Issuer: "https://ed.example", Algorithm: "EdDSA", Key: publicPEM(t, k.ed.Public()), Prefix: "ed:"},
	}
}

// signed makes any token at all.
func signed(t testing.TB, method jwt.SigningMethod, key any, header map[string]any, c map[string]any) string {
	t.Helper()
	tok := jwt.NewWithClaims(method, jwt.MapClaims(c))
	for k, v := range header {
		tok.Header[k] = v
	}
	s, err := tok.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestOutsideTokens(t *testing.T) {
	k := issuerKeys()
	e := newEnv(t, func(c *Config) { c.Issuers = fourIssuers(t) })
	now := e.clock.now().Unix()
	type m = map[string]any
	with := func(base m, more m) m {
		out := m{}
		for k, v := range base {
			out[k] = v
		}
		for k, v := range more {
			if v == nil {
				delete(out, k)
			} else {
				out[k] = v
			}
		}
		return out
	}
	hs := m{"iss": "https://hs.example", "sub": "1001", "exp": now + 60}
	rs := m{"iss": "https://rs.example", "sub": "1001", "exp": now + 60, "aud": "chat"}
	es := m{"iss": "https://es.example", "sub": "1001", "exp": now + 60}
	ed := m{"iss": "https://ed.example", "sub": "1001", "exp": now + 60}
	own := m{"iss": "gochat", "sub": "alice", "exp": now + 60, "iat": now}
	kid := m{"kid": e.cfg.Crypt.KeyID()}
	k1 := m{"kid": "k1"}
	otherEd := ed25519.NewKeyFromSeed(make([]byte, 32))
	otherRSA, _ := rsa.GenerateKey(rand.Reader, 2048)
	none := func(c m) string { return signed(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil, c) }
	b64 := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	good := signed(t, jwt.SigningMethodHS256, k.hmac, nil, hs)
	parts := strings.Split(good, ".")

	for _, c := range []struct {
		what  string
		token string
		user  id.UserID
		err   code.Code
	}{
		{"HS256", good, "hs:1001", 0},
		{"RS256", signed(t, jwt.SigningMethodRS256, k.rsa, nil, rs), "rs:1001", 0},
		{"RS256, one of several audiences", signed(t, jwt.SigningMethodRS256, k.rsa, nil, with(rs, m{"aud": []string{"x", "chat"}})), "rs:1001", 0},
		{"ES256", signed(t, jwt.SigningMethodES256, k.ec, k1, es), "es:1001", 0},
		{"EdDSA", signed(t, jwt.SigningMethodEdDSA, k.ed, nil, ed), "ed:1001", 0},
		{"EdDSA, a kid that nobody asked for", signed(t, jwt.SigningMethodEdDSA, k.ed, m{"kid": "whatever"}, ed), "ed:1001", 0},
		{"own", signed(t, jwt.SigningMethodEdDSA, e.cfg.Crypt.signing, kid, own), "alice", 0},
		{"expired within the leeway", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"exp": now - 20})), "hs:1001", 0},
		{"a subject that must be kept as it is", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"sub": " Rene\u0301 "})), "hs: Rene\u0301 ", 0},
		{"a generation of ours in an outside token", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"gen": 7})), "hs:1001", 0},

		{"expired", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"exp": now - 31})), "", code.TokenExpired},
		{"own expired", signed(t, jwt.SigningMethodEdDSA, e.cfg.Crypt.signing, kid, with(own, m{"exp": now - 31})), "", code.TokenExpired},
		{"expired and forged", signed(t, jwt.SigningMethodHS256, []byte("another secret of 32 bytes length"), nil, with(hs, m{"exp": now - 31})), "", code.Unauthenticated},
		{"no exp", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"exp": nil})), "", code.Unauthenticated},
		{"exp as text", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"exp": "never"})), "", code.Unauthenticated},
		{"not yet valid", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"nbf": now + 60})), "", code.Unauthenticated},
		{"issued in the future", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"iat": now + 60})), "", code.Unauthenticated},
		{"no sub", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"sub": nil})), "", code.Unauthenticated},
		{"a number as sub", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"sub": 1001})), "", code.Unauthenticated},
		{"a sub that is too long with its prefix", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"sub": strings.Repeat("x", 62)})), "", code.Unauthenticated},
		{"a control character in sub", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"sub": "a\nb"})), "", code.Unauthenticated},
		{"a bad device", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"dev": "a\nb"})), "", code.Unauthenticated},
		{"no iss", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"iss": nil})), "", code.Unauthenticated},
		{"an unknown iss", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"iss": "https://evil.example"})), "", code.Unauthenticated},
		{"another issuer's key", signed(t, jwt.SigningMethodEdDSA, k.ed, nil, hs), "", code.Unauthenticated},
		{"another secret", signed(t, jwt.SigningMethodHS256, []byte("another secret of 32 bytes length"), nil, hs), "", code.Unauthenticated},
		{"another RSA key", signed(t, jwt.SigningMethodRS256, otherRSA, nil, rs), "", code.Unauthenticated},
		{"another Ed25519 key", signed(t, jwt.SigningMethodEdDSA, otherEd, nil, ed), "", code.Unauthenticated},
		{"no audience", signed(t, jwt.SigningMethodRS256, k.rsa, nil, with(rs, m{"aud": nil})), "", code.Unauthenticated},
		{"a wrong audience", signed(t, jwt.SigningMethodRS256, k.rsa, nil, with(rs, m{"aud": "mail"})), "", code.Unauthenticated},
		{"a wrong kid", signed(t, jwt.SigningMethodES256, k.ec, m{"kid": "k2"}, es), "", code.Unauthenticated},
		{"no kid where one is configured", signed(t, jwt.SigningMethodES256, k.ec, nil, es), "", code.Unauthenticated},

		{"none", none(hs), "", code.Unauthenticated},
		{"none, as us", none(own), "", code.Unauthenticated},
		{"HS256 with the RSA public key as the secret", signed(t, jwt.SigningMethodHS256, []byte(publicPEM(t, k.rsa.Public())), nil, rs), "", code.Unauthenticated},
		{"HS256 with our public key as the secret", signed(t, jwt.SigningMethodHS256, []byte(e.cfg.Crypt.verify[e.cfg.Crypt.kid]), kid, own), "", code.Unauthenticated},
		{"HS512", signed(t, jwt.SigningMethodHS512, k.hmac, nil, hs), "", code.Unauthenticated},
		{"PS256", signed(t, jwt.SigningMethodPS256, k.rsa, nil, rs), "", code.Unauthenticated},
		{"RS512", signed(t, jwt.SigningMethodRS512, k.rsa, nil, rs), "", code.Unauthenticated},
		{"own without kid", signed(t, jwt.SigningMethodEdDSA, e.cfg.Crypt.signing, nil, own), "", code.Unauthenticated},
		{"own with a wrong kid", signed(t, jwt.SigningMethodEdDSA, e.cfg.Crypt.signing, m{"kid": "x"}, own), "", code.Unauthenticated},
		{"own kid, another key", signed(t, jwt.SigningMethodEdDSA, otherEd, kid, own), "", code.Unauthenticated},
		{"an outside key that calls itself us", signed(t, jwt.SigningMethodEdDSA, k.ed, kid, own), "", code.Unauthenticated},
		{"critical headers", signed(t, jwt.SigningMethodHS256, k.hmac, m{"crit": []string{"x"}, "x": 1}, hs), "", code.Unauthenticated},
		{"an unencoded payload", signed(t, jwt.SigningMethodHS256, k.hmac, m{"b64": false}, hs), "", code.Unauthenticated},

		{"nothing", "", "", code.Unauthenticated},
		{"no token", "hello", "", code.Unauthenticated},
		{"dots", "..", "", code.Unauthenticated},
		{"four parts", good + ".x", "", code.Unauthenticated},
		{"no signature", parts[0] + "." + parts[1] + ".", "", code.Unauthenticated},
		{"a changed signature", good[:len(good)-2] + "AA", "", code.Unauthenticated},
		{"changed claims", parts[0] + "." + b64(with(hs, m{"sub": "1"})) + "." + parts[2], "", code.Unauthenticated},
		{"changed alg", b64(m{"alg": "none", "typ": "JWT"}) + "." + parts[1] + "." + parts[2], "", code.Unauthenticated},
		{"claims that are no object", parts[0] + "." + b64([]int{1}) + "." + parts[2], "", code.Unauthenticated},
		{"a token that is too long", signed(t, jwt.SigningMethodHS256, k.hmac, nil, with(hs, m{"x": strings.Repeat("x", maxToken)})), "", code.Unauthenticated},
	} {
		who, err := e.VerifyAccess(t.Context(), c.token)
		want(t, c.what, err, c.err)
		if who.User != c.user {
			t.Errorf("%s: it speaks for %q, want %q", c.what, who.User, c.user)
		}
		if err == nil && who.Outside != strings.Contains(string(c.user), ":") {
			t.Errorf("%s: outside is %v", c.what, who.Outside)
		}
		if err != nil && len(c.token) > 20 && strings.Contains(err.Error(), c.token[len(c.token)-20:]) {
			t.Errorf("%s: the error quotes the token: %v", c.what, err)
		}
	}
}

// A token cut off anywhere, or with any byte changed, is refused.
func TestMangledTokens(t *testing.T) {
	e := newEnv(t)
	g := e.register("alice", "phone")
	resume, _ := e.connect(g.AccessToken, "", "phone")
	for i := range g.AccessToken {
		b := []byte(g.AccessToken)
		b[i] ^= 0x03
		for _, s := range []string{g.AccessToken[:i], string(b)} {
			if _, err := e.VerifyAccess(t.Context(), s); err == nil {
				t.Fatalf("mangled at %d of %d, it was accepted", i, len(b))
			}
		}
	}
	for i := range resume {
		b := []byte(resume)
		b[i] ^= 0x03
		for _, s := range []string{resume[:i], string(b)} {
			if _, c := e.connect("", s, "phone"); c != code.Unauthenticated {
				t.Fatalf("a resume token mangled at %d of %d: %d", i, len(b), c)
			}
		}
	}
}

func TestIssuersAndNames(t *testing.T) {
	ctx := t.Context()
	four := fourIssuers(t)
	e := newEnv(t, func(c *Config) { c.Issuers = four })
	_, err := e.Register(ctx, "hs:1001", password, "phone", 1)
	want(t, "registering an issuer's id", err, code.RegistrationClosed)
	e.register("hs", "phone")
	for u, exists := range map[id.UserID]bool{"hs:1": true, "hs:": true, "hs": true, "xs:1": false, "hs:a\nb": false} {
		if got, err := e.Exists(ctx, u); err != nil || got != exists {
			t.Errorf("Exists(%q) = %v, %v", u, got, err)
		}
	}

	// An account from before the issuer was configured can't sign in as one of the issuer's users.
	before := newEnv(t)
	g := before.register("hs:1001", "phone")
	e = newEnv(t, func(c *Config) { c.Issuers = four; c.Store = before.store; c.Crypt = before.cfg.Crypt })
	_, err = e.Login(ctx, "hs:1001", password, "phone", 1)
	want(t, "login", err, code.BadCredentials)
	_, err = e.Refresh(ctx, g.RefreshToken)
	want(t, "refresh", err, code.SessionRevoked)

	// An issuer without a prefix may speak for anybody but the others' users.
	k := issuerKeys()
	open := append([]Issuer{{Issuer: "https://any.example", Algorithm: "HS256", Key: four[0].Key}}, four...)
	e = newEnv(t, func(c *Config) { c.Issuers = open })
	_, err = e.Register(ctx, "alice", password, "phone", 1)
	want(t, "registering", err, code.RegistrationClosed)
	if ok, _ := e.Exists(ctx, "anybody"); !ok {
		t.Error("an id that the issuer may hand out doesn't exist")
	}
	for sub, c := range map[string]code.Code{"alice": 0, "hs:1001": code.Unauthenticated, "hs": 0} {
		tok := signed(t, jwt.SigningMethodHS256, k.hmac, nil, map[string]any{"iss": "https://any.example", "sub": sub, "exp": e.clock.now().Unix() + 60})
		_, err = e.VerifyAccess(ctx, tok)
		want(t, "sub "+sub, err, c)
	}
	off := newEnv(t, func(c *Config) { c.RegistrationOff = true })
	_, err = off.Register(ctx, "alice", password, "phone", 1)
	want(t, "registering", err, code.RegistrationClosed)
}

func TestIssuerConfig(t *testing.T) {
	k := issuerKeys()
	weak, _ := rsa.GenerateKey(rand.Reader, 1024)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	secret := writeFile(t, "secret", string(k.hmac), 0o600)
	rsaPEM, edPEM := publicPEM(t, k.rsa.Public()), publicPEM(t, k.ed.Public())
	pkcs1 := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&k.rsa.PublicKey)}))
	der, _ := x509.MarshalPKCS8PrivateKey(k.ed)
	private := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	for _, c := range []struct {
		what string
		is   []Issuer
		ok   bool
	}{
		{"HS256", []Issuer{{Issuer: "a", Algorithm: "HS256", Key: secret}}, true},
		{"RS256 in PKCS #1", []Issuer{{Issuer: "a", Algorithm: "RS256", Key: pkcs1}}, true},
		{"a new key beside the old", []Issuer{{Issuer: "a", Algorithm: "RS256", Key: rsaPEM}, {Issuer: "a", Algorithm: "EdDSA", Key: edPEM}}, true},
		{"no name", []Issuer{{Algorithm: "EdDSA", Key: edPEM}}, false},
		{"our name", []Issuer{{Issuer: "gochat", Algorithm: "EdDSA", Key: edPEM}}, false},
		{"one prefix for two", []Issuer{{Issuer: "a", Algorithm: "EdDSA", Key: edPEM, Prefix: "x"}, {Issuer: "b", Algorithm: "EdDSA", Key: edPEM, Prefix: "x"}}, false},
		{"no prefix for two", []Issuer{{Issuer: "a", Algorithm: "EdDSA", Key: edPEM}, {Issuer: "b", Algorithm: "EdDSA", Key: edPEM}}, false},
		{"two prefixes for one", []Issuer{{Issuer: "a", Algorithm: "EdDSA", Key: edPEM, Prefix: "x"}, {Issuer: "a", Algorithm: "EdDSA", Key: edPEM, Prefix: "y"}}, false},
		{"two audiences for one", []Issuer{{Issuer: "a", Algorithm: "EdDSA", Key: edPEM, Audience: "x"}, {Issuer: "a", Algorithm: "EdDSA", Key: edPEM}}, false},
		{"a bad prefix", []Issuer{{Issuer: "a", Algorithm: "EdDSA", Key: edPEM, Prefix: "\n"}}, false},
		{"no algorithm", []Issuer{{Issuer: "a", Key: edPEM}}, false},
		{"none", []Issuer{{Issuer: "a", Algorithm: "none", Key: edPEM}}, false},
		{"HS512", []Issuer{{Issuer: "a", Algorithm: "HS512", Key: secret}}, false},
		{"no key", []Issuer{{Issuer: "a", Algorithm: "EdDSA"}}, false},
		{"no file", []Issuer{{Issuer: "a", Algorithm: "EdDSA", Key: "/nonexistent"}}, false},
		{"no secret file", []Issuer{{Issuer: "a", Algorithm: "HS256", Key: "/nonexistent"}}, false},
		{"an RSA key for EdDSA", []Issuer{{Issuer: "a", Algorithm: "EdDSA", Key: rsaPEM}}, false},
		{"an Ed25519 key for RS256", []Issuer{{Issuer: "a", Algorithm: "RS256", Key: edPEM}}, false},
		{"a weak RSA key", []Issuer{{Issuer: "a", Algorithm: "RS256", Key: publicPEM(t, weak.Public())}}, false},
		{"another curve", []Issuer{{Issuer: "a", Algorithm: "ES256", Key: publicPEM(t, p384.Public())}}, false},
		{"a private key", []Issuer{{Issuer: "a", Algorithm: "EdDSA", Key: private}}, false},
		{"a damaged certificate", []Issuer{{Issuer: "a", Algorithm: "RS256", Key: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}}, false},
		{"a damaged PEM", []Issuer{{Issuer: "a", Algorithm: "RS256", Key: "-----BEGIN PUBLIC KEY-----\n"}}, false},
		{"a secret in the configuration", []Issuer{{Issuer: "a", Algorithm: "HS256", Key: "-----BEGIN X-----"}}, false},
		{"a public key as a secret", []Issuer{{Issuer: "a", Algorithm: "HS256", Key: writeFile(t, "k", rsaPEM, 0o600)}}, false},
		{"a short secret", []Issuer{{Issuer: "a", Algorithm: "HS256", Key: writeFile(t, "k", strings.Repeat("x", 31)+"\n", 0o600)}}, false},
		{"a secret that others may read", []Issuer{{Issuer: "a", Algorithm: "HS256", Key: writeFile(t, "k", string(k.hmac), 0o640)}}, false},
	} {
		_, err := newVerifier(&Config{Issuer: DefaultIssuer, Issuers: c.is, Now: time.Now})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.what, err)
		}
		if err != nil && strings.Contains(err.Error(), string(k.hmac)) {
			t.Errorf("%s: the error holds the secret", c.what)
		}
	}
}

// Two keys of one issuer are both good, each for its own algorithm or key id alone.
func TestIssuerKeyChange(t *testing.T) {
	k := issuerKeys()
	_, second, _ := ed25519.GenerateKey(rand.Reader)
	e := newEnv(t, func(c *Config) {
		c.Issuers = []Issuer{
			{Issuer: "a", Algorithm: "EdDSA", Key: publicPEM(t, k.ed.Public()), Prefix: "a:"},
			{Issuer: "a", Algorithm: "EdDSA", Key: publicPEM(t, second.Public()), Prefix: "a:"},
			{Issuer: "a", Algorithm: "RS256", Key: publicPEM(t, k.rsa.Public()), Prefix: "a:", KeyID: "r"},
		}
	})
	c := map[string]any{"iss": "a", "sub": "1", "exp": e.clock.now().Unix() + 60}
	for _, tok := range []string{
		signed(t, jwt.SigningMethodEdDSA, k.ed, nil, c),
		signed(t, jwt.SigningMethodEdDSA, second, nil, c),
		signed(t, jwt.SigningMethodRS256, k.rsa, map[string]any{"kid": "r"}, c),
	} {
		if who, err := e.VerifyAccess(t.Context(), tok); err != nil || who.User != "a:1" {
			t.Errorf("%+v, %v", who, err)
		}
	}
}

func TestAuthenticate(t *testing.T) {
	ctx := t.Context()
	k := issuerKeys()
	e := newEnv(t, func(c *Config) { c.Issuers = fourIssuers(t) })
	g := e.register("alice", "phone")
	u, resume, resumed, err := e.Authenticate(ctx, g.AccessToken, "", "phone", 1)
	if u != "alice" || resume == "" || resumed || err != nil {
		t.Fatalf("connected as %q, %v, %v", u, resumed, err)
	}
	if _, c := e.connect(g.AccessToken, "", "laptop"); c != code.Unauthenticated {
		t.Errorf("the token on another device: %s", c)
	}
	for _, d := range []id.DeviceID{"", "a\nb"} {
		if _, c := e.connect(g.AccessToken, "", d); c != code.BadRequest {
			t.Errorf("device %q: %s", d, c)
		}
	}
	if _, c := e.connect("", "", "phone"); c != code.Unauthenticated {
		t.Errorf("nothing at all: %s", c)
	}
	if _, c := e.connect("", resume, "laptop"); c != code.Unauthenticated {
		t.Errorf("a resume token on another device: %s", c)
	}
	u, next, resumed, err := e.Authenticate(ctx, "", resume, "phone", 1)
	if u != "alice" || next == "" || !resumed || err != nil {
		t.Errorf("resumed as %q, %v, %v", u, resumed, err)
	}
	_, _, resumed, err = e.Authenticate(ctx, g.AccessToken, resume, "phone", 1)
	if !resumed || err != nil {
		t.Errorf("both: %v, %v", resumed, err)
	}
	_, _, resumed, err = e.Authenticate(ctx, g.AccessToken, "rubbish", "phone", 1)
	if resumed || err != nil {
		t.Errorf("a bad resume token beside a good token: %v, %v", resumed, err)
	}
	e.clock.pass(time.Second)
	g = e.login("alice", "phone") // ends the session that the resume token belongs to
	u, next, resumed, err = e.Authenticate(ctx, g.AccessToken, resume, "phone", 1)
	if u != "alice" || resumed || err != nil {
		t.Errorf("a revoked resume token beside a good token: %q, %v, %v", u, resumed, err)
	}
	if _, _, resumed, err = e.Authenticate(ctx, "", next, "phone", 1); !resumed || err != nil {
		t.Errorf("the next resume token: %v, %v", resumed, err)
	}
	resume = next
	if _, c := e.connect("rubbish", resume, "phone"); c != code.Unauthenticated {
		t.Errorf("a bad token beside a good resume token: %s", c)
	}
	if _, c := e.connect("", g.RefreshToken, "phone"); c != code.Unauthenticated {
		t.Errorf("a refresh token as resume token: %s", c)
	}

	// The chain of resume tokens outlives the access token, one link doesn't outlive ResumeTTL.
	for range 4 {
		e.clock.pass(9 * time.Minute)
		u, resume, resumed, err = e.Authenticate(ctx, "", resume, "phone", 1)
		if u != "alice" || !resumed || err != nil {
			t.Fatalf("resumed as %q, %v, %v", u, resumed, err)
		}
	}
	if _, c := e.connect(g.AccessToken, "", "phone"); c != code.TokenExpired {
		t.Errorf("the access token: %s", c)
	}
	u, _, resumed, err = e.Authenticate(ctx, g.AccessToken, resume, "phone", 1)
	if u != "alice" || !resumed || err != nil {
		t.Errorf("an expired token beside a good resume token: %q, %v, %v", u, resumed, err)
	}
	e.clock.pass(10 * time.Minute)
	if _, c := e.connect("", resume, "phone"); c != code.Unauthenticated {
		t.Errorf("an old resume token: %s", c)
	}
	if _, c := e.connect(g.AccessToken, resume, "phone"); c != code.TokenExpired {
		t.Errorf("both old: %s", c)
	}

	// One user's resume token doesn't say anything about another's connection.
	b := e.register("bob", "phone")
	bobs, _ := e.connect(b.AccessToken, "", "phone")
	a := e.login("alice", "phone")
	u, _, resumed, err = e.Authenticate(ctx, a.AccessToken, bobs, "phone", 1)
	if u != "alice" || resumed || err != nil {
		t.Errorf("alice with bob's resume token: %q, %v, %v", u, resumed, err)
	}

	// An outside session can be resumed no longer than one ResumeTTL after its token expired.
	tok := signed(t, jwt.SigningMethodHS256, k.hmac, nil, map[string]any{"iss": "https://hs.example", "sub": "1", "iat": e.clock.now().Unix(), "exp": e.clock.now().Unix() + 300})
	resume, c := e.connect(tok, "", "phone")
	if c != 0 {
		t.Fatal(c)
	}
	e.clock.pass(7 * time.Minute)
	if resume, c = e.connect("", resume, "phone"); c != 0 {
		t.Errorf("7 minutes after: %s", c)
	}
	e.clock.pass(7 * time.Minute)
	if resume, c = e.connect("", resume, "phone"); c != 0 {
		t.Errorf("14 minutes after: %s", c)
	}
	e.clock.pass(2 * time.Minute)
	if _, c = e.connect("", resume, "phone"); c != code.Unauthenticated {
		t.Errorf("16 minutes after: %s", c)
	}

	// A session of ours ends with its row, resumed or not.
	short := newEnv(t, func(c *Config) { c.RefreshTTL = 5 * time.Minute })
	g = short.register("alice", "phone")
	resume, _ = short.connect(g.AccessToken, "", "phone")
	short.clock.pass(6 * time.Minute)
	if _, c := short.connect("", resume, "phone"); c != code.SessionRevoked {
		t.Errorf("after the session's end: %s", c)
	}
}

// Revocations of users who signed in elsewhere.
func TestRevokeOutside(t *testing.T) {
	ctx := t.Context()
	k := issuerKeys()
	e := newEnv(t, func(c *Config) { c.Issuers = fourIssuers(t) })
	token := func(more ...any) string {
		c := map[string]any{"iss": "https://hs.example", "sub": "1", "exp": e.clock.now().Unix() + 600, "iat": e.clock.now().Unix()}
		for i := 0; i < len(more); i += 2 {
			c[more[i].(string)] = more[i+1]
			if more[i+1] == nil {
				delete(c, more[i].(string))
			}
		}
		return signed(t, jwt.SigningMethodHS256, k.hmac, nil, c)
	}
	old, undated, bound := token(), token("iat", nil), token("dev", "phone")
	resume, _ := e.connect(old, "", "phone")
	if _, c := e.connect(bound, "", "laptop"); c != code.Unauthenticated {
		t.Errorf("a token bound to another device: %s", c)
	}
	want(t, "forbidden", e.ChangePassword(ctx, old, password, "another password"), code.Forbidden)
	e.clock.pass(time.Second)
	want(t, "revoke", e.Revoke(ctx, "hs:1", "phone"), 0)
	check := func(what, tok, res string, d id.DeviceID, want code.Code) {
		t.Helper()
		if _, c := e.connect(tok, res, d); c != want {
			t.Errorf("%s: %s, want %d", what, c, want)
		}
	}
	check("the old token", old, "", "phone", code.SessionRevoked)
	check("the old resume token", "", resume, "phone", code.SessionRevoked)
	check("a token without iat", undated, "", "phone", code.SessionRevoked)
	check("a token that names the device", bound, "", "phone", code.SessionRevoked)
	check("the old token on another device", old, "", "laptop", 0)
	e.clock.pass(time.Second)
	check("a new token", token(), "", "phone", 0)
	want(t, "revoke all", e.RevokeAll(ctx, "hs:1"), 0)
	check("everywhere", old, "", "laptop", code.SessionRevoked)
	check("without iat", undated, "", "laptop", code.SessionRevoked)
	e.clock.pass(time.Second)
	check("a new token", token(), "", "laptop", 0)
	if got := e.heard(); fmt.Sprint(got) != "[hs:1/phone hs:1/]" {
		t.Errorf("heard %q", got)
	}
}

func TestMintToken(t *testing.T) {
	e := newEnv(t)
	now := e.clock.now()
	for _, c := range []struct {
		user   id.UserID
		device id.DeviceID
		ttl    time.Duration
		ok     bool
	}{
		{"alice", "", time.Hour, true}, {"alice", "phone", time.Hour, true}, {"", "", time.Hour, false},
		{"a\n", "", time.Hour, false}, {"alice", "a\n", time.Hour, false}, {"alice", "", 0, false}, {"alice", "", -1, false},
	} {
		tok, err := MintToken(e.cfg.Crypt, "", c.user, c.device, now, c.ttl)
		if (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
		if err != nil {
			continue
		}
		who, cerr := e.VerifyAccess(t.Context(), tok)
		if cerr != nil || who.User != c.user || who.Device != c.device || who.Outside {
			t.Errorf("%+v: %+v, %v", c, who, cerr)
		}
		resume, cc := e.connect(tok, "", "phone")
		if cc != 0 {
			t.Errorf("%+v: %s", c, cc)
		}
		if _, cc := e.connect("", resume, "phone"); cc != 0 {
			t.Errorf("%+v: %s", c, cc)
		}
	}
}

// Whatever is shown as a token, nobody gets in and nothing breaks.
func FuzzTokens(f *testing.F) {
	keys, err := LoadOrCreateKeys(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	s, err := New(Config{Store: memory.New(memory.Config{}), Crypt: keys, Argon: cheap, Issuers: fourIssuers(f)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	other := ed25519.NewKeyFromSeed(make([]byte, 32))
	f.Add(signed(f, jwt.SigningMethodEdDSA, other, map[string]any{"kid": keys.kid}, map[string]any{"iss": "gochat", "sub": "a", "exp": 1 << 40, "iat": 0}), "")
	f.Add(signed(f, jwt.SigningMethodHS256, []byte("x"), nil, map[string]any{"iss": "https://hs.example", "sub": "a", "exp": 1e300}), "")
	f.Add("", seal(make([]byte, 32), []byte("R\x01\x01\x01\x01\x01a\x01d")))
	f.Add("a.b.c", sealRefresh(make([]byte, 32), 1, "a", "d", make([]byte, secretLen)))
	f.Fuzz(func(t *testing.T, token, opaque string) {
		if _, _, _, err := s.Authenticate(t.Context(), token, opaque, "d", 1); err == nil {
			t.Errorf("%q and %q were accepted", token, opaque)
		}
		if _, err := s.Refresh(t.Context(), opaque); err == nil {
			t.Errorf("%q was accepted", opaque)
		}
		if err := s.Logout(t.Context(), opaque, true); err == nil {
			t.Errorf("%q was accepted", opaque)
		}
	})
}

// What is inside an opaque token is read within bounds, even by who has the key.
func FuzzOpaque(f *testing.F) {
	keys, err := LoadOrCreateKeys(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	s, err := New(Config{Store: memory.New(memory.Config{}), Crypt: keys, Argon: cheap})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	f.Add([]byte("R\xff\xff\xff\xff\x7f\x01\x01\x01\x01a\x01d"))
	f.Add([]byte("F\x01\x01a\x01d" + strings.Repeat("x", secretLen)))
	f.Fuzz(func(t *testing.T, body []byte) {
		text := seal(keys.mac[0], body)
		if r, ok := s.openResume(text); ok && (len(r.user) > 255 || len(r.device) > 255) {
			t.Errorf("%+v", r)
		}
		if r, ok := keys.openRefresh(text); ok && len(r.body) != len(body) {
			t.Errorf("%+v", r)
		}
	})
}
