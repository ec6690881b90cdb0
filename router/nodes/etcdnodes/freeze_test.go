package etcdnodes_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/gochat-im/gochat/router/etcd"
	"github.com/gochat-im/gochat/router/etcd/etcdtest"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/router/nodes/etcdnodes"
)

// A frozen node is a process of its own: the test's binary, which TestMain makes a node where these are set.
const (
	nodeURL   = "ETCDNODES_TEST_URL"
	nodeLease = "ETCDNODES_TEST_NUMBER_LEASE"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(nodeURL); url != "" {
		if err := beNode(url, os.Getenv(nodeLease)); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// beNode joins as "frozen" and answers each line on its input with whether its number is valid.
func beNode(url, lease string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	d, err := time.ParseDuration(lease)
	if err != nil {
		return err
	}
	c, err := etcd.Dial(ctx, etcd.Config{Endpoints: []string{url}})
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := etcdnodes.Open(ctx, etcdnodes.Config{Client: c, Prefix: prefix, Lease: time.Second, NumberLease: d})
	if err != nil {
		return err
	}
	if _, err := s.Join(ctx, nodes.Node{ID: "frozen", Roles: nodes.Logic}); err != nil {
		return err
	}
	if err := s.Announce(ctx); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		if in.Text() == "lost" {
			<-s.Lost()
		}
		fmt.Println(s.Valid())
	}
	return nil
}

type child struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Scanner
}

func startChild(t *testing.T, url string, numberLease time.Duration) *child {
	t.Helper()
	c := &child{t: t, cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), nodeURL+"="+url, nodeLease+"="+numberLease.String())
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.in, c.out = in, bufio.NewScanner(out)
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait()
	})
	return c
}

func (c *child) ask(what string) string {
	c.t.Helper()
	if _, err := fmt.Fprintln(c.in, what); err != nil {
		c.t.Fatal(err)
	}
	if !c.out.Scan() {
		c.t.Fatalf("the node ended: %v", c.out.Err())
	}
	return c.out.Text()
}

func (c *child) signal(s syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

// A process that stood still for longer than its lease comes back as one who was gone, with the
// number that is still its own.
func TestFrozenNodeComesBack(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	b := started(t, config(srv.URL(), t), "b")
	c := startChild(t, srv.URL(), time.Hour)
	if got := c.ask("valid"); got != "true" {
		t.Fatalf("valid: %s", got)
	}
	sees(t, b, "b frozen")
	before := b.View().ByID("frozen")
	c.signal(syscall.SIGSTOP)
	sees(t, b, "b")
	c.signal(syscall.SIGCONT)
	sees(t, b, "b frozen")
	after := b.View().ByID("frozen")
	if after.Worker != before.Worker || after.Start != before.Start || after.Same(before) {
		t.Errorf("came back as %+v, was %+v", after, before)
	}
	if got := c.ask("valid"); got != "true" {
		t.Errorf("valid after the return: %s", got)
	}
}

// A process that stood still until its number was another's makes no id with it, from its first
// instruction on.
func TestFrozenNodeLosesItsNumber(t *testing.T) {
	t.Parallel()
	srv := etcdtest.Start(t)
	tool := open(t, config(srv.URL(), t))
	c := startChild(t, srv.URL(), 2*time.Second)
	sees(t, tool, "frozen")
	number := tool.View().ByID("frozen").Worker
	if got := c.ask("valid"); got != "true" {
		t.Fatalf("valid: %s", got)
	}
	c.signal(syscall.SIGSTOP)
	key, client := fmt.Sprintf("%s/workers/%d", prefix, number), srv.Client()
	eventually(t, "the number is free", func() bool {
		r, err := client.Get(limit(t), key)
		return err == nil && len(r.Kvs) == 0
	})
	// What is asked lies in its input before it goes on.
	if _, err := fmt.Fprintln(c.in, "valid"); err != nil {
		t.Fatal(err)
	}
	c.signal(syscall.SIGCONT)
	if !c.out.Scan() || c.out.Text() != "false" {
		t.Errorf("valid when it goes on: %q", c.out.Text())
	}
	if got := c.ask("lost"); got != "false" {
		t.Errorf("valid after it was lost: %s", got)
	}
}
