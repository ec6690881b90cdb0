package pwhash

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var cheap = Argon{KiB: 64, Passes: 1, Lanes: 1}

// TestMain lets the test binary be the child.
func TestMain(m *testing.M) {
	switch os.Getenv("PWHASH_CHILD") {
	case "":
		os.Exit(m.Run())
	case "dies":
		os.Exit(1)
	}
	if err := StepBack(); err != nil {
		panic(err)
	}
	if err := Serve(os.Stdin, os.Stdout); err != nil {
		os.Exit(1)
	}
}

func pool(t *testing.T, cfg PoolConfig, kind string) *Pool {
	t.Setenv("PWHASH_CHILD", kind)
	cfg.Command = []string{os.Args[0]}
	p := NewPool(cfg)
	t.Cleanup(p.Close)
	return p
}

// running counts the children that run; nothing else may use the pool.
func (p *Pool) running() (n int) {
	list := make([]*child, 0, p.cfg.Children)
	for range p.cfg.Children {
		list = append(list, <-p.free)
	}
	for _, c := range list {
		if c.cmd != nil {
			n++
		}
		p.free <- c
	}
	return n
}

func TestKeysAreTheSame(t *testing.T) {
	p := pool(t, PoolConfig{Children: 2}, "serves")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			password, salt := bytes.Repeat([]byte{byte(i)}, i*30), bytes.Repeat([]byte{7}, 8+i)
			if got, want := p.Key(cheap, password, salt, 16+i), cheap.Key(password, salt, 16+i); !bytes.Equal(got, want) {
				t.Errorf("password %d: %x, want %x", i, got, want)
			}
		})
	}
	wg.Wait()
	if n := p.running(); n < 1 || n > 2 {
		t.Errorf("%d children run", n)
	}
}

func TestDeadChildren(t *testing.T) {
	want := cheap.Key([]byte("password"), []byte("saltsalt"), 32)
	p := pool(t, PoolConfig{}, "serves")
	p.Key(cheap, nil, []byte("saltsalt"), 32)
	c := <-p.free
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first := c.cmd.Process.Pid
	p.free <- c
	if got := p.Key(cheap, []byte("password"), []byte("saltsalt"), 32); !bytes.Equal(got, want) {
		t.Errorf("after a kill: %x", got)
	}
	if c = <-p.free; c.cmd == nil || c.cmd.Process.Pid == first {
		t.Error("no new child was started")
	}
	p.free <- c

	for name, p := range map[string]*Pool{"dies at once": pool(t, PoolConfig{}, "dies"), "no command": NewPool(PoolConfig{}), "no such program": NewPool(PoolConfig{Command: []string{"/does/not/exist"}})} {
		if got := p.Key(cheap, []byte("password"), []byte("saltsalt"), 32); !bytes.Equal(got, want) {
			t.Errorf("%s: %x", name, got)
		}
		if n := p.running(); n != 0 {
			t.Errorf("%s: %d children", name, n)
		}
	}
}

func TestIdleChildrenEnd(t *testing.T) {
	p := pool(t, PoolConfig{Children: 2, Idle: 10 * time.Millisecond}, "serves")
	p.Key(cheap, nil, []byte("saltsalt"), 32)
	for p.running() != 0 {
		time.Sleep(5 * time.Millisecond)
	}
	if got := p.Key(cheap, nil, []byte("saltsalt"), 32); len(got) != 32 {
		t.Errorf("a later key: %x", got)
	}
}

func TestServe(t *testing.T) {
	var in []byte
	var want []byte
	for _, password := range []string{"one", ""} {
		var err error
		if in, err = appendRequest(in, cheap, []byte(password), []byte("saltsalt"), 20); err != nil {
			t.Fatal(err)
		}
		want = append(want, cheap.Key([]byte(password), []byte("saltsalt"), 20)...)
	}
	var out bytes.Buffer
	if err := Serve(bytes.NewReader(in), &out); err != nil || !slices.Equal(out.Bytes(), want) {
		t.Errorf("%v: %x, want %x", err, out.Bytes(), want)
	}
	for _, cut := range []int{1, headerLen, headerLen + 2} {
		if err := Serve(bytes.NewReader(in[:cut]), &out); err == nil {
			t.Errorf("a request cut off after %d bytes was taken", cut)
		}
	}
	for _, n := range []int{0, 256} {
		if _, err := appendRequest(nil, cheap, nil, nil, n); err == nil {
			t.Errorf("a key of %d bytes", n)
		}
	}
	if _, err := appendRequest(nil, cheap, []byte(strings.Repeat("x", maxPassword+1)), nil, 1); err == nil {
		t.Error("a password beyond the limit")
	}
}
