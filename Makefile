# The go command does the daily work; this lists the rest. .ci/run is the same for machines.

GO ?= go
BIN ?= bin/weir
PACKAGES ?= ./...
# seconds for all fuzz targets together, and how often soak repeats
FUZZ_SECONDS ?= 600
SOAK_COUNT ?= 20

.DEFAULT_GOAL := help
.PHONY: help build test test-real race fuzz bench pgo lint soak clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/weir
	$(GO) build -o $(BIN) ./cmd/weir

test: ## all tests, without network and without a real broker
	$(GO) test $(PACKAGES)

test-real: ## all tests with a real Apache Kafka, which is fetched with Maven at the first time (Java 17)
	.ci/run test

race: ## the packages that share memory, with the race detector
	.ci/run race

fuzz: ## every fuzz target in turn, FUZZ_SECONDS in all
	WEIR_CI_FUZZ_SECONDS=$(FUZZ_SECONDS) .ci/run fuzz

bench: ## the Go benchmarks, ten times, for benchstat
	$(GO) test -run '^$$' -bench . -benchmem -count=10 $(PACKAGES)

# Without -trimpath and the name of the binary the profile would name this machine's folders. SHA-256 is left out: where the
# compiler puts sha256.Sum256 into its callers, all that it reads and writes moves to the heap.
pgo: ## the profile that cmd/weir is built with, anew; nothing else should run meanwhile
	$(GO) build -trimpath -o $(BIN) ./cmd/weir
	profiles=$$(mktemp -d) && $(BIN) bench --events 150000 --rounds 2 --cpu-profile "$$profiles" && \
		$(GO) tool pprof -proto -ignore 'crypto/sha256|fips140/sha256' -output cmd/weir/default.pgo $(BIN) "$$profiles"/*.pprof && rm -r "$$profiles"

lint: ## formatting, vet, staticcheck; golangci-lint where it is installed
	.ci/run format vet lint
	@if command -v golangci-lint >/dev/null; then golangci-lint run; else echo "golangci-lint is not installed: skipped"; fi

soak: ## simulation, crash and fault tests in their long form, the latter against a real Apache Kafka, SOAK_COUNT times
	WEIR_TEST_SOAK=1 $(GO) test -count=1 -timeout=0 -run 'TestSim$$|TestBatchesAcross' ./connector
	WEIR_TEST_SOAK=1 WEIR_TEST_REAL=1 $(GO) test -count=$(SOAK_COUNT) -timeout=0 -failfast ./integration_test/...

clean: ## remove what was built; the jars of Kafka stay in the user's cache
	rm -rf bin
	$(GO) clean ./...
