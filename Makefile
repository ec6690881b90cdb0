# GoChat: `make help` lists what there is to do.
GO      ?= go
BIN     := bin/gochat
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

.DEFAULT_GOAL := help
.PHONY: help build run test cover race e2e ts web screens bind bench lint gen fuzz dist cluster cluster-down faults clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

build: ## build bin/gochat
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/gochat

run: build ## the whole chat in one process, data in ./data
	$(BIN) serve

test: ## all tests that need Go alone, with statement coverage
	@tools/test.sh

race: ## the same tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

e2e: ## drive the real binary, the web app in Chromium, and clusters on PD, TiKV's API, RocketMQ and etcd, all of which it fetches (Java 17, Maven, Node, Python): kills, faults, restarts
	$(GO) test -tags e2e -count=1 -timeout 30m -v ./tools/e2e/...
	@tools/ts.sh e2e

faults: ## kill, freeze and cut off the nodes of a cluster under load, and drain an edge of 10,000 clients (a quarter of an hour, on a machine with nothing else to do; docs/BENCHMARKS.md has the table)
	$(GO) test -tags e2e,faults -count=1 -timeout 25m -v -run 'TestFaults|TestTenThousand' ./tools/e2e/cluster

ts: ## types, unit tests and build of the TypeScript SDK (needs Node 20 and npm)
	@tools/ts.sh

bind: ## have gobind read sdk/go/mobile (fetches golang.org/x/mobile)
	@tools/bind.sh

bench: ## short versions of every benchmark scenario against a server it starts (3 minutes)
	$(GO) run ./bench all

lint: ## formatting, vet, staticcheck, architecture, freshness of generated code
	@tools/lint.sh

gen: ## generate the wire messages, the code registry and its tables
	@tools/gen.sh

web: ## build the web app in web/dist again (needs Node and npm; what is committed is what it builds)
	cd web && npm ci --no-audit --no-fund && npm run build
	$(GO) run ./web/stamp

screens: ## take the pictures of docs/WEB.md again (needs Node, npm and Chromium)
	SCREENS=$(CURDIR)/docs/screens $(GO) test -tags e2e -count=1 -run TestScreens ./tools/e2e

fuzz: ## run every fuzz target for FUZZTIME (default 30s)
	@tools/fuzz.sh

dist: ## cross-compiled archives with checksums in dist/
	@tools/dist.sh $(VERSION)

cluster: ## a whole cluster on loopback: PD, TiKV's API, RocketMQ, etcd, 8 nodes (Java 17 and Maven; the first time takes 15 minutes)
	$(GO) run ./tools/cluster up

cluster-down: ## end what make cluster started; what it holds stays in .cache/cluster
	$(GO) run ./tools/cluster down

clean: ## remove what was built and fetched, and what make cluster holds (never ./data)
	@[ ! -e .cache/cluster/cluster.json ] || $(MAKE) cluster-down
	rm -rf bin dist .cache
