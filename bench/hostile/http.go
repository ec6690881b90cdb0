package hostile

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gochat-im/gochat/protocol/auth"
)

const loginPath = "/api/v1/auth/login"

// post is the head of a request whose body has so many bytes.
func post(path string, length int) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: gochat\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, length)
}

// respond reads the answer to an HTTP request and counts it.
func (c *client) respond(ctx context.Context, within time.Duration) {
	label := c.response(time.Now().Add(within))
	if label == "" {
		if ctx.Err() == nil || within == 0 {
			c.missed(ctx, silence)
		}
		return
	}
	c.answer(label)
	if label == httpCut {
		c.finish()
	}
}

// response returns the label of what the server answers, "" for nothing by then.
func (c *client) response(by time.Time) string {
	_ = c.nc.SetReadDeadline(by)
	resp, err := http.ReadResponse(bufio.NewReader(c.nc), nil)
	var op *net.OpError
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return ""
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.As(err, &op):
		return httpCut
	case err != nil:
		return garbled
	}
	defer resp.Body.Close()
	if resp.Close {
		c.finish()
	}
	if resp.Header.Get("Access-Control-Allow-Origin") != "" {
		return shared
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode < 300 {
		return fmt.Sprintf("http %d", resp.StatusCode)
	}
	var r auth.Refused
	if err != nil || json.Unmarshal(b, &r) != nil || r.Error.Name == "" {
		return fmt.Sprintf("http %d without its error", resp.StatusCode)
	}
	if resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") == "" {
		return hasty
	}
	return fmt.Sprintf("http %d %s", resp.StatusCode, r.Error.Name)
}

func (c *client) ask(ctx context.Context, request []byte) {
	if c.dialTo(ctx, c.HTTP, false) {
		c.write(request, 1)
		c.respond(ctx, patience)
	}
}

func httpOversized(ctx context.Context, c *client) {
	body := bytes.Repeat([]byte(" "), 256<<10)
	if c.turn%2 == 0 {
		c.ask(ctx, append([]byte(post(loginPath, len(body))), body...))
		return
	}
	head := strings.Replace(post(loginPath, 0), "Content-Length: 0", "Transfer-Encoding: chunked", 1)
	c.ask(ctx, append(fmt.Appendf([]byte(head), "%x\r\n", len(body)), body...))
}

// httpSlow sends a byte a second, of the head or of the body.
func httpSlow(ctx context.Context, c *client) {
	if !c.dialTo(ctx, c.HTTP, false) {
		return
	}
	rest := []byte(post(loginPath, 60))
	if c.n%2 == 0 {
		c.write(rest, 0)
		rest = bytes.Repeat([]byte(" "), 60)
	}
	c.count(0, 1, 0)
	for by := time.Now().Add(handshakeSlack); ctx.Err() == nil && len(rest) > 0; rest = rest[1:] {
		c.write(rest[:1], 0)
		if label := c.response(time.Now().Add(time.Second)); label != "" {
			c.answer(label)
			c.finish()
			return
		}
		if time.Now().After(by) {
			c.missed(ctx, silence)
			return
		}
	}
}

func httpMalformed(ctx context.Context, c *client) {
	requests := []string{
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"GET\r\n\r\n",
		"POST " + loginPath + " HTTP/1.1\r\nHost: gochat\r\nContent-Length: -1\r\n\r\n",
		"GET /api/v1/nothing HTTP/1.1\r\nHost: gochat\r\n\r\n",
		"GET " + loginPath + " HTTP/1.1\r\nHost: gochat\r\n\r\n",
		"GET /healthz HTTP/1.1\r\nHost: gochat\r\nX-Long: " + strings.Repeat("x", 32<<10) + "\r\n\r\n",
		post(loginPath, 2) + "\xff\xfe",
		post(loginPath, 2) + "[]",
		strings.Replace(post(loginPath, 2), "application/json", "text/plain", 1) + "{}",
	}
	c.ask(ctx, []byte(requests[(c.turn+c.n)%len(requests)]))
}

func httpLogins(ctx context.Context, c *client) {
	body := fmt.Sprintf(`{"name":"admin","password":"guess number %d","device_id":"d"}`, c.turn)
	path := loginPath
	if c.turn%10 == 9 {
		path = "/api/v1/auth/register"
	}
	c.ask(ctx, []byte(post(path, len(body))+body))
}

// httpHold opens connections that say nothing.
func httpHold(ctx context.Context, c *client) {
	var held []*client
	for range 300 {
		d := &client{attack: c.attack, tally: c.tally, index: c.index, n: c.n, source: c.source}
		if !d.dialTo(ctx, c.HTTP, false) {
			break
		}
		held = append(held, d)
	}
	for _, d := range held {
		for by := time.Now().Add(handshakeSlack); ctx.Err() == nil; {
			if label := d.response(time.Now().Add(200 * time.Millisecond)); label != "" {
				d.answer(label)
				d.finish()
				break
			}
			if time.Now().After(by) {
				d.missed(ctx, silence)
				break
			}
		}
		d.close()
	}
}
