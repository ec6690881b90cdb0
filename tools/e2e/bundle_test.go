//go:build e2e

package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/web"
)

// What is committed of the web app is what its sources build, byte for byte, on whichever machine. Its unit tests run there, too.
func TestBundleIsBuiltOfItsSources(t *testing.T) {
	dir := t.TempDir()
	for _, from := range []string{"web", "sdk/ts/src", "sdk/ts/package.json"} {
		root := filepath.Join("../..", from)
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel("../..", path)
			if err != nil {
				return err
			}
			if d.IsDir() {
				if d.Name() == "node_modules" || d.Name() == "dist" || d.Name() == ".cache" {
					return filepath.SkipDir
				}
				return os.MkdirAll(filepath.Join(dir, rel), 0o755)
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			to := filepath.Join(dir, rel)
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			return os.WriteFile(to, b, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"ci", "--no-audit", "--no-fund"}, {"test"}, {"run", "build"}} {
		cmd := exec.Command("npm", args...)
		cmd.Dir = filepath.Join(dir, "web")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	built := files(t, os.DirFS(filepath.Join(dir, "web/dist")))
	for name, want := range files(t, web.Files()) {
		got, ok := built[name]
		if !ok {
			t.Errorf("%s isn't built any more: run `make web`", name)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s is built otherwise: run `make web`", name)
		}
		delete(built, name)
	}
	for name := range built {
		t.Errorf("%s isn't committed: run `make web`", name)
	}
}

func files(t *testing.T, from fs.FS) map[string][]byte {
	t.Helper()
	all := map[string][]byte{}
	err := fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all[name], err = fs.ReadFile(from, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
