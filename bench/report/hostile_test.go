package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/bench/hostile"
	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/verify"
)

// attacked is a run of two rounds: the second one went worse.
func attacked() *Run {
	clean := verify.Result{Pairs: 1, Sent: 10, Acked: 10, Stored: 10, Delivered: 10}
	run := &Run{Name: "hostile/rate1000"}
	for i, p99 := range []float64{3, 5} {
		run.Pairs = append(run.Pairs, &load.PairsResult{Acked: 10, Ack: measure.Quantiles{P50: 1, P99: p99}, Verify: clean})
		run.Under = append(run.Under, &Hostile{
			Calm:   &load.PairsResult{Acked: 10, Ack: measure.Quantiles{P50: 1, P99: 2}, Verify: clean},
			Before: measure.Memory{RSS: 100 << 20}, After: measure.Memory{RSS: 110 << 20}, Goroutines: [3]float64{30, 90, 31},
			Attack: &hostile.Result{Seconds: 20, PeakRSS: 150 << 20, Kinds: []hostile.KindResult{
				{Name: "knocking", Conns: 3, Frames: 4, Closed: 2, Answers: map[string]int64{"connack": 1, "end bad_frame": 2 + int64(i)}},
			}},
		})
	}
	return run
}

func TestHostile(t *testing.T) {
	run := attacked()
	run.Finish()
	r := New()
	r.Runs = []*Run{run}
	ts, err := ParseThresholds("ack_p99<=2*calm,ack_p99<1.9*calm,rss<=1.1*calm,rss<1.05*calm,goroutines<=32,unexpected==0,hostile_conns==3,ack_p50<=calm_p50,rss_peak<=150MiB")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Judge(ts); err != nil {
		t.Fatal(err)
	}
	var verdicts strings.Builder
	for _, c := range r.Checks {
		verdicts.WriteString(map[bool]string{true: "+", false: "-"}[c.Pass])
	}
	if verdicts.String() != "+-+-+++++" {
		t.Errorf("%s: %+v", &verdicts, r.Checks)
	}
	var out bytes.Buffer
	run.WriteText(&out)
	for _, want := range []string{"knocking  3            4       2       2 end bad_frame, 1 connack", "2.0 ms calm, 5.0 ms attacked: 2.50 times", "p99 2.00 times; RSS 1.10 times (medians of 2 rounds)"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if s := run.Broken(); s != "" {
		t.Errorf("broken: %s", s)
	}
	// Only runs under attack have a calm.
	r = sample()
	ts, _ = ParseThresholds("w8:ack_p99<=2*calm")
	if err := r.Judge(ts); err == nil || !strings.Contains(err.Error(), "has no calm") {
		t.Errorf("a calm without an attack: %v", err)
	}
}

func TestHostileBroken(t *testing.T) {
	for says, change := range map[string]func(h *Hostile){
		"before the attack 50.000 %": func(h *Hostile) { h.Calm.Verify.Delivered = 5 },
		"no right answer": func(h *Hostile) {
			h.Attack.Kinds[0].Unexpected = map[string]int64{"end bad_frame": 2}
		},
		"never answered": func(h *Hostile) { h.Attack.Kinds[0].Missing = []string{"pong"} },
	} {
		run := attacked()
		change(run.Under[1])
		run.Finish()
		if s := run.Broken(); !strings.Contains(s, says) {
			t.Errorf("broken: %q, want %q", s, says)
		}
		var out bytes.Buffer
		run.WriteText(&out)
		if strings.Contains(says, "answer") && !strings.Contains(out.String(), "WRONG: 3 end bad_frame") && !strings.Contains(out.String(), "MISSING: pong") {
			t.Errorf("the finding isn't marked:\n%s", &out)
		}
		if !strings.Contains(says, "before") && run.Metrics["unexpected"] == 0 {
			t.Error("unexpected is 0")
		}
	}
}
