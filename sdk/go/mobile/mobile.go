// Package mobile is the Go client library in the shape that gomobile can bind: for Android (Java, Kotlin) and iOS
// (Objective-C, Swift). It adds nothing of its own but the list of conversations, which it keeps up to date.
//
// Ids of conversations are strings of 32 hexadecimal digits, ids of messages UUIDs, times Unix milliseconds, seqs int64.
// Lists are objects with Len and Get, since arrays can't be bound; Get answers nil, or "", for what isn't there.
// Errors become exceptions, or NSErrors, whose text begins with the code's name and number; CodeOf reads the number.
//
// Calls that ask the server wait for its answer, and for a connection, for at most Config.TimeoutMillis: never make them
// on the thread that draws. Those that say so answer at once.
package mobile

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// Kinds of devices.
const (
	KindPhone   = int(wire.DeviceKind_DEVICE_KIND_PHONE)
	KindTablet  = int(wire.DeviceKind_DEVICE_KIND_TABLET)
	KindDesktop = int(wire.DeviceKind_DEVICE_KIND_DESKTOP)
)

// States of the connection.
const (
	StateConnecting = 0
	StateConnected  = 1
	StateStopped    = 2 // for good: signed out, or the device's place was taken; Listener.OnState has the code
)

// DefaultTimeoutMillis is how long calls wait that ask the server.
const DefaultTimeoutMillis = 15_000

// TokenSource gives the access token to connect with. It is asked before each connection, on a thread of the
// library's, and may take some seconds: to refresh a token that is about to expire.
type TokenSource interface {
	Token() (string, error)
}

// Config says who connects where. Make one with NewConfig.
type Config struct {
	Address       string // host:port
	TLS           bool
	CAs           []byte // PEM: certificates to trust instead of the system's; empty: the system's
	Device        string // this installation's id: chosen once, then kept
	Kind          int
	App           string // name and version of the app, for the server's logs
	Path          string // of the file that keeps the outbox and where each conversation stands, in a directory that is the app's alone; "": kept in memory
	Backlog       int    // messages of a conversation that is new to this device; what is older comes by History. 0: all; below 0: none
	TimeoutMillis int
	Background    bool // the app begins in the background
}

// NewConfig returns a Config of a phone that connects with TLS, keeps its state at path, and gets the last 100 messages of
// each conversation that it meets.
func NewConfig(address, device, path string) *Config {
	return &Config{Address: address, TLS: true, Device: device, Kind: KindPhone, Path: path, Backlog: 100}
}

// Client is one device's client. Its methods may be called from any thread.
type Client struct {
	c        *gochat.Client
	timeout  time.Duration
	listener Listener
	list     gochat.List

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // of loading the list

	tell sync.Mutex // held while the listener is called: one call after another

	mu      sync.Mutex
	state   int
	loading bool // the list, or it has been
}

// Open returns a client that connects, and goes on connecting, until Close. l hears of everything.
func Open(c *Config, tokens TokenSource, l Listener) (*Client, error) {
	if c == nil || tokens == nil || l == nil {
		return nil, errors.New("opening a client: the configuration, the source of tokens or the listener is missing")
	}
	cfg := gochat.Config{
		Address: c.Address, Device: id.DeviceID(c.Device), Kind: wire.DeviceKind(c.Kind), Client: c.App, Backlog: c.Backlog, Background: c.Background,
		Token: func(context.Context) (string, error) { return tokens.Token() },
	}
	if c.TLS {
		dial, err := secureDial(c.CAs)
		if err != nil {
			return nil, err
		}
		cfg.Dial = dial
	}
	if c.Path != "" {
		store, err := gochat.OpenFileStore(c.Path)
		if err != nil {
			return nil, err
		}
		cfg.Store = store
	}
	m := &Client{timeout: time.Duration(c.TimeoutMillis) * time.Millisecond, listener: l}
	if m.timeout <= 0 {
		m.timeout = DefaultTimeoutMillis * time.Millisecond
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	ready := make(chan struct{}) // events wait until m.c stands
	cfg.Handler = func(e gochat.Event) {
		<-ready
		m.handle(e)
	}
	inner, err := gochat.Open(cfg)
	if err != nil {
		m.cancel()
		return nil, err
	}
	m.c = inner
	close(ready)
	return m, nil
}

func secureDial(cas []byte) (func(ctx context.Context, address string) (net.Conn, error), error) {
	trust := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(cas) > 0 {
		trust.RootCAs = x509.NewCertPool()
		if !trust.RootCAs.AppendCertsFromPEM(cas) {
			return nil, errors.New("Config.CAs holds no certificate")
		}
	}
	d := &tls.Dialer{Config: trust}
	return func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }, nil
}

// Close ends the connection and waits until the Listener has had everything. Not for use within the Listener.
// What waits in the outbox of a file is sent by the next Open.
func (m *Client) Close() error {
	m.cancel()
	err := m.c.Close()
	m.wg.Wait()
	return err
}

// User returns who the client is, "" before it connected for the first time. It answers at once.
func (m *Client) User() string { return string(m.c.User()) }

// State returns the connection's state. It answers at once.
func (m *Client) State() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// WaitConnected waits for a connection.
func (m *Client) WaitConnected() error {
	ctx, cancel := m.limit()
	defer cancel()
	return m.c.Connected(ctx)
}

// SetBackground tells the server that nobody looks at the app, or that somebody does again: call it when the app goes
// and comes. It saves the device's battery.
func (m *Client) SetBackground(background bool) error {
	ctx, cancel := m.limit()
	defer cancel()
	return m.c.SetBackground(ctx, background)
}

// SignOutDevice signs out another device of the user's, or, with its own id, this one.
func (m *Client) SignOutDevice(device string) error {
	ctx, cancel := m.limit()
	defer cancel()
	_, err := m.c.SignOut(ctx, id.DeviceID(device))
	return err
}

// CodeOf returns the number of the protocol's code that an error tells of, 0 if it is none.
func CodeOf(err error) int {
	var e *code.Error
	if errors.As(err, &e) {
		return int(e.Code)
	}
	return 0
}

func (m *Client) limit() (context.Context, context.CancelFunc) {
	return context.WithTimeout(m.ctx, m.timeout)
}

func conversationID(s string) (id.ConversationID, error) {
	c, err := id.ParseConversation(s)
	if err != nil {
		return c, fmt.Errorf("the id of a conversation: %w", err)
	}
	return c, nil
}
