package hostile

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// apiKinds are the ways to misbehave with the HTTP API's tokens, bodies and pages.
var apiKinds = []kind{
	{name: "HTTP: forged tokens and keys", clients: 2, every: 200 * time.Millisecond, sources: 2,
		allowed: []string{"http 401 unauthenticated", "http 429 rate_limited"},
		want:    []string{"http 401 unauthenticated", "http 429 rate_limited"}, script: httpForged},
	{name: "HTTP: expired tokens", clients: 2, every: 300 * time.Millisecond,
		allowed: []string{"http 401 token_expired"}, want: []string{"http 401 token_expired"}, script: httpExpired},
	{name: "HTTP: malformed JSON", clients: 2, every: 100 * time.Millisecond,
		allowed: []string{"http 400 bad_request", "http 400 invalid_utf8", "http 413 content_too_large", "http 429 rate_limited"},
		want:    []string{"http 400 bad_request", "http 400 invalid_utf8", "http 413 content_too_large"}, script: httpBadJSON},
	{name: "HTTP: pages of others", clients: 2, every: 200 * time.Millisecond,
		allowed: []string{"http 401 bad_credentials", "http 401 unauthenticated", "http 403 forbidden", "http 404 unknown_method", "http 405 bad_request", "http 415 bad_request", "http 429 rate_limited"},
		want:    []string{"http 401 unauthenticated", "http 403 forbidden", "http 405 bad_request", "http 415 bad_request"}, script: httpOtherPages},
	{name: "HTTP: calls without end", clients: 4, every: 5 * time.Millisecond,
		allowed: []string{"http 200", "http 429 rate_limited"}, want: []string{"http 200", "http 429 rate_limited"}, script: httpCalls},
}

// get is a request for path with a token.
func get(path, token string) string {
	return "GET " + path + " HTTP/1.1\r\nHost: gochat\r\nAuthorization: Bearer " + token + "\r\n\r\n"
}

// authorized is post with a token.
func authorized(path, token, body string) string {
	return strings.Replace(post(path, len(body)), "Host: gochat\r\n", "Host: gochat\r\nAuthorization: Bearer "+token+"\r\n", 1) + body
}

func httpForged(ctx context.Context, c *client) {
	token, err := c.tokens.forged(c.turn/2+c.n, c.user())
	if err != nil {
		c.fault(err)
		return
	}
	request := get("/api/v1/users/me", token)
	if c.turn%2 == 1 {
		request = get("/api/v1/admin/online?user_id=a", fmt.Sprintf("gck_%032x", c.turn))
	}
	c.ask(ctx, []byte(request))
}

func httpExpired(ctx context.Context, c *client) {
	token, err := c.tokens.expired(c.user())
	if err != nil {
		c.fault(err)
		return
	}
	c.ask(ctx, []byte(get("/api/v1/conversations", token)))
}

// badBodies are of POST /messages: none of them is a message that may be stored.
var badBodies = []string{
	"", "null", "[]", `"text"`, `{`, `{"receiver_id":"x","content":"x"`, `{"receiver_id":"x","content":"x"}}`, `{"receiver_id":"x","content":"x"} {}`,
	`{"receiver_id":"x","receiver_id":"y","content":"x"}`, `{"receiver_id":"x","conte\u006et":"x","content":"y"}`, `{"receiver_id":7,"content":"x"}`,
	`{"receiver_id":"x","content":"x","admin":true}`, `{"receiver_id":"x","content":"x","msg_type":1e400}`, `{"receiver_id":"x","content":"x","msg_type":-1}`,
	`{"receiver_id":"x","content":"x","msg_type":64}`, `{"receiver_id":"x\u0000","content":"x"}`, `{"receiver_id":"x","content":"x","client_msg_id":"no uuid"}`,
	"\xef\xbb\xbf{}", "{\"receiver_id\":\"x\",\"content\":\"\xff\xfe\"}", "{\x00\"\x00}\x00",
	strings.Repeat(`{"ext":`, 5000), `{"receiver_id":"x","content":` + strings.Repeat("[", 50_000), `{"receiver_id":"x","content":"` + strings.Repeat("x", 100<<10) + `"}`,
}

func httpBadJSON(ctx context.Context, c *client) {
	token, err := c.tokens.of(c.user())
	if err != nil {
		c.fault(err)
		return
	}
	c.ask(ctx, []byte(authorized("/api/v1/messages", token, badBodies[(c.turn+c.n)%len(badBodies)])))
}

// httpOtherPages is what a page of another site can have a browser send: nothing of it may be answered as if that site
// were let in, and none of it is signed in.
func httpOtherPages(ctx context.Context, c *client) {
	const page = "Host: gochat\r\nOrigin: https://evil.example\r\nCookie: token=x\r\n"
	guess := `{"name":"admin","password":"a guess of a page","device_id":"d"}`
	requests := []string{
		"OPTIONS " + loginPath + " HTTP/1.1\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n" + page + "\r\n",
		"OPTIONS /api/v1/messages HTTP/1.1\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n" + page + "\r\n",
		"GET /api/v1/users/me HTTP/1.1\r\n" + page + "\r\n",
		strings.Replace(strings.Replace(post(loginPath, len(guess)), "application/json", "text/plain", 1), "Host: gochat\r\n", page, 1) + guess,
		strings.Replace(post(loginPath, len(guess)), "Host: gochat\r\n", page, 1) + guess,
		"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\nSec-WebSocket-Protocol: gochat.v1\r\n" + page + "\r\n",
	}
	c.ask(ctx, []byte(requests[(c.turn+c.n)%len(requests)]))
}

// httpCalls asks on and on with a good token.
func httpCalls(ctx context.Context, c *client) {
	token, err := c.tokens.of(c.user())
	if err != nil {
		c.fault(err)
		return
	}
	c.ask(ctx, []byte(get("/api/v1/users/me", token)))
}
