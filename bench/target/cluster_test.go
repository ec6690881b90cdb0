package target

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/node/config"
)

func TestLayouts(t *testing.T) {
	names := func(parts []Part) (list []string) {
		for _, p := range parts {
			list = append(list, p.Name+":"+strings.Join(p.Roles, "+"))
		}
		return list
	}
	for text, want := range map[string]string{
		"alone":                         "alone:",
		"edge+logic+fanout+worker":      "edge.logic.fanout.worker-1:edge+logic+fanout+worker",
		"edge*2, logic+fanout+worker":   "edge-1:edge edge-2:edge logic.fanout.worker-1:logic+fanout+worker",
		"edge,edge,logic,fanout,worker": "edge-1:edge edge-2:edge logic-1:logic fanout-1:fanout worker-1:worker",
	} {
		parts, err := ParseLayout(text)
		if err != nil || !slices.Equal(names(parts), strings.Fields(want)) {
			t.Errorf("%s: %q, %v", text, names(parts), err)
		}
	}
	for _, text := range []string{"", "edge", "edge,logic,fanout", "edge*many,logic+fanout+worker", "edge*65,logic+fanout+worker", "store", "alone,edge"} {
		if parts, err := ParseLayout(text); err == nil {
			t.Errorf("%q was taken: %q", text, names(parts))
		}
	}
}

// What is written for each process is a configuration that a server takes.
func TestConfigurationsOfACluster(t *testing.T) {
	for _, layout := range []string{"alone", "edge,logic+fanout+worker", "edge*2,logic*3,fanout,worker"} {
		parts, err := ParseLayout(layout)
		if err != nil {
			t.Fatal(err)
		}
		c := &Cluster{dir: t.TempDir()}
		if c.Issuer, err = NewIssuer(c.dir, "EdDSA"); err != nil {
			t.Fatal(err)
		}
		var members []member
		stored := 0
		for i, p := range parts {
			at := func(n int) netip.AddrPort {
				return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(1000+10*i+n))
			}
			m := member{Part: p, tcp: at(0), http: at(1), rpc: at(2)}
			if m.stored() {
				stored++
			}
			members = append(members, m)
		}
		for i := range members {
			if err := loads(t, c.dir, c.config(members, i, stored, Settings{{"limits.sends_per_second", "1000"}})); err != nil {
				t.Errorf("%s of %s: %v", members[i].Name, layout, err)
			}
		}
	}
}

func loads(t *testing.T, dir, text string) error {
	path := dir + "/gochat.yaml"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := config.Load(path, nil, nil)
	return err
}
