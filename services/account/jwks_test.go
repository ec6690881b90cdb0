package account

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gochat-im/gochat/protocol/code"
)

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// setOf is a key set.
func setOf(keys ...map[string]any) string {
	b, _ := json.Marshal(map[string]any{"keys": keys})
	return string(b)
}

func edKey(kid string, k ed25519.PrivateKey) map[string]any {
	return map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "x": b64(k.Public().(ed25519.PublicKey))}
}

// keyServer is an issuer's address; what it says may be changed.
type keyServer struct {
	*httptest.Server
	asked atomic.Int32
	mu    sync.Mutex
	say   func(w http.ResponseWriter)
}

func (k *keyServer) says(say func(w http.ResponseWriter)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.say = say
}

func (k *keyServer) saysText(s string) {
	k.says(func(w http.ResponseWriter) { _, _ = w.Write([]byte(s)) })
}

func newKeyServer(t *testing.T) *keyServer {
	k := &keyServer{}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		k.asked.Add(1)
		k.mu.Lock()
		say := k.say
		k.mu.Unlock()
		say(w)
	}))
	t.Cleanup(k.Close)
	return k
}

// settled waits for a fetch that goes on beside what is asked.
func (e *env) settled(iss string) {
	j := e.tokens.byIss[iss][0].jwks
	j.mu.Lock()
	flight := j.flight
	j.mu.Unlock()
	if flight != nil {
		<-flight
	}
}

// signed is a token of the issuer "jwks".
func (e *env) signed(method jwt.SigningMethod, kid string, key any) string {
	e.t.Helper()
	tok := jwt.NewWithClaims(method, jwt.MapClaims{"iss": "jwks", "sub": "alice", "exp": e.clock.now().Add(48 * time.Hour).Unix()})
	if kid != "" {
		tok.Header["kid"] = kid
	}
	s, err := tok.SignedString(key)
	if err != nil {
		e.t.Fatal(err)
	}
	return s
}

func (e *env) wantAccess(what, token string, want code.Code) {
	e.t.Helper()
	_, err := e.VerifyAccess(e.t.Context(), token)
	if err != nil && err.Code != want || err == nil && want != 0 {
		e.t.Errorf("%s: %v, want code %d", what, err, want)
	}
}

func TestKeySetsAreRotated(t *testing.T) {
	_, one, _ := ed25519.GenerateKey(rand.Reader)
	_, two, _ := ed25519.GenerateKey(rand.Reader)
	srv := newKeyServer(t)
	srv.says(func(w http.ResponseWriter) { w.WriteHeader(503) })
	e := newEnv(t, func(c *Config) { c.Issuers = []Issuer{{Issuer: "jwks", Algorithm: "EdDSA", JWKS: srv.URL}} })
	pass := func(d time.Duration) { e.clock.set(e.clock.now().Add(d)) }
	if srv.asked.Load() != 0 {
		t.Error("the issuer was asked before a token needed it")
	}
	first, second := e.signed(jwt.SigningMethodEdDSA, "1", one), e.signed(jwt.SigningMethodEdDSA, "2", two)
	e.wantAccess("while the issuer is away", first, code.Unavailable)
	srv.saysText(setOf(edKey("1", one)))
	e.wantAccess("at once again", first, code.Unavailable)
	if n := srv.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	pass(jwksPause)
	e.wantAccess("the issuer is back", first, 0)
	e.wantAccess("another key under this kid", e.signed(jwt.SigningMethodEdDSA, "1", two), code.Unauthenticated)
	e.wantAccess("a token without kid", e.signed(jwt.SigningMethodEdDSA, "", one), 0)

	// A new key is fetched when a token names it; a flood of unknown ones isn't an issuer's burden.
	srv.saysText(setOf(edKey("1", one), edKey("2", two)))
	asked := srv.asked.Load()
	for i := range 50 {
		e.wantAccess("an unknown kid", e.signed(jwt.SigningMethodEdDSA, fmt.Sprint("x", i), two), code.Unauthenticated)
	}
	if srv.asked.Load() != asked {
		t.Error("unknown kids were asked for at once")
	}
	pass(jwksPause)
	e.wantAccess("the new key", second, 0)
	e.wantAccess("the old key", first, 0)

	// A key that is taken away goes with the next fetch; bad sets and an issuer that is away leave what is known.
	srv.saysText(setOf(edKey("2", two)))
	pass(jwksFresh)
	e.wantAccess("while it is fetched", second, 0)
	e.settled("jwks")
	e.wantAccess("a key that was taken away", first, code.Unauthenticated)
	for _, bad := range []string{"", "{", `{"keys":[]}`, setOf(map[string]any{"kty": "RSA"}), strings.Repeat(" ", jwksBytes+1) + "{}", `{"keys":[` + strings.Repeat("{},", jwksKeys) + `{}]}`} {
		srv.saysText(bad)
		pass(jwksFresh)
		e.wantAccess("after a bad set", second, 0)
		e.settled("jwks")
		e.wantAccess("after a bad set", second, 0)
	}
	pass(jwksStale)
	e.wantAccess("the issuer is away for a day", second, code.Unavailable)
	elsewhere := newKeyServer(t)
	elsewhere.saysText(setOf(edKey("2", two)))
	srv.says(func(w http.ResponseWriter) { w.Header().Set("Location", elsewhere.URL); w.WriteHeader(302) })
	pass(jwksLongest)
	e.wantAccess("a set that moves", second, code.Unavailable)
	if elsewhere.asked.Load() != 0 {
		t.Error("a redirect was followed")
	}
}

// Many tokens that need a set at once make one fetch.
func TestKeySetIsFetchedOnce(t *testing.T) {
	_, one, _ := ed25519.GenerateKey(rand.Reader)
	srv := newKeyServer(t)
	srv.saysText(setOf(edKey("1", one)))
	e := newEnv(t, func(c *Config) { c.Issuers = []Issuer{{Issuer: "jwks", Algorithm: "EdDSA", JWKS: srv.URL}} })
	token := e.signed(jwt.SigningMethodEdDSA, "1", one)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() { e.wantAccess("at once", token, 0) })
	}
	wg.Wait()
	if n := srv.asked.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
}

func TestKeySetAlgorithms(t *testing.T) {
	k := issuerKeys()
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	pt, err := k.ec.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	rsaKey := func(kid string, p *rsa.PublicKey) map[string]any {
		return map[string]any{"kty": "RSA", "kid": kid, "n": b64(p.N.Bytes()), "e": b64(big.NewInt(int64(p.E)).Bytes())}
	}
	with := func(m map[string]any, name string, v any) map[string]any { m[name] = v; return m }
	ec := func() map[string]any {
		return map[string]any{"kty": "EC", "crv": "P-256", "kid": "1", "x": b64(pt[1:33]), "y": b64(pt[33:])}
	}
	for _, c := range []struct {
		what, alg string
		set       string
		good      bool
	}{
		{"RSA", "RS256", setOf(rsaKey("1", &k.rsa.PublicKey)), true},
		{"P-256", "ES256", setOf(ec()), true},
		{"Ed25519", "EdDSA", setOf(edKey("1", k.ed)), true},
		{"for another algorithm beside it", "EdDSA", setOf(rsaKey("1", &k.rsa.PublicKey), edKey("1", k.ed)), true},
		{"key_ops", "EdDSA", setOf(with(edKey("1", k.ed), "key_ops", []string{"verify"})), true},
		{"of another kind", "ES256", setOf(rsaKey("1", &k.rsa.PublicKey)), false},
		{"a weak key", "RS256", setOf(rsaKey("1", &weak.PublicKey)), false},
		{"an even exponent", "RS256", setOf(with(rsaKey("1", &k.rsa.PublicKey), "e", b64([]byte{4}))), false},
		{"an exponent of one", "RS256", setOf(with(rsaKey("1", &k.rsa.PublicKey), "e", "AQ")), false},
		{"a vast exponent", "RS256", setOf(with(rsaKey("1", &k.rsa.PublicKey), "e", b64([]byte{255, 255, 255, 255}))), false},
		{"a vast key", "RS256", setOf(with(rsaKey("1", &k.rsa.PublicKey), "n", b64(append([]byte{1}, make([]byte, 2000)...)))), false},
		{"off the curve", "ES256", setOf(with(ec(), "y", b64(make([]byte, 32)))), false},
		{"another curve", "ES256", setOf(with(ec(), "crv", "P-384")), false},
		{"short", "EdDSA", setOf(with(edKey("1", k.ed), "x", "AAAA")), false},
		{"no base64", "EdDSA", setOf(with(edKey("1", k.ed), "x", "=")), false},
		{"for encryption", "EdDSA", setOf(with(edKey("1", k.ed), "use", "enc")), false},
		{"for signing alone", "EdDSA", setOf(with(edKey("1", k.ed), "key_ops", []string{"sign"})), false},
		{"of another algorithm", "EdDSA", setOf(with(edKey("1", k.ed), "alg", "RS256")), false},
		{"a shared secret", "EdDSA", setOf(map[string]any{"kty": "oct", "k": "AAAA"}), false},
	} {
		j := &jwks{alg: c.alg}
		if keys, err := j.parse([]byte(c.set)); (err == nil) != c.good || c.good && len(keys["1"]) != 1 {
			t.Errorf("%s: %v, %v", c.what, keys, err)
		}
	}
	// The algorithm is pinned: a token that is signed with the public key as a secret is refused.
	file := writeFile(t, "set.json", setOf(rsaKey("1", &k.rsa.PublicKey)), 0o644)
	e := newEnv(t, func(c *Config) { c.Issuers = []Issuer{{Issuer: "jwks", Algorithm: "RS256", JWKS: file}} })
	e.wantAccess("RS256 of a file", e.signed(jwt.SigningMethodRS256, "1", k.rsa), 0)
	e.wantAccess("HS256", e.signed(jwt.SigningMethodHS256, "1", k.rsa.N.Bytes()), code.Unauthenticated)
	e.wantAccess("none", e.signed(jwt.SigningMethodNone, "1", jwt.UnsafeAllowNoneSignatureType), code.Unauthenticated)
}

func TestKeySetConfig(t *testing.T) {
	keys, err := LoadOrCreateKeys(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	empty := writeFile(t, "set.json", `{"keys":[]}`, 0o644)
	for what, is := range map[string]Issuer{
		"a shared secret":      {Algorithm: "HS256", JWKS: "https://example.org/keys"},
		"a key beside it":      {Algorithm: "EdDSA", JWKS: "https://example.org/keys", Key: "x"},
		"plain http":           {Algorithm: "EdDSA", JWKS: "http://example.org/keys"},
		"another scheme":       {Algorithm: "EdDSA", JWKS: "ftp://example.org/keys"},
		"a password in it":     {Algorithm: "EdDSA", JWKS: "https://a:b@example.org/keys"},
		"no host":              {Algorithm: "EdDSA", JWKS: "https://"},
		"a file that isn't":    {Algorithm: "EdDSA", JWKS: "/nowhere/keys.json"},
		"a file without a key": {Algorithm: "EdDSA", JWKS: empty},
	} {
		is.Issuer = "jwks"
		if _, err := New(Config{Store: newEnv(t).store, Crypt: keys, Argon: cheap, Issuers: []Issuer{is}}); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

func TestCreateAndMint(t *testing.T) {
	e := newEnv(t, func(c *Config) { c.RegistrationOff = true })
	ctx := t.Context()
	u, err := e.Create(ctx, "e\u0301va", "")
	if err != nil || u != "éva" {
		t.Fatalf("%q, %v", u, err)
	}
	if _, err := e.Create(ctx, "bob", password); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		name, password string
		want           code.Code
	}{
		"again": {"éva", "", code.NameTaken}, "no name": {"", "", code.BadRequest}, "a short password": {"carl", "short", code.BadRequest},
	} {
		if _, err := e.Create(ctx, c.name, c.password); err == nil || err.Code != c.want {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := e.Login(ctx, "éva", password, "d", 1); err == nil || err.Code != code.BadCredentials {
		t.Errorf("signed in without a password: %v", err)
	}
	e.login("bob", "d")
	token, expires, err := e.Mint(ctx, "éva", "d")
	if err != nil || expires != e.clock.now().Add(e.cfg.AccessTTL).Unix()*1000 {
		t.Errorf("%d, %v", expires, err)
	}
	e.wantAccess("minted", token, 0)
	if _, _, err := e.Mint(ctx, "nobody", ""); err == nil || err.Code != code.NoSuchUser {
		t.Errorf("minted for nobody: %v", err)
	}
	if _, _, err := e.Mint(ctx, "éva", "\n"); err == nil || err.Code != code.BadRequest {
		t.Errorf("minted for a bad device: %v", err)
	}
	if err := e.Ban(ctx, "éva", ""); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Mint(ctx, "éva", ""); err == nil || err.Code != code.Banned {
		t.Errorf("minted for somebody banned: %v", err)
	}
	if _, err := e.Create(ctx, "éva", ""); err == nil || err.Code != code.NameTaken {
		t.Errorf("made again while banned: %v", err)
	}
	e = newEnv(t, func(c *Config) { c.Issuers = fourIssuers(t) })
	if _, err := e.Create(ctx, "ed:x", ""); err == nil || err.Code != code.RegistrationClosed {
		t.Errorf("an issuer's user: %v", err)
	}
}
