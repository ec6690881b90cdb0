package report

import (
	"bytes"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/verify"
)

func TestPartsAreJudged(t *testing.T) {
	for _, c := range []struct {
		name string
		run  Run
		says string // why it fails; "": it doesn't
	}{
		{"pages", Run{History: []*History{{HistoryResult: load.HistoryResult{Pages: 10, Verified: 5}, Limit: 1 << 20}}}, ""},
		{"a wrong page", Run{History: []*History{{HistoryResult: load.HistoryResult{Verified: 5, Wrong: 1, WrongSaid: "it ends at 7"}}}}, "it ends at 7"},
		{"a refused page", Run{History: []*History{{HistoryResult: load.HistoryResult{Verified: 5, Refused: 1}}}}, "refused"},
		{"no page", Run{History: []*History{{}}}, "no page"},
		{"visits", Run{Churn: []*Churn{{load.ChurnResult{Visits: 3}}}}, ""},
		{"a lost message", Run{Churn: []*Churn{{load.ChurnResult{Lost: 1}}}}, "lost"},
		{"a visit that was ended", Run{Churn: []*Churn{{load.ChurnResult{Ended: 1, Said: "EOF"}}}}, "EOF"},
		{"a restart", Run{Restart: []*Restart{{load.RestartResult{Clients: 4, Back: 4, Moved: 3, InTime: 3, PerSecond: []int{1, 3}, Refusals: map[string]int64{"draining": 2}}}}}, ""},
		{"somebody who stays away", Run{Restart: []*Restart{{load.RestartResult{Clients: 4, Back: 3}}}}, "3 of 4"},
		{"a doubled message", Run{Restart: []*Restart{{load.RestartResult{Verify: verify.Result{Doubled: 1}}}}}, "doubled"},
		{"a message without ack", Run{Restart: []*Restart{{load.RestartResult{Verify: verify.Result{Unacked: 1}}}}}, "never acked"},
	} {
		c.run.Finish()
		if got := c.run.Broken(); (got == "") != (c.says == "") || !strings.Contains(got, c.says) {
			t.Errorf("%s: %q", c.name, got)
		}
		var out bytes.Buffer
		if c.run.WriteText(&out); out.Len() < 100 || len(c.run.Metrics) < 10 {
			t.Errorf("%s: %d metrics\n%s", c.name, len(c.run.Metrics), &out)
		}
	}
}
