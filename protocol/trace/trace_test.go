package trace_test

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/trace"
)

func TestText(t *testing.T) {
	a := trace.New()
	if b, err := trace.Parse(a.String()); err != nil || a != b || a.IsZero() {
		t.Errorf("%v read as %v: %v", a, b, err)
	}
	for _, s := range []string{"", "00", strings.Repeat("0", 31), strings.Repeat("0", 34), strings.Repeat("g", 32)} {
		if _, err := trace.Parse(s); err == nil {
			t.Errorf("%q is read", s)
		}
	}
}

// A line logged for a request names it, also through loggers derived before, and one for
// none names nothing.
func TestHandler(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(trace.Handler{Handler: slog.NewTextHandler(&out, nil)}).With("part", "x")
	type key struct{}
	ctx := trace.With(context.WithValue(context.Background(), key{}, 1), trace.Call{
		Trace: trace.ID{15: 1}, Request: "r-1", Conn: 5, ReqID: 9, User: "alice", Device: "phone",
	})
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	if ctx.Value(key{}) != 1 || trace.From(ctx).User != "alice" || trace.From(context.Background()) != nil {
		t.Fatal("the context doesn't hold what was put there")
	}
	log.InfoContext(ctx, "one")
	if line := out.String(); !strings.Contains(line, "part=x trace=00000000000000000000000000000001 request=r-1 conn=5 req=9 user=alice device=phone") {
		t.Errorf("logged %s", line)
	}
	out.Reset()
	log.WithGroup("g").Info("two", "a", 1)
	if line := out.String(); !strings.Contains(line, "part=x g.a=1\n") {
		t.Errorf("logged %s", line)
	}
	out.Reset()
	log.InfoContext(trace.With(context.Background(), trace.Call{}), "three")
	if line := out.String(); !strings.HasSuffix(line, "part=x\n") {
		t.Errorf("logged %s", line)
	}
}

func TestPace(t *testing.T) {
	var p trace.Pace
	ok := 0
	for range 25 {
		if left, allowed := p.Allow(1e9); allowed {
			if ok++; left != 0 {
				t.Errorf("%d left out before any was", left)
			}
		}
	}
	if left, allowed := p.Allow(2e9); !allowed || left != 15 || ok != 10 {
		t.Errorf("%d lines, then %v with %d left out", ok, allowed, left)
	}
	if left, _ := p.Allow(2e9); left != 0 {
		t.Errorf("%d are told twice", left)
	}
	if a, b := trace.Now(), trace.Now(); a <= 0 || b < a {
		t.Errorf("%d, then %d", a, b)
	}
}
