//go:build !windows

// Package tcp serves connections over TCP: netpoll reads, writes go straight to the socket.
//
// Why not netpoll's writer: it keeps unwritten bytes in buffers of its own and blocks a
// goroutine on a full socket. A connection here has its queue already, bounded, and
// one goroutine at a time writing it, so a short write simply waits for the socket to
// become writable again. And why not netpoll's server: it keeps a map entry and two
// addresses for every connection, and admits before anybody could say no.
package tcp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/cloudwego/netpoll"

	"github.com/gochat-im/gochat/edge/hub"
)

// SendBuffer is how many bytes the kernel may hold for a client that reads slowly, if nothing
// else is configured.
const SendBuffer = 32 << 10

// readBuffer is just above 8 KiB: of a smaller buffer netpoll leaves the rest with the connection
// for its next read, so that each idle one keeps half a kilobyte, one that is larger goes back to
// a pool as soon as all of it is taken. Those few stay in the cache, too.
const readBuffer = 8<<10 + 1

// Config says where to listen and how. Zero values mean the default given with each field.
type Config struct {
	Listen     string         // host:port; needed
	Hub        *hub.Hub       // needed
	Pollers    int            // netpoll's event loops in this process; 1 up to 20 cores
	SendBuffer int            // bytes the kernel may hold for a client that reads slowly (it doubles them); 32 KiB
	ReadBuffer int            // bytes that are read at once; 8 KiB and one, from where on a connection keeps no buffer between reads
	ProxyFrom  []netip.Prefix // load balancers that put a PROXY protocol header first; nobody
	TLS        *tls.Config    // what connections are encrypted with, behind a PROXY header; they aren't
	Logger     *slog.Logger   // nothing is logged by default
}

// configureOnce guards netpoll's settings, which are the whole process's.
var configureOnce sync.Once

// Server accepts connections. Make it with New; Run serves.
type Server struct {
	cfg Config
	hub *hub.Hub
	ln  *net.TCPListener
	acc *Acceptor
	*Sockets
}

// New listens. Netpoll's settings are those of the first Server of the process.
func New(cfg Config) (*Server, error) {
	if cfg.Hub == nil {
		return nil, errors.New("tcp: a hub is needed")
	}
	if cfg.SendBuffer == 0 {
		cfg.SendBuffer = SendBuffer
	}
	if cfg.ReadBuffer == 0 {
		cfg.ReadBuffer = readBuffer
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.SendBuffer < 4<<10 || cfg.ReadBuffer < 64 || cfg.Pollers < 0 {
		return nil, fmt.Errorf("tcp: send buffer %d, read buffer %d, pollers %d: too small", cfg.SendBuffer, cfg.ReadBuffer, cfg.Pollers)
	}
	s := &Server{cfg: cfg, hub: cfg.Hub, acc: NewAcceptor(cfg.Logger)}
	configureOnce.Do(func() {
		netpoll.LinkBufferCap = 256
		// It fails for a negative number of pollers only.
		_ = netpoll.Configure(netpoll.Config{
			PollerNum: cfg.Pollers, BufferSize: cfg.ReadBuffer, LoggerOutput: logWriter{cfg.Logger},
		})
	})
	lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if cerr := rc.Control(func(fd uintptr) { err = setOptions(int(fd), cfg.SendBuffer) }); cerr != nil {
			return cerr
		}
		return err
	}}
	lc.SetMultipathTCP(false) // its sockets cost more, and nobody asked for several paths
	ln, err := lc.Listen(context.Background(), "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", cfg.Listen, err)
	}
	s.ln = ln.(*net.TCPListener)
	if s.Sockets, err = NewSockets(func(incarnation uint64) {
		if c := s.hub.Find(incarnation); c != nil {
			c.Writable()
		}
	}, cfg.Logger); err != nil {
		ln.Close()
		return nil, err
	}
	return s, nil
}

// setOptions sets what accepted sockets inherit from the listening one.
func setOptions(fd, sendBuffer int) error {
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_SNDBUF, sendBuffer); err != nil {
		return fmt.Errorf("setting SO_SNDBUF: %w", err)
	}
	if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("setting TCP_NODELAY: %w", err)
	}
	return nil
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Run accepts connections until ctx ends. Connections live on: they are the hub's to end.
func (s *Server) Run(ctx context.Context) error {
	return s.acc.Run(ctx, s.ln, s.serve)
}

// AcceptsFailed is how many times a connection could not be accepted so far.
func (s *Server) AcceptsFailed() uint64 { return s.acc.Failed() }

// Close stops listening, if Run hasn't, and frees what is shared. It is called when
// the hub has ended all connections.
func (s *Server) Close() {
	s.ln.Close()
	s.Sockets.Close()
}

// proxied reports whether a is a load balancer that tells whom it speaks for.
func (s *Server) proxied(a netip.Addr) bool {
	for _, p := range s.cfg.ProxyFrom {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// serve makes a connection of an accepted socket, or closes it with the reason.
func (s *Server) serve(fd int, addr netip.AddrPort) error {
	t := &Socket{s: s.Sockets, fd: fd, proxy: s.hub}
	if s.cfg.TLS != nil {
		t.secure = newSecure(t, s.cfg.TLS)
	}
	if s.proxied(addr.Addr()) {
		t.header = new([]byte)
	} else {
		t.addr = addr
	}
	c, refused := s.hub.Open(t, t.addr.Addr())
	if refused == nil {
		t.c = c
	} else if s.cfg.TLS == nil {
		// One try: the socket is new, so its buffer has room.
		_, _ = syscall.Write(fd, s.hub.Farewell(refused, false))
		_ = syscall.Close(fd)
		return nil
	} else if turned := s.hub.TurnAway(t, refused, hub.Form{Handshake: true}); turned != nil {
		t.c, t.proxy = turned, nil
	} else { // it isn't worth a handshake to be told
		_ = syscall.Close(fd)
		return nil
	}
	nc, err := netpoll.NewFDConnection(fd)
	if err != nil { // netpoll has closed the socket
		t.ended()
		return fmt.Errorf("registering a connection: %w", err)
	}
	t.start(nc)
	return nil
}

// logWriter turns netpoll's log lines into records.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	line := p
	for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == ' ') {
		line = line[:len(line)-1]
	}
	w.log.Warn("netpoll", "line", string(line))
	return len(p), nil
}
