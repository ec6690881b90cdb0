// Package api is GoChat's HTTP interface: registration and sign-in, health,
// readiness and metrics.
//
//	POST /api/v1/auth/register|login|refresh|logout|password    bodies: protocol/auth
//	GET  /healthz    200 as soon as the server answers at all
//	GET  /readyz     200, or 503 with the reason
//	GET  /metrics    Prometheus
//	GET  /ws         the protocol over a WebSocket (edge/ws)
//	GET  /events, POST /events/:key    the protocol where WebSockets are blocked (edge/sse)
//
// and whatever Config.Routes adds; who has them declares them there, and knows nothing of the engine.
//
// Bodies are JSON, read strictly: one object, no unknown fields, none named twice, UTF-8, of a bounded size.
// Whatever is refused, by the routes or below them, is answered in one shape (auth.Refused).
//
// It is Hertz on netpoll, with a transporter of its own (see transport.go) that gives
// every connection a deadline for whatever it is doing.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/hertz/pkg/app/server"
	"github.com/cloudwego/hertz/pkg/common/adaptor"
	"github.com/cloudwego/hertz/pkg/common/config"
	"github.com/cloudwego/hertz/pkg/network"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gochat-im/gochat/edge/sse"
	"github.com/gochat-im/gochat/edge/tcp"
	"github.com/gochat-im/gochat/edge/ws"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Accounts is what the routes under /api/v1/auth stand on.
type Accounts interface {
	Register(ctx context.Context, name, password string, device id.DeviceID, kind uint8) (auth.Grant, *code.Error)
	Login(ctx context.Context, name, password string, device id.DeviceID, kind uint8) (auth.Grant, *code.Error)
	Refresh(ctx context.Context, refreshToken string) (auth.Grant, *code.Error)
	Logout(ctx context.Context, refreshToken string, all bool) *code.Error
	ChangePassword(ctx context.Context, accessToken, old, new string) *code.Error
}

// Config is what a Server is made of. Zero means the default that stands with each field.
type Config struct {
	Listen   string   // host:port; required
	Accounts Accounts // required

	TLS *tls.Config // HTTPS alone; nil: HTTP alone

	Ready   func(ctx context.Context) error // nil: always ready
	Metrics prometheus.Gatherer             // nil: no /metrics

	// Observe hears of every request that reached a route. route is its pattern, never the path that was asked for.
	Observe func(route string, status int, took time.Duration)

	Routes   []Route  // beside those of the Server's own
	Identify Identify // required if a Route isn't Open

	WebSocket *ws.Server  // what serves /ws; nil: there is no such route
	Events    *sse.Server // what serves /events; nil: there are no such routes

	Origins         []string // of pages of other sites that may use the API, or *; none: no page of another site may
	CallsPerMinute  int      // requests of one user or server key, and as many at once; default 1,200; negative: unlimited
	ForgedPerMinute int      // tokens that an address may show in vain before it has to wait, and keys of streams; default 30; negative: unlimited

	TrustedProxies []netip.Prefix // whose X-Forwarded-For is believed
	AuthPerMinute  int            // register, login, refresh and password calls an address (IPv6: a /64), and as many at once; default 30; negative: unlimited
	Addresses      int            // addresses counted apart; those beyond share one allowance of ten; default 10,000

	MaxBody        int           // bytes; default 192 KiB
	MaxHeader      int           // bytes of the request line and headers; default 16 KiB
	MaxConns       int           // connections; default 4,096
	MaxConnsPerIP  int           // of one address that isn't a trusted proxy; default 256
	ReadTimeout    time.Duration // for a whole request, from its first byte; default 10 s
	HandlerTimeout time.Duration // for the work of a route; default 15 s
	WriteTimeout   time.Duration // for the client to take the answer; default 10 s
	IdleTimeout    time.Duration // between requests; default 60 s

	Logger *slog.Logger // default: discards
}

// Validate reports what is missing.
func (c *Config) Validate() error {
	var errs []error
	if c.Listen == "" {
		errs = append(errs, errors.New("api: no address to listen on"))
	}
	if c.Accounts == nil {
		errs = append(errs, errors.New("api: no accounts"))
	}
	for _, rt := range c.Routes {
		if rt.Access != Open && c.Identify == nil {
			errs = append(errs, errors.New("api: nothing tells whose tokens they are"))
			break
		}
	}
	for _, o := range c.Origins {
		errs = append(errs, checkOrigin(o))
	}
	if min(c.MaxBody, c.MaxHeader, c.MaxConns, c.MaxConnsPerIP, c.Addresses) < 0 {
		errs = append(errs, errors.New("api: a limit is negative"))
	}
	if min(c.ReadTimeout, c.HandlerTimeout, c.WriteTimeout, c.IdleTimeout) < 0 {
		errs = append(errs, errors.New("api: a timeout is negative"))
	}
	return errors.Join(errs...)
}

// Defaults of the allowances.
const (
	defaultAuthPerMinute  = 30
	defaultCallsPerMinute = 1200
)

func (c *Config) setDefaults() {
	num := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	dur := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	num(&c.AuthPerMinute, defaultAuthPerMinute)
	num(&c.Addresses, 10_000)
	num(&c.MaxBody, 192<<10)
	num(&c.CallsPerMinute, defaultCallsPerMinute)
	num(&c.ForgedPerMinute, 30)
	num(&c.MaxHeader, 16<<10)
	num(&c.MaxConns, 4096)
	num(&c.MaxConnsPerIP, 256)
	dur(&c.ReadTimeout, 10*time.Second)
	dur(&c.HandlerTimeout, 15*time.Second)
	dur(&c.WriteTimeout, 10*time.Second)
	dur(&c.IdleTimeout, time.Minute)
	if c.Ready == nil {
		c.Ready = func(context.Context) error { return nil }
	}
	if c.Observe == nil {
		c.Observe = func(string, int, time.Duration) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Server is the HTTP server: New binds, Run serves, Shutdown drains.
type Server struct {
	cfg       Config
	engine    *server.Hertz
	transport *transport
	sockets   *tcp.Sockets         // of WebSockets; nil: there are none
	streams   *tcp.Sockets         // of events; nil: there are none
	limiter   *limiter[netip.Addr] // of sign-ins
	forged    *limiter[netip.Addr] // of tokens that were refused
	guesses   *limiter[netip.Addr] // of keys of streams that there are none of
	calls     *limiter[string]     // of callers

	base   context.Context // of all handlers; ended when a shutdown runs out of time
	cancel context.CancelFunc
	once   sync.Once
	down   chan struct{} // closed when a shutdown has begun
	force  chan struct{} // takes one value when somebody's patience with it ends
	ended  chan struct{} // closed when it is over
	err    error         // of the shutdown; read after ended
}

// New binds the listener. Requests wait in its backlog until Run.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("api: listening on %s: %w", cfg.Listen, err)
	}
	s := &Server{cfg: cfg, down: make(chan struct{}), force: make(chan struct{}, 1), ended: make(chan struct{})}
	s.base, s.cancel = context.WithCancel(context.Background())
	s.limiter = newLimiter[netip.Addr](cfg.AuthPerMinute, cfg.Addresses)
	s.forged = newLimiter[netip.Addr](cfg.ForgedPerMinute, cfg.Addresses)
	s.guesses = newLimiter[netip.Addr](cfg.ForgedPerMinute, cfg.Addresses)
	s.calls = newLimiter[string](cfg.CallsPerMinute, cfg.Addresses)
	s.transport = newTransport(&s.cfg, ln.(*net.TCPListener))
	if cfg.WebSocket != nil {
		if s.sockets, err = tcp.NewSockets(cfg.WebSocket.Writable, cfg.Logger); err != nil {
			ln.Close()
			return nil, err
		}
	}
	if cfg.Events != nil {
		if s.streams, err = tcp.NewSockets(cfg.Events.Writable, cfg.Logger); err != nil {
			ln.Close()
			if s.sockets != nil {
				s.sockets.Close()
			}
			return nil, err
		}
	}
	bridgeLogs(cfg.Logger)
	s.engine = server.New(
		server.WithTransport(func(*config.Options) network.Transporter { return s.transport }),
		server.WithReadTimeout(cfg.ReadTimeout),
		server.WithWriteTimeout(cfg.WriteTimeout),
		server.WithIdleTimeout(cfg.IdleTimeout),
		server.WithMaxRequestBodySize(cfg.MaxBody),
		server.WithMaxHeaderBytes(cfg.MaxHeader),
		server.WithMaxKeepBodySize(8<<10),
		server.WithDisablePreParseMultipartForm(true),
		server.WithHandleMethodNotAllowed(true),
		server.WithRedirectTrailingSlash(false),
		server.WithUseRawPath(true), // a %2F is part of a name
		server.WithUnescapePathValues(true),
		server.WithDisablePrintRoute(true),
		server.WithExitWaitTime(time.Hour), // Shutdown's context decides
		config.Option{F: func(o *config.Options) { o.NoDefaultServerHeader = true }},
	)
	s.engine.NoHijackConnPool, s.engine.KeepHijackedConns = true, true
	s.routes()
	return s, nil
}

// SetAuthPerMinute changes Config.AuthPerMinute from now on; 0 means 30, a negative number no limit.
func (s *Server) SetAuthPerMinute(n int) {
	if n == 0 {
		n = defaultAuthPerMinute
	}
	s.limiter.set(n)
}

// SetCallsPerMinute changes Config.CallsPerMinute likewise; 0 means 1,200.
func (s *Server) SetCallsPerMinute(n int) {
	if n == 0 {
		n = defaultCallsPerMinute
	}
	s.calls.set(n)
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.transport.ln.Addr() }

// AcceptsFailed is how many times a connection could not be accepted so far.
func (s *Server) AcceptsFailed() uint64 { return s.transport.acc.Failed() }

// Patterns returns the routes that are served, each as its method and its path.
func (s *Server) Patterns() []string {
	var out []string
	for _, r := range s.engine.Routes() {
		out = append(out, r.Method+" "+r.Path)
	}
	return out
}

func (s *Server) routes() {
	e := s.engine
	e.Use(s.around)
	e.NoRoute(func(ctx context.Context, c *app.RequestContext) {
		s.refuse(c, 404, code.Newf(code.UnknownMethod, "no such route"))
	})
	e.NoMethod(func(ctx context.Context, c *app.RequestContext) {
		c.Response.Header.Set("Allow", s.allowed(string(c.Request.URI().PathOriginal())))
		s.refuse(c, 405, code.Newf(code.BadRequest, "this route takes another HTTP method"))
	})
	v1 := e.Group("/api/v1/auth")
	v1.POST("/register", s.limited, s.register)
	v1.POST("/login", s.limited, s.login)
	v1.POST("/refresh", s.limited, s.refresh)
	v1.POST("/password", s.limited, s.password)
	v1.POST("/logout", s.logout)
	for _, method := range [...]string{"GET", "HEAD"} { // load balancers ask with either
		e.Handle(method, "/healthz", func(_ context.Context, c *app.RequestContext) { s.answer(c, status{"ok"}) })
		e.Handle(method, "/readyz", s.ready)
	}
	if s.cfg.WebSocket != nil {
		e.GET("/ws", s.websocket)
	}
	if s.cfg.Events != nil {
		e.GET("/events", s.events)
		e.POST("/events/:key", s.post)
	}
	for _, rt := range s.cfg.Routes {
		e.Handle(rt.Method, rt.Path, s.handler(rt))
	}
	if s.cfg.Metrics != nil {
		e.GET("/metrics", adaptor.HertzHandler(promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{
			ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: 4, Timeout: s.cfg.HandlerTimeout,
		})))
	}
}

// Run serves until ctx ends or Shutdown is called, and returns when that shutdown is over. If
// ctx ends, requests under way get one HandlerTimeout.
func (s *Server) Run(ctx context.Context) error {
	served := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil { // the engine's way to say that its event loop failed
				served <- fmt.Errorf("api: serving: %v", r)
			}
		}()
		served <- s.engine.Run()
	}()
	select {
	case <-ctx.Done():
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.HandlerTimeout)
		defer cancel()
		return s.Shutdown(stop)
	case <-s.down:
		<-s.ended
		return s.err
	case err := <-served:
		select {
		case <-s.down: // the loop ends when a shutdown begins
			<-s.ended
			return s.err
		default:
		}
		s.cancel()
		s.transport.closeAll()
		if err == nil {
			err = errors.New("api: the event loop ended by itself")
		}
		return err
	}
}

// Shutdown stops listening, closes connections without a request at once and the others
// after their answer, and those that are left when ctx ends. Of several calls, the one whose
// ctx ends first decides.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(func() {
		close(s.down)
		go s.drain()
	})
	select {
	case <-s.ended:
	case <-ctx.Done():
		select {
		case s.force <- struct{}{}:
		default:
		}
		<-s.ended
	}
	return s.err
}

// drain is the shutdown itself.
func (s *Server) drain() {
	defer close(s.ended)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-s.force:
			cancel()
		case <-s.ended:
		}
	}()
	_ = s.engine.Shutdown(ctx)        // makes the engine end connections after their answer; fails if Run wasn't called
	s.err = s.transport.Shutdown(ctx) // the outcome of the same, or the closing of the listener
	s.cancel()
	if (s.sockets != nil || s.streams != nil) && s.transport.ended() {
		for _, shared := range [...]*tcp.Sockets{s.sockets, s.streams} {
			if shared != nil {
				shared.Close()
			}
		}
	}
}
