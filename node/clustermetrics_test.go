package node

import (
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// Nodes of all roles show what they have to do with the others, and each of these metrics is described.
func TestClusterMetrics(t *testing.T) {
	s := newSeveral(t)
	s.usual(func(c *Config, p *Program) {
		c.Cluster.Monitor = "127.0.0.1:0"
		s.watched(c, p)
	})
	s.register("edge-1", "ann", "ben")
	ann, ben := s.actor("ann", "edge-1"), s.actor("ben", "edge-2")
	dm := id.Direct("ann", "ben")
	s.hears(ben, dm, s.say(ann, gochat.ToUser("ben"), "hello"))

	described := describedMetrics(t)
	all, slots := map[string]bool{}, 0
	for name, n := range s.in {
		samples, names := scrape(t, n)
		for m := range names {
			all[m] = true
			if strings.HasPrefix(m, "gochat_") && !described[m] {
				t.Errorf("docs/OPERATIONS.md doesn't describe %s", m)
			}
		}
		for role, want := range map[string]string{"edge": "2", "logic": "3", "fanout": "1", "worker": "1"} {
			if got := samples[`gochat_cluster_nodes{role="`+role+`"}`]; got != want {
				t.Errorf("%s knows %s nodes with the role %s", name, got, role)
			}
		}
		if samples["gochat_feature_level"] != "1" {
			t.Errorf("%s: feature level %q", name, samples["gochat_feature_level"])
		}
		if samples["gochat_cluster_etcd_away"] != "0" || samples["gochat_cluster_number_held"] != "1" {
			t.Errorf("%s: etcd away %q, number held %q", name, samples["gochat_cluster_etcd_away"], samples["gochat_cluster_number_held"])
		}
		slots += atoi(samples["gochat_cluster_slots"])
		for _, page := range []string{"/healthz", "/readyz"} {
			resp, err := http.Get("http://" + n.MonitorAddr().String() + page)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Errorf("%s of %s: %s %s", page, name, resp.Status, text)
			}
		}
	}
	if slots != id.SlotCount {
		t.Errorf("all nodes together have %d slots", slots)
	}
	samples, _ := scrape(t, s.in["edge-1"])
	if at := `{addr="` + s.owner(dm).peers.Self.RPC + `"}`; samples["gochat_cluster_calls_total"+at] == "" || samples["gochat_cluster_breaker"+at] != "0" {
		t.Errorf("edge-1 called the owner %q times, breaker %q", samples["gochat_cluster_calls_total"+at], samples["gochat_cluster_breaker"+at])
	}
	source, err := os.ReadFile("clustermetrics.go")
	if err != nil {
		t.Fatal(err)
	}
	made := map[string]bool{}
	for _, m := range regexp.MustCompile(`"(gochat_[a-z_]+)"`).FindAllSubmatch(source, -1) {
		name := string(m[1])
		made[name] = true
		if !described[name] {
			t.Errorf("docs/OPERATIONS.md doesn't describe %s", name)
		}
		rocketmq := name == "gochat_bus_breaker" || name == "gochat_bus_dead_letters"
		if !all[name] && !strings.HasPrefix(name, "gochat_tikv_") && !rocketmq { // there is neither here
			t.Errorf("no node shows %s", name)
		}
	}
	for name := range described {
		if ofCluster.MatchString(name) && !made[name] {
			t.Errorf("docs/OPERATIONS.md describes %s, which there isn't", name)
		}
	}
}

func atoi(s string) (n int) {
	for _, c := range s {
		n = 10*n + int(c-'0')
	}
	return n
}
