// Package gochat is the client side of GoChat: it keeps a connection, sends what it
// was given until the server says that it is stored, and hands the application every
// message of the user's conversations once and in order.
//
// What the application gives to Send is durable in the Store before it leaves the
// device, and is sent again, in order and under the same id, until the server answers.
// What it hears comes as Events, from one goroutine, and a message counts as received
// when the Handler has returned.
//
// What the server refuses is a *code.Error somewhere in the error's chain: errors.As finds it, and errors.Is(err,
// code.New(code.Forbidden)) compares the code alone. Errors of calls that end with their context wrap its error; those of a
// client that is closed, or has given up, are ErrClosed and ErrStopped. Calls that ask the server wait for a connection, ask
// again if that is lost, and may be made again after any error. What they return is the caller's, unless it says otherwise.
package gochat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
)

// Config says who connects where. Zero means the default where one is given.
type Config struct {
	// Address is the server's host:port.
	Address string

	// Dial opens the transport; default: TCP. For TLS, give a function that does both.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	// Token returns the access token to connect with. It is called before every CONNECT and may
	// block until ctx ends. If it fails the client connects with its resume token, if it has one.
	Token func(ctx context.Context) (string, error)

	// Device is this installation's id: chosen once, then kept. No other installation of the user may have it.
	Device id.DeviceID
	Kind   wire.DeviceKind

	// Client is the name and version of the app, for the server's logs; default "gochat-go".
	Client string

	// Background: nobody looks at the app as it begins; SetBackground tells of changes.
	Background bool

	// Store keeps what must outlive the process. The client closes it. Default: a new memory store, which forgets.
	Store Store

	// Handler gets every Event, in order, from one goroutine. It may call the client, but for Close. While it is slow,
	// messages wait at the server. Required.
	Handler func(Event)

	Logger *slog.Logger // default: discards

	// Backlog is how many messages of a conversation that it meets for the first time the client
	// gets; what is older comes by History. 0: all; below 0: none.
	Backlog int

	Heartbeat   time.Duration // silence that the client would like to be allowed; default: the server's choice, adapted to what the network bears
	DialTimeout time.Duration // for dialling and for the answer to CONNECT each; default 10 s
	MinBackoff  time.Duration // before connecting again; default 0.5 s, doubling with each failure
	MaxBackoff  time.Duration // default 30 s
	AckInterval time.Duration // how often RECVACKs are sent at most; default 1 s
	GapWait     time.Duration // how long a missing message may be under way before it is pulled; default 200 ms
	DeadAfter   time.Duration // silence of the server after a PING is due before the connection is given up; default 10 s
	Queue       int           // messages that wait for Handler at most; default 1024
}

func (c *Config) setDefaults() {
	if c.Dial == nil {
		var d net.Dialer
		c.Dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	if c.Store == nil {
		c.Store = NewMemoryStore()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Client == "" {
		c.Client = "gochat-go"
	}
	for _, d := range []struct {
		d   *time.Duration
		def time.Duration
	}{{&c.DialTimeout, 10 * time.Second}, {&c.MinBackoff, time.Second / 2}, {&c.MaxBackoff, 30 * time.Second},
		{&c.AckInterval, time.Second}, {&c.GapWait, time.Second / 5}, {&c.DeadAfter, 10 * time.Second}} {
		if *d.d == 0 {
			*d.d = d.def
		}
	}
	if c.Queue == 0 {
		c.Queue = 1024
	}
}

// Validate reports what is missing or out of range.
func (c *Config) Validate() error {
	switch {
	case c.Address == "":
		return errors.New("gochat: Config.Address is empty")
	case c.Token == nil:
		return errors.New("gochat: Config.Token is missing")
	case c.Handler == nil:
		return errors.New("gochat: Config.Handler is missing")
	case !c.Device.Valid():
		return fmt.Errorf("gochat: Config.Device %q: want 1 to 64 bytes of UTF-8 without control characters", string(c.Device))
	case c.Queue < 0 || c.MaxBackoff < 0 || c.MinBackoff < 0 || c.AckInterval < 0 || c.GapWait < 0 || c.DeadAfter < 0 || c.DialTimeout < 0:
		return errors.New("gochat: a negative interval or size in Config")
	}
	return nil
}
