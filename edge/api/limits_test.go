package api

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
)

func TestFlood(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.AuthPerMinute = 3
		c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.0.0.0/8")}
	})
	try := func(path string, from string) int {
		resp, body := r.do("POST", "/api/v1/auth/"+path, jsonType, `{}`, "X-Forwarded-For", from)
		if resp.StatusCode == 429 {
			e := r.refusal(resp, body)
			if code.Code(e.Code) != code.RateLimited || resp.Header.Get("Retry-After") == "" || e.RetryAfterMS <= 0 || e.RetryAfterMS > 20_000 {
				t.Errorf("429 %s, Retry-After %q", body, resp.Header.Get("Retry-After"))
			}
		}
		return resp.StatusCode
	}
	for i, path := range []string{"register", "login", "refresh"} {
		if got := try(path, "203.0.113.7"); got == 429 {
			t.Errorf("call %d was refused", i)
		}
	}
	for _, path := range []string{"register", "login", "refresh", "password"} {
		// What stands before the address that our proxy wrote is the client's own claim.
		for _, from := range []string{"203.0.113.7", "8.8.8.8, 203.0.113.7", "203.0.113.7, 10.1.2.3", "::ffff:203.0.113.7"} {
			if got := try(path, from); got != 429 {
				t.Errorf("%s from %s: %d", path, from, got)
			}
		}
	}
	if got := try("logout", "203.0.113.7"); got == 429 {
		t.Error("leaving is limited")
	}
	if got := try("login", "203.0.113.8"); got == 429 {
		t.Error("another address is refused")
	}
	for range 3 {
		try("login", "rubbish")
	}
	for _, from := range []string{"rubbish", "", "rubbish, 10.0.0.9"} {
		got := try("login", from)
		if wantRefused := !strings.Contains(from, "10."); (got == 429) != wantRefused {
			t.Errorf("from %q: %d", from, got)
		}
	}
	// Addresses of one /64 are one.
	for i := range 3 {
		try("login", fmt.Sprintf("2001:db8::%d", i))
	}
	if got := try("login", "2001:db8::ffff"); got != 429 {
		t.Errorf("another address of the same network: %d", got)
	}
	if got := try("login", "2001:db8:0:1::1"); got == 429 {
		t.Error("another network is refused")
	}
}

// Without trusted proxies nobody's X-Forwarded-For is believed.
func TestForwardedByAnybody(t *testing.T) {
	r := newRig(t, func(c *Config) { c.AuthPerMinute = 1 })
	r.do("POST", "/api/v1/auth/login", jsonType, `{}`, "X-Forwarded-For", "203.0.113.7")
	if resp, _ := r.do("POST", "/api/v1/auth/login", jsonType, `{}`, "X-Forwarded-For", "203.0.113.8"); resp.StatusCode != 429 {
		t.Errorf("%d", resp.StatusCode)
	}
}

func TestLimiter(t *testing.T) {
	now := time.Unix(1e9, 0)
	l := newLimiter[netip.Addr](60, 4)
	a := netip.MustParseAddr
	for i := range 60 {
		if w := l.take(a("10.0.0.1"), now); w != 0 {
			t.Fatalf("call %d waits %s", i, w)
		}
	}
	if w := l.take(a("10.0.0.1"), now); w != time.Second {
		t.Errorf("the next waits %s", w)
	}
	if w := l.take(a("10.0.0.1"), now.Add(time.Second)); w != 0 {
		t.Errorf("a second later it waits %s", w)
	}
	for i := range 1000 {
		l.take(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), now)
		if len(l.table) > 4 {
			t.Fatalf("%d addresses are kept", len(l.table))
		}
	}
	if w := l.take(a("10.9.9.9"), now); w == 0 {
		t.Error("those without a place of their own are unlimited")
	}
	later := now.Add(time.Hour)
	if w := l.take(a("10.9.9.9"), later); w != 0 || len(l.table) != 1 {
		t.Errorf("an hour later it waits %s, and %d addresses are kept", w, len(l.table))
	}
	if w := l.take(a("10.9.9.9"), now); w != 0 {
		t.Error("a clock that went back costs a token")
	}
	if newLimiter[netip.Addr](-1, 4).take(a("10.0.0.1"), now) != 0 {
		t.Error("unlimited isn't")
	}
}
