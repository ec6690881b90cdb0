package etcd_test

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/gochat-im/gochat/router/etcd"
	"github.com/gochat-im/gochat/router/etcd/etcdtest"
)

// Requests are refused at once after some that brought no answer, whatever kind they are, and go on when etcd is back. What etcd refuses is
// an answer, and a caller who gives up says nothing.
func TestBreaker(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	srv := etcdtest.Start(t)
	c := srv.Client()
	state := func() string {
		s, _ := etcd.Breaker(c)
		return s
	}
	grant, err := c.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	requests := map[string]func(context.Context) error{
		"get":    func(ctx context.Context) error { return second(c.Get(ctx, "a")) },
		"put":    func(ctx context.Context) error { return second(c.Put(ctx, "a", "1")) },
		"delete": func(ctx context.Context) error { return second(c.Delete(ctx, "b")) },
		"txn": func(ctx context.Context) error {
			return second(c.Txn(ctx).If(clientv3.Compare(clientv3.Version("c"), "=", 0)).Then(clientv3.OpPut("c", "1")).Else(clientv3.OpGet("c")).Commit())
		},
		"grant":        func(ctx context.Context) error { return second(c.Grant(ctx, 60)) },
		"time to live": func(ctx context.Context) error { return second(c.TimeToLive(ctx, grant.ID)) },
	}
	all := func() {
		t.Helper()
		for name, request := range requests {
			if err := request(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	all()
	canceled, end := context.WithCancel(ctx)
	end()
	for range 10 {
		if err := second(c.Put(ctx, "a", "1", clientv3.WithLease(12345))); err == nil {
			t.Fatal("a lease that there isn't")
		}
		if err := second(c.Get(canceled, "a")); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if state() != "closed" {
			t.Fatal(state())
		}
	}

	srv.Stop()
	for n := 0; state() == "closed"; n++ {
		if n == 3 {
			t.Fatal("closed after three without an answer")
		}
		short, end := context.WithTimeout(ctx, 50*time.Millisecond)
		if err := second(c.Get(short, "a")); err == nil || errors.Is(err, etcd.ErrAway) {
			t.Fatal(err)
		}
		end()
	}
	// One may try; it takes the time that it is given, and the others are refused meanwhile.
	tried := make(chan error)
	long, end := context.WithCancel(ctx)
	go func() {
		for {
			if err := second(c.Get(long, "a")); !errors.Is(err, etcd.ErrAway) {
				tried <- err
				return
			}
			runtime.Gosched()
		}
	}()
	for state() != "half-open" {
		runtime.Gosched()
	}
	end()
	<-tried
	_, before := etcd.Breaker(c)
	refused := uint64(0)
	for _, request := range requests {
		short, end := context.WithTimeout(ctx, 50*time.Millisecond)
		switch err := request(short); {
		case err == nil:
			t.Error("answered by nobody")
		case errors.Is(err, etcd.ErrAway):
			refused++
		}
		end()
	}
	if _, kept := etcd.Breaker(c); refused == 0 || kept-before != refused {
		t.Errorf("%d refused, %d counted", refused, kept-before)
	}

	srv.Restart()
	for second(c.Get(ctx, "a")) != nil {
		if ctx.Err() != nil {
			t.Fatal("not back after a minute")
		}
		runtime.Gosched()
	}
	if state() != "closed" {
		t.Error(state())
	}
	all()
}
