package account

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Keys are the server's own secrets.
type Keys struct {
	signing ed25519.PrivateKey
	kid     string
	verify  map[string]ed25519.PublicKey // by key id, the signing key's own included
	mac     [][]byte                     // the first makes, all of them verify
}

// The files of a key directory. Old keys have names that begin the same (access-2026.pem,
// mac-2026.key): what they signed is accepted until they are removed. See RotateKeys.
const (
	signingFile = "access.pem" // Ed25519, PKCS #8 in PEM
	macFile     = "mac.key"    // 32 random bytes in hexadecimal
)

// ErrNoKeys: the directory holds no keys yet; the server makes them when it first starts.
var ErrNoKeys = errors.New("account: no keys")

// LoadOrCreateKeys reads the keys in dir/keys and creates what is missing, each file with
// mode 0600 and complete before it has its name. It refuses key files that others than their
// owner may read or write. Two processes may call it at once; both get the same keys.
func LoadOrCreateKeys(dir string) (*Keys, error) {
	dir = filepath.Join(dir, "keys")
	if err := CreateKeys(dir); err != nil {
		return nil, err
	}
	return loadKeys(dir)
}

// CreateKeys makes the key files that are missing in dir itself, and dir: for those that several
// servers are given.
func CreateKeys(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("account: creating the key directory: %w", err)
	}
	for _, name := range []string{signingFile, macFile} {
		data, err := newKey(name)
		if err != nil {
			return err
		}
		if err := createKeyFile(dir, name, data); err != nil {
			return err
		}
	}
	return nil
}

// ReadKeys reads the keys in dir itself and makes none; ErrNoKeys (wrapped) if there are none.
func ReadKeys(dir string) (*Keys, error) { return loadKeys(dir) }

// ImportKeys copies the key files of the directory from to dir, which must hold none, or the same: servers that are
// given dir accept what the ones with from signed, and sign as they do.
func ImportKeys(from, dir string) error {
	theirs, err := loadKeys(from)
	if err != nil {
		return err
	}
	ours, err := loadKeys(dir)
	switch {
	case err == nil && ours.Accepts(theirs):
		return nil
	case err == nil:
		return fmt.Errorf("account: %s holds other keys already", dir)
	case !errors.Is(err, ErrNoKeys):
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("account: creating the key directory: %w", err)
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("account: reading the key directory: %w", err)
	}
	// Without the current ones the directory counts as empty, so they come last.
	slices.SortStableFunc(entries, func(a, b os.DirEntry) int { return currentLast(a.Name()) - currentLast(b.Name()) })
	for _, e := range entries {
		name := e.Name()
		if !strings.HasPrefix(name, "access") || !strings.HasSuffix(name, ".pem") {
			if !strings.HasPrefix(name, "mac") || !strings.HasSuffix(name, ".key") {
				continue
			}
		}
		data, err := readSecret(filepath.Join(from, name))
		if err != nil {
			return err
		}
		if err := createKeyFile(dir, name, data); err != nil {
			return err
		}
	}
	if ours, err = loadKeys(dir); err == nil && !ours.Accepts(theirs) {
		err = fmt.Errorf("account: %s holds other keys already", dir)
	}
	return err
}

func currentLast(name string) int {
	if name == signingFile || name == macFile {
		return 1
	}
	return 0
}

// Accepts tells whether k accepts all that other signs and accepts.
func (k *Keys) Accepts(other *Keys) bool {
	for kid, pub := range other.verify {
		if !pub.Equal(k.verify[kid]) {
			return false
		}
	}
	for _, m := range other.mac {
		if !slices.ContainsFunc(k.mac, func(o []byte) bool { return string(o) == string(m) }) {
			return false
		}
	}
	return true
}

// LoadKeys reads the keys in dir/keys; ErrNoKeys (wrapped) if there are none.
func LoadKeys(dir string) (*Keys, error) { return loadKeys(filepath.Join(dir, "keys")) }

// RotateKeys gives dir/keys new keys, with which a server that starts from now on signs, and
// keeps those in use under dated names, so that it goes on accepting what they signed. It returns the
// files of the old keys: when everything that they signed has expired, they may be removed.
// Interrupted at any moment it leaves a complete set of keys. A running server goes on with what it has read.
func RotateKeys(dir string, now time.Time) (old []string, err error) {
	if _, err := LoadKeys(dir); err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "keys")
	stamp := now.UTC().Format("20060102T150405Z")
	for name, kept := range map[string]string{signingFile: "access-" + stamp + ".pem", macFile: "mac-" + stamp + ".key"} {
		data, err := newKey(name)
		if err != nil {
			return old, err
		}
		current, dated := filepath.Join(dir, name), filepath.Join(dir, kept)
		if err := os.Link(current, dated); err != nil {
			return old, fmt.Errorf("account: keeping %s: %w", current, err)
		}
		fresh := ".new-" + name
		if err := os.Remove(filepath.Join(dir, fresh)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return old, fmt.Errorf("account: replacing %s: %w", current, err)
		}
		if err := createKeyFile(dir, fresh, data); err != nil {
			return old, err
		}
		if err := os.Rename(filepath.Join(dir, fresh), current); err != nil {
			return old, fmt.Errorf("account: replacing %s: %w", current, err)
		}
		old = append(old, dated)
	}
	slices.Sort(old)
	return old, nil
}

// newKey makes the content of a key file.
func newKey(name string) ([]byte, error) {
	if name == macFile {
		secret := make([]byte, 32)
		_, _ = rand.Read(secret) // never fails
		return []byte(hex.EncodeToString(secret) + "\n"), nil
	}
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("account: making a signing key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return nil, fmt.Errorf("account: encoding a signing key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// createKeyFile writes a file that isn't there yet; one that is stays as it is.
func createKeyFile(dir, name string, data []byte) (err error) {
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	tmp, err := os.CreateTemp(dir, "."+name+"-*") // mode 0600
	if err != nil {
		return fmt.Errorf("account: creating %s: %w", path, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(tmp.Name(), path) // fails if another process was first
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("account: creating %s: %w", path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("account: syncing %s: %w", dir, err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("account: syncing %s: %w", dir, err)
	}
	return nil
}

func loadKeys(dir string) (*Keys, error) {
	k := &Keys{verify: make(map[string]ed25519.PublicKey)}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("account: reading the key directory: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.Name() == signingFile || strings.HasPrefix(e.Name(), "access-") && strings.HasSuffix(e.Name(), ".pem"):
			err = k.loadSigning(path, e.Name() == signingFile)
		case e.Name() == macFile || strings.HasPrefix(e.Name(), "mac-") && strings.HasSuffix(e.Name(), ".key"):
			err = k.loadMAC(path, e.Name() == macFile)
		}
		if err != nil {
			return nil, err
		}
	}
	if k.signing == nil || len(k.mac) == 0 || k.mac[0] == nil {
		return nil, fmt.Errorf("%w in %s", ErrNoKeys, dir)
	}
	return k, nil
}

func (k *Keys) loadSigning(path string, current bool) error {
	raw, err := readSecret(path)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return fmt.Errorf("account: %s holds no PEM block", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("account: %s holds no PKCS #8 private key", path)
	}
	priv, ok := key.(ed25519.PrivateKey)
	if !ok {
		return fmt.Errorf("account: %s holds a %T, want an Ed25519 key", path, key)
	}
	pub := priv.Public().(ed25519.PublicKey)
	kid := keyID(pub)
	k.verify[kid] = pub
	if current {
		k.signing, k.kid = priv, kid
	}
	return nil
}

func (k *Keys) loadMAC(path string, current bool) error {
	raw, err := readSecret(path)
	if err != nil {
		return err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != 32 {
		return fmt.Errorf("account: %s: want 32 bytes in hexadecimal", path)
	}
	if len(k.mac) == 0 {
		k.mac = append(k.mac, nil) // the current one's place
	}
	if current {
		k.mac[0] = key
	} else {
		k.mac = append(k.mac, key)
	}
	return nil
}

// keyID names a public key by its first bytes' hash.
func keyID(pub ed25519.PublicKey) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:8])
}

// readSecret reads a file that must be its owner's alone.
func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("account: reading a key: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("account: reading a key: %w", err)
	}
	if m := st.Mode().Perm(); m&0o077 != 0 {
		return nil, fmt.Errorf("account: the key file %s may be read or changed by others (mode %04o): run chmod 600 %s", path, m, path)
	}
	if st.Size() > 64<<10 {
		return nil, fmt.Errorf("account: the key file %s is larger than 64 KiB", path)
	}
	raw := make([]byte, st.Size())
	n, err := io.ReadFull(f, raw)
	if err != nil {
		return nil, fmt.Errorf("account: reading the key file %s: %w", path, err)
	}
	return raw[:n], nil
}
