package apikey

import (
	"bytes"
	"context"
	"encoding/hex"
	"log/slog"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
)

func newService(t *testing.T) (*Service, kv.Store, *bytes.Buffer) {
	t.Helper()
	store, log := memory.New(memory.Config{}), new(bytes.Buffer)
	now := int64(1_700_000_000_000)
	s, err := New(Config{Store: store, Now: func() int64 { now++; return now }, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return s, store, log
}

func TestKeys(t *testing.T) {
	s, store, log := newService(t)
	ctx := t.Context()
	text, k, cerr := s.Create(ctx, "billing", []string{ScopeUsers, ScopeAct, ScopeUsers})
	if cerr != nil || k.Name != "billing" || !k.May(ScopeAct) || k.May(ScopeTokens) || len(k.Scopes) != 2 {
		t.Fatalf("%+v, %v", k, cerr)
	}
	other, _, cerr := s.Create(ctx, "other", []string{ScopeTokens})
	if cerr != nil {
		t.Fatal(cerr)
	}
	if got, err := s.Verify(ctx, text); err != nil || got.ID != k.ID || got.Name != k.Name || !got.Created.Equal(k.Created) {
		t.Errorf("%+v, %v", got, err)
	}
	list, cerr := s.List(ctx)
	if cerr != nil || len(list) != 2 || list[0].ID != k.ID || list[1].Name != "other" {
		t.Errorf("%+v, %v", list, cerr)
	}
	secret := text[strings.LastIndex(text[:len(Prefix)+17], "_")+1:]
	for what, bad := range map[string]string{
		"nothing": "", "the prefix": Prefix, "no secret": text[:len(Prefix)+16], "another's secret": text[:len(Prefix)+17] + other[len(Prefix)+17:],
		"an unknown id": Prefix + strings.Repeat("0", 16) + "_" + secret, "one letter off": text[:len(text)-2] + "AA", "longer": text + "A",
		"an id that leads elsewhere": Prefix + "../../../../meta" + "_" + secret, "another prefix": "x" + text,
	} {
		if _, err := s.Verify(ctx, bad); err == nil || err.Code != code.Unauthenticated {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Nothing that was stored or logged is of use to whoever reads it.
	if err := store.Scan(ctx, kv.Span{}, func(key, value []byte) (bool, error) {
		if bytes.Contains(value, []byte(secret)) {
			t.Errorf("the secret lies in %x", key)
		}
		return true, nil
	}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(log.String(), secret) || !strings.Contains(log.String(), k.ID) {
		t.Errorf("the log: %s", log)
	}
	if err := s.Revoke(ctx, k.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Verify(ctx, text); err == nil || err.Code != code.Unauthenticated {
		t.Errorf("a revoked key: %v", err)
	}
	if err := s.Revoke(ctx, k.ID); err == nil || err.Code != code.BadRequest {
		t.Errorf("revoked twice: %v", err)
	}
	if _, err := s.Verify(ctx, other); err != nil {
		t.Errorf("the other key: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no store is needed")
	}
	s, store, _ := newService(t)
	for _, c := range []struct {
		name   string
		scopes []string
	}{{"", Scopes}, {strings.Repeat("x", 65), Scopes}, {"a\nb", Scopes}, {"\xff", Scopes}, {"a", nil}, {"a", []string{"root"}}} {
		if _, _, err := s.Create(t.Context(), c.name, c.scopes); err == nil || err.Code != code.BadRequest {
			t.Errorf("%q for %v: %v", c.name, c.scopes, err)
		}
	}
	for range maxKeys {
		if _, _, err := s.Create(t.Context(), "many", Scopes); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := s.Create(t.Context(), "one too many", Scopes); err == nil || err.Code != code.TooMany {
		t.Errorf("one too many: %v", err)
	}
	store.Close()
	if _, err := s.List(context.Background()); err == nil || err.Code != code.Unavailable {
		t.Errorf("a closed store: %v", err)
	}
	if _, err := s.Verify(context.Background(), Prefix+strings.Repeat("0", 16)+"_"+strings.Repeat("A", 43)); err == nil || err.Code != code.Unavailable {
		t.Errorf("a closed store: %v", err)
	}
	if err := s.Revoke(context.Background(), "x"); err == nil || err.Code != code.Unavailable {
		t.Errorf("a closed store: %v", err)
	}
}

// The stored format is frozen.
func TestRow(t *testing.T) {
	r := row{created: 1_700_000_000_000, hash: [32]byte{1, 2, 3}, name: "billing", scopes: []string{"act", "users"}}
	const golden = "0180d095ffbc31010203000000000000000000000000000000000000000000000000000000000007" + "62696c6c696e670203616374057573657273"
	if got := hex.EncodeToString(r.append(nil)); got != golden {
		t.Errorf("have %s\nwant %s", got, golden)
	}
	b := r.append(nil)
	if got, err := parseRow(b); err != nil || got.name != r.name || got.hash != r.hash || got.created != r.created || len(got.scopes) != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range b {
		if _, err := parseRow(b[:n]); err == nil {
			t.Errorf("%d bytes were read", n)
		}
	}
	if _, err := parseRow(append(b, 0)); err == nil {
		t.Error("bytes behind the row were lost")
	}
	b[0] = 2
	s, store, _ := newService(t)
	var tx kv.Tx
	tx.Set(msgstore.Keys{}.StoreRow(nil, "apikey:"+strings.Repeat("0", 16)), b)
	store.Commit(t.Context(), &tx)
	if _, err := s.Verify(t.Context(), Prefix+strings.Repeat("0", 16)+"_"+strings.Repeat("A", 43)); err == nil || err.Code != code.Internal {
		t.Errorf("a later version's row: %v", err)
	}
}
