// Package certs keeps the certificate of a listener, which can be replaced while
// connections are served.
package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Config names the files of a certificate. MinVersion is "1.2" or "1.3".
type Config struct {
	CertFile   string // PEM: the certificate, then those that lead to one that clients trust
	KeyFile    string // PEM, the certificate's private key
	MinVersion string // of TLS; empty: 1.2
}

var versions = map[string]uint16{"": tls.VersionTLS12, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// Validate reports what is missing. It doesn't read the files.
func (c *Config) Validate() error {
	var errs []error
	if c.CertFile == "" || c.KeyFile == "" {
		errs = append(errs, errors.New("a certificate file and a key file are needed"))
	}
	if _, ok := versions[c.MinVersion]; !ok {
		errs = append(errs, fmt.Errorf("TLS version %q: want 1.2 or 1.3", c.MinVersion))
	}
	return errors.Join(errs...)
}

// Source holds the certificate in use. It is safe for concurrent use.
type Source struct {
	current atomic.Pointer[tls.Config]
	cert    atomic.Pointer[tls.Certificate]
}

// Open reads the files of cfg.
func Open(cfg Config) (*Source, error) {
	s := new(Source)
	return s, s.Replace(cfg)
}

// Replace reads the files of cfg and uses them for connections that begin from now on. If
// they can't be used, the certificate in use stays.
func (s *Source) Replace(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	cert, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return fmt.Errorf("reading the certificate %s and its key %s: %w", cfg.CertFile, cfg.KeyFile, err)
	}
	s.cert.Store(&cert)
	next := s.config()
	next.MinVersion = versions[cfg.MinVersion]
	s.current.Store(next)
	return nil
}

// config makes a configuration that takes its certificate from s. Records are as large as
// what is written, up to the 16 KiB that TLS allows: a chat writes little at a time, and
// much at once when it does.
func (s *Source) config() *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS12,
		DynamicRecordSizingDisabled: true,
		GetCertificate:              func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cert.Load(), nil },
	}
}

// TLS returns a configuration for a listener that goes on to use what Replace brings.
func (s *Source) TLS() *tls.Config {
	c := s.config()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current.Load(), nil }
	return c
}

// Leaf is the certificate in use, without those above it. It is not to be changed.
func (s *Source) Leaf() *x509.Certificate { return s.cert.Load().Leaf }

// Expires is when the certificate in use ends.
func (s *Source) Expires() time.Time { return s.Leaf().NotAfter }
