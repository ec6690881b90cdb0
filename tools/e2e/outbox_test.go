//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	gochat "github.com/gochat-im/gochat/sdk/go"
)

// What was written while the server was away goes out when it is back, at the rates that
// a server has unless configured: everything arrives, in order, and nobody is thrown out for it.
func TestOfflineOutboxAtDefaultRates(t *testing.T) {
	everywhere(t, testOfflineOutboxAtDefaultRates, "GOCHAT_LIMITS__SENDS_PER_SECOND=50", "GOCHAT_LIMITS__USER_SENDS_PER_SECOND=100", "GOCHAT_LIMITS__BYTES_PER_SECOND=256KiB")
}

func testOfflineOutboxAtDefaultRates(t *testing.T, s *server) {
	const messages = 300
	alice, bob := signUp(s, "alice"), signUp(s, "bob")
	alice.connect(gochat.NewMemoryStore())
	bob.connect(gochat.NewMemoryStore())
	alice.send(bob, "before")
	bob.until("the first message", 20*time.Second, func() bool { return bob.count() == 1 })
	s.kill()
	want := []string{"before"}
	for i := range messages {
		want = append(want, fmt.Sprint(i))
		alice.send(bob, want[len(want)-1])
	}
	s.start()
	alice.until("the last ack", 60*time.Second, func() bool { return len(alice.acks) == messages+1 })
	bob.until("the last message", 20*time.Second, func() bool { return bob.count() == messages+1 })
	if got := bob.texts(alice); !slices.Equal(got, want) {
		t.Errorf("bob got %q", got)
	}
	if len(alice.failed) != 0 {
		t.Errorf("refused for good: %v", alice.failed)
	}
	res, err := http.Get("http://" + s.http + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	metrics, err := io.ReadAll(res.Body)
	if err != nil || !strings.Contains(string(metrics), "gochat_frames_out_total") {
		t.Fatalf("metrics: %v", err)
	}
	for line := range strings.Lines(string(metrics)) {
		if strings.HasPrefix(line, "gochat_edge_") && (strings.Contains(line, `"flooding"`) || strings.Contains(line, `"rate_limited"`)) {
			t.Errorf("the server counts %s", line)
		}
	}
}

// count is how many messages the person was told; the lock is held.
func (p *person) count() (n int) {
	for _, ms := range p.received {
		n += len(ms)
	}
	return n
}
