package api

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	k.bind(sock, up)
	c.SetStatusCode(101) // for whoever counts answers
	c.Response.HijackWriter(&switching{conn: k, sock: sock, answer: fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\n"+
		"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: %s\r\nX-Request-ID: %s\r\n\r\n",
		a.Accept, a.Protocol, givenID(c))})
	c.SetHijackHandler(func(network.Conn) { k.upgrade(sock, up) })
}

// switching answers in place of the engine, which would leave the connection a write buffer
// that it never needs again.
type switching struct {
	conn   *conn
	sock   *tcp.Socket
	answer []byte
}

// Write is for bodies. What follows is not HTTP's.
func (w *switching) Write([]byte) (int, error) {
	return 0, errors.New("api: the answer is written already")
}

// Flush has nothing to do: Finalize writes.
func (w *switching) Flush() error { return nil }

// Finalize is called by the engine instead of writing the answer.
func (w *switching) Finalize() error {
	if w.conn.secure != nil {
		_, err := w.conn.secure.Write(w.answer)
		return err
	}
	n, err := w.sock.Write(w.answer)
	if err == nil && n < len(w.answer) {
		err = io.ErrShortWrite // of a socket that nothing was written to
	}
	return err
}

// upper is what an upgraded connection's bytes go to.
type upper interface {
	tcp.Upper
	Start() // it may write from now on
}

// bind has up hear of the connection's end.
func (c *conn) bind(sock *tcp.Socket, up upper) {
	sock.Bind(up)
	c.holder.sock = sock
}

// upgrade hands the connection over. It is called when the answer was sent, by the goroutine
// that serves the connection.
func (c *conn) upgrade(sock *tcp.Socket, up upper) {
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
