package main

import (
	"net"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/node/config"
)

// What the banner tells to type must work on this machine.
func TestReachable(t *testing.T) {
	for listen, want := range map[string]string{
		"0.0.0.0:7070": "127.0.0.1:7070", "[::]:7070": "127.0.0.1:7070", "127.0.0.1:7071": "127.0.0.1:7071", "[::1]:7070": "[::1]:7070", "192.0.2.7:80": "192.0.2.7:80",
	} {
		addr, err := net.ResolveTCPAddr("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		if got := reachable(addr); got != want {
			t.Errorf("listening on %s: %s, want %s", listen, got, want)
		}
	}
}

// Nobody is invited to register where that is refused.
func TestInvitation(t *testing.T) {
	for name, change := range map[string]func(*node.Config){
		"open":       func(*node.Config) {},
		"own users":  func(c *node.Config) { c.Issuers = []config.Issuer{{Issuer: "x", Prefix: "x:"}} },
		"no users":   func(c *node.Config) { c.Issuers = []config.Issuer{{Issuer: "x", Prefix: "x:"}, {Issuer: "y"}} },
		"no opening": func(c *node.Config) { c.Accounts.Registration = false },
	} {
		cfg := node.Default()
		change(&cfg)
		invited := strings.Contains(invitation(cfg, "gochat", " --http x"), "\n  gochat chat --profile bob --http x\n")
		if want := !strings.HasPrefix(name, "no "); invited != want {
			t.Errorf("%s: invited %v", name, invited)
		}
	}
}
