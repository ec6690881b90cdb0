package config

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestWaiting(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	Waiting(log, "etcd", []string{"http://10.0.0.1:2379"}, 30*time.Second)()
	if got := out.String(); !strings.Contains(got, "connecting to etcd") || !strings.Contains(got, "http://10.0.0.1:2379") {
		t.Errorf("at once: %s", got)
	}

	out.Reset()
	tick, end, done := make(chan time.Time), make(chan struct{}), make(chan struct{})
	asked := make(chan struct{}, 10)
	since := time.Duration(0)
	go func() {
		defer close(done)
		waitTold(log, "TiKV", "pd:2379", 30*time.Second, tick, func() { asked <- struct{}{} }, end, func() time.Duration { since += 5 * time.Second; return since })
	}()
	for range 3 {
		tick <- time.Time{}
		<-asked
	}
	close(end)
	<-done
	if n := strings.Count(out.String(), `msg="waiting for TiKV" at=pd:2379`); n != 3 || !strings.Contains(out.String(), "since=15s at_most=30s") {
		t.Errorf("told %d times:\n%s", n, out.String())
	}
}
