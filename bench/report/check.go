package report

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gochat-im/gochat/bench/floor"
	"github.com/gochat-im/gochat/bench/load"
)

// Check is one threshold and how it came out.
type Check struct {
	Expr string `json:"expr"`
	Run  string `json:"run"`
	Pass bool   `json:"pass"`
	Said string `json:"said"` // the values that were compared
}

// Threshold is a parsed `[run:]metric op operand`, where operand is a number with an
// optional unit, or [number*]other, other being a metric of the same run, or floor:
// what the same metric was on the floor of the same round, or calm: what it was before the attack.
type Threshold struct {
	text   string
	scope  string
	metric string
	op     string
	factor float64
	other  string // "": factor is the value
}

var thresholdRE = regexp.MustCompile(`^(?:([^:<>=!]+):)?([a-z][a-z0-9_]*)(<=|>=|==|!=|<|>)(?:([0-9.]+)([a-zA-Zµ%]*))?(\*?)([a-z][a-z0-9_]*)?$`)

var unitFactor = map[string]float64{
	"": 1, "%": 1, "us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1e3,
	"B": 1, "KB": 1e3, "MB": 1e6, "KiB": 1 << 10, "MiB": 1 << 20, "k": 1e3, "M": 1e6,
}

// ParseThresholds reads a comma-separated list. Units: us, ms, s (latencies are in ms), B,
// KB, MB, KiB, MiB, k, M. CPU metrics are in µs and take plain numbers.
func ParseThresholds(list string) ([]Threshold, error) {
	var ts []Threshold
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		m := thresholdRE.FindStringSubmatch(strings.ReplaceAll(text, " ", ""))
		if m == nil || m[4] == "" && (m[7] == "" || m[6] != "") || m[4] != "" && (m[6] == "") != (m[7] == "") {
			return nil, fmt.Errorf("threshold %q: want [run:]metric<=number, or [run:]metric<=number*metric, such as rate>=0.7*floor", text)
		}
		t := Threshold{text: text, scope: m[1], metric: m[2], op: m[3], factor: 1, other: m[7]}
		if m[4] != "" {
			v, err := strconv.ParseFloat(m[4], 64)
			unit, known := unitFactor[m[5]]
			if err != nil || !known {
				return nil, fmt.Errorf("threshold %q: %q is no number with a unit", text, m[4]+m[5])
			}
			t.factor = v * unit
		}
		for _, name := range []string{t.metric, t.other} {
			if name != "" && name != "floor" && name != "calm" && !slices.Contains(known(), name) {
				return nil, fmt.Errorf("threshold %q: no metric %s; there are %s", text, name, strings.Join(known(), ", "))
			}
		}
		ts = append(ts, t)
	}
	return ts, nil
}

// known returns the names of all metrics.
var known = sync.OnceValue(func() []string {
	all := map[string]float64{}
	for _, m := range []map[string]float64{
		pairsMetrics(&load.PairsResult{}), floorMetrics(&floor.Result{}), idleMetrics(&load.IdleResult{}), rawMetrics([]*floor.Raw{{}}), hostileMetrics(&Hostile{}),
		(&Apart{Alone: &load.PairsResult{}, Apart: &load.PairsResult{}}).metrics(), (&Crowd{&load.CrowdResult{}}).metrics(), (&Room{&load.RoomResult{}}).metrics(), (&Scale{PairsResult: &load.PairsResult{}}).metrics(),
		(&History{}).metrics(), (&Churn{}).metrics(), (&Restart{}).metrics(), (&Group{GroupResult: &load.GroupResult{Slow: 1}}).metrics(),
	} {
		maps.Copy(all, m)
	}
	return slices.Sorted(maps.Keys(all))
})

// Judge applies the thresholds to the runs whose name contains their scope. One that applies to no run, or names
// a metric that a run hasn't, is an error: a threshold that never fires is worse than none.
func (r *Report) Judge(ts []Threshold) error {
	for _, t := range ts {
		applied := false
		for _, run := range r.Runs {
			if t.scope != "" && !strings.Contains(run.Name, t.scope) {
				continue
			}
			c, err := t.judge(run)
			if err != nil {
				return err
			}
			applied = true
			r.Checks = append(r.Checks, c)
		}
		if !applied {
			return fmt.Errorf("threshold %q applies to no run", t.text)
		}
	}
	return nil
}

func (t *Threshold) judge(run *Run) (Check, error) {
	have, ok := run.Metrics[t.metric]
	if !ok {
		return Check{}, fmt.Errorf("threshold %q: %s has no metric %s; it has %s", t.text, run.Name, t.metric,
			strings.Join(slices.Sorted(maps.Keys(run.Metrics)), ", "))
	}
	c := Check{Expr: t.text, Run: run.Name}
	want := t.factor
	switch t.other {
	case "":
		c.Said = fmt.Sprintf("%s is %.6g", t.metric, have)
	case "floor":
		// Compared round by round, then the median: a noisy machine is noisy for both.
		if have, ok = run.Ratios[t.metric]; !ok {
			return c, fmt.Errorf("threshold %q: %s ran without a floor (-floor), or its %s is 0", t.text, run.Name, t.metric)
		}
		c.Said = fmt.Sprintf("%s is %.3f of the floor's", t.metric, have)
	case "calm":
		if have, ok = run.ToCalm[t.metric]; !ok {
			return c, fmt.Errorf("threshold %q: %s has no calm, or its %s is 0", t.text, run.Name, t.metric)
		}
		c.Said = fmt.Sprintf("%s is %.3f of the calm one", t.metric, have)
	default:
		base, ok := run.Metrics[t.other]
		if !ok {
			return c, fmt.Errorf("threshold %q: %s has no metric %s", t.text, run.Name, t.other)
		}
		want *= base
		c.Said = fmt.Sprintf("%s is %.6g, %s %.6g", t.metric, have, t.other, base)
	}
	switch t.op {
	case "<":
		c.Pass = have < want
	case "<=":
		c.Pass = have <= want
	case ">":
		c.Pass = have > want
	case ">=":
		c.Pass = have >= want
	case "==":
		c.Pass = have == want
	case "!=":
		c.Pass = have != want
	}
	return c, nil
}

// Failures writes the verdicts and returns what failed, the verifier's findings included.
func (r *Report) Failures(w io.Writer) []string {
	var failed []string
	for _, run := range r.Runs {
		if s := run.Broken(); s != "" {
			failed = append(failed, s)
		}
	}
	if len(r.Checks) > 0 {
		fmt.Fprintln(w)
	}
	for _, c := range r.Checks {
		verdict := "ok  "
		if !c.Pass {
			verdict = "FAIL"
			failed = append(failed, fmt.Sprintf("%s: %s (%s)", c.Run, c.Expr, c.Said))
		}
		fmt.Fprintf(w, "%s  %s: %s (%s)\n", verdict, c.Run, c.Expr, c.Said)
	}
	return failed
}
