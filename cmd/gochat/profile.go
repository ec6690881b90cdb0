package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
)

// profile is one signed-in person on this machine: a directory with its credentials
// (readable by its owner alone) and what the client library keeps.
type profile struct {
	dir  string
	http string // base URL of the server's HTTP interface
	web  *http.Client
	dial func(ctx context.Context, address string) (net.Conn, error) // to the binary protocol; nil: TCP
	part string                                                      // of the profile: a command's own device; "": the person's

	mu   sync.Mutex
	cred credentials
}

type credentials struct {
	Name     string `json:"name"`
	Password string `json:"password,omitempty"` // only where the client made it up
	auth.Grant
}

// openProfile reads or begins the profile called name under dir. A part of it is a device of its own, so that
// several commands may work for one person at the same time.
func openProfile(dir, name, part, httpURL string) (*profile, error) {
	if name == "" || strings.ContainsAny(name, "/\\") || strings.HasPrefix(name, ".") {
		return nil, usageError{fmt.Errorf("profile %q: want a plain name", name)}
	}
	if dir == "" {
		base, err := os.UserConfigDir()
		if err != nil {
			return nil, fmt.Errorf("finding a place for profiles: %w; name one with --profiles", err)
		}
		dir = filepath.Join(base, "gochat")
	}
	p := &profile{dir: filepath.Join(dir, name, part), part: part, http: strings.TrimSuffix(httpURL, "/")}
	if err := os.MkdirAll(p.dir, 0o700); err != nil {
		return nil, fmt.Errorf("making profile %s: %w", name, err)
	}
	raw, err := os.ReadFile(p.path())
	switch {
	case errors.Is(err, os.ErrNotExist):
		p.cred.Name = name
	case err != nil:
		return nil, fmt.Errorf("reading profile %s: %w", name, err)
	default:
		if err := json.Unmarshal(raw, &p.cred); err != nil {
			return nil, fmt.Errorf("reading profile %s: %w", p.path(), err)
		}
	}
	return p, nil
}

func (p *profile) path() string { return filepath.Join(p.dir, "credentials.json") }

// save replaces the file whole; a crash leaves the old one or the new one.
func (p *profile) save() error {
	raw, err := json.MarshalIndent(&p.cred, "", "  ")
	if err != nil {
		return err
	}
	tmp := p.path() + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("saving profile: %w", err)
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(tmp, p.path())
	}
	if err != nil {
		return fmt.Errorf("saving profile: %w", err)
	}
	return nil
}

// kind is the device's kind, as a number of the protocol.
func (p *profile) kind() auth.DeviceKind {
	if p.part != "" {
		return deviceBot
	}
	return deviceDesktop
}

func (p *profile) signedIn() bool { return p.cred.RefreshToken != "" }

// signUp registers the profile's name, or signs in with password if the account exists.
// Without a password it takes the one it made up before, or makes one up and keeps it.
func (p *profile) signUp(ctx context.Context, password string) (registered bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	made := password == ""
	tried := made && p.cred.Password != "" // and maybe registered, if the answer was lost
	if tried {
		password = p.cred.Password
	} else if made {
		password = rand.Text()
	}
	body := auth.Credentials{Name: p.cred.Name, Password: password, DeviceID: p.cred.DeviceID, DeviceKind: deviceDesktop}
	if body.DeviceID == "" {
		body.DeviceID = "cli-" + rand.Text()[:12]
	}
	if made {
		// Kept before it is sent: the answer may be lost, the account made all the same.
		p.cred.Password, p.cred.DeviceID = password, body.DeviceID
		if err := p.save(); err != nil {
			return false, err
		}
	}
	err = p.post(ctx, "register", body, &p.cred.Grant)
	if taken := err; errors.Is(err, code.New(code.NameTaken)) && (!made || tried) {
		err = p.post(ctx, "login", body, &p.cred.Grant)
		if tried && errors.Is(err, code.New(code.BadCredentials)) {
			err = taken // by somebody else
		}
	} else {
		registered = err == nil
	}
	if err != nil {
		if made && !errors.As(err, new(unreachable)) { // the account isn't ours
			p.cred.Password = ""
			_ = p.save()
		}
		return false, err
	}
	return registered, p.save()
}

// signInWith signs in as name on a device of its own, and keeps password if keep.
func (p *profile) signInWith(ctx context.Context, name, password string, keep bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	body := auth.Credentials{Name: name, Password: password, DeviceID: cmp.Or(p.cred.DeviceID, "cli-"+rand.Text()[:12]), DeviceKind: deviceBot}
	if err := p.post(ctx, "login", body, &p.cred.Grant); err != nil {
		return err
	}
	p.cred.Name = name
	if keep {
		p.cred.Password = password
	}
	return p.save()
}

// Token returns an access token that holds for a while yet; the client library asks
// for one at every connect.
func (p *profile) Token(ctx context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().Add(30*time.Second).UnixMilli() < p.cred.AccessExpires {
		return p.cred.AccessToken, nil
	}
	return p.renew(ctx)
}

// ended is told why the client stopped. If the server ended the sign-in, it is dropped, so that the next command signs in
// anew, as far as it can.
func (p *profile) ended(why error) error {
	if !errors.Is(why, code.New(code.SessionRevoked)) && !errors.Is(why, code.New(code.Banned)) && !errors.Is(why, code.New(code.Unauthenticated)) {
		return why
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cred.Grant = auth.Grant{UserID: p.cred.UserID, DeviceID: p.cred.DeviceID}
	return errors.Join(why, p.save())
}

// known reports whether the server still knows this sign-in. One that can't be asked is taken to.
func (p *profile) known(ctx context.Context) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, err := p.renew(ctx)
	return !errors.Is(err, code.New(code.Unauthenticated)) && !errors.Is(err, code.New(code.BadCredentials))
}

// renew gets new tokens. mu is held.
func (p *profile) renew(ctx context.Context) (string, error) {
	err := p.post(ctx, "refresh", auth.Refresh{RefreshToken: p.cred.RefreshToken}, &p.cred.Grant)
	if err != nil && p.cred.Password != "" && !errors.As(err, new(unreachable)) {
		err = p.post(ctx, "login", auth.Credentials{Name: p.cred.Name, Password: p.cred.Password, DeviceID: p.cred.DeviceID, DeviceKind: p.kind()}, &p.cred.Grant)
	}
	if err != nil {
		return "", err
	}
	return p.cred.AccessToken, p.save()
}

const (
	deviceDesktop = 3 // wire.DeviceKind_DEVICE_KIND_DESKTOP
	deviceBot     = 5 // wire.DeviceKind_DEVICE_KIND_BOT
)

// webTimeout is when a server that takes a request and doesn't answer is given up.
const webTimeout = 15 * time.Second

// unreachable marks failures to get any answer.
type unreachable struct{ error }

func (e unreachable) Unwrap() error { return e.error }

// post calls a route of the auth interface; refusals are *code.Error.
func (p *profile) post(ctx context.Context, route string, body, answer any) error {
	raw, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.http+"/api/v1/auth/"+route, bytes.NewReader(raw))
	if err != nil {
		return usageError{fmt.Errorf("--http: %w", err)}
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := p.web.Do(req)
	if err != nil {
		return unreachable{fmt.Errorf("asking the server to %s: %w", route, err)}
	}
	defer res.Body.Close()
	raw, err = io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return unreachable{fmt.Errorf("asking the server to %s: %w", route, err)}
	}
	if res.StatusCode != http.StatusOK {
		var refused auth.Refused
		if json.Unmarshal(raw, &refused) != nil || refused.Error.Code == 0 {
			return unreachable{fmt.Errorf("asking the server to %s: status %s", route, res.Status)}
		}
		return &code.Error{Code: code.Code(refused.Error.Code), Reason: refused.Error.Message, RetryAfter: time.Duration(refused.Error.RetryAfterMS) * time.Millisecond}
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return unreachable{fmt.Errorf("asking the server to %s: unreadable answer: %w", route, err)}
	}
	return nil
}
