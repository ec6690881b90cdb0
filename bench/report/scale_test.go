package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/target"
	"github.com/gochat-im/gochat/bench/verify"
)

func TestScale(t *testing.T) {
	span := func(p99 float64) load.Span {
		return load.Span{Seconds: 2, Ack: measure.Quantiles{Count: 10, P50: 1, P99: p99, Max: 2 * p99}}
	}
	x := &Scale{
		PairsResult: &load.PairsResult{
			Acked: 100, TiKV: load.TiKV{OnePhase: 99, TwoPhase: 1, Transactions: 500},
			Spans:  []load.Span{span(10), span(50), span(11), span(60), span(12)},
			Verify: verify.Result{Pairs: 2, Sent: 10, Acked: 10, Stored: 10, Delivered: 5},
		},
		Grow:   target.Move{From: 3, To: 5, Moved: 1896, Ideal: 1843.2, Last: 0.5, Still: 1, Whole: 2, Steps: []target.Step{{After: 0.5, Nodes: 5, Moved: 1896, Ideal: 1843.2}}},
		Shrink: target.Move{From: 5, To: 3, Moved: 1600, Ideal: 1843.2, Last: 0.1, Still: 0.3, Whole: 0.6},
	}
	run := &Run{Name: "scale/3-5-3", Scale: []*Scale{x}}
	run.Finish()
	for name, want := range map[string]float64{
		"errors": 0, "loss": 0, "moved": 3496, "still": 1000, "whole": 2000, "before_ack_p99": 10, "grow_ack_p99": 50, "shrink_ack_max": 120, "after_ack_p99": 12,
		"onephase_pct": 99, "per_group": 5,
	} {
		if got := run.Metrics[name]; got != want {
			t.Errorf("%s %v, want %v", name, got, want)
		}
	}
	if off := run.Metrics["moved_off"]; off < 13.19 || off > 13.20 {
		t.Errorf("%v %% off", off)
	}
	if s := run.Broken(); s != "" {
		t.Errorf("half of it pulled: %s", s)
	}
	var out bytes.Buffer
	run.WriteText(&out)
	for _, s := range []string{"3 -> 5", "5 -> 3", "1896 slots moved, 1843 had to: 2.9 % off", "before ", "between", "errors     0"} {
		if !strings.Contains(out.String(), s) {
			t.Errorf("no %q in\n%s", s, &out)
		}
	}
	for _, c := range []struct {
		wrong func(*Scale)
		says  string
	}{
		{func(x *Scale) { x.Verify.Refused = 1 }, "1 refusals"},
		{func(x *Scale) { x.Verify.Refused, x.Again = 0, 2 }, "2 of what they asked for"},
		{func(x *Scale) { x.Verify.Lost = 1 }, "1 lost"},
		{func(x *Scale) { x.Verify.Lost, x.Verify.Missing = 0, 3 }, "3 never came"},
	} {
		c.wrong(x)
		if s := run.Broken(); !strings.Contains(s, c.says) {
			t.Errorf("want %q: %s", c.says, s)
		}
	}
}
