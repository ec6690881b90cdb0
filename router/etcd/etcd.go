// Package etcd connects to the etcd that the nodes of a cluster find each other in. What is
// stored there is told by etcdnodes and settings.
package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// Config says where etcd is and who we are there.
type Config struct {
	// Endpoints are URLs, such as http://10.0.0.1:2379; https makes it TLS.
	Endpoints []string

	// User and Password sign in, where etcd has its authentication on.
	User, Password string

	// TLS is needed for https endpoints only.
	TLS TLS

	// Logger gets what the client library has to say, its warnings as information: those who
	// use the client log what comes of them. nil: none.
	Logger *slog.Logger
}

// TLS names PEM files.
type TLS struct {
	CAFile   string // who signs the certificates of the servers; empty: those whom the system trusts
	CertFile string // our certificate; empty: we show none
	KeyFile  string // its private key
}

// Validate checks c.
func (c *Config) Validate() error {
	var errs []error
	if len(c.Endpoints) == 0 {
		errs = append(errs, errors.New("no endpoints"))
	}
	secure := 0
	for _, e := range c.Endpoints {
		switch {
		case strings.HasPrefix(e, "https://"):
			secure++
		case !strings.HasPrefix(e, "http://"):
			errs = append(errs, fmt.Errorf("endpoint %q: want a URL such as http://10.0.0.1:2379", e))
		}
	}
	switch {
	case secure > 0 && secure < len(c.Endpoints):
		errs = append(errs, errors.New("some endpoints are https and some are not"))
	case secure == 0 && c.TLS != TLS{}:
		errs = append(errs, errors.New("certificates are given, but the endpoints are not https"))
	case (c.TLS.CertFile == "") != (c.TLS.KeyFile == ""):
		errs = append(errs, errors.New("a certificate and its key belong together"))
	case (c.User == "") != (c.Password == ""):
		errs = append(errs, errors.New("a user and the password belong together"))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	return nil
}

// Dial returns a client, which whoever called closes. Unless it has to sign in it returns at
// once, whether etcd is there or not, and connects by itself as often as is needed. Its requests fail at once, with ErrAway, when
// the last ones brought no answer, but for one now and then: see Breaker.
func Dial(ctx context.Context, cfg Config) (*clientv3.Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := clientv3.Config{
		Endpoints: cfg.Endpoints,
		Username:  cfg.User, Password: cfg.Password,
		Logger: bridge(cfg.Logger),

		// A host that is gone without a word is noticed within 8 s. Servers of etcd close
		// connections that ask more often than every 5 s.
		DialKeepAliveTime:    6 * time.Second,
		DialKeepAliveTimeout: 2 * time.Second,

		// Left to itself gRPC waits for up to two minutes before it tries again: long after
		// etcd is back.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		})},
	}
	if cfg.User != "" {
		c.DialTimeout = 5 * time.Second // for signing in
	}
	if strings.HasPrefix(cfg.Endpoints[0], "https://") {
		t, err := cfg.TLS.load()
		if err != nil {
			return nil, fmt.Errorf("etcd: %w", err)
		}
		c.TLS = t
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("connecting to etcd: %w", err)
	}
	client, err := clientv3.New(c)
	if err != nil {
		return nil, fmt.Errorf("connecting to etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	guard(client, cfg.Logger)
	return client, nil
}

func (t *TLS) load() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the certificate authority: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			return nil, fmt.Errorf("reading our certificate: %w", err)
		}
		// Read for each connection, so that a renewed certificate needs no restart.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			return &pair, err
		}
	}
	return c, nil
}
