package report

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/gochat-im/gochat/bench/floor"
	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/measure"
)

// WriteText writes the run for people.
func (r *Run) WriteText(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n", r.Name)
	for i, p := range r.Pairs {
		if i < len(r.Under) {
			fmt.Fprintf(w, "  calm\n")
			writePairs(w, r.Under[i].Calm)
			fmt.Fprintf(w, "  attacked\n")
		}
		writePairs(w, p)
		if i < len(r.Under) {
			writeHostile(w, r.Under[i], p)
		}
	}
	for _, f := range r.Floor {
		writeFloor(w, f)
	}
	for _, p := range r.parts() {
		p.write(w)
	}
	if r.Idle != nil {
		writeIdle(w, r.Idle)
	}
	for _, raw := range r.Raw {
		writeRaw(w, raw)
	}
	if len(r.Ratios) > 0 && len(r.Pairs) > 0 {
		fmt.Fprintf(w, "  to floor   %.0f %% of its rate at %.2f times its server CPU%s\n", 100*r.Ratios["rate"], r.Ratios["cpu"], rounds(len(r.Pairs)))
	}
	if len(r.ToCalm) > 0 && len(r.Under) > 0 {
		fmt.Fprintf(w, "  to calm    ack p50 %.2f, p99 %.2f times; RSS %.2f times%s\n", r.ToCalm["ack_p50"], r.ToCalm["ack_p99"], r.ToCalm["rss"], rounds(len(r.Under)))
	}
	r.compareGroups(w)
	r.compareApart(w)
	r.compareRooms(w)
	if len(r.Pairs) > 1 {
		m := r.Metrics
		fmt.Fprintf(w, "  medians    %s/s acked at %.2f µs, ack p50 %s p99 %s ms\n", count(m["rate"]), m["cpu"], ms(m["ack_p50"]), ms(m["ack_p99"]))
	}
}

func rounds(n int) string {
	if n < 2 {
		return ""
	}
	return fmt.Sprintf(" (medians of %d rounds)", n)
}

func writePairs(w io.Writer, p *load.PairsResult) {
	fmt.Fprintf(w, "  rate       %s/s sent, %s/s acked, %s/s delivered, for %.1f s\n", count(p.Sent), count(p.Acked), count(p.Delivered), p.Seconds)
	fmt.Fprintf(w, "  ack        %s\n  delivery   %s\n", quantiles(&p.Ack), quantiles(&p.Delivery))
	if p.Late.Count > 0 {
		fmt.Fprintf(w, "  sent late  %s\n", quantiles(&p.Late))
	}
	fmt.Fprintf(w, "  server     %.2f µs CPU a message, %s RSS", p.ServerCPU, size(float64(p.RSS)))
	if p.PerCommit > 0 {
		fmt.Fprintf(w, ", %s messages a commit", count(p.PerCommit))
	}
	fmt.Fprintf(w, "; load generator %.2f µs a message\n", p.ClientCPU)
	writeTiKV(w, &p.TiKV)
	writeProcesses(w, "message", p.Processes)
	writeVerified(w, p)
	if p.Untimed > 0 {
		fmt.Fprintf(w, "             %d deliveries came too late to be timed\n", p.Untimed)
	}
}

// writeTiKV tells how TiKV's transactions were made, if it is known.
func writeTiKV(w io.Writer, t *load.TiKV) {
	if t.Groups() > 0 {
		fmt.Fprintf(w, "  TiKV       %s commits, %.2f %% of them in one phase, %s async, %s in two; %.1f transactions a commit\n",
			count(t.Groups()), t.OnePhaseShare(), count(t.Async), count(t.TwoPhase), t.Transactions/t.Groups())
	}
}

// writeVerified tells what the verifier found.
func writeVerified(w io.Writer, p *load.PairsResult) {
	v := &p.Verify
	fmt.Fprintf(w, "  verified   %s messages of %d conversations read back in %.1f s: %d lost, %d doubled, %d changed; %.3f %% came by DELIVER in order, once\n",
		count(float64(v.Stored)), v.Pairs, p.VerifySec, v.Lost, v.Doubled, v.Corrupt, v.DeliveredShare())
	fmt.Fprintf(w, "             raw: %d repeats, %d gaps, %d pulls, %d hints, %d never came, %d duplicate acks, %d unacked, %d refused\n",
		v.Repeats, v.Gaps, v.Pulls, p.Hints, v.Missing, v.Duplicates, v.Unacked, v.Refused)
	if len(p.Refusals) > 0 {
		var list []string
		for name, n := range p.Refusals {
			list = append(list, fmt.Sprintf("%d %s", n, name))
		}
		slices.Sort(list)
		fmt.Fprintf(w, "             refused: %s\n", strings.Join(list, ", "))
	}
}

func writeFloor(w io.Writer, f *floor.Result) {
	fmt.Fprintf(w, "  %-10s %s/s", f.Name, count(f.Acked))
	if f.Delivered > 0 {
		fmt.Fprintf(w, " acked, %s/s delivered", count(f.Delivered))
	}
	fmt.Fprintf(w, "; ack %s; server %.2f µs CPU", quantiles(&f.Ack), f.ServerCPU)
	if f.Delivered > 2*f.Acked {
		fmt.Fprintf(w, " (%.2f a delivery, slowest %s ms)", f.DeliveryCPU(), ms(f.Delivery.Max))
	}
	if f.PerCommit > 0 {
		fmt.Fprintf(w, ", %s a commit", count(f.PerCommit))
	}
	if f.Shots.Count > 0 {
		fmt.Fprintf(w, "; shots p50 %s p99 %s max %s ms", ms(f.Shots.P50), ms(f.Shots.P99), ms(f.Shots.Max))
	}
	fmt.Fprintf(w, "; load generator %.2f µs\n", f.ClientCPU)
}

func writeRaw(w io.Writer, r *floor.Raw) {
	pace := "one after the other"
	if r.Rate > 0 {
		pace = fmt.Sprintf("%s a second", count(r.Rate))
	}
	fmt.Fprintf(w, "  raw        200 bytes synced, %s: append and fdatasync %s; Pebble commit %s\n", pace, quantiles(&r.Fdatasync), quantiles(&r.Pebble))
}

func writeIdle(w io.Writer, i *load.IdleResult) {
	fmt.Fprintf(w, "  connected  %d users from %d addresses, %s/s; %s PINGs, %s PONGs; a heartbeat of %.0f s\n",
		i.Conns, i.Sources, count(i.ConnectsPS), count(float64(i.Pings)), count(float64(i.Pongs)), i.Heartbeat)
	fmt.Fprintf(w, "  memory     %.0f bytes a connection: RSS %s fresh, %s when connected, %s held (private %s, %s, %s)\n", i.PerConn,
		size(float64(i.Fresh.RSS)), size(float64(i.Connected.RSS)), size(float64(i.Held.RSS)),
		size(float64(i.Fresh.Private)), size(float64(i.Connected.Private)), size(float64(i.Held.Private)))
	fmt.Fprintf(w, "  server     %.1f µs CPU a heartbeat, %.0f goroutines; %d connections lost\n", i.ServerCPU, i.Goroutines, i.Lost)
	writeProcesses(w, "heartbeat", i.Processes)
}

// writeProcesses writes what each process of a cluster took.
func writeProcesses(w io.Writer, each string, list []load.ProcessUse) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, "  %-26s %14s %14s\n", "  process", "µs a "+each, "RSS")
	for _, p := range list {
		fmt.Fprintf(w, "  %-26s %14.3f %14s\n", "  "+p.Name, p.CPU, size(float64(p.RSS)))
	}
}

func quantiles(q *measure.Quantiles) string {
	return fmt.Sprintf("p50 %s p99 %s p99.9 %s max %s ms", ms(q.P50), ms(q.P99), ms(q.P999), ms(q.Max))
}

func ms(v float64) string {
	switch {
	case v < 1:
		return strconv.FormatFloat(v, 'f', 3, 64)
	case v < 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}

// count writes a number with its thousands apart.
func count(v float64) string {
	if v < 10 && v != float64(int64(v)) {
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	s := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func size(bytes float64) string { return fmt.Sprintf("%.1f MiB", bytes/(1<<20)) }
