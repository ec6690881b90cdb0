package ws_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/certs"
	"github.com/gochat-im/gochat/edge/certs/certtest"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/ws"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

func TestRequests(t *testing.T) {
	s := start(t, hub.Config{}, ws.Config{Origins: []string{"https://app.example.org", "http://other.example.org:8443"}})
	h := func(kv ...string) (list [][2]string) {
		for i := 0; i < len(kv); i += 2 {
			list = append(list, [2]string{kv[i], kv[i+1]})
		}
		return list
	}
	for name, c := range map[string]struct {
		u      upgrade
		status int
		want   string // the subprotocol, or the error's name
	}{
		"binary":                   {upgrade{}, 101, ws.Binary},
		"JSON":                     {upgrade{protocols: ws.JSON}, 101, ws.JSON},
		"the client's preference":  {upgrade{protocols: "chat, gochat.v1.json, gochat.v1"}, 101, ws.JSON},
		"with a token":             {upgrade{protocols: "gochat.token.a.b.c, gochat.v1"}, 101, ws.Binary},
		"words in any case":        {upgrade{header: h("Upgrade", "WebSocket", "Connection", "keep-alive, upgrade")}, 101, ws.Binary},
		"an extension":             {upgrade{header: h("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits")}, 101, ws.Binary},
		"a page of this host":      {upgrade{header: h("Origin", "http://"+s.addr)}, 101, ws.Binary},
		"a page of a listed host":  {upgrade{header: h("Origin", "https://app.example.org")}, 101, ws.Binary},
		"the same with its port":   {upgrade{header: h("Origin", "https://app.example.org:443")}, 101, ws.Binary},
		"a page of another scheme": {upgrade{header: h("Origin", "http://app.example.org")}, 403, "forbidden"},
		"a page of another port":   {upgrade{header: h("Origin", "https://app.example.org:8443")}, 403, "forbidden"},
		"a page of anybody":        {upgrade{header: h("Origin", "https://evil.example")}, 403, "forbidden"},
		"a host as a suffix":       {upgrade{header: h("Origin", "http://"+s.addr+".evil.example")}, 403, "forbidden"},
		"a host as a user":         {upgrade{header: h("Origin", "http://"+s.addr+"@evil.example")}, 403, "forbidden"},
		"no origin at all":         {upgrade{header: h("Origin", "null")}, 403, "forbidden"},
		"no subprotocol":           {upgrade{header: h("Sec-WebSocket-Protocol", "")}, 400, "bad_request"},
		"unknown subprotocols":     {upgrade{protocols: "chat, GOCHAT.V1"}, 400, "bad_request"},
		"no upgrade":               {upgrade{header: h("Upgrade", "")}, 426, "bad_request"},
		"another upgrade":          {upgrade{header: h("Upgrade", "h2c")}, 426, "bad_request"},
		"no connection header":     {upgrade{header: h("Connection", "keep-alive")}, 426, "bad_request"},
		"an old version":           {upgrade{header: h("Sec-WebSocket-Version", "8")}, 426, "bad_request"},
		"no key":                   {upgrade{header: h("Sec-WebSocket-Key", "")}, 400, "bad_request"},
		"a short key":              {upgrade{header: h("Sec-WebSocket-Key", "c2hvcnQ=")}, 400, "bad_request"},
		"a long token":             {upgrade{protocols: "gochat.v1, gochat.token." + strings.Repeat("t", 4097)}, 401, "unauthenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			p, resp := s.dial(c.u)
			defer p.Close()
			got := resp.Header.Get("Sec-WebSocket-Protocol")
			if resp.StatusCode != 101 {
				var r auth.Refused
				if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
					t.Fatal(err)
				}
				got = r.Error.Name
			}
			if resp.StatusCode != c.status || got != c.want {
				t.Fatalf("%s %q, want %d %q", resp.Status, got, c.status, c.want)
			}
			if resp.StatusCode == 426 && resp.Header.Get("Sec-WebSocket-Version") != "13" {
				t.Error("the version that is spoken isn't told")
			}
			if resp.StatusCode == 101 && (resp.Header.Get("Sec-WebSocket-Accept") != "BACScCJPNqyz+UBoqMH89VmURoA=" || resp.Header.Get("Sec-WebSocket-Extensions") != "") {
				t.Errorf("header %v", resp.Header)
			}
		})
	}
	eventually(t, "all to be gone", func() bool { return s.hub.Count() == 0 })
	any := start(t, hub.Config{}, ws.Config{Origins: []string{"*"}})
	any.open(upgrade{header: h("Origin", "null")})
	for _, bad := range []string{"example.org", "https://example.org/path", "https://u@example.org", ""} {
		if err := (ws.Config{Hub: s.hub, Origins: []string{bad}}).Validate(); err == nil {
			t.Errorf("origin %q is taken", bad)
		}
	}
}

// The token of the request stands for that of CONNECT, and is never logged.
func TestTokens(t *testing.T) {
	s := start(t, hub.Config{}, ws.Config{})
	connect := func(token string) []byte {
		return conntest.ConnectFrame(&wire.Connect{Version: 1, DeviceId: "d", Token: token})
	}
	bearer := func(token string) [][2]string { return [][2]string{{"Authorization", "Bearer " + token}} }
	for name, c := range map[string]struct {
		u    upgrade
		in   string // token of CONNECT
		want string
	}{
		"the subprotocol's":       {upgrade{protocols: "gochat.v1, gochat.token.user:protocol"}, "", "CONNACK"},
		"the header's":            {upgrade{header: bearer("user:header")}, "", "CONNACK"},
		"the query's":             {upgrade{query: "?token=user%3Aquery"}, "", "CONNACK"},
		"CONNECT's counts":        {upgrade{query: "?token=forged"}, "user:connect", "CONNACK"},
		"the header's before":     {upgrade{query: "?token=forged", header: bearer("user:before")}, "", "CONNACK"},
		"none":                    {upgrade{}, "", "ERROR unauthenticated"},
		"a forged one":            {upgrade{header: bearer("forged")}, "", "ERROR unauthenticated"},
		"an expired one":          {upgrade{query: "?token=expired"}, "", "ERROR token_expired"},
		"one of another scheme":   {upgrade{header: [][2]string{{"Authorization", "Basic user:basic"}}}, "", "ERROR unauthenticated"},
		"CONNECT's, which is bad": {upgrade{header: bearer("user:unused")}, "forged", "ERROR unauthenticated"},
	} {
		t.Run(name, func(t *testing.T) {
			c.u.behind = raw(0x82, connect(c.in)) // doesn't wait for the answer
			s.expect(s.client(c.u), c.want)
		})
	}
	for _, secret := range []string{"user:", "user%3A", "forged", "token="} {
		if log := s.log.String(); strings.Contains(log, secret) {
			t.Errorf("a token is in the log:\n%s", log)
		}
	}
}

// Addresses behind a trusted proxy are the clients'.
func TestForwardedAddresses(t *testing.T) {
	s := start(t, hub.Config{PerAddress: 1}, ws.Config{}, func(c *api.Config) {
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	from := func(a string) upgrade { return upgrade{header: [][2]string{{"X-Forwarded-For", a}}} }
	c := s.client(from("203.0.113.7"))
	if _, err := c.Login("alice", "d"); err != nil {
		t.Fatal(err)
	}
	if got := s.hub.Find(s.svc.Connection("alice", "d")).RemoteAddr().Addr(); got != netip.MustParseAddr("203.0.113.7") {
		t.Fatalf("address %v", got)
	}
	s.open(from("203.0.113.8"))
	if _, resp := s.dial(from("203.0.113.7")); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("%s, %v", resp.Status, resp.Header)
	}
}

// Who comes to an edge that leaves is told where else to go, in whatever form: a browser's script wouldn't see a request refused.
func TestTurnedAway(t *testing.T) {
	cert, key, trust := certtest.Write(t, t.TempDir(), "ws")
	source, err := certs.Open(certs.Config{CertFile: cert, KeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*api.Config){"plain": func(*api.Config) {}, "TLS": func(c *api.Config) { c.TLS = source.TLS() }} {
		t.Run(name, func(t *testing.T) {
			s := start(t, hub.Config{Alternatives: []string{"10.0.0.2:8080"}}, ws.Config{}, change)
			var u upgrade
			if name == "TLS" {
				u.tls = trust
			}
			leave := func() {
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
				defer cancel()
				if err := s.hub.Leave(ctx, hub.Elsewhere{Sockets: []string{"10.0.0.3:7070"}, Web: []string{"10.0.0.3:8080"}}); err != nil {
					t.Fatal(err)
				}
			}
			leave()
			for _, protocol := range []string{ws.JSON, ws.Binary} {
				u.protocols = protocol
				p := s.open(u)
				if protocol == ws.JSON {
					for _, want := range []string{`"alternatives":["10.0.0.2:8080","10.0.0.3:8080"]`, `"name":"draining"`} {
						if text, err := p.message(); err != nil || !strings.Contains(string(text), want) {
							t.Fatalf("%s, %v, want %s", text, err, want)
						}
					}
					if _, err := p.message(); err != io.EOF {
						t.Fatalf("after the reason: %v", err)
					}
				} else {
					s.expect(&conntest.Client{W: p}, "DRAIN", "ERROR draining", "end: EOF")
				}
				if p.status != 1012 || p.reason != "draining" {
					t.Fatalf("closed with %d %q", p.status, p.reason)
				}
			}
			// Its CONNECT, and much else, right behind the request.
			u.behind = bytes.Repeat(raw(0x82, conntest.Connect("alice", "d")), 100)
			s.expect(&conntest.Client{W: s.open(u)}, "DRAIN", "ERROR draining")
			u.behind = nil
			leave() // they are nobody's to wait for
			if n, st := s.hub.Count(), s.ws.Stats(); n != 0 || st.Upgrades != 0 || st.Refused != 3 {
				t.Fatalf("%d connections, %+v", n, st)
			}
			// Who doesn't go is cut off; who goes on talking, too.
			stays := s.open(u)
			for err = nil; err == nil; _, err = stays.r.ReadByte() {
			}
			eventually(t, "the end", func() bool { _, err := stays.nc.Write(raw(0x89, nil)); return err != nil })
			s.hub.Stay()
			s.expect(&conntest.Client{W: s.open(upgrade{tls: u.tls, behind: raw(0x82, conntest.Connect("alice", "d"))})}, "CONNACK")
		})
	}
}

// No more than so many are told at the same time: the others are refused as ever.
func TestTurnedAwayAreBounded(t *testing.T) {
	s := start(t, hub.Config{}, ws.Config{})
	if err := s.hub.Leave(t.Context(), hub.Elsewhere{}); err != nil {
		t.Fatal(err)
	}
	var gone []*hub.Turned
	for u := s.hub.TurnAway(conntest.NewPipe(), code.New(code.Draining), hub.Form{}); u != nil; u = s.hub.TurnAway(conntest.NewPipe(), code.New(code.Draining), hub.Form{}) {
		gone = append(gone, u)
	}
	if _, resp := s.dial(upgrade{}); resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" {
		t.Fatalf("%s, %v", resp.Status, resp.Header)
	}
	for _, u := range gone {
		u.Closed()
	}
	s.expect(s.client(upgrade{}), "ERROR draining", "end: EOF")
	if len(gone) != 1024 {
		t.Errorf("%d were told at the same time", len(gone))
	}
}

// WebSockets don't count among the connections of HTTP, whose deadlines and limits are others.
func TestOutgrowsHTTP(t *testing.T) {
	s := start(t, hub.Config{}, ws.Config{}, func(c *api.Config) { c.MaxConns, c.MaxConnsPerIP = 2, 2 })
	before := runtime.NumGoroutine()
	for range 20 {
		c := s.client(upgrade{})
		if _, err := c.Login("alice", "d"+string(rune('a'+s.hub.Count()))); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= before+4 })
}

func TestTLS(t *testing.T) {
	cert, key, trust := certtest.Write(t, t.TempDir(), "ws")
	source, err := certs.Open(certs.Config{CertFile: cert, KeyFile: key})
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, hub.Config{}, ws.Config{}, func(c *api.Config) { c.TLS = source.TLS() })
	var peers []*conntest.Client
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		cfg := trust.Clone()
		cfg.MaxVersion = version
		// Together with the request, so that TLS holds it back, and some more later.
		c := s.client(upgrade{tls: cfg, behind: raw(0x82, conntest.Connect("u"+string(rune('0'+version&7)), "d"))})
		s.expect(c, "CONNACK")
		peers = append(peers, c)
	}
	before := runtime.NumGoroutine()
	for i := range 3 {
		for _, c := range peers {
			for _, b := range raw(0x82, frame.Append(nil, frame.Ping, frame.FlagRequestID, uint32(i), nil)) {
				if _, err := c.W.(*peer).nc.Write([]byte{b}); err != nil {
					t.Fatal(err)
				}
			}
			s.expect(c, "PONG #"+string(rune('0'+i)))
		}
	}
	eventually(t, "no goroutine to wait", func() bool { return runtime.NumGoroutine() <= before+2 })
	for _, c := range peers {
		if _, err := c.W.(*peer).nc.Write(raw(0x88, status(1000, ""))); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Next(patience); err != io.EOF || c.W.(*peer).status != 1000 {
			t.Fatalf("%v, closed with %d", err, c.W.(*peer).status)
		}
	}
}
