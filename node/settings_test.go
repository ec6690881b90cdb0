package node

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/settings"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// allNodes is what an operator does to the settings of all nodes.
type allNodes struct {
	*several
	client *clientv3.Client
}

func (a *allNodes) set(name, value string) {
	a.t.Helper()
	if _, err := a.client.Put(a.ctx, settings.Key("/gochat", name), value); err != nil {
		a.t.Fatal(err)
	}
}

func (a *allNodes) unset(name string) {
	a.t.Helper()
	if _, err := a.client.Delete(a.ctx, settings.Key("/gochat", name)); err != nil {
		a.t.Fatal(err)
	}
}

// eventually waits for something at each of these nodes.
func (a *allNodes) eventually(what string, ok func(r *running) bool, names ...string) {
	a.t.Helper()
	for _, name := range names {
		for end := time.Now().Add(2 * time.Minute); !ok(a.in[name]); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				a.t.Fatalf("%s: not after 2 minutes: %s", name, what)
			}
		}
	}
}

// closed reports whether a node that somebody is connected to takes nobody else.
func closed(t *testing.T) func(r *running) bool {
	return func(r *running) bool {
		for range 3 {
			c, err := net.Dial("tcp", r.TCPAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(time.Second))
			_, err = c.Read(make([]byte, 1))
			c.Close()
			if e, ok := err.(net.Error); ok && e.Timeout() {
				return false // whoever is let in is waited for
			}
		}
		return true
	}
}

func open(t *testing.T) func(r *running) bool {
	is := closed(t)
	return func(r *running) bool { return !is(r) }
}

// metric reads one from a node; -1: it has none.
func (a *allNodes) metric(r *running, name string) float64 {
	a.t.Helper()
	resp, err := http.Get("http://" + r.HTTPAddr().String() + "/metrics")
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindSubmatch(text)
	if m == nil {
		return -1
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		a.t.Fatal(err)
	}
	return v
}

// What lies in etcd is in force on all nodes, above what they were configured with; what can't be is refused, and said.
func TestSettingsOfAllNodes(t *testing.T) {
	srv := etcdtest.Start(t)
	a := &allNodes{newSeveral(t), srv.Client()}
	const everything = "edge logic fanout worker"
	logs := map[string]*conntest.Log{"a": {}, "b": {}, "c": {}}
	file := map[string]int{"a": 3, "b": 4, "c": 5}
	var mu sync.Mutex
	start := func(name string) {
		a.start(name, 0, everything, func(c *Config, p *Program) {
			p.Nodes, c.Cluster.Etcd.Endpoints = nil, []string{srv.URL()}
			p.Logger, p.Level = slog.New(slog.NewTextHandler(logs[name], nil)), new(slog.LevelVar)
			c.Limits.Connections = 1000
			p.Load = func() (Config, error) {
				mu.Lock()
				defer mu.Unlock()
				again := *c
				again.Limits.Inflight = file[name]
				return again, nil
			}
		})
	}
	// What lies there already holds from the beginning.
	a.set("limits.connections", "1")
	a.set("log.level", "warn")
	start("a")
	start("b")
	both := []string{"a", "b"}
	for _, name := range both {
		c, err := net.Dial("tcp", a.in[name].TCPAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		a.eventually("a connection is counted", func(r *running) bool { return r.edge.Hub.Stats().Connections == 1 }, name)
	}
	a.eventually("the limit of connections holds", closed(t), both...)
	a.eventually("so does the level of the log", func(r *running) bool { return r.level.Level() == slog.LevelWarn }, both...)
	a.set("limits.connections", "1000")
	a.eventually("it is raised", open(t), both...)
	a.set("limits.connections", "1")
	a.eventually("it is lowered", closed(t), both...)
	a.unset("log.level")
	a.eventually("what is removed holds no more", func(r *running) bool { return r.level.Level() == slog.LevelInfo }, both...)

	// Bad ones change nothing, are said and counted.
	before := a.metric(a.in["a"], "gochat_settings_revision")
	bad := map[string]string{
		"limits.connections": "0", "limits.frame": "256KiB", "limits.nothing": "1", "fanout.large_group": "a lot",
		"http.tls.cert_file": "/x", "retention.group": "1s",
	}
	for name, value := range bad {
		a.set(name, value)
	}
	a.eventually("they are refused", func(r *running) bool { return a.metric(r, "gochat_settings_refused_total") == float64(len(bad)) }, both...)
	a.eventually("the old limit holds", closed(t), both...)
	for _, name := range both {
		for key := range bad {
			if !strings.Contains(logs[name].String(), `msg="a setting from etcd is refused; what was in force stays" key=`+key) {
				t.Errorf("%s says nothing of %s:\n%s", name, key, logs[name])
			}
		}
		if v := a.metric(a.in[name], "gochat_settings_revision"); v != before || v <= 0 {
			t.Errorf("%s: revision %v in force, was %v", name, v, before)
		}
	}

	// A node that starts while they lie there has its own configuration's value, and says so.
	start("c")
	a.eventually("a node's own limit holds", open(t), "c")
	if !strings.Contains(logs["c"].String(), "what was in force stays\" key=limits.connections") || a.metric(a.in["c"], "gochat_settings_refused") != float64(len(bad)) {
		t.Errorf("c starts with bad settings in silence:\n%s", logs["c"])
	}
	for name := range bad {
		a.unset(name)
	}
	all := []string{"a", "b", "c"}
	a.eventually("each node's own configuration holds again", open(t), all...)
	a.eventually("nothing is refused any more", func(r *running) bool { return a.metric(r, "gochat_settings_refused") == 0 }, all...)

	// The nodes' own configurations lie below.
	inflight := func(want int) func(r *running) bool {
		return func(r *running) bool { return r.current().Limits.Inflight == want }
	}
	a.set("limits.inflight", "77")
	a.eventually("a setting", inflight(77), all...)
	done, err := a.in["a"].reloadRequest(a.ctx, struct{}{})
	if err != nil || fmt.Sprint(done.Changed, done.Etcd) != "[] [limits.inflight]" {
		t.Errorf("reloaded below a setting: %+v, %v", done, err)
	}
	if !inflight(77)(a.in["a"]) {
		t.Error("what a node read again is above what etcd has")
	}
	a.unset("limits.inflight")
	a.eventually("what it read holds afterwards", inflight(3), "a")
	a.eventually("the others have theirs", inflight(Default().Limits.Inflight), "b", "c")

	// While etcd is away nothing changes, and a node's own configuration can be read again.
	a.set("limits.connections", "1")
	a.eventually("a limit", closed(t), both...)
	srv.Stop()
	mu.Lock()
	file["b"] = 6
	mu.Unlock()
	if done, err = a.in["b"].reloadRequest(a.ctx, struct{}{}); err != nil || fmt.Sprint(done.Changed) != "[limits.inflight]" {
		t.Errorf("reloaded without etcd: %+v, %v", done, err)
	}
	a.eventually("without etcd the settings it had hold", closed(t), "b")
	a.eventually("and its own, read again", inflight(6), "b")
	srv.Restart()
	a.set("limits.connections", "1000")
	a.eventually("etcd is back", open(t), all...)
}

// Words of a list in etcd, and of a node's own file, don't reach anybody; whoever reloads has the file as it is then.
func TestWords(t *testing.T) {
	srv := etcdtest.Start(t)
	a := &allNodes{newSeveral(t), srv.Client()}
	file := filepath.Join(t.TempDir(), "words.txt")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("# ours\nrude\n")
	a.set("words/lies", "The moon is made of cheese\n月饼\n")
	for _, name := range []string{"a", "b"} {
		a.start(name, 0, "edge logic fanout worker", func(c *Config, p *Program) {
			p.Nodes, c.Cluster.Etcd.Endpoints, c.Words.File = nil, []string{srv.URL()}, file
			own := *c
			p.Load = func() (Config, error) { return own, nil }
		})
	}
	a.register("a", "ann", "ben")
	ann, ben := a.actor("ann", "a"), a.actor("ben", "b")
	dm := id.Direct("ann", "ben")
	refused := func(text string) bool {
		t.Helper()
		r, err := ann.Send(a.ctx, gochat.ToUser("ben"), gochat.Text(text))
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Wait(a.ctx)
		var e *code.Error
		if err != nil && (!errors.As(err, &e) || e.Code != code.Forbidden) {
			t.Fatalf("%q: %v", text, err)
		}
		return err != nil
	}
	for text, want := range map[string]bool{"how RUDE of you": true, "吃月饼": true, "cheese": false, "the moon is made of cheese": true} {
		if refused(text) != want {
			t.Errorf("%q: refused is not %v", text, want)
		}
	}
	a.set("words/more", "cheese")
	a.eventually("a word more", func(*running) bool { return refused("cheese") }, "a")
	a.eventually("on all nodes", func(r *running) bool { return a.metric(r, "gochat_words") == 4 }, "a", "b")
	a.set("words/more", "bad\x00list")
	a.set("words/lies", "")
	a.eventually("a list that is refused leaves the old one", func(r *running) bool {
		return a.metric(r, "gochat_settings_refused") == 1 && a.metric(r, "gochat_words") == 2
	}, "a", "b")
	if !refused("cheese") || refused("吃月饼") {
		t.Error("a bad list has changed something, or an empty one nothing")
	}
	a.set("words.action", "mask")
	a.eventually("words are masked", func(r *running) bool { return r.current().Words.Action == "mask" }, "a", "b")
	seq := a.say(ann, gochat.ToUser("ben"), "rude cheese!")
	a.eventually("ben reads asterisks", func(*running) bool {
		ben.mu.Lock()
		defer ben.mu.Unlock()
		return ben.got[dm][seq] == "**** ******!"
	}, "b")
	a.unset("words/more")
	a.eventually("nothing is refused", func(r *running) bool {
		return a.metric(r, "gochat_settings_refused") == 0 && a.metric(r, "gochat_words") == 1
	}, "a", "b")

	// The file is read again with the configuration; one that can't be used changes nothing.
	write("polite")
	for _, name := range []string{"a", "b"} {
		if _, err := a.in[name].reloadRequest(a.ctx, struct{}{}); err != nil {
			t.Fatal(err)
		}
	}
	a.unset("words.action")
	a.eventually("words are refused again", func(r *running) bool { return r.current().Words.Action == "refuse" }, "a", "b")
	if refused("rude") || !refused("polite") {
		t.Error("the file's old words are in force")
	}
	write("a\xff")
	if _, err := a.in["a"].reloadRequest(a.ctx, struct{}{}); err == nil || !strings.Contains(err.Error(), "UTF-8") {
		t.Errorf("a bad file: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := a.in["a"].reloadRequest(a.ctx, struct{}{}); err == nil || !strings.Contains(err.Error(), "words.file") {
		t.Errorf("no file: %v", err)
	}
	if !refused("polite") {
		t.Error("a file that is gone has taken words away")
	}
	cfg := Default()
	cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen, cfg.Words.File = t.TempDir(), "127.0.0.1:0", "127.0.0.1:0", file
	if _, err := New(cfg, Program{Version: "test", Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "words.file") {
		t.Errorf("a node starts without its list: %v", err)
	}
}
