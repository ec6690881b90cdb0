package web

import (
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The bundle is committed, so that a server can be built with Go alone: it must be what the sources say.
func TestBuiltOfTheSources(t *testing.T) {
	want, err := Sum(os.DirFS(".."))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(SumFile)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(got)) != want {
		t.Fatalf("the sources of the web app have changed since it was built: run `make web`")
	}
}

// Pages load what there is, and nothing from other hosts.
func TestLoadsItsOwn(t *testing.T) {
	files := Files()
	index, err := fs.ReadFile(files, "index.html")
	if err != nil {
		t.Fatal(err)
	}
	refs := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(string(index), -1)
	if len(refs) < 3 {
		t.Fatalf("index.html refers to %d files: want a script, a style and an icon", len(refs))
	}
	for _, r := range refs {
		if _, err := fs.Stat(files, strings.TrimPrefix(r[1], "/")); err != nil {
			t.Errorf("index.html loads %s: %v", r[1], err)
		}
	}
}
