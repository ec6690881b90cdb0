package sse_test

import (
	"encoding/json"
	"net"
	"testing"

	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/hub/hubtest"
	"github.com/gochat-im/gochat/edge/sse"
	"github.com/gochat-im/gochat/protocol/auth"
	"github.com/gochat-im/gochat/protocol/code"
)

// TestSuite is what every transport must do: over frames, and over JSON.
func TestSuite(t *testing.T) {
	// What is no frame has no JSON form, and a DELIVER of two messages is two packets.
	for protocol, skip := range map[string][]string{sse.Frames: nil, sse.JSON: {"Hostile", "Talk"}} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			hubtest.Run(t, func(t testing.TB, hc hub.Config, _ bool) *hubtest.Server {
				s := start(t, hc)
				return &hubtest.Server{Services: s.svc, Hub: s.hub, Dial: func() (hubtest.Wire, *net.TCPConn, code.Code) {
					p, resp := s.ask("?protocol=" + protocol)
					if p == nil {
						var r auth.Refused
						if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
							t.Fatalf("%s: %v", resp.Status, err)
						}
						return nil, nil, code.Code(r.Error.Code)
					}
					return p, p.tcp, 0
				}}
			}, skip...)
		})
	}
}
