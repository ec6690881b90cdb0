#!/usr/bin/env bash
# Formatting, vet, staticcheck, architecture and freshness of generated code.
set -euo pipefail
cd "$(dirname "$0")/.."
bad=$(git ls-files '*.go' | grep -v '^kitex_gen/' | xargs gofmt -l)
if [ -n "$bad" ]; then echo "gofmt would change:"; echo "$bad"; exit 1; fi
go vet ./...
go vet -tags e2e,faults ./tools/e2e/...
go vet -tags faultpoints ./cmd/... ./node/... ./services/...
go tool staticcheck -checks 'all,-ST1000,-ST1005,-ST1020,-ST1021,-ST1022' $(go list ./... | grep -v /kitex_gen)
go test -count=1 ./tools/archtest
tools/gen.sh check
echo "lint: ok"
