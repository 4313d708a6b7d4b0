# Teleswap. `make` alone prints what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VERSION    ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
CACHE      ?= $(or $(TELESWAP_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/teleswap)
GOLANGCI_VERSION := v2.15.0
GOLANGCI   := $(CACHE)/tools/golangci-lint-$(GOLANGCI_VERSION)
LDFLAGS    := -s -w -X main.version=$(VERSION)

.PHONY: help
help: ## what there is
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## bin/teleswap with the agent in it, the same as kubectl's plugin, and bin/teleswap-agent (static)
	packaging/build --version '$(VERSION)' --out bin
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/teleswap-agent ./cmd/teleswap-agent
	ln -sf teleswap bin/kubectl-teleswap
	ln -sf teleswap bin/kubectl_complete-teleswap

.PHONY: release
release: ## dist/: an archive for each system, and the manifest for krew
	packaging/release --version '$(VERSION)' --out dist

.PHONY: test
test: unit lint cross e2e ## everything: unit tests, lint, other systems, e2e, all with -race (without root the e2e part is skipped, aloud)

.PHONY: unit
unit: ## unit tests with -race, of the product and of the modules beside it
	go test -race $$(go list ./... | grep -v '/e2e$$')
	cd e2e/cluster && go test -race -short ./...
	cd e2e/quic && go test -race ./...

.PHONY: lint
lint: $(GOLANGCI) ## golangci-lint, pinned, with the arrows of docs/architecture.md
	$(GOLANGCI) run ./...
	cd e2e/cluster && $(GOLANGCI) run --config ../../.golangci.yml ./...
	cd e2e/quic && $(GOLANGCI) run --config ../../.golangci.yml ./...

$(GOLANGCI):
	@echo "building golangci-lint $(GOLANGCI_VERSION) (once)"
	@mkdir -p $(@D) && tmp=$$(mktemp -d) && GOBIN=$$tmp GOFLAGS= go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION) && mv $$tmp/golangci-lint $@ && rmdir $$tmp

# The systems beside this one that the command is for.
CROSS := darwin/amd64 darwin/arm64 windows/amd64 linux/arm64

.PHONY: cross
cross: ## the command compiles, and vets, for the other systems (darwin, windows, linux/arm64)
	@for p in $(CROSS); do echo "$$p"; \
	  CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} go build -o /dev/null ./cmd/teleswap && \
	  CGO_ENABLED=0 GOOS=$${p%/*} GOARCH=$${p#*/} go vet ./cmd/teleswap ./daemon ./daemon/runner ./daemon/sandbox ./daemon/session ./daemon/volumes ./proxy/... || exit; done

.PHONY: verify
verify: cross ## go.mod is tidy, generated code is current, other systems compile
	go mod tidy -diff

.PHONY: e2e
e2e: ## the e2e tests on the embedded cluster (root); with a loader at 50 requests/s over whole swaps
	go test -race -count=1 -timeout 40m -v ./e2e
	cd e2e/cluster && go test -race -count=1 -timeout 15m .

.PHONY: bench
bench: build bin/cluster ## the table of docs/bench.md, measured now, with its ratios (root, for the embedded cluster)
	go run ./e2e/bench

.PHONY: demo
demo: build bin/cluster ## cluster, scene, a swap, and back; with KUBECONFIG=… on that cluster
	./examples/greet/demo

.PHONY: cluster-up
cluster-up: bin/cluster ## the embedded one-node Kubernetes with the demo's images (root); idempotent
	bin/cluster up
	./examples/greet/images embedded

.PHONY: cluster-down
cluster-down: bin/cluster ## takes it away: processes, namespaces, mounts, cgroups
	bin/cluster down

# The embedded cluster's driver: a module of its own, and quick to build.
.PHONY: bin/cluster
bin/cluster:
	cd e2e/cluster && go build -o ../../bin/cluster ./cmd/cluster

.PHONY: clean
clean: ## built binaries and this clone's images (not the shared cache, not the cluster: cluster-down)
	rm -rf bin dist .cache/images
