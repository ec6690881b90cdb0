package local

import (
	"bytes"
	"errors"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// sleepers is a cluster of processes that sleep.
func sleepers(t *testing.T, dir string, names ...string) *Cluster {
	t.Helper()
	s, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{cfg: Config{Dir: dir}, state: s, spawn: newSpawner(true)}
	t.Cleanup(func() {
		for _, p := range c.Processes() {
			p.Kill()
		}
		c.spawn.close()
	})
	for _, name := range names {
		role, _, _ := strings.Cut(name, "-")
		if !slices.Contains(Roles, role) {
			role = ""
		}
		p := c.add(&Process{Name: name, Role: role, Data: dir, Log: c.log(name), command: func() (*exec.Cmd, error) { return exec.Command("sleep", "600"), nil }})
		if err := p.launch(); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// What runs of a cluster is found and ended by whoever comes later, frozen or not, and nothing else is.
func TestDownEndsWhatRuns(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("processes are found by what Linux tells of them")
		return
	}
	mine, other := t.TempDir(), t.TempDir()
	c, o := sleepers(t, mine, "etcd", "tikv", "logic-1", "edge-1"), sleepers(t, other, "logic-1")
	if err := c.Process("tikv").Freeze(); err != nil {
		t.Fatal(err)
	}
	if _, err := claim(mine); err == nil || !strings.Contains(err.Error(), "edge-1") {
		t.Errorf("a second cluster in the directory: %v", err)
	}
	found, err := Find(mine)
	if err != nil || len(found) != 4 {
		t.Errorf("found %v, %v", found, err)
	}
	var out bytes.Buffer
	if n, err := Down(t.Context(), mine, &out); err != nil || n != 4 {
		t.Errorf("%d ended, %v", n, err)
	}
	var order []string
	for line := range strings.Lines(out.String()) {
		order = append(order, strings.Fields(line)[1])
	}
	if want := []string{"edge-1", "logic-1", "tikv", "etcd"}; !slices.Equal(order, want) {
		t.Errorf("ended in the order %v, want %v", order, want)
	}
	for _, p := range c.Processes() {
		<-p.Done()
	}
	if !o.Process("logic-1").Running() {
		t.Error("another cluster's process was ended")
	}
	if n, err := Down(t.Context(), mine, &out); err != nil || n != 0 {
		t.Errorf("again: %d ended, %v", n, err)
	}
	if n, err := Down(t.Context(), t.TempDir(), &out); err != nil || n != 0 {
		t.Errorf("where no cluster was: %d ended, %v", n, err)
	}
}

func TestAddressesStay(t *testing.T) {
	dir := t.TempDir()
	s, err := claim(dir)
	if err != nil {
		t.Fatal(err)
	}
	a, err1 := s.address("broker", 0, 2)
	b, err2 := s.address("edge-1 tcp", 7070, 0)
	if err := errors.Join(err1, err2); err != nil || b != "127.0.0.1:7070" {
		t.Fatalf("%s, %s, %v", a, b, err)
	}
	again, err := claim(dir)
	if err != nil || again.Run == s.Run {
		t.Fatalf("run %q again, %v", again.Run, err)
	}
	if got, err := again.address("broker", 0, 2); err != nil || got != a {
		t.Errorf("%s, %v, want %s", got, err, a)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []Config{{Stores: "paper"}, {Edges: -1}, {PDs: 10}, {Logics: 100}, {On: new(Cluster), Keyspace: 1}, {On: &Cluster{cfg: Config{Stores: StoresReal}}}} {
		if err := c.setDefaults(); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	c := Config{}
	if err := c.setDefaults(); err != nil || !strings.HasSuffix(c.Dir, "/.cache/cluster") || c.PDs != 1 || c.Via("a", "b", "c:1") != "c:1" {
		t.Errorf("%+v, %v", c, err)
	}
}

// Where a running cluster's nodes are reached is found in its directory.
func TestFindNodes(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Log("processes are found by what Linux tells of them")
		return
	}
	dir := t.TempDir()
	if _, err := FindNodes(dir); err == nil || !strings.Contains(err.Error(), "there has been none") {
		t.Errorf("no cluster: %v", err)
	}
	c := sleepers(t, dir, "etcd", "logic-1")
	if _, err := FindNodes(dir); err == nil || !strings.Contains(err.Error(), "no edge") {
		t.Errorf("no edge: %v", err)
	}
	for _, what := range []string{"edge-1 tcp", "edge-1 http", "logic-1 monitor"} {
		if _, err := c.state.address(what, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	e := c.add(&Process{Name: "edge-1", Role: "edge", Data: dir, Log: c.log("edge-1"), command: func() (*exec.Cmd, error) { return exec.Command("sleep", "600"), nil }})
	if err := e.launch(); err != nil {
		t.Fatal(err)
	}
	found, err := FindNodes(dir)
	if err != nil || len(found) != 3 {
		t.Fatalf("%+v, %v", found, err)
	}
	for _, f := range found {
		p := c.state.Ports
		want := map[string]Found{"etcd": {}, "logic-1": {HTTP: p["logic-1 monitor"]}, "edge-1": {TCP: p["edge-1 tcp"], HTTP: p["edge-1 http"]}}[f.Name]
		if want.Live = f.Live; f != want || f.PID == 0 {
			t.Errorf("%+v, want %+v", f, want)
		}
	}
}
