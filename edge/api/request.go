package api

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cloudwego/hertz/pkg/app"

	"github.com/gochat-im/gochat/protocol/code"
)

// Request is one request to a Route. It is good until Serve returns.
type Request struct {
	Caller Caller
	Addr   netip.Addr // of the client, through trusted proxies
	ID     string     // the request id

	c     *app.RequestContext // nil: plain is what there is
	plain *Plain
	body  []byte
}

// Plain is what a Request brought, as data: with it, another process can serve the request that this one took in.
// Limits, who asks and what a body may be were looked at where it came in.
type Plain struct {
	Params [][2]string // names of the pattern and segments, unescaped
	Query  string      // as it stands in the URL
	Header [][2]string // none that says who the client is to a server: those have been read
	Body   []byte      // not to be kept any longer than the Request
}

// secret are the headers that stay where the request came in.
var secret = []string{"authorization", "cookie", "proxy-authorization", "x-user-id", "x-forwarded-for"}

// Plain returns what r brought. All but the body is the caller's.
func (r *Request) Plain() *Plain {
	if r.c == nil {
		return r.plain
	}
	p := &Plain{Query: string(r.c.Request.URI().QueryString()), Body: r.body}
	for _, kv := range r.c.Params {
		p.Params = append(p.Params, [2]string{strings.Clone(kv.Key), strings.Clone(kv.Value)})
	}
	r.c.Request.Header.VisitAll(func(name, value []byte) {
		if n := string(name); !slices.Contains(secret, strings.ToLower(n)) {
			p.Header = append(p.Header, [2]string{n, string(value)})
		}
	})
	return p
}

// NewRequest returns a Request that was taken in elsewhere. It keeps p.
func NewRequest(caller Caller, addr netip.Addr, requestID string, p *Plain) *Request {
	return &Request{Caller: caller, Addr: addr, ID: requestID, plain: p, body: p.Body}
}

// Param is the segment of the path that the pattern calls name, unescaped. It is the caller's.
func (r *Request) Param(name string) string {
	if r.c == nil {
		return first(r.plain.Params, name)
	}
	return strings.Clone(r.c.Param(name))
}

// Query returns the query's parameters. They are the caller's.
func (r *Request) Query() (url.Values, *code.Error) {
	var text string
	if r.c == nil {
		text = r.plain.Query
	} else {
		text = string(r.c.Request.URI().QueryString())
	}
	v, err := url.ParseQuery(text)
	if err != nil {
		return nil, code.Newf(code.BadRequest, "the query can't be read")
	}
	for name, list := range v {
		for _, s := range list {
			if !utf8.ValidString(name) || !utf8.ValidString(s) {
				return nil, code.Newf(code.InvalidUTF8, "the query isn't valid UTF-8")
			}
		}
	}
	return v, nil
}

// Header returns the first header of the name, empty if there is none. It is the caller's.
func (r *Request) Header(name string) string {
	if r.c == nil {
		return first(r.plain.Header, name)
	}
	return string(r.c.Request.Header.Peek(name))
}

func first(list [][2]string, name string) string {
	for _, kv := range list {
		if strings.EqualFold(kv[0], name) {
			return kv[1]
		}
	}
	return ""
}

// Body is the JSON object of a Route with Body: valid UTF-8, no member named twice. It must not be kept.
func (r *Request) Body() []byte { return r.body }
