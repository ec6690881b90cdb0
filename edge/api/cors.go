package api

import (
	"fmt"
	"net/url"
	"slices"

	"github.com/cloudwego/hertz/pkg/app"
)

// What pages of other origins may do where they may do anything at all. Tokens travel in a
// header that a page sets by itself, never in cookies, so Allow-Credentials is never said.
const (
	corsMethods = "GET, POST, PUT, PATCH, DELETE"
	corsHeaders = "Authorization, Content-Type, Idempotency-Key, X-Request-ID"
	corsExposed = "Retry-After, X-Request-ID"
	corsMaxAge  = "600" // seconds
)

// checkOrigin reports whether s is what a browser may say in Origin, or *.
func checkOrigin(s string) error {
	if s == "*" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || s != u.Scheme+"://"+u.Host {
		return fmt.Errorf("api: %q is no origin: want such as https://example.org, or *", s)
	}
	return nil
}

// cors lets pages of the configured origins read the answer, and answers for a browser that asks
// whether it may send a request at all: then it returns true, and nothing else is to be done.
func (s *Server) cors(c *app.RequestContext) (done bool) {
	if len(s.cfg.Origins) == 0 {
		return false
	}
	h := &c.Response.Header
	any := slices.Contains(s.cfg.Origins, "*")
	if !any {
		h.Add("Vary", "Origin")
	}
	origin := string(c.Request.Header.Peek("Origin"))
	if origin == "" || !any && !slices.Contains(s.cfg.Origins, origin) {
		return false
	}
	if any {
		origin = "*"
	}
	h.Set("Access-Control-Allow-Origin", origin)
	if string(c.Method()) != "OPTIONS" || len(c.Request.Header.Peek("Access-Control-Request-Method")) == 0 {
		h.Set("Access-Control-Expose-Headers", corsExposed)
		return false
	}
	h.Set("Access-Control-Allow-Methods", corsMethods)
	h.Set("Access-Control-Allow-Headers", corsHeaders)
	h.Set("Access-Control-Max-Age", corsMaxAge)
	c.SetStatusCode(204)
	return true
}
