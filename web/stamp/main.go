// Command stamp notes of which sources the web app was built, after it was. It runs in the repository's root.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/gochat-im/gochat/web"
)

func main() {
	sum, err := web.Sum(os.DirFS("."))
	if err == nil {
		err = os.WriteFile(filepath.Join("web", web.SumFile), []byte(sum+"\n"), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "stamp:", err)
		os.Exit(1)
	}
}
