package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/bytedance/sonic"
	"github.com/cloudwego/hertz/pkg/app"

	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/trace"
)

// strict reads JSON as the routes promise. Strings are copied: the engine reuses the body's memory.
var strict = sonic.Config{DisallowUnknownFields: true, ValidateString: true, CopyString: true, CaseSensitive: true, UseUnicodeErrors: true}.Froze()

type status struct {
	Status string `json:"status"`
}

// headerID is where a request's id goes, and where it is known from.
const headerID = "X-Request-ID"

// givenID is the id that around has given a request.
func givenID(c *app.RequestContext) string { return string(c.Response.Header.Peek(headerID)) }

// around is around every request: its id, its time, its deadline, and what becomes of a panic.
func (s *Server) around(_ context.Context, c *app.RequestContext) {
	start := time.Now()
	k, tracked := c.GetConn().(*conn)
	if tracked {
		k.enter(phaseHandle, 0) // the context bounds it
	}
	rid := requestID(c)
	c.Response.Header.Set(headerID, rid)
	c.Response.Header.Set("X-Content-Type-Options", "nosniff")
	c.Response.Header.Set("Cache-Control", "no-store")
	ctx, cancel := context.WithTimeout(trace.With(s.base, trace.Call{Request: rid}), s.cfg.HandlerTimeout)
	defer func() {
		cancel()
		if r := recover(); r != nil {
			s.cfg.Logger.Error("a route panicked", "route", c.FullPath(), "request_id", rid, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			c.Response.ResetBody()
			s.refuse(c, 0, code.New(code.Internal))
		}
		if tracked {
			k.enter(phaseWrite, s.cfg.WriteTimeout)
		}
		s.cfg.Observe(c.FullPath(), c.Response.StatusCode(), time.Since(start))
	}()
	if s.cors(c) {
		c.Abort()
		return
	}
	c.Next(ctx)
	if c.Response.StatusCode() == 400 && !c.Response.HasBodyBytes() { // the engine found nobody to ask, and would say so in a text of its own
		c.SetConnectionClose()
		s.refuse(c, 0, code.Newf(code.BadRequest, "the request names no host, or no path"))
	}
}

// allowed returns the methods that a path may be asked for with.
func (s *Server) allowed(path string) string {
	var methods []string
	at := strings.Split(path, "/")
	for _, r := range s.engine.Routes() {
		leads := func(want, is string) bool { return want == is || strings.HasPrefix(want, ":") && is != "" }
		if slices.EqualFunc(strings.Split(r.Path, "/"), at, leads) {
			methods = append(methods, r.Method)
		}
	}
	slices.Sort(methods)
	return strings.Join(slices.Compact(methods), ", ")
}

// requestID takes over the client's X-Request-ID if it is harmless, else makes one.
func requestID(c *app.RequestContext) string {
	b := c.Request.Header.Peek("X-Request-ID")
	ok := len(b) > 0 && len(b) <= 64
	for _, ch := range b {
		ok = ok && (ch >= '0' && ch <= '9' || ch >= 'A' && ch <= 'Z' || ch >= 'a' && ch <= 'z' || ch == '-' || ch == '_' || ch == '.')
	}
	if ok {
		return string(b)
	}
	return newRequestID()
}

func newRequestID() string {
	var r [8]byte
	_, _ = rand.Read(r[:]) // never fails
	return hex.EncodeToString(r[:])
}

// client returns the address that a request comes from: the peer's, or what a trusted proxy
// says of it. X-Forwarded-For is read from its end, where our own proxies wrote, up to the
// first address that isn't one of them; what stands before that is the client's own claim.
func (s *Server) client(c *app.RequestContext) netip.Addr {
	k, ok := c.GetConn().(*conn)
	if !ok {
		return netip.Addr{}
	}
	at := k.peer
	if !within(s.cfg.TrustedProxies, at) {
		return at
	}
	var hops []string
	for _, h := range c.Request.Header.PeekAll("X-Forwarded-For") {
		hops = append(hops, strings.Split(string(h), ",")...)
	}
	for i := len(hops) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		at = a.Unmap()
		if !within(s.cfg.TrustedProxies, at) {
			break
		}
	}
	return at
}

// limited lets an address through as often as it may.
func (s *Server) limited(ctx context.Context, c *app.RequestContext) {
	if wait := s.limiter.take(neighbours(s.client(c)), time.Now()); wait > 0 {
		s.refuse(c, 0, limited(wait))
		c.Abort()
		return
	}
	c.Next(ctx)
}

func (s *Server) register(ctx context.Context, c *app.RequestContext) {
	var in auth.Credentials
	if s.read(c, &in) {
		s.granted(c)(s.cfg.Accounts.Register(ctx, in.Name, in.Password, id.DeviceID(in.DeviceID), uint8(in.DeviceKind)))
	}
}

func (s *Server) login(ctx context.Context, c *app.RequestContext) {
	var in auth.Credentials
	if s.read(c, &in) {
		s.granted(c)(s.cfg.Accounts.Login(ctx, in.Name, in.Password, id.DeviceID(in.DeviceID), uint8(in.DeviceKind)))
	}
}

func (s *Server) refresh(ctx context.Context, c *app.RequestContext) {
	var in auth.Refresh
	if s.read(c, &in) {
		s.granted(c)(s.cfg.Accounts.Refresh(ctx, in.RefreshToken))
	}
}

func (s *Server) logout(ctx context.Context, c *app.RequestContext) {
	var in auth.Logout
	if s.read(c, &in) {
		s.done(c, s.cfg.Accounts.Logout(ctx, in.RefreshToken, in.All))
	}
}

func (s *Server) password(ctx context.Context, c *app.RequestContext) {
	token, err := bearer(c)
	if err != nil {
		s.refuse(c, 0, err)
		return
	}
	var in auth.Password
	if s.read(c, &in) {
		s.done(c, s.cfg.Accounts.ChangePassword(ctx, token, in.Old, in.New))
	}
}

func (s *Server) ready(ctx context.Context, c *app.RequestContext) {
	if err := s.cfg.Ready(ctx); err != nil {
		s.refuse(c, 0, code.Newf(code.Unavailable, "not ready: %v", err))
		return
	}
	s.answer(c, status{"ready"})
}

// granted returns what answers a call that brings a Grant.
func (s *Server) granted(c *app.RequestContext) func(auth.Grant, *code.Error) {
	return func(g auth.Grant, err *code.Error) {
		if err != nil {
			s.refuse(c, 0, err)
			return
		}
		s.answer(c, g)
	}
}

func (s *Server) done(c *app.RequestContext, err *code.Error) {
	if err != nil {
		s.refuse(c, 0, err)
		return
	}
	s.answer(c, struct{}{})
}

// authBody is the longest body of the routes under /api/v1/auth, in bytes.
const authBody = 64 << 10

// read decodes the body into v; if it can't, it answers and returns false.
func (s *Server) read(c *app.RequestContext, v any) bool {
	body, httpStatus, err := object(c, authBody)
	if err != nil {
		s.refuse(c, httpStatus, err)
		return false
	}
	if strict.Unmarshal(body, v) != nil { // its error quotes the body
		s.refuse(c, 0, code.Newf(code.BadRequest, "the body isn't a JSON object of this route's fields"))
		return false
	}
	return true
}

func (s *Server) answer(c *app.RequestContext, v any) {
	body, err := strict.Marshal(v)
	if err != nil {
		s.refuse(c, 0, code.Wrap(code.Internal, fmt.Errorf("api: encoding an answer: %w", err)))
		return
	}
	c.Data(200, "application/json", body)
}

// refuse answers with an error; httpStatus 0 means the one registered for its code.
func (s *Server) refuse(c *app.RequestContext, httpStatus int, err *code.Error) {
	if httpStatus == 0 {
		httpStatus = err.Code.HTTP()
	}
	rid := givenID(c)
	if httpStatus >= 500 && err.Cause != nil {
		s.cfg.Logger.Error("request failed", "route", c.FullPath(), "request_id", rid, "err", err)
	} else {
		s.cfg.Logger.Debug("request refused", "route", c.FullPath(), "request_id", rid, "code", err.Code.String())
	}
	if err.RetryAfter > 0 {
		c.Response.Header.Set("Retry-After", retryAfter(err.RetryAfter))
	}
	if httpStatus == 401 && err.Code != code.BadCredentials {
		c.Response.Header.Set("WWW-Authenticate", "Bearer")
	}
	c.Data(httpStatus, "application/json", refusal(err, rid))
}

// refusal is the one shape of an error.
func refusal(err *code.Error, requestID string) []byte {
	body, merr := strict.Marshal(auth.Refused{Error: auth.Error{
		Code: uint32(err.Code), Name: err.Code.String(), Message: err.Reason,
		RetryAfterMS: (err.RetryAfter + time.Millisecond - 1).Milliseconds(), RequestID: requestID,
	}})
	if merr != nil {
		return []byte(`{"error":{"code":3999,"name":"internal","message":"the server failed","retry_after_ms":0,"request_id":""}}`)
	}
	return body
}
