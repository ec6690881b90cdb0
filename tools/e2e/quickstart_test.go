//go:build e2e

package e2e

import (
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What docs/quickstart.md says is done as it stands there, in an empty folder: its commands are run, its files written, and two
// people chat in its page. Two things differ: the clone is a copy of this checkout, and the ports are free ones.
func TestQuickstart(t *testing.T) {
	page, err := os.ReadFile("../../docs/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	dir, shop, web, tcp := t.TempDir(), freePort(t), freePort(t), freePort(t)
	port := func(address string) string { return address[strings.LastIndex(address, ":")+1:] }
	text := strings.NewReplacer("3000", port(shop), "8080", port(web)).Replace(string(page))
	env := append(os.Environ(), "GOCHAT_HTTP__LISTEN="+web, "GOCHAT_TCP__LISTEN="+tcp)

	// A file's block follows its name.
	files := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)\n\\*\\*`([a-z.]+)`\\*\\*[^\n]*\n\n```[a-z]+\n(.*?)```").FindAllStringSubmatch(text, -1) {
		files[m[1]] = m[2]
	}
	var steps []string
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
		steps = append(steps, strings.Split(strings.TrimSpace(m[1]), "\n")...)
	}
	if len(files) != 3 || len(steps) != 8 {
		t.Fatalf("%d files and %d commands", len(files), len(steps))
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	for _, line := range steps {
		args := strings.Fields(line)
		if args[0] == "git" {
			checkout(t, filepath.Join(dir, "gochat"))
			continue
		}
		last := args[len(args)-1]
		background := last == "&" || slices.Contains(args, "serve")
		if last == "&" {
			args = args[:len(args)-1]
		}
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir, cmd.Env = dir, env
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if strings.Contains(args[0], "/") {
			cmd.Path = filepath.Join(dir, args[0])
		}
		if !background {
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
			continue
		}
		var said strings.Builder
		cmd.Stdout, cmd.Stderr = &said, &said
		if err := cmd.Start(); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("%s said:\n%s", line, said.String())
			}
		})
	}
	answers(t, "http://localhost:"+port(shop)+"/jwks.json")
	answers(t, "http://"+web+"/readyz")

	b := openBrowser(t)
	people := regexp.MustCompile(`http://localhost:\d+/sign-in\?as=(\w+)`).FindAllStringSubmatch(text, -1)
	if len(people) != 2 {
		t.Fatalf("%d people", len(people))
	}
	alice, bob := b.open("alice", look{URL: people[0][0]}), b.open("bob", look{URL: people[1][0]})
	write := func(v *view, to, text string) {
		t.Helper()
		v.do("value", fmt.Sprintf("document.forms[0].elements.to.value = %q; document.forms[0].elements.text.value = %q", to, text))
		v.do("click", "button")
	}
	write(alice, "bob", "is it still to be had?")
	bob.do("waitText", "alice: is it still to be had?")
	write(bob, "alice", "<b>it is</b>")
	alice.do("waitText", "bob: <b>it is</b>")
	alice.do("waitText", "alice: is it still to be had?")
	alice.do("waitCount", "li", 2)
	alice.do("waitCount", "b", 0)
	alice.sane()
	bob.sane()

	// Who isn't signed in at the product gets no token, and nobody registers past it.
	for url, want := range map[string]int{"http://localhost:" + port(shop) + "/chat-token": 401, "http://localhost:" + port(shop) + "/client/none.js": 401, "http://localhost:" + port(shop) + "//": 401} {
		res, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %d, want %d", url, res.StatusCode, want)
		}
	}
	res, err := http.Post("http://"+web+"/api/v1/auth/register", "application/json", strings.NewReader(`{"name":"alice","password":"password of mallory"}`))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		t.Errorf("registering as alice: %d", res.StatusCode)
	}
}

// checkout copies this checkout to dir, without what is built or fetched.
func checkout(t *testing.T, dir string) {
	t.Helper()
	root := "../.."
	leave := []string{".git", ".cache", "bin", "data", "node_modules", "sdk/ts/dist"}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch to := filepath.Join(dir, rel); {
		case d.IsDir() && (slices.Contains(leave, filepath.ToSlash(rel)) || d.Name() == "node_modules"):
			return filepath.SkipDir
		case d.IsDir():
			return os.MkdirAll(to, 0o755)
		case d.Type().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			return os.WriteFile(to, content, info.Mode().Perm())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// answers waits until a GET of url is answered with 200.
func answers(t *testing.T, url string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		res, err := http.Get(url)
		if err != nil {
			continue
		}
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return
		}
	}
	t.Fatalf("%s doesn't answer", url)
}
