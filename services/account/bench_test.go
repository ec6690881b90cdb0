package account

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/id"
)

func benchService(b *testing.B, store ...func(*Config)) *Service {
	b.Helper()
	keys, err := LoadOrCreateKeys(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	cfg := Config{Store: memory.New(memory.Config{Pause: func() {}}), Crypt: keys, Issuers: fourIssuers(b), HashesWaiting: 1000, HashWait: time.Hour}
	for _, f := range store {
		f(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	return s
}

// BenchmarkArgon2id is what one registration or sign-in costs.
func BenchmarkArgon2id(b *testing.B) {
	a := withDefaults(Argon{})
	for b.Loop() {
		hashPassword(password, a, Argon.Key)
	}
}

// BenchmarkVerify is what one CONNECT with a token costs, by the token's algorithm, the reading of its session's rows included.
func BenchmarkVerify(b *testing.B) {
	s := benchService(b)
	k := issuerKeys()
	exp := time.Now().Add(time.Hour).Unix()
	g, err := s.Register(context.Background(), "alice", password, "phone", 1)
	if err != nil {
		b.Fatal(err)
	}
	claims := func(iss string) map[string]any {
		return map[string]any{"iss": iss, "sub": "1001", "exp": exp, "aud": "chat"}
	}
	_, resume, _, err := s.Authenticate(context.Background(), g.AccessToken, "", "phone", 1)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, token, resume string }{
		{"own", g.AccessToken, ""},
		{"HS256", signed(b, jwt.SigningMethodHS256, k.hmac, nil, claims("https://hs.example")), ""},
		{"RS256", signed(b, jwt.SigningMethodRS256, k.rsa, nil, claims("https://rs.example")), ""},
		{"ES256", signed(b, jwt.SigningMethodES256, k.ec, map[string]any{"kid": "k1"}, claims("https://es.example")), ""},
		{"EdDSA", signed(b, jwt.SigningMethodEdDSA, k.ed, nil, claims("https://ed.example")), ""},
		{"resume", "", resume},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, _, err := s.Authenticate(context.Background(), c.token, c.resume, "phone", 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRegister(b *testing.B) {
	s := benchService(b)
	n := 0
	for b.Loop() {
		n++
		if _, err := s.Register(context.Background(), fmt.Sprint("user", n), password, "phone", 1); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLogin(b *testing.B) {
	s := benchService(b)
	if _, err := s.Register(context.Background(), "alice", password, "phone", 1); err != nil {
		b.Fatal(err)
	}
	b.RunParallel(func(pb *testing.PB) {
		d := id.DeviceID(fmt.Sprintf("%p", pb))
		for pb.Next() {
			if _, err := s.Login(context.Background(), "alice", password, d, 1); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func BenchmarkRefresh(b *testing.B) {
	s := benchService(b)
	g, err := s.Register(context.Background(), "alice", password, "phone", 1)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if g, err = s.Refresh(context.Background(), g.RefreshToken); err != nil {
			b.Fatal(err)
		}
	}
}
