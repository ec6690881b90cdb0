// Command coverage prints the statement coverage of folders from a coverage profile.
//
//	coverage PROFILE FOLDER...
package main

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
)

const module = "github.com/gochat-im/gochat/"

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: coverage PROFILE FOLDER...")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "coverage:", err)
		os.Exit(1)
	}
}

func run(profile string, folders []string) error {
	f, err := os.Open(profile)
	if err != nil {
		return err
	}
	defer f.Close()

	// With -coverpkg every test binary reports every block: a block is covered if any of them ran it.
	type block struct {
		statements int
		covered    bool
	}
	blocks := map[string]block{}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		// file.go:10.2,12.3 STATEMENTS COUNT
		parts := strings.Fields(sc.Text())
		if len(parts) != 3 {
			continue
		}
		n, err := strconv.Atoi(parts[1])
		if err != nil {
			return fmt.Errorf("line %q: %w", sc.Text(), err)
		}
		b := blocks[parts[0]]
		blocks[parts[0]] = block{n, b.covered || parts[2] != "0"}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", profile, err)
	}
	for _, folder := range folders {
		var all, covered int
		for name, b := range blocks {
			if strings.HasPrefix(name, module+folder+"/") {
				all += b.statements
				if b.covered {
					covered += b.statements
				}
			}
		}
		if all == 0 {
			return fmt.Errorf("no statements of %s in %s", folder, profile)
		}
		fmt.Printf("coverage of %-10s %5.1f %% of %d statements\n", folder, 100*float64(covered)/float64(all), all)
	}
	return nil
}
