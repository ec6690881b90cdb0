package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/bench/target"
)

func TestUsageOfOld(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"history -conversations 0", "at least 1"},
		{"history -messages 10 -page 20", "a page"},
		{"history -messages 300 -page 201", "at most 200"},
		{"history -conversations 10 -clients 20", "more than conversations"},
		{"history -d 0s", "negative"},
		{"history -merged=false -unmerged=false", "nothing is left"},
		{"history -addr 127.0.0.1:1", "not defined"},
		{"history -assert ack_p51>0", "no metric"},
		{"churn -n 3", "even number"},
		{"churn -n 10 -w 11", "more visits"},
		{"churn -d 0s", "negative"},
		{"restart -n 3", "even number"},
		{"restart -rate 0", "more than 0"},
		{"restart -warm -1s", "negative"},
		{"restart -n 10 -rate 100", "shipped"},
		{"restart -drain=false -kill=false", "nothing is left"},
		{"restart -addr 127.0.0.1:1", "not defined"},
	} {
		err := run(t.Context(), strings.Fields(c.args), &bytes.Buffer{})
		if err == nil || status(err) != exitUsage || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
	for _, args := range []string{"history -conversations 4000000 -clients 3000000", "churn -n 30000000", "restart -n 30000000 -rate 1"} {
		err := run(t.Context(), strings.Fields(args), &bytes.Buffer{})
		if err == nil || status(err) != exitEnvironment || !strings.Contains(err.Error(), "open files") {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestOldAgainstTheServer runs what needs a past for a moment each, against the real server.
func TestOldAgainstTheServer(t *testing.T) {
	path, err := target.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}

	for _, how := range []string{"-sync -w 3", "-rate 200 -cache 1MiB"} {
		r, text := bench(t, "history -conversations 50 -messages 30 -page 20 -clients 5 -body 40 -d 200ms -warm 20ms -server", append([]string{path}, append(strings.Fields(how),
			"-assert", "wrong==0,refused==0,unanswered==0,pages>10,page_p99>0")...)...)
		if len(r.Runs) != 2 || len(r.Checks) != 10 || !strings.Contains(text, "storage.cache") {
			t.Fatalf("history %s: %+v\n%s", how, r, text)
		}
		for i, rows := range []int64{1500, 50} {
			if s := r.Runs[i].History[0].Store; s.Messages != 1500 || s.Rows != rows {
				t.Errorf("%s: the store is %+v", r.Runs[i].Name, s)
			}
		}
		if late := r.Runs[0].History[0].Late.Count; (late > 0) != strings.Contains(how, "rate") {
			t.Errorf("history %s: %d asked late", how, late)
		}
	}
	r, text := bench(t, "history -conversations 50 -messages 30 -page 20 -clients 5 -d 100ms -merged=false -cold -server", path)
	if h := r.Runs[0].History[0]; h.Limit == 0 || h.Limit > h.Store.Bytes/2 || h.Verified == 0 || r.Runs[0].Name != "history/unmerged/cold" {
		t.Errorf("cold: %+v\n%s", h, text)
	}

	for _, how := range []string{"-w 3", "-rate 50"} {
		r, text = bench(t, "churn -n 10 -messages 3 -d 300ms -warm 50ms -rest 10ms -server", append([]string{path}, append(strings.Fields(how),
			"-assert", "loss==0,wrong==0,refused==0,ended==0,visits>1,connack_p99>0,sync_p99>0,rest_rss<=100*fresh_rss")...)...)
		if v := r.Runs[0].Churn[0]; v.Sent == 0 || v.Fetched == 0 || v.Goroutines == 0 || v.Rested.RSS == 0 {
			t.Errorf("churn %s: %+v\n%s", how, v, text)
		}
	}

	r, text = bench(t, "restart -n 20 -rate 50 -d 300ms -warm 500ms -server", path, "-assert", "loss==0,doubled==0,missing==0,unacked==0,away==0,back100>0,unresumed==0,back_per_s>0")
	for i, drained := range []int64{20, 0} {
		if v := r.Runs[i].Restart[0]; v.Drained != drained || v.Lost != 20 || v.Back != 20 || v.Verify.Stored == 0 || len(v.PerSecond) == 0 || v.MaxPerSecond() == 0 {
			t.Errorf("%s: %+v\n%s", r.Runs[i].Name, v, text)
		}
	}
}

func TestFilesAreForgotten(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	stop := keepForgetting(dir)
	stop()
	if err := forget(dir); err != nil {
		t.Error(err)
	}
	if n, err := sizeOf(dir); n != 100_000 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := sizeOf(filepath.Join(dir, "nowhere")); err != nil {
		t.Errorf("a directory that is gone: %v", err)
	}
}
