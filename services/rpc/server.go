// Package rpc serves the calls of other nodes: Kitex handlers that check, and then call
// the ports of this process. Only nodes that hold the cluster key get as far as a handler.
package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/kitex/pkg/endpoint"
	"github.com/cloudwego/kitex/pkg/remote"
	"github.com/cloudwego/kitex/pkg/remote/codec"
	"github.com/cloudwego/kitex/pkg/remote/trans/gonet"
	"github.com/cloudwego/kitex/pkg/rpcinfo"
	"github.com/cloudwego/kitex/pkg/transmeta"
	"github.com/cloudwego/kitex/server"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/kitex_gen/edge/edge"
	"github.com/gochat-im/gochat/kitex_gen/logic/logic"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/services/link"
)

// Config is what a Server is made of. Zero means the default that stands with each field.
type Config struct {
	Listen string    // host:port; required
	Keys   link.Keys // of the cluster; required
	Logic  *Logic    // nil: this node hasn't the role
	Relay  *Relay    // nil: it has nothing to do with edges and the directory

	MaxConns         int           // connections of other nodes; default 1,024
	Handshakes       int           // under way at once; more wait; default 32
	HandshakeTimeout time.Duration // default 5 s
	MaxCalls         int           // under way at once; what comes beyond is refused as overloaded; default 1,024

	Logger *slog.Logger // default: discards
}

// Validate reports what is wrong.
func (c *Config) Validate() error {
	var errs []error
	if c.Listen == "" {
		errs = append(errs, errors.New("rpc: no address to listen on"))
	}
	if err := c.Keys.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("rpc: %w", err))
	}
	if min(c.MaxConns, c.Handshakes, c.MaxCalls) < 0 || c.HandshakeTimeout < 0 {
		errs = append(errs, errors.New("rpc: a limit is negative"))
	}
	if c.Logic != nil {
		errs = append(errs, c.Logic.validate())
	}
	return errors.Join(errs...)
}

func (c *Config) setDefaults() {
	num := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	num(&c.MaxConns, 1024)
	num(&c.Handshakes, 32)
	num(&c.MaxCalls, 1024)
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Server serves the calls of other nodes: New binds, Run serves, Shutdown drains.
type Server struct {
	cfg    Config
	logic  *logicHandler // nil: no such role
	routes map[string]func(context.Context, *api.Request) (*api.Answer, error)
	ln     *listener
	engine server.Server
	exit   chan error

	base   context.Context // of all handlers; ended when a shutdown runs out of time
	cancel context.CancelFunc
	calls  atomic.Int64
	total  atomic.Uint64
	idle   chan struct{} // takes a value when a call ends during a shutdown

	once    sync.Once
	stopped chan struct{} // closed when the engine has ended
	running atomic.Bool
}

// New binds the listener. Connections wait in its backlog until Run.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	conf, _, err := cfg.Keys.TLS()
	if err != nil {
		return nil, fmt.Errorf("rpc: %w", err)
	}
	s := &Server{cfg: cfg, exit: make(chan error, 1), idle: make(chan struct{}, 1), stopped: make(chan struct{})}
	if s.ln, err = newListener(&s.cfg, conf); err != nil {
		return nil, err
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	link.BridgeLogs(cfg.Logger)
	s.engine = server.NewServer(
		server.WithListener(s.ln),
		server.WithTransServerFactory(gonet.NewTransServerFactory()),
		server.WithTransHandlerFactory(gonet.NewSvrTransHandlerFactory()),
		server.WithMetaHandler(transmeta.ServerTTHeaderHandler),
		server.WithCodec(codec.NewDefaultCodecWithSizeLimit(link.MaxMessage)),
		server.WithRefuseTrafficWithoutServiceName(),
		server.WithExitSignal(func() <-chan error { return s.exit }),
		server.WithExitWaitTime(time.Millisecond), // this Server has drained before
		server.WithMiddleware(s.around),
	)
	if cfg.Logic != nil {
		s.logic = &logicHandler{s: s, Logic: cfg.Logic}
		s.routes = make(map[string]func(context.Context, *api.Request) (*api.Answer, error))
		for _, rt := range cfg.Logic.Routes {
			s.routes[routeKey(rt.Method, rt.Path)] = rt.Serve
		}
		if err := logic.RegisterService(s.engine, s.logic); err != nil {
			s.ln.Close()
			return nil, fmt.Errorf("rpc: registering the service of logic: %w", err)
		}
	}
	if cfg.Relay != nil {
		if err := edge.RegisterService(s.engine, &relayHandler{cfg.Relay, s}); err != nil {
			s.ln.Close()
			return nil, fmt.Errorf("rpc: registering the service of edges and the directory: %w", err)
		}
	}
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Stats are counts for metrics.
type Stats struct {
	Calls   int    // under way
	Total   uint64 // calls that began
	Conns   int    // connections of other nodes
	Refused uint64 // connections that didn't prove to be a node's, or were too many
}

// Stats returns what the server is doing.
func (s *Server) Stats() Stats {
	s.ln.mu.Lock()
	defer s.ln.mu.Unlock()
	return Stats{Calls: int(s.calls.Load()), Total: s.total.Load(), Conns: s.ln.open, Refused: s.ln.refused}
}

// around is around every call: limits, what becomes of a panic, and the end of it when its caller goes away.
func (s *Server) around(next endpoint.Endpoint) endpoint.Endpoint {
	return func(ctx context.Context, req, resp any) (err error) {
		defer func() {
			n := s.calls.Add(-1)
			if r := recover(); r != nil {
				s.cfg.Logger.ErrorContext(ctx, "a call between nodes panicked", "method", method(ctx), "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
				err = refusal(code.New(code.Internal))
			}
			if n == 0 {
				select {
				case s.idle <- struct{}{}:
				default:
				}
			}
		}()
		if s.calls.Add(1) > int64(s.cfg.MaxCalls) {
			return refusal(code.New(code.Overloaded))
		}
		s.total.Add(1)
		ctx, cancel := context.WithCancel(handled{s.base, ctx})
		defer cancel()
		if from, ok := rpcinfo.GetRPCInfo(ctx).From().Address().(at); ok {
			from.peer.begin(cancel)
			defer from.peer.end()
		}
		if err = next(ctx, req, resp); err != nil { // handlers answer in their replies: this is a panic that Kitex took
			s.cfg.Logger.ErrorContext(ctx, "a call between nodes failed", "method", method(ctx), "err", err)
			err = refusal(code.New(code.Internal))
		}
		return err
	}
}

// handled is the context of a handler: it ends with the server, and knows what Kitex told of the call.
type handled struct {
	context.Context
	told context.Context
}

// Value implements context.Context.
func (h handled) Value(key any) any {
	if v := h.told.Value(key); v != nil {
		return v
	}
	return h.Context.Value(key)
}

func method(ctx context.Context) string {
	if ri := rpcinfo.GetRPCInfo(ctx); ri != nil {
		return ri.Invocation().MethodName()
	}
	return ""
}

// refusal is an error before any reply was made: its code is the exception's number.
func refusal(e *code.Error) error {
	return remote.NewTransErrorWithMsg(int32(e.Code), e.Reason)
}

// sweep is how often the server looks for calls whose callers have gone away.
const sweep = 100 * time.Millisecond

// Run serves until ctx ends or Shutdown is called, and returns when that shutdown is over. If ctx
// ends, calls under way get five seconds.
func (s *Server) Run(ctx context.Context) error {
	s.running.Store(true)
	go s.ln.run()
	served := make(chan error, 1)
	go func() {
		served <- s.engine.Run()
		close(s.stopped)
	}()
	ticks := time.NewTicker(sweep)
	defer ticks.Stop()
	for {
		select {
		case now := <-ticks.C:
			s.ln.abandoned(sweep)
			if s.logic != nil {
				s.logic.tickets.sweep(now)
			}
		case <-ctx.Done():
			stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return s.Shutdown(stop)
		case err := <-served:
			s.ln.Close()
			s.ln.closeAll()
			s.cancel()
			select {
			case <-s.ln.done:
				return nil
			default:
			}
			return fmt.Errorf("rpc: serving: %w", err)
		}
	}
}

// Shutdown stops listening, closes connections without a call at once and the others after their
// answer, and those that are left when ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(func() {
		s.ln.Close()
		s.ln.drain()
	})
	var err error
	for s.calls.Load() > 0 && err == nil {
		select {
		case <-s.idle:
		case <-ctx.Done():
			err = fmt.Errorf("rpc: %d calls were cut off: %w", s.calls.Load(), ctx.Err())
		}
	}
	if err == nil { // let the last answers be written
		s.flush(ctx)
	}
	s.cancel()
	s.ln.closeAll()
	select {
	case s.exit <- nil:
	default:
	}
	if s.running.Load() {
		<-s.stopped
	}
	return err
}

// flush waits until the connections have ended by themselves, as they do after their answer.
func (s *Server) flush(ctx context.Context) {
	ticks := time.NewTicker(5 * time.Millisecond)
	defer ticks.Stop()
	for range 200 {
		s.ln.mu.Lock()
		left := len(s.ln.peers)
		s.ln.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
	}
}
