package etcdnodes_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
)

// rivals are n names whose search for a number begins at the same one.
func rivals(n int) []string {
	var s []string
	for i := 0; len(s) < n; i++ {
		if name := fmt.Sprintf("n%d", i); xxhash.Sum64String(name)%nodes.MaxWorker == 17 {
			s = append(s, name)
		}
	}
	return s
}

func TestRaceForNumbers(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	cfg := config(srv.URL(), t)
	var mu sync.Mutex
	got := map[uint32]string{}
	var all sync.WaitGroup
	for _, name := range rivals(6) {
		s := open(t, cfg)
		all.Go(func() {
			n, err := s.Join(limit(t), nodes.Node{ID: name, Roles: nodes.Edge})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || got[n.Worker] != "" {
				t.Errorf("%s has number %d, which %q has; %v", name, n.Worker, got[n.Worker], err)
			}
			got[n.Worker] = name
		})
	}
	all.Wait()
	for i := uint32(18); i < 24; i++ {
		if got[i] == "" {
			t.Errorf("numbers: %v", got)
		}
	}
}

func TestOneProcessPerID(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	started(t, config(srv.URL(), t), "a")
	if _, err := open(t, config(srv.URL(), t)).Join(limit(t), nodes.Node{ID: "a", Roles: nodes.Logic}); !errors.Is(err, etcdnodes.ErrTaken) {
		t.Errorf("a second process of one id: %v", err)
	}
	// Two that start at once: both may join, with different numbers; one of them is announced.
	x, y := open(t, config(srv.URL(), t)), open(t, config(srv.URL(), t))
	if nx, ny := join(t, x, "b"), join(t, y, "b"); nx.Worker == ny.Worker {
		t.Errorf("both have number %d", nx.Worker)
	}
	if err := x.Announce(limit(t)); err != nil {
		t.Error(err)
	}
	if err := y.Announce(limit(t)); !errors.Is(err, etcdnodes.ErrTaken) {
		t.Errorf("a second process is announced: %v", err)
	}
}

func TestNumbersRunOut(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client()
	put := func(n int, value string) {
		t.Helper()
		if _, err := c.Put(limit(t), fmt.Sprintf("%s/workers/%d", prefix, n), value); err != nil {
			t.Fatal(err)
		}
	}
	const rest = 1000
	for n := 1; n <= nodes.MaxWorker; n++ {
		if n != rest {
			put(n, `{"node":"x","start":1}`)
		}
	}
	put(0, "not a number that there is")
	if n := join(t, open(t, config(srv.URL(), t)), "a"); n.Worker != rest {
		t.Errorf("number %d, want %d", n.Worker, rest)
	}
	if _, err := open(t, config(srv.URL(), t)).Join(limit(t), nodes.Node{ID: "b", Roles: nodes.Edge}); !errors.Is(err, etcdnodes.ErrNoNumber) {
		t.Errorf("all taken: %v", err)
	}
	// A node that dies at each start uses up no more than eight, then it has its oldest again.
	for n := 501; n <= 508; n++ {
		put(n, fmt.Sprintf(`{"node":"c","start":%d}`, n))
	}
	put(501, `{"node":"c","start":7}`)
	if n := join(t, open(t, config(srv.URL(), t)), "c"); n.Worker != 502 {
		t.Errorf("number %d, want 502", n.Worker)
	}
}

func TestNumberIsLost(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	c := srv.Client()
	a := started(t, config(srv.URL(), t), "a")
	b := started(t, config(srv.URL(), t), "b")
	sees(t, b, "a b")
	if _, err := c.Put(limit(t), fmt.Sprintf("%s/workers/%d", prefix, a.Worker()), `{"node":"thief","start":1}`); err != nil {
		t.Fatal(err)
	}
	<-a.Lost()
	if a.Valid() {
		t.Error("a node makes ids with another's number")
	}
	sees(t, b, "b")
	if err := a.Close(limit(t)); err != nil {
		t.Error(err)
	}
	if r, err := c.Get(limit(t), fmt.Sprintf("%s/workers/%d", prefix, a.Worker())); err != nil || len(r.Kvs) != 1 || !strings.Contains(string(r.Kvs[0].Value), "thief") {
		t.Errorf("the number's record: %v, %v", r, err)
	}
}
