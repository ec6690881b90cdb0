#!/usr/bin/env bash
# The TypeScript SDK: types, freshness of what is generated, unit tests, the build. With `e2e` also its tests against a real
# server. Needs Node 20 or newer and npm, which fetches the compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
if ! command -v npm >/dev/null 2>&1; then
	echo "npm is missing: the TypeScript SDK needs Node 20 or newer" >&2
	exit 1
fi
cd sdk/ts
npm ci --no-progress
npm run check
npm run build
npm test
if [ "${1:-}" = e2e ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	(cd "$root" && go build -o "$work/gochat" ./cmd/gochat)
	GOCHAT=$work/gochat npm run e2e
fi
