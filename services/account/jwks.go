package account

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of an issuer's key set. A set is fetched because a token needs it, never more often than
// these say, whatever tokens are shown: an issuer that is away is asked ever more seldom, and
// what it said last goes on to hold meanwhile.
const (
	jwksBytes   = 256 << 10
	jwksKeys    = 64
	jwksTimeout = 3 * time.Second  // of a fetch, and so of a token that waits for one
	jwksFresh   = 10 * time.Minute // after this a set is fetched anew, while it is used on
	jwksStale   = 24 * time.Hour   // and after this it isn't used any more
	jwksPause   = 30 * time.Second // between two fetches, even for a key that isn't known;
	jwksLongest = 10 * time.Minute // doubled with each failure up to this
)

// jwks is the key set of an issuer, at an address or in a file. It is safe for concurrent use.
type jwks struct {
	source string
	alg    string
	now    func() time.Time
	log    *slog.Logger
	client *http.Client

	mu      sync.Mutex
	keys    map[string][]any // by kid
	fetched time.Time        // when keys were
	next    time.Time        // not asked before
	pause   time.Duration
	flight  chan struct{} // closed when the fetch under way has ended; nil: none is
}

// newJWKS checks the source. A file is read at once, so that a wrong one is found at the start; an
// address isn't asked before a token needs it: the issuer may come up later than this server.
func newJWKS(source, alg string, now func() time.Time, log *slog.Logger) (*jwks, error) {
	if alg != "RS256" && alg != "ES256" && alg != "EdDSA" {
		return nil, fmt.Errorf("a key set holds public keys: want RS256, ES256 or EdDSA, not %q", alg)
	}
	j := &jwks{source: source, alg: alg, now: now, log: log, client: &http.Client{
		Timeout: jwksTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("a key set doesn't move: configure where it is")
		},
		Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Second, MaxResponseHeaderBytes: 16 << 10, TLSHandshakeTimeout: jwksTimeout},
	}}
	if !j.remote() {
		keys, err := j.fetch()
		if err != nil {
			return nil, err
		}
		j.keys, j.fetched = keys, now()
		return j, nil
	}
	u, err := url.Parse(source)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, errors.New("the address of the key set can't be read")
	}
	if u.Scheme != "https" && !loopback(u.Hostname()) {
		return nil, errors.New("a key set is fetched over https, or from this machine")
	}
	return j, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (j *jwks) remote() bool { return strings.Contains(j.source, "://") }

// find returns the keys of kid, all of them if the token names none. If the key isn't known it waits
// for a fetch, as far as one may be made now. away: there is no set at all to look in.
func (j *jwks) find(kid string) (keys []any, away bool) {
	j.mu.Lock()
	now := j.now()
	keys, away = j.known(kid, now)
	var flight chan struct{}
	if len(keys) == 0 || now.Sub(j.fetched) >= jwksFresh {
		flight = j.refresh(now)
	}
	j.mu.Unlock()
	if len(keys) > 0 || flight == nil {
		return keys, away
	}
	<-flight // the client's timeout bounds it
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.known(kid, j.now())
}

// known is find without asking. j is locked.
func (j *jwks) known(kid string, now time.Time) (keys []any, away bool) {
	if j.fetched.IsZero() || now.Sub(j.fetched) >= jwksStale {
		return nil, true
	}
	if kid != "" {
		return slices.Concat(j.keys[kid], j.keys[""]), false
	}
	for _, some := range j.keys {
		keys = append(keys, some...)
	}
	return keys, false
}

// refresh begins a fetch, in a goroutine that ends with it, unless one is under way or it is too
// early. It returns what is closed at its end; nil: there is none. j is locked.
func (j *jwks) refresh(now time.Time) chan struct{} {
	if j.flight != nil || now.Before(j.next) {
		return j.flight
	}
	flight := make(chan struct{})
	j.flight = flight
	go func() {
		keys, err := j.fetch()
		j.mu.Lock()
		defer j.mu.Unlock()
		at := j.now()
		if err != nil {
			j.pause = min(max(2*j.pause, jwksPause), jwksLongest)
			j.log.Warn("an issuer's keys could not be fetched", "from", j.source, "next_try_after", j.pause, "err", err)
		} else {
			j.keys, j.fetched, j.pause = keys, at, jwksPause
		}
		j.next = at.Add(j.pause)
		j.flight = nil
		close(flight)
	}()
	return flight
}

// fetch reads the set.
func (j *jwks) fetch() (map[string][]any, error) {
	var raw []byte
	if !j.remote() {
		f, err := os.Open(j.source)
		if err != nil {
			return nil, fmt.Errorf("reading the key set: %w", err)
		}
		defer f.Close()
		if raw, err = io.ReadAll(io.LimitReader(f, jwksBytes+1)); err != nil {
			return nil, fmt.Errorf("reading the key set: %w", err)
		}
		return j.parse(raw)
	}
	ctx, cancel := context.WithTimeout(context.Background(), jwksTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.source, nil)
	if err != nil {
		return nil, fmt.Errorf("asking for the key set: %w", err)
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := j.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking for the key set: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the key set: status %d", resp.StatusCode)
	}
	if raw, err = io.ReadAll(io.LimitReader(resp.Body, jwksBytes+1)); err != nil {
		return nil, fmt.Errorf("reading the key set: %w", err)
	}
	return j.parse(raw)
}

// jwk is one key of a set (RFC 7517), as far as it is read.
type jwk struct {
	Type  string   `json:"kty"`
	Use   string   `json:"use"`
	Ops   []string `json:"key_ops"`
	Alg   string   `json:"alg"`
	ID    string   `json:"kid"`
	Curve string   `json:"crv"`
	N     string   `json:"n"`
	E     string   `json:"e"`
	X     string   `json:"x"`
	Y     string   `json:"y"`
}

// parse reads a set. Keys that aren't for the issuer's algorithm, or aren't good, are passed over; a
// set without any is an error, so that the last good one stays.
func (j *jwks) parse(raw []byte) (map[string][]any, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if len(raw) > jwksBytes {
		return nil, fmt.Errorf("the key set is larger than %d bytes", jwksBytes)
	}
	if err := json.Unmarshal(raw, &set); err != nil {
		return nil, errors.New("the key set isn't JSON of a key set's form")
	}
	if len(set.Keys) > jwksKeys {
		return nil, fmt.Errorf("the key set has more than %d keys", jwksKeys)
	}
	out := map[string][]any{}
	for i := range set.Keys {
		k := &set.Keys[i]
		if k.Use != "" && k.Use != "sig" || k.Alg != "" && k.Alg != j.alg || len(k.Ops) > 0 && !slices.Contains(k.Ops, "verify") {
			continue
		}
		if key := k.public(j.alg); key != nil {
			out[k.ID] = append(out[k.ID], key)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the key set has no key for %s", j.alg)
	}
	return out, nil
}

// maxRSA bounds what a signature may cost, in bits.
const maxRSA = 8192

// public returns the key if it is one for alg, else nil.
func (k *jwk) public(alg string) any {
	b64 := base64.RawURLEncoding.Strict().DecodeString
	x, errX := b64(k.X)
	switch {
	case alg == "RS256" && k.Type == "RSA":
		n, errN := b64(k.N)
		e, errE := b64(k.E)
		exp := new(big.Int).SetBytes(e)
		mod := new(big.Int).SetBytes(n)
		if errN != nil || errE != nil || mod.BitLen() < 2048 || mod.BitLen() > maxRSA || len(e) > 4 || exp.BitLen() > 31 || exp.Int64() < 3 || exp.Bit(0) == 0 {
			return nil
		}
		return &rsa.PublicKey{N: mod, E: int(exp.Int64())}
	case alg == "ES256" && k.Type == "EC" && k.Curve == "P-256":
		y, errY := b64(k.Y)
		if errX != nil || errY != nil || len(x) != 32 || len(y) != 32 {
			return nil
		}
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y)) // on the curve, or an error
		if err != nil {
			return nil
		}
		return key
	case alg == "EdDSA" && k.Type == "OKP" && k.Curve == "Ed25519":
		if errX != nil || len(x) != ed25519.PublicKeySize {
			return nil
		}
		return ed25519.PublicKey(x)
	}
	return nil
}
