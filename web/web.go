// Package web holds the web app, built from the sources beside it, so that a server needs nothing else to
// show it. `make web` builds it again; a test holds that it was after the sources changed.
package web

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

//go:embed all:dist
var dist embed.FS

// Files are the app's: index.html and what it loads.
func Files() fs.FS {
	files, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // the name is a path
	}
	return files
}

// SumFile is where the sum of the sources that dist was built of stands.
const SumFile = "dist.sum"

// sources are the files and folders, from the repository's root, that the app is built of.
var sources = []string{
	"web/index.html", "web/package.json", "web/package-lock.json", "web/tsconfig.json", "web/vite.config.ts", "web/public", "web/src",
	"sdk/ts/src",
}

// Sum returns a hash of the app's sources in root, the repository.
func Sum(root fs.FS) (string, error) {
	var names []string
	for _, s := range sources {
		err := fs.WalkDir(root, s, func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !strings.HasPrefix(path.Base(name), ".") {
				names = append(names, name)
			}
			return err
		})
		if err != nil {
			return "", fmt.Errorf("listing the web app's sources: %w", err)
		}
	}
	slices.Sort(names)
	h := sha256.New()
	for _, name := range names {
		b, err := fs.ReadFile(root, name)
		if err != nil {
			return "", fmt.Errorf("reading the web app's sources: %w", err)
		}
		_, _ = fmt.Fprintf(h, "%s %d\n", name, len(b)) // a hash takes all
		_, _ = h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
