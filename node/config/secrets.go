package config

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Lengths of a cluster's key.
const (
	minKeyBytes  = 32
	maxFileBytes = 2 << 10 // of a file that holds a secret
)

// ReadClusterKeys reads the keys by which nodes know each other, a line each: a node shows the first and
// takes any of them, so that a key can be replaced while nodes run. A file that others than its owner
// may read or change is refused; errors don't quote what is in it.
func ReadClusterKeys(path string) (keys [][]byte, err error) {
	text, err := ReadSecret(path)
	if err != nil {
		return nil, fmt.Errorf("cluster.key_file: %w", err)
	}
	for _, line := range strings.Split(text, "\n") {
		key, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil || len(key) < minKeyBytes {
			return nil, fmt.Errorf("cluster.key_file: %s: want at least %d bytes in hexadecimal on each line", path, minKeyBytes)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// ReadSecret reads a file that must be its owner's alone, without the space around what it holds.
func ReadSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	if m := st.Mode().Perm(); m&0o077 != 0 {
		return "", fmt.Errorf("%s may be read or changed by others (mode %04o): run chmod 600 %s", path, m, path)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("reading a secret: %w", err)
	case len(text) > maxFileBytes:
		return "", fmt.Errorf("%s is larger than %d bytes", path, maxFileBytes)
	}
	return strings.TrimSpace(string(text)), nil
}

// CreateClusterKey makes a key in a file that isn't there yet, and the directory that it lies in.
func CreateClusterKey(path string) (err error) {
	key := make([]byte, minKeyBytes)
	_, _ = rand.Read(key) // never fails
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making the directory of a cluster's key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making a cluster's key: %w", err)
	}
	_, err = f.WriteString(hex.EncodeToString(key) + "\n")
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("making a cluster's key: %w", err)
	}
	return nil
}
