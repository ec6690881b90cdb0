package openapi

import _ "embed"

// File is something that is served as it is.
type File struct {
	Path, Type string
	Body       []byte
	Header     [][2]string
}

var (
	//go:embed docs.html
	pageHTML []byte
	//go:embed docs.js
	pageScript []byte
	//go:embed docs.css
	pageStyle []byte
)

// The page loads its own three files and the document, and may do nothing else: what stands in
// the document is shown as text.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Routes returns the document and the page that shows it, by the paths they are served at.
func Routes(document []byte) []File {
	safe := [][2]string{{"Content-Security-Policy", policy}, {"Referrer-Policy", "no-referrer"}, {"Cache-Control", "no-cache"}}
	return []File{
		{"/api/openapi.json", "application/json", document, safe[2:]},
		{"/docs", "text/html; charset=utf-8", pageHTML, safe},
		{"/docs/docs.js", "text/javascript; charset=utf-8", pageScript, safe[2:]},
		{"/docs/docs.css", "text/css; charset=utf-8", pageStyle, safe[2:]},
	}
}
