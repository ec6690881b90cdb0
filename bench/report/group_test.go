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

// groups is a report of a group beside its floor, and of one with slow members beside one without.
func groups() *Report {
	r := New()
	one := func(copies, cpu, p99 float64) *load.GroupResult {
		return &load.GroupResult{
			Members: 1000, Senders: 1, Seconds: 2, Acked: copies / 1000, Delivered: copies, DeliveryCPU: cpu, ServerCPU: 1000 * cpu, PerCommit: 60, PeakRSS: 200 << 20,
			Shots: measure.Quantiles{Count: 3, P50: 100, Max: 140}, Delivery: measure.Quantiles{P99: p99}, Late: measure.Quantiles{Count: 1},
			Verify:   verify.GroupResult{Sent: 5, Acked: 5, Stored: 5, Members: verify.Copies{Due: 5000, Delivered: 5000}},
			Refusals: map[string]int64{"overloaded": 3},
		}
	}
	bare := func(copies, cpu float64) *floor.Result {
		return &floor.Result{Name: "floor", Acked: copies / 1000, Delivered: copies, ServerCPU: cpu * 1000, Shots: measure.Quantiles{Count: 3, P50: 50}}
	}
	group := &Run{Name: "group1000/1x60", Group: []*Group{{GroupResult: one(2e6, 0.5, 10)}, {GroupResult: one(1e6, 0.3, 10)}, {GroupResult: one(3e6, 0.4, 10)}},
		Floor: []*floor.Result{bare(4e6, 0.25), bare(4e6, 0.25), bare(4e6, 0.25)}}
	slow := &Run{Name: "slow1000/rate30x15"}
	for _, p99 := range []float64{11, 30, 12} {
		g := &Group{GroupResult: one(1e6, 0.5, p99), Calm: one(1e6, 0.5, 10)}
		g.Slow, g.Verify.Slow = 50, verify.Copies{Due: 250, Delivered: 200, Pulled: 50, Hints: 7}
		slow.Group = append(slow.Group, g)
	}
	for _, x := range []*Run{group, slow} {
		x.Finish()
		r.Runs = append(r.Runs, x)
	}
	return r
}

func TestGroups(t *testing.T) {
	r := groups()
	ts, err := ParseThresholds("group:delivered>=0.5*floor,group:dlv_cpu<=0.7,group:dlv_cpu<=1.6*floor,group:shot_max<150ms,group:shot_p50<=2*floor,hints==0,slow:slow_hints==7,slow:dlv_p99<=1.2*calm,slow:dlv_p99<=1.1*calm")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Judge(ts); err != nil {
		t.Fatal(err)
	}
	var verdicts string
	for _, c := range r.Checks {
		verdicts += map[bool]string{true: "+", false: "-"}[c.Pass]
	}
	if verdicts != "+++++++++-" {
		t.Errorf("verdicts %s: %+v", verdicts, r.Checks)
	}
	var out bytes.Buffer
	for _, run := range r.Runs {
		run.WriteText(&out)
	}
	for _, want := range []string{
		"1,000 members", "shots      3", "to floor   50 % of its copies at 1.60 times its server CPU a copy, shots in 2.00 times (medians of 3 rounds)",
		"  calm\n", "with slow members", "to calm    delivery", "p99 1.20 times", "200 copies came by DELIVER, 50 by", "3 overloaded", "medians    2,000,000 copies/s at 0.400 µs",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	b, err := json.Marshal(r)
	if err != nil || !strings.Contains(string(b), `"calm":{"members":1000`) {
		t.Errorf("%v: %s", err, b)
	}
	var back Report
	if err := json.Unmarshal(b, &back); err != nil || back.Runs[1].Group[0].Calm.Members != 1000 || back.Runs[1].Group[0].Slow != 50 {
		t.Errorf("read back: %v, %+v", err, back)
	}
}

func TestBrokenGroups(t *testing.T) {
	for _, c := range []struct {
		spoil func(*Group)
		says  string
	}{
		{func(g *Group) { g.Verify.Lost = 1 }, "1 lost"},
		{func(g *Group) { g.Verify.Unread = true }, "unread"},
		{func(g *Group) { g.Verify.Members.Missing = 2 }, "2 missing"},
		{func(g *Group) { g.Verify.Slow.Missing = 3 }, "3 of slow members"},
		{func(g *Group) { g.Calm.Verify.Corrupt = 1 }, "without slow members"},
	} {
		run := groups().Runs[1]
		if s := run.Broken(); s != "" {
			t.Errorf("a good run: %s", s)
		}
		c.spoil(run.Group[1])
		if s := run.Broken(); !strings.Contains(s, c.says) || !strings.HasPrefix(s, "slow1000/rate30x15: ") {
			t.Errorf("%q, want %q", s, c.says)
		}
	}
}
