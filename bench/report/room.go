package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/gochat-im/gochat/bench/load"
)

// Room is one round in one room.
type Room struct{ *load.RoomResult }

func (x *Room) metrics() map[string]float64 {
	v, b := &x.Verify, &x.Book
	due := float64(max(b.Due, 1))
	return map[string]float64{
		"members": float64(x.Members), "joining": x.Joining,
		"rate": x.Acked, "sent": x.Sent, "acked": x.Acked, "delivered": x.Delivered, "frames": x.Frames,
		"ack_p50": x.Ack.P50, "ack_p99": x.Ack.P99, "ack_max": x.Ack.Max,
		"dlv_p50": x.Delivery.P50, "dlv_p99": x.Delivery.P99, "dlv_p999": x.Delivery.P999, "dlv_max": x.Delivery.Max, "late_p99": x.Late.P99,
		"dlv_cpu": x.ServerCPU, "client_dlv_cpu": x.ClientCPU, "cores": x.Cores, "rss": float64(x.RSS),
		"delivered_pct": 100 * float64(b.Delivered) / due, "declared_pct": 100 * float64(b.Declared) / due,
		"undeclared": float64(b.Skipped + b.Silent), "overtold": float64(b.Overtold), "repeats": float64(b.Repeats), "hints": float64(b.Hints), "others": float64(b.Others),
		"loss": float64(v.Lost), "doubled": float64(v.Doubled), "corrupt": float64(v.Corrupt), "refused": float64(v.Refused), "unacked": float64(v.Unacked),
	}
}

func (x *Room) broken() string {
	switch v, b := &x.Verify, &x.Book; {
	case !v.Sound() || v.Unacked > 0 || v.Refused > 0:
		return fmt.Sprintf("the verifier found %d lost, %d doubled or out of order, %d changed, %d unacked, %d refused", v.Lost, v.Doubled, v.Corrupt, v.Unacked, v.Refused)
	case !b.Whole():
		return fmt.Sprintf("of %d copies %d came and %d were said to be left out: %d were missed without a word (%d at the end), %d came again, %d too many were said to be left out, %d hints",
			b.Due, b.Delivered, b.Declared, b.Skipped+b.Silent, b.Silent, b.Repeats, b.Overtold, b.Hints)
	}
	return ""
}

func (x *Room) write(w io.Writer) {
	b, v := &x.Book, &x.Verify
	fmt.Fprintf(w, "  room       %s in it, %d of them write; all were in within %.1f s\n", count(float64(x.Members)), x.Writers, x.Joining)
	fmt.Fprintf(w, "  rate       %s/s sent, %s/s acked, %s copies/s in %s frames/s delivered, for %.1f s\n", count(x.Sent), count(x.Acked), count(x.Delivered), count(x.Frames), x.Seconds)
	fmt.Fprintf(w, "  ack        %s\n  delivery   %s\n  sent late  %s\n", quantiles(&x.Ack), quantiles(&x.Delivery), quantiles(&x.Late))
	fmt.Fprintf(w, "  server     %.3f µs CPU a copy, %.2f processors, RSS %s; load generator %.3f µs a copy\n", x.ServerCPU, x.Cores, size(float64(x.RSS)), x.ClientCPU)
	writeProcesses(w, "copy", x.Processes)
	fmt.Fprintf(w, "  verified   %s messages read back: %d lost, %d doubled, %d changed, %d unacked, %d refused\n", count(float64(v.Stored)), v.Lost, v.Doubled, v.Corrupt, v.Unacked, v.Refused)
	fmt.Fprintf(w, "             of %s copies %.2f %% came, once and in order, %.2f %% were declared to be left out; %d weren't, %d repeats, %d hints of the room, %d others\n",
		count(float64(b.Due)), 100*float64(b.Delivered)/float64(max(b.Due, 1)), 100*float64(b.Declared)/float64(max(b.Due, 1)), b.Skipped+b.Silent, b.Repeats, b.Hints, b.Others)
	if len(x.Refusals) > 0 {
		var list []string
		for name, n := range x.Refusals {
			list = append(list, fmt.Sprintf("%d %s", n, name))
		}
		slices.Sort(list)
		fmt.Fprintf(w, "             refused: %s\n", strings.Join(list, ", "))
	}
}

// compareRooms says how the rounds in a room compare.
func (r *Run) compareRooms(w io.Writer) {
	if m := r.Metrics; len(r.Room) > 1 {
		fmt.Fprintf(w, "  medians    %s copies/s at %.3f µs, delivery p50 %s p99 %s ms, ack p99 %s ms\n", count(m["delivered"]), m["dlv_cpu"], ms(m["dlv_p50"]), ms(m["dlv_p99"]), ms(m["ack_p99"]))
	}
}
