// Package pages serves a web app's files: what a browser needs to chat with nothing else installed.
package pages

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io/fs"
	"mime"
	"path"
	"strings"

	"github.com/gochat-im/gochat/edge/api"
)

// policy is what the pages may do: load from their own server, show pictures from elsewhere over https, and
// be framed by nobody. What a message says can't become a script.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' https:; connect-src 'self'; " +
	"manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// file is one of them as it is sent.
type file struct {
	kind   string
	tag    string // ETag
	cache  string
	plain  []byte
	packed []byte // gzip; nil: not worth it
}

// Routes returns one route for each file of files, and / for its index.html. All are read now; those below
// assets/ have their contents' hash in their names and are kept by browsers for good, the others are asked for again.
func Routes(files fs.FS) ([]api.Route, error) {
	var routes []api.Route
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		body, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		f := newFile(name, body)
		where := "/" + name
		if name == "index.html" {
			where = "/"
		}
		for _, method := range []string{"GET", "HEAD"} {
			routes = append(routes, api.Route{Method: method, Path: where, Serve: f.serve})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the web app: %w", err)
	}
	return routes, nil
}

func newFile(name string, body []byte) *file {
	sum := sha256.Sum256(body)
	f := &file{kind: mime.TypeByExtension(path.Ext(name)), tag: `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, cache: "no-cache", plain: body}
	switch path.Ext(name) { // whatever the machine's tables say
	case ".html":
		f.kind = "text/html; charset=utf-8"
	case ".js":
		f.kind = "text/javascript; charset=utf-8"
	case ".css":
		f.kind = "text/css; charset=utf-8"
	case ".svg":
		f.kind = "image/svg+xml"
	case "":
		f.kind = "application/octet-stream"
	}
	if strings.HasPrefix(name, "assets/") {
		f.cache = "public, max-age=31536000, immutable"
	}
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level is one
	_, _ = z.Write(body)                                  // memory takes all
	if z.Close() == nil && b.Len() < len(body)*9/10 {
		f.packed = b.Bytes()
	}
	return f
}

func (f *file) serve(_ context.Context, r *api.Request) (*api.Answer, error) {
	a := &api.Answer{Type: f.kind, Header: [][2]string{
		{"ETag", f.tag}, {"Cache-Control", f.cache}, {"Vary", "Accept-Encoding"}, {"Content-Security-Policy", policy}, {"Referrer-Policy", "no-referrer"},
	}}
	if strings.Contains(r.Header("If-None-Match"), f.tag) {
		a.Status = 304
		return a, nil
	}
	a.Body = f.plain
	if f.packed != nil && accepts(r.Header("Accept-Encoding"), "gzip") {
		a.Body = f.packed
		a.Header = append(a.Header, [2]string{"Content-Encoding", "gzip"})
	}
	return a, nil
}

// accepts reports whether an Accept-Encoding header names coding, other than to refuse it.
func accepts(header, coding string) bool {
	for part := range strings.SplitSeq(header, ",") {
		name, params, _ := strings.Cut(part, ";")
		if strings.EqualFold(strings.TrimSpace(name), coding) {
			q, _ := strings.CutPrefix(strings.ReplaceAll(params, " ", ""), "q=")
			return q == "" || strings.Trim(q, "0.") != ""
		}
	}
	return false
}
