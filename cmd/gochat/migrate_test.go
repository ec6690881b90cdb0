package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore/migration"
)

func TestMeter(t *testing.T) {
	var m meter
	start := time.Unix(1_700_000_000, 0)
	total := migration.Amount{Rows: 1000, Bytes: 100 << 20}
	for _, c := range []struct {
		after            time.Duration
		phase            migration.Phase
		copied, verified uint64 // MiB
		want             string
	}{
		{0, migration.Preparing, 0, 0, "preparing"},
		{0, migration.Counting, 0, 0, "counting 1000 rows, 100.0 MiB"},
		{0, migration.Copying, 50, 0, "copying   [############............]  50 %  500 rows, 50.0 MiB"}, // as an earlier run left it
		{10 * time.Second, migration.Copying, 75, 0, "copying   [##################......]  75 %  750 rows, 75.0 MiB, 2.5 MiB/s, 10s left"},
		{11 * time.Second, migration.Verifying, 100, 0, "verifying [........................]   0 %  0 rows, 0 B"},
		{13 * time.Second, migration.Verifying, 100, 100, "verifying [########################] 100 %  1000 rows, 100.0 MiB, 50.0 MiB/s, 0s left"},
		{13 * time.Second, migration.Complete, 100, 100, "complete"},
	} {
		amount := func(mib uint64) migration.Amount { return migration.Amount{Rows: mib * 10, Bytes: mib << 20} }
		if got := m.line(c.phase, total, amount(c.copied), amount(c.verified), start.Add(c.after)); got != c.want {
			t.Errorf("after %v:\n%s, want\n%s", c.after, got, c.want)
		}
	}
	if got := m.line(migration.Copying, migration.Amount{}, migration.Amount{}, migration.Amount{}, start); !strings.Contains(got, "100 %") {
		t.Errorf("of nothing: %s", got)
	}
	for n, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 5 << 40: "5.0 TiB", 5 << 50: "5120.0 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestMigrateIsToldWhat(t *testing.T) {
	for want, args := range map[string][]string{
		"Name it with --from": {},
		"names no store":      {"--from", t.TempDir()},
		"was not moved":       {"--from", t.TempDir(), "--back"},
	} {
		cmd := migrateCommand()
		cmd.SetArgs(args)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		var out bytes.Buffer
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %s", args, err, want)
		}
	}
}
