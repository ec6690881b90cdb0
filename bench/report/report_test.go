package report

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/bench/floor"
	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/verify"
)

// sample is a report of three rounds at window 8 with their floors, idle connections and synced writes.
func sample() *Report {
	r := New()
	run := &Run{Name: "pairs/w8"}
	for i, acked := range []float64{120, 90, 100} {
		p := &load.PairsResult{
			Acked: acked, Sent: acked, Delivered: acked, ServerCPU: 8, PerCommit: 12.5, RSS: 1 << 20,
			Ack:    measure.Quantiles{Count: 3, P50: 10, P99: 40, P999: 45, Max: 120},
			Late:   measure.Quantiles{Count: 1, P50: 0.25},
			Verify: verify.Result{Pairs: 2, Sent: 1000, Acked: 1000, Stored: 1000, Delivered: 1000},
		}
		p.Verify.Pulls = uint64(i)
		run.Pairs = append(run.Pairs, p)
		run.Floor = append(run.Floor, &floor.Result{Name: "floor", Acked: 200, Delivered: 200, ServerCPU: 5, PerCommit: 3, ClientCPU: 1})
	}
	raw := &Run{Name: "raw", Raw: []*floor.Raw{{Pebble: measure.Quantiles{P50: 4}, Rate: 1000}, {}}}
	idle := &Run{Name: "idle/10", Idle: &load.IdleResult{Conns: 10, PerConn: 4500, Pings: 20, Pongs: 20, Goroutines: 30}}
	group := &Run{Name: "floor/group100", Floor: []*floor.Result{{Name: "group100", Acked: 10, Delivered: 1000, ServerCPU: 50}}}
	for _, x := range []*Run{run, raw, idle, group} {
		x.Finish()
		r.Runs = append(r.Runs, x)
	}
	return r
}

func TestMediansAndRatios(t *testing.T) {
	run := sample().Runs[0]
	for name, want := range map[string]float64{"rate": 100, "cpu": 8, "pulls": 2, "ack_p99": 40, "loss": 0, "delivered_pct": 100} {
		if got := run.Metrics[name]; got != want {
			t.Errorf("%s %v, want %v", name, got, want)
		}
	}
	if run.Ratios["rate"] != 0.5 || run.Ratios["cpu"] != 1.6 {
		t.Errorf("ratios %v", run.Ratios)
	}
	even := medians([]map[string]float64{{"rate": 1, "loss": 0, "delivered_pct": 99}, {"rate": 2, "loss": 3, "delivered_pct": 100}})
	if even["rate"] != 1.5 || even["loss"] != 3 || even["delivered_pct"] != 99 {
		t.Errorf("two rounds: %v", even)
	}
}

func TestThresholds(t *testing.T) {
	for _, c := range []struct {
		expr  string
		pass  string // a verdict a run: + or -
		wrong string // what the error says
	}{
		{"w8:rate>=0.5*floor", "+", ""},
		{"w8:rate >= 0.51*floor", "-", ""},
		{"w8:cpu<=1.6*floor,w8:cpu<1.6*floor", "+-", ""},
		{"w8:ack_p99<50ms", "+", ""},
		{"w8:ack_p99<0.04s", "-", ""},
		{"w8:ack_p99<=40000us", "+", ""},
		{"w8:loss==0", "+", ""},
		{"w8:loss!=0", "-", ""},
		{"w8:rate>0.1k", "-", ""},
		{"w8:ack_p50<=0.25*ack_p99", "+", ""},
		{"w8:ack_p50>=ack_p99", "-", ""},
		{"pairs/w8:delivered_pct>=99.9%", "+", ""},
		{"idle:per_conn<=4.6KB", "+", ""},
		{"idle:per_conn<=4.3KiB", "-", ""},
		{"raw:raw==2,floor/:dlv_cpu<1", "++", ""},
		{"", "", ""},

		{"rate", "", "want [run:]metric"},
		{"rate>=", "", "want [run:]metric"},
		{"rate>=5*", "", "want [run:]metric"},
		{"rate>=*floor", "", "want [run:]metric"},
		{"rate>=1.2.3", "", "no number"},
		{"rate>=5parsec", "", "no number"},
		{"speed>=5", "", "no metric speed"},
		{"rate>=2*speed", "", "no metric speed"},
		{"w9:rate>5", "", "applies to no run"},
		{"idle:rate>5", "", "has no metric rate"},
		{"idle:per_conn<=2*floor", "", "without a floor"},
		{"idle:per_conn<=2*rate", "", "has no metric rate"},
	} {
		r := sample()
		ts, err := ParseThresholds(c.expr)
		if err == nil {
			err = r.Judge(ts)
		}
		if c.wrong != "" {
			if err == nil || !strings.Contains(err.Error(), c.wrong) {
				t.Errorf("%q: error %v, want one that says %q", c.expr, err, c.wrong)
			}
			continue
		}
		got := ""
		for _, k := range r.Checks {
			got += map[bool]string{true: "+", false: "-"}[k.Pass]
		}
		if err != nil || got != c.pass {
			t.Errorf("%q: %s (%v), want %s", c.expr, got, err, c.pass)
		}
		var text bytes.Buffer
		if failed := r.Failures(&text); len(failed) != strings.Count(c.pass, "-") {
			t.Errorf("%q: failures %q", c.expr, failed)
		}
	}
}

func TestUnscopedThresholdIsForEveryRun(t *testing.T) {
	r := sample()
	r.Runs = r.Runs[:1]
	ts, err := ParseThresholds("rate>=1, loss==0")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Judge(ts); err != nil || len(r.Checks) != 2 {
		t.Errorf("%v, %d checks", err, len(r.Checks))
	}
}

func TestBroken(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*Report)
		says string
	}{
		{"nothing", func(*Report) {}, ""},
		{"a lost message in one round", func(r *Report) { r.Runs[0].Pairs[1].Verify.Lost = 1 }, "1 lost"},
		{"late deliveries", func(r *Report) { r.Runs[0].Pairs[2].Verify.Delivered = 900 }, "90.000 %"},
		{"late deliveries among faults", func(r *Report) {
			r.Runs[0].Faults = true
			r.Runs[0].Pairs[2].Verify.Delivered = 900
		}, ""},
		{"a floor with gaps", func(r *Report) { r.Runs[3].Floor[0].Gaps = 2 }, "2 gaps"},
		{"connections that ended", func(r *Report) { r.Runs[2].Idle.Lost = 3 }, "3 connections"},
	} {
		r := sample()
		c.set(r)
		var text bytes.Buffer
		failed := strings.Join(r.Failures(&text), "; ")
		if (c.says == "") != (failed == "") || !strings.Contains(failed, c.says) {
			t.Errorf("%s: %q", c.name, failed)
		}
	}
}

func TestTextAndJSON(t *testing.T) {
	r := sample()
	r.Runs[0].Pairs[0].Refusals = map[string]int64{"overloaded": 2, "banned": 1}
	r.Runs[0].Pairs[0].Untimed = 9
	r.Raised = []string{"limits.inflight: 256 -> 512"}
	var b bytes.Buffer
	for _, run := range r.Runs {
		run.WriteText(&b)
	}
	for _, want := range []string{
		"50 % of its rate at 1.60 times its server CPU (medians of 3 rounds)", "ack        p50 10.0 p99 40.0 p99.9 45.0 max 120 ms",
		"1,000 messages of 2 conversations", "12 messages a commit", "1 banned, 2 overloaded", "9 deliveries came too late", "sent late  p50 0.250",
		"4500 bytes a connection", "0.50 a delivery", "1,000 a second", "one after the other",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, b.String())
		}
	}
	b.Reset()
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back.Runs[0].Ratios["rate"] != 0.5 || back.Raised[0] != r.Raised[0] || back.Machine == "" {
		t.Errorf("%v: %s", err, b.String())
	}
}

func TestCount(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 6.75: "6.8", 12: "12", 999: "999", 1000: "1,000", 1234567.4: "1,234,567", -1234: "-1,234"} {
		if got := count(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}
