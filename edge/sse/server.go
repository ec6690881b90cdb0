// Package sse is GoChat's protocol where WebSockets are blocked: server-sent events down,
// bodies of POST requests up, one conn.Conn between them.
//
// It is a Transport on top of a Transport, like edge/ws: the response that never ends is the
// connection, and no goroutine waits for it. Reading HTTP is not its business: whoever does asks
// Check, then Open, answers with Head and hands later requests to Post.
package sse

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/protocol/code"
)

// The forms of the protocol, named like the subprotocols of WebSockets.
const (
	Frames = "gochat.v1"      // an event is one frame in base64, a body any bytes of the stream of frames
	JSON   = "gochat.v1.json" // an event is one packet, a body one or an array of them
)

const maxToken = 4096 // bytes of an access token

// Config says who may connect. Zero values mean the default given with each field.
type Config struct {
	Hub *hub.Hub // needed

	// Page reports whether a page of an origin may connect to a host. Needed. An empty origin is no page's.
	Page func(origin, host string) bool

	KeepAlive time.Duration // silence after which a comment is sent, for the proxies on the way; 25 s
	Logger    *slog.Logger  // nothing is logged by default
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	if c.Hub == nil {
		errs = append(errs, errors.New("sse: a hub is needed"))
	}
	if c.Page == nil {
		errs = append(errs, errors.New("sse: nothing tells which pages may connect"))
	}
	if c.KeepAlive < 0 {
		errs = append(errs, fmt.Errorf("sse: keep alive %v: want more than 0", c.KeepAlive))
	}
	return errors.Join(errs...)
}

// Server makes streams of requests.
type Server struct {
	cfg Config

	opened, refused, lost, comments atomic.Uint64

	streams sync.Map // incarnation -> *Stream that has not ended
	stuck   sync.Map // incarnation -> *Stream with something of its own that waits for room
	walked  atomic.Int64
}

// Stats are counts since New.
type Stats struct {
	Opened  uint64
	Refused uint64 // requests that became no stream, or one that only told the client to go elsewhere
	Lost    uint64 // bodies for streams that there are none of, any more or ever

	Comments uint64 // sent to keep ways open
}

// Stats returns the counts so far.
func (s *Server) Stats() Stats {
	return Stats{Opened: s.opened.Load(), Refused: s.refused.Load(), Lost: s.lost.Load(), Comments: s.comments.Load()}
}

// New checks cfg and returns a Server.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.KeepAlive == 0 {
		cfg.KeepAlive = 25 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg}, nil
}

// Request is what an HTTP request for a stream says.
type Request struct {
	Host, Origin, Accept           string
	Protocol                       string // of the query
	Authorization, TokenOfTheQuery string
}

// Wish is what a good request asks for.
type Wish struct {
	json  bool
	token string
}

// Check looks at a request for a stream. status 0 means the one registered for the code.
func (s *Server) Check(r *Request) (w *Wish, status int, err *code.Error) {
	defer func() {
		if err != nil {
			s.refused.Add(1)
		}
	}()
	if !accepted(r.Accept) {
		return nil, 406, code.Newf(code.BadRequest, "this route answers text/event-stream")
	}
	if !s.cfg.Page(r.Origin, r.Host) {
		return nil, 0, code.Newf(code.Forbidden, "pages of this origin may not connect")
	}
	w = &Wish{}
	switch r.Protocol {
	case JSON, "":
		w.json = true
	case Frames:
	default:
		return nil, 0, code.Newf(code.BadRequest, "protocol is neither %s nor %s", Frames, JSON)
	}
	if scheme, token, ok := strings.Cut(r.Authorization, " "); ok && strings.EqualFold(scheme, "Bearer") {
		w.token = strings.TrimSpace(token)
	}
	if w.token == "" {
		w.token = r.TokenOfTheQuery
	}
	if len(w.token) > maxToken {
		return nil, 0, code.Newf(code.Unauthenticated, "the token has more than %d bytes", maxToken)
	}
	w.token = strings.Clone(w.token) // the rest of the header is let go
	return w, 0, nil
}

// accepted reports whether an Accept header lets events through.
func accepted(header string) bool {
	if header == "" {
		return true
	}
	for kind := range strings.SplitSeq(header, ",") {
		kind, _, _ = strings.Cut(kind, ";")
		switch strings.ToLower(strings.TrimSpace(kind)) {
		case "text/event-stream", "text/*", "*/*":
			return true
		}
	}
	return false
}

// Link carries the bytes of the response. Writable is called for it by its incarnation.
type Link = conn.Transport

// Upper is behind an answer that doesn't end: a Stream, or what only sends the client elsewhere.
type Upper interface {
	conn.Upper
	Head() []byte // begins the answer's body
	Start()       // the request was answered
}

// turned is a stream that only tells its client where else to go, and takes no bodies.
type turned struct {
	*hub.Turned
	key string // of no stream
}

func (u turned) Head() []byte { return openEvent(u.key) }

// Open admits a stream over link, for a request that Check found good, or says why not. The
// caller answers the request with Head and then calls Start; until then nothing is written. While this edge leaves nobody is admitted, but
// clients are told by a stream where else to go.
func (s *Server) Open(link Link, w *Wish) (Upper, *code.Error) {
	t := &Stream{s: s, link: link, json: w.json, token: w.token, turn: make(chan struct{}, 1)}
	t.turn <- struct{}{}          // until Start: a body may come before the one who sent the answer is back
	_, _ = rand.Read(t.secret[:]) // never fails
	c, refused := s.cfg.Hub.Open(t, link.RemoteAddr().Addr())
	if refused != nil {
		s.refused.Add(1)
		form := hub.Form{Web: true, Frame: t.appendEvents, End: appendClose(nil, refused.Code)}
		if u := s.cfg.Hub.TurnAway(link, refused, form); u != nil {
			return turned{u, t.key(0)}, nil
		}
		return nil, refused
	}
	t.c = c
	s.streams.Store(c.Incarnation(), t)
	s.opened.Add(1)
	return t, nil
}

// keyBytes is a key before base64: which stream, and the 16 random bytes that only its client knows.
const keyBytes = 8 + 16

// key is what its client names the stream of an incarnation by.
func (t *Stream) key(incarnation uint64) string {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, keyBytes), incarnation)
	return base64.RawURLEncoding.EncodeToString(append(b, t.secret[:]...))
}

// find returns the stream of a key, nil if there is none. Streams are looked up by a number that is no
// secret; the secret is compared in a time that doesn't depend on it.
func (s *Server) find(key string) *Stream {
	var b [keyBytes]byte
	if len(key) != base64.RawURLEncoding.EncodedLen(keyBytes) {
		return nil
	}
	if _, err := base64.RawURLEncoding.Strict().Decode(b[:], []byte(key)); err != nil {
		return nil
	}
	v, ok := s.streams.Load(binary.BigEndian.Uint64(b[:]))
	if !ok {
		return nil
	}
	t := v.(*Stream)
	if subtle.ConstantTimeCompare(t.secret[:], b[8:]) != 1 {
		return nil
	}
	return t
}

// Post hands a body to the stream of a key. found is false for a key that is of no stream, and then err says so.
func (s *Server) Post(ctx context.Context, key string, p *Body) (found bool, status int, err *code.Error) {
	t := s.find(key)
	if t == nil {
		s.lost.Add(1)
		return false, 410, gone()
	}
	if !s.cfg.Page(p.Origin, p.Host) {
		return true, 0, code.Newf(code.Forbidden, "pages of this origin may not connect")
	}
	status, err = t.post(ctx, p)
	return true, status, err
}

func gone() *code.Error {
	return code.Newf(code.NotConnected, "there is no such stream, or it has ended")
}

// Writable is called when the link of a connection has room again after a short Write.
func (s *Server) Writable(incarnation uint64) {
	if t, ok := s.stuck.LoadAndDelete(incarnation); ok {
		t.(*Stream).unstick()
	}
	if c := s.cfg.Hub.Find(incarnation); c != nil {
		c.Writable()
	}
}

// KeepAlive writes a comment to every stream that has been silent for long. It is called now and
// then, by one goroutine, and looks at all streams once a second at most.
func (s *Server) KeepAlive(now time.Time) {
	if now.UnixNano()-s.walked.Load() < int64(min(time.Second, s.cfg.KeepAlive)) {
		return
	}
	s.walked.Store(now.UnixNano())
	before := now.Add(-s.cfg.KeepAlive).UnixNano()
	s.streams.Range(func(_, v any) bool {
		v.(*Stream).comment(before)
		return true
	})
}
