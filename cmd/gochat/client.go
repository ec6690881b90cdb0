package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// clientFlags are the flags of every command that signs in as somebody.
type clientFlags struct {
	name, server, http, dir string

	tls bool
	ca  string
}

func (f *clientFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.name, "profile", "", "who you are on this machine (required)")
	cmd.Flags().StringVar(&f.server, "server", "127.0.0.1:7070", "address of the binary protocol")
	cmd.Flags().StringVar(&f.http, "http", "http://127.0.0.1:8080", "where to sign in")
	cmd.Flags().BoolVar(&f.tls, "tls", false, "speak TLS to --server; --http says it by https://")
	cmd.Flags().StringVar(&f.ca, "ca", "", "file of certificates (PEM) to trust instead of the system's, for --tls and https://")
	cmd.Flags().StringVar(&f.dir, "profiles", "", "directory of profiles (default: gochat in your configuration directory)")
	_ = cmd.MarkFlagRequired("profile")
}

// profile opens the person's own part of the profile.
func (f *clientFlags) profile() (*profile, error) { return f.open("") }

// open opens a part of the profile and gives it its ways to the server.
func (f *clientFlags) open(part string) (*profile, error) {
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		pem, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, usageError{fmt.Errorf("--ca: %w", err)}
		}
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usageError{fmt.Errorf("--ca: %s holds no certificate", f.ca)}
		}
	}
	p, err := openProfile(f.dir, f.name, part, f.http)
	if err != nil {
		return nil, err
	}
	p.web = &http.Client{Timeout: webTimeout, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust, ForceAttemptHTTP2: true}}
	if f.tls {
		d := &tls.Dialer{Config: trust}
		p.dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	return p, nil
}

// part opens the profile's part for a command that is a device of its own, signed in, with its store: so it works
// beside an open chat. While another process has the part it waits, if wait, until ctx ends.
func (f *clientFlags) part(ctx context.Context, part string, wait bool) (*profile, *gochat.FileStore, error) {
	person, err := f.profile()
	if err != nil {
		return nil, nil, err
	}
	if err := person.signIn(ctx, os.Stderr); err != nil {
		return nil, nil, err
	}
	p, err := f.open(part)
	if err != nil {
		return nil, nil, err
	}
	store, err := p.store()
	for wait && errors.Is(err, gochat.ErrStoreInUse) && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
			store, err = p.store()
		}
	}
	if err != nil {
		return nil, nil, err
	}
	// Read again: who had it may have signed in, or taken the next refresh token.
	if p, err = f.open(part); err == nil && !p.signedIn() {
		err = p.signInBeside(ctx, person)
	}
	if err != nil {
		return nil, nil, errors.Join(err, store.Close())
	}
	return p, store, nil
}

// signInBeside signs a part in with the person's password: the one that was made up, or GOCHAT_PASSWORD.
func (p *profile) signInBeside(ctx context.Context, person *profile) error {
	password, keep := person.cred.Password, true
	if password == "" {
		password, keep = os.Getenv("GOCHAT_PASSWORD"), false
	}
	if password == "" {
		return fmt.Errorf("signing in as %s for `gochat %s`: set GOCHAT_PASSWORD, this once", person.cred.Name, p.part)
	}
	if err := p.signInWith(ctx, person.cred.Name, password, keep); err != nil {
		return fmt.Errorf("signing in as %s for `gochat %s`: %w", person.cred.Name, p.part, err)
	}
	return nil
}

// signIn has the profile signed in, and tells on out where a new sign-in is kept.
func (p *profile) signIn(ctx context.Context, out io.Writer) error {
	if p.signedIn() {
		if p.known(ctx) {
			return nil
		}
		// Another server than the one that this profile was made at, or its data are gone.
		fmt.Fprintf(out, "The server doesn't know this sign-in any more; beginning anew.\n")
	}
	registered, err := p.signUp(ctx, os.Getenv("GOCHAT_PASSWORD"))
	switch {
	case errors.Is(err, code.New(code.NameTaken)):
		return fmt.Errorf("%q is taken: choose another --profile, or set GOCHAT_PASSWORD to its password", p.cred.Name)
	case errors.Is(err, code.New(code.BadCredentials)):
		return fmt.Errorf("%q exists and GOCHAT_PASSWORD isn't its password", p.cred.Name)
	case errors.As(err, new(unreachable)):
		return fmt.Errorf("%w\nis the server running? `gochat serve` starts one", err)
	case err != nil:
		return err
	}
	if registered {
		fmt.Fprintf(out, "Welcome, %s. Your sign-in is kept in %s.\n", p.cred.Name, p.dir)
	}
	return nil
}

// userID is who the profile is at the server, once it is signed in.
func (p *profile) userID() id.UserID { return id.UserID(p.cred.UserID) }

// store opens what the client library keeps for the profile.
func (p *profile) store() (*gochat.FileStore, error) {
	store, err := gochat.OpenFileStore(filepath.Join(p.dir, "messages.log"))
	if errors.Is(err, gochat.ErrStoreInUse) {
		return nil, fmt.Errorf("profile %s is open in another terminal: %w", filepath.Base(strings.TrimSuffix(p.dir, p.part)), err)
	}
	return store, err
}

// open begins the profile's client. Who it is, where it connects and its store are filled in here.
func (p *profile) open(server string, cfg gochat.Config) (*gochat.Client, error) {
	if cfg.Store == nil {
		store, err := p.store()
		if err != nil {
			return nil, err
		}
		cfg.Store = store
	}
	cfg.Dial = p.dial
	cfg.Kind = wire.DeviceKind(p.kind())
	cfg.Address, cfg.Token, cfg.Device, cfg.Client = server, p.Token, id.DeviceID(p.cred.DeviceID), "gochat-cli "+version
	return gochat.Open(cfg)
}
