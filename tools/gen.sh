#!/usr/bin/env bash
# Generates the wire messages and the services between nodes from idl/ and the code registry from protocol/code/codes.json.
# With `check` it changes nothing and fails if what is committed is stale.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
if [ "${1:-}" = check ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	git ls-files -z --cached --others --exclude-standard | grep -zE '^(go\.(mod|sum)|idl/|protocol/|kitex_gen/)' |
		xargs -0 tar -cf - 2>/dev/null | tar -xf - -C "$work"
	cd "$work"
fi
rm -rf kitex_gen
# Wire messages first, then what nodes say to one another: a file of services generates the messages that it imports as well.
for f in idl/wire.proto $(ls idl/*.proto | grep -v '^idl/wire.proto$'); do
	if ! said=$(go tool -modfile="$root/go.mod" kitex -module github.com/gochat-im/gochat -type protobuf -I idl "$f" 2>&1); then
		echo "$said"
		exit 1
	fi
done
(cd protocol/code && go run gen.go)
if [ "${1:-}" = check ]; then
	for f in kitex_gen protocol/code/codes_gen.go protocol/SPEC.md; do
		if ! diff -r "$f" "$root/$f" >/dev/null; then
			echo "$f is stale: run make gen"
			exit 1
		fi
	done
fi
# The TypeScript SDK's, where there is Node; without, `make ts` looks after it.
if command -v node >/dev/null 2>&1; then
	node "$root/sdk/ts/tools/gen.mjs" ${1:+--check}
fi
