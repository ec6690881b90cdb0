// Package ws is GoChat's protocol over WebSockets (RFC 6455): what stands between the bytes
// of an upgraded HTTP connection and the Conn that acts on them.
//
// It is a Transport on top of a Transport, event-driven like the one below: no goroutine waits
// for a connection, and one that is idle has no buffer. Reading HTTP is not its business: whoever
// does asks Check, then Open, answers 101 and hands the bytes to the Socket.
package ws

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

// The subprotocols.
const (
	Binary = "gochat.v1"      // binary messages of whole frames
	JSON   = "gochat.v1.json" // text messages of one packet each
)

// tokenPrefix begins the entry of Sec-WebSocket-Protocol that carries an access token: a
// page's script can set no other header.
const tokenPrefix = "gochat.token."

const maxToken = 4096 // bytes of an access token

// Config says who may connect and how much may come at once. Zero values mean the default
// given with each field.
type Config struct {
	Hub        *hub.Hub     // needed
	Origins    []string     // pages of other hosts that may connect, as scheme://host[:port]; "*": all; the server's own host always may
	MaxMessage int          // bytes of a binary message; 1 MiB
	Logger     *slog.Logger // nothing is logged by default
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.Hub == nil {
		errs = append(errs, errors.New("ws: a hub is needed"))
	}
	if c.MaxMessage < 0 {
		errs = append(errs, fmt.Errorf("ws: messages of %d bytes: want more than 0", c.MaxMessage))
	}
	for _, o := range c.Origins {
		if _, ok := normalOrigin(o); !ok && o != "*" {
			errs = append(errs, fmt.Errorf("ws: origin %q: want scheme://host, or *", o))
		}
	}
	return errors.Join(errs...)
}

// Server makes WebSockets of requests.
type Server struct {
	cfg     Config
	origins map[string]bool
	maxText int

	upgrades, refused, malformed atomic.Uint64

	stuck sync.Map // incarnation -> *Socket with something of its own that waits for room
}

// Stats are counts since New.
type Stats struct {
	Upgrades  uint64
	Refused   uint64 // requests that became no WebSocket, or one that only told the client to go elsewhere
	Malformed uint64 // WebSockets closed for what RFC 6455 forbids
}

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	return Stats{Upgrades: s.upgrades.Load(), Refused: s.refused.Load(), Malformed: s.malformed.Load()}
}

// New checks cfg and returns a Server.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = 1 << 20
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, origins: make(map[string]bool), maxText: textFactor * cfg.Hub.Edge().Config().MaxFrame}
	for _, o := range cfg.Origins {
		if n, ok := normalOrigin(o); ok {
			o = n
		}
		s.origins[o] = true
	}
	return s, nil
}

// textFactor is how many times larger than its frame a packet's JSON text may be.
const textFactor = 2

// Link carries the bytes below a WebSocket. Writable is called for it by its incarnation.
type Link = conn.Transport

// Upper takes the bytes of a WebSocket: a Socket, or a hub.Turned.
type Upper interface {
	conn.Upper
	Start() // the request was answered
}

// Open admits a WebSocket over link, for a request that Check found good, or says why not. The
// caller answers the request and then calls Start; until then nothing is written. While this edge leaves nobody is admitted, but
// clients whose scripts wouldn't see a refusal are told by a WebSocket where else to go.
func (s *Server) Open(link Link, a *Answer) (Upper, *code.Error) {
	t := &Socket{s: s, link: link, json: a.Protocol == JSON, token: a.token}
	c, refused := s.cfg.Hub.Open(t, link.RemoteAddr().Addr())
	if refused != nil {
		s.refused.Add(1)
		if turned := s.cfg.Hub.TurnAway(link, refused, farewell(refused.Code, t.json)); turned != nil {
			return turned, nil
		}
		return nil, refused
	}
	t.c = c
	s.upgrades.Add(1)
	return t, nil
}

// farewell is how a client is told why it was refused.
func farewell(reason code.Code, json bool) hub.Form {
	return hub.Form{
		Web: true,
		Frame: func(dst []byte, f frame.Frame, whole []byte) ([]byte, error) {
			if json {
				return appendJSON(dst, f)
			}
			return append(appendHead(dst, opBinary, len(whole)), whole...), nil
		},
		End: appendControl(nil, opClose, closePayload(reason.WS(), reason.String())),
	}
}

// Writable is called when the link of a connection has room again after a short Write.
func (s *Server) Writable(incarnation uint64) {
	if t, ok := s.stuck.LoadAndDelete(incarnation); ok {
		t.(*Socket).unstick()
	}
	if c := s.cfg.Hub.Find(incarnation); c != nil {
		c.Writable()
	}
}

// normalOrigin returns an origin in the form in which origins are compared.
func normalOrigin(o string) (string, bool) {
	scheme, host, ok := originHost(o)
	return scheme + "://" + host, ok
}

// originHost takes an origin apart; the default port of its scheme is left out.
func originHost(o string) (scheme, host string, ok bool) {
	u, err := url.Parse(o)
	if err != nil || u.Scheme == "" || u.Host == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", "", false
	}
	scheme = strings.ToLower(u.Scheme)
	return scheme, withoutPort(strings.ToLower(u.Host), scheme), true
}

// withoutPort cuts off the port that a scheme has by itself.
func withoutPort(host, scheme string) string {
	switch scheme {
	case "http", "ws":
		return strings.TrimSuffix(host, ":80")
	case "https", "wss":
		return strings.TrimSuffix(host, ":443")
	}
	return host
}

// Allowed reports whether a page of an origin may connect. A client that names none is no page.
func (s *Server) Allowed(origin, host string) bool {
	if origin == "" || s.origins["*"] {
		return true
	}
	scheme, at, ok := originHost(origin)
	if !ok {
		return false
	}
	return at == withoutPort(strings.ToLower(host), scheme) || s.origins[scheme+"://"+at]
}

// handshakeText is how large a text message may be before the login.
const handshakeText = textFactor * frame.HandshakeMax
