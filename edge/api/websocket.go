package api

import (
	"context"
	"net/netip"
	"strings"

	"github.com/cloudwego/hertz/pkg/app"
	"github.com/cloudwego/hertz/pkg/network"

	"github.com/gochat-im/gochat/edge/tcp"
	"github.com/gochat-im/gochat/edge/ws"
	"github.com/gochat-im/gochat/protocol/code"
)

// websocket makes a WebSocket of the connection, or says why not. The answer is the engine's to
// send; then the connection is the hub's, and HTTP is over on it.
func (s *Server) websocket(_ context.Context, c *app.RequestContext) {
	k, ok := c.GetConn().(*conn)
	if !ok || !c.Request.Header.IsHTTP11() {
		s.refuse(c, 0, code.Newf(code.BadRequest, "a WebSocket needs HTTP/1.1"))
		return
	}
	header := func(name string) string {
		var list []string
		for _, v := range c.Request.Header.PeekAll(name) {
			list = append(list, string(v))
		}
		return strings.Join(list, ",")
	}
	a, status, err := s.cfg.WebSocket.Check(&ws.Request{
		Host: string(c.Host()), Origin: header("Origin"), Upgrade: header("Upgrade"), Connection: header("Connection"),
		Version: header("Sec-WebSocket-Version"), Key: header("Sec-WebSocket-Key"), Protocols: header("Sec-WebSocket-Protocol"),
		Authorization: header("Authorization"), TokenOfTheQuery: c.Query("token"),
	})
	if err != nil {
		if status == 426 {
			c.Response.Header.Set("Upgrade", "websocket")
			c.Response.Header.Set("Sec-WebSocket-Version", ws.Versions)
		}
		s.refuse(c, status, err)
		return
	}
	sock, aerr := s.sockets.Adopt(k.raw, netip.AddrPortFrom(s.client(c), k.port), tcp.SendBuffer)
	if aerr != nil {
		s.refuse(c, 0, code.Wrap(code.Internal, aerr))
		return
	}
	up, err := s.cfg.WebSocket.Open(sock, a)
	if err != nil {
		s.refuse(c, 0, err)
		return
	}
	sock.Bind(up)
	h := &c.Response.Header
	h.Set("Upgrade", "websocket")
	h.Set("Connection", "Upgrade")
	h.Set("Sec-WebSocket-Accept", a.Accept)
	h.Set("Sec-WebSocket-Protocol", a.Protocol)
	c.SetStatusCode(101)
	c.SetHijackHandler(func(network.Conn) { k.upgrade(sock, up) })
}

// upgrade hands the connection over. It is called when the answer was sent, by the goroutine
// that serves the connection.
func (c *conn) upgrade(sock *tcp.Socket, up *ws.Socket) {
	c.t.outgrown(c)
	c.sock = sock
	var session *tcp.Session
	var read []byte
	if c.secure != nil {
		session, read = c.secure.session, c.secure.in[c.secure.at:]
		c.secure.in, c.secure.at = nil, 0
	}
	sock.Begin(session)
	up.Start()
	sock.Catch(read)
}
