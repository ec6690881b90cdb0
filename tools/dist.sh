#!/usr/bin/env bash
# Cross-compiles gochat and packs it with its licence; checksums beside the archives.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${1:-dev}
rm -rf dist && mkdir -p dist
for target in linux/amd64 linux/arm64 darwin/arm64; do
	os=${target%/*} arch=${target#*/}
	dir=gochat-$version-$os-$arch
	mkdir -p "dist/$dir"
	CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -trimpath -ldflags "-s -w -X main.version=$version" -o "dist/$dir/gochat" ./cmd/gochat
	cp LICENSE README.md "dist/$dir/"
	tar -C dist -czf "dist/$dir.tar.gz" "$dir"
	rm -r "dist/$dir"
done
(cd dist && sha256sum ./*.tar.gz > SHA256SUMS && cat SHA256SUMS)
