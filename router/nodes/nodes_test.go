package nodes_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/router/nodes"
)

func TestValidate(t *testing.T) {
	good := nodes.Node{ID: "logic-1.eu_1", Worker: 1, RPC: "[::1]:7000", Roles: nodes.Logic, Weight: 50, Zone: "zürich"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*nodes.Node){
		"the id must be": func(n *nodes.Node) { n.ID = "a/b" },
		"id must be 1":   func(n *nodes.Node) { n.ID = "" },
		"1 to 63":        func(n *nodes.Node) { n.ID = strings.Repeat("a", 65) },
		"needs a role":   func(n *nodes.Node) { n.Roles = 0 },
		"edge,logic":     func(n *nodes.Node) { n.Roles = 1 << 7 },
		"worker number":  func(n *nodes.Node) { n.Worker = 0 },
		"1 to 1022":      func(n *nodes.Node) { n.Worker = 1023 },
		"weight 10001":   func(n *nodes.Node) { n.Weight = 10001 },
		"rpc address":    func(n *nodes.Node) { n.RPC = "localhost" },
		"zone":           func(n *nodes.Node) { n.Zone = "\xff" },
	} {
		n := good
		change(&n)
		if err := n.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want an error with %q", err, want)
		}
	}
}

func TestRoles(t *testing.T) {
	for _, r := range []nodes.Roles{nodes.Edge, nodes.Logic | nodes.Worker, nodes.All} {
		got, err := nodes.ParseRoles(r.Names())
		if err != nil || got != r {
			t.Errorf("%v: %v, %v", r, got, err)
		}
	}
	if s := nodes.All.String(); s != "edge,logic,fanout,worker" {
		t.Error(s)
	}
	if _, err := nodes.ParseRoles([]string{"logic", "boss"}); err == nil || !strings.Contains(err.Error(), `"boss"`) {
		t.Error(err)
	}
	if !nodes.All.Has(nodes.Edge|nodes.Logic) || nodes.Edge.Has(nodes.Edge|nodes.Logic) {
		t.Error("Has")
	}
}

// The record is read by nodes of other releases.
func TestRecord(t *testing.T) {
	n := nodes.Node{ID: "a", Worker: 7, RPC: "10.0.0.1:7000", Roles: nodes.Edge | nodes.Logic, Weight: 100, Zone: "z", Clients: []string{"c:5000"}, HTTP: "https://c", Level: 2, Start: 1<<63 - 1, Started: 5, Draining: true, Registration: 9}
	b, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"id":"a","worker":7,"rpc":"10.0.0.1:7000","roles":["edge","logic"],"weight":100,"zone":"z","clients":["c:5000"],"http":"https://c","level":2,"start":9223372036854775807,"started":5,"draining":true}`
	if string(b) != want {
		t.Errorf("the record is\n%s\nwant\n%s", b, want)
	}
	var got nodes.Node
	if err := json.Unmarshal([]byte(strings.Replace(want, `["edge",`, `["oracle","edge",`, 1)), &got); err != nil {
		t.Fatal(err)
	}
	got.Registration = 9
	if !reflect.DeepEqual(got, n) {
		t.Errorf("a later release's record is read as %+v", got)
	}
	if err := json.Unmarshal([]byte(`{"roles":7}`), &got); err == nil {
		t.Error("roles that are a number are read")
	}
}

func node(id string, worker uint32, roles nodes.Roles) nodes.Node {
	return nodes.Node{ID: id, Worker: worker, Roles: roles, Start: 1}
}

func TestView(t *testing.T) {
	b, a := node("b", 2, nodes.Edge|nodes.Logic), node("a", 5, nodes.Logic)
	a.Level, b.Level = 3, 2
	v, err := nodes.NewView(8, []nodes.Node{b, a})
	if err != nil {
		t.Fatal(err)
	}
	if v.Revision() != 8 || len(v.Nodes()) != 2 || v.Nodes()[0].ID != "a" || v.Level() != 2 {
		t.Errorf("%+v", v)
	}
	if v.ByID("b").Worker != 2 || v.ByID("c") != nil || v.ByWorker(5).ID != "a" || v.ByWorker(1) != nil || v.ByID("a").Weight != nodes.DefaultWeight {
		t.Error("look-ups")
	}
	if l, e := v.With(nodes.Logic), v.With(nodes.Edge|nodes.Logic); len(l) != 2 || len(e) != 1 || e[0] != v.ByID("b") || v.With(nodes.Worker) != nil {
		t.Error("by role")
	}
	for _, ns := range [][]nodes.Node{{a, a}, {a, node("a", 6, nodes.Edge)}, {a, node("b", 5, nodes.Edge)}, {{}}} {
		if _, err := nodes.NewView(1, ns); err == nil {
			t.Errorf("%v is a view", ns)
		}
	}
}

func TestSame(t *testing.T) {
	a, b := node("a", 1, nodes.Edge), node("a", 1, nodes.Edge)
	if b.Draining = true; !a.Same(&b) {
		t.Error("a node that drains is another")
	}
	for _, change := range []func(*nodes.Node){func(n *nodes.Node) { n.ID = "b" }, func(n *nodes.Node) { n.Start++ }, func(n *nodes.Node) { n.Registration++ }} {
		c := a
		change(&c)
		if a.Same(&c) {
			t.Errorf("%v is the same as %v", a, c)
		}
	}
	var none *nodes.Node
	if a.Same(nil) || none.Same(&a) || !none.Same(nil) {
		t.Error("nobody")
	}
	if a, b := nodes.NewStart(), nodes.NewStart(); a == b {
		t.Error("two starts are one")
	}
}

func TestStatic(t *testing.T) {
	s, err := nodes.NewStatic(nodes.Node{ID: "a", Worker: 1, Roles: nodes.All})
	if err != nil {
		t.Fatal(err)
	}
	start := s.View().ByID("a").Start
	if start == 0 || s.View().Revision() != 1 {
		t.Errorf("%+v", s.View().ByID("a"))
	}
	var told []string
	now, cancel := s.Subscribe(func(old, new *nodes.View) {
		told = append(told, fmt.Sprint(old.Revision(), new.Revision(), len(new.Nodes()), s.View() == new))
	})
	if now != s.View() {
		t.Error("Subscribe returns another view")
	}
	if err := s.Set(nodes.Node{ID: "a", Worker: 1, Roles: nodes.All}, node("b", 2, nodes.Edge)); err != nil {
		t.Fatal(err)
	}
	if s.View().ByID("a").Start != start {
		t.Error("a node that stayed was started again")
	}
	if err := s.Set(node("b", 2, 0)); err == nil {
		t.Error("a node without a role is set")
	}
	if err := s.Set(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.Set(node("b", 2, nodes.Edge)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"1 2 2 true", "2 3 0 true"}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	if _, err := nodes.NewStatic(nodes.Node{}); err == nil {
		t.Error("a node without a name")
	}
	if new(nodes.Feed).View().Nodes() != nil {
		t.Error("the view of nothing")
	}
}
