package node

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// ofCluster are the metrics that nodes of a cluster alone have.
var ofCluster = regexp.MustCompile("^gochat_(feature_level|(cluster|bus|tikv|settings)_[a-z_]+)$")

// scrape returns the samples of /metrics, by name with labels, and the names.
func scrape(t *testing.T, n *running) (samples map[string]string, names map[string]bool) {
	t.Helper()
	at := n.HTTPAddr()
	if at == nil {
		at = n.MonitorAddr()
	}
	resp, err := http.Get("http://" + at.String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	samples, names = map[string]string{}, map[string]bool{}
	for in := bufio.NewScanner(resp.Body); in.Scan(); {
		line := in.Text()
		if name, ok := strings.CutPrefix(line, "# TYPE "); ok {
			names[strings.Fields(name)[0]] = true
		} else if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			samples[line[:i]] = line[i+1:]
		}
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	return samples, names
}

// describedMetrics are the metrics that docs/OPERATIONS.md describes.
func describedMetrics(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	described := map[string]bool{}
	for _, m := range regexp.MustCompile("`(gochat_[a-z_]+)(\\{[a-z, ]+\\})?`").FindAllSubmatch(text, -1) {
		described[string(m[1])] = true
	}
	return described
}

// Each metric of ours is described in docs/OPERATIONS.md, and what is described there exists.
// Frames are counted by their type, and look-ups in memory by what they were for.
func TestMetrics(t *testing.T) {
	w := newTown(t, nil, "ann", "ben")
	ann, ben := w.device("ann", "phone"), w.device("ben", "desk")
	for range 3 {
		r, err := ann.Send(w.ctx, gochat.ToUser("ben"), gochat.Text("hello"))
		if err == nil {
			_, err = r.Wait(w.ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ann.CreateGroup(w.ctx, gochat.NewGroup{Name: "x", Users: []id.UserID{"ben"}}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ben.History(w.ctx, id.Direct("ann", "ben"), 0, 0); err != nil {
		t.Fatal(err)
	}
	if resp, err := http.Get("http://" + w.node.HTTPAddr().String() + "/healthz"); err != nil {
		t.Fatal(err)
	} else {
		resp.Body.Close()
	}
	samples, names := scrape(t, w.node)
	for name, want := range map[string]string{
		`gochat_frames_in_total{type="connect"}`: "2", `gochat_frames_out_total{type="connack"}`: "2",
		`gochat_frames_in_total{type="send"}`: "3", `gochat_frames_out_total{type="sendack"}`: "3",
		`gochat_messages_stored_total`: "5", `gochat_cache_entries{cache="directs"}`: "1", `gochat_cache_entries{cache="group_members"}`: "1",
		`gochat_cache_entries{cache="ids"}`: "3", `gochat_cache_hits_total{cache="ids"}`: "3", `gochat_cache_hits_total{cache="directs"}`: "2",
	} {
		if got := samples[name]; got != want {
			t.Errorf("%s is %q, want %s", name, got, want)
		}
	}
	for _, name := range []string{`gochat_frames_in_total{type="request"}`, `gochat_frames_out_total{type="response"}`, `gochat_frames_out_total{type="deliver"}`, `gochat_cache_misses_total{cache="heads"}`} {
		if samples[name] == "" || samples[name] == "0" {
			t.Errorf("%s is %q", name, samples[name])
		}
	}
	described := describedMetrics(t)
	for name := range names {
		if strings.HasPrefix(name, "gochat_") && !described[name] {
			t.Errorf("docs/OPERATIONS.md doesn't describe %s", name)
		}
	}
	for name := range described {
		if ofCluster.MatchString(name) {
			continue // TestClusterMetrics
		}
		if !names[name] && !strings.HasPrefix(name, "gochat_certificate_") && !strings.HasSuffix(name, "_refused_total") && name != "gochat_edge_closed_total" { // which come with the first
			t.Errorf("docs/OPERATIONS.md describes %s, which there isn't", name)
		}
	}
}
