package target

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/gochat-im/gochat/router"
	"github.com/gochat-im/gochat/router/nodes"
)

// What a cluster has to move when nodes come and leave is told for each change of who owns the slots, and for nothing else.
func TestStepsOfTheRing(t *testing.T) {
	logic := func(names ...string) (list []nodes.Node) {
		for i, name := range names {
			list = append(list, nodes.Node{ID: name, Roles: nodes.Logic, RPC: "127.0.0.1:1", Worker: uint32(i + 1), Weight: 100, Start: 1})
		}
		return list
	}
	static, err := nodes.NewStatic(logic("a", "b", "c")...)
	if err != nil {
		t.Fatal(err)
	}
	g := &Growing{began: time.Now()}
	if g.router, err = router.New(router.Config{Source: static}); err != nil {
		t.Fatal(err)
	}
	defer g.router.Close()
	_, g.stop = g.router.Subscribe(g.changed)
	defer g.stop()
	for _, now := range [][]string{{"a", "b", "c", "d"}, {"a", "b", "c", "d", "e"}, {"a", "b", "c", "d", "e"}, {"a", "b", "c"}} {
		if err := static.Set(logic(now...)...); err != nil {
			t.Fatal(err)
		}
	}
	want := []struct {
		nodes int
		ideal float64
	}{{4, 4096. / 4}, {5, 4096. / 5}, {3, 4096. * 2 / 5}}
	if len(g.steps) != len(want) {
		t.Fatalf("%+v", g.steps)
	}
	for i, s := range g.steps {
		off := Move{Moved: s.Moved, Ideal: s.Ideal}
		if s.Nodes != want[i].nodes || s.Ideal < want[i].ideal-1e-6 || s.Ideal > want[i].ideal+1e-6 || off.Off() > 10 {
			t.Errorf("step %d: %+v, want %+v; %.1f %% off", i, s, want[i], off.Off())
		}
	}
	if (&Move{}).Off() != 0 {
		t.Error("nothing that moved is off")
	}
}

func TestIssuerOfALocalCluster(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	first, err := LocalIssuer(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LocalIssuer(dir)
	if err != nil || again.Config() != first.Config() {
		t.Errorf("%+v, then %+v, %v", first, again, err)
	}
	if st, err := os.Stat(first.SignFile); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	if err := loads(t, t.TempDir(), "data: /nowhere\n"+first.Config()); err != nil {
		t.Errorf("a server doesn't take %q: %v", first.Config(), err)
	}
	if !strings.Contains(first.Config(), `prefix: "bench-"`) {
		t.Errorf("%q: without a prefix nobody may register", first.Config())
	}
	for _, is := range []*Issuer{first, again} {
		var c jwt.RegisteredClaims
		token, err := is.Token("bench-u000001")
		if err == nil {
			_, _, err = jwt.NewParser().ParseUnverified(token, &c)
		}
		if err != nil || c.Subject != "u000001" {
			t.Errorf("%+v, %v", c, err)
		}
		if _, err := is.Token("u000001"); err == nil {
			t.Error("signed for who may be somebody's account")
		}
	}
	if _, err := Running(dir); err == nil || !strings.Contains(err.Error(), "there has been none") {
		t.Errorf("no cluster: %v", err)
	}
	if e := (Setting{"limits.sends_per_second", "5"}).Env(); e != "GOCHAT_LIMITS__SENDS_PER_SECOND=5" {
		t.Error(e)
	}
}
