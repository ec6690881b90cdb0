package account

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
)

func TestKeyFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadKeys(dir); !errors.Is(err, ErrNoKeys) {
		t.Errorf("an empty directory: %v", err)
	}
	k, err := LoadOrCreateKeys(dir)
	if err != nil {
		t.Fatal(err)
	}
	entries, _ := os.ReadDir(filepath.Join(dir, "keys"))
	if len(entries) != 2 {
		t.Errorf("%d files", len(entries))
	}
	for _, e := range entries {
		if st, _ := e.Info(); st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", e.Name(), st.Mode().Perm())
		}
	}
	if st, _ := os.Stat(filepath.Join(dir, "keys")); st.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %o", st.Mode().Perm())
	}
	again, err := LoadOrCreateKeys(dir)
	if err != nil || again.kid != k.kid || !bytes.Equal(again.mac[0], k.mac[0]) {
		t.Errorf("loaded other keys than were made: %v", err)
	}
	if _, err := LoadKeys(dir); err != nil {
		t.Error(err)
	}
	other, err := LoadOrCreateKeys(t.TempDir())
	if err != nil || other.kid == k.kid || bytes.Equal(other.mac[0], k.mac[0]) {
		t.Errorf("two installations have one key: %v", err)
	}
}

func TestKeyFilesThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		file, data string
		mode       os.FileMode
		says       string
	}{
		{signingFile, "", 0o644, "chmod 600"},
		{macFile, "", 0o660, "chmod 600"},
		{signingFile, "rubbish", 0o600, "PEM"},
		{signingFile, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", 0o600, "PKCS #8"},
		{macFile, "rubbish", 0o600, "hexadecimal"},
		{macFile, "abcd", 0o600, "32 bytes"},
		{macFile, strings.Repeat("a", 65<<10), 0o600, "larger"},
		{"access-old.pem", "rubbish", 0o600, "PEM"},
		{"mac-old.key", "rubbish", 0o600, "hexadecimal"},
	} {
		dir := t.TempDir()
		if _, err := LoadOrCreateKeys(dir); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "keys", c.file)
		if c.data != "" {
			if err := os.WriteFile(path, []byte(c.data), c.mode); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadOrCreateKeys(dir); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s %.20q %o: %v, want one that says %q", c.file, c.data, c.mode, err, c.says)
		}
	}
	file := writeFile(t, "file", "x", 0o600)
	if _, err := LoadOrCreateKeys(file); err == nil {
		t.Error("a file was taken for a directory")
	}
}

// Processes that start at once on an empty directory agree on its keys.
func TestKeyFilesMadeAtOnce(t *testing.T) {
	dir := t.TempDir()
	var (
		wg   sync.WaitGroup
		keys [8]*Keys
	)
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = LoadOrCreateKeys(dir); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, k := range keys {
		if k == nil || k.kid != keys[0].kid || !bytes.Equal(k.mac[0], keys[0].mac[0]) {
			t.Error("they have different keys")
		}
	}
}

// After a change of keys, what the old ones made is good until their files go.
func TestKeyChange(t *testing.T) {
	dir := t.TempDir()
	keys := filepath.Join(dir, "keys")
	load := func() *Keys {
		k, err := LoadOrCreateKeys(dir)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	e := newEnv(t, func(c *Config) { c.Crypt = load() })
	g := e.register("alice", "phone")
	g2 := e.login("alice", "laptop")
	resume, _ := e.connect(g.AccessToken, "", "phone")
	first, err := e.Refresh(t.Context(), g2.RefreshToken)
	want(t, "refresh", err, 0)
	for from, to := range map[string]string{signingFile: "access-1.pem", macFile: "mac-1.key"} {
		if err := os.Rename(filepath.Join(keys, from), filepath.Join(keys, to)); err != nil {
			t.Fatal(err)
		}
	}
	restart := func() *env {
		return newEnv(t, func(c *Config) { c.Crypt, c.Store, c.Now = load(), e.store, e.clock.now })
	}
	n := restart()
	if n.cfg.Crypt.KeyID() == e.cfg.Crypt.KeyID() {
		t.Fatal("the key is the same")
	}
	if _, c := n.connect(g.AccessToken, "", "phone"); c != 0 {
		t.Errorf("the old access token: %s", c)
	}
	if _, c := n.connect("", resume, "phone"); c != 0 {
		t.Errorf("the old resume token: %s", c)
	}
	again, err := n.Refresh(t.Context(), g2.RefreshToken)
	want(t, "an answer lost over the change", err, 0)
	if again.RefreshToken != first.RefreshToken {
		t.Error("it isn't the same answer")
	}
	fresh, err := n.Refresh(t.Context(), again.RefreshToken)
	want(t, "going on from it", err, 0)
	os.Remove(filepath.Join(keys, "access-1.pem"))
	os.Remove(filepath.Join(keys, "mac-1.key"))
	n = restart()
	if _, c := n.connect(g.AccessToken, "", "phone"); c != code.Unauthenticated {
		t.Errorf("the old access token: %s", c)
	}
	if _, c := n.connect("", resume, "phone"); c != code.Unauthenticated {
		t.Errorf("the old resume token: %s", c)
	}
	_, err = n.Refresh(t.Context(), g.RefreshToken)
	want(t, "the old refresh token", err, code.Unauthenticated)
	_, err = n.Refresh(t.Context(), fresh.RefreshToken)
	want(t, "the new refresh token", err, 0)
}

// The stored bytes are a format: these must not change within a row version.
func TestRowsGolden(t *testing.T) {
	acc := accountRow{Created: 1700000000000, NotBefore: 1700000000001, Hash: "$x"}
	if got, want := string(acc.append(nil)), "\x01\x80\xd0\x95\xff\xbc1\x81\xd0\x95\xff\xbc1\x02$x"; got != want {
		t.Errorf("account row %q, want %q", got, want)
	}
	dev := deviceRow{Kind: 4, Generation: 7, Created: 1, Used: 2, Expires: 3, Revoked: 0, Rotated: 300, Refresh: []byte("abc"), Previous: []byte("de")}
	if got, want := string(dev.append(nil)), "\x01\x04\x07\x01\x02\x03\x00\xac\x02\x03abc\x02de"; got != want {
		t.Errorf("device row %q, want %q", got, want)
	}
	back, err := parseAccount(acc.append(nil))
	if err != nil || back != acc {
		t.Errorf("account row read as %+v, %v", back, err)
	}
	d, err := parseDevice(dev.append(nil))
	if err != nil || !bytes.Equal(d.append(nil), dev.append(nil)) {
		t.Errorf("device row read as %+v, %v", d, err)
	}
	for i := range dev.append(nil) {
		if _, err := parseDevice(dev.append(nil)[:i]); !errors.Is(err, msgstore.ErrCorrupt) {
			t.Errorf("a device row cut at %d: %v", i, err)
		}
	}
	for i := range acc.append(nil) {
		if _, err := parseAccount(acc.append(nil)[:i]); !errors.Is(err, msgstore.ErrCorrupt) {
			t.Errorf("an account row cut at %d: %v", i, err)
		}
	}
	if _, err := parseDevice(append(dev.append(nil), 0)); !errors.Is(err, msgstore.ErrCorrupt) {
		t.Errorf("a byte too many: %v", err)
	}
	if _, err := parseAccount([]byte{2, 0, 0, 0}); !errors.Is(err, msgstore.ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
	k := msgstore.Keys{Keyspace: 0x0102}
	for _, c := range []struct{ got, want []byte }{
		{k.Account(nil, "alice")[:3], []byte{1, 2, 1}},
		{k.Account(nil, "alice")[5:], []byte("\x20alice\x00\x01")},
		{k.Devices(nil, "alice")[5:], []byte("\x20alice\x00\x02")},
		{k.Device(nil, "alice", "phone")[5:], []byte("\x20alice\x00\x02phone")},
	} {
		if !bytes.Equal(c.got, c.want) {
			t.Errorf("key % x, want % x", c.got, c.want)
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add((&accountRow{Created: 1, Hash: "x"}).append(nil))
	f.Add((&deviceRow{Generation: 1, Refresh: []byte("abc")}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAccount(b); err == nil {
			if back, err := parseAccount(a.append(nil)); err != nil || back != a {
				t.Errorf("% x: %+v became %+v, %v", b, a, back, err)
			}
		}
		if d, err := parseDevice(b); err == nil {
			enc := d.append(nil)
			if back, err := parseDevice(enc); err != nil || !bytes.Equal(back.append(nil), enc) {
				t.Errorf("% x: %+v became %+v, %v", b, d, back, err)
			}
		}
	})
}
