package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/report"
	"github.com/gochat-im/gochat/bench/target"
)

// TestMain lets the test binary be the floor's child, or the hostile clients.
func TestMain(m *testing.M) {
	if ranAsChild() {
		return
	}
	os.Exit(m.Run())
}

func TestUsage(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"", "scenario is missing"},
		{"everything", "no scenario"},
		{"pairs extra", "unexpected"},
		{"pairs -x", "not defined"},
		{"pairs -w 0", "-w"},
		{"pairs -w 1,many", "-w"},
		{"pairs -pairs 0", "at least 1"},
		{"pairs -d -1s", "negative"},
		{"pairs -assert rate", "threshold"},
		{"pairs -assert speed>1", "no metric speed"},
		{"pairs -addr 127.0.0.1:1", "-key"},
		{"pairs -addr here -key k", "-addr"},
		{"pairs -addr 127.0.0.1:1 -http here -key k", "-http"},
		{"pairs -addr 127.0.0.1:1,here -key k", "-addr"},
		{"pairs -addr 127.0.0.1:1 -pids edge -key /dev/null", "-pids"},
		{"pairs -addr 127.0.0.1:1 -pids /nowhere/pids -key /dev/null", "-pids"},
		{"pairs -addr 127.0.0.1:1 -cluster alone", "-cluster"},
		{"pairs -cluster edge,logic", "no process is fanout"},
		{"pairs -cluster edge*0,logic+fanout+worker", "from 1 to 64"},
		{"pairs -cluster edges", "want edge, logic"},
		{"rpc -addr 127.0.0.1:1", "starts its servers"},
		{"pairs -server /nowhere/gochat", "-server"},
		{"pairs -cpus x", "-cpus"},
		{"idle -n 0", "at least 1"},
		{"idle -assert x", "threshold"},
		{"group -n 1", "two members"},
		{"group -n many", "-n"},
		{"group -n ,", "at least one"},
		{"group -w 5000", "at most 1024"},
		{"group -d 0s -shots 0", "nothing is left"},
		{"group -gap -1s", "negative"},
		{"hot -n 16", "more than senders"},
		{"hot -senders 0", "at least 1"},
		{"slow -slow 0", "percent"},
		{"slow -slow 100", "percent"},
		{"slow -d 0s", "nothing is left"},
		{"slow -trickle -1", "bytes"},
		{"slow -floor", "not defined"},
		{"room -n 1", "who listens"},
		{"room -rate 0", "-rate"},
		{"room -rate 5,many", "-rate"},
		{"room -body 0", "at least 1"},
		{"room -for 0s", "nothing"},
		{"room -budget -1", "at least 0"},
		{"scale -w 1,2", "one number"},
		{"scale -pairs 0", "at least 1"},
		{"scale -more 0", "at least 1"},
		{"scale -stores none", "-stores"},
		{"scale -calm -1s", "negative"},
		{"pairs -target x -addr 127.0.0.1:1", "-target"},
		{"rpc -target x", "-target"},
		{"hostile -pairs 0", "at least 1"},
		{"hostile -attack 0s", "more than 0"},
		{"hostile -rate 100000", "shipped"},
		{"hostile -kinds (", "-kinds"},
		{"hostile -addr 127.0.0.1:1", "not defined"},
		{"floor -w x", "-w"},
		{"floor -groups x", "-groups"},
		{"floor -d 0s", "negative"},
		{"all -x", "not defined"},
		{"issuer -x", "not defined"},
	} {
		var out bytes.Buffer
		err := run(t.Context(), strings.Fields(c.args), &out)
		if err == nil || status(err) != exitUsage || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"help"}, &out); err != nil || out.String() != help {
		t.Errorf("help: %v\n%s", err, &out)
	}
	if err := run(t.Context(), []string{"pairs", "-h"}, &out); err != nil || !strings.Contains(out.String(), "-rounds") {
		t.Errorf("pairs -h: %v\n%s", err, &out)
	}
}

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{usage("x"), exitUsage},
		{environment(errors.New("x")), exitEnvironment},
		{fmt.Errorf("wrapped: %w", &load.Failure{Err: errors.New("x")}), exitProduct},
		{&load.Refused{Reason: "x"}, exitEnvironment},
		{context.Canceled, exitHarness},
	} {
		if got := status(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	for _, c := range []struct{ args, says string }{
		{"pairs -pairs 1000000", "open files"},
		{"idle -n 100000000", "open files"},
		{"group -n 100000000", "open files"},
		{"room -n 100000000", "open files"},
		{"floor -raw=false -groups 100000000", "open files"},
		{"pairs -addr 127.0.0.1:1 -key /nowhere", "issuer's key"},
		{"pairs -target /nowhere/at/all", "tools/cluster up"},
		{"pairs -cpus 1000", "CPUs"},
		{"issuer -dir /nowhere/at/all", "issuer's key"},
	} {
		err := run(t.Context(), strings.Fields(c.args), &bytes.Buffer{})
		if err == nil || status(err) != exitEnvironment || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}

func TestRaisedOnlyWhatTheLoadNeeds(t *testing.T) {
	p := pairsFlags{}
	p.Pairs.Pairs, p.Burst = 500, 1
	names := func(s target.Settings) (list string) {
		for _, x := range s {
			list += strings.TrimPrefix(x.Name, "limits.") + " "
		}
		return list
	}
	if got := names(p.raise(32)); got != "sends_per_second user_sends_per_second bytes_per_second " {
		t.Errorf("a window of 32 raises %s", got)
	}
	if got := names(p.raise(512)); !strings.Contains(got, "inflight") {
		t.Errorf("a window of 512 raises %s", got)
	}
	if p.Rate = 1000; names(p.raise(1)) != "" {
		t.Error("two messages a second a pair are within what is shipped")
	}
	if p.Rate = 100_000; names(p.raise(1)) == "" {
		t.Error("200 messages a second a pair aren't")
	}
}

// bench runs a command line against the server and returns its report.
func bench(t *testing.T, line string, args ...string) (*report.Report, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "report.json")
	var out bytes.Buffer
	if err := run(t.Context(), append(append(strings.Fields(line), args...), "-json", path), &out); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, &out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var r report.Report
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	return &r, out.String()
}

// TestAgainstTheServer builds the real one and runs every scenario for a moment.
func TestAgainstTheServer(t *testing.T) {
	path, err := target.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}

	r, text := bench(t, "pairs -pairs 4 -w 1,4 -d 300ms -warm 50ms -floor -rounds 2 -alg HS256 -server", path,
		"-assert", "loss==0,refused==0,unacked==0,rate>0.0001*floor")
	if len(r.Runs) != 2 || len(r.Runs[1].Pairs) != 2 || len(r.Runs[1].Floor) != 2 || len(r.Checks) != 8 || len(r.Raised) == 0 {
		t.Errorf("report: %+v\n%s", r, text)
	}
	for _, run := range r.Runs {
		for _, p := range run.Pairs {
			if !p.Verify.Clean() || p.Acked == 0 || p.PerCommit == 0 || p.RSS == 0 {
				t.Errorf("%s: %+v", run.Name, p)
			}
		}
	}
	if !strings.Contains(text, "raised     limits.sends_per_second: 50 -> 1000000") || !strings.Contains(text, "medians") {
		t.Errorf("text:\n%s", text)
	}

	r, text = bench(t, "idle -n 30 -beats 0 -rest 100ms -server", path)
	if i := r.Runs[0].Idle; i.Conns != 30 || i.Heartbeat != 15 || i.Goroutines == 0 || len(r.Raised) != 0 {
		t.Errorf("idle: %+v\n%s", i, text)
	}

	r, text = bench(t, "group -n 5,20 -w 3 -d 200ms -warm 20ms -shots 2 -gap 10ms -floor -rounds 2 -server", path,
		"-assert", "loss==0,hints==0,delivered>0.0001*floor,dlv_cpu>=0,shot_max>0,shot_p50<=1000000*floor")
	if len(r.Runs) != 2 || len(r.Runs[1].Group) != 2 || len(r.Runs[1].Floor) != 2 || r.Runs[1].Name != "group20/1x3" {
		t.Errorf("group: %+v\n%s", r, text)
	}
	for _, run := range r.Runs {
		for _, g := range run.Group {
			if !g.Verify.Clean() || g.Shots.Count != 2 || g.Delivered == 0 || g.PerCommit == 0 || g.PeakRSS == 0 {
				t.Errorf("%s: %+v", run.Name, g.GroupResult)
			}
		}
	}
	r, text = bench(t, "hot -n 10 -senders 4 -w 2 -d 200ms -warm 20ms -floor -server", path, "-assert", "loss==0,rate>0.0001*floor")
	if g := r.Runs[0].Group[0]; !g.Verify.Clean() || g.Senders != 4 || !strings.Contains(text, "to floor") {
		t.Errorf("hot: %+v\n%s", g, text)
	}
	r, text = bench(t, "slow -n 20 -slow 10 -rate 100 -burst 5 -d 300ms -warm 20ms -rounds 2 -server", path, "-assert", "loss==0,missing==0,dlv_p99<=1000000*calm")
	if g := r.Runs[0].Group[1]; !g.Verify.Clean() || g.Slow != 2 || g.Calm == nil || g.Calm.Slow != 0 || g.Verify.Slow.Due == 0 || len(r.Checks) != 3 {
		t.Errorf("slow: %+v\n%s", g, text)
	}

	r, text = bench(t, "room -n 12 -writers 2 -rate 40,60 -for 400ms -warm 100ms -rounds 2 -budget 100 -server", path, "-assert", "undeclared==0,loss==0,repeats==0,declared_pct>0,dlv_cpu>=0")
	if x := r.Runs[1].Room[1]; len(r.Runs) != 2 || r.Runs[0].Name != "room12/rate40" || !x.Book.Whole() || x.Book.Due == 0 || x.Delivery.Count == 0 || !strings.Contains(text, "declared to be left out") {
		t.Errorf("room: %+v\n%s", x.RoomResult, text)
	}

	r, text = bench(t, "hostile -pairs 4 -rate 40 -d 300ms -warm 50ms -attack 2s -rest 10ms -settle 10ms -kinds before|newcomers -server", path,
		"-assert", "unexpected==0,loss==0,ack_p99<=1000000*calm,rss<=1000*calm,hostile_conns>0")
	if h := r.Runs[0].Under[0]; !r.Runs[0].Pairs[0].Verify.Clean() || len(h.Attack.Kinds) != 3 || h.Before.RSS == 0 || h.After.RSS == 0 || len(r.Raised) != 0 {
		t.Errorf("hostile: %+v\n%s", h, text)
	}
	for _, want := range []string{"  calm\n", "  attacked\n", "frames before CONNECT", "end not_connected", "to calm"} {
		if !strings.Contains(text, want) {
			t.Errorf("hostile: no %q in\n%s", want, text)
		}
	}

	// The same server for two runs: each makes up users of its own.
	s, err := target.Start(t.Context(), path, "EdDSA", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	attach := []string{"-addr", s.Addr.String(), "-http", s.HTTP.String(), "-pid", strconv.Itoa(s.PID), "-key", strings.TrimSuffix(s.Issuer.KeyFile, ".pem") + ".key"}
	for range 2 {
		r, text = bench(t, "pairs -pairs 4 -rate 40 -burst 2 -d 300ms -warm 50ms -assert loss==0,late_p99>=0", attach...)
		if p := r.Runs[0].Pairs[0]; !p.Verify.Clean() || p.Late.Count == 0 || p.RSS == 0 || r.Runs[0].Name != "pairs/rate40x2" {
			t.Errorf("attached: %+v\n%s", p, text)
		}
	}

	var out bytes.Buffer
	err = run(t.Context(), append([]string{"pairs", "-pairs", "2", "-rate", "20", "-d", "100ms", "-warm", "0s", "-assert", "rate>1M"}, attach...), &out)
	if err == nil || status(err) != exitProduct || !strings.Contains(out.String(), "FAIL") {
		t.Errorf("a threshold out of reach: %v\n%s", err, &out)
	}
	err = run(t.Context(), append([]string{"pairs", "-pairs", "2", "-w", "1000", "-d", "100ms"}, attach...), &out)
	if err == nil || status(err) != exitEnvironment || !strings.Contains(err.Error(), "limits.inflight") {
		t.Errorf("a window that the server doesn't allow: %v", err)
	}
}

func TestFloor(t *testing.T) {
	r, text := bench(t, "floor -w 2 -groups 10 -d 100ms -warm 20ms -rate 500")
	var names []string
	for _, run := range r.Runs {
		names = append(names, run.Name)
	}
	want := "floor/raw floor/echo floor/pairs/w2 floor/group10/10x1 floor/group10/10x8 floor/group10/1x80"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("ran %s, want %s\n%s", got, want, text)
	}
}

func TestIssuer(t *testing.T) {
	for _, c := range []struct{ alg, key string }{{"EdDSA", "issuer.key"}, {"HS256", "issuer.secret"}} {
		dir := t.TempDir()
		var out bytes.Buffer
		if err := run(t.Context(), []string{"issuer", "-dir", dir, "-alg", c.alg}, &out); err != nil {
			t.Fatal(err)
		}
		key := filepath.Join(dir, c.key)
		if !strings.Contains(out.String(), "-key "+key+"\n") {
			t.Errorf("%s: %s", c.alg, &out)
		}
		if _, err := target.LoadIssuer("x", key); err != nil {
			t.Error(err)
		}
	}
}
