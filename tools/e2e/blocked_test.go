//go:build e2e

package e2e

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
)

// Behind a proxy that lets no WebSocket through people talk all the same, over a server that is killed and comes back.
func TestBrowserBehindABlockingProxy(t *testing.T) { everywhere(t, testBrowserBehindABlockingProxy) }

func testBrowserBehindABlockingProxy(t *testing.T, s *server) {
	target, err := url.Parse("http://" + s.http)
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(target)
	forward.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	var upgrades, streams atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			upgrades.Add(1)
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if r.URL.Path == "/events" {
			streams.Add(1)
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(proxy.Close)
	b := openBrowser(t)
	t.Cleanup(proxy.CloseClientConnections)
	alice, bob := b.open("alice", look{URL: proxy.URL + "/"}), b.open("bob", look{URL: "http://" + s.http + "/"})
	alice.do("signUp", "alice", "password of alice")
	bob.do("signUp", "bob", "password of bob")
	alice.do("startChat", "bob")
	alice.do("send", "from behind the proxy")
	bob.do("waitUnread", "alice", "1")
	bob.do("openChat", "alice")
	bob.do("send", "I hear you")
	alice.do("waitLast", "I hear you")
	s.kill()
	alice.do("send", "while it is down")
	alice.do("waitPending", 1)
	s.start()
	bob.do("waitLast", "while it is down")
	alice.do("waitPending", 0)
	if upgrades.Load() == 0 || streams.Load() < 2 {
		t.Errorf("%d attempts at a WebSocket, %d streams", upgrades.Load(), streams.Load())
	}
}
