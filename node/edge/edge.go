// Package edge builds what clients reach of a node: connections over TCP, WebSocket and
// streams of events, and the HTTP API. It knows the services by their ports alone.
package edge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/certs"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/pages"
	"github.com/gochat-im/gochat/edge/sse"
	"github.com/gochat-im/gochat/edge/tcp"
	"github.com/gochat-im/gochat/edge/ws"
	"github.com/gochat-im/gochat/node/config"
)

// Config of an Edge. All is needed but what says otherwise.
type Config struct {
	config.Config

	Worker     uint32 // of this node in connections' incarnations, no other live node's
	StoreEpoch uint64
	MaxPage    int // messages a page at most
	Version    string

	// What is behind connections, and behind the HTTP API.
	Services conn.Services
	Routes   []api.Route
	Identify api.Identify
	Accounts api.Accounts
	Ready    func(ctx context.Context) error

	Web     fs.FS // the web app's files, served at /; nil: there is none
	Metrics prometheus.Gatherer
	Observe func(route string, status int, took time.Duration)
	Logger  *slog.Logger
}

// Edge is what listens for clients. Its fields don't change.
type Edge struct {
	Hub *hub.Hub
	TCP *tcp.Server
	WS  *ws.Server
	SSE *sse.Server
	API *api.Server

	TCPCert, HTTPCert *certs.Source // nil: no TLS

	drain time.Duration
}

// CloseTime is what requests of HTTP have to end.
const CloseTime = 3 * time.Second

// New binds every listener. What it opened it closes again when it fails.
func New(cfg Config) (_ *Edge, err error) {
	e := &Edge{drain: cfg.Drain.Deadline}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	if e.TCPCert, err = openCert("tcp.tls", cfg.Config.TCP.TLS); err != nil {
		return nil, err
	}
	if e.HTTPCert, err = openCert("http.tls", cfg.HTTP.TLS); err != nil {
		return nil, err
	}
	lim := cfg.Limits
	if e.Hub, err = hub.New(hub.Config{
		Worker: cfg.Worker, Connections: lim.Connections, PerUser: PerUser(lim.ConnectionsPerUser), PerAddress: lim.ConnectionsPerAddress,
		ConnectsPerAddress: lim.ConnectsPerAddress, Strangers: lim.Unauthenticated,
		StrangersPerAddress: strangersPerAddress(lim), Logger: cfg.Logger,
		DrainJitter: cfg.Drain.Jitter, Alternatives: cfg.Drain.Alternatives,
		Conn: conn.Config{
			Server: "gochat " + cfg.Version, StoreEpoch: cfg.StoreEpoch, Packet: cfg.PacketLimits(), MaxFrame: int(lim.Frame), MaxPage: cfg.MaxPage,
			Handshake: lim.Handshake, Heartbeat: lim.Heartbeat, HeartbeatMin: lim.HeartbeatMin, HeartbeatMax: lim.HeartbeatMax,
			Resume: cfg.Config.Accounts.Resume, SendsPerSecond: lim.SendsPerSecond, UserSendsPerSecond: lim.UserSendsPerSecond,
			BytesPerSecond: int(lim.BytesPerSecond), MaxInflight: lim.Inflight, QueueBytes: int(lim.Outbound), Stalled: lim.Stalled,
			Slow: cfg.Log.Slow, Logger: cfg.Logger,
		},
	}, cfg.Services); err != nil {
		return nil, err
	}
	if e.TCP, err = tcp.New(tcp.Config{Listen: cfg.Config.TCP.Listen, TLS: listenerTLS(e.TCPCert), Hub: e.Hub, Pollers: cfg.Config.TCP.Pollers, ProxyFrom: prefixes(cfg.Config.TCP.ProxyFrom), Logger: cfg.Logger}); err != nil {
		return nil, fmt.Errorf("%w (tcp.listen, flag --tcp)", err)
	}
	if e.WS, err = ws.New(ws.Config{Hub: e.Hub, Origins: cfg.HTTP.Origins, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	if e.SSE, err = sse.New(sse.Config{Hub: e.Hub, Page: e.WS.Allowed, Logger: cfg.Logger}); err != nil {
		return nil, err
	}
	routes := cfg.Routes
	if cfg.Web != nil {
		shown, err := pages.Routes(cfg.Web)
		if err != nil {
			return nil, err
		}
		routes = append(routes[:len(routes):len(routes)], shown...)
	}
	if e.API, err = api.New(api.Config{
		Routes: routes, Identify: cfg.Identify, CallsPerMinute: cfg.HTTP.CallsPerMinute,
		WebSocket: e.WS, Events: e.SSE, Origins: cfg.HTTP.Origins,
		Listen: cfg.HTTP.Listen, TLS: listenerTLS(e.HTTPCert), Accounts: cfg.Accounts, Ready: cfg.Ready, Metrics: cfg.Metrics, Observe: cfg.Observe,
		TrustedProxies: prefixes(cfg.HTTP.TrustedProxies), AuthPerMinute: cfg.HTTP.AuthPerMinute, Logger: cfg.Logger,
	}); err != nil {
		return nil, fmt.Errorf("%w (http.listen, flag --http)", err)
	}
	return e, nil
}

// TCPAddr and HTTPAddr are where the edge listens.
func (e *Edge) TCPAddr() net.Addr  { return e.TCP.Addr() }
func (e *Edge) HTTPAddr() net.Addr { return e.API.Addr() }

// Leave sends all clients away, before the deadline that is configured, or that they need. The listener of HTTP goes on
// while they leave: WebSockets and streams of events are on it. If ctx ends those that are left stay; Hub.Stay takes it back.
func (e *Edge) Leave(ctx context.Context, to hub.Elsewhere) error {
	// The deadline is the clients'; those that stay get the reason, and some time to read it.
	drain, cancel := context.WithTimeout(ctx, cmp.Or(e.drain, e.Hub.LeaveTime(to))+e.Hub.Edge().Config().Linger)
	defer cancel()
	return e.Hub.Leave(drain, to)
}

// Drain is Leave before the end, and ends HTTP. The listener of TCP has ended by then.
func (e *Edge) Drain(ctx context.Context, to hub.Elsewhere) error {
	err := e.Leave(ctx, to)
	closing, cancel := context.WithTimeout(ctx, CloseTime)
	defer cancel()
	return errors.Join(err, e.API.Shutdown(closing))
}

// Close closes what New opened; after a Drain it has nothing to do.
func (e *Edge) Close() {
	if e.API != nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = e.API.Shutdown(ended)
	}
	if e.TCP != nil {
		e.TCP.Close()
	}
}

// PerUser is how many connections of a user the hub holds where the directory keeps n: the
// newest wins there, and what it took the place of may still be closing.
func PerUser(n int) int { return 2*n + 4 }

// prefixes parses what config.Validate has checked.
func prefixes(list []string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p)
		}
	}
	return out
}
