package account

import (
	"errors"
	"os"
	"testing"
	"time"
)

func TestRotatedKeysAcceptWhatTheOldOnesSigned(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	if _, err := RotateKeys(dir, now); !errors.Is(err, ErrNoKeys) {
		t.Errorf("nothing to rotate: %v", err)
	}
	old, err := LoadOrCreateKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	token, err := MintToken(old, "", "alice", "", now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	refresh := sealRefresh(old.mac[0], 7, "alice", "phone", make([]byte, secretLen))
	files, err := RotateKeys(dir, now)
	if err != nil || len(files) != 2 {
		t.Fatalf("rotated: %q, %v", files, err)
	}
	keys, err := LoadOrCreateKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	if keys.KeyID() == old.KeyID() {
		t.Error("the same key signs")
	}
	accepts := func(k *Keys) (access, refreshed bool) {
		t.Helper()
		cfg := Config{Crypt: k, Issuer: DefaultIssuer, Now: func() time.Time { return now.Add(time.Minute) }}
		v, err := newVerifier(&cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, cerr := v.verify(token)
		_, ok := k.openRefresh(refresh)
		return cerr == nil, ok
	}
	if a, r := accepts(keys); !a || !r {
		t.Errorf("after the rotation the old access token is accepted: %t, the refresh token: %t", a, r)
	}
	if _, err := RotateKeys(dir, now); err == nil {
		t.Error("two rotations in one second wrote over a key")
	}
	for _, f := range files {
		if st, err := os.Stat(f); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, st, err)
		}
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	if keys, err = LoadKeys(dir); err != nil {
		t.Fatal(err)
	}
	if a, r := accepts(keys); a || r {
		t.Errorf("without the old keys the access token is accepted: %t, the refresh token: %t", a, r)
	}
}
