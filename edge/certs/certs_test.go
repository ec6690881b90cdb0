package certs_test

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/edge/certs"
	"github.com/gochat-im/gochat/edge/certs/certtest"
)

// shake runs one handshake between a server of cfg and a client.
func shake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		s, err := ln.Accept()
		if err != nil {
			return
		}
		_, _ = s.Write([]byte("x")) // the handshake, too
		_ = s.Close()
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := tls.Client(nc, client)
	if err := c.Handshake(); err != nil {
		return tls.ConnectionState{}, err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return c.ConnectionState(), err
}

func TestACertificateIsReplacedWhileItIsUsed(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile, old := certtest.Write(t, dir, "old")
	cfg := certs.Config{CertFile: certFile, KeyFile: keyFile}
	s, err := certs.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	listener := s.TLS() // made once, before anything changes
	if _, err := shake(t, listener, old); err != nil {
		t.Fatal(err)
	}
	_, _, fresh := certtest.Write(t, dir, "new")
	if _, err := shake(t, listener, fresh); err == nil {
		t.Error("files that nobody read again are in use")
	}
	if err := s.Replace(cfg); err != nil {
		t.Fatal(err)
	}
	if s.Leaf().Subject.CommonName != "new" || s.Expires() != s.Leaf().NotAfter {
		t.Errorf("in use is %s until %s", s.Leaf().Subject, s.Expires())
	}
	if _, err := shake(t, listener, fresh); err != nil {
		t.Error(err)
	}
	if _, err := shake(t, listener, old); err == nil {
		t.Error("the old certificate is still in use")
	}

	// What can't be used leaves what is in use alone.
	if err := os.WriteFile(certFile, []byte("half a fi"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Replace(cfg); err == nil || !strings.Contains(err.Error(), certFile) {
		t.Errorf("a broken file: %v", err)
	}
	if _, err := shake(t, listener, fresh); err != nil {
		t.Errorf("after a broken file: %v", err)
	}
}

func TestTheLowestVersionCounts(t *testing.T) {
	certFile, keyFile, client := certtest.Write(t, t.TempDir(), "x")
	for _, c := range []struct {
		min    string
		client uint16 // the highest that the client speaks
		ok     bool
	}{
		{"", tls.VersionTLS11, false}, {"", tls.VersionTLS12, true}, {"1.2", tls.VersionTLS13, true},
		{"1.3", tls.VersionTLS12, false}, {"1.3", tls.VersionTLS13, true},
	} {
		s, err := certs.Open(certs.Config{CertFile: certFile, KeyFile: keyFile, MinVersion: c.min})
		if err != nil {
			t.Fatal(err)
		}
		cfg := client.Clone()
		cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS10, c.client
		if st, err := shake(t, s.TLS(), cfg); (err == nil) != c.ok {
			t.Errorf("min %q, client up to %x: %x, %v", c.min, c.client, st.Version, err)
		}
	}
}

func TestWhatCantBeUsedIsSaid(t *testing.T) {
	certFile, keyFile, _ := certtest.Write(t, t.TempDir(), "x")
	_, otherKey, _ := certtest.Write(t, t.TempDir(), "y")
	for want, cfg := range map[string]certs.Config{
		"key file are needed": {CertFile: certFile},
		"want 1.2 or 1.3":     {CertFile: certFile, KeyFile: keyFile, MinVersion: "1.1"},
		"does not match":      {CertFile: certFile, KeyFile: otherKey},
		"no such file":        {CertFile: certFile + ".x", KeyFile: keyFile},
	} {
		if _, err := certs.Open(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}
