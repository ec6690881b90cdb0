//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// playwright is the library by which Node drives a browser. The browser itself is the system's.
const playwright = "playwright-core@1.65.1"

// browser is a Chromium that testdata/browser/browser.mjs drives.
type browser struct {
	t    *testing.T
	in   io.WriteCloser
	said bytes.Buffer

	mu      sync.Mutex
	last    int
	waiting map[int]chan answer
	ended   bool
}

type answer struct {
	ID    int    `json:"id"`
	Value any    `json:"value"`
	Error string `json:"error"`
}

// view is one window, or tab.
type view struct {
	*browser
	name string
}

// look is how a window is to be.
type look struct {
	URL         string   `json:"url"`
	Beside      string   `json:"beside,omitempty"` // a window of the same browser profile
	Width       int      `json:"width,omitempty"`
	Height      int      `json:"height,omitempty"`
	Touch       bool     `json:"touch,omitempty"`
	Dark        bool     `json:"dark,omitempty"`
	Locale      string   `json:"locale,omitempty"`
	Permissions []string `json:"permissions,omitempty"`
}

// chromium returns the system's Chromium, which it installs if there is none and it may.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{os.Getenv("CHROMIUM"), "chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			return path
		}
	}
	t.Log("there is no Chromium: installing the distribution's with apt-get")
	for _, args := range [][]string{{"update", "-q"}, {"install", "-yq", "--no-install-recommends", "chromium", "fonts-noto-cjk", "fonts-noto-color-emoji"}} {
		if out, err := exec.Command("apt-get", args...).CombinedOutput(); err != nil {
			t.Fatalf("apt-get %s: %v (install Chromium, or name one in CHROMIUM)\n%s", strings.Join(args, " "), err, out)
		}
	}
	return "/usr/bin/chromium"
}

func openBrowser(t *testing.T) *browser {
	t.Helper()
	library := fetched(t, "playwright", []string{"npm", "install", "--no-audit", "--no-fund", "--prefix", ".", playwright})
	b := &browser{t: t, waiting: map[int]chan answer{}}
	cmd := exec.Command("node", filepath.Join("testdata", "browser", "browser.mjs"), library, chromium(t))
	// A group of its own, so that whatever Chromium starts ends with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = &b.said
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	b.in = in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go b.read(out, read)
	t.Cleanup(func() {
		_ = in.Close() // it closes the browser, and ends
		select {
		case <-read:
		case <-time.After(20 * time.Second):
		}
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	return b
}

// read hands on what the driver answers, until it ends.
func (b *browser) read(out io.Reader, done chan<- struct{}) {
	defer close(done)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var a answer
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			continue
		}
		b.mu.Lock()
		c := b.waiting[a.ID]
		delete(b.waiting, a.ID)
		b.mu.Unlock()
		if c != nil {
			c <- a
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	for _, c := range b.waiting {
		c <- answer{Error: "the browser's driver ended"}
	}
	b.waiting = nil
}

func (b *browser) ask(window, what string, args ...any) (any, error) {
	c := make(chan answer, 1)
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return nil, fmt.Errorf("the browser's driver has ended: %s", b.said.String())
	}
	b.last++
	id := b.last
	b.waiting[id] = c
	b.mu.Unlock()
	order, err := json.Marshal(map[string]any{"id": id, "window": window, "do": what, "args": args})
	if err != nil {
		return nil, err
	}
	if _, err := b.in.Write(append(order, '\n')); err != nil {
		return nil, err
	}
	select {
	case a := <-c:
		if a.Error != "" {
			return nil, fmt.Errorf("%s", a.Error)
		}
		return a.Value, nil
	case <-time.After(2 * time.Minute):
		return nil, fmt.Errorf("no answer in 2 minutes")
	}
}

// open opens a window.
func (b *browser) open(name string, l look) *view {
	b.t.Helper()
	v := &view{b, name}
	v.do("open", name, l)
	return v
}

// do has something done in the window, as testdata/browser/user.mjs says how, and returns what came of it.
func (v *view) do(what string, args ...any) any {
	v.t.Helper()
	if what == "open" {
		args = args[1:]
	}
	value, err := v.ask(v.name, what, args...)
	if err != nil {
		shown, _ := v.ask(v.name, "text", "body")
		v.t.Fatalf("%s: %s %v: %v\nthe window shows:\n%v", v.name, what, args, err, shown)
	}
	return value
}

// sane fails the test if a window had errors, dialogs or refused content.
func (v *view) sane() {
	v.t.Helper()
	if trouble, _ := v.do("trouble").([]any); len(trouble) > 0 {
		v.t.Errorf("%s: %v", v.name, trouble)
	}
}

// said is what an open chat shows.
type said struct {
	Seq    uint64
	Sender string
	Text   string
}

func (v *view) messages() []said {
	v.t.Helper()
	var out []said
	rows, _ := v.do("messages").([]any)
	for _, r := range rows {
		m := r.([]any)
		out = append(out, said{uint64(m[0].(float64)), fmt.Sprint(m[1]), fmt.Sprint(m[2])})
	}
	return out
}
