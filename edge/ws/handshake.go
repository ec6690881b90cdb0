package ws

import (
	"crypto/sha1"
	"encoding/base64"
	"strings"

	"github.com/gochat-im/gochat/protocol/code"
)

// Request is what an HTTP request for a WebSocket says. Header fields that came several
// times are joined by commas.
type Request struct {
	Host, Origin                   string
	Upgrade, Connection            string
	Version, Key                   string // Sec-WebSocket-*
	Protocols                      string // Sec-WebSocket-Protocol
	Authorization, TokenOfTheQuery string
}

// Answer is what a good request is answered with.
type Answer struct {
	Accept   string // Sec-WebSocket-Accept
	Protocol string // Sec-WebSocket-Protocol
	token    string
}

// Versions is what a server says in Sec-WebSocket-Version beside status 426.
const Versions = "13"

// Check looks at a request for a WebSocket. status 0 means the one registered for the code.
func (s *Server) Check(r *Request) (a *Answer, status int, err *code.Error) {
	defer func() {
		if err != nil {
			s.refused.Add(1)
		}
	}()
	switch {
	case !listed(r.Upgrade, "websocket") || !listed(r.Connection, "upgrade"):
		return nil, 426, code.Newf(code.BadRequest, "this route is for WebSockets: the request asks for no upgrade")
	case r.Version != Versions:
		return nil, 426, code.Newf(code.BadRequest, "Sec-WebSocket-Version: this server speaks 13")
	}
	if k, berr := base64.StdEncoding.DecodeString(r.Key); berr != nil || len(k) != 16 {
		return nil, 0, code.Newf(code.BadRequest, "Sec-WebSocket-Key is not 16 bytes in base64")
	}
	if !s.Allowed(r.Origin, r.Host) {
		return nil, 0, code.Newf(code.Forbidden, "pages of this origin may not connect")
	}
	a = &Answer{Accept: accept(r.Key)}
	for p := range strings.SplitSeq(r.Protocols, ",") {
		p = strings.TrimSpace(p)
		token, isToken := strings.CutPrefix(p, tokenPrefix)
		switch {
		case isToken && a.token == "":
			a.token = token
		case a.Protocol == "" && (p == Binary || p == JSON):
			a.Protocol = p
		}
	}
	if a.Protocol == "" {
		return nil, 0, code.Newf(code.BadRequest, "Sec-WebSocket-Protocol offers neither %s nor %s", Binary, JSON)
	}
	if scheme, token, ok := strings.Cut(r.Authorization, " "); a.token == "" && ok && strings.EqualFold(scheme, "Bearer") {
		a.token = strings.TrimSpace(token)
	}
	if a.token == "" {
		a.token = r.TokenOfTheQuery
	}
	if len(a.token) > maxToken {
		return nil, 0, code.Newf(code.Unauthenticated, "the token has more than %d bytes", maxToken)
	}
	a.token = strings.Clone(a.token) // the rest of the header is let go
	return a, 0, nil
}

// listed reports whether a header that is a list of words has one, in any case.
func listed(header, word string) bool {
	for w := range strings.SplitSeq(header, ",") {
		if strings.EqualFold(strings.TrimSpace(w), word) {
			return true
		}
	}
	return false
}

// accept proves that the request was understood (RFC 6455, section 4.2.2).
func accept(key string) string {
	h := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(h[:])
}
