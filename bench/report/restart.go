package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/gochat-im/gochat/bench/load"
)

// Restart is what a restart under load showed.
type Restart struct{ load.RestartResult }

func (r *Restart) metrics() map[string]float64 {
	v := &r.Verify
	return map[string]float64{
		"clients": float64(r.Clients), "back": float64(r.Back), "away": float64(r.Clients - r.Back),
		"ended": 1e3 * r.Ended, "started": 1e3 * r.Started, "back50": 1e3 * r.Back50, "back99": 1e3 * r.Back99, "back100": 1e3 * r.Back100,
		"moved": float64(r.Moved), "in_time": float64(r.InTime), "missed": float64(r.Missed), "closed": float64(r.Closed),
		"back_per_s": float64(r.MaxPerSecond()), "settled": 1e3 * r.AnswerTime, "resent": float64(r.Resent), "unresumed": float64(r.Unresumed),
		"loss": float64(v.Lost), "doubled": float64(v.Doubled), "corrupt": float64(v.Corrupt), "missing": float64(v.Missing),
		"unacked": float64(v.Unacked), "repeats": float64(v.Repeats), "pulls": float64(v.Pulls),
	}
}

func (r *Restart) broken() string {
	v := &r.Verify
	switch {
	case r.Back < r.Clients:
		return fmt.Sprintf("%d of %d clients came back", r.Back, r.Clients)
	case !v.Sound():
		return fmt.Sprintf("the verifier found %d lost, %d doubled or out of order, %d changed, %d conversations unread", v.Lost, v.Doubled, v.Corrupt, v.Unread)
	case v.Missing > 0 || v.Unacked > 0:
		return fmt.Sprintf("%d messages never came, %d were never acked", v.Missing, v.Unacked)
	}
	return ""
}

func (r *Restart) write(w io.Writer) {
	fmt.Fprintf(w, "  restart    %s clients from %d addresses, %s messages/s; the server ended within %.2f s and was ready %.2f s later\n",
		count(float64(r.Clients)), r.Sources, count(r.Rate), r.Ended, r.Started)
	fmt.Fprintf(w, "  back       %s of %s: half after %.1f s, 99 %% after %.1f s, all after %.1f s; %s were told DRAIN, %d resume tokens not taken\n",
		count(float64(r.Back)), count(float64(r.Lost)), r.Back50, r.Back99, r.Back100, count(float64(r.Drained)), r.Unresumed)
	if r.Moved > 0 {
		fmt.Fprintf(w, "  moved      %s had a session elsewhere before their connection ended (%s heard so by its end), %s of them before the server ended; %d attempts failed, %d clients were closed\n",
			count(float64(r.Moved)), count(float64(r.Replaced)), count(float64(r.InTime)), r.Missed, r.Closed)
	}
	fmt.Fprintf(w, "  a second   at most %s connected again: %s; tried: %s\n", count(float64(r.MaxPerSecond())), counts(r.PerSecond), counts(r.Attempts))
	v := &r.Verify
	fmt.Fprintf(w, "  verified   %s messages of %d conversations: %d lost, %d doubled, %d changed, %d never came, %d unacked; settled %.1f s after the last was written\n",
		count(float64(v.Stored)), v.Pairs, v.Lost, v.Doubled, v.Corrupt, v.Missing, v.Unacked, r.AnswerTime)
	fmt.Fprintf(w, "             raw: %d resent, %d acked as duplicates, %d repeats, %d gaps, %d pulls\n", r.Resent, v.Duplicates, v.Repeats, v.Gaps, v.Pulls)
	if len(r.Refusals) > 0 {
		var list []string
		for _, name := range slices.Sorted(maps.Keys(r.Refusals)) {
			list = append(list, fmt.Sprintf("%d %s", r.Refusals[name], name))
		}
		fmt.Fprintf(w, "             refused: %s\n", strings.Join(list, ", "))
	}
}

func counts(list []int) string {
	if len(list) == 0 {
		return "none"
	}
	var b strings.Builder
	for i, n := range list {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(count(float64(n)))
	}
	return b.String()
}
