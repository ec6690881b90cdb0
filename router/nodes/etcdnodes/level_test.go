package etcdnodes_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
)

// joinOf joins as a node of a release that reads up to a level.
func joinOf(t testing.TB, s *etcdnodes.Source, name string, level uint32) error {
	t.Helper()
	n, err := s.Join(limit(t), nodes.Node{ID: name, Roles: nodes.Logic, Level: level})
	if err == nil && n.Level != max(level, nodes.FirstLevel) {
		t.Errorf("%s joined as of level %d", name, n.Level)
	}
	return err
}

// startedOf is a source of a node that is announced.
func startedOf(t testing.TB, cfg etcdnodes.Config, name string, level uint32) *etcdnodes.Source {
	t.Helper()
	s := open(t, cfg)
	if err := joinOf(t, s, name, level); err != nil {
		t.Fatal(err)
	}
	if err := s.Announce(limit(t)); err != nil {
		t.Fatal(err)
	}
	return s
}

func raises(t testing.TB, s *etcdnodes.Source, from, to uint32, gone ...string) {
	t.Helper()
	if was, is, err := s.Raise(limit(t), gone...); err != nil || was != from || is != to {
		t.Fatalf("raised from %d to %d, %v; want %d to %d", was, is, err, from, to)
	}
}

func staysBehind(t testing.TB, s *etcdnodes.Source, level uint32, why ...string) {
	t.Helper()
	was, is, err := s.Raise(limit(t))
	if !errors.Is(err, etcdnodes.ErrBehind) || was != level || is != level {
		t.Fatalf("raised from %d to %d, %v; want it to stay at %d", was, is, err, level)
	}
	for _, w := range why {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%v, want it to say %q", err, w)
		}
	}
}

func knows(t testing.TB, s *etcdnodes.Source, level uint32) {
	t.Helper()
	eventually(t, fmt.Sprintf("level %d is known", level), func() bool { return s.Level() == level })
}

// The nodes are replaced by those of a later release, one by one, and the level is raised when all are.
func TestLevelIsRaised(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	tool := open(t, config(srv.URL(), t))
	staysBehind(t, tool, 1, "no node is registered")
	a, b := startedOf(t, config(srv.URL(), t), "a", 0), startedOf(t, config(srv.URL(), t), "b", 1)
	raises(t, tool, 1, 1) // nothing to raise
	if err := a.Close(limit(t)); err != nil {
		t.Fatal(err)
	}
	a = startedOf(t, config(srv.URL(), t), "a", 3)
	staysBehind(t, tool, 1, `node "b" can read up to 1`)
	if err := b.Close(limit(t)); err != nil { // in good order: it is known to have ended
		t.Fatal(err)
	}
	b = startedOf(t, config(srv.URL(), t), "b", 2)
	sees(t, tool, "a b")
	if tool.View().Level() != 2 || a.Level() != 1 || b.Level() != 1 {
		t.Errorf("nodes read %d; levels in force %d and %d", tool.View().Level(), a.Level(), b.Level())
	}
	raises(t, tool, 1, 2)
	for _, s := range []*etcdnodes.Source{tool, a, b, open(t, config(srv.URL(), t))} {
		knows(t, s, 2)
	}
	staysBehind(t, tool, 2, `node "b" can read up to 2`)

	// Who is older is told so, and takes no number.
	err := joinOf(t, open(t, config(srv.URL(), t)), "c", 1)
	if !errors.Is(err, etcdnodes.ErrOld) || !strings.Contains(err.Error(), `feature level 2 is in force, and node "c" reads up to 1`) {
		t.Errorf("an older node joins: %v", err)
	}
	startedOf(t, config(srv.URL(), t), "d", 2)
	sees(t, a, "a b d")
}

// A node that was let in below the level that was raised since doesn't get to be seen.
func TestLevelIsRaisedBeforeAnnounce(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	tool := startedOf(t, config(srv.URL(), t), "a", 2)
	late := open(t, config(srv.URL(), t))
	if err := joinOf(t, late, "late", 1); err != nil {
		t.Fatal(err)
	}
	staysBehind(t, tool, 1, `node "late" isn't registered`, "it can read up to 1")
	raises(t, tool, 1, 2, "late")
	if err := late.Announce(limit(t)); !errors.Is(err, etcdnodes.ErrOld) {
		t.Errorf("an older node is announced: %v", err)
	}
	sees(t, tool, "a")
}

// A raise and an older node that starts: one of both wins.
func TestRaiseRacesWithJoin(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	type pair struct{ tool, late *etcdnodes.Source }
	var all []pair
	for i := range 12 {
		cfg := config(srv.URL(), t)
		cfg.Prefix = fmt.Sprintf("%s/%d", prefix, i)
		all = append(all, pair{startedOf(t, cfg, "a", 2), open(t, cfg)})
	}
	raised, joined := 0, 0
	for i, p := range all {
		begin := make(chan struct{})
		var done sync.WaitGroup
		var raising, joining error
		done.Go(func() {
			<-begin
			_, _, raising = p.tool.Raise(limit(t))
		})
		done.Go(func() {
			<-begin
			if joining = joinOf(t, p.late, "late", 1); joining == nil {
				joining = p.late.Announce(limit(t))
			}
		})
		close(begin)
		done.Wait()
		switch {
		case raising == nil && errors.Is(joining, etcdnodes.ErrOld):
			raised++
			knows(t, p.late, 2)
		case joining == nil && errors.Is(raising, etcdnodes.ErrBehind):
			joined++
			knows(t, p.tool, 1)
		default:
			t.Errorf("round %d: raise %v, join %v", i, raising, joining)
		}
	}
	t.Logf("%d raises, %d joins", raised, joined)
}

// A node that etcd has lost sight of still counts. Whoever says that it ended, although it didn't, has it end.
func TestRaiseWithNodeAway(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	p, q := srv.Proxy(), srv.Proxy()
	old := startedOf(t, config(p.URL(), t), "old", 1)
	tool := startedOf(t, config(q.URL(), t), "a", 2)
	sees(t, tool, "a old")
	p.Cut()
	sees(t, tool, "a")
	staysBehind(t, tool, 1, `node "old" isn't registered`)
	p.Heal()
	sees(t, tool, "a old")
	knows(t, old, 1)
	staysBehind(t, tool, 1, `node "old" can read up to 1`)

	// Without etcd nothing is raised, and what was in force stays.
	q.Cut()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := tool.Raise(ctx); err == nil || tool.Level() != 1 {
		t.Errorf("raised to %d without etcd: %v", tool.Level(), err)
	}
	q.Heal()
	sees(t, tool, "a old")

	p.Cut()
	sees(t, tool, "a")
	raises(t, tool, 1, 2, "old")
	p.Heal()
	<-old.Lost()
	if old.Valid() {
		t.Error("a node that can't read what the others write makes ids")
	}
	sees(t, tool, "a")
}

// etcd was away for longer than all leases: the first node back doesn't shut out those who come after it.
func TestRaiseAfterEtcdWasAway(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	tool := startedOf(t, config(srv.URL(), t), "a", 2)
	old := startedOf(t, config(srv.URL(), t), "old", 1)
	sees(t, tool, "a old")
	srv.Wipe() // of what anybody held nothing is left either
	staysBehind(t, tool, 1, `node "old" can read up to 1`)
	sees(t, tool, "a old")
	if err := old.Close(limit(t)); err != nil {
		t.Fatal(err)
	}
	raises(t, tool, 1, 2)
}

// etcd lost everything: the level that is in force is put back, and who can't read it ends.
func TestLevelIsPutBack(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	a := startedOf(t, config(srv.URL(), t), "a", 2)
	raises(t, a, 1, 2)
	c := srv.Client()
	level := func() string {
		r, err := c.Get(limit(t), prefix+"/level")
		if err != nil || len(r.Kvs) == 0 {
			return ""
		}
		return string(r.Kvs[0].Value)
	}
	srv.Wipe()
	eventually(t, "the level is put back", func() bool { return level() == "2" })
	if a.Level() != 2 {
		t.Errorf("level %d", a.Level())
	}
	if err := a.Close(limit(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Delete(limit(t), prefix+"/level"); err != nil {
		t.Fatal(err)
	}
	b := startedOf(t, config(srv.URL(), t), "b", 1)
	startedOf(t, config(srv.URL(), t), "c", 3)
	if _, err := c.Put(limit(t), prefix+"/level", "2"); err != nil {
		t.Fatal(err)
	}
	<-b.Lost()
}

func TestBadLevel(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client()
	a := startedOf(t, config(srv.URL(), t), "a", 2)
	for _, bad := range []string{"", "0", "two", "-1", "4294967296"} {
		if _, err := c.Put(limit(t), prefix+"/level", bad); err != nil {
			t.Fatal(err)
		}
		if _, err := etcdnodes.Open(limit(t), config(srv.URL(), t)); err == nil || !strings.Contains(err.Error(), "no feature level") {
			t.Errorf("level %q: %v", bad, err)
		}
		if _, _, err := a.Raise(limit(t)); err == nil || a.Level() != 1 {
			t.Errorf("level %q is raised to %d, %v", bad, a.Level(), err)
		}
	}
	if _, err := c.Delete(limit(t), prefix+"/level"); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"/nodes/x", "/workers/7"} {
		if _, err := c.Put(limit(t), prefix+key, "not a record"); err != nil {
			t.Fatal(err)
		}
		staysBehind(t, a, 1, "the record "+prefix+key+" can't be read")
		if _, err := c.Delete(limit(t), prefix+key); err != nil {
			t.Fatal(err)
		}
	}
	raises(t, a, 1, 2)
}

// Etcd was emptied while no node ran: who opens the store finds the level there, and records it again. Who can't read it ends.
func TestLevelIsRecalled(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	old := startedOf(t, config(srv.URL(), t), "old", 1)
	s := startedOf(t, config(srv.URL(), t), "new", 3)
	s.Recall(2)
	if s.Level() != 2 {
		t.Errorf("level %d is known", s.Level())
	}
	tool := open(t, config(srv.URL(), t))
	knows(t, tool, 2)
	select {
	case <-old.Lost():
	case <-limit(t).Done():
		t.Error("a node that can't read it goes on")
	}
}
