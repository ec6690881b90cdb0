package account_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gochat-im/gochat/services/account"
)

func TestImportKeys(t *testing.T) {
	dir := t.TempDir()
	data, keys := filepath.Join(dir, "data"), filepath.Join(dir, "keys")
	if err := account.ImportKeys(filepath.Join(data, "keys"), keys); !errors.Is(err, account.ErrNoKeys) {
		t.Errorf("of nothing: %v", err)
	}
	if _, err := account.LoadOrCreateKeys(data); err != nil {
		t.Fatal(err)
	}
	if _, err := account.RotateKeys(data, time.Unix(1_700_000_000, 0)); err != nil {
		t.Fatal(err)
	}
	// What an interrupted import left is completed, and a second one changes nothing.
	if err := os.MkdirAll(keys, 0o700); err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(filepath.Join(data, "keys", "mac-20231114T221320Z.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(keys, "mac-20231114T221320Z.key"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := account.ImportKeys(filepath.Join(data, "keys"), keys); err != nil {
			t.Fatal(err)
		}
	}
	theirs, err := account.LoadKeys(data)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := account.ReadKeys(keys)
	if err != nil || !ours.Accepts(theirs) || ours.KeyID() != theirs.KeyID() {
		t.Errorf("the imported keys sign as %s, want %s: %v", ours.KeyID(), theirs.KeyID(), err)
	}
	other := filepath.Join(dir, "other")
	if err := account.CreateKeys(other); err != nil {
		t.Fatal(err)
	}
	if err := account.ImportKeys(filepath.Join(data, "keys"), other); err == nil {
		t.Error("over other keys: no error")
	}
	if its, err := account.ReadKeys(other); err != nil || its.Accepts(theirs) || theirs.Accepts(its) {
		t.Errorf("other keys count as the same: %v", err)
	}
}
