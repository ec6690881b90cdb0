package api

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"mime"
	"net/netip"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cloudwego/hertz/pkg/app"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Access says whose token a route wants.
type Access uint8

// The kinds of access.
const (
	Open Access = iota // no token
	User               // a user's access token
	Key                // a server API key
)

// Caller is who a request comes from.
type Caller struct {
	User   id.UserID   // of a user's token
	Device id.DeviceID // of a user's token; empty: it is good for any
	Key    string      // the id of a server key; with User: acting as that user
	Scopes []string    // of a server key; shared, read only
}

// Identify says whose token it is: a user's or a server key, as access demands. It may block until ctx ends.
//
// as is the user that the header X-User-ID names, empty if none: a server key that may do so acts as
// that user where a user's token is wanted. A user's token with a header must be of that user.
type Identify func(ctx context.Context, access Access, token string, as id.UserID) (Caller, *code.Error)

// Route is a route beside those that the Server has by itself.
type Route struct {
	Method    string
	Path      string // with :name for parameters, each a whole segment
	Access    Access
	PerMinute int  // requests a minute of one user or key, or of one address of an Open route, on top of the limits that all share; 0: those alone
	Body      bool // takes a JSON object; without, none but an empty one is allowed
	Serve     func(ctx context.Context, r *Request) (*Answer, error)
}

// Answer is what a Route answers.
type Answer struct {
	Status int    // 0: 200
	Type   string // empty: application/json
	Body   []byte
	Header [][2]string // names and values
}

// bearer returns the token of the Authorization header.
func bearer(c *app.RequestContext) (string, *code.Error) {
	scheme, token, ok := strings.Cut(string(c.Request.Header.Peek("Authorization")), " ")
	if token = strings.TrimSpace(token); !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", code.Newf(code.Unauthenticated, "the Authorization header needs a bearer token")
	}
	return token, nil
}

// handler returns what serves a route: limits first, then who it is, then the body, then the work.
func (s *Server) handler(rt Route) app.HandlerFunc {
	var per *limiter[string]
	if rt.PerMinute > 0 {
		per = newLimiter[string](rt.PerMinute, s.cfg.Addresses)
	}
	return func(ctx context.Context, c *app.RequestContext) {
		r := &Request{Addr: s.client(c), ID: givenID(c), c: c}
		who := r.Addr.String()
		if rt.Access != Open {
			caller, err := s.identify(ctx, c, rt.Access, r.Addr)
			if err != nil {
				s.refuse(c, 0, err)
				return
			}
			r.Caller = caller
			who = "user " + string(caller.User)
			if caller.Key != "" {
				who = "key " + caller.Key
				defer s.audit(c, r, rt.Method)
			}
			if wait := s.calls.take(who, time.Now()); wait > 0 {
				s.refuse(c, 0, limited(wait))
				return
			}
		}
		if per != nil {
			if wait := per.take(who, time.Now()); wait > 0 {
				s.refuse(c, 0, limited(wait))
				return
			}
		}
		if rt.Body {
			body, status, err := object(c, s.cfg.MaxBody)
			if err != nil {
				s.refuse(c, status, err)
				return
			}
			r.body = body
		} else if b := bytes.TrimSpace(c.Request.Body()); len(b) > 0 && string(b) != "{}" {
			s.refuse(c, 0, code.Newf(code.BadRequest, "this route takes no body"))
			return
		}
		a, err := rt.Serve(ctx, r)
		if err != nil {
			s.refuse(c, 0, asError(err))
			return
		}
		for _, h := range a.Header {
			c.Response.Header.Set(h[0], h[1])
		}
		kind, status := a.Type, a.Status
		if kind == "" {
			kind = "application/json"
		}
		if status == 0 {
			status = 200
		}
		c.Data(status, kind, a.Body)
	}
}

// identify checks the token of a request. Who shows bad ones again and again is refused before
// anything is checked: a signature costs more than the request did.
func (s *Server) identify(ctx context.Context, c *app.RequestContext, access Access, from netip.Addr) (Caller, *code.Error) {
	token, err := bearer(c)
	if err != nil {
		return Caller{}, err
	}
	now := time.Now()
	if wait := s.forged.wait(neighbours(from), now); wait > 0 {
		return Caller{}, limited(wait)
	}
	as := id.UserID(c.Request.Header.Peek("X-User-ID"))
	if as != "" && !as.Valid() {
		return Caller{}, code.Newf(code.BadRequest, "X-User-ID is no user id")
	}
	caller, err := s.cfg.Identify(ctx, access, token, as)
	if err != nil && (err.Code == code.Unauthenticated || err.Code == code.SessionRevoked) {
		s.forged.take(neighbours(from), now)
	}
	return caller, err
}

// audit leaves a line of whatever a server key was used for.
func (s *Server) audit(c *app.RequestContext, r *Request, method string) {
	level := slog.LevelInfo
	if method == "GET" {
		level = slog.LevelDebug
	}
	s.cfg.Logger.Log(context.Background(), level, "server key used", "key", r.Caller.Key, "method", method, "route", c.FullPath(), "path", string(c.Path()),
		"as", r.Caller.User, "status", c.Response.StatusCode(), "addr", r.Addr, "request_id", r.ID)
}

func limited(wait time.Duration) *code.Error {
	err := code.New(code.RateLimited)
	err.RetryAfter = wait
	return err
}

// object returns the body if it is a JSON object that no reader could misread; else why not, with
// the HTTP status if it isn't that of the code.
func object(c *app.RequestContext, limit int) (body []byte, httpStatus int, _ *code.Error) {
	kind, params, err := mime.ParseMediaType(string(c.Request.Header.ContentType()))
	if cs := params["charset"]; err != nil || kind != "application/json" || cs != "" && !strings.EqualFold(cs, "utf-8") {
		return nil, 415, code.Newf(code.BadRequest, "the body must be application/json")
	}
	body = bytes.TrimSpace(c.Request.Body())
	switch {
	case len(body) > limit:
		return nil, 0, code.Newf(code.ContentTooLarge, "the body is larger than %d bytes", limit)
	case !utf8.Valid(body):
		return nil, 0, code.Newf(code.InvalidUTF8, "the body isn't valid UTF-8")
	case len(body) == 0 || body[0] != '{':
		return nil, 0, code.Newf(code.BadRequest, "the body must be a JSON object")
	}
	if err := unambiguous(body); err != nil {
		return nil, 0, err
	}
	return body, 0, nil
}

// asError returns err as what is answered.
func asError(err error) *code.Error {
	var e *code.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return code.Wrap(code.Unavailable, err)
	}
	return code.Wrap(code.Internal, err)
}

// retryAfter is a wait in whole seconds, rounded up.
func retryAfter(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}
