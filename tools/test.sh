#!/usr/bin/env bash
# Runs every test that needs Go alone and prints the statement coverage of the floors that promise it.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .cache
start=$(date +%s)
go mod download
echo "modules took $(( $(date +%s) - start )) s"
go test -timeout 10m -coverprofile=.cache/cover.out -coverpkg=./protocol/...,./msgstore/...,./services/... ./...
echo "tests took $(( $(date +%s) - start )) s, modules and compiling included"
go run ./tools/coverage .cache/cover.out protocol msgstore services
