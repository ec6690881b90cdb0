#!/usr/bin/env bash
# Has gobind read sdk/go/mobile and write its faces in Go, Java and Objective-C, and fails if it leaves
# anything out. gobind wants its own support packages beside what it binds, so this happens in a module of its own.
set -euo pipefail
version=v0.0.0-20261011034528-197770444867 # of golang.org/x/mobile
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >go.mod <<END
module bind
go 1.26.0
require (
	github.com/gochat-im/gochat v0.0.0
	golang.org/x/mobile $version
)
replace github.com/gochat-im/gochat => $root
END
cat >bind.go <<END
package bind

import (
	_ "github.com/gochat-im/gochat/sdk/go/mobile"
	_ "golang.org/x/mobile/bind"
)
END
export GOFLAGS=-mod=mod
go build .
for lang in go java objc; do
	go run golang.org/x/mobile/cmd/gobind -lang=$lang -outdir="out/$lang" github.com/gochat-im/gochat/sdk/go/mobile
	files=$(find "out/$lang" -type f | wc -l)
	if [ "$files" -lt 5 ] || grep -rn "^[[:space:]]*// skipped" "out/$lang"; then
		echo "gobind -lang=$lang wrote $files files, and left out the above"
		exit 1
	fi
	echo "gobind -lang=$lang: $files files"
done
