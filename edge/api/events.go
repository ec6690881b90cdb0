package api

import (
	"context"
	"fmt"
	"mime"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/hertz/pkg/network"

	"github.com/gochat-im/gochat/edge/sse"
	"github.com/gochat-im/gochat/edge/tcp"
	"github.com/gochat-im/gochat/protocol/code"
)

// events makes a stream of server-sent events of the connection, or says why not. It has no
// length and ends with the connection, which HTTP/1.0 knows, too: what proxies speak by default.
func (s *Server) events(_ context.Context, c *app.RequestContext) {
	k, ok := c.GetConn().(*conn)
	if !ok {
		s.refuse(c, 0, code.Newf(code.BadRequest, "events need a connection"))
		return
	}
	h := &c.Request.Header
	w, status, err := s.cfg.Events.Check(&sse.Request{
		Host: string(c.Host()), Origin: string(h.Peek("Origin")), Accept: string(h.Peek("Accept")),
		Protocol: c.Query("protocol"), Authorization: string(h.Peek("Authorization")), TokenOfTheQuery: c.Query("token"),
	})
	if err != nil {
		s.refuse(c, status, err)
		return
	}
	sock, aerr := s.streams.Adopt(k.raw, netip.AddrPortFrom(s.client(c), k.port), tcp.SendBuffer)
	if aerr != nil {
		s.refuse(c, 0, code.Wrap(code.Internal, aerr))
		return
	}
	up, err := s.cfg.Events.Open(sock, w)
	if err != nil {
		s.refuse(c, 0, err)
		return
	}
	k.bind(sock, up)
	c.SetStatusCode(200) // for whoever counts answers
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store, no-transform\r\n" +
		"X-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n")
	for _, name := range [...]string{"X-Request-ID", "Vary", "Access-Control-Allow-Origin", "Access-Control-Expose-Headers"} {
		if v := c.Response.Header.Peek(name); len(v) > 0 {
			answer = fmt.Appendf(answer, "%s: %s\r\n", name, v)
		}
	}
	answer = append(append(answer, "\r\n"...), up.Head()...)
	c.Response.HijackWriter(&switching{conn: k, sock: sock, answer: answer})
	c.SetHijackHandler(func(network.Conn) { k.upgrade(sock, up) })
}

// post takes a body for a stream. Whoever names keys that are none has to wait after some, like
// whoever shows forged tokens; who has a stream never does.
func (s *Server) post(ctx context.Context, c *app.RequestContext) {
	kind, _, err := mime.ParseMediaType(string(c.Request.Header.ContentType()))
	if err != nil {
		kind = ""
	}
	seq, err := strconv.ParseUint(c.Query("seq"), 10, 64)
	if err != nil || seq == 0 {
		s.refuse(c, 0, code.Newf(code.BadRequest, "seq numbers the bodies of a stream: want 1, 2, 3 ..."))
		return
	}
	found, status, refused := s.cfg.Events.Post(ctx, strings.Clone(c.Param("key")), &sse.Body{
		Host: string(c.Host()), Origin: string(c.Request.Header.Peek("Origin")), Seq: seq, Type: kind, Bytes: c.Request.Body(),
	})
	if !found {
		if wait := s.guesses.take(neighbours(s.client(c)), time.Now()); wait > 0 {
			status, refused = 0, limited(wait)
		}
	}
	if refused != nil {
		s.refuse(c, status, refused)
		return
	}
	c.SetStatusCode(204)
}
