// Package report holds what a benchmark showed: for people, for machines, and
// against thresholds.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gochat-im/gochat/bench/floor"
	"github.com/gochat-im/gochat/bench/load"
)

// Report is everything of one invocation.
type Report struct {
	Time    time.Time `json:"time"`
	Machine string    `json:"machine"`
	Raised  []string  `json:"raised"` // every limit that isn't the shipped one
	Runs    []*Run    `json:"runs"`
	Checks  []Check   `json:"checks,omitempty"`
}

// Run is one scenario with one setting, maybe in several rounds.
type Run struct {
	Name    string              `json:"name"`
	Pairs   []*load.PairsResult `json:"pairs,omitempty"` // by round
	Idle    *load.IdleResult    `json:"idle,omitempty"`
	Floor   []*floor.Result     `json:"floor,omitempty"` // by round; beside Pairs: the floor of the same round
	Raw     []*floor.Raw        `json:"raw,omitempty"`
	Under   []*Hostile          `json:"hostile,omitempty"` // by round; beside Pairs: what they went on under
	Restart []*Restart          `json:"restart,omitempty"`
	History []*History          `json:"history,omitempty"` // by round
	Churn   []*Churn            `json:"churn,omitempty"`
	Group   []*Group            `json:"group,omitempty"` // by round
	Crowd   []*Crowd            `json:"crowd,omitempty"`
	Room    []*Room             `json:"room,omitempty"`   // by round
	Apart   []*Apart            `json:"apart,omitempty"`  // by round
	Scale   []*Scale            `json:"scale,omitempty"`  // by round
	Faults  bool                `json:"faults,omitempty"` // faults were expected: only what must hold then is judged

	// Medians over the rounds, by the names that thresholds use; Ratios are to the floor of the same round, ToCalm to its calm.
	Metrics map[string]float64 `json:"metrics"`
	Ratios  map[string]float64 `json:"ratios,omitempty"`
	ToCalm  map[string]float64 `json:"to_calm,omitempty"`
}

// New returns an empty report about this machine.
func New() *Report {
	var u unix.Utsname
	_ = unix.Uname(&u) // can't fail with a valid address
	return &Report{
		Time:    time.Now().UTC().Truncate(time.Second),
		Machine: fmt.Sprintf("%d CPUs, Linux %s, %s", runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]), runtime.Version()),
	}
}

// Finish computes the run's medians and ratios. Call it when all its rounds are in.
func (r *Run) Finish() {
	var rounds, floors []map[string]float64
	for _, p := range r.Pairs {
		rounds = append(rounds, pairsMetrics(p))
	}
	for _, f := range r.Floor {
		floors = append(floors, floorMetrics(f))
	}
	for _, p := range r.parts() {
		rounds = append(rounds, p.metrics())
	}
	if len(rounds) == 0 { // the floor alone
		rounds, floors = floors, nil
	}
	r.Metrics = medians(rounds)
	if r.Idle != nil {
		r.Metrics = idleMetrics(r.Idle)
	}
	if len(r.Under) > 0 {
		r.finishHostile(rounds)
	}
	r.finishGroup(rounds)
	for name, v := range rawMetrics(r.Raw) {
		r.Metrics[name] = v
	}
	if n := min(len(rounds), len(floors)); n > 0 {
		ratios := make([]map[string]float64, n)
		for i := range n {
			ratios[i] = map[string]float64{}
			for name, v := range floors[i] {
				if mine, ok := rounds[i][name]; ok && v > 0 {
					ratios[i][name] = mine / v
				}
			}
		}
		r.Ratios = medians(ratios)
	}
}

// worst is for counts that must be 0 in every round: their median would hide one.
var worst = []string{"loss", "doubled", "corrupt", "missing", "refused", "unacked", "gaps", "repeats", "pulls", "hints", "unexpected", "wrong", "unanswered", "undeclared", "overtold", "errors", "moved_off"}

func medians(rounds []map[string]float64) map[string]float64 {
	all := map[string][]float64{}
	for _, r := range rounds {
		for name, v := range r {
			all[name] = append(all[name], v)
		}
	}
	m := map[string]float64{}
	for name, vs := range all {
		slices.Sort(vs)
		if m[name] = vs[len(vs)/2]; len(vs)%2 == 0 {
			m[name] = (vs[len(vs)/2-1] + vs[len(vs)/2]) / 2
		}
		if slices.Contains(worst, name) {
			m[name] = vs[len(vs)-1]
		}
		if name == "delivered_pct" {
			m[name] = vs[0]
		}
	}
	return m
}

func pairsMetrics(p *load.PairsResult) map[string]float64 {
	v := &p.Verify
	return map[string]float64{
		"rate": p.Acked, "sent": p.Sent, "acked": p.Acked, "delivered": p.Delivered,
		"ack_p50": p.Ack.P50, "ack_p99": p.Ack.P99, "ack_p999": p.Ack.P999, "ack_max": p.Ack.Max,
		"dlv_p50": p.Delivery.P50, "dlv_p99": p.Delivery.P99, "dlv_p999": p.Delivery.P999, "dlv_max": p.Delivery.Max,
		"late_p99": p.Late.P99,
		"cpu":      p.ServerCPU, "client_cpu": p.ClientCPU, "rss": float64(p.RSS), "per_commit": p.PerCommit,
		"onephase_pct": p.TiKV.OnePhaseShare(), "per_group": p.TiKV.PerGroup(),
		"loss": float64(v.Lost), "doubled": float64(v.Doubled), "corrupt": float64(v.Corrupt), "missing": float64(v.Missing),
		"refused": float64(v.Refused), "unacked": float64(v.Unacked), "gaps": float64(v.Gaps), "repeats": float64(v.Repeats),
		"pulls": float64(v.Pulls), "hints": float64(p.Hints), "delivered_pct": v.DeliveredShare(),
	}
}

func floorMetrics(f *floor.Result) map[string]float64 {
	m := map[string]float64{
		"rate": f.Acked, "sent": f.Acked, "acked": f.Acked, "delivered": f.Delivered, "gaps": float64(f.Gaps),
		"ack_p50": f.Ack.P50, "ack_p99": f.Ack.P99, "ack_p999": f.Ack.P999, "ack_max": f.Ack.Max,
		"dlv_p50": f.Delivery.P50, "dlv_p99": f.Delivery.P99, "dlv_p999": f.Delivery.P999, "dlv_max": f.Delivery.Max,
		"cpu": f.ServerCPU, "client_cpu": f.ClientCPU, "per_commit": f.PerCommit, "dlv_cpu": f.DeliveryCPU(),
	}
	if f.Shots.Count > 0 {
		m["shot_p50"], m["shot_p99"], m["shot_max"] = f.Shots.P50, f.Shots.P99, f.Shots.Max
	}
	return m
}

func idleMetrics(i *load.IdleResult) map[string]float64 {
	return map[string]float64{
		"per_conn": i.PerConn, "conns": float64(i.Conns), "connects": i.ConnectsPS, "goroutines": i.Goroutines,
		"rss": float64(i.Held.RSS), "fresh_rss": float64(i.Fresh.RSS), "cpu": i.ServerCPU, "loss": float64(i.Lost),
		"unanswered": float64(i.Pings - i.Pongs),
	}
}

// rawMetrics: raw is the median of a synced commit, in ms, at the pace of the load if it was measured so.
func rawMetrics(raws []*floor.Raw) map[string]float64 {
	if len(raws) == 0 {
		return nil
	}
	var rounds []map[string]float64
	for _, r := range raws {
		rounds = append(rounds, map[string]float64{
			"raw": r.Pebble.P50, "raw_p99": r.Pebble.P99, "fdatasync": r.Fdatasync.P50, "fdatasync_p99": r.Fdatasync.P99,
		})
	}
	return medians(rounds)
}

// Broken returns why the run fails whatever the thresholds, or "".
func (r *Run) Broken() string {
	for _, p := range r.Pairs {
		switch v := &p.Verify; {
		case !v.Sound():
			return fmt.Sprintf("%s: the verifier found %d lost, %d doubled or out of order, %d changed, %d conversations unread",
				r.Name, v.Lost, v.Doubled, v.Corrupt, v.Unread)
		case !r.Faults && !v.Clean():
			return fmt.Sprintf("%s: %.3f %% delivered in order and once, %d missing, %d unacked, %d refused; want 99.9 %% and none",
				r.Name, v.DeliveredShare(), v.Missing, v.Unacked, v.Refused)
		}
	}
	for _, f := range r.Floor {
		if f.Gaps > 0 {
			return fmt.Sprintf("%s: the floor delivered with %d gaps", r.Name, f.Gaps)
		}
	}
	for _, h := range r.Under {
		if s := h.broken(); s != "" {
			return r.Name + ": " + s
		}
	}
	for _, p := range r.parts() {
		if s := p.broken(); s != "" {
			return r.Name + ": " + s
		}
	}
	if r.Idle != nil && r.Idle.Lost > 0 {
		return fmt.Sprintf("%s: %d connections ended", r.Name, r.Idle.Lost)
	}
	return ""
}

// WriteJSON writes the report for machines.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}
